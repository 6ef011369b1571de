"""Metrics of one field and channel: a row of `metrics.csv` or `baselines.csv`."""

import math
import statistics
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vfn.data.registration import features, measure_shift
from vfn.evaluation.columns import PIXEL_COLUMNS, SIGNAL_COLUMNS, SIGNAL_TOLERANCE
from vfn.evaluation.ranges import ChannelRanges
from vfn.metrics import fidelity
from vfn.metrics.comparison import Paired, compare, make_units
from vfn.metrics.contrast import (
    FAINT,
    SMALLEST,
    contrast,
    ground,
    noise_deviation,
    pearson_ceiling,
    smooth,
)
from vfn.metrics.drift import local_shift, shading
from vfn.metrics.spectral import Spectra, spectra
from vfn.metrics.structure import MS_SSIM_SIDE, SSIM_WINDOW
from vfn.metrics.tolerance import Tolerance, signal_tolerance, tolerance_level


class _OneThread:
    """Keeps torch on one thread while any image is scored, and restores what was set before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scoring = 0
        self._before = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._scoring:
                self._before = torch.get_num_threads()
            self._scoring += 1
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._scoring -= 1
                if not self._scoring:
                    torch.set_num_threads(self._before)


# On images of this size torch's threads cost more than they save, and where the cores are shared they wait for
# each other up to a hundred times longer than they work. Several fields are scored side by side.
_one_thread = _OneThread()


@dataclass(frozen=True)
class ImageScores:
    """Figures of one prediction.

    Attributes:
        field: name of the field.
        channel: name of the channel.
        values: column -> number; NaN where undefined, infinite for the PSNR of identical images.
            A prediction has all `PIXEL_COLUMNS`, a baseline `BASELINE_COLUMNS`.
        note: why a value is NaN or infinite; empty if none is.
        tolerance: the tolerance curve in units of the signal, None where the truth shows none.
        spectra: the curves over spatial frequency, None for a baseline.
        well: that the field lies in; empty where unknown.
        z: um of the inputs from the focal plane; None where the task has one plane a field.
        mixed_in: channel whose signal `bleed_through` finds in the prediction; empty where it is little.
    """

    field: str
    channel: str
    values: Mapping[str, float]
    note: str = ""
    tolerance: Tolerance | None = dataclass_field(default=None, repr=False)
    spectra: Spectra | None = dataclass_field(default=None, repr=False)
    well: str = ""
    z: float | None = None
    mixed_in: str = ""

    @property
    def remarks(self) -> str:
        """The note, and the channel that is mixed in."""
        mixed = f"bleed_through: of {self.mixed_in}" if self.mixed_in else ""
        return "; ".join(filter(None, [self.note, mixed]))


def score_image(
    name: str,
    channel: str,
    prediction: NDArray[Any],
    truth: NDArray[Any],
    ranges: ChannelRanges,
    columns: Sequence[str] = PIXEL_COLUMNS,
) -> ImageScores:
    """Figures of one predicted image (H, W) against its truth (H, W), on both ranges. Thread-safe.

    Args:
        name: of the field.
        channel: name of the channel.
        prediction: any dtype.
        truth: one of `vfn.data.images.DTYPES`.
        ranges: full and signal range of the channel.
        columns: `PIXEL_COLUMNS`, or `BASELINE_COLUMNS` for less at a fraction of the time.
    """
    if not np.isfinite(prediction).all():
        bad = int(prediction.size - np.isfinite(prediction).sum())
        note = f"prediction has {bad} pixels that are NaN or infinite: nothing is defined"
        return ImageScores(name, channel, dict.fromkeys(columns, math.nan), note)
    values = pixel_figures(prediction, truth, ranges, columns)
    reasons = list(_reasons(prediction, truth, ranges, columns))
    full = None
    if ranges.full.width > 0:
        full = tolerance_level(prediction, truth, ranges.full.width)
    values |= _level(full, "")
    smoothed, signal = smooth(truth), ranges.signal
    tolerance = None
    if contrast(smoothed) > FAINT * signal.width:
        tolerance = signal_tolerance(prediction, truth, ground(smoothed), signal.low, signal.high)
    values |= _level(tolerance, "_signal")
    if tolerance is None and signal.width > 0:
        reasons.append(f"ground truth shows no signal: {', '.join(SIGNAL_TOLERANCE)} undefined")
    curves = None
    if "frc_resolution" in columns:
        curves = spectra(prediction, truth)
        values["frc_resolution"] = curves.resolution
        values["power_ratio"] = curves.power_ratio
        reasons += curves.notes
    if "shift_rows" in columns:
        values |= _shifts(prediction, truth, reasons)
    if "contrast" in columns:
        values |= _signal_figures(prediction, truth, smoothed, signal.width)
        if math.isnan(values["shading"]):
            reasons.append("too few parts of the field have signal: shading undefined")
    row = {column: values[column] for column in columns}
    return ImageScores(name, channel, row, "; ".join(reasons), tolerance, curves)


def _level(found: Tolerance | None, suffix: str) -> dict[str, float]:
    value, threshold = (found.value, found.threshold) if found else (math.nan, math.nan)
    return {f"tolerance_level{suffix}": value, f"tolerance_threshold{suffix}": threshold}


def pixel_figures(
    prediction: NDArray[Any], truth: NDArray[Any], ranges: ChannelRanges, columns: Iterable[str]
) -> dict[str, float]:
    """Compute those of `columns` that `vfn.metrics.fidelity` has, for one image (H, W). Thread-safe.

    Computed in float32, which holds 16-bit images and their differences exactly; the figures stay
    within 1e-5 of scikit-image's in float64.
    """
    wanted = {column.removesuffix("_signal") for column in columns}
    names = [name for name in fidelity.NAMES if name in wanted]
    p, t = (torch.from_numpy(image.astype(np.float32)) for image in (prediction, truth))
    widths = torch.tensor([ranges.full.width, ranges.signal.width])
    with _one_thread():
        both = fidelity.figures(p, t, widths, names)
    values: dict[str, float] = {}
    for figure, value in both.items():
        if value.ndim:  # depends on the range
            values[figure], values[f"{figure}_signal"] = value.tolist()
        else:
            values[figure] = value.item()
    return values


def _shifts(prediction: NDArray[Any], truth: NDArray[Any], reasons: list[str]) -> dict[str, float]:
    """Displacement of the whole and of its parts; appends to `reasons` what is undefined."""
    t, p = _plane(truth), _plane(prediction)
    shift = measure_shift(features(t), features(p), alike=True)
    local = local_shift(p, t)
    if not shift.sure:
        reasons.append("no shift can be told for sure: shift_rows, shift_columns undefined")
    if math.isnan(local):
        reasons.append("too few parts of the field tell a shift for sure: shift_local undefined")
    return {
        "shift_rows": shift.dy if shift.sure else math.nan,
        "shift_columns": shift.dx if shift.sure else math.nan,
        "shift_local": local,
    }


def _signal_figures(
    prediction: NDArray[Any], truth: NDArray[Any], smoothed: NDArray[np.float32], width: float
) -> dict[str, float]:
    """Brightness, signal, noise and evenness; in units of the signal range, NaN where that is empty.

    Args:
        prediction: (H, W).
        truth: (H, W).
        smoothed: the truth, smoothed.
        width: of the signal range.
    """
    unit = width or math.nan
    noise = noise_deviation(truth)
    bias = np.mean(prediction, dtype=np.float64) - np.mean(truth, dtype=np.float64)
    predicted = smooth(prediction)
    return {
        "bias_signal": float(bias) / unit,
        "contrast": contrast(predicted) / unit,
        "contrast_truth": contrast(smoothed) / unit,
        "noise_truth": noise / unit,
        "pearson_ceiling": pearson_ceiling(truth, noise),
        "shading": shading(predicted, smoothed),
    }


def _plane(image: NDArray[Any]) -> NDArray[Any]:
    return image if image.dtype in (np.uint8, np.uint16) else image.astype(np.float32)


def _reasons(
    prediction: NDArray[Any], truth: NDArray[Any], ranges: ChannelRanges, columns: Sequence[str]
) -> Iterator[str]:
    """Give the reasons for figures of this image that are undefined or infinite."""

    def of(*names: str) -> str:
        return ", ".join(name for name in names if name in columns)

    errors = ("mae", "mse", "nrmse", "psnr", "ssim", "ms_ssim")
    if ranges.full.width == 0:
        full = of(*errors, "tolerance_level", "tolerance_threshold")
        yield f"ground truth is one value in all fields: {full} undefined"
    if ranges.signal.width == 0:
        signal = of(*(f"{name}_signal" for name in errors), *SIGNAL_COLUMNS, *SIGNAL_TOLERANCE)
        yield f"signal range is empty: {signal} undefined"
    if np.array_equal(prediction, truth):
        yield "identical to the ground truth: psnr, psnr_signal infinite"
    for side, figure in ((SSIM_WINDOW, "ssim"), (MS_SSIM_SIDE, "ms_ssim")):
        if min(truth.shape) < side and figure in columns:
            yield f"smaller than {side}x{side}: {figure}, {figure}_signal undefined"
    if min(truth.shape) < SMALLEST:
        yield f"smaller than {SMALLEST}x{SMALLEST}: {of('noise_truth', 'pearson_ceiling')} undefined"
    if truth.min() == truth.max():
        line = of("pearson", "gain", "offset", "r2", "pearson_ceiling")
        yield f"ground truth is constant: {line} undefined"
    if prediction.min() == prediction.max():
        yield f"prediction is constant: {of('pearson', 'r2')} undefined"


def mean_of(rows: Sequence[ImageScores], column: str) -> float:
    """Mean of the finite figures of a column; NaN without any."""
    values = [v for row in rows if math.isfinite(v := row.values[column])]
    return statistics.fmean(values) if values else math.nan


def paired(a: Sequence[ImageScores], b: Sequence[ImageScores], column: str) -> Paired:
    """Compare two predictions of the same fields, over wells where they are known: second minus first."""
    first, second = ([row.values[column] for row in rows] for rows in (a, b))
    return compare(make_units(first, second, [row.well or row.field for row in b]))


def summarise(rows: Sequence[ImageScores]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation (ddof = 1) and n of each column over the fields.

    Values that are not finite are left out, `n` counts the rest, and `note` says so. What cannot be
    computed (no value left; std of one value) is None, which JSON writes as null. A column that a
    field lacks was not measured there.
    """
    summary: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys(column for row in rows for column in row.values):
        values = [row.values[column] for row in rows if column in row.values]
        finite = [value for value in values if math.isfinite(value)]
        entry: dict[str, Any] = {
            "mean": statistics.fmean(finite) if finite else None,
            "std": statistics.stdev(finite) if len(finite) > 1 else None,
            "n": len(finite),
        }
        infinite = sum(map(math.isinf, values))
        undefined = len(values) - len(finite) - infinite
        left_out = [
            f"{text} in {count} of {len(values)} fields, left out of mean and std"
            for count, text in ((infinite, "infinite"), (undefined, "undefined"))
            if count
        ]
        if left_out:
            entry["note"] = "; ".join(left_out)
        summary[column] = entry
    return summary

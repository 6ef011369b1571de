"""One row of figures for one field and channel: what `metrics.csv` and `baselines.csv` hold."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vfn.metrics import fidelity
from vfn.metrics.ranges import ChannelRanges
from vfn.metrics.tolerance import Tolerance, tolerance_level

COLUMNS = (
    "mae",
    "psnr",
    "ssim",
    "pearson",
    "tolerance_level",
    "tolerance_threshold",
    "mae_signal",
    "psnr_signal",
    "ssim_signal",
)
HIGHER_IS_BETTER = {
    "mae": False,
    "psnr": True,
    "ssim": True,
    "pearson": True,
    "tolerance_level": False,
    "mae_signal": False,
    "psnr_signal": True,
    "ssim_signal": True,
}


@contextmanager
def _single_thread() -> Iterator[None]:
    """Torch on one thread: on images of this size its threads cost more than they save, and where
    the cores are shared they wait for each other up to a hundred times longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Row:
    """Figures of one prediction.

    Attributes:
        field: name of the field.
        channel: name of the channel.
        values: column -> number; NaN where undefined, infinite for the PSNR of identical images.
        note: why a value is NaN or infinite; empty if none is.
        tolerance: the tolerance curve, None where the full range is empty.
    """

    field: str
    channel: str
    values: Mapping[str, float]
    note: str = ""
    tolerance: Tolerance | None = dataclass_field(default=None, repr=False)


@_single_thread()
def score_image(
    name: str,
    channel: str,
    prediction: NDArray[Any],
    truth: NDArray[Any],
    ranges: ChannelRanges,
) -> Row:
    """All figures of one predicted image (H, W) against its truth (H, W), on both ranges.

    Computed in float64, but for SSIM, whose filters are far faster in float32 and stay within 1e-6
    of scikit-image's float64 there.
    """
    if not np.isfinite(prediction).all():
        bad = int(prediction.size - np.isfinite(prediction).sum())
        note = f"prediction has {bad} pixels that are NaN or infinite: nothing is defined"
        return Row(name, channel, dict.fromkeys(COLUMNS, math.nan), note)
    p, t = (torch.from_numpy(image.astype(np.float64)) for image in (prediction, truth))
    widths = torch.tensor([ranges.full.width, ranges.signal.width], dtype=torch.float64)
    mae = fidelity.mae(p, t, widths)
    psnr = fidelity.psnr(p, t, widths)
    ssim = torch.full((2,), torch.nan)
    if min(truth.shape) >= fidelity.SSIM_WINDOW:
        moments = fidelity.ssim_moments(p.float(), t.float())  # once for both ranges
        ssim = torch.stack([fidelity.ssim_from_moments(moments, width) for width in widths])
    tolerance = (
        tolerance_level(prediction, truth, ranges.full.width) if ranges.full.width > 0 else None
    )
    values: dict[str, float | torch.Tensor] = {
        "mae": mae[0],
        "psnr": psnr[0],
        "ssim": ssim[0],
        "pearson": fidelity.pearson(p, t),
        "tolerance_level": tolerance.value if tolerance else math.nan,
        "tolerance_threshold": tolerance.threshold if tolerance else math.nan,
        "mae_signal": mae[1],
        "psnr_signal": psnr[1],
        "ssim_signal": ssim[1],
    }
    row = {column: float(values[column]) for column in COLUMNS}
    return Row(name, channel, row, "; ".join(_reasons(prediction, truth, ranges)), tolerance)


def _reasons(prediction: NDArray[Any], truth: NDArray[Any], ranges: ChannelRanges) -> Iterable[str]:
    """Why some figures of this image are undefined or infinite."""
    if ranges.full.width == 0:
        yield "ground truth is one value in all fields: no range for mae, psnr, ssim, tolerance"
    if ranges.signal.width == 0:
        yield "signal range is empty: mae_signal, psnr_signal, ssim_signal undefined"
    if np.array_equal(prediction, truth):
        yield "identical to the ground truth: psnr infinite"
    if min(truth.shape) < fidelity.SSIM_WINDOW:
        size = fidelity.SSIM_WINDOW
        yield f"smaller than {size}x{size}: ssim undefined"
    for what, image in (("ground truth", truth), ("prediction", prediction)):
        if image.min() == image.max():
            yield f"{what} is constant: pearson undefined"


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation (ddof = 1) and n of each column over the fields.

    Values that are not finite are left out, `n` counts the rest, and `note` says so. What cannot be
    computed (no value left; std of one value) is None, which JSON writes as null.
    """
    summary: dict[str, dict[str, Any]] = {}
    for column in COLUMNS:
        finite = [row.values[column] for row in rows if math.isfinite(row.values[column])]
        entry: dict[str, Any] = {
            "mean": statistics.fmean(finite) if finite else None,
            "std": statistics.stdev(finite) if len(finite) > 1 else None,
            "n": len(finite),
        }
        infinite = sum(math.isinf(row.values[column]) for row in rows)
        undefined = len(rows) - len(finite) - infinite
        left_out = [
            text
            for count, text in ((infinite, "infinite"), (undefined, "undefined"))
            if count
            for text in [f"{text} in {count} of {len(rows)} fields, left out of mean and std"]
        ]
        if left_out:
            entry["note"] = "; ".join(left_out)
        summary[column] = entry
    return summary

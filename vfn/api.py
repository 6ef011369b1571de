"""The Python interface: `vfn.load(CKPT).predict(array)`, `vfn.score(pred, truth)`.

The same code as behind `predict.py` and `evaluate.py`: what they write is what these functions give.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vfn.data.cache import ImageCache
from vfn.data.images import as_pixels
from vfn.data.input_shift import judge_pixel_size
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.evaluation.columns import PIXEL_COLUMNS, SIGNAL_COLUMNS
from vfn.evaluation.ranges import FULL_RANGES, ChannelRanges, Range
from vfn.evaluation.rows import score_image
from vfn.inference.alarms import input_alarms
from vfn.inference.files import pixel_digest
from vfn.inference.predictor import TILE, Predictor
from vfn.models.card import Card, card_of
from vfn.models.checkpoint import load_checkpoint
from vfn.models.verdicts import StainVerdict
from vfn.refocus.step import refocusing_of
from vfn.system.dotted import trusted

ARRAY = "array"  # what messages call the user's pixels
LEADING = "TZS"  # axes over which fields are predicted one by one
FIGURES = tuple(c for c in PIXEL_COLUMNS if not c.endswith("_signal") and c not in SIGNAL_COLUMNS)


@dataclass(frozen=True, eq=False)  # each is itself: arrays do not compare
class _ArrayPlane:
    """One channel of one field, in memory."""

    array: NDArray[Any]
    pixel_size: float | None

    def read(self) -> NDArray[Any]:
        """Pixels (H, W)."""
        return self.array

    @property
    def key(self) -> str:
        """Digest of the pixels."""
        return f"{ARRAY} {self.array.dtype} {self.array.shape} {pixel_digest([self.array])}"

    def __str__(self) -> str:
        return ARRAY


class Model:
    """A trained model. `vfn.load` makes it; one call at a time.

    Args:
        path: of the checkpoint.
        trust: see `load`.
        options: of `Predictor`.

    Attributes:
        path: of the checkpoint.
        inputs: channel names, in the order that `predict` takes them.
        targets: channel names, in the order that `predict` gives them.
        input_dtypes: of each input: one of `vfn.data.images.DTYPES`.
        dtype: of a prediction, as of the real stains in training.
        pixel_size: micrometres a pixel of the training images; None where they did not say.
        calibrated: whether `predict` can give intervals (`python -m vfn.calibrate`).
    """

    def __init__(self, path: Path, trust: Sequence[str] = (), **options: Any) -> None:
        checkpoint = load_checkpoint(path, trust)
        self._predictor = Predictor(checkpoint, **options)
        self._refocusing = refocusing_of(checkpoint)
        self.path = path
        self.inputs, self.targets = checkpoint.task.inputs, checkpoint.task.targets
        self.input_dtypes = tuple(fitted.dtype for fitted in checkpoint.inputs)
        self.dtype = checkpoint.targets[0].dtype
        self.pixel_size = checkpoint.pixel_size
        self.calibrated = checkpoint.uncertainty is not None

    def __repr__(self) -> str:
        return f"<vfn.Model {' + '.join(self.inputs)} -> {', '.join(self.targets)}, {self.path}>"

    @property
    def card(self) -> Card:
        """The model card, plain data: what `python -m vfn.info` prints.

        Raises:
            UserError: it is damaged.
        """
        return card_of(self._predictor.checkpoint.recipe)

    @property
    def verdicts(self) -> tuple[StainVerdict, ...]:
        """Verdict on each target, as the model card has it: `level` (None if it was never scored)
        and `text`."""
        return self._predictor.checkpoint.verdicts

    def channels(self, uncertainty: float | None = None) -> tuple[str, ...]:
        """Names of the channels that `predict` gives with the same `uncertainty`.

        Raises:
            UserError: see `predict`.
        """
        return self._predictor.covering(uncertainty).channels

    def predict(
        self,
        array: ArrayLike,
        axes: str = "CYX",
        pixel_size: float | None = None,
        uncertainty: float | None = None,
    ) -> NDArray[Any]:
        """Predict the stains of a field, or of several.

        Args:
            array: grey values as the microscope gave them, in the dtype of the training images;
                channels in the order of `inputs`.
            axes: a letter for each axis of `array`: Y and X; C, which a model of one input can do
                without; and any of T, Z, S, each position along which is a field of its own.
            pixel_size: micrometres a pixel, to be compared with the training's; None does not.
            uncertainty: 0.50 to 0.99, of a calibrated model: also the half-widths of intervals that
                hold so large a share of the pixels.

        Returns:
            Leading axes as they were, then C, Y, X: `targets`, then (with `uncertainty`) the
            half-width of each, on the grey values of the real stains, in their dtype. Each field is
            what `predict.py` writes for it.

        Raises:
            UserError: axes or a number of channels that do not fit; another dtype than in training;
                NaN; a pixel size that is more than 10 % off; intervals of a model without.
        """
        self._check_pixel_size(pixel_size)
        predictor, fields, leading = None, [], self._leading(np.asarray(array), axes)
        for _, inputs in self._fields(array, axes, pixel_size):
            if predictor is None:  # as predict.py: the first field settles the arithmetic
                self._predictor.check(inputs, None)
                self._predictor.settle(inputs)
                predictor = self._predictor.covering(uncertainty)
            fields.append(predictor.predict(inputs))
        stack = np.stack(fields)
        return stack.reshape(*leading, *stack.shape[1:])

    def check(
        self, array: ArrayLike, axes: str = "CYX", pixel_size: float | None = None
    ) -> list[str]:
        """Return how the fields differ from those that the model was trained on: a predicted stain deserves
        less trust there.

        Args:
            array, axes, pixel_size: as `predict` takes them.

        Returns:
            A phrase for each finding, with the number and the range of the training; empty where
            nothing lies outside. The same as `predict.py` writes into `input_shift.csv`.

        Raises:
            UserError: see `predict`.
        """
        self._check_pixel_size(pixel_size)
        found = []
        for where, inputs in self._fields(array, axes, pixel_size):
            self._predictor.check(inputs, None)
            for channel, phrases in input_alarms(self._predictor.checkpoint, inputs).items():
                found += [f"{where}{channel}: {phrase}" for phrase in phrases]
        return found

    def _check_pixel_size(self, given: float | None) -> None:
        if given is None:
            return
        if not (math.isfinite(given) and given > 0):
            raise UserError(f"pixel_size={given}: give micrometres a pixel, or None")
        for phrase in judge_pixel_size(given, self.pixel_size):
            raise UserError(f"{phrase}, or train on these")

    def _leading(self, array: NDArray[Any], axes: str) -> tuple[int, ...]:
        """Lengths of the axes before C, Y, X.

        Raises:
            UserError: `axes` does not describe `array`.
        """
        named = f"axes={axes!r}, shape {array.shape}"
        unknown = sorted(set(axes) - set(LEADING + "CYX"))
        if unknown or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
            raise UserError(f"{named}: give Y and X, and of C, T, Z, S those there are, each once")
        if len(axes) != array.ndim:
            raise UserError(f"{named}: give one letter for each of the {array.ndim} axes")
        if "C" not in axes and len(self.inputs) > 1:
            raise UserError(
                f"{named}: the model takes {len(self.inputs)} channels ({', '.join(self.inputs)}); "
                "stack them along an axis C"
            )
        channels = array.shape[axes.index("C")] if "C" in axes else 1
        if channels != len(self.inputs):
            raise UserError(
                f"{named}: {channels} channel(s), the model takes {len(self.inputs)}: "
                f"{', '.join(self.inputs)}"
            )
        return tuple(array.shape[axes.index(axis)] for axis in axes if axis in LEADING)

    def _fields(
        self, given: ArrayLike, axes: str, pixel_size: float | None
    ) -> Iterator[tuple[str, list[NDArray[Any]]]]:
        """Each field: where it is ("T=0 Z=2: ", empty where it is the only one), its inputs (H, W) as
        the network sees them."""
        array = np.asarray(given)
        leading = self._leading(array, axes)
        array = as_pixels(ARRAY, array)
        if "C" not in axes:
            array, axes = array[np.newaxis], "C" + axes
        first = [axis for axis in axes if axis in LEADING]
        array = np.transpose(array, [axes.index(axis) for axis in [*first, *"CYX"]])
        store = ImageCache()
        for place in np.ndindex(leading):
            planes = tuple(
                _ArrayPlane(self._as_trained(i, channel), pixel_size)
                for i, channel in enumerate(array[place])
            )
            sample = Sample(ARRAY, ARRAY, planes, ())
            if self._refocusing is not None:
                (sample,) = self._refocusing.apply([sample], store)
            where = " ".join(f"{axis}={i}" for axis, i in zip(first, place, strict=True))
            yield f"{where}: " if where else "", present(read_sample(sample, store))

    def _as_trained(self, number: int, channel: NDArray[Any]) -> NDArray[Any]:
        """One channel (H, W) of an array that holds channels of several dtypes in the widest."""
        dtype = np.dtype(self.input_dtypes[number])
        widest = np.result_type(*self.input_dtypes)
        if channel.dtype != widest or dtype == widest:
            return channel
        if not np.isfinite(channel).all():
            raise UserError(f"channel {self.inputs[number]}: some pixels are NaN or infinite")
        narrow = channel.astype(dtype)
        if not np.array_equal(narrow, channel):
            raise UserError(
                f"channel {self.inputs[number]}: grey values up to {channel.max():g} are no {dtype}, "
                "which the model was trained on; give images of the same kind as in training"
            )
        return narrow


def load(
    path: str | Path,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "torch",
    *,
    tile: int = TILE,
    overlap: float = 0.125,
    batch_size: int | None = None,
    tta: str = "none",
    trust: str | Sequence[str] | None = None,
) -> Model:
    """Load a trained model. The file is read as data: it can run no code.

    Args:
        path: of a checkpoint, `outputs/NAME/checkpoints/best.ckpt`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "bf16" or "float32"; "auto" is bf16 where the hardware has it and where
            it costs the first field less than half a grey level.
        backend: "torch", "onnx" or "openvino"; the last two run on the CPU.
        tile: side of the tiles (px); a field that is no larger is predicted in one piece.
        overlap: share of a tile that neighbours have in common, 0 to 0.5.
        batch_size: tiles at once; None takes about a megapixel on a CPU, 16 on a GPU.
        tta: "none", or "d4": the mean over the eight turns and flips of each tile, at eight times the cost.
        trust: dotted path, or paths, of a network that is not part of vfn and may be imported.

    Raises:
        UserError: no checkpoint of vfn, or a damaged one; a device, precision or backend that is not
            there.
    """
    return Model(
        Path(path), device=device, precision=precision, backend=backend, tile=tile,
        overlap=overlap, batch_size=batch_size, tta=tta, trust=trusted(trust),
    )  # fmt: skip


def score(
    pred: ArrayLike,
    truth: ArrayLike,
    data_range: float | Sequence[float] | None = None,
) -> dict[str, Any]:
    """Score a prediction against the real stain, as `evaluate.py` does for each field and channel.

    Args:
        pred: (..., H, W), of any dtype. It is never rescaled to the truth first.
        truth: the same shape; 8, 16, 32 bit whole numbers or float.
        data_range: that errors refer to: its width or (low, high), in grey values. None takes all
            that the truth's dtype can hold (the paper's scale), 255, 65535, ...; floats have no such
            range.

    Returns:
        mae, psnr, ssim, pearson, tolerance_level, tolerance_threshold, mse, nrmse, ms_ssim, gain,
        offset, r2, frc_resolution (px), power_ratio, shift_rows, shift_columns, shift_local (px),
        pearson_ceiling, shading: each a float, or with leading axes an array of them, (...). NaN where undefined, such as SSIM of an image
        below 11x11; infinite for the PSNR of identical images.

    Raises:
        UserError: shapes that differ, a truth of another dtype or with NaN, no range.
    """
    p, t = np.asarray(pred), as_pixels("truth", np.asarray(truth))
    if p.shape != t.shape or t.ndim < 2:
        raise UserError(
            f"pred is {p.shape}, truth is {t.shape}: give images of one shape, (H, W) or (..., H, W)"
        )
    if p.dtype.kind not in "uif":
        raise UserError(f"pred is {p.dtype}: give grey values")
    full = Range(0.0, _width(data_range, t.dtype))
    ranges = ChannelRanges(t.dtype.name, full, full, 1, t.size)
    leading = t.shape[:-2]
    rows = [score_image("", "", p[at], t[at], ranges).values for at in np.ndindex(leading)]
    if not leading:
        return {name: float(rows[0][name]) for name in FIGURES}
    return {name: np.reshape([row[name] for row in rows], leading) for name in FIGURES}


def _width(data_range: float | Sequence[float] | None, dtype: np.dtype) -> float:
    """Return the width of the range that errors refer to, in grey values.

    Raises:
        UserError: it is none.
    """
    if data_range is None:
        if dtype.name not in FULL_RANGES:
            raise UserError(
                f"data_range: {dtype} has no range of its own; give its width, or (low, high)"
            )
        return Range(*FULL_RANGES[dtype.name]).width
    ends = np.ravel(np.asarray(data_range, np.float64))
    width = float(ends[-1] - ends[0]) if ends.size == 2 else float(ends[0])
    if ends.size > 2 or not (math.isfinite(width) and width > 0):
        raise UserError(f"data_range={data_range}: give a width above 0, or (low, high)")
    return width

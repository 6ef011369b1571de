"""A checkpoint on a device: arrays of grey values in, predicted stains out."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vfn.data.images import release
from vfn.data.intensity import standardised, to_dtype
from vfn.data.samples import Region, within
from vfn.errors import UserError
from vfn.inference.averaging import AVERAGES, averaged
from vfn.inference.backends import Network, make_network, pick_arithmetic
from vfn.inference.tiles import Source, predict_bands
from vfn.inference.workers import share_cores
from vfn.models.checkpoint import Checkpoint, digest
from vfn.models.intervals import check_coverage, halfwidth, halfwidth_channel
from vfn.models.nets import fold_norms, stride_of
from vfn.models.precision import autocast

log = logging.getLogger(__name__)
TILE = 1024  # px, the default: most fields are one tile, and none pays for overlaps
BATCH_PIXELS = {"cpu": TILE**2, "cuda": 16 * TILE**2}  # in a batch, where its size is not given
BAND_PIXELS = 2**22  # turned into grey values at once, in float64
PROBE = 512  # px, side of the part of a field on which bf16 is tried
HALF_GREY = 0.5  # grey levels that bf16 may cost, as the root of the mean square


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of the field, if it has one, before errors that arise within."""
    try:
        yield
    except UserError as exc:
        raise UserError(f"field {name}: {exc}" if name else str(exc)) from exc


@dataclass(frozen=True, eq=False)  # each is itself: arrays do not compare
class FieldPixels:
    """A field in grey values.

    Attributes:
        inputs: (H, W) each.
        region: the rows and columns of the field that they are; None for all.
        name: for errors; empty if it has none.
        target: whatever its prediction is for.
    """

    inputs: Sequence[np.ndarray]
    region: Region | None
    name: str = ""
    target: Any = None

    def rows(self, start: int, stop: int) -> Region:
        """The part of the field that rows `start` to `stop` of the inputs are."""
        return within(self.region, (slice(start, stop), slice(0, self.inputs[0].shape[1])))


class Predictor:
    """A checkpoint on a device.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "bf16" or "float32"; "auto" is bf16 where the hardware has it and where
            it moves the first field's prediction by less than `HALF_GREY`.
        tile: side of the tiles (px); a field that is no larger is one tile.
        overlap: share of a tile that neighbours have in common, in [0, 0.5].
        batch_size: tiles at once; None takes about a megapixel on a CPU, 16 on a GPU.
        uncertainty: coverage of the intervals, 0.50 to 0.99; None predicts the stains alone.
        backend: what runs the generator, see `vfn.inference.backends`; the error model of the
            intervals stays in torch.
        tta: "none", or "d4": the mean over the eight turns and flips of each tile, at eight times the
            cost.

    Attributes:
        channels: of a prediction: the targets, then (with `uncertainty`) the half-widths of each.

    Raises:
        UserError: a setting out of range; intervals are asked of a model that is not calibrated.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: str = "auto",
        tile: int = TILE,
        overlap: float = 0.125,
        batch_size: int | None = None,
        uncertainty: float | None = None,
        backend: str = "torch",
        tta: str = "none",
    ) -> None:
        if not 0 <= overlap <= 0.5:
            raise UserError(f"overlap={overlap}: give the shared part of a tile, 0 to 0.5")
        for key, value in (("tile", tile), ("batch_size", batch_size)):
            if not (isinstance(value, int) and value >= 1) and (key == "tile" or value is not None):
                raise UserError(f"{key}={value}: give a whole number, 1 or more")
        if tta not in AVERAGES:
            raise UserError(f"tta={tta}: unknown; choose one of {', '.join(AVERAGES)}")
        self.checkpoint = checkpoint
        self.backend, self.tta = backend, tta
        self.device, self.precision = pick_arithmetic(backend, device, precision)
        self._on_trial = precision == "auto" and self.precision == "bf16"
        self.tile, self.overlap = tile, overlap
        self.batch_size = batch_size or max(1, BATCH_PIXELS[self.device.type] // tile**2)
        self.stride = stride_of(checkpoint.generator)
        self.generator = self._placed(fold_norms(checkpoint.generator))
        self._network: Network | None = None
        if backend != "torch":
            inputs = len(checkpoint.task.inputs)
            self._network = make_network(self.generator, inputs, backend, self.precision)
        # Other backends divide the cores themselves.
        self._lanes = share_cores() if self.device.type == "cpu" and backend == "torch" else 1
        self._cover(uncertainty)
        known = checkpoint.uncertainty
        self.head = None if known is None else self._placed(known.head)

    def _placed(self, network: nn.Module) -> nn.Module:
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _cover(self, uncertainty: float | None) -> None:
        self.channels = self.checkpoint.task.targets
        self._interval = ""
        self.coverage = None if uncertainty is None else check_coverage(uncertainty)
        if self.coverage is None:
            return
        if self.tta != "none":
            raise UserError(
                f"tta={self.tta}, uncertainty={uncertainty:g}: intervals were calibrated on single predictions; "
                "give uncertainty=null, or leave out tta"
            )
        calibrated = self.checkpoint.uncertainty
        if calibrated is None:
            raise UserError(
                f"uncertainty={uncertainty:g}: the model is not calibrated; run "
                f"python -m vfn.calibrate ckpt={self.checkpoint.path}"
            )
        self.multipliers = calibrated.multipliers(self.coverage)
        self.channels += tuple(halfwidth_channel(c, self.coverage) for c in self.channels)
        self._interval = f", interval {self.coverage:.0%} by {digest(calibrated.tensors())}"

    @property
    def identity(self) -> str:
        """Everything but the inputs that the predicted pixels depend on."""
        return (
            f"{self.checkpoint.identity}, {self.backend} {self.precision}, tile {self.tile}, "
            f"overlap {self.overlap:g}{self._interval}{'' if self.tta == 'none' else f', {self.tta}'}"
        )

    def covering(self, uncertainty: float | None) -> "Predictor":
        """The same networks with intervals of another coverage, or without.

        Raises:
            UserError: intervals are asked of a model that is not calibrated.
        """
        other = copy.copy(self)
        other._cover(uncertainty)
        return other

    def predict(self, inputs: Sequence[np.ndarray], region: Region | None = None) -> np.ndarray:
        """Predict one field.

        Args:
            inputs: Ci arrays (H, W) in grey values, in the order of the task's inputs.
            region: rows and columns of the field that the inputs are; None for all of it. It counts
                where illumination is corrected: the prediction has the falloff of the real stain.

        Returns:
            (C, H, W), the channels of `channels`, in the targets' dtype and grey values. The truth
            lies within stain +- half-width for the share of pixels that was asked for.

        Raises:
            UserError: an input's dtype is not the one of training, so its grey values mean
                something else; wrong number or sizes of inputs.
        """
        self.check(inputs, region)
        self.settle(inputs)
        field = FieldPixels(inputs, region)
        return np.concatenate([band for _, _, band in self.bands([field])], 1)

    def bands(self, fields: Iterable[FieldPixels]) -> Iterator[tuple[FieldPixels, int, np.ndarray]]:
        """Predict fields one after the other, in memory that grows with their width alone.

        Args:
            fields: that passed `check`; taken one by one.

        Yields:
            The field, its next row, and (C, h, W) from there on, as `predict` gives them.
        """
        network = self._stain if self.coverage is None else self._stain_and_score
        for field, top, y in self._raw(fields, network):
            region = field.rows(top, top + y.shape[1])
            with named(field.name):
                if self.coverage is None:
                    band = self._restored(y, region)
                else:
                    stain, scores = self._scored(y, region)
                    pairs = zip(scores, self.multipliers, strict=True)
                    widths = [halfwidth(*pair, stain.dtype.name) for pair in pairs]
                    band = np.concatenate([stain, np.stack(widths)])
            yield field, top, band

    def predict_scored(
        self, inputs: Sequence[np.ndarray], region: Region | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict one field and the error to expect, by a checkpoint that has `uncertainty`.

        Args:
            inputs, region: see `predict`.

        Returns:
            Stains (Ct, H, W) as `predict` gives them; scores (Ct, H, W) in grey values, above 0: half
            of what the interval prediction +- expected error becomes in grey values, so a
            half-width is a multiple of it, whatever curve the grey values were equalised by.
        """
        self.check(inputs, region)
        self.settle(inputs)
        parts = [
            self._scored(y, field.rows(top, top + y.shape[1]))
            for field, top, y in self._raw([FieldPixels(inputs, region)], self._stain_and_score)
        ]
        stains, scores = zip(*parts, strict=True)
        return np.concatenate(stains, 1), np.concatenate(scores, 1)

    def _scored(self, y: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray]:
        y, score = np.split(y, 2)
        low, high = (self._grey(part, region) for part in (y - score, y + score))
        # An equalising curve ends at its range: an interval outside of it has no width.
        return self._restored(y, region), np.maximum((high - low) / 2, np.finfo(np.float32).tiny)

    def check(self, inputs: Sequence[np.ndarray], region: Region | None) -> None:
        """Refuse inputs that the model does not take.

        Raises:
            UserError: see `predict`.
        """
        maps, channels = self.checkpoint.inputs, self.checkpoint.task.inputs
        if len(inputs) != len(maps) or len({a.shape for a in inputs}) != 1:
            raise UserError(
                f"{len(inputs)} input(s) of shapes {[a.shape for a in inputs]}: the model takes "
                f"{len(maps)} of one size: {', '.join(channels)}"
            )
        for channel, array, one in zip(channels, inputs, maps, strict=True):
            if array.dtype.name != one.dtype:
                raise UserError(
                    f"channel {channel} is {array.dtype}, the model was trained on {one.dtype}; "
                    "give images of the same kind as in training"
                )
        for flat in self.checkpoint.flats:
            if flat is not None:
                flat.check(inputs[0].shape, region)

    def settle(self, inputs: Sequence[np.ndarray]) -> None:
        """Decide once, on the first field, whether bf16 is exact enough; nothing where the user did.

        The measure is the root mean square difference to float32 over the middle of the field, in
        grey levels of the output; floats have no levels, so float images are predicted in float32.
        """
        if not self._on_trial:
            return
        self._on_trial = False
        middle = [slice(max(0, (n - PROBE) // 2), (n + PROBE) // 2) for n in inputs[0].shape]
        probe = FieldPixels([array[middle[0], middle[1]] for array in inputs], None)
        grey = {}
        for precision in ("float32", "bf16"):
            self.precision = precision
            y = np.concatenate([y for *_, y in self._raw([probe], self._stain, flat=False)], 1)
            fitted = zip(self.checkpoint.targets, y, strict=True)
            grey[precision] = np.stack([one.grey(channel) for one, channel in fitted])
        difference = np.square(grey["bf16"] - grey["float32"]).mean((1, 2)) ** 0.5
        levels = float(difference.max())
        exact = np.dtype(self.checkpoint.targets[0].dtype).kind in "ui" and levels < HALF_GREY
        self.precision = "bf16" if exact else "float32"
        log.info(
            "precision: %s; bf16 moves the prediction by %.2g grey levels (root mean square)",
            self.precision, levels,
        )  # fmt: skip

    def _raw(
        self,
        fields: Iterable[FieldPixels],
        network: Callable[[torch.Tensor], torch.Tensor],
        flat: bool = True,
    ) -> Iterator[tuple[Any, int, np.ndarray]]:
        """What `network` makes of fields: (field, row, (C, h, W) in [-1, 1]).

        Args:
            flat: correct illumination where training did.
        """
        maps = self.checkpoint.inputs
        flats = self.checkpoint.flats[: len(maps)] if flat else (None,) * len(maps)

        def source(field: FieldPixels) -> Source:
            levels = self.checkpoint.levels(field.inputs)

            def rows(start: int, stop: int) -> torch.Tensor:
                place, stack = field.rows(start, stop), []
                for array, one, surface, level in zip(
                    field.inputs, maps, flats, levels, strict=True
                ):
                    crop = array[start:stop]
                    crop = surface.correct(crop, place) if surface else crop
                    stack.append(one.normalise(standardised(crop, level)))
                    release(array)
                return torch.from_numpy(np.stack(stack))

            height, width = field.inputs[0].shape
            return Source((height, width), rows, field)

        for band in predict_bands(
            torch.inference_mode()(network), map(source, fields), self.tile,
            int(self.overlap * self.tile), self.stride, self.batch_size, self._lanes,
        ):  # fmt: skip
            height, width = band.values.shape[1:]
            step = max(1, BAND_PIXELS // width)
            for start in range(0, height, step):
                part = band.values[:, start : start + step].numpy()
                yield band.source.owner, band.top + start, part

    def _grey(self, y: np.ndarray, region: Region | None) -> np.ndarray:
        """Targets (Ct, H, W) in [-1, 1] back to grey values, real numbers."""
        flats = self.checkpoint.flats[len(self.checkpoint.inputs) :]
        greys = []
        for fitted, flat, channel in zip(self.checkpoint.targets, flats, y, strict=True):
            grey = fitted.grey(channel)
            greys.append(grey if flat is None else flat.restore(grey, region))
        return np.stack(greys)

    def _restored(self, y: np.ndarray, region: Region | None) -> np.ndarray:
        return to_dtype(self._grey(y, region), self.checkpoint.targets[0].dtype)

    def _stain(self, tiles: torch.Tensor) -> torch.Tensor:
        if self.tta == "none":
            return self._stain_once(tiles)
        at_once = max(self.batch_size * self.tile**2, BATCH_PIXELS[self.device.type])
        return averaged(self._stain_once, at_once)(tiles)

    def _stain_once(self, tiles: torch.Tensor) -> torch.Tensor:
        if self._network is not None:
            return self._network(tiles)
        tiles = tiles.to(self.device).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            predicted: torch.Tensor = self.generator(tiles)
        return predicted

    def _stain_and_score(self, tiles: torch.Tensor) -> torch.Tensor:
        assert self.head is not None
        tiles = tiles.to(self.device).contiguous(memory_format=torch.channels_last)
        predicted = self._stain(tiles).float()
        with autocast(self.device, self.precision):
            return torch.cat([predicted, self.head(tiles, predicted)], 1)

"""Training and validation patches, cut out of the image cache.

Grey values become [-1, 1] on the device of the network, a batch at once (`vfn.data.batch.Normaliser`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from vfn.data.batch import BATCHED, RawBatch
from vfn.data.cache import ImageCache
from vfn.data.illumination import FlatField
from vfn.data.intensity import FieldLevel, field_levels, standardised
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample, within

if TYPE_CHECKING:
    from vfn.data.augment import PatchTransform

# The eight symmetries of the square, in the order of `albumentations.D4`. They move pixels and never
# resample them, so grey values and co-registration stay exact (paper, sec. 2.3: "augmented with rotation
# and flipping").
Turn = Callable[[np.ndarray], np.ndarray]
TURNS: tuple[Turn, ...] = (
    lambda image: image,
    np.rot90,
    lambda image: np.rot90(image, 2),
    lambda image: np.rot90(image, 3),
    np.flipud,
    lambda image: np.rot90(image, 2).T,
    np.fliplr,
    np.transpose,
)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training patches.

    Attributes:
        d4: turn and flip each patch to one of the eight symmetries of the square.
        jitter: gain within 1 +- jitter and offset within +- jitter of each input channel, in [-1, 1]; see
            `vfn.data.augment.InputJitter`. Applied on the device of the network.
        transform: replaces both.
    """

    d4: bool = True
    jitter: float = 0.0
    transform: "PatchTransform | None" = None


class PatchReader:
    """Cut patches out of samples.

    Args:
        flats: flat field of each channel, inputs first; None where illumination is not corrected.
        inputs: number of input channels.
        size: side of a patch (px).
        dtype: holds the grey values of all channels.
        per_field: of each input, whether its fields are standardised; empty for none.
    """

    def __init__(
        self,
        store: ImageCache,
        flats: Sequence[FlatField | None],
        inputs: int,
        size: int,
        dtype: np.dtype,
        per_field: Sequence[bool] = (),
    ) -> None:
        self.store, self.flats, self.inputs, self.size = store, flats, inputs, size
        self.dtype = dtype
        self.per_field = tuple(per_field) or (False,) * inputs
        self._levels: dict[str, list[FieldLevel | None]] = {}  # of the samples met so far

    def batch(
        self,
        corners: Sequence[tuple[Sample, int, int]],
        turns: Sequence[Turn],
        jitter: np.ndarray | None = None,
    ) -> RawBatch:
        """Cut one patch per (sample, top, left), turned by its entry of `TURNS`.

        Args:
            jitter: (2, B, Ci), see `RawBatch`.
        """
        count, size, channels = len(corners), self.size, len(self.flats)
        planes = torch.empty((count, channels, size, size), dtype=BATCHED[self.dtype.name])
        valid = np.ones((count, channels - self.inputs, size, size), bool)
        whole = True
        for i, ((sample, top, left), turn) in enumerate(zip(corners, turns, strict=True)):
            whole &= self._cut(sample, top, left, turn, planes[i].numpy(), valid[i])
        return RawBatch(
            planes,
            None if whole else torch.from_numpy(valid),
            None if jitter is None else torch.from_numpy(jitter.astype(np.float32)),
        )

    def _cut(
        self, sample: Sample, top: int, left: int, turn: Turn, planes: np.ndarray, valid: np.ndarray
    ) -> bool:
        """Fill `planes` (C, size, size) and `valid` (Ct, size, size), which is True throughout.

        Returns:
            True if it still is.
        """
        size, whole = self.size, True
        window = (slice(top, top + size), slice(left, left + size))
        crops = read_sample(sample, self.store, window)
        levels = self._levels_of(sample)
        for channel, (crop, flat) in enumerate(zip(crops, self.flats, strict=True)):
            if crop is None:
                planes[channel] = 0
                valid[channel - self.inputs] = whole = False
                continue
            height, width = crop.shape
            if flat is not None:
                part = (slice(top, top + height), slice(left, left + width))
                crop = flat.correct(crop, within(sample.region, part))
            if channel < self.inputs:
                crop = standardised(crop, levels[channel])
            if crop.shape != (size, size):
                crop = np.pad(crop, ((0, size - height), (0, size - width)), mode="symmetric")
                if channel >= self.inputs:
                    there = np.zeros((size, size), bool)
                    there[:height, :width] = True
                    whole = False
                    valid[channel - self.inputs] = turn(there)
            planes[channel] = turn(crop)
        return whole

    def _levels_of(self, sample: Sample) -> list[FieldLevel | None]:
        """Return the levels of the inputs in the whole sample; None for those that share a range."""
        if not any(self.per_field):
            return [None] * self.inputs
        key = f"{sample.name} {sample.region}"
        if key not in self._levels:
            arrays = present(read_sample(sample, self.store)[: self.inputs])
            self._levels[key] = field_levels(arrays, self.per_field)
        return self._levels[key]


class RandomPatches(Dataset[RawBatch]):
    """Endless random patches: index n is always the same patch, in any process and at any time.

    Thus the order of training depends neither on the number of workers nor on where a run stopped.

    Args:
        shapes: (height, width) of each sample.
        augmentation: random changes of each patch.
        ranges: (low, high) grey values of each channel, inputs first, which become [0, 1] for a transform of
            albumentations; needed for these alone.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        shapes: Sequence[tuple[int, int]],
        reader: PatchReader,
        augmentation: Augmentation,
        seed: int,
        ranges: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.samples, self.reader, self.seed = samples, reader, seed
        self.augmentation = augmentation
        low, high = np.array(ranges, np.float32).reshape(-1, 2).T[..., None, None]
        self.low, self.span = low, high - low
        # Corners of a patch; at least one even where the field is smaller than a patch.
        self.room = [tuple(max(0, side - reader.size) + 1 for side in shape) for shape in shapes]
        area = np.array([math.prod(shape) for shape in shapes], float)
        self.share = np.cumsum(area) / area.sum()  # every pixel of the data set is as likely

    def __getitem__(self, index: int) -> RawBatch:
        """Return a batch of one patch."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """Return a batch; the DataLoader asks for it as a whole."""
        change = self.augmentation
        corners, turns, generators = [], [], []
        jitter = np.zeros((2, len(indices), self.reader.inputs))
        for i, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, index])
            which = int(np.searchsorted(self.share, rng.random(), side="right"))
            top, left = (int(rng.integers(room)) for room in self.room[which])
            corners.append((self.samples[which], top, left))
            turns.append(TURNS[rng.integers(len(TURNS))] if change.d4 else TURNS[0])
            if change.jitter:
                jitter[:, i] = change.jitter * rng.uniform(-1, 1, jitter[:, i].shape)
            generators.append(rng)
        if change.transform is not None:
            return self._transformed(self.reader.batch(corners, turns), generators)
        if not change.jitter:
            return self.reader.batch(corners, turns)
        return self.reader.batch(corners, turns, jitter + np.reshape([1, 0], (2, 1, 1)))

    def _transformed(self, raw: RawBatch, generators: Sequence[np.random.Generator]) -> RawBatch:
        """Apply the transform to each patch, on a scale of [0, 1], and return to grey values."""
        transform, count = self.augmentation.transform, self.reader.inputs
        assert transform is not None
        scaled = np.clip((raw.planes.numpy() - self.low) / self.span, 0, 1)
        shape = (len(scaled), scaled.shape[1] - count, *scaled.shape[2:])
        valid = np.ones(shape, bool) if raw.valid is None else raw.valid.numpy()
        for i, rng in enumerate(generators):
            inputs, targets, valid[i] = transform(
                scaled[i, :count], scaled[i, count:], valid[i], rng
            )
            scaled[i] = np.concatenate([inputs, targets])
        planes = torch.from_numpy(scaled * self.span + self.low)
        return RawBatch(planes, None if valid.all() else torch.from_numpy(valid))


class GridPatches(Dataset[RawBatch]):
    """Patches on a grid that covers every sample, the last row and column aligned with the edge."""

    def __init__(
        self,
        samples: Sequence[Sample],
        shapes: Sequence[tuple[int, int]],
        reader: PatchReader,
        at_most: int,
    ) -> None:
        self.reader = reader
        corners = [
            (sample, top, left)
            for sample, shape in zip(samples, shapes, strict=True)
            for top in _starts(shape[0], reader.size)
            for left in _starts(shape[1], reader.size)
        ]
        step = max(1.0, len(corners) / at_most)
        self.corners = [corners[int(i * step)] for i in range(min(len(corners), at_most))]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> RawBatch:
        """Return a batch of one patch."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """Return a batch; the DataLoader asks for it as a whole."""
        return self.reader.batch([self.corners[i] for i in indices], [TURNS[0]] * len(indices))


def _starts(length: int, size: int) -> list[int]:
    last = max(0, length - size)
    return [*range(0, last, size), last]

"""Training and validation patches: cut as they lie on disk, normalised where the network runs.

What loads patches only copies rows out of the store, turned and flipped on the way. Grey values
become [-1, 1] on the device of the network, a batch at once (`Normaliser`).
"""

import math
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from albumentations.augmentations.geometric.functional import d4
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vfn.data.cache import ImageCache
from vfn.data.illumination import FlatField
from vfn.data.intensity import IntensityNormaliser
from vfn.data.pixels import read_sample
from vfn.data.samples import Region, Sample, within
from vfn.system.signals import available

# What grey values travel in to the network, which computes in float32.
BATCHED = {
    "uint8": torch.uint8, "uint16": torch.uint16, "int16": torch.int16, "float32": torch.float32,
}  # fmt: skip
# The eight symmetries of the square: they move pixels and never resample them, so grey values and
# co-registration stay exact (paper, sec. 2.3: "augmented with rotation and flipping").
TURNS = ("e", "r90", "r180", "r270", "v", "hvt", "h", "t")


class Batch(NamedTuple):
    """Patches.

    Attributes:
        input: (B, Ci, h, w) float32 in [-1, 1].
        target: (B, Ct, h, w) float32 in [-1, 1].
        valid: (B, Ct, h, w) bool; False where a patch is larger than its field and was padded, and
            all over a target that the field lacks.
    """

    input: Tensor
    target: Tensor
    valid: Tensor


class RawBatch(NamedTuple):
    """Patches in grey values.

    Attributes:
        planes: (B, Ci + Ct, h, w), inputs first; one of `BATCHED`.
        valid: (B, Ct, h, w) bool, as in `Batch`; None where all is valid: each tensor that a worker
            process hands over costs as much as its pixels do.
        jitter: (2, B, Ci) float32, gain and offset of the normalised inputs; None for none.
    """

    planes: Tensor
    valid: Tensor | None = None
    jitter: Tensor | None = None


class Normaliser:
    """From grey values to what networks see; works on any device.

    Args:
        inputs, targets: the maps of the channels.
    """

    def __init__(
        self, inputs: Sequence[IntensityNormaliser], targets: Sequence[IntensityNormaliser]
    ) -> None:
        self.inputs = len(inputs)
        self.maps = [*inputs, *targets]
        self.low = torch.tensor([m.low for m in self.maps]).reshape(-1, 1, 1)
        self.scale = torch.tensor([2 / (m.high - m.low) for m in self.maps]).reshape(-1, 1, 1)

    def __call__(self, raw: RawBatch) -> Batch:
        """The same values as `IntensityNormaliser.normalise`, in float32, for a whole batch."""
        grey = raw.planes.to(torch.float32)
        x = ((grey - self.low.to(grey.device)) * self.scale.to(grey.device) - 1).clamp_(-1, 1)
        for channel, fitted in enumerate(self.maps):
            if fitted.knots is not None:
                x[:, channel] = _interpolate(grey[:, channel], fitted.knots)
        inputs, target = x[:, : self.inputs], x[:, self.inputs :]
        if raw.jitter is not None:
            gain, offset = raw.jitter[..., None, None]
            inputs = (inputs * gain + offset).clamp_(-1, 1)
        valid = torch.ones_like(target, dtype=torch.bool) if raw.valid is None else raw.valid
        return Batch(inputs, target, valid)


def _interpolate(grey: Tensor, knots: Sequence[float]) -> Tensor:
    """Position of each grey value on the equalising curve, in [-1, 1]; `np.interp` in torch."""
    at = torch.tensor(knots, dtype=torch.float32, device=grey.device)
    right = torch.searchsorted(at, grey.contiguous()).clamp_(1, len(at) - 1)
    low, high = at[right - 1], at[right]
    share = ((grey - low) / (high - low).clamp(min=1e-12)).clamp_(0, 1)
    return (right - 1 + share) * (2 / (len(at) - 1)) - 1


class PatchReader:
    """Cuts patches out of samples.

    Args:
        flats: of each channel, inputs first; None where illumination is not corrected.
        inputs: number of input channels.
        size: side of a patch (px).
        dtype: that holds the grey values of all channels.
    """

    def __init__(
        self,
        store: ImageCache,
        flats: Sequence[FlatField | None],
        inputs: int,
        size: int,
        dtype: np.dtype,
    ) -> None:
        self.store, self.flats, self.inputs, self.size = store, flats, inputs, size
        self.dtype = dtype

    def batch(
        self,
        corners: Sequence[tuple[Sample, int, int]],
        turns: Sequence[str],
        jitter: np.ndarray | None = None,
    ) -> RawBatch:
        """One patch for each (sample, top, left), turned by its one of `TURNS`.

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
        self, sample: Sample, top: int, left: int, turn: str, planes: np.ndarray, valid: np.ndarray
    ) -> bool:
        """Fill `planes` (C, size, size) and `valid` (Ct, size, size), which is True throughout.

        Returns:
            Whether it still is.
        """
        size, whole = self.size, True
        window = (slice(top, top + size), slice(left, left + size))
        crops = read_sample(sample, self.store, window)
        for channel, (crop, flat) in enumerate(zip(crops, self.flats, strict=True)):
            if crop is None:
                planes[channel] = 0
                valid[channel - self.inputs] = whole = False
                continue
            if flat is not None:
                crop = flat.correct(crop, _place(sample, top, left, crop.shape))
            height, width = crop.shape
            if crop.shape != (size, size):
                crop = np.pad(crop, ((0, size - height), (0, size - width)), mode="symmetric")
                if channel >= self.inputs:
                    there = np.zeros((size, size), bool)
                    there[:height, :width] = True
                    whole = False
                    valid[channel - self.inputs] = d4(there, turn)  # type: ignore[arg-type]
            planes[channel] = d4(crop, turn)  # type: ignore[arg-type]
        return whole


def _place(sample: Sample, top: int, left: int, shape: tuple[int, ...]) -> Region:
    """Rows and columns of the field that a crop holds."""
    return within(sample.region, (slice(top, top + shape[0]), slice(left, left + shape[1])))


class RandomPatches(Dataset[RawBatch]):
    """Endless random patches: index n is always the same patch, whoever loads it and when.

    So the order of training depends neither on the number of workers nor on where a run stopped.

    Args:
        shapes: (height, width) of each sample.
        augment: turn and flip.
        jitter: random contrast and brightness of each input channel, the target stays: gain within
            1 +- jitter, offset within +- jitter, in [-1, 1]. For transmitted light, whose level
            varies between fields and says nothing of the stain. Where a stain predicts a stain its
            intensity is information, and jitter would take it away.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        shapes: Sequence[tuple[int, int]],
        reader: PatchReader,
        augment: bool,
        seed: int,
        jitter: float = 0.0,
    ) -> None:
        self.samples, self.reader, self.seed, self.jitter = samples, reader, seed, jitter
        self.augment = augment
        # Corners of a patch; at least one even where the field is smaller than a patch.
        self.room = [tuple(max(0, side - reader.size) + 1 for side in shape) for shape in shapes]
        area = np.array([math.prod(shape) for shape in shapes], float)
        self.share = np.cumsum(area) / area.sum()  # every pixel of the data set is as likely

    def __getitem__(self, index: int) -> RawBatch:
        """A batch of one patch."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """A batch; the DataLoader asks for it as a whole."""
        corners, turns = [], []
        jitter = np.zeros((2, len(indices), self.reader.inputs))
        for i, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, index])
            which = int(np.searchsorted(self.share, rng.random(), side="right"))
            top, left = (int(rng.integers(room)) for room in self.room[which])
            corners.append((self.samples[which], top, left))
            turns.append(TURNS[rng.integers(len(TURNS))] if self.augment else TURNS[0])
            if self.jitter:
                jitter[:, i] = self.jitter * rng.uniform(-1, 1, jitter[:, i].shape)
        if not self.jitter:
            return self.reader.batch(corners, turns)
        return self.reader.batch(corners, turns, jitter + np.reshape([1, 0], (2, 1, 1)))


class GridPatches(Dataset[RawBatch]):
    """Patches on a grid that covers every sample, the last row and column drawn back to the edge."""

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
        """A batch of one patch."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """A batch; the DataLoader asks for it as a whole."""
        return self.reader.batch([self.corners[i] for i in indices], [TURNS[0]] * len(indices))


def _starts(length: int, size: int) -> list[int]:
    last = max(0, length - size)
    return [*range(0, last, size), last]


def as_it_is(batch: RawBatch) -> RawBatch:
    """For `collate_fn`: the data set gives batches already."""
    return batch


class _From(Sampler[int]):
    """Indices of what is left of the current epoch, this rank's share."""

    def __init__(self, loader: "PatchLoader", rank: int, world: int) -> None:
        self.loader, self.rank, self.world = loader, rank, world

    def __iter__(self) -> Iterator[int]:
        loader = self.loader
        size = loader.batch_size or 1
        first = loader.drawn * size
        last = (loader.drawn // loader.batches + 1) * loader.batches * size
        for index in range(first, last):
            yield index * self.world + self.rank

    def __len__(self) -> int:
        return self.loader.batches * (self.loader.batch_size or 1)


class PatchLoader(DataLoader[RawBatch]):
    """DataLoader over `RandomPatches` that goes on, within an epoch, where a checkpoint stopped.

    Lightning saves and restores it through `state_dict`.
    """

    def __init__(
        self, dataset: RandomPatches, batches: int, rank: int = 0, world: int = 1, **kwargs: Any
    ) -> None:
        self.batches, self.drawn = batches, 0
        super().__init__(dataset, sampler=_From(self, rank, world), **kwargs)

    def __len__(self) -> int:
        """Batches of one epoch."""
        return self.batches

    def __iter__(self) -> Any:
        """Batches of the rest of the epoch; lazy, so that a state loaded after `iter` counts."""
        for batch in super().__iter__():
            self.drawn += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches were drawn since training began."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after `state["drawn"]` batches."""
        self.drawn = int(state["drawn"])


def leave_signals(_worker: int) -> None:
    """For `worker_init_fn`: what tells a training to stop goes to its whole group of processes, but
    the workers end with the training, which finishes its step first."""
    for number in available("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(number, signal.SIG_IGN)


def share_by_name() -> None:
    """Let worker processes hand tensors over by name instead of by file descriptor, torch's default
    on Linux: that passes each descriptor through a socket, which takes as long as the pixels, and runs
    into the limit of open files. A process of torch's own removes what a killed worker leaves."""
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]

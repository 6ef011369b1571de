"""Training and validation patches: cropped from decoded planes, normalised, turned and flipped."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vfn.data.intensity import Intensity
from vfn.data.survey import PlaneCache
from vfn.data.views import View


class Batch(NamedTuple):
    """Patches.

    Attributes:
        input: (B, Ci, h, w) float32 in [-1, 1].
        target: (B, Ct, h, w) float32 in [-1, 1].
        valid: (B, Ct, h, w) bool; False where a patch is larger than its field and was padded.
    """

    input: torch.Tensor
    target: torch.Tensor
    valid: torch.Tensor


def augmentation() -> A.Compose:
    """Flips and quarter turns (paper, sec. 2.3: "augmented with rotation and flipping").

    One of the eight symmetries of the square, each as likely: they move pixels and never resample
    them, so grey values and co-registration stay exact. One transform, since a list of flips and
    turns that is seeded together tosses one coin for all of them.
    """
    return A.Compose([A.D4(p=1.0)])


def jitter_inputs(inputs: np.ndarray, strength: float, rng: np.random.Generator) -> None:
    """Random contrast and brightness of each input channel, in place; the target stays.

    For transmitted light, whose level varies between fields and says nothing of the stain. Where a
    stain predicts a stain its intensity is information, and jitter would take it away.

    Args:
        inputs: (h, w, Ci) in [-1, 1]; stays in it.
        strength: gain within 1 +- strength, offset within +- strength.
    """
    channels = inputs.shape[-1]
    gain = 1 + strength * rng.uniform(-1, 1, channels)
    offset = strength * rng.uniform(-1, 1, channels)
    inputs[...] = np.clip(inputs * gain + offset, -1, 1)


class PatchReader:
    """Cuts one patch out of a view and normalises it."""

    def __init__(
        self,
        cache: PlaneCache,
        inputs: Sequence[Intensity],
        targets: Sequence[Intensity],
        size: int,
    ) -> None:
        self.cache, self.size = cache, size
        self.maps, self.inputs = [*inputs, *targets], len(inputs)

    def cut(self, view: View, top: int, left: int) -> np.ndarray:
        """Patch (size, size, Ci + Ct + 1) float32; the last plane is 1 where there is a field."""
        size = self.size
        arrays = self.cache.stack(view.inputs + view.targets, view)
        crops = [array[top : top + size, left : left + size] for array in arrays]
        height, width = crops[0].shape
        planes = [m.normalise(crop) for m, crop in zip(self.maps, crops, strict=True)]
        patch = np.stack([*planes, np.ones((height, width), np.float32)], axis=-1)
        if (height, width) != (size, size):
            margin = ((0, size - height), (0, size - width), (0, 0))
            patch = np.pad(patch, margin, mode="symmetric")
            patch[height:, :, -1] = 0
            patch[:, width:, -1] = 0
        return patch

    def sample(self, patch: np.ndarray) -> Batch:
        """One patch as tensors (C, h, w), without the batch axis."""
        tensor = torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))
        target = tensor[self.inputs : -1]
        valid = (tensor[-1:] > 0.5).expand_as(target)
        return Batch(tensor[: self.inputs], target, valid.contiguous())


class RandomPatches(Dataset[Batch]):
    """Endless random patches: index n is always the same patch, whoever loads it and when.

    So the order of training depends neither on the number of workers nor on where a run stopped.
    """

    def __init__(
        self,
        views: Sequence[View],
        shapes: Sequence[tuple[int, int]],
        reader: PatchReader,
        augment: bool,
        seed: int,
        jitter: float = 0.0,
    ) -> None:
        self.views, self.reader, self.seed, self.jitter = views, reader, seed, jitter
        # Corners of a patch; at least one even where the field is smaller than a patch.
        self.room = [tuple(max(0, side - reader.size) + 1 for side in shape) for shape in shapes]
        area = np.array([math.prod(shape) for shape in shapes], float)
        self.share = np.cumsum(area) / area.sum()  # every pixel of the data set is as likely
        self.transform = augmentation() if augment else None

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self.seed, index])
        which = int(np.searchsorted(self.share, rng.random(), side="right"))
        top, left = (int(rng.integers(room)) for room in self.room[which])
        patch = self.reader.cut(self.views[which], top, left)
        if self.transform is not None:
            # albumentations keeps its own generators, which ignore every global seed.
            self.transform.set_random_seed(int(rng.integers(2**31)))
            patch = self.transform(image=patch)["image"]
        if self.jitter:
            jitter_inputs(patch[..., : self.reader.inputs], self.jitter, rng)
        return self.reader.sample(patch)


class GridPatches(Dataset[Batch]):
    """Patches on a grid that covers every view, the last row and column drawn back to the edge."""

    def __init__(
        self,
        views: Sequence[View],
        shapes: Sequence[tuple[int, int]],
        reader: PatchReader,
        at_most: int,
    ) -> None:
        self.reader = reader
        corners = [
            (view, top, left)
            for view, shape in zip(views, shapes, strict=True)
            for top in _starts(shape[0], reader.size)
            for left in _starts(shape[1], reader.size)
        ]
        step = max(1.0, len(corners) / at_most)
        self.corners = [corners[int(i * step)] for i in range(min(len(corners), at_most))]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> Batch:
        return self.reader.sample(self.reader.cut(*self.corners[index]))


def _starts(length: int, size: int) -> list[int]:
    last = max(0, length - size)
    return [*range(0, last, size), last]


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


class PatchLoader(DataLoader[Batch]):
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

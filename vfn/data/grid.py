"""Channels of one field that a camera binned differently, brought onto the grid of the first input.

No value is invented: a pixel that covers 2x2 of the grid's is repeated, pixels of which 2x2 cover one of
the grid's are averaged, as binning does. Figures compare a repeated target with the prediction's means
over the target's own pixels (`over_true_pixels`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vfn.data.cache import ImageCache
from vfn.data.discovery.fields import ImageSource
from vfn.data.intensity import to_dtype
from vfn.data.samples import Sample
from vfn.errors import UserError

MOST = 16  # pixels a side that one covers; cameras bin 8x8 at most


@dataclass(frozen=True)
class Regridded:
    """A plane on the grid of another.

    Attributes:
        size: of its pixels in pixels of the grid: 2 repeats each 2x2 times, 0.5 averages 2x2 of them.
    """

    plane: ImageSource
    size: float

    def read(self) -> np.ndarray:
        """Pixels (H, W) in the dtype of the plane.

        Raises:
            UserError: as the plane; or its size is no multiple of what is to be averaged.
        """
        pixels = self.plane.read()
        if self.size > 1:
            return pixels.repeat(int(self.size), 0).repeat(int(self.size), 1)
        count = round(1 / self.size)
        height, width = pixels.shape
        if height % count or width % count:
            raise UserError(
                f"{self.plane}: is {height}x{width} pixels, of which {count}x{count} are to be one, as "
                "in the other fields; leave the field out by data.exclude"
            )
        blocks = pixels.reshape(height // count, count, width // count, count)
        return to_dtype(blocks.mean((1, 3), dtype=np.float64), pixels.dtype.name)

    @property
    def pixel_size(self) -> float | None:
        """Micrometres a pixel of the grid, if known."""
        size = self.plane.pixel_size
        return None if size is None else size / self.size

    @property
    def key(self) -> str:
        """Identity of the pixels: that of the plane, and their size."""
        return f"{self.plane.key}|pixels of {self.size:g}"

    def __str__(self) -> str:
        return f"{self.plane}"


@dataclass(frozen=True)
class Binning:
    """Size of each channel's pixels in those of the first input: 1 where they are alike.

    Attributes:
        inputs, targets: in the order of the task's channels.
    """

    inputs: tuple[float, ...]
    targets: tuple[float, ...]

    @classmethod
    def measure(cls, samples: Sequence[Sample], store: ImageCache) -> "Binning":
        """Measure the first sample that has each channel; sizes without an integral ratio count as alike,
        and are refused where they are read together."""
        inputs, targets = len(samples[0].inputs), len(samples[0].targets)
        sizes = [1.0] * (inputs + targets)
        for channel in range(1, inputs + targets):
            for sample in samples:
                plane = (*sample.inputs, *sample.targets)[channel]
                if plane is not None:
                    grid = store.peek(sample.inputs[0]).shape
                    sizes[channel] = relative_size(grid, store.peek(plane).shape)
                    break
        return cls(tuple(sizes[:inputs]), tuple(sizes[inputs:]))

    def apply(self, sample: Sample) -> Sample:
        """The sample with its planes on one grid."""
        if set(self.inputs + self.targets) == {1.0}:
            return sample
        return replace(
            sample,
            inputs=tuple(_on_grid(p, s) for p, s in zip(sample.inputs, self.inputs, strict=True)),
            targets=tuple(
                None if p is None else _on_grid(p, s)
                for p, s in zip(sample.targets, self.targets[: len(sample.targets)], strict=True)
            ),
        )

    def to_dict(self) -> dict[str, list[float]]:
        """Plain data, for the checkpoint."""
        return {"inputs": list(self.inputs), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None, inputs: int, targets: int) -> "Binning":
        """The inverse of `to_dict`; all alike in checkpoints of earlier versions, which have none."""
        if data is None:
            return cls((1.0,) * inputs, (1.0,) * targets)
        found = cls(*(tuple(float(size) for size in data[key]) for key in ("inputs", "targets")))
        sizes = found.inputs + found.targets
        whole = all(0 < size <= MOST and (max(size, 1 / size)) % 1 < 1e-9 for size in sizes)
        if (len(found.inputs), len(found.targets)) != (inputs, targets) or not whole:
            raise ValueError(f"binning {sizes}")
        return found

    def summary(self, channels: Sequence[str]) -> str:
        """Describe what was done; empty for nothing."""
        done = []
        for channel, size in zip(channels, self.inputs + self.targets, strict=True):
            count = round(max(size, 1 / size))
            if count > 1:
                how = "repeated" if size > 1 else "averaged"
                done.append(f"{channel} {how} {count}x{count}")
        return f"on the grid of {channels[0]}: {', '.join(done)}" if done else ""


def _on_grid(plane: ImageSource, size: float) -> ImageSource:
    return plane if size == 1 else Regridded(plane, size)


def relative_size(grid: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """Return the size of an image's pixels in those of the grid; 1 where the two have no integral ratio."""
    for first, second, up in ((grid, shape, True), (shape, grid, False)):
        count, rest = divmod(first[0], second[0])
        if 1 < count <= MOST and not rest and first == tuple(count * side for side in second):
            return float(count) if up else 1 / count
    return 1.0


def over_true_pixels(image: np.ndarray, size: float, start: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return means of an image (..., H, W) over the pixels of a repeated target, repeated as these are.

    Args:
        size: of the target's pixels, see `Binning`; 1 and less leave the image as it is.
        start: row and column of the image's corner on the grid.
    """
    if size <= 1:
        return image
    mean = image.astype(np.float64)
    for axis, first in ((-2, start[0]), (-1, start[1])):
        length = image.shape[axis]
        cuts = [0, *range(int(-first % size) or int(size), length, int(size))]
        counts = np.diff([*cuts, length])
        shape = (-1, 1) if axis == -2 else (-1,)
        mean = np.add.reduceat(mean, cuts, axis) / counts.reshape(shape)
        mean = np.repeat(mean, counts, axis)
    return to_dtype(mean, image.dtype.name)

"""Uneven illumination: a smooth flat field a channel, estimated over the training fields.

The idea is that of CellProfiler's CorrectIlluminationCalculate ("Regular", all images averaged,
polynomial smoothing): cells lie anywhere, so what the average of many fields still shows is the
lamp and the lens. Two things are ours. CellProfiler divides by the surface alone; here the camera's
offset is left out of the division. And with few fields the average shows cells too: each part of
the surface is kept only as far as the fields agree on it (Wiener's filter, the noise
measured between fields), so a handful of fields gives a flatter surface, not ghosts of cells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np

from vfn.data.intensity import subsample
from vfn.data.samples import Region
from vfn.errors import UserError

DEGREE = 4  # of the surface: follows a lamp off centre, and cos^4, but no cell
BLOCKS = 32  # a field is measured in this many blocks along its longer side
GRID = 64  # and the surface is kept at this many points
CLIP = 4.0  # robust spreads: a block that is brighter is a clump, one that is darker a field stop
# Below this share of the mean light there is nothing left to correct but noise (DeepCell's corners).
FLOOR = 0.2
DARK, BRIGHT = 0.1, 99.9  # percentiles of a field


@lru_cache(maxsize=16)
def _terms(shape: tuple[int, int]) -> np.ndarray:
    """Legendre polynomials of two variables at the cell centres of a grid, (h * w, 15), sorted by
    degree. Each has the mean square 1, so that coefficients compare."""
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in shape)
    legendre = np.polynomial.Legendre.basis
    columns = [
        math.sqrt((2 * i + 1) * (2 * j + 1)) * np.outer(legendre(i)(y), legendre(j)(x))
        for i, j in _powers()
    ]
    return np.stack([column.ravel() for column in columns], 1)


@lru_cache(maxsize=4)
def _inverse(shape: tuple[int, int]) -> np.ndarray:
    """(15, h * w): blocks to least-squares coefficients of `_terms`."""
    return np.linalg.pinv(_terms(shape))


def _powers() -> list[tuple[int, int]]:
    return [(degree - j, j) for degree in range(DEGREE + 1) for j in range(degree + 1)]


def _coarse(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """`shape` scaled down to `longest` on its longer side."""
    scale = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


class MeanImage:
    """The average of many fields, as the few smooth terms that matter, and how far fields differ.

    Memory does not grow with the number or the size of the fields.
    """

    def __init__(self) -> None:
        self.count = 0
        self.shape: tuple[int, int] | None = None
        size = len(_powers())
        self.mean, self._squares = np.zeros(size), np.zeros(size)
        self.darkest = math.inf  # lowest of the fields' dark percentiles
        self.levels = np.zeros(3)  # mean over fields: dark percentile, median, bright percentile

    def add(self, array: np.ndarray) -> None:
        """Count one field (H, W) of grey values.

        Raises:
            UserError: it has another size than the fields before.
        """
        shape = (array.shape[0], array.shape[1])
        if self.shape not in (None, shape):
            assert self.shape is not None
            raise UserError(
                f"illumination: one field is {_size(self.shape)} pixels, another {_size(shape)}; "
                "a flat field needs fields of one size: train on one size, or leave illumination "
                "correction off"
            )
        self.shape = shape
        self.count += 1
        height, width = _coarse(shape, BLOCKS)
        blocks = cv2.resize(
            array.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        ).astype(float)
        middle = np.median(blocks)
        reach = CLIP * 1.4826 * np.median(np.abs(blocks - middle))
        terms = _inverse((height, width)) @ blocks.clip(middle - reach, middle + reach).ravel()
        step = terms - self.mean  # Welford's running mean and squares
        self.mean += step / self.count
        self._squares += step * (terms - self.mean)
        levels = np.percentile(subsample(array), (DARK, 50, BRIGHT))
        self.darkest = min(self.darkest, float(levels[0]))
        self.levels += (levels - self.levels) / self.count

    def noise(self) -> float:
        """Mean square error of one coefficient of `mean`, pooled over all but the constant."""
        return float(self._squares[1:].mean() / (self.count - 1) / self.count)


@dataclass(frozen=True, eq=False)
class FlatField:
    """Share of the light that each place of a field gets: corrected = (x - dark) / flat + dark.

    Attributes:
        dark: grey value where no light falls.
        grid: the surface at the centres of a coarse grid, (h, w) float32, 64 at most on a side,
            mean 1, nowhere below 0.2. With mean 1 an evenly filled field keeps its mean level.
        shape: (H, W) of the fields.
    """

    dark: float
    grid: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def fit(cls, mean: MeanImage) -> "FlatField":
        """The surface that the fields agree on; one field alone cannot tell lamp from cells, so its
        surface is flat.

        Raises:
            UserError: no field at all.
        """
        if mean.shape is None:
            raise UserError("illumination: no training field to estimate it on; check the split")
        dark = _dark(mean)
        grid_shape = _coarse(mean.shape, GRID)
        coefficients = np.zeros(len(_powers()))
        coefficients[0] = 1
        light = mean.mean[0] - dark
        if mean.count > 1 and light > 0:
            noise, degrees = mean.noise(), np.array([i + j for i, j in _powers()])
            for degree in range(1, DEGREE + 1):
                part = degrees == degree
                power = float((mean.mean[part] ** 2).mean())
                if power > noise:
                    coefficients[part] = (1 - noise / power) * mean.mean[part] / light
        grid = np.maximum((_terms(grid_shape) @ coefficients).reshape(grid_shape), FLOOR)
        return cls(dark, (grid / grid.mean()).astype(np.float32), mean.shape)

    @property
    def falloff(self) -> float:
        """Share of the light that is missing in the dimmest place against the brightest, [0, 1)."""
        return float(1 - self.grid.min() / self.grid.max())

    @cached_property
    def surface(self) -> np.ndarray:
        """The flat field of every pixel, (H, W) float32, positive."""
        height, width = self.shape
        return cv2.resize(self.grid, (width, height), interpolation=cv2.INTER_LINEAR)

    @cached_property
    def _gain(self) -> np.ndarray:
        return 1 / self.surface  # a division a pixel takes longer than a product

    def correct(self, array: np.ndarray, region: Region | None = None) -> np.ndarray:
        """Grey values (H, W) as even light would have given them, float32.

        Args:
            region: rows and columns of the field that `array` holds; None for all.

        Raises:
            UserError: `array` does not fit the fields that the surface was estimated on.
        """
        return self._scale(array, self._gain, region)

    def restore(self, array: np.ndarray, region: Region | None = None) -> np.ndarray:
        """The inverse of `correct`: grey values as the camera would have seen them, float32."""
        return self._scale(array, self.surface, region)

    def check(self, shape: tuple[int, ...], region: Region | None) -> None:
        """Refuse a field, or the `region` of one, that does not fit.

        Raises:
            UserError: see `correct`.
        """
        part = self._gain if region is None else self._gain[region]
        if part.shape != shape:
            where = "the field" if region is None else "the part of the field"
            raise UserError(
                f"illumination: {where} is {_size(shape)} pixels, but the correction was "
                f"estimated on fields of {_size(self.shape)}; give fields of that size, or train "
                "with data.illumination=false"
            )

    def _scale(self, array: np.ndarray, factor: np.ndarray, region: Region | None) -> np.ndarray:
        self.check(array.shape, region)
        part = factor if region is None else factor[region]
        dark = np.float32(self.dark)
        out = np.subtract(array, dark, dtype=np.float32)
        out *= part
        out += dark
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {"dark": self.dark, "grid": self.grid.tolist(), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FlatField":
        """The inverse of `to_dict`."""
        height, width = data["shape"]
        grid = np.asarray(data["grid"], np.float32)
        return cls(float(data["dark"]), grid, (int(height), int(width)))


def _dark(mean: MeanImage) -> float:
    """The grey value that no light gives.

    Stains lie bright on a dark ground, and the ground fades towards the corners as the cells do, so
    the lowest ground of all fields is the nearest to the camera's offset that images can tell.
    In transmitted light the ground is grey, and its darkest pixels are cells, not the offset: taking
    them for it would stretch the contrast in the corners. There the offset is small beside the light:
    0. A median nearer to the dark than to the bright end tells the two apart.
    """
    low, median, high = mean.levels
    return mean.darkest if median - low < high - median else 0.0


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)

"""Numbers of one plane: everything that the doctor judges by, from one decoded image.

The pixels themselves are not kept: a plane leaves some numbers, a coarse grid and a thumbnail, a
few kilobytes, so that memory does not grow with the size of the images.
"""

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

QUANTILES = (0.001, 0.01, 0.5, 0.99, 0.999)
BANDS = 6  # octaves of detail: 1-2, 2-4, ..., 32-64 pixels
GRID = 16  # cells along each side of the coarse picture of the illumination
THUMBNAIL = 64  # pixels, the longer side
OUTLINE = 192  # pixels, the longer side of the picture by which overlapping fields are matched
MAD = 0.6745  # median absolute deviation of a normal distribution with standard deviation 1
STANDS_OUT = 6.0  # standard deviations of the noise
FEW_LEVELS = 16  # with fewer grey levels a common step says nothing
SAMPLE = 65_536  # pixels of a float image from which quantiles are taken
RIDGE = 1e-4  # keeps the fit solvable where there are few points
FIT_ROUNDS = 5
FIT_POINTS = 600  # places by which the illumination of one field is fitted

# Immerkaer, "Fast noise variance estimation", CVIU 64 (1996): blind to slopes and edges.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_NOISE_GAIN = 6.0  # standard deviation that the kernel makes of white noise of 1


@dataclass(frozen=True)
class PlaneStats:
    """One channel of one field.

    Attributes:
        shape: (H, W) in pixels.
        dtype: name of it.
        digest: hash of size, dtype and pixels.
        low, high: smallest and largest grey value.
        quantiles: grey values at `QUANTILES`.
        levels: how many grey values occur; 0 for floats.
        step: greatest common divisor of the grey values (257 for 8 bits stretched to 16); 1 where
            too few occur, and for floats.
        top: share of pixels at the largest grey value, if they pile up there (clipped) or it is
            the largest of the dtype; else 0.
        noise: standard deviation of the pixel noise, grey values.
        structure: share of the 4x4 blocks that stand out from noise and illumination.
        bands: noise-free variance in each octave of detail, finest first (Haar wavelets); NaN
            where the image is too small.
        grid: (GRID, GRID) means, float32.
        thumbnail: uint8, longer side at most `THUMBNAIL`, the 0.1 to 99.9 percentile stretched.
        outline: as `thumbnail`, of `OUTLINE`; None unless asked for.
    """

    shape: tuple[int, int]
    dtype: str
    digest: bytes
    low: float
    high: float
    quantiles: tuple[float, ...]
    levels: int
    step: int
    top: float
    noise: float
    structure: float
    bands: tuple[float, ...]
    grid: np.ndarray
    thumbnail: np.ndarray
    outline: np.ndarray | None = None

    @property
    def signal(self) -> float:
        """The range of grey values that the picture uses: 0.1 to 99.9 percentile."""
        return self.quantiles[4] - self.quantiles[0]

    @property
    def noise_share(self) -> float:
        """Noise as a part of `signal`; 0 for a constant image."""
        return self.noise / self.signal if self.signal > 0 else 0.0

    @property
    def constant(self) -> bool:
        """True if all pixels are the same."""
        return self.low == self.high

    @property
    def focus(self) -> float:
        """Detail of 2 to 8 pixels against that of 8 to 64, in octaves (log2 of the variances'
        ratio): falls with blur, blind to gain and offset. NaN where noise hides the fine detail."""
        fine, coarse = sum(self.bands[1:3]), sum(self.bands[3:])
        return math.log2(fine / coarse) if fine > 0 and coarse > 0 else math.nan

    @property
    def depth(self) -> int:
        """Bits that the grey values need: of their number of steps; 0 for floats."""
        if self.dtype.startswith("float"):
            return 0
        return max(1, math.ceil(math.log2((self.high - min(0.0, self.low)) / self.step + 1)))


def measure(pixels: np.ndarray, outline: bool = False) -> PlaneStats:
    """All numbers of one plane.

    Args:
        pixels: (H, W), whole numbers or float32, finite.
        outline: keep the larger thumbnail too.
    """
    pixels = np.ascontiguousarray(pixels)
    digest = hashlib.sha256(pixels.data)  # in hardware on most machines
    digest.update(f"{pixels.shape} {pixels.dtype}".encode())
    values = _values(pixels)
    quantiles = values["quantiles"]
    # Hot pixels and debris would rule every variance: cut at the quantiles that we call the signal.
    flat = pixels.astype(np.float32)
    noise = max(_noise(flat), 0.29 * values["step"] if values["levels"] else 0.0)  # rounding
    np.clip(flat, quantiles[0], quantiles[4], out=flat)
    pyramid = _pyramid(flat)
    grid = cv2.resize(pyramid[min(2, len(pyramid) - 1)], (GRID, GRID), interpolation=cv2.INTER_AREA)
    return PlaneStats(
        shape=(pixels.shape[0], pixels.shape[1]),
        dtype=pixels.dtype.name,
        digest=digest.digest(),
        noise=noise,
        structure=_structure(pyramid, noise),
        bands=_bands(pyramid, noise),
        grid=grid,
        thumbnail=_thumbnail(pyramid, THUMBNAIL, quantiles),
        outline=_thumbnail(pyramid, OUTLINE, quantiles) if outline else None,
        **values,
    )


def _values(pixels: np.ndarray) -> dict[str, Any]:
    """Measure the distribution of the grey values."""
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        quantiles = np.quantile(pixels.ravel()[:: max(1, pixels.size // SAMPLE)], QUANTILES)
        levels, step, at_top = 0, 1, int((pixels == high).sum())
        clipped = at_top >= 10 and low < high  # floats hardly repeat, unless something cut them off
    else:
        occupied, counts = _counted(pixels)
        low, high, levels = float(occupied[0]), float(occupied[-1]), len(occupied)
        ranks = np.ceil(np.array(QUANTILES) * pixels.size)
        quantiles = occupied[np.searchsorted(np.cumsum(counts), ranks)]
        stepped = levels >= FEW_LEVELS and int(np.diff(occupied).min()) > 1
        step = max(1, int(np.gcd.reduce(occupied))) if stepped else 1
        at_top = int(counts[-1])
        # A tail that ends by itself thins out; a clipped one piles up at its last value.
        before = counts[-1 - FEW_LEVELS : -1]
        piled = len(before) > 0 and at_top >= 20 and at_top > 4 * float(before.mean())
        clipped = piled or high == np.iinfo(pixels.dtype).max
    return {
        "low": low,
        "high": high,
        "quantiles": tuple(map(float, quantiles)),
        "levels": levels,
        "step": step,
        "top": at_top / pixels.size if clipped else 0.0,
    }


def _counted(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers that occur, rising, and how often."""
    if pixels.itemsize > 2:
        found, counts = np.unique(pixels, return_counts=True)
        return found.astype(np.int64), counts
    low = int(np.iinfo(pixels.dtype).min)
    counts = np.bincount(pixels.ravel() if low == 0 else pixels.ravel().astype(np.int32) - low)
    occupied = np.flatnonzero(counts)
    return occupied + low, counts[occupied]


def _noise(flat: np.ndarray) -> float:
    if min(flat.shape) < 3:
        return 0.0
    # Every fourth row and column of the result are enough, and nearly independent.
    residual = np.abs(cv2.filter2D(flat, -1, _NOISE_KERNEL)[1:-1:4, 1:-1:4])
    return float(np.median(residual)) / MAD / _NOISE_GAIN


def _pyramid(flat: np.ndarray) -> list[np.ndarray]:
    """The image and its means over 2x2, 4x4, ... pixels; the last is at least 2 pixels wide."""
    pyramid = [flat]
    while len(pyramid) <= BANDS and min(pyramid[-1].shape) >= 4:
        height, width = (side // 2 * 2 for side in pyramid[-1].shape)
        finer = pyramid[-1][:height, :width]
        pyramid.append(cv2.resize(finer, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return pyramid


def _bands(pyramid: list[np.ndarray], noise: float) -> tuple[float, ...]:
    """Variance lost from each level to the next (Haar: orthogonal), less that of white noise."""
    variances = [float(cv2.meanStdDev(level)[1][0, 0]) ** 2 for level in pyramid]
    bands = [
        max(0.0, fine - coarse - noise**2 * (0.25**k - 0.25 ** (k + 1)))
        for k, (fine, coarse) in enumerate(itertools.pairwise(variances))
    ]
    return (*bands, *[math.nan] * (BANDS - len(bands)))


def _structure(pyramid: list[np.ndarray], noise: float) -> float:
    """Share of the 4x4 means that lie outside of what noise does to an evenly lit field.

    The illumination is a parabola that is fitted several times, each time without what stands out
    from it most: it settles on the ground, or, where cells cover most of the field, among them.
    """
    level = min(2, len(pyramid) - 1)
    blocks = pyramid[level]
    sigma = max(noise / 2**level, 1e-6 * max(1.0, float(np.abs(blocks).max())))
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in blocks.shape)
    stride = max(1, math.isqrt(blocks.size // FIT_POINTS))
    points = blocks[::stride, ::stride].ravel()
    yy, xx = (g.ravel() for g in np.meshgrid(y[::stride], x[::stride], indexing="ij"))
    terms = np.stack([np.ones_like(xx), xx, yy, xx * xx, yy * yy, xx * yy], axis=-1)
    inside = np.ones(len(points), bool)
    for _ in range(FIT_ROUNDS):
        some = terms[inside]
        # Normal equations: six unknowns on a unit square are well behaved, and 40 times faster.
        fit = np.linalg.solve(some.T @ some + RIDGE * np.eye(6), some.T @ points[inside])
        away = np.abs(points - terms @ fit)
        inside = away <= max(STANDS_OUT * sigma, 2 * float(np.median(away)))
    column = fit[0] + fit[2] * y + fit[4] * y * y
    row = fit[1] * x + fit[3] * x * x
    ground = column[:, None] + row + (fit[5] * y)[:, None] * x
    return float((np.abs(blocks - ground) > STANDS_OUT * sigma).mean())


def _thumbnail(pyramid: list[np.ndarray], side: int, quantiles: tuple[float, ...]) -> np.ndarray:
    height, width = pyramid[0].shape
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    level = next(p for p in reversed(pyramid) if p.shape[0] >= size[1] and p.shape[1] >= size[0])
    small = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
    scale = 255 / ((quantiles[4] - quantiles[0]) or 1.0)
    return np.asarray(((small - quantiles[0]) * scale).round(), np.uint8)

"""Measures of focus of one image (H, W), none of which knows the depth; `scale.py` makes um of them.

Defocus takes the fine detail first: what is left at each spatial frequency, relative to the coarse
structure, falls with the distance from focus, the faster the finer. So the core is the power
spectrum, averaged over tiles under a Hann window (Welch 1967), in bands of half an octave to an octave, the
white noise of the camera taken off and relative to the coarsest band: gain and offset of the camera
cancel, and so, but for the texture itself, does how much of the field cells cover.

Beside them the measures that cell biologists know from CellProfiler's MeasureImageQuality (Bray et
al. 2012, J. Biomol. Screen. 17(2), 266): the power-log-log slope, and two of the classical ones that
Sun et al. 2004 (Microsc. Res. Tech. 65, 139) compared: variance of the Laplacian and normalised
variance. Stain, density of cells and noise move each of them, too.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

Float = NDArray[np.float64]

TILE = 128  # px, side of the windows
MIN_SIDE = 64  # px; the coarsest band needs a period of that length
FLOOR_FROM = 0.42  # cycles a pixel; from here to the corners of the spectrum lies the noise
# Edges of the bands, cycles a pixel; structure of 64 to 32 px first, which all others are relative to.
EDGES: Float = np.array([1 / 64, 1 / 32, 1 / 21, 1 / 14, 1 / 9.5, 1 / 6.5, 1 / 4.5, 1 / 3])
BANDS = len(EDGES) - 2
LOST = -7.0  # decades; less than any camera tells apart
# Standard errors of the noise from which a band begins to count, and counts in full.
SURE = (1.0, 4.0)
INDEPENDENT = (18 / 35) ** 2 / 2  # of the frequencies under a Hann window, half of them mirrored
OVERLAP = 0.4  # tiles that overlap by half hold so many independent ones for each
SHOWS = 20.0  # times the noise: a coarse band below it shows no specimen


class Spectrum(NamedTuple):
    """Mean power in bands, the noise taken off.

    Attributes:
        bands: (..., len(EDGES) - 1), about 0 (below, too) where nothing stands above the noise.
        floor: (...,) power of the white noise.
        samples: (len(EDGES) - 1,) independent frequencies that each band is the mean of.
    """

    bands: Float
    floor: Float
    samples: Float

    @property
    def shows(self) -> NDArray[np.bool_]:
        """(...,) whether there is a specimen: coarse structure well above the noise."""
        return np.asarray((self.bands[..., 0] > SHOWS * self.floor) & (self.bands[..., 0] > 1e-9))

    @property
    def features(self) -> Float:
        """(..., BANDS) decades by which each finer band lies below the coarsest.

        A band that drowns in the noise is `LOST`, whatever the coarsest has: else an image far out of
        focus, whose coarse structure is fading too, would seem to come back into focus.
        """
        error = np.maximum(self.floor[..., None] / np.sqrt(self.samples[1:]), 1e-12)
        clear = np.clip((self.bands[..., 1:] / error - SURE[0]) / (SURE[1] - SURE[0]), 0, 1)
        share = np.maximum(self.bands[..., 1:], 0) / np.maximum(self.bands[..., :1], 1e-12)
        return np.asarray(np.log10(share * clear + 10.0**LOST))


def tile_spectra(image: NDArray[np.generic], tile: int = TILE) -> Spectrum:
    """Spectra of tiles that overlap by half and cover the image, (rows, columns, bands).

    Args:
        image: (H, W), finite, any dtype; grey values.
        tile: side (px); where the image is smaller, its shorter side.

    Raises:
        ValueError: an image of less than 64 pixels a side.
    """
    rows, columns, side = tile_corners(image.shape, tile)
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    shape = (len(rows), len(columns))
    bands, floors = np.empty((*shape, len(EDGES) - 1)), np.empty(shape)
    ring, weight, outer = _rings(side)
    number = np.bincount(ring, weight, minlength=len(EDGES) + 1)[1:-1]
    for i, top in enumerate(rows):
        cut = image[top : top + side].astype(np.float32)
        tiles = np.stack([cut[:, left : left + side] for left in columns])
        tiles -= (tiles * window).sum((1, 2), keepdims=True) / window.sum()
        transform = fft.rfft2(tiles * window, workers=1)
        power = transform.real**2 + transform.imag**2
        for j, one in enumerate(power.reshape(len(columns), -1)):
            sums = np.bincount(ring, one * weight, minlength=len(EDGES) + 1)[1:-1]
            # Of exponentially distributed powers the mean is the median over ln 2.
            floors[i, j] = np.median(one[outer]) / math.log(2)
            bands[i, j] = sums / number
    return Spectrum(bands - floors[..., None], floors, np.asarray(number * INDEPENDENT))


def mean_spectrum(tiles: Spectrum) -> Spectrum:
    """The spectrum of the whole field: the mean over its tiles, (bands,)."""
    count = tiles.floor.size
    bands = tiles.bands.reshape(-1, tiles.bands.shape[-1]).mean(0)
    independent = 1 + OVERLAP * (count - 1)
    return Spectrum(bands, np.asarray(tiles.floor.mean()), tiles.samples * independent)


def tile_corners(shape: tuple[int, ...], tile: int) -> tuple[list[int], list[int], int]:
    """Tops, lefts and side of the tiles of an image (H, W); the last ones end at its edge.

    Raises:
        ValueError: see `tile_spectra`.
    """
    side = min(tile, *shape)
    if side < MIN_SIDE:
        raise ValueError(f"{shape[0]}x{shape[1]}: {MIN_SIDE} pixels a side are needed")
    starts = []
    for length in shape:
        count = 1 + math.ceil((length - side) / (side / 2))
        starts.append([round(i) for i in np.linspace(0, length - side, count)])
    return starts[0], starts[1], side


def _rings(side: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
    """Return the band of each frequency of a half spectrum, flat (0 and the last: none), how often it
    stands in the whole spectrum, and which ones hold the noise."""
    columns = np.fft.rfftfreq(side)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], columns).ravel()
    twice = np.where((columns == 0) | (columns == 0.5), 1, 2).astype(np.float32)
    outer = np.flatnonzero(radius >= FLOOR_FROM)
    return np.digitize(radius, EDGES), np.tile(twice, side), outer


def power_log_log_slope(image: NDArray[np.generic]) -> float:
    """Slope of log power against log frequency, radially summed, over the whole image (H, W).

    About -1 to -3; the steeper, the less fine detail. NaN for a constant image. As in CellProfiler's
    MeasureImageQuality (PowerLogLogSlope; Field 1997), with a Hann window against the image's edges.
    """
    x = image.astype(np.float64)
    if x.min() == x.max():
        return math.nan
    window = np.outer(np.hanning(x.shape[0]), np.hanning(x.shape[1]))
    x = (x - (x * window).sum() / window.sum()) * window
    power = np.abs(np.fft.fft2(x)) ** 2
    radius = np.hypot(np.fft.fftfreq(x.shape[0])[:, None], np.fft.fftfreq(x.shape[1]))
    size = min(x.shape)
    ring = np.rint(radius * size).astype(int).ravel()
    sums = np.bincount(ring, power.ravel())[1 : size // 2]
    frequency = np.arange(1, size // 2) / size
    filled = sums > 0
    slope, _ = np.polyfit(np.log(frequency[filled]), np.log(sums[filled]), 1)
    return float(slope)


def variance_of_laplacian(image: NDArray[np.generic]) -> float:
    """Variance of the discrete Laplacian (4 neighbours) over the variance of the image (H, W); 0 if
    constant. Noise raises it."""
    x = image.astype(np.float64)
    spread = float(x.var())
    if not spread:
        return 0.0
    return float(cv2.Laplacian(x, cv2.CV_64F, ksize=1).var()) / spread


def normalised_variance(image: NDArray[np.generic]) -> float:
    """Variance over mean of grey values (H, W), in grey values; NaN for a mean of 0."""
    x = image.astype(np.float64)
    mean = float(x.mean())
    return float(x.var()) / mean if mean else math.nan

"""Parts of images for the browser: no larger than the screen needs, in 16 bit."""

from dataclasses import dataclass

import cv2
import numpy as np

from vfn.data.images import release
from vfn.data.intensity import subsample

SIDE = 1024  # px at most, each way
SAMPLES = 500_000  # pixels that tell percentiles well enough
AUTO = (1.0, 99.8)  # percentiles that are black and white at first
CODES = 65535
FINE = 4  # rows and columns that are averaged into one; beyond them, some are left out


@dataclass(frozen=True)
class Scale:
    """The range of grey values that is shown and sent.

    Attributes:
        dtype: of the image.
        low, high: its least and greatest grey value.
        black, white: `AUTO` percentiles of its grey values, apart.
        median: of its grey values.
        offset, step: grey value = offset + step x the 16-bit code that is sent.
    """

    dtype: str
    low: float
    high: float
    black: float
    white: float
    median: float
    offset: float
    step: float


def measure(image: np.ndarray) -> Scale:
    """Return the scale of an image (H, W)."""
    low, high = float(image.min()), float(image.max())
    black, median, white = (
        float(v) for v in np.percentile(subsample(image, SAMPLES), (AUTO[0], 50, AUTO[1]))
    )
    release(image)
    if image.dtype.kind in "ui" and image.itemsize <= 2:
        offset, step = float(np.iinfo(image.dtype).min), 1.0
    else:
        offset, step = low, (high - low) / CODES or 1.0
    if white <= black:
        black, white = low, high if high > low else low + 1
    return Scale(image.dtype.name, low, high, black, white, median, offset, step)


def part(
    image: np.ndarray, scale: Scale, rows: tuple[int, int], columns: tuple[int, int], side: int
) -> np.ndarray:
    """Return a part of an image (H, W), reduced to at most `side` pixels each way.

    Args:
        scale: of `measure`.
        rows, columns: first, and first behind; cut at the image.

    Returns:
        (h, w) uint16 codes, see `Scale`; h and w are 1 or more.
    """
    (top, bottom), (left, right) = map(_cut, (rows, columns), image.shape)
    height, width = bottom - top, right - left
    shrink = max(1.0, max(height, width) / min(max(1, side), SIDE))
    stride = max(1, int(shrink // FINE))
    pixels = np.ascontiguousarray(image[top:bottom:stride, left:right:stride])
    release(image)
    if shrink > 1:
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        if pixels.itemsize > 2:
            pixels = pixels.astype(np.float32)  # OpenCV does not resize whole numbers of 32 bit
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    codes = (pixels.astype(np.float64) - scale.offset) / scale.step
    return np.clip(np.rint(codes), 0, CODES).astype("<u2")


def _cut(span: tuple[int, int], size: int) -> tuple[int, int]:
    start = min(max(0, span[0]), size - 1)
    return start, max(min(span[1], size), start + 1)

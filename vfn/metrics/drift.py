"""Displacement of a prediction from place to place, which a mean over the field hides.

A rotation by half a degree moves the corners of a field of 520x696 by 3.8 px, and its middle not at all.
"""

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vfn.data.registration import features, measure_shift

TILES = 3  # along either axis
MIN_TILE = 128  # px
_TILE = 200  # px; larger tiles are reduced to about this, which blocks of noise survive no worse
_QUARTILE = 75.0


def local_shift(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Displacement of a prediction (H, W) from its truth (H, W) in the worse quarter of the field, px.

    The field is cut into 3x3 tiles (2x2 or one, where tiles would be below 128 px a side), and the 75th
    percentile is taken of how far each is displaced. A third of the tiles must tell their displacement for sure.

    Args:
        prediction: whole numbers or finite float32.
        truth: of the same shape.

    Returns:
        NaN where too few tiles are sure.
    """
    side = min(truth.shape)
    across = next((n for n in range(TILES, 1, -1) if side // n >= MIN_TILE), 1)
    step = max(1, round(side / across / _TILE))
    still, moving = (_reduce(image, step) for image in (truth, prediction))
    height, width = still.shape
    rows, columns = (np.arange(across + 1) * n // across for n in (height, width))
    sure = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            tile = slice(top, bottom), slice(left, right)
            shift = measure_shift(features(still[tile]), features(moving[tile]), alike=True)
            if shift.sure:
                sure.append(step * math.hypot(shift.dy, shift.dx))
    return float(np.percentile(sure, _QUARTILE)) if 3 * len(sure) >= across**2 else math.nan


def _reduce(image: NDArray[Any], step: int) -> NDArray[Any]:
    if step == 1:
        return image
    size = image.shape[1] // step, image.shape[0] // step
    whole = image[: size[1] * step, : size[0] * step]
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA))

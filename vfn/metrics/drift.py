"""Faults of a prediction that change from place to place, which a mean over the field hides.

A rotation by half a degree moves the corners of a field of 520x696 by 3.8 px, and its middle not at all;
uneven light has the right mean brightness.
"""

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vfn.data.registration import features, measure_shift

Smooth = NDArray[np.float32]
Float = NDArray[np.float64]

TILES = 3  # along either axis
MIN_TILE = 128  # px
_TILE = 200  # px; larger tiles are reduced to about this, which blocks of noise survive no worse
_QUARTILE = 75.0
_BLOCK = 64  # px
_FEWEST, _MOST = 3, 16  # blocks along either axis
_FAINT = 0.1  # of the 95th percentile of the blocks' spread
_FREE = 6  # degrees of freedom that the surface leaves
_ROUNDS, _TUKEY = 6, 4.7  # of the robust fit; the biweight's usual constant
_EXACT = 1e-3  # deviation of a gain that is no fault
_HEARD = 0.05  # of the largest weight


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


def shading(prediction: Smooth, truth: Smooth) -> float:
    """Change of the prediction's gain over the field: 0.4 where it fades from 1 to 0.6.

    The gain of a block of about 64 px is the slope of prediction on truth, both smoothed, so that no offset
    and little noise enters; blocks in which the truth has less than a tenth of the usual spread have no say. A
    quadratic surface through the gains, weighted by that spread, is their smooth part. It is fitted robustly
    (Tukey's biweight), so that a nucleus that is missing or twice as bright does not bend it, and the share of
    it is kept that chance does not explain (1 - 1/F, as the estimator of James and Stein does).

    Args:
        prediction: (H, W), smoothed (`vfn.metrics.contrast.smooth`).
        truth: (H, W), smoothed.

    Returns:
        Largest less smallest gain of the surface over the blocks with signal; NaN where they are too few.
    """
    down, across = (min(round(n / _BLOCK), _MOST) for n in truth.shape)
    if min(down, across) < _FEWEST:  # smaller blocks would share an object, and tell the same
        return math.nan
    spread, gain = _block_gains(prediction, truth, down, across)
    used = spread > _FAINT * np.percentile(spread, 95)
    y, x = (place[used] for place in np.mgrid[0.5:down, 0.5:across])
    y, x, spread, gain = y / down, x / across, spread[used], gain[used]
    free = len(gain) - _surface(y, x).shape[1]
    if free < _FREE:
        return math.nan
    fit, weight = _fit(_surface(y, x), gain, spread)
    fitted = _surface(y, x) @ fit
    explained = weight @ (fitted - np.average(gain, weights=weight)) ** 2 / (len(fit) - 1)
    rest = weight @ (gain - fitted) ** 2 / free
    kept = max(0.0, 1 - rest / explained) if explained > 0 else 0.0
    heard = weight > _HEARD * weight.max()
    corners = [
        _surface(y[heard] + dy / down, x[heard] + dx / across) @ fit
        for dy in (-0.5, 0.5)
        for dx in (-0.5, 0.5)
    ]
    return float(kept * np.ptp(corners))


def _fit(terms: Float, gain: Float, spread: Float) -> tuple[Float, Float]:
    """Coefficients of the surface by iterated least squares, and the weights (n,) that the gains end with."""
    weight = spread
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        fit = np.linalg.lstsq(terms * root[:, None], gain * root, rcond=None)[0]
        rest = np.abs(gain - terms @ fit)
        scale = _TUKEY * (1.4826 * float(np.median(rest)) + _EXACT)
        weight = spread * (1 - (rest / scale) ** 2).clip(0) ** 2
    return np.asarray(fit, np.float64), weight


def _block_gains(prediction: Smooth, truth: Smooth, down: int, across: int) -> tuple[Float, Float]:
    """Spread of the truth in each block, and slope of prediction on truth, (down, across) each."""
    height, width = truth.shape[0] // down, truth.shape[1] // across
    p, t = (
        image[: down * height, : across * width].reshape(down, height, across, width)
        for image in (prediction, truth)
    )
    p, t = (blocks - blocks.mean((1, 3), keepdims=True) for blocks in (p, t))
    power, covariance = ((t * other).mean((1, 3), dtype=np.float64) for other in (t, p))
    return np.sqrt(power), covariance / np.where(power > 0, power, 1)


def _surface(y: Float, x: Float) -> Float:
    """Terms of a quadratic surface at n places, (n, 6)."""
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)

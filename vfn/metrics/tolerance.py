"""Tolerance level: the paper's index of how much error a reader has to forgive (sec. 2.5, eq. 7).

With E = |prediction - truth| / range and a threshold i, IE(i) is the mean of E over the pixels with
E <= i (0 if there are none) and SE(i) the fraction of pixels with E > i. As i grows, IE grows and
SE falls; TL is the minimum of beta1 * IE(i) + beta2 * SE(i) over i = 0.00, 0.01, ..., 0.99.

With equal weights and no E above 0.99, TL is the mean of E and no pixel lies above its threshold:
leaving pixels out changes the sum by SE(i) * (beta2 - beta1 * (mean E outside - mean E inside)),
which is never negative then. Only where beta2 < beta1 are pixels set apart whose error exceeds the
others' by more than beta2 / beta1 of the range.

The paper's discussion normalises otherwise: the intensity error by the mean signal intensity of the truth, the
area by the area fraction of its signal. `signal_tolerance` does so, with m, the mean of the truth above its
ground over all pixels, and A, the share of pixels above Otsu's threshold (both in the same range as E):
beta1 = 1 / m and beta2 = 1 / A. By the sum above, pixels are then better left outside where their error exceeds
the mean error within by more than m / A, about the mean brightness of the signal, so that the minimum lies inside
wherever errors reach that far: an object missed or invented. To predict the ground everywhere costs at most 1.

One histogram of E gives the whole curve, so the cost is one pass over the pixels. Where images are of whole
numbers so is the arithmetic, and `E <= i` is decided exactly.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

STEPS = 100
THRESHOLDS: NDArray[np.float64] = np.arange(STEPS) / STEPS  # 0.00 ... 0.99 of the range
# Sums that are equal on paper differ by this much at most after rounding; such ties go to the
# smallest threshold.
_MOST_BINS = 2**20
_LEVELS = 256  # of the histogram for Otsu's threshold
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Tolerance:
    """Tolerance level of one image and the curve that it is the minimum of.

    Attributes:
        value: TL, 0 (identical) upwards.
        threshold: the smallest i that attains it, fraction of the range, 0.00 to 0.99.
        intensity: IE(i), (100,).
        spatial: SE(i), (100,).
        curve: beta1 * IE(i) + beta2 * SE(i), (100,).
    """

    value: float
    threshold: float
    intensity: NDArray[np.float64]
    spatial: NDArray[np.float64]
    curve: NDArray[np.float64]


def tolerance_level(
    prediction: NDArray[np.generic],
    truth: NDArray[np.generic],
    data_range: float,
    *,
    beta1: float = 1.0,
    beta2: float = 1.0,
) -> Tolerance:
    """Tolerance level of one image (paper eq. 7).

    Args:
        prediction: any shape, any integer or floating dtype.
        truth: the same shape.
        data_range: width of the intensity range (65535 for 16 bit); above 0.
        beta1: weight of the intensity error IE.
        beta2: weight of the spatial error SE.

    Raises:
        ValueError: shapes differ, no pixels, or a range that is not above 0.
    """
    if prediction.shape != truth.shape or truth.size == 0:
        raise ValueError(
            f"prediction {prediction.shape} and truth {truth.shape} must have one shape with pixels"
        )
    if not data_range > 0:
        raise ValueError(f"data_range must be above 0, got {data_range}")
    if _is_exact(prediction, truth, data_range):
        count, error_sum = _cumulate_integers(prediction, truth, float(data_range))
    else:
        count, error_sum = _cumulate_floats(prediction, truth, data_range)
    intensity = np.divide(error_sum, count, out=np.zeros(STEPS), where=count > 0)
    spatial = (truth.size - count) / truth.size
    curve = beta1 * intensity + beta2 * spatial
    value = float(curve.min())
    first = int(np.argmax(curve <= value + _ROUNDING))
    return Tolerance(value, float(THRESHOLDS[first]), intensity, spatial, curve)


def signal_tolerance(
    prediction: NDArray[Any], truth: NDArray[Any], ground: float, low: float, high: float
) -> Tolerance | None:
    """Tolerance level in units of the truth's signal, as the paper's discussion normalises it.

    Args:
        prediction: any shape, any integer or floating dtype.
        truth: the same shape.
        ground: grey level of the truth where there is no signal.
        low, high: the signal range, of which thresholds are fractions; Otsu's threshold is taken within it.

    Returns:
        None where the truth shows no signal.
    """
    width = high - low
    mean = float(truth.mean(dtype=np.float64)) - ground
    if not (width > 0 and mean > 0 and (area := _signal_area(truth, low, width)) > 0):
        return None
    return tolerance_level(prediction, truth, width, beta1=width / mean, beta2=1 / area)


def _signal_area(truth: NDArray[Any], low: float, width: float) -> float:
    """Share of the pixels above Otsu's threshold; 0 where all are alike."""
    level = ((truth.astype(np.float32) - low) * (_LEVELS / width)).clip(0, _LEVELS - 1)
    counts = np.bincount(level.astype(np.uint8).ravel(), minlength=_LEVELS)
    if np.count_nonzero(counts) < 2:
        return 0.0
    threshold = threshold_otsu(hist=(counts, np.arange(_LEVELS)))  # type: ignore[no-untyped-call]
    return float(counts[int(threshold) + 1 :].sum() / truth.size)


def error_mask(
    prediction: NDArray[np.generic], truth: NDArray[np.generic], threshold: float, data_range: float
) -> NDArray[np.bool_]:
    """True where E > threshold: the pixels that the paper's figure 6 paints green.

    Args:
        prediction: any shape.
        truth: the same shape.
        threshold: fraction of the range, read as the decimal number it prints as (0.29 is 29/100).
        data_range: width of the intensity range; above 0.
    """
    if _is_exact(prediction, truth, data_range):
        limit = Fraction(str(float(threshold))) * Fraction(float(data_range))
        return np.asarray(_integer_error(prediction, truth) > limit.__floor__())
    return np.asarray(absolute_error(prediction, truth) / data_range > threshold)


def _is_exact(
    prediction: NDArray[np.generic], truth: NDArray[np.generic], data_range: float
) -> bool:
    # A bin for each error; float64 tells those of wider ranges apart.
    return {prediction.dtype.kind, truth.dtype.kind} <= {*"ui"} and data_range <= _MOST_BINS


def _integer_error(
    prediction: NDArray[np.generic], truth: NDArray[np.generic]
) -> NDArray[np.integer]:
    # 32 bits hold any difference of two images of 16 bit or less, in half the memory.
    wide = np.int32 if max(prediction.itemsize, truth.itemsize) <= 2 else np.int64
    return np.abs(np.subtract(prediction, truth, dtype=wide, casting="unsafe"))


def absolute_error(
    prediction: NDArray[np.generic], truth: NDArray[np.generic]
) -> NDArray[np.float64]:
    """|prediction - truth| of images of any dtype and one shape."""
    return np.abs(np.subtract(prediction, truth, dtype=np.float64, casting="unsafe"))


def _cumulate_integers(
    prediction: NDArray[np.generic], truth: NDArray[np.generic], data_range: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count and sum of E over the pixels with E <= i, for every threshold i: (100,) each."""
    # |d| <= i R / 100  <=>  |d| <= floor(i R / 100)
    cuts = np.array([i * Fraction(data_range) // STEPS for i in range(STEPS)], np.int64)
    size = int(cuts[-1]) + 2  # all above the last cut falls into the last bin and is never read
    error = np.minimum(_integer_error(prediction, truth), size - 1)
    histogram = np.bincount(error.ravel(), minlength=size).astype(np.int64)
    count: NDArray[np.int64] = np.cumsum(histogram)[cuts]
    total: NDArray[np.int64] = np.cumsum(histogram * np.arange(size))[cuts]
    return count, total / data_range


def _cumulate_floats(
    prediction: NDArray[np.generic], truth: NDArray[np.generic], data_range: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count and sum of E as `_cumulate_integers`, for images with fractions."""
    error = (absolute_error(prediction, truth) / data_range).ravel()
    # Bin b holds the errors whose smallest threshold is b; NaN and what lies above 0.99 go last.
    edges = np.append(THRESHOLDS, np.inf)
    error = np.where(error <= THRESHOLDS[-1], error, np.inf)
    bins = np.ceil(np.minimum(error, 1.0) * STEPS).astype(np.int64)
    # The product is rounded: a neighbour's edge decides, as the plain comparison E <= i would.
    bins -= (bins > 0) & (error <= edges[bins - 1])
    bins += error > edges[bins]
    inside = bins < STEPS
    count: NDArray[np.int64] = np.cumsum(np.bincount(bins, minlength=STEPS + 1)[:STEPS])
    total: NDArray[np.float64] = np.cumsum(
        np.bincount(bins[inside], weights=error[inside], minlength=STEPS)[:STEPS]
    )
    return count, total

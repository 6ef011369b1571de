"""Agreement of predicted and real stain on how much there is of it in each object.

Integrated intensities are taken over the real objects in both images, so they do not depend on how
the prediction would be segmented, and the same ground, the real one, is taken off both: an offset of
the prediction shows.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMITS = 1.96  # standard deviations: 95 % of normal differences lie within
MINIMUM = 3  # a line through two points always fits
OFF = 0.25  # share of its amount from which on an object is wrong
BLOCK = 64  # px; side of the blocks that stand for objects where none are known
_GROUND_PERCENTILE = 5.0
# Of the 95th percentile of the blocks' amounts. In fainter ones the ground outweighs the signal: with 0.1 an exact
# prediction with 5 % noise, cut off at black, had up to 36 % wrong blocks, with 0.3 at most 10 %.
_SIGNAL_BLOCK = 0.3


@dataclass(frozen=True)
class Agreement:
    """Agreement of the predicted with the real amounts of n objects.

    Attributes:
        n: objects.
        slope: of the least-squares line prediction = slope * truth + intercept; 1 is best.
        intercept: of that line; 0 is best.
        r: Pearson's correlation.
        bias: mean of prediction - truth.
        lower: lower limit of agreement (Bland and Altman 1986), bias - 1.96 standard deviations
            (ddof = 1) of the differences.
        upper: upper limit of agreement.
        scale: mean of the real amounts, which the percentages refer to.
        reason: why figures are NaN; empty if none is.
    """

    n: int
    slope: float = math.nan
    intercept: float = math.nan
    r: float = math.nan
    bias: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    scale: float = math.nan
    reason: str = ""

    def percent(self, value: float) -> float:
        """`bias`, `lower` or `upper` in percent of the mean real amount; NaN if that is not above 0.

        The mean of all objects is the reference, since that of a faint object may be near 0.
        """
        return 100 * value / self.scale if self.scale > 0 else math.nan

    def figures(self) -> dict[str, float]:
        """n, slope, r, and bias and limits in percent."""
        percent = {name: self.percent(getattr(self, name)) for name in ("bias", "lower", "upper")}
        return {"n": self.n, "slope": self.slope, "r": self.r, **percent}


def integrated_intensities(
    labels: NDArray[np.integer],
    truth: NDArray[Any],
    prediction: NDArray[Any],
    ground: float | NDArray[Any] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the grey values above the ground over each object, in truth and prediction.

    Args:
        labels: the real objects (H, W), 0 for the ground: nuclei, or cells, for any channel.
        truth: (H, W).
        prediction: (H, W).
        ground: grey level of the ground, one or (H, W); the 5th percentile of the truth outside of
            the objects (of all of it where they fill the field) if not given.

    Returns:
        Two arrays (n,), objects by ascending number.
    """
    inside = labels > 0
    if ground is None:
        outside = truth[~inside] if not inside.all() else truth
        ground = float(np.percentile(outside, _GROUND_PERCENTILE))
    numbers, index = np.unique(labels[inside], return_inverse=True)
    level = np.broadcast_to(np.asarray(ground, np.float64), labels.shape)[inside]

    def total(image: NDArray[Any]) -> NDArray[np.float64]:
        above = image[inside].astype(np.float64) - level
        return np.bincount(index, above, minlength=len(numbers)).astype(np.float64)

    return total(truth), total(prediction)


def block_intensities(
    truth: NDArray[Any], prediction: NDArray[Any], ground: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Amounts in blocks of 64x64 px, in place of objects, where no channel shows any.

    Args:
        truth: (H, W); whole blocks are taken, from the top left.
        prediction: (H, W).
        ground: grey level of the ground.

    Returns:
        Two arrays (n,), truth and prediction, of the blocks whose real amount is above 0.3 of the 95th
        percentile of all.
    """
    down, across = (side // BLOCK for side in truth.shape)
    real, predicted = (
        image[: down * BLOCK, : across * BLOCK]
        .reshape(down, BLOCK, across, BLOCK)
        .sum((1, 3), dtype=np.float64)
        .ravel()
        - ground * BLOCK**2
        for image in (truth, prediction)
    )
    if not real.size:
        return real, predicted
    shown = real > max(0.0, _SIGNAL_BLOCK * float(np.percentile(real, 95)))
    return real[shown], predicted[shown]


def share_off(truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> float:
    """Share of n objects (n,) whose predicted amount is off by more than a quarter; NaN where undefined.

    A quarter of the real amount, or of half the median real amount where that is more: a faint object is not
    held to less than anybody would see.
    """
    if not len(truth) or not np.isfinite(prediction).all():
        return math.nan
    allowed = OFF * np.maximum(truth, np.median(truth) / 2)
    return float(np.mean(np.abs(prediction - truth) > allowed))


def agree(truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> Agreement:
    """Regression and Bland-Altman figures of n pairs (n,), as of one field or of all together."""
    n = len(truth)
    if n < MINIMUM:
        return Agreement(n, reason=f"{n} objects: agreement needs {MINIMUM}")
    if not (np.isfinite(truth).all() and np.isfinite(prediction).all()):
        return Agreement(n, reason="amounts that are NaN or infinite: no agreement is defined")
    difference = prediction - truth
    bias = float(difference.mean())
    margin = LIMITS * float(difference.std(ddof=1))
    x, y = truth - truth.mean(), prediction - prediction.mean()
    slope = intercept = r = math.nan
    reason = []
    if np.ptp(truth) > 0:
        slope = float((x * y).sum() / (x * x).sum())
        intercept = float(prediction.mean() - slope * truth.mean())
    else:
        reason.append("all real amounts are equal: slope and r undefined")
    if np.ptp(truth) > 0 and np.ptp(prediction) > 0:
        r = float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))
    elif not reason:
        reason.append("all predicted amounts are equal: r undefined")
    scale = float(truth.mean())
    if not scale > 0:
        reason.append("mean real amount is not above 0: percentages undefined")
    return Agreement(
        n, slope, intercept, r, bias, bias - margin, bias + margin, scale, "; ".join(reason)
    )

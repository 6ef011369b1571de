"""Quality of a prediction's intervals: coverage reached, width, and ranking of errors.

An interval is prediction +- half-width, both in grey values. Two things are asked of it. It must
hold the truth as often as was said (`coverage_reached`), being no wider than needed (`mean_width`).
And it must be wide where the errors are: when the pixels with the widest intervals are left out, the
error of the others must fall. That is the risk-coverage curve (El-Yaniv & Wiener 2010, JMLR 11; area
under it, AURC: Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206, whose excess over the best
order is divided here by that of a random order).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfn.metrics.tolerance import absolute_error

Array = NDArray[np.generic]
Curve = NDArray[np.float64]

# Pixels are sorted into bins, a hundredth of a decade wide, of half-width (or error) over range.
PER_DECADE = 100
LOWEST, HIGHEST = -6, 1  # decades; what lies outside is put into the first or last bin
BINS = (HIGHEST - LOWEST) * PER_DECADE + 2


def coverage_reached(prediction: Array, truth: Array, halfwidth: Array) -> float:
    """Share of the pixels with |truth - prediction| <= half-width, [0, 1].

    Args:
        prediction, truth, halfwidth: one shape with pixels, in one unit.

    Raises:
        ValueError: shapes differ, or no pixels.
    """
    _check(prediction, truth, halfwidth)
    return float(np.less_equal(absolute_error(prediction, truth), halfwidth).mean())


def mean_width(halfwidth: Array, data_range: float) -> float:
    """Mean width of the intervals (twice the half-width) in units of the range.

    Raises:
        ValueError: a range that is not above 0.
    """
    if not data_range > 0:
        raise ValueError(f"data_range must be above 0, got {data_range}")
    return float(2 * halfwidth.mean(dtype=np.float64) / data_range)


@dataclass(frozen=True)
class RiskCoverageCurve:
    """Mean absolute error of the pixels that are retained, those of the narrowest intervals first.

    Attributes:
        retained: share of the pixels, rising from above 0 to 1, (n,).
        risk: their mean absolute error in units of the range, sorted by half-width, (n,).
        oracle: the same, sorted by the error itself: no order does better, (n,).
        random: mean absolute error of all pixels: what a random order gives at every share.
        area: under `risk`; `oracle_area` under `oracle`; that of a random order is `random`.
    """

    retained: Curve
    risk: Curve
    oracle: Curve
    random: float
    area: float
    oracle_area: float

    @property
    def skill(self) -> float:
        """1 where half-widths rank errors perfectly, 0 where they do it as chance does, below 0 where
        they do it worse; NaN where all errors are alike, so that there is nothing to rank."""
        room = self.random - self.oracle_area
        return (self.random - self.area) / room if room > 1e-12 * self.random else float("nan")


class RiskCoverage:
    """Collects pixels of any number of fields in flat memory, O(1) a pixel.

    Pixels whose half-widths fall into one bin count as tied: their order is random, and the curve
    and its area are the expected ones. A bin is 2.3 % wide, so the curve of the sorted pixels is met
    closely.

    Args:
        data_range: width of the intensity range (grey values), above 0; the unit of errors.

    Raises:
        ValueError: a range that is not above 0.
    """

    def __init__(self, data_range: float) -> None:
        if not data_range > 0:
            raise ValueError(f"data_range must be above 0, got {data_range}")
        self.data_range = data_range
        self._by_width, self._by_error = np.zeros((2, BINS)), np.zeros((2, BINS))

    def add(self, prediction: Array, truth: Array, halfwidth: Array) -> None:
        """Count the pixels of one field.

        Args:
            prediction, truth, halfwidth: one shape with pixels, in grey values.

        Raises:
            ValueError: shapes differ, or no pixels.
        """
        _check(prediction, truth, halfwidth)
        error = (absolute_error(prediction, truth) / self.data_range).ravel()
        width = (halfwidth.astype(np.float64) / self.data_range).ravel()
        for sums, values in ((self._by_width, width), (self._by_error, error)):
            bins = _bins(values)
            sums[0] += np.bincount(bins, minlength=BINS)
            sums[1] += np.bincount(bins, weights=error, minlength=BINS)

    def curve(self, points: int = 100) -> RiskCoverageCurve:
        """The curve at `points` equally spaced shares, 1 / points to 1.

        Raises:
            ValueError: no field was added.
        """
        count = self._by_width[0].sum()
        if not count:
            raise ValueError("no field was added")
        retained = np.arange(1, points + 1) / points
        risk, area = _risk(self._by_width / count, retained)
        oracle, oracle_area = _risk(self._by_error / count, retained)
        return RiskCoverageCurve(retained, risk, oracle, float(risk[-1]), area, oracle_area)


def _risk(sums: Curve, retained: Curve) -> tuple[Curve, float]:
    """Error / share at the shares `retained`, and the integral of it over (0, 1].

    Args:
        sums: share of the pixels and their part of the mean error in each bin, (2, BINS).

    Within a bin the order is random, so the error sums up along a line E = e0 + k (c - c0), and
    E / c has the integral k (c1 - c0) + (e0 - k c0) ln(c1 / c0).
    """
    share, part = sums[:, sums[0] > 0]
    ends, errors = np.cumsum(share), np.cumsum(part)
    ends /= ends[-1]
    starts, before = np.append(0, ends[:-1]), np.append(0, errors[:-1])
    slope = part / share
    rest = before - slope * starts
    steps = np.log(ends[1:] / starts[1:])
    area = float((slope * share).sum() + (rest[1:] * steps).sum())
    summed = np.interp(retained, np.append(0, ends), np.append(0, errors))
    return summed / retained, area


def _bins(values: Curve) -> NDArray[np.intp]:
    """Bin of each value; zeros go first."""
    with np.errstate(divide="ignore"):
        place = (np.log10(values) - LOWEST) * PER_DECADE
    return np.clip(np.floor(place) + 1, 0, BINS - 1).astype(np.intp)


def _check(prediction: Array, truth: Array, halfwidth: Array) -> None:
    if not prediction.shape == truth.shape == halfwidth.shape or not truth.size:
        raise ValueError(
            f"prediction {prediction.shape}, truth {truth.shape} and half-width {halfwidth.shape} "
            "must have one shape with pixels"
        )

"""Paired comparison of two predictions over the same units: fields, or wells, never pixels.

Pixels of a field are not independent of each other, and neither are fields of a well: a test over
them would call any difference certain. So each unit gives one figure for each prediction, and all
that follows is over the units' differences. Everything is pure and repeatable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

# The figures that a verdict goes by, the most telling first; tests on them are one family.
MAIN = (
    "psnr_signal",
    "ssim_signal",
    "mae_signal",
    "pearson",
    "tolerance_level",
    "psnr",
    "ssim",
    "mae",
)
# A difference below these is slight however certain it is: many fields show what nobody can see. Our
# choice; 0.1 dB of PSNR is an error smaller by 1.2 %, so errors themselves get 1 % of the smaller.
SLIGHT = {"psnr_signal": 0.1, "psnr": 0.1, "ssim_signal": 0.005, "ssim": 0.005, "pearson": 0.01}
SLIGHT_SHARE = {"mae_signal": 0.01, "mae": 0.01, "tolerance_level": 0.01}
ALPHA = 0.05  # of a family of tests, after the correction
LEVEL = 0.95  # of the confidence interval
# Fewer units than this: the interval is too short where differences are skewed (`bench/null.py`). Of 1000 samples it
# held the true mean in 94 to 96 % if normal, with 3 to 40 units; in 86 to 95 % if exponential, 83 to 89 % if log-normal.
# The BCa bootstrap held it in 84 % of normal samples with 5 units, 92 % with 10, and nowhere in 1 % more than Student's.
FEW_UNITS = 10
# Figures are written with 9 significant digits: what differs by less is the same.
SAME = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """Paired values of two runs, one pair per unit, both finite.

    Attributes:
        names: of the n units.
        a: (n,) of the first prediction.
        b: (n,) of the second.
        left_out: fields without a finite figure in both.
    """

    names: tuple[str, ...]
    a: Floats
    b: Floats
    left_out: int

    @property
    def differences(self) -> Floats:
        """(n,), second minus first; exactly 0 where the two agree to the digits that are written."""
        d = self.b - self.a
        return np.where(np.abs(d) <= SAME * np.maximum(np.abs(self.a), np.abs(self.b)), 0.0, d)


@dataclass(frozen=True)
class Paired:
    """The comparison of two predictions in one figure; NaN where undefined, and `note` says why.

    Attributes:
        n: units.
        mean_a: mean over the units, of the first prediction.
        mean_b: of the second.
        difference: mean of second minus first.
        low: lower end of Student's 95 % interval of the mean difference.
        high: its upper end.
        t: paired Student t statistic, n - 1 degrees of freedom.
        p_t: its two-sided p-value.
        w: Wilcoxon's signed-rank statistic, the smaller of the two rank sums.
        p_wilcoxon: its two-sided p-value.
        d_z: mean difference by the standard deviation of the differences (Cohen's d for pairs).
        note: what is undefined and why; empty if nothing is.
    """

    n: int
    mean_a: float = math.nan
    mean_b: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    t: float = math.nan
    p_t: float = math.nan
    w: float = math.nan
    p_wilcoxon: float = math.nan
    d_z: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two runs in one figure of one channel.

    Attributes:
        channel: name of the channel.
        column: of metrics.csv.
        a: name of the first run.
        b: of the second.
        kind: what a unit is, "field" or "well".
        units: the figures.
        result: what was found.
        higher: whether a higher figure is better; None where neither is.
        p_t_holm: Student's p-value, corrected within the family; NaN where undefined.
        p_wilcoxon_holm: Wilcoxon's.
    """

    channel: str
    column: str
    a: str
    b: str
    kind: str
    units: Units
    result: Paired
    higher: bool | None
    p_t_holm: float = math.nan
    p_wilcoxon_holm: float = math.nan

    @property
    def main(self) -> bool:
        """True for the metrics that the verdict goes by."""
        return self.column in MAIN

    @property
    def better(self) -> str:
        """The run with the better mean; empty where they are equal or no direction is better."""
        d = self.result.difference
        if self.higher is None or math.isnan(d) or d == 0:
            return ""
        return self.b if (d > 0) is self.higher else self.a

    @property
    def shown(self) -> bool:
        """True if a difference is shown: Wilcoxon's corrected p-value is below 0.05 and the interval
        of the mean, where it is defined, does not hold 0. The second keeps a few large differences
        of one sign from deciding against many small ones of the other."""
        return self.p_wilcoxon_holm < ALPHA and not self.result.low <= 0 <= self.result.high

    @property
    def slight(self) -> bool:
        """True if the difference is too small to matter; never where no limit is set."""
        limit = SLIGHT.get(self.column, 0.0)
        if self.column in SLIGHT_SHARE:
            smaller = min(abs(self.result.mean_a), abs(self.result.mean_b))
            limit = SLIGHT_SHARE[self.column] * smaller
        return abs(self.result.difference) < limit


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's correction for each of the two tests, in two families.

    The one is all channels x `MAIN` columns x pairs of runs, the other all channels x remaining
    columns x pairs.
    """
    adjusted = np.full((len(comparisons), 2), math.nan)
    for family in (True, False):
        index = [i for i, c in enumerate(comparisons) if c.main is family]
        p = [(comparisons[i].result.p_t, comparisons[i].result.p_wilcoxon) for i in index]
        for test in (0, 1):
            adjusted[index, test] = holm([pair[test] for pair in p])
    return [
        replace(c, p_t_holm=float(t), p_wilcoxon_holm=float(w))
        for c, (t, w) in zip(comparisons, adjusted, strict=True)
    ]


def tests(comparisons: Sequence[Comparison], main: bool) -> int:
    """Count the tests of a family: those whose Wilcoxon p-value is defined."""
    return sum(c.main is main and not math.isnan(c.result.p_wilcoxon) for c in comparisons)


def make_units(a: ArrayLike, b: ArrayLike, units: Sequence[str]) -> Units:
    """Drop the fields where either figure is NaN or infinite, then average the fields of each unit.

    Args:
        a: (fields,) figures of the first prediction.
        b: (fields,) of the second, the same fields in the same order.
        units: (fields,) the unit of each field: its own name, or its well's.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    kept = np.isfinite(first) & np.isfinite(second)
    left_out = int(np.size(kept) - kept.sum())
    labels = [unit for unit, keep in zip(units, kept, strict=True) if keep]
    names = tuple(dict.fromkeys(labels))
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place[label] for label in labels], np.int64)
    count = np.bincount(index, minlength=len(names))

    def average(values: Floats) -> Floats:
        return np.bincount(index, values[kept], minlength=len(names)) / count

    return Units(names, average(first), average(second), left_out)


def compare(units: Units) -> Paired:
    """Mean difference, Student's interval, and both tests of "there is no difference".

    Wilcoxon: units without a difference are
    dropped (Wilcoxon 1945); exact up to 50 units where no two differences are of one size, exact by
    permutation with such ties up to 13 units, the normal approximation beyond. All by SciPy.
    """
    n, d = len(units.names), units.differences
    if n == 0:
        return Paired(0, note="no unit has a finite figure in both runs")
    means = (float(units.a.mean()), float(units.b.mean()), float(d.mean()))
    if n == 1:
        return Paired(1, *means, note="one unit only: no statistics")
    if not d.any():
        return Paired(n, *means, note="all differences are zero: no interval and no test")
    w, p_wilcoxon = map(float, stats.wilcoxon(d[d != 0]))
    spread = float(d.std(ddof=1))
    if spread <= SAME * abs(means[2]):
        note = "all differences are the same: no interval and no t-test"
        return Paired(n, *means, w=w, p_wilcoxon=p_wilcoxon, note=note)
    found = stats.ttest_1samp(d, 0.0)
    low, high = map(float, found.confidence_interval(LEVEL))
    t, p_t = float(found.statistic), float(found.pvalue)
    return Paired(n, *means, low, high, t, p_t, w, p_wilcoxon, means[2] / spread)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's correction (1979, Scand. J. Stat. 6): adjusted p-values of a family, (m,) -> (m,).

    Whatever is below 0.05 afterwards keeps the chance of even one false discovery in the family at
    5 %. NaN stays NaN and does not count in the family.
    """
    p = np.asarray(p_values, np.float64)
    adjusted = np.full_like(p, math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    weights = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * weights))
    return adjusted


def units_needed(tests: int) -> int:
    """Units below which Wilcoxon's test cannot show anything in a family of so many tests.

    Its smallest two-sided p-value with n units is 2 / 2^n, and Holm's first step takes it `tests`
    times.
    """
    return math.floor(1 + math.log2(tests / ALPHA)) + 1

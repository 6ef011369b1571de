"""Two groups of fields or wells: is one different, and by how much?

Units are wells where they are known, else fields: cells of a field and pixels of a cell are no
independent witnesses.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
RESAMPLES = 5000
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class TwoGroups:
    """Control and treated units compared in one figure; NaN where undefined.

    Attributes:
        n_control, n_treated: units with a finite figure.
        control, treated: means.
        delta, delta_low, delta_high: Cliff's delta, the chance that a treated unit exceeds a control one
            minus the chance of the reverse, -1 to 1, with a 95 % bootstrap interval.
        g, g_low, g_high: Hedges' g, difference of the means over the pooled standard deviation,
            corrected for few units, with its 95 % normal interval (Hedges and Olkin 1985).
        p: Mann-Whitney U, two-sided; exact for up to 8 units a group without ties.
    """

    n_control: int
    n_treated: int
    control: float = math.nan
    treated: float = math.nan
    delta: float = math.nan
    delta_low: float = math.nan
    delta_high: float = math.nan
    g: float = math.nan
    g_low: float = math.nan
    g_high: float = math.nan
    p: float = math.nan


def two_groups(control: ArrayLike, treated: ArrayLike) -> TwoGroups:
    """Compare the figures (n,) and (m,) of two groups of units."""
    a, b = (x[np.isfinite(x)] for x in (np.asarray(v, float) for v in (control, treated)))
    n, m = len(a), len(b)
    if not n or not m:
        return TwoGroups(n, m)
    means = float(a.mean()), float(b.mean())
    delta = cliffs_delta(a, b)
    if n < 2 or m < 2:
        return TwoGroups(n, m, *means, delta)
    rng = np.random.default_rng(SEED)
    draws = [
        cliffs_delta(a[rng.integers(n, size=n)], b[rng.integers(m, size=m)])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    test = stats.mannwhitneyu(a, b, alternative="two-sided")  # type: ignore[attr-defined]
    p = float(test.pvalue)
    return TwoGroups(n, m, *means, delta, float(low), float(high), *hedges_g(a, b), p)


def cliffs_delta(control: Floats, treated: Floats) -> float:
    """P(treated > control) - P(treated < control) over all pairs (Cliff 1993)."""
    ordered = np.sort(control)
    below = np.searchsorted(ordered, treated, side="left")
    above = len(ordered) - np.searchsorted(ordered, treated, side="right")
    return float((below - above).mean() / len(ordered))


def hedges_g(control: Floats, treated: Floats) -> tuple[float, float, float]:
    """Hedges' g of treated minus control, and its 95 % interval; NaN where nothing varies."""
    n, m = len(control), len(treated)
    pooled = ((n - 1) * control.var(ddof=1) + (m - 1) * treated.var(ddof=1)) / (n + m - 2)
    if not pooled:
        return math.nan, math.nan, math.nan
    correction = 1 - 3 / (4 * (n + m) - 9)
    g = correction * float(treated.mean() - control.mean()) / math.sqrt(pooled)
    half = 1.959964 * math.sqrt((n + m) / (n * m) + g * g / (2 * (n + m)))
    return g, g - half, g + half

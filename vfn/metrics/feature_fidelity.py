"""Feature fidelity: which of CellProfiler's measurements survive when channels are predicted.

Pearson's r of each feature, real against predicted, says how far an assay that reads it can be trusted
(Nguyen et al. 2020, section 3.2 and figure 8).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import NormalDist, median
from typing import Any, Literal

import numpy as np

from vfn.metrics.features import COMPARTMENTS, GROUPS, Array, Feature, ObjectChannels

Level = Literal["fields", "objects"]
CONFIDENCE = 0.95
SURVIVES = 0.8  # r from which a read-out is said to survive


@dataclass(frozen=True)
class FeatureRow:
    """Correlation of one feature, real against predicted.

    Attributes:
        feature: which.
        depends_on: the predicted channels that it depends on, by pixels or by outlines of objects.
        r: Pearson's r of real and hybrid values; NaN if `note` says why.
        low, high: 95 % confidence interval of r (Fisher's z); NaN for fewer than four values.
        n: number of pairs of values, fields or objects.
        note: why r is undefined.
    """

    feature: Feature
    depends_on: tuple[str, ...]
    r: float
    low: float
    high: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class FeatureResult:
    """Every feature that a prediction can change.

    Attributes:
        rows: the features, by group, compartment, channels, name.
        level: what r is over: "fields" (means over objects) or "objects" (pooled over fields).
        channels: where objects were found.
        predicted: the predicted channels.
        fields: number of fields measured.
        objects: number of nuclei in the real channels.
        left_out: fields that could not be measured, and why.
    """

    rows: tuple[FeatureRow, ...]
    level: Level
    channels: ObjectChannels
    predicted: tuple[str, ...]
    fields: int
    objects: int
    left_out: Mapping[str, str]

    def of_channel(self, channel: str) -> tuple[FeatureRow, ...]:
        """Features measured in one predicted channel, or of outlines found in it.

        What other channels show within outlines found in it is theirs; `depends_on` names it.
        """
        return tuple(row for row in self.rows if channel in row.feature.channels)

    def notes(self) -> list[str]:
        """Return the method and what is missing, in sentences."""
        where = f"nuclei found in {self.channels.nuclear}"
        if self.channels.body:
            where += f", cells in {self.channels.body}"
        how = (
            f"r over the means of {self.fields} fields, objects segmented in real and hybrid channels "
            f"apart ({where})."
            if self.level == "fields"
            else f"r over {self.objects} objects of {self.fields} field(s), too few for a correlation "
            f"over fields: the objects of the real channels were laid on both sets ({where}), size, "
            "shape and neighbours are therefore equal and left out. Objects of one field are not "
            "independent: the intervals are narrower than over fields."
        )
        return [
            how,
            "Features that no predicted channel enters are equal by construction (r = 1) and left out.",
            *(
                f"{count} field(s) not measured: {reason}."
                for reason, count in Counter(self.left_out.values()).items()
            ),
        ]

    def summary(self, threshold: float = SURVIVES) -> dict[str, Any]:
        """For `summary.json`: counts, median r and survivors, in all and by group and compartment."""
        parts: dict[str, dict[str, Any]] = {}
        for group, compartment in product(GROUPS, COMPARTMENTS):
            at = (group, compartment)
            own = [r for r in self.rows if (r.feature.group, r.feature.compartment) == at]
            if own:
                parts.setdefault(group, {})[compartment] = _counted(own, threshold)
        return {
            **_counted(self.rows, threshold),
            "threshold": threshold,
            "level": self.level,
            "fields": self.fields,
            "objects": self.objects,
            "groups": parts,
            "notes": self.notes(),
        }


def survivors(rows: Iterable[FeatureRow], threshold: float = SURVIVES) -> list[FeatureRow]:
    """The features with r above the threshold, the surest (highest lower bound) first."""
    return sorted(
        (row for row in rows if row.r > threshold),
        key=lambda row: (-row.low if math.isfinite(row.low) else math.inf, -row.r),
    )


def _counted(rows: Sequence[FeatureRow], threshold: float) -> dict[str, Any]:
    known = [row for row in rows if math.isfinite(row.r)]
    return {
        "n": len(known),
        "undefined": len(rows) - len(known),
        "median_r": median(row.r for row in known) if known else None,
        "survive": sum(row.r > threshold for row in known),
        "surely_survive": sum(row.low > threshold for row in known),
    }


@dataclass
class Moments:
    """Co-moments of paired values, merged a field at a time (Chan, Golub and LeVeque 1979)."""

    n: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(2))
    products: Array = field(default_factory=lambda: np.zeros((2, 2)))  # of deviations, summed
    largest: float = 0.0

    def add(self, pairs: Array) -> None:
        """Add pairs (2, N); those with a value that is not finite are left out."""
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        count = pairs.shape[1]
        if not count:
            return
        mean = pairs.mean(axis=1)
        deviations = pairs - mean[:, None]
        step, total = mean - self.mean, self.n + count
        self.products += deviations @ deviations.T
        self.products += np.outer(step, step) * (self.n * count / total)
        self.mean = self.mean + step * (count / total)
        self.largest = max(self.largest, float(np.abs(pairs).max()))
        self.n = total

    def row(self, feature: Feature, depends_on: tuple[str, ...]) -> FeatureRow:
        """r, its interval, or why there is none."""
        undefined = (math.nan, math.nan, math.nan, self.n)
        if self.n < 3:
            note = f"only {self.n} pairs of values"
            return FeatureRow(feature, depends_on, *undefined, note)
        spread = np.sqrt(self.products.diagonal() / self.n)
        flat = spread <= 1e-10 * self.largest  # no more than rounding leaves
        if flat.any():
            note = "constant in the " + ("real" if flat[0] else "hybrid") + " set"
            return FeatureRow(feature, depends_on, *undefined, note)
        r = self.products[0, 1] / math.sqrt(self.products[0, 0] * self.products[1, 1])
        r = min(max(float(r), -1.0), 1.0)
        return FeatureRow(feature, depends_on, r, *fisher_interval(r, self.n), self.n)


def fisher_interval(r: float, n: int) -> tuple[float, float]:
    """95 % confidence interval of Pearson's r from n pairs by Fisher's z; NaN for n < 4.

    As `scipy.stats.pearsonr(...).confidence_interval()`.
    """
    if n < 4:
        return math.nan, math.nan
    if abs(r) == 1:
        return r, r
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)

"""Refocusing, by depth: tables and figures of a channel whose inputs lie out of focus (paper, sec. 3.1).

At each distance from focus the prediction stands beside the input as it is and the classical
filter. Whether it is better than the better of the two is tested over fields (or wells), per depth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vfn.evaluation.results import MODEL, ChannelResult, finite
from vfn.evaluation.rows import ImageScores, summarise
from vfn.metrics import comparison
from vfn.metrics.comparison import Paired, make_units
from vfn.report.wording import TITLES

# Metrics of every method at each depth.
COLUMNS = (
    "mae", "psnr", "ssim", "psnr_signal", "ssim_signal", "pearson", "frc_resolution", "piqe", "brisque",
)  # fmt: skip
TESTED = ("psnr_signal", "ssim_signal")
REFERENCES = ("input", "wiener")
HEADER = (
    "channel",
    "z",
    "method",
    "n",
    *(f"{c}_{part}" for c in COLUMNS for part in ("mean", "std")),
)


@dataclass(frozen=True)
class Gain:
    """The prediction against the better of input and filter at one depth, in one figure."""

    z: float
    column: str
    reference: str
    paired: Paired

    @property
    def words(self) -> str:
        """better, worse, or no difference shown: whether the 95 % interval holds 0."""
        p = self.paired
        if math.isnan(p.low):
            return "no statistics"
        if p.low <= 0 <= p.high:
            return "no difference shown"
        return "better" if p.difference > 0 else "worse"


@dataclass(frozen=True)
class Depths:
    """Metrics of a channel at each depth.

    Attributes:
        rows: z (um) -> method -> figures of the fields.
    """

    channel: str
    rows: Mapping[float, Mapping[str, Sequence[ImageScores]]]

    @classmethod
    def of(cls, result: ChannelResult) -> "Depths | None":
        """None where inputs are not out of focus."""
        rows: dict[float, dict[str, list[ImageScores]]] = {}
        for method, own in result.systems().items():
            for row in own:
                if row.z is not None:
                    rows.setdefault(row.z, {}).setdefault(method, []).append(row)
        return cls(result.name, dict(sorted(rows.items()))) if rows else None

    @property
    def methods(self) -> list[str]:
        """Prediction first."""
        return list(next(iter(self.rows.values())))

    def mean(self, z: float, method: str, column: str) -> float:
        """Mean over the fields; NaN where none has it."""
        entry = summarise(self.rows[z][method]).get(column)
        return math.nan if entry is None or entry["mean"] is None else float(entry["mean"])

    @cached_property
    def gains(self) -> list[Gain]:
        """Prediction against the better of its references, for each depth and tested figure."""
        found = []
        for z, methods in self.rows.items():
            references = [method for method in REFERENCES if method in methods]
            for column in TESTED if references else ():
                means = {method: self.mean(z, method, column) for method in references}
                reference = max(
                    means, key=lambda m: -math.inf if math.isnan(means[m]) else means[m]
                )
                a, b = ([row.values[column] for row in methods[m]] for m in (reference, MODEL))
                units = [row.well or row.field for row in methods[MODEL]]
                found.append(
                    Gain(z, column, reference, comparison.compare(make_units(a, b, units)))
                )
        return found

    def lines(self) -> list[list[str]]:
        """Return the rows of `depths.csv`."""
        lines = []
        for z, methods in self.rows.items():
            for method, rows in methods.items():
                found = summarise(rows)
                cells = [
                    "" if (v := found.get(c, {}).get(part)) is None else f"{v:.9g}"
                    for c in COLUMNS
                    for part in ("mean", "std")
                ]
                lines.append([self.channel, f"{z:g}", method, str(len(rows)), *cells])
        return lines

    def summary(self) -> list[dict[str, Any]]:
        """Part of `summary.json`."""
        gains = self.gains
        return [
            {
                "z": z,
                "methods": {
                    method: {c: e for c, e in summarise(rows).items() if c in COLUMNS}
                    for method, rows in methods.items()
                },
                "against": {
                    g.column: {
                        "rival": g.reference, "difference": finite(g.paired.difference),
                        "low": finite(g.paired.low), "high": finite(g.paired.high),
                        "verdict": g.words,
                    }
                    for g in gains
                    if g.z == z
                },
            }
            for z, methods in self.rows.items()
        ]  # fmt: skip


def sentences(depths: Depths) -> list[str]:
    """Return the result in sentences."""
    found = []
    for column in TESTED:
        gains = [gain for gain in depths.gains if gain.column == column]
        by_words: dict[str, list[Gain]] = {}
        for gain in gains:
            by_words.setdefault(gain.words, []).append(gain)
        for words, some in by_words.items():
            where = ", ".join(f"{gain.z:+g}" for gain in some)
            differences = [gain.paired.difference for gain in some]
            unit = " dB" if column.startswith("psnr") else ""
            amount = f"{min(differences):+.3g} to {max(differences):+.3g}{unit}"
            verb = {
                "better": "Refocusing is better than the better of input and Wiener filter",
                "worse": "Refocusing is WORSE than the better of input and Wiener filter",
                "no difference shown": "No difference from the better of input and Wiener filter is shown",
                "no statistics": "Too few fields to tell",
            }[words]
            found.append(f"{TITLES[column]}: {verb} at {where} µm ({amount}).")
    return found

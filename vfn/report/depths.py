"""Refocusing, by depth: a channel whose inputs lie out of focus (paper, sec. 3.1), in tables and words.

At each distance from focus the prediction stands beside the input as it is and the classical
filter. Whether it is better than the better of the two is tested over fields (or wells), per depth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from vfn.evaluation.columns import TITLES
from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.evaluation.ranges import Range
from vfn.evaluation.results import MODEL, ChannelResult, finite
from vfn.evaluation.rows import ImageScores, paired, summarise
from vfn.metrics.comparison import Paired

# Metrics of every method at each depth.
COLUMNS = (
    "mae", "psnr", "ssim", "psnr_signal", "ssim_signal", "pearson", "frc_resolution", "piqe", "brisque",
)  # fmt: skip
TESTED = ("psnr_signal", "ssim_signal")
REFERENCES = ("input", "wiener")
PARTS = tuple((column, part) for column in COLUMNS for part in ("mean", "std"))
HEADER = ("channel", "z", "method", "n", *("_".join(part) for part in PARTS))
# Outcome of a test -> the result in words.
OUTCOMES = {
    "better": "Refocusing is better than the better of input and Wiener filter",
    "worse": "Refocusing is WORSE than the better of input and Wiener filter",
    "no difference shown": "No difference from the better of input and Wiener filter is shown",
    "no statistics": "Too few fields to tell",
}


class Gain(NamedTuple):
    """The prediction against the better of input and filter at one depth, in one figure."""

    z: float
    column: str
    reference: str
    paired: Paired

    @property
    def outcome(self) -> str:
        """A key of `OUTCOMES`: whether the 95 % interval holds 0."""
        p = self.paired
        if math.isnan(p.low):
            return "no statistics"
        if p.low <= 0 <= p.high:
            return "no difference shown"
        return "better" if p.difference > 0 else "worse"


@dataclass(frozen=True)
class Depths:
    """Metrics of a channel at each depth, and one field to show.

    Attributes:
        rows: z (um) -> method -> figures of the fields, prediction first.
        shown: the field whose mean PSNR over its depths is the median one, at ascending z.
        signal: the channel's signal range.
    """

    channel: str
    rows: Mapping[float, Mapping[str, Sequence[ImageScores]]]
    shown: Sequence[FieldPair]
    signal: Range

    @classmethod
    def of(cls, source: PairSource, result: ChannelResult) -> "Depths | None":
        """None where inputs are not out of focus."""
        rows: dict[float, dict[str, list[ImageScores]]] = {}
        for method, own in result.systems().items():
            for row in own:
                if row.z is not None:
                    rows.setdefault(row.z, {}).setdefault(method, []).append(row)
        if not rows or "input" not in result.baselines:
            return None
        shown = [source.pair(index) for index in _median_field(result)]
        return cls(result.name, dict(sorted(rows.items())), shown, result.ranges.signal)

    @cached_property
    def summaries(self) -> dict[float, dict[str, dict[str, Any]]]:
        """Mean, standard deviation and n: z -> method -> column, those of `COLUMNS` that it has."""
        return {
            z: {
                method: {c: entry for c, entry in summarise(rows).items() if c in COLUMNS}
                for method, rows in methods.items()
            }
            for z, methods in self.rows.items()
        }

    @cached_property
    def gains(self) -> list[Gain]:
        """Prediction against the better of its references, for each depth and tested figure."""
        return [self._gain(z, column) for z in self.rows for column in TESTED]

    def _gain(self, z: float, column: str) -> Gain:
        methods, found = self.rows[z], self.summaries[z]
        means = {m: found[m][column]["mean"] for m in REFERENCES if m in methods}
        reference = max(means, key=lambda m: -math.inf if means[m] is None else means[m])
        return Gain(z, column, reference, paired(methods[reference], methods[MODEL], column))

    def lines(self) -> list[list[str]]:
        """Return the rows of `depths.csv`."""
        lines = []
        for z, methods in self.summaries.items():
            for method, found in methods.items():
                values = [found.get(column, {}).get(part) for column, part in PARTS]
                cells = ["" if value is None else f"{value:.9g}" for value in values]
                lines.append(
                    [self.channel, f"{z:g}", method, str(len(self.rows[z][method])), *cells]
                )
        return lines

    def summary(self) -> list[dict[str, Any]]:
        """Part of `summary.json`."""
        against: dict[float, dict[str, Any]] = {z: {} for z in self.rows}
        for gain in self.gains:
            found = gain.paired
            against[gain.z][gain.column] = {
                "rival": gain.reference, "difference": finite(found.difference),
                "low": finite(found.low), "high": finite(found.high), "verdict": gain.outcome,
            }  # fmt: skip
        return [
            {"z": z, "methods": methods, "against": against[z]}
            for z, methods in self.summaries.items()
        ]

    def sentences(self) -> list[str]:
        """Return the result in sentences."""
        found: dict[tuple[str, str], list[Gain]] = {}
        for column in TESTED:
            for gain in self.gains:
                if gain.column == column:
                    found.setdefault((column, gain.outcome), []).append(gain)
        said = []
        for (column, outcome), gains in found.items():
            where = ", ".join(f"{gain.z:+g}" for gain in gains)
            differences = [gain.paired.difference for gain in gains]
            unit = " dB" if column.startswith("psnr") else ""
            amount = f"{min(differences):+.3g} to {max(differences):+.3g}{unit}"
            said.append(f"{TITLES[column]}: {OUTCOMES[outcome]} at {where} µm ({amount}).")
        return said


def _median_field(result: ChannelResult) -> list[int]:
    """Indices of the planes, at ascending z, of the field that stands in the middle by PSNR."""
    fields: dict[str, list[tuple[float, int, float]]] = {}
    for index, row in zip(result.indices, result.rows, strict=True):
        if row.z is not None:
            name = row.field.rpartition("_z")[0] or row.field
            fields.setdefault(name, []).append((row.z, index, row.values["psnr_signal"]))
    most = max(map(len, fields.values()))
    whole = [planes for planes in fields.values() if len(planes) == most]
    whole.sort(key=lambda planes: float(np.mean([psnr for _, _, psnr in planes])))
    return [index for _, index, _ in sorted(whole[len(whole) // 2])]

"""Gain of refocusing blurred inputs, against leaving them as they are or leaving them out."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vfn.evaluation.results import ChannelResult, finite
from vfn.evaluation.rows import ImageScores
from vfn.metrics.comparison import Paired, compare, make_units
from vfn.report.blocks import Part, Soft, Table
from vfn.report.wording import TITLES, number

COLUMNS = ("psnr_signal", "ssim_signal", "pearson", "mae_signal", "psnr", "ssim", "mae")
HEADER = ("field", "channel", "inputs", *COLUMNS)
TELLING = "psnr_signal"


@dataclass(frozen=True)
class RefocusGain:
    """One predicted channel.

    Attributes:
        refocused: figures of the fields whose inputs were refocused.
        as_is: of the same fields, by the same model, from the blurred inputs.
        sharp: of the fields that were in focus.
    """

    channel: str
    refocused: Sequence[ImageScores]
    as_is: Sequence[ImageScores]
    sharp: Sequence[ImageScores]

    @classmethod
    def of(cls, result: ChannelResult) -> "RefocusGain | None":
        """None where nothing was refocused."""
        if not result.unrefocused:
            return None
        done = sorted(result.unrefocused)
        rest = [row for i, row in enumerate(result.rows) if i not in result.unrefocused]
        return cls(
            result.name,
            [result.rows[i] for i in done],
            [result.unrefocused[i] for i in done],
            rest,
        )

    def difference(self, column: str) -> Paired:
        """Refocused minus as they are, over the blurred fields (or wells)."""
        a, b = ([row.values[column] for row in rows] for rows in (self.as_is, self.refocused))
        units = [row.well or row.field for row in self.refocused]
        return compare(make_units(a, b, units))

    def ways(self) -> dict[str, Sequence[ImageScores]]:
        """The three ways to treat blurred fields -> the figures that the test set then has."""
        return {
            "refocused": [*self.sharp, *self.refocused],
            "as they are": [*self.sharp, *self.as_is],
            "left out": self.sharp,
        }

    def summary(self) -> dict[str, Any]:
        """Part of `summary.json`."""
        return {
            "fields_refocused": len(self.refocused),
            "fields_in_focus": len(self.sharp),
            "ways": {
                way: {column: finite(_mean(rows, column)) for column in COLUMNS}
                for way, rows in self.ways().items()
            },
            "blurred_fields": {
                name: {column: finite(_mean(rows, column)) for column in COLUMNS}
                for name, rows in (("refocused", self.refocused), ("as they are", self.as_is))
            },
            "difference": {
                column: {"mean": finite(p.difference), "low": finite(p.low), "high": finite(p.high)}
                for column in COLUMNS
                for p in (self.difference(column),)
            },
        }

    def lines(self) -> list[list[str]]:
        """Return the rows of `refocus_gain.csv`."""
        parts = (
            ("in focus", self.sharp),
            ("refocused", self.refocused),
            ("as they are", self.as_is),
        )
        return [
            [row.field, row.channel, name, *(f"{row.values[c]:.9g}" for c in COLUMNS)]
            for name, rows in parts
            for row in rows
        ]

    def sentence(self) -> str:
        """Return the result in a sentence."""
        p, count = self.difference(TELLING), len(self.refocused)
        fields = f"{count} blurred field{'s' if count > 1 else ''}"
        if math.isnan(p.difference):
            return f"Refocusing the inputs of {fields}: no figure of either is defined."
        amount = f"{p.difference:+.2f} dB"
        if not math.isnan(p.low):
            amount += f" (95 % interval {p.low:+.2f} to {p.high:+.2f})"
        sure = math.isnan(p.low) or not p.low <= 0 <= p.high
        what = "helped" if p.difference > 0 else "made it WORSE"
        verdict = what if sure else "made no difference that can be shown"
        return (
            f"Refocusing the inputs of {fields} {verdict}: {amount} in {TITLES[TELLING]} against leaving "
            f"them as they are."
        )

    def part(self) -> Part:
        """The part of the page."""
        shown = COLUMNS[:4]
        rows = [
            [f"all fields, blurred ones {way}", str(len(some)), *(_cell(some, c) for c in shown)]
            for way, some in self.ways().items()
        ]
        rows += [
            [f"blurred fields alone, {name}", str(len(some)), *(_cell(some, c) for c in shown)]
            for name, some in (("refocused", self.refocused), ("as they are", self.as_is))
        ]
        note = (
            "The same model throughout: it was trained on refocused inputs, so that blurred ones are strange to it. What "
            "refocusing gains in training is told by models trained with data.refocus_action=keep and leave_out."
        )
        header = ["", "fields", *(TITLES[column] for column in shown)]
        table = Table(header, rows, (0,), "Refocused inputs", tall=True)
        return Part("Refocused inputs", [self.sentence(), table, Soft(note)])


def _mean(rows: Sequence[ImageScores], column: str) -> float:
    values = [v for row in rows if math.isfinite(v := row.values[column])]
    return statistics.fmean(values) if values else math.nan


def _cell(rows: Sequence[ImageScores], column: str) -> str:
    value = _mean(rows, column)
    return "-" if math.isnan(value) else number(column, value)

"""Gain of refocusing blurred inputs, against leaving them as they are or leaving them out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfn.evaluation.columns import TITLES
from vfn.evaluation.results import ChannelResult, finite
from vfn.evaluation.rows import ImageScores, mean_of, paired
from vfn.models.words import counted
from vfn.report.blocks import Part, Soft, Table
from vfn.report.wording import number

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
        return cls([result.rows[i] for i in done], [result.unrefocused[i] for i in done], rest)

    def ways(self) -> dict[str, Sequence[ImageScores]]:
        """The three ways to treat blurred fields -> the figures that the test set then has."""
        return {
            "refocused": [*self.sharp, *self.refocused],
            "as they are": [*self.sharp, *self.as_is],
            "left out": self.sharp,
        }

    @property
    def blurred(self) -> dict[str, Sequence[ImageScores]]:
        """Both ways to predict the blurred fields -> their figures."""
        return {"refocused": self.refocused, "as they are": self.as_is}

    def summary(self) -> dict[str, Any]:
        """Part of `summary.json`."""

        def means(ways: Mapping[str, Sequence[ImageScores]]) -> dict[str, Any]:
            return {w: {c: finite(mean_of(rows, c)) for c in COLUMNS} for w, rows in ways.items()}

        differences = {column: paired(self.as_is, self.refocused, column) for column in COLUMNS}
        return {
            "fields_refocused": len(self.refocused),
            "fields_in_focus": len(self.sharp),
            "ways": means(self.ways()),
            "blurred_fields": means(self.blurred),
            "difference": {
                column: {"mean": finite(p.difference), "low": finite(p.low), "high": finite(p.high)}
                for column, p in differences.items()
            },
        }

    def lines(self) -> list[list[str]]:
        """Return the rows of `refocus_gain.csv`."""
        return [
            [row.field, row.channel, name, *(f"{row.values[c]:.9g}" for c in COLUMNS)]
            for name, rows in {"in focus": self.sharp, **self.blurred}.items()
            for row in rows
        ]

    def sentence(self) -> str:
        """Return the result in a sentence."""
        p = paired(self.as_is, self.refocused, TELLING)
        fields = counted(len(self.refocused), "blurred field")
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
        ways = {f"all fields, blurred ones {way}": some for way, some in self.ways().items()}
        ways |= {f"blurred fields alone, {way}": some for way, some in self.blurred.items()}
        rows = [
            [way, str(len(some)), *(number(c, mean_of(some, c)) for c in shown)]
            for way, some in ways.items()
        ]
        note = (
            "The same model throughout: it was trained on refocused inputs, so that blurred ones are strange to it. What "
            "refocusing gains in training is told by models trained with data.refocus_action=keep and leave_out."
        )
        header = ["", "fields", *(TITLES[column] for column in shown)]
        table = Table(header, rows, (0,), "Refocused inputs", tall=True)
        return Part("Refocused inputs", [self.sentence(), table, Soft(note)])

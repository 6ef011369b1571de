"""The criteria of the verdict: which metric each judges, and its sentence."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vfn.evaluation.results import label

Level = Literal["use", "care", "do not use"]
LEVELS: tuple[Level, ...] = ("use", "care", "do not use")  # from the best to the worst
Figures = Mapping[str, Any]


class NotJudgedError(Exception):
    """Why a figure is not there."""


@dataclass(frozen=True)
class Band:
    """Values that pass, both ends included; infinite where one side is open."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Criterion:
    """One question that is put to a stain.

    Attributes:
        key: its name in the config.
        title: for tables.
        kind: "least" and "most" take one number as limit, "within" a lower and an upper one.
        spec: how the figure is written.
        unit: what follows the number, with its space.
        columns: that the figure is made of.
        figure: the number to judge, from a channel's part of `summary.json` and its count of fields.
        words: a sentence about it, from the same part, the number, and the number as it is written.
    """

    key: str
    title: str
    kind: Literal["least", "most", "within"]
    spec: str
    unit: str
    columns: tuple[str, ...]
    figure: Callable[[Figures, int], float]
    words: Callable[[Figures, float, str], str]

    def written(self, value: float) -> str:
        """The number with its unit."""
        return f"{value:{self.spec}}".replace("%", " %") + self.unit

    def wanted(self, band: Band) -> str:
        """A limit in words."""
        if self.kind == "within":
            return f"{band.low:g} to {self._limit(band.high)}"
        if self.kind == "least":
            return f"at least {self._limit(band.low)}"
        return f"at most {self._limit(band.high)}"

    def _limit(self, value: float) -> str:
        # As it stands in the config: 0.955 must not be shown as 0.95.
        return f"{100 * value:g} %" if self.spec.endswith("%") else f"{value:g}{self.unit}"


def _mean(figures: Figures, column: str, absent: str = "it was not measured") -> float:
    entry = figures.get(column)
    if entry is None:
        raise NotJudgedError(absent)
    if entry["mean"] is None:
        raise NotJudgedError(entry.get("note") or "it is undefined for these fields")
    return float(entry["mean"])


def _column(column: str) -> Callable[[Figures, int], float]:
    return lambda figures, _: _mean(figures, column)


def _best_baseline(figures: Figures) -> tuple[str, float]:
    known = {
        name: float(part["psnr_signal"]["mean"])
        for name, part in figures.get("baselines", {}).items()
        if part["psnr_signal"]["mean"] is not None
    }
    if not known:
        raise NotJudgedError("there is no baseline to compare with")
    name = max(known, key=lambda key: known[key])
    return label(name), known[name]


def _psnr_gain(figures: Figures, _: int) -> float:
    return _mean(figures, "psnr_signal") - _best_baseline(figures)[1]


def _against_baseline(figures: Figures, value: float, _: str) -> str:
    side = "better" if value >= 0 else "worse"
    name = _best_baseline(figures)[0]
    return f"The prediction is {abs(value):.2f} dB {side} (PSNR, signal range) than the {name}, which costs nothing"


def _shift(figures: Figures, _: int) -> float:
    return math.hypot(_mean(figures, "shift_rows"), _mean(figures, "shift_columns"))


def _share(part: str, whole: str, none: str) -> Callable[[Figures, int], float]:
    def share(figures: Figures, _: int) -> float:
        count, total = (_mean(figures, column, NO_OBJECTS) for column in (part, whole))
        if total == 0:
            raise NotJudgedError(none)
        return count / total

    return share


def _coverage(figures: Figures, _: int) -> float:
    reached = _mean(figures, "coverage", "no intervals were made")
    return abs(reached - float(figures["coverage_stated"]))


def _coverage_words(figures: Figures, _: float, written: str) -> str:
    reached, stated = figures["coverage"]["mean"], figures["coverage_stated"]
    return (
        f"Intervals that promise to hold {100 * stated:g} % of the real pixels hold "
        f"{100 * reached:.1f} %: {written} off"
    )


def _says(text: str) -> Callable[[Figures, float, str], str]:
    return lambda figures, value, written: text.format(written)


def _texture(_: Figures, value: float, written: str) -> str:
    what = "smoother" if value < 1 else "more textured"
    return (
        f"Fine detail has {written} times the power that it has in the truth: the picture is {what}"
    )


def _field_words(_: Figures, value: float, written: str) -> str:
    if value == 1:
        return "One field only: nothing is known about the variation between fields"
    return f"The figures rest on {written} fields"


NO_OBJECTS = "nuclei were not looked for in this stain"
# In the order of their weight for a reader.
CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "pearson", "agreement of bright and dark", "least", ".3f", "",
        ("pearson",), _column("pearson"), _says("Bright and dark places agree with r = {}"),
    ),
    Criterion(
        "psnr_gain", "gain over the best baseline", "least", "+.2f", " dB",
        ("psnr_signal",), _psnr_gain, _against_baseline,
    ),
    Criterion(
        "hallucinated", "hallucinated nuclei", "most", ".1%", "",
        ("hallucinated", "nuclei_predicted"),
        _share("hallucinated", "nuclei_predicted", "no nucleus was predicted"),
        _says("{} of the predicted nuclei do not exist"),
    ),
    Criterion(
        "missed", "missed nuclei", "most", ".1%", "",
        ("missed", "nuclei_truth"),
        _share("missed", "nuclei_truth", "there is no nucleus in the truth"),
        _says("{} of the real nuclei are missing"),
    ),
    Criterion(
        "f1_50", "nuclei found again", "least", ".3f", "",
        ("f1_50",), lambda figures, _: _mean(figures, "f1_50", NO_OBJECTS),
        _says("Real and predicted nuclei match with F1 = {} at IoU 0.5"),
    ),
    Criterion(
        "gain", "brightness", "within", ".2f", "",
        ("gain",), _column("gain"),
        _says("Where the truth brightens by 1 grey level, the prediction brightens by {}"),
    ),
    Criterion(
        "power_ratio", "fine detail", "within", ".2f", "",
        ("power_ratio",), _column("power_ratio"), _texture,
    ),
    Criterion(
        "shift", "place", "most", ".2f", " px",
        ("shift_rows", "shift_columns"), _shift, _says("The prediction lies {} from the truth"),
    ),
    Criterion(
        "coverage", "honesty of the intervals", "most", ".1%", "",
        ("coverage",), _coverage, _coverage_words,
    ),
    Criterion(
        "fields", "number of fields", "least", ".0f", "",
        (), lambda _, fields: float(fields), _field_words,
    ),
)  # fmt: skip

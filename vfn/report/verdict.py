"""The verdict on a predicted stain: use, use with care, or do not use, and what gave it.

Each criterion compares one figure of a stain with two limits; the verdict is the worst of them. What
was not measured, or is undefined, is said to be not judged and why; it never passes in silence. The
limits are the `verdict` part of `conf/evaluate.yaml`, and nowhere else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vfn.errors import UserError
from vfn.evaluation.results import label

Level = Literal["use", "care", "do not use"]
LEVELS: tuple[Level, ...] = ("use", "care", "do not use")  # from the best to the worst
WEIGHTIEST = 3  # sentences that stand for a verdict where there is no room for all

Figures = Mapping[str, Any]


class _NotJudgedError(Exception):
    """Why a figure is not there."""


@dataclass(frozen=True)
class Band:
    """Values that pass, both ends included; infinite where one side is open."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Limits:
    """What a criterion wants of its figure for "use", and at least for "care"."""

    use: Band
    care: Band


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


@dataclass(frozen=True)
class Judgement:
    """What one criterion found.

    Attributes:
        key: of the criterion.
        title: of the criterion.
        level: None if it could not be judged.
        figure: the number as text; "-" if there is none.
        wanted_use: limit for "use" in words.
        wanted_care: limit for "care" in words.
        sentence: figure and limit in a sentence, or why it was not judged.
    """

    key: str
    title: str
    level: Level | None
    figure: str
    wanted_use: str
    wanted_care: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Whether a predicted stain can be used.

    Attributes:
        level: the worst level of all judgements, "care" at most without a Pearson r, and "do not
            use" where nothing but the number of fields could be judged.
        judgements: every criterion, the weightiest first: the worst levels, then the order of
            `CRITERIA`; those that could not be judged come last.
        remark: what a reader must know before the judgements, such as why the level is worse than
            each of them; empty where there is nothing.
    """

    level: Level
    judgements: tuple[Judgement, ...]
    remark: str = ""

    @property
    def reasons(self) -> list[str]:
        """The two or three weightiest sentences."""
        judged = [j for j in self.judgements if j.level is not None]
        decisive = [j.sentence for j in judged if j.level == self.level]
        told = decisive if len(decisive) > 1 else [j.sentence for j in judged[:2]]
        return [*filter(None, [self.remark]), *told][:WEIGHTIEST]

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json`: the level, the weightiest reasons, the level of each criterion."""
        levels = {criterion.key: None for criterion in CRITERIA}
        return {
            "level": self.level,
            "reasons": self.reasons,
            "criteria": levels | {j.key: j.level for j in self.judgements},
        }

    @property
    def not_judged(self) -> list[Judgement]:
        """The criteria without a figure."""
        return [j for j in self.judgements if j.level is None]


def judge(figures: Figures, limits: Mapping[str, Limits], fields: int, remark: str = "") -> Verdict:
    """Judge one stain.

    Args:
        figures: the channel's part of `summary.json`: column -> mean, std, n (mean None where it is
            undefined); `baselines`; `coverage_stated`, the coverage that its intervals promise.
            Columns may be missing.
        limits: criterion -> limits, for every criterion; see `read_limits`.
        fields: number of fields that were scored.
        remark: what a reader must know first.
    """
    found = [_judge(criterion, figures, limits[criterion.key], fields) for criterion in CRITERIA]
    levels = {j.key: j.level for j in found if j.level is not None}
    worst = max(levels.values(), key=LEVELS.index)
    unjudged = ""
    if set(levels) <= {"fields"}:
        worst, unjudged = (
            "do not use",
            "No figure could be judged: nothing is known about this stain.",
        )
    elif worst == "use" and "pearson" not in levels:
        worst, unjudged = "care", (
            "Whether bright and dark places agree could not be judged, so the stain cannot be "
            "trusted fully."
        )  # fmt: skip
    weight = {j.key: -LEVELS.index(j.level) if j.level else 1 for j in found}
    return Verdict(
        worst,
        tuple(sorted(found, key=lambda j: weight[j.key])),
        " ".join(filter(None, (remark, unjudged))),
    )


def read_limits(node: Mapping[str, Any]) -> dict[str, Limits]:
    """Limits of every criterion from the `verdict` part of a config.

    Args:
        node: criterion -> {use: limit, care: limit}, a limit being a number, or [low, high] for
            criteria that want a figure within two ends.

    Raises:
        UserError: a criterion that is missing or unknown, a limit of the wrong kind, a "care" that
            is stricter than "use".
    """
    known = {criterion.key: criterion for criterion in CRITERIA}
    for key in (*node, *known):
        if (key in node) != (key in known):
            what = "unknown" if key in node else "missing"
            raise UserError(f"verdict.{key}: {what}; the criteria are {', '.join(known)}")
    return {key: _read_pair(known[key], node[key]) for key in known}


def _read_pair(criterion: Criterion, node: Any) -> Limits:
    name = f"verdict.{criterion.key}"
    if not isinstance(node, Mapping) or set(node) != {"use", "care"}:
        raise UserError(f"{name}={node}: give two limits, {name}.use and {name}.care")
    use, care = (_read_band(criterion, f"{name}.{key}", node[key]) for key in ("use", "care"))
    if use.low < care.low or use.high > care.high:
        raise UserError(
            f"{name}: use={node['use']} lets through what care={node['care']} does not; "
            "care must be the wider of the two"
        )
    return Limits(use, care)


def _read_band(criterion: Criterion, name: str, value: Any) -> Band:
    numbers = value if criterion.kind == "within" and isinstance(value, Sequence) else [value]
    right = len(numbers) == (2 if criterion.kind == "within" else 1) and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers
    )
    if not right or list(numbers) != sorted(numbers):
        kind = "[lower,upper]" if criterion.kind == "within" else "a number"
        raise UserError(f"{name}={value}: give {kind}")
    if criterion.kind == "within":
        return Band(*map(float, numbers))
    limit = float(numbers[0])
    return Band(limit, math.inf) if criterion.kind == "least" else Band(-math.inf, limit)


def _judge(criterion: Criterion, figures: Figures, limits: Limits, fields: int) -> Judgement:
    wanted_use, wanted_care = criterion.wanted(limits.use), criterion.wanted(limits.care)
    try:
        value = criterion.figure(figures, fields)
    except _NotJudgedError as exc:
        sentence = f"Not judged: {exc}."
        return Judgement(
            criterion.key, criterion.title, None, "-", wanted_use, wanted_care, sentence
        )
    words = criterion.words(figures, value, criterion.written(value))
    counted = min((figures[column]["n"] for column in criterion.columns), default=fields)
    if counted < fields:
        words += f" in {counted} of {fields} fields; in the others it has no finite value"
    if value in limits.use:
        level, reached = LEVELS[0], f"enough for use: {wanted_use}"
    elif value in limits.care:
        level, reached = LEVELS[1], f"use needs {wanted_use}"
    else:
        level, reached = LEVELS[2], f"even use with care needs {wanted_care}"
    return Judgement(
        criterion.key,
        criterion.title,
        level,
        criterion.written(value),
        wanted_use,
        wanted_care,
        f"{words} ({reached}).",
    )


def _mean(figures: Figures, column: str, absent: str = "it was not measured") -> float:
    entry = figures.get(column)
    if entry is None:
        raise _NotJudgedError(absent)
    if entry["mean"] is None:
        raise _NotJudgedError(entry.get("note") or "it is undefined for these fields")
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
        raise _NotJudgedError("there is no baseline to compare with")
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
            raise _NotJudgedError(none)
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

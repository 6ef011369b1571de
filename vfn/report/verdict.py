"""The verdict on a predicted stain: use, use with care, or do not use, and what gave it.

Each criterion compares one figure of a stain with two limits; the verdict is the worst of them. What
was not measured, or is undefined, is said to be not judged and why; it never passes in silence. The
limits are the `verdict` part of `conf/evaluate.yaml`, and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vfn.report.criteria import CRITERIA, LEVELS, Criterion, Figures, Level, NotJudgedError
from vfn.report.limits import Limits

WEIGHTIEST = 3  # sentences that stand for a verdict where there is no room for all


@dataclass(frozen=True)
class Judgement:
    """Result of one criterion.

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
    """Verdict on a predicted stain.

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


def _judge(criterion: Criterion, figures: Figures, limits: Limits, fields: int) -> Judgement:
    wanted_use, wanted_care = criterion.wanted(limits.use), criterion.wanted(limits.care)
    try:
        value = criterion.figure(figures, fields)
    except NotJudgedError as exc:
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

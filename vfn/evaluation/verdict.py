"""The verdict on a predicted stain, and on each purpose: use, use with care, or do not use.

Each criterion compares one figure with two limits; the worst of them decides. A criterion without a
figure is listed as not judged, with the reason. The limits are the `verdict` part of `conf/evaluate.yaml`.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from vfn.evaluation.criteria import (
    CRITERIA,
    FAILED,
    LEVELS,
    PURPOSES,
    Criterion,
    Measurement,
    NotJudgedError,
    Purpose,
    Stain,
    first_few,
)
from vfn.evaluation.limits import Limits
from vfn.models.verdicts import Level
from vfn.models.words import counted

WEIGHTIEST = 3  # sentences that stand for a verdict where there is no room for all
CONFIDENCE = 0.95  # of the intervals of the means
COMMON = (FAILED, "fields")  # belong to every purpose, and judge none alone
UNSPECIFIC = (*COMMON, "shift")  # a purpose is judged only if another criterion is


@dataclass(frozen=True)
class Judgement:
    """Result of one criterion.

    Attributes:
        criterion: that was judged.
        level: None if it could not be judged.
        figure: the number as text; "-" if there is none.
        wanted_use: limit for "use" in words.
        wanted_care: limit for "care" in words.
        sentence: figure and limit in a sentence, or why it was not judged.
    """

    criterion: Criterion
    level: Level | None
    figure: str
    wanted_use: str
    wanted_care: str
    sentence: str

    @property
    def key(self) -> str:
        """Key of the criterion."""
        return self.criterion.key

    @property
    def title(self) -> str:
        """Title of the criterion."""
        return self.criterion.title


class PurposeVerdict(NamedTuple):
    """Verdict for one read-out.

    Attributes:
        purpose: key of `PURPOSES`.
        title: the read-out in words.
        level: None if none of its figures could be judged.
        reason: sentence of the criterion that decides.
    """

    purpose: Purpose
    title: str
    level: Level | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Verdict on a predicted stain.

    Attributes:
        level: the worst level of all judgements, "care" at most without a Pearson r, and "do not
            use" where nothing but the number of fields could be judged.
        judgements: every criterion: the worst levels first, then in the order of `CRITERIA`; those
            that could not be judged come last.
        remark: a sentence that comes before the judgements; empty where there is none.
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

    @property
    def purposes(self) -> list[PurposeVerdict]:
        """Verdicts by purpose, in the order of `PURPOSES`."""
        return [self._of(purpose) for purpose in PURPOSES]

    def _of(self, purpose: Purpose) -> PurposeVerdict:
        own = [j for j in self.judgements if purpose in j.criterion.purposes]
        judged = [j for j in own if j.level is not None]
        if {j.key for j in judged} <= set(UNSPECIFIC):
            missing = [j for j in own if j.level is None and j.key not in UNSPECIFIC]
            return PurposeVerdict(purpose, PURPOSES[purpose], None, missing[0].sentence)
        return PurposeVerdict(purpose, PURPOSES[purpose], judged[0].level, judged[0].sentence)

    @property
    def not_judged(self) -> list[Judgement]:
        """The criteria without a figure."""
        return [j for j in self.judgements if j.level is None]

    def as_dict(self) -> dict[str, Any]:
        """Return the part `verdict` of `summary.json`."""
        levels = {criterion.key: None for criterion in CRITERIA}
        return {
            "level": self.level,
            "reasons": self.reasons,
            "criteria": levels | {j.key: j.level for j in self.judgements},
            "purposes": {
                p.purpose: {"title": p.title, "level": p.level, "reason": p.reason}
                for p in self.purposes
            },
        }


def judge(stain: Stain, limits: Mapping[str, Limits], remark: str = "") -> Verdict:
    """Judge one stain.

    Args:
        stain: its figures in each field.
        limits: criterion -> limits, for every criterion; see `read_limits`.
        remark: a sentence that comes first.
    """
    judgements = [_judge(criterion, limits, stain) for criterion in CRITERIA]
    levels = {j.key: j.level for j in judgements if j.level is not None}
    worst = max(levels.values(), key=LEVELS.index)
    unjudged = ""
    if set(levels) <= set(COMMON):
        worst = "do not use"
        unjudged = "No figure could be judged: nothing is known about this stain."
    elif worst == "use" and "pearson" not in levels:
        worst = "care"
        unjudged = (
            "The agreement of bright and dark places could not be judged, so the stain cannot be "
            "trusted fully."
        )
    weight = {j.key: -LEVELS.index(j.level) if j.level else 1 for j in judgements}
    return Verdict(
        worst,
        tuple(sorted(judgements, key=lambda j: weight[j.key])),
        " ".join(filter(None, (remark, unjudged))),
    )


def _judge(criterion: Criterion, limits: Mapping[str, Limits], stain: Stain) -> Judgement:
    own = limits[criterion.key]
    wanted_use, wanted_care = criterion.wanted(own.use), criterion.wanted(own.care)
    try:
        found = criterion.measure(stain)
    except NotJudgedError as exc:
        return Judgement(criterion, None, "-", wanted_use, wanted_care, f"Not judged: {exc}.")
    level = _level(criterion, found, own)
    reached = {
        "use": f"enough for use: {wanted_use}",
        "care": f"use needs {wanted_use}",
        "do not use": f"even use with care needs {wanted_care}",
    }[level]
    figure, notes = _figure(criterion, found, own, stain)
    failed = []
    if criterion.every_field:
        failed = [
            f"{name} ({criterion.written(value)})"
            for name, value in zip(stain.names, found.fields.tolist(), strict=True)
            if not math.isnan(value) and value not in own.care
        ]
    share = len(failed) / len(stain.names)
    by_fields = _step(share, share, limits[FAILED])
    if LEVELS.index(by_fields) > LEVELS.index(level):
        level, reached = by_fields, f"every field needs {wanted_care}"
    if failed:
        reached += f"; {len(failed)} of {counted(len(stain.names), 'field')} beyond that: {first_few(failed)}"
    # Names of fields may hold braces: the figure is put in, nothing else.
    words = found.words.replace("{}", figure, 1)
    sentence = f"{words} ({'; '.join([*notes, reached])})."
    return Judgement(criterion, level, figure, wanted_use, wanted_care, sentence)


def _level(criterion: Criterion, found: Measurement, limits: Limits) -> Level:
    spread = _spread(found, limits) if criterion.kind == "within" else 0.0
    level = _step(found.value - spread, found.value + spread, limits)
    return max(level, found.best, key=LEVELS.index)


def _step(low: float, high: float, limits: Limits) -> Level:
    for level, band in ((LEVELS[0], limits.use), (LEVELS[1], limits.care)):
        if low in band and high in band:
            return level
    return LEVELS[2]


def _spread(found: Measurement, limits: Limits) -> float:
    """Standard deviation between fields; those that fail are counted instead."""
    values = [value for value in found.fields.tolist() if value in limits.care]
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _figure(
    criterion: Criterion, found: Measurement, limits: Limits, stain: Stain
) -> tuple[str, list[str]]:
    """The figure as text, and what it rests on: spread, interval, number of fields and wells."""
    figure = criterion.written(found.value)
    if found.of:
        return figure, [f"of {found.of}"]
    defined = np.isfinite(found.fields)
    if not defined.any():
        return figure, []
    if criterion.kind == "within" and defined.sum() > 1:
        figure += f" ± {criterion.written(_spread(found, limits)).lstrip('+')}"
    name = stain.units[1]
    means = stain.unit_means(found.fields)
    rest = []
    if len(means) > 2 and np.ptp(means) > 0:
        error = stats.sem(means) * stats.t.ppf((1 + CONFIDENCE) / 2, len(means) - 1)  # type: ignore[attr-defined]
        ends = (float(np.mean(means)) + s * error for s in (-1, 1))
        low, high = (criterion.written(min(end, criterion.highest)) for end in ends)
        over = "wells" if name == "well" else "fields, if these are independent"
        rest.append(f"95 % interval {low} to {high} over {over}")
    fields = counted(int(defined.sum()), "field")
    if defined.sum() < len(stain.rows):
        fields = f"{int(defined.sum())} of {counted(len(stain.rows), 'field')}"
    rest.append(f"{fields} of {counted(len(means), 'well')}" if name == "well" else fields)
    return figure, rest

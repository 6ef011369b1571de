"""The criteria of the verdict: a figure for each field, the one that is judged, and its sentence.

Signed figures (gain, offset, outlines, fine detail) are judged by their mean and their spread between
fields: faults in opposite directions do not cancel. Fields whose truth shows no signal are judged by
their ground alone; a constant prediction of a truth that is not constant counts as r = 0.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vfn.evaluation.results import ChannelResult, label
from vfn.metrics.contrast import FAINT
from vfn.models.verdicts import Level
from vfn.models.words import counted

LEVELS: tuple[Level, ...] = ("use", "care", "do not use")  # from the best to the worst
Purpose = Literal["count", "outline", "where", "amount", "texture", "compare"]
PURPOSES: Mapping[Purpose, str] = {
    "count": "count and find nuclei",
    "outline": "outline nuclei",
    "where": "see where in the cell it lies",
    "amount": "measure how much each cell has",
    "texture": "profile texture and morphology",
    "compare": "compare wells or treatments",
}
FAIREST = 0.7  # ceiling of r below which noise of the truth is no excuse
BEST_PSNR = 99.0  # dB, of images that are the same
COUNTABLE = 10  # objects below which a field alone is not judged by them
NAMED = 3  # fields that a sentence names
WELLS = 3  # below which nothing is known about drift between wells
Values = NDArray[np.float64]


class NotJudgedError(Exception):
    """A figure is missing; the message says why."""


@dataclass(frozen=True)
class Band:
    """Values that pass, both ends included; infinite where one side is open."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Stain:
    """Figures of a predicted stain in n fields.

    Attributes:
        rows: column -> figure, for each field; columns may be missing.
        names: of the fields.
        wells: of the fields; empty where unknown.
        baselines: name -> `psnr_signal` in each field, (n,).
        over: objects that amounts were summed over: "nuclei", "cells" or "blocks".
        coverage: share of the pixels that the intervals promise to hold; None without intervals.
        promised: True if that is a guarantee; None if unknown.
        bleeding: the channel that bleeds into most fields; empty where unknown.
        surviving: share of the morphological features that survive; None if they were not measured.
    """

    rows: Sequence[Mapping[str, float]]
    names: Sequence[str]
    wells: Sequence[str] = ()
    baselines: Mapping[str, Values] = field(default_factory=dict)
    over: str = "nuclei"
    coverage: float | None = None
    promised: bool | None = None
    bleeding: str = ""
    surviving: float | None = None

    @classmethod
    def of(cls, result: ChannelResult, summary: Mapping[str, Any]) -> "Stain":
        """Return the figures of a channel; `summary` is its part of `summary.json`."""
        features = summary.get("features")
        named = summary.get("bleed_through", {}).get("channels", {})
        return cls(
            [row.values for row in result.rows],
            [row.field for row in result.rows],
            [row.well for row in result.rows],
            {
                name: np.array([row.values["psnr_signal"] for row in rows], float)
                for name, rows in result.baselines.items()
            },
            result.over,
            result.coverage,
            summary.get("coverage_promised"),
            max(named, key=lambda name: named[name], default=""),
            features["survive"] / features["n"] if features and features["n"] else None,
        )

    def column(self, name: str) -> Values:
        """Return a column, (n,); NaN where it is missing."""
        return np.array([row.get(name, math.nan) for row in self.rows], float)

    def signal(self, name: str) -> Values:
        """Return a column in the fields that show signal, (n,)."""
        return np.where(self.has_signal, self.column(name), math.nan)

    @property
    def has_signal(self) -> NDArray[np.bool_]:
        """True for fields whose truth shows any signal, (n,)."""
        return np.asarray(~(self.column("contrast_truth") < FAINT))

    @property
    def units(self) -> tuple[NDArray[np.intp], str]:
        """Number of the independent unit of each field, (n,), and "well" or "field"."""
        if len(self.wells) == len(self.rows) and all(self.wells):
            return np.unique(list(self.wells), return_inverse=True)[1], "well"
        return np.arange(len(self.rows)), "field"

    def as_a_whole(self, value: float, words: str, of: str = "") -> "Measurement":
        """Return a figure that no single field has."""
        return Measurement(np.full(len(self.rows), math.nan), value, words, of=of)

    def unit_means(self, values: Values) -> Values:
        """Return the mean of `values` (n,) in each unit that has any."""
        unit, _ = self.units
        defined = np.isfinite(values)
        count = np.bincount(unit[defined])
        total = np.bincount(unit[defined], values[defined])
        return np.asarray(total[count > 0] / count[count > 0])


@dataclass(frozen=True)
class Measurement:
    """One figure of a stain.

    Attributes:
        fields: the figure of each field, (n,); NaN where it does not apply or is undefined.
        value: the figure that is judged.
        words: a sentence about it.
        best: the best level that it can give.
        of: a count for the sentence ("412 nuclei"); empty for none.
    """

    fields: Values
    value: float
    words: str
    best: Level = "use"
    of: str = ""


@dataclass(frozen=True)
class Criterion:
    """One question that is put to a stain.

    Attributes:
        key: its name in the config.
        title: for tables.
        purposes: read-outs that it decides.
        kind: "least" and "most" take one number as limit, "within" a lower and an upper one.
        spec: format of the figure.
        unit: text after the number, with its space.
        measure: raises `NotJudgedError` where there is no figure.
        every_field: fields beyond the limit for care count, too, by the limits of `failed_fields`.
        highest: largest value that the figure can take.
    """

    key: str
    title: str
    purposes: tuple[Purpose, ...]
    kind: Literal["least", "most", "within"]
    spec: str
    unit: str
    measure: Callable[[Stain], Measurement]
    every_field: bool = False
    highest: float = math.inf

    def written(self, value: float) -> str:
        """Return the number with its unit."""
        return f"{value:{self.spec}}".replace("%", " %") + self.unit

    def wanted(self, band: Band) -> str:
        """Return a limit in words."""
        if self.kind == "within":
            return f"{self._limit(band.low).removesuffix(self.unit)} to {self._limit(band.high)}"
        if self.kind == "least":
            return f"at least {self._limit(band.low)}"
        return f"at most {self._limit(band.high)}"

    def _limit(self, value: float) -> str:
        # As it stands in the config: 0.955 must not be shown as 0.95.
        return f"{100 * value:g} %" if self.spec.endswith("%") else f"{value:g}{self.unit}"


def mean(
    values: Values, absent: str = "it was not measured, or is undefined in every field"
) -> float:
    """Return the mean of the defined values.

    Raises:
        NotJudgedError: there is none; `absent` says why.
    """
    found = values[np.isfinite(values)]
    if not found.size:
        raise NotJudgedError(absent)
    return float(statistics.mean(found.tolist()))  # exact: equal figures stay within a limit


def _plain(stain: Stain, column: str, words: str) -> Measurement:
    values = stain.signal(column)
    return Measurement(values, mean(values), words)


def _ceiling(stain: Stain) -> Values:
    """Highest r that the noise of the truth allows, (n,)."""
    ceiling = stain.column("pearson_ceiling")
    return np.where(np.isfinite(ceiling), ceiling.clip(FAIREST, 1), 1.0)


def _pearson(stain: Stain) -> Measurement:
    values, ceiling = stain.signal("pearson"), _ceiling(stain)
    # Beside a gain r is undefined only for a constant prediction.
    constant = stain.has_signal & np.isnan(values) & np.isfinite(stain.column("gain"))
    values = np.where(constant, 0.0, values)
    fair = np.minimum(values / ceiling, np.maximum(values, 1.0))
    words = "Bright and dark places agree with r = {}"
    if mean(ceiling) < 0.99:
        words += f" of what the noise of the truth allows (r {mean(values):.3f}, highest possible {mean(ceiling):.3f})"
    return Measurement(fair, mean(fair, "r is undefined in every field"), words)


def _gain(stain: Stain) -> Measurement:
    raw = stain.signal("gain")
    # Noise of the truth lowers the slope, unless the prediction repeats it: the right one lies between.
    free = raw / _ceiling(stain) ** 2
    values = np.where(
        np.isfinite(raw), np.clip(1.0, np.minimum(raw, free), np.maximum(raw, free)), raw
    )
    words = "Where the truth brightens by 1 grey level, the prediction brightens by {}"
    return Measurement(values, mean(values), words)


def _psnr_gain(stain: Stain) -> Measurement:
    shown = stain.has_signal
    known = {name: values[shown] for name, values in stain.baselines.items()}
    means = {name: mean(v) for name, v in known.items() if np.isfinite(v).any()}
    if not means:
        raise NotJudgedError("there is no baseline to compare with")
    name = max(means, key=lambda key: means[key])
    own = stain.signal("psnr_signal")
    own = np.where(own == math.inf, BEST_PSNR, own)
    gain = own - stain.baselines[name]
    value = mean(gain)
    side = "better" if value >= 0 else "worse"
    words = f"The prediction is {abs(value):.2f} dB {side} (PSNR, signal range) than the {label(name)}, which costs nothing"
    return Measurement(gain, value, words)


def _share(stain: Stain, part: str, whole: str, none: str, words: str) -> Measurement:
    count, total = stain.column(part), stain.column(whole)
    mean(total, NO_OBJECTS)
    if np.nansum(total) == 0:
        raise NotJudgedError(none)
    shares = np.full(len(total), math.nan)
    np.divide(count, total, out=shares, where=total >= COUNTABLE)
    counted, objects = float(np.nansum(count)), float(np.nansum(total))
    return Measurement(shares, counted / objects, words, of=f"{objects:.0f} nuclei")


def _counted(stain: Stain, column: str, words: str) -> Measurement:
    values = stain.column(column)
    value = mean(values, NO_OBJECTS)
    few = stain.column("nuclei_truth") < COUNTABLE
    return Measurement(np.where(few, math.nan, values), value, words)


def _amounts(stain: Stain, column: str, words: str) -> Measurement:
    values = stain.signal(column)
    values = np.where(stain.column("amount_n") < COUNTABLE, math.nan, values)
    unit = {"nuclei": "nucleus", "cells": "cell"}.get(stain.over, "block of 64 x 64 px")
    value = mean(values, f"no field has {COUNTABLE} objects with an amount")
    return Measurement(values, value, words.replace("UNITS", stain.over).replace("UNIT", unit))


def _offset(stain: Stain) -> Measurement:
    values = stain.column("bias_signal")
    return Measurement(values, mean(values), "The mean error is {} of the signal range")


def _bleeding(stain: Stain) -> Measurement:
    values = np.abs(stain.signal("bleed_through"))
    mostly = f" (mostly of {stain.bleeding})" if stain.bleeding else ""
    words = "{} of another channel shows in the error" + mostly
    return Measurement(values, mean(values, "no other channel of these fields is known"), words)


def _texture(stain: Stain) -> Measurement:
    values = stain.signal("power_ratio")
    value = mean(values, "the truth has no detail above its noise")
    picture = "smoother" if value < 1 else "more textured"
    words = "Fine detail has {} times the power that it has in the truth: the picture is "
    return Measurement(values, value, words + picture)


def _features(stain: Stain) -> Measurement:
    if stain.surviving is None:
        raise NotJudgedError("features were not measured (features=true)")
    return stain.as_a_whole(stain.surviving, "{} of the CellProfiler features survive")


def _coverage(stain: Stain) -> Measurement:
    reached = stain.column("coverage")
    value = mean(reached, "no intervals were made")
    assert stain.coverage is not None
    words = f"Intervals that promise to hold {100 * stain.coverage:g} % of the real pixels hold {100 * value:.1f} %"
    if stain.promised is False:
        words += "; too few validation fields stand behind that promise"
    short = (stain.coverage - reached).clip(0)
    best: Level = "care" if stain.promised is False else "use"
    return Measurement(short, max(0.0, stain.coverage - value), words + ": {} short", best)


def _drift(stain: Stain) -> Measurement:
    values = stain.signal("gain")
    if stain.units[1] == "field":
        raise NotJudgedError("the wells of the fields are not known")
    means = stain.unit_means(values)
    if len(means) < WELLS:
        raise NotJudgedError(f"{len(means)} wells: drift between wells takes {WELLS}")
    words = "Brightness against the truth varies by {} (standard deviation) between wells"
    return stain.as_a_whole(float(np.std(means, ddof=1)), words)


def _fields(stain: Stain) -> Measurement:
    n = int(stain.has_signal.sum())
    words = "The figures rest on {} fields with signal"
    if n == 1:
        words = "One field with signal only: nothing is known about the variation between fields"
    return stain.as_a_whole(n, words)


def _failed(stain: Stain) -> Measurement:
    """Share of the fields that are wrong as a whole, whatever the figures."""
    pearson, gain, mae = (stain.column(name) for name in ("pearson", "gain", "mae"))
    broken = np.array(["mae" in row for row in stain.rows]) & np.isnan(mae)
    constant = stain.has_signal & np.isnan(pearson) & np.isfinite(gain)
    invented = ~stain.has_signal & (stain.column("contrast") > 2 * FAINT)
    why = {
        "not finite": broken,
        "no signal in the prediction": constant,
        "signal in an empty field": invented,
    }
    failed = np.any(list(why.values()), axis=0)
    told = [
        f"{name} ({reason})"
        for reason, where in why.items()
        for name, here in zip(stain.names, where, strict=True)
        if here
    ]
    words = "{} of the fields are wrong as a whole" + (f": {first_few(told)}" if told else "")
    return stain.as_a_whole(float(failed.mean()), words, counted(len(failed), "field"))


def first_few(names: Sequence[str]) -> str:
    """Return the first names as text, and the number of the others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


FAILED = "failed_fields"
NO_OBJECTS = "nuclei were not looked for in this stain"
# In the order of their weight for a reader.
CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "pearson", "agreement of bright and dark", ("where", "texture"), "least", ".3f", "", _pearson, True, 1.0,
    ),
    Criterion(
        "psnr_gain", "gain over the best baseline", ("where", "amount"), "least", "+.2f", " dB", _psnr_gain,
    ),
    Criterion(
        "hallucinated", "hallucinated nuclei", ("count",), "most", ".1%", "",
        partial(
            _share, part="hallucinated", whole="nuclei_predicted", none="no nucleus was predicted",
            words="{} of the predicted nuclei do not exist",
        ),
    ),
    Criterion(
        "missed", "missed nuclei", ("count",), "most", ".1%", "",
        partial(
            _share, part="missed", whole="nuclei_truth", none="there is no nucleus in the truth",
            words="{} of the real nuclei are missing",
        ),
    ),
    Criterion(
        "f1_50", "nuclei found again", ("count", "outline"), "least", ".3f", "",
        partial(_counted, column="f1_50", words="Real and predicted nuclei match with F1 = {} at IoU 0.5"), True, 1.0,
    ),
    Criterion(
        "matched_iou", "overlap of outlines", ("outline",), "least", ".3f", "",
        partial(_counted, column="matched_iou", words="Matched nuclei overlap with a mean IoU of {}"), highest=1.0,
    ),
    Criterion(
        "outline_shift", "place of outlines", ("outline",), "within", "+.2f", " px",
        partial(_counted, column="outline_shift", words="Outlines lie {} outside of the real ones"), True,
    ),
    Criterion(
        "amount_off", "cells with a wrong amount", ("amount",), "most", ".1%", "",
        partial(_amounts, column="amount_off", words="{} of the UNITS have an amount that is off by more than 25 %"),
    ),
    Criterion(
        "amount_r", "amount in each cell", ("amount", "compare"), "least", ".3f", "",
        partial(_amounts, column="amount_r", words="Real and predicted amount in each UNIT agree with r = {}"), highest=1.0,
    ),
    Criterion("gain", "brightness", ("amount", "compare"), "within", ".2f", "", _gain, True),
    Criterion("offset", "ground level", ("amount", "compare"), "within", "+.1%", "", _offset, True),
    Criterion(
        "shading", "evenness over the field", ("amount", "compare"), "most", ".2f", "",
        partial(_plain, column="shading", words="The brightness of the prediction against the truth changes by {} over a field"), True,
    ),
    Criterion("bleed_through", "signal of other channels", ("where", "amount"), "most", ".1%", "", _bleeding, True),
    Criterion(
        "shift", "place", ("where", "outline"), "most", ".2f", " px",
        partial(_plain, column="shift_local", words="The prediction lies {} from the truth"), True,
    ),
    Criterion("power_ratio", "fine detail", ("texture",), "within", ".2f", "", _texture, True),
    Criterion("features", "features that survive", ("texture",), "least", ".1%", "", _features),
    Criterion("coverage", "honesty of the intervals", ("amount",), "most", ".1%", "", _coverage),
    Criterion("drift", "drift between wells", ("compare",), "most", ".2f", "", _drift),
    Criterion(FAILED, "fields wrong as a whole", tuple(PURPOSES), "most", ".1%", "", _failed),
    Criterion("fields", "number of fields", tuple(PURPOSES), "least", ".0f", "", _fields),
)  # fmt: skip

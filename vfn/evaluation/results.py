"""Results of a channel: metrics per field and a few histograms of fixed size."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfn.data.intensity import stretched
from vfn.evaluation.columns import HIGHER_IS_BETTER
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import ChannelRanges, Range
from vfn.evaluation.rows import ImageScores, summarise
from vfn.evaluation.stain import Measured
from vfn.metrics.agreement import Agreement, agree
from vfn.metrics.coverage import RiskCoverage
from vfn.metrics.matching import Found

Float = NDArray[np.float64]
T = TypeVar("T")

MODEL = "prediction"
# What the usual baselines are called in reports, in their order there; others keep their own name and come last.
LABELS = {
    MODEL: "prediction",
    "filter": "linear filter of the inputs",
    "linear": "linear map of the inputs",
    "median": "median of the training target",
    "mean": "mean of the training target",
    "input": "input as it is",
    "wiener": "Wiener filter",
}
SCATTER_BINS = 160
# Scales of the error map, fractions of the signal range: the smallest that holds 99 % of the pixels.
ERROR_SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)
_ERROR_BINS = 200
SCALES = 5  # times as wide: ranges of grey values that are called different scales


@dataclass
class ChannelResult:
    """Everything that is reported of one channel.

    Attributes:
        name: of the channel.
        ranges: its full and signal range.
        rows: the prediction's figures, one row a field.
        baselines: the same for every baseline, by name.
        indices: the source's number of the field of each row.
        scatter: pixels counted by truth (first axis) and prediction within `scatter_range`.
        found: nuclei that went wrong, each with the name of its field; None for other stains.
        over: what amounts of stain were summed over, "nuclei", "cells" or "blocks"; empty if over nothing.
        coverage: share of the pixels that the prediction's intervals state, if there are any.
        promised: True if that is guaranteed for new wells or fields; None if unknown.
        risk: how these intervals rank errors.
        unrefocused: number of a row -> figures of the prediction from the blurred inputs as they are.
    """

    name: str
    ranges: ChannelRanges
    rows: list[ImageScores] = field(default_factory=list)
    baselines: dict[str, list[ImageScores]] = field(default_factory=dict)
    indices: list[int] = field(default_factory=list)
    scatter: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((SCATTER_BINS, SCATTER_BINS), np.int64)
    )
    found: list[tuple[str, Found]] | None = None
    over: str = ""
    coverage: float | None = None
    promised: bool | None = None
    risk: RiskCoverage | None = None
    unrefocused: dict[int, ImageScores] = field(default_factory=dict)
    _extents: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # dtype and ends
    _ends: list[tuple[float, float, float]] = field(default_factory=list)
    _amounts: list[tuple[Float, Float]] = field(default_factory=list)
    _errors: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_ERROR_BINS + 1, np.int64))

    def add(self, index: int, pair: FieldPair, i: int, measured: Measured) -> None:
        """Take up channel number `i` of a field, and what was measured of it.

        Args:
            index: number of the field in the source.
        """
        if measured.unrefocused is not None:
            self.unrefocused[len(self.rows)] = measured.unrefocused
        self.indices.append(index)
        self.rows.append(measured.row)
        for name, row in measured.baselines.items():
            self.baselines.setdefault(name, []).append(row)
        if measured.found is not None:
            self.found = self.found or []
            self.found += [(pair.field, fault) for fault in measured.found]
        self.over = measured.over or self.over
        self._amounts.append((measured.truth_amounts, measured.predicted_amounts))
        prediction, truth = pair.prediction[i], pair.truth[i]
        if "coverage" in measured.row.values:
            assert pair.halfwidth is not None
            self.coverage = pair.coverage
            self.promised = None if pair.promised is None else pair.promised[i]
            self.risk = self.risk or RiskCoverage(self.signal_width)
            self.risk.add(prediction, truth, pair.halfwidth[i])
        high = truth.max()
        self._ends.append((float(truth.min()), float(high), float((truth == high).mean())))
        p, t = prediction.astype(np.float32), truth.astype(np.float32)
        finite = np.isfinite(p)
        p, t = p[finite], t[finite]
        for of, image, dtype in ((MODEL, p, prediction.dtype), ("truth", t, truth.dtype)):
            low, high = (image.min(), image.max()) if image.size else (0.0, 0.0)
            first, *ends = self._extents.get(of, (dtype.name, low, high))
            self._extents[of] = first, min(float(low), ends[0]), max(float(high), ends[1])
        self._count_scatter(p, t)
        error = np.minimum(np.abs(p - t) * (_ERROR_BINS / self.signal_width), _ERROR_BINS)
        self._errors += np.bincount(error.astype(np.int64), minlength=_ERROR_BINS + 1)

    def remark(self) -> str:
        """Return a sentence about the images that a reader must know first; empty for none."""
        remarks = [self.other_scale()]
        if stretched(self._ends, self.ranges.dtype):
            remarks.append(
                "The real images were stretched one by one: amounts cannot be compared between fields."
            )
        return " ".join(filter(None, remarks))

    def other_scale(self) -> str:
        """Return a remark where predictions plainly are on another scale than truths, else an empty string.

        Only another dtype makes it plain: a poor prediction may be flat, too.
        """
        (dtype, low, high), (true_dtype, *ends) = self._extents[MODEL], self._extents["truth"]
        flat = (high - low) * SCALES < self.signal_width
        if dtype == true_dtype or not (flat or high - low > SCALES * (ends[1] - ends[0])):
            return ""
        predicted, true = (
            f"{name}, {' to '.join(f'{v:.0f}' if abs(v) >= 100 else f'{v:.2g}' for v in values)}"
            for name, *values in self._extents.values()
        )
        return f"Predictions are {predicted}; truths {true}: another scale?"

    def amounts(self) -> tuple[Float, Float]:
        """Integrated intensities of all nuclei (cells, blocks) in truth and prediction, (n,) each."""
        truth, prediction = zip(*self._amounts, strict=True)
        return np.concatenate(truth), np.concatenate(prediction)

    def agreement(self) -> Agreement:
        """Agreement of these amounts."""
        return agree(*self.amounts())

    def _count_scatter(self, prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        shown = self.scatter_range
        places = (np.stack([truth, prediction]) - shown.low) * (SCATTER_BINS / shown.width)
        inside = ((places >= 0) & (places < SCATTER_BINS)).all(axis=0)
        x, y = places[:, inside].astype(np.int64)
        counts = np.bincount(x * SCATTER_BINS + y, minlength=SCATTER_BINS**2)
        self.scatter += counts.reshape(SCATTER_BINS, SCATTER_BINS)

    @property
    def signal_width(self) -> float:
        """Width of the signal range; 1 where it is empty, so that images can still be shown."""
        return self.ranges.signal.width or 1.0

    @property
    def scatter_range(self) -> Range:
        """The signal range and some room about it."""
        low, width = self.ranges.signal.low, self.signal_width
        return Range(low - 0.05 * width, low + 1.25 * width)

    @property
    def scatter_share(self) -> float:
        """Fraction of all pixels that the scatter shows."""
        return float(self.scatter.sum() / self.ranges.pixels)

    @property
    def error_scale(self) -> float:
        """Half-width of the error map's scale, fraction of the signal range."""
        share = np.cumsum(self._errors) / max(int(self._errors.sum()), 1)
        for scale in ERROR_SCALES[:-1]:
            if share[int(scale * _ERROR_BINS) - 1] >= 0.99:
                return scale
        return ERROR_SCALES[-1]

    def systems(self) -> dict[str, Sequence[ImageScores]]:
        """Rows of the prediction first, then of the baselines in the order of `LABELS`."""
        return {MODEL: self.rows, **in_order(self.baselines)}

    def summary(self) -> dict[str, Any]:
        """This channel's part of `summary.json`."""
        full, signal = self.ranges.full, self.ranges.signal
        figures = summarise(self.rows)
        if mixed_in := Counter(row.mixed_in for row in self.rows if row.mixed_in):
            figures["bleed_through"]["channels"] = dict(mixed_in.most_common())
        return {
            **figures,
            "range_full": [full.low, full.high],
            "range_signal": [signal.low, signal.high],
            "range_full_origin": self.ranges.full_origin,
            "baselines": {name: summarise(rows) for name, rows in self.baselines.items()},
            **self._beyond_pixels(),
        }

    def _beyond_pixels(self) -> dict[str, Any]:
        """Parts of the summary that not every stain has."""
        parts: dict[str, Any] = {}
        if self.over:
            found = self.agreement()
            parts["amounts"] = {
                "over": self.over,
                **{
                    name if name in ("n", "slope", "r") else f"{name}_percent": finite(value)
                    for name, value in found.figures().items()
                },
                "note": found.reason,
            }
        if self.coverage is not None and self.risk is not None:
            curve = self.risk.curve()
            parts["coverage_stated"] = self.coverage
            parts["coverage_promised"] = self.promised
            parts["risk_coverage"] = {
                "retained": curve.retained.tolist(),
                "risk": curve.risk.tolist(),
                "oracle": curve.oracle.tolist(),
                "random": curve.random,
                "skill": finite(curve.skill),
            }
        return parts

    def ranking(self) -> list[int]:
        """ImageScores numbers from the worst to the best, by PSNR on the signal range.

        Fields that have no such figure come first: they are the ones to look at.
        """

        def key(i: int) -> tuple[bool, float, float]:
            values = self.rows[i].values
            psnr, mae = values["psnr_signal"], values["mae"]
            worse = 0.0 if math.isnan(mae) else -mae
            return (False, 0.0, worse) if math.isnan(psnr) else (True, psnr, worse)

        return sorted(range(len(self.rows)), key=key)


def finite(value: float) -> float | None:
    """None where the value is undefined, which JSON writes as null."""
    return value if math.isfinite(value) else None


def in_order(baselines: Mapping[str, T]) -> dict[str, T]:
    """Return the baselines in the order of `LABELS`, others by name behind them."""
    known = [*LABELS, *sorted(set(baselines) - set(LABELS))]
    return {name: baselines[name] for name in known if name in baselines}


def label(system: str) -> str:
    """Name of a prediction or baseline in words."""
    return LABELS.get(system, system)


def best_systems(means: Mapping[str, Mapping[str, float | None]]) -> dict[str, str]:
    """Return the system with the best mean of each column; columns with one system are left out.

    Args:
        means: system -> column -> mean over fields, None where undefined.
    """
    best: dict[str, str] = {}
    for column, higher in HIGHER_IS_BETTER.items():
        known = {name: m for name, row in means.items() if (m := row.get(column)) is not None}
        if len(known) > 1 and len(set(known.values())) > 1:
            best[column] = (max if higher else min)(known, key=lambda name: known[name])
    return best


def shown_rows(ranking: Sequence[int], limit: int) -> list[tuple[int, str]]:
    """Choose the fields to show, and why: worst, median and best first, then evenly through the ranking.

    Returns:
        (row number, words such as "worst" or "rank 3 of 40 from the worst"), at most `limit`.
    """
    count = len(ranking)
    if count == 1:
        return [(ranking[0], "the only field")]
    places = {0: "worst", (count - 1) // 2: "median", count - 1: "best"}
    if count == 2:
        places = {0: "worse", 1: "better"}
    for place in np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist():
        if len(places) < limit:
            places.setdefault(place, f"rank {place + 1} of {count} from the worst")
    return [(ranking[place], words) for place, words in places.items()]

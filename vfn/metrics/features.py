"""Feature fidelity: do CellProfiler's measurements survive when channels are predicted?

As section 3.2 and figure 8 of the paper: features of nuclei, cells and cytoplasm are measured on the
real channels and on a hybrid set, in which predicted channels stand for the real ones that they
replace; Pearson's r of each feature then says how far an assay that reads it can be trusted. The
measurements are cp-measure's (CellProfiler's algorithms), an extra.

Objects. A user of predicted stains has no real ones, so that nuclei and cells are segmented in each
set's own channels, and features of a field are means over its objects: nothing needs matching. With
few fields a correlation over fields says nothing; then the real set's objects are laid on both sets
and r is over objects. `FeatureResult.level` says which of the two was done.

What is equal by construction is not measured: features of real channels alone, where the objects are
the same in both sets, and the size, shape and neighbours of such objects.

Grey values are divided by one number a channel, the same for all fields and both sets: r of most
features does not depend on it, but textures are counted in 256 levels of [0, 1].
"""

import math
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import combinations
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from statistics import NormalDist, median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vfn.errors import UserError
from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.metrics.objects import is_nuclear, segment_cells, segment_nuclei
from vfn.system.progress import progress

Array = NDArray[Any]
Level = Literal["fields", "objects"]
Segment = Callable[[Array, Array | None, float | None], tuple[Array, Array | None]]

GROUPS = (
    "intensity",
    "texture",
    "granularity",
    "radial distribution",
    "size and shape",
    "correlation",
    "neighbours",
)
COMPARTMENTS = ("nuclei", "cells", "cytoplasm")
BODY_WORDS = ("rna", "er", "agp", "actin", "golgi", "mito")  # the best to see whole cells in first
MIN_FIELDS = 8  # below, r is over objects
SURVIVES = 0.8  # r from which a read-out is said to survive

# cp-measure's functions by group. Costes' thresholds are left out: they take longer than all others.
_PIXELS = {
    "intensity": "intensity",
    "texture": "texture",
    "granularity": "granularity",
    "radial_distribution": "radial distribution",
    "radial_zernikes": "radial distribution",
}
_SHAPE = ("sizeshape", "zernike", "feret")
_PAIRS = ("pearson", "manders_fold", "rwc")
# Places in the field, angles and numbers of objects, whose means over objects say nothing; moments
# that are never defined.
_NO_FEATURES = (
    "NormalizedMoment_0_0", "NormalizedMoment_0_1", "NormalizedMoment_1_0",
    "Location_", "Center_", "BoundingBoxM", "Orientation", "RadialDistribution_ZernikePhase_",
    "Neighbors_FirstClosestObjectNumber", "Neighbors_SecondClosestObjectNumber",
)  # fmt: skip
_NEIGHBOURS = {"nuclei": "Expand until adjacent", "cells": "Adjacent"}


@dataclass(frozen=True)
class Feature:
    """One measurement.

    Attributes:
        name: cp-measure's name of it.
        group: one of `GROUPS`.
        compartment: one of `COMPARTMENTS`.
        channels: whose pixels are measured, two for a correlation; for size, shape and neighbours
            the channels in which the objects are found.
    """

    name: str
    group: str
    compartment: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class ObjectChannels:
    """In which channels objects are found: nuclei in `nuclear`, cells about them in `body`."""

    nuclear: str
    body: str | None = None

    def of(self, compartment: str) -> tuple[str, ...]:
        """The channels that the outlines of a compartment depend on."""
        if compartment == "nuclei" or self.body is None:
            return (self.nuclear,)
        return (self.nuclear, self.body)


def object_channels(
    channels: Iterable[str],
    predicted: Collection[str] = (),
    nuclear: str | None = None,
    body: str | None = None,
) -> ObjectChannels:
    """Which channels to segment in; those given, else by usual names, real channels first for cells.

    Raises:
        UserError: a channel that is not there, no channel of nuclei.
    """
    names = list(dict.fromkeys(channels))
    for given in (nuclear, body):
        if given is not None and given not in names:
            raise UserError(f"no channel {given} among {','.join(names)}; name one of these")
    nuclear = nuclear or next(filter(is_nuclear, names), None)
    if nuclear is None:
        raise UserError(
            f"features need a channel of nuclei, none of {','.join(names)} is known as one; "
            "say which it is, or add the real one to the inputs"
        )
    ranks = {
        name: (name in predicted, BODY_WORDS.index(word))
        for name in names
        if name != nuclear
        for word in sorted(_words(name).intersection(BODY_WORDS), key=BODY_WORDS.index)[:1]
    }
    return ObjectChannels(nuclear, body or min(ranks, key=ranks.__getitem__, default=None))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.casefold()))


@dataclass(frozen=True)
class FeatureRow:
    """How well one feature survives.

    Attributes:
        feature: which.
        depends_on: the predicted channels that it depends on, by pixels or by outlines of objects.
        r: Pearson's r of real and hybrid values; NaN if `note` says why.
        low, high: 95 % confidence interval of r (Fisher's z); NaN for fewer than four values.
        n: number of pairs of values, fields or objects.
        note: why r is undefined.
    """

    feature: Feature
    depends_on: tuple[str, ...]
    r: float
    low: float
    high: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class FeatureResult:
    """Every feature that a prediction can change.

    Attributes:
        rows: the features, by group, compartment, channels, name.
        level: what r is over: "fields" (means over objects) or "objects" (pooled over fields).
        channels: where objects were found.
        predicted: the predicted channels.
        fields: number of fields measured.
        objects: number of nuclei in the real channels.
        left_out: fields that could not be measured, and why.
    """

    rows: tuple[FeatureRow, ...]
    level: Level
    channels: ObjectChannels
    predicted: tuple[str, ...]
    fields: int
    objects: int
    left_out: Mapping[str, str]

    def of_channel(self, channel: str) -> tuple[FeatureRow, ...]:
        """Features measured in one predicted channel, or of outlines found in it.

        What other channels show within outlines found in it is theirs; `depends_on` names it.
        """
        return tuple(row for row in self.rows if channel in row.feature.channels)

    def notes(self) -> list[str]:
        """How it was computed and what is missing, in sentences."""
        where = f"nuclei found in {self.channels.nuclear}"
        if self.channels.body:
            where += f", cells in {self.channels.body}"
        how = (
            f"r over the means of {self.fields} fields, objects segmented in real and hybrid channels "
            f"apart ({where})."
            if self.level == "fields"
            else f"r over {self.objects} objects of {self.fields} field(s), too few for a correlation "
            f"over fields: the objects of the real channels were laid on both sets ({where}), size, "
            "shape and neighbours are therefore equal and left out. Objects of one field are not "
            "independent: the intervals are narrower than over fields."
        )
        return [
            how,
            "Features that no predicted channel enters are equal by construction (r = 1) and left out.",
            *(
                f"{count} field(s) not measured: {reason}."
                for reason, count in Counter(self.left_out.values()).items()
            ),
        ]

    def summary(self, threshold: float = SURVIVES) -> dict[str, Any]:
        """For `summary.json`: counts, median r and survivors, in all and by group and compartment."""
        parts = {
            group: {
                compartment: _counted(rows, threshold)
                for compartment in COMPARTMENTS
                if (rows := self._part(group, compartment))
            }
            for group in GROUPS
        }
        return {
            **_counted(self.rows, threshold),
            "threshold": threshold,
            "level": self.level,
            "fields": self.fields,
            "objects": self.objects,
            "groups": {group: part for group, part in parts.items() if part},
            "notes": self.notes(),
        }

    def _part(self, group: str, compartment: str) -> list[FeatureRow]:
        return [
            row
            for row in self.rows
            if (row.feature.group, row.feature.compartment) == (group, compartment)
        ]


def survivors(rows: Iterable[FeatureRow], threshold: float = SURVIVES) -> list[FeatureRow]:
    """The features with r above the threshold, the surest (highest lower bound) first."""
    return sorted(
        (row for row in rows if row.r > threshold),
        key=lambda row: (-row.low if math.isfinite(row.low) else math.inf, -row.r),
    )


def _counted(rows: Sequence[FeatureRow], threshold: float) -> dict[str, Any]:
    known = [row for row in rows if math.isfinite(row.r)]
    return {
        "n": len(known),
        "undefined": len(rows) - len(known),
        "median_r": median(row.r for row in known) if known else None,
        "survive": sum(row.r > threshold for row in known),
        "surely_survive": sum(row.low > threshold for row in known),
    }


def measure(
    images: Mapping[str, Array],
    labels: Mapping[str, Array],
    origin: ObjectChannels,
    involving: Mapping[str, Collection[str]] | None = None,
) -> dict[Feature, Array]:
    """Measure the objects of one field.

    Args:
        images: channel -> (H, W), on a scale where stains lie in [0, 1]; more is allowed.
        labels: compartment -> (H, W), objects numbered from 1, background 0.
        origin: where the objects were found.
        involving: compartment -> channels, of which each feature measured must involve one; size,
            shape and neighbours are then left out. A compartment that is missing is measured whole.

    Returns:
        Values (N,) for the N objects of the compartment, in the order of their numbers; NaN where
        undefined. Compartments without objects give nothing.

    Raises:
        UserError: cp-measure is not installed.
    """
    core, correlation, neighbours = _functions()
    found: dict[Feature, Array] = {}
    pixels = {name: np.asarray(image, np.float64) for name, image in images.items()}
    levels = {name: image.clip(0, 1) for name, image in pixels.items()}
    for compartment, numbered in labels.items():
        objects = _consecutive(numbered)
        count = int(objects.max(initial=0))
        if not count:
            continue
        wanted = (involving or {}).get(compartment)

        def keep(
            values: Mapping[str, Any],
            group: str,
            *channels: str,
            place: str = compartment,
        ) -> None:
            found.update(
                (Feature(name, group, place, channels), np.asarray(value, np.float64))
                for name, value in values.items()
                if not name.startswith(_NO_FEATURES)
            )

        with warnings.catch_warnings():
            # Undefined values come back as NaN and are counted; NumPy need not say so as well.
            warnings.simplefilter("ignore", RuntimeWarning)
            if wanted is None:
                for name in _SHAPE:
                    keep(core[name](objects, None), "size and shape", *origin.of(compartment))
                if compartment in _NEIGHBOURS and count > 1:
                    values = neighbours(objects, objects, _NEIGHBOURS[compartment])
                    keep(values, "neighbours", *origin.of(compartment))
            for channel in pixels:
                if wanted is None or channel in wanted:
                    for name, group in _PIXELS.items():
                        image = (levels if name == "texture" else pixels)[channel]
                        keep(core[name](objects, image), group, channel)
            for first, second in combinations(pixels, 2):
                if wanted is None or first in wanted or second in wanted:
                    for name in _PAIRS:
                        values = correlation[name](pixels[first], pixels[second], objects)
                        keep(values, "correlation", first, second)
    return found


def _functions() -> tuple[dict[str, Callable], dict[str, Callable], Callable]:
    """cp-measure's functions: core, correlation, neighbours; they want consecutive numbers.

    The accelerator is a setting of the whole process; nothing else here uses cp-measure.
    """
    require_cp_measure()
    import cp_measure
    from cp_measure import bulk

    cp_measure.set_accelerator("numba")
    return (
        bulk.get_core_measurements(sanitize=False),
        bulk.get_correlation_measurements(sanitize=False),
        bulk.get_multimask_measurements()["neighbors"],
    )


def require_cp_measure() -> None:
    """Check that the extra is there, before any work.

    Raises:
        UserError: it is not.
    """
    missing = [name for name in ("cp_measure", "numba") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"features need {missing[0].replace('_', '-')}, which is not installed: "
            'pip install "cp-measure[numba]"'
        )


def _consecutive(labels: Array) -> Array:
    """Objects numbered 1 to N without gaps, in the same order."""
    numbers, inverse = np.unique(labels, return_inverse=True)
    first = 0 if numbers[0] == 0 else 1
    return (inverse.reshape(labels.shape) + first).astype(np.int32)


@dataclass
class _Moments:
    """Co-moments of paired values, merged a field at a time (Chan, Golub and LeVeque 1979)."""

    n: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(2))
    products: Array = field(default_factory=lambda: np.zeros((2, 2)))  # of deviations, summed
    largest: float = 0.0

    def add(self, pairs: Array) -> None:
        """Add pairs (2, N); those with a value that is not finite are left out."""
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        count = pairs.shape[1]
        if not count:
            return
        mean = pairs.mean(axis=1)
        deviations = pairs - mean[:, None]
        step, total = mean - self.mean, self.n + count
        self.products += deviations @ deviations.T
        self.products += np.outer(step, step) * (self.n * count / total)
        self.mean = self.mean + step * (count / total)
        self.largest = max(self.largest, float(np.abs(pairs).max()))
        self.n = total

    def row(self, feature: Feature, depends_on: tuple[str, ...]) -> FeatureRow:
        """r, its interval, or why there is none."""
        undefined = (math.nan, math.nan, math.nan, self.n)
        if self.n < 3:
            note = f"only {self.n} pairs of values"
            return FeatureRow(feature, depends_on, *undefined, note)
        spread = np.sqrt(self.products.diagonal() / self.n)
        flat = spread <= 1e-10 * self.largest  # no more than rounding leaves
        if flat.any():
            note = "constant in the " + ("real" if flat[0] else "hybrid") + " set"
            return FeatureRow(feature, depends_on, *undefined, note)
        r = self.products[0, 1] / math.sqrt(self.products[0, 0] * self.products[1, 1])
        r = min(max(float(r), -1.0), 1.0)
        return FeatureRow(feature, depends_on, r, *fisher_interval(r, self.n), self.n)


def fisher_interval(r: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of Pearson's r from n pairs by Fisher's z; NaN for n < 4.

    As `scipy.stats.pearsonr(...).confidence_interval()`.
    """
    if n < 4:
        return math.nan, math.nan
    if abs(r) == 1:
        return r, r
    half = NormalDist().inv_cdf((1 + confidence) / 2) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def segment(
    nuclear: Array, body: Array | None, pixel_size: float | None
) -> tuple[Array, Array | None]:
    """Nuclei, and cells about them of the same numbers, as `vfn.metrics.objects` finds them."""
    nuclei = segment_nuclei(nuclear, pixel_size=pixel_size)
    return nuclei, None if body is None else segment_cells(nuclei, body)


@dataclass(frozen=True)
class _Job:
    """One field for one worker, in grey values."""

    real: dict[str, Array]
    predicted: dict[str, Array]
    scales: dict[str, float]
    channels: ObjectChannels
    level: Level
    segment: Segment
    pixel_size: float | None


@dataclass(frozen=True)
class _Answer:
    """Pairs (2, N) of real and hybrid values of each feature, or why there are none."""

    values: dict[Feature, Array]
    objects: int
    reason: str = ""


def _compare(job: _Job) -> _Answer:
    """Measure one field in both sets."""
    channels = job.channels
    real = _scaled(job.real, job.scales)
    hybrid = real | _scaled(job.predicted, job.scales)
    true_objects = _compartments(real, job)
    count = len(np.unique(true_objects["nuclei"])) - 1
    if not count:
        return _Answer({}, 0, "no nuclei in the real channels")
    moved = {
        compartment
        for compartment in true_objects
        if job.level == "fields" and not job.predicted.keys().isdisjoint(channels.of(compartment))
    }
    objects = true_objects
    if moved:
        found = _compartments(hybrid, job)
        if not found["nuclei"].any():
            return _Answer({}, count, "no nuclei in the predicted channels")
        objects = {name: found[name] if name in moved else true_objects[name] for name in found}
    involving = {name: tuple(job.predicted) for name in true_objects if name not in moved}
    first = measure(real, true_objects, channels, involving)
    second = measure(hybrid, objects, channels, involving)
    both = [feature for feature in first if feature in second]
    if job.level == "fields":
        return _Answer({f: np.array([[_mean(first[f])], [_mean(second[f])]]) for f in both}, count)
    return _Answer({f: np.stack([first[f], second[f]]) for f in both}, count)


def _scaled(images: Mapping[str, Array], scales: Mapping[str, float]) -> dict[str, Array]:
    return {name: image.astype(np.float64) / scales[name] for name, image in images.items()}


def _compartments(images: Mapping[str, Array], job: _Job) -> dict[str, Array]:
    body = job.channels.body
    nuclei, cells = job.segment(
        images[job.channels.nuclear], None if body is None else images[body], job.pixel_size
    )
    if cells is None:
        return {"nuclei": nuclei}
    return {"nuclei": nuclei, "cells": cells, "cytoplasm": np.where(nuclei > 0, 0, cells)}


def _mean(values: Array) -> float:
    """Mean of what is finite; NaN if nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def grey_scales(source: PairSource) -> dict[str, float]:
    """Grey value that counts as 1 in each channel: the highest 99.9th percentile of its real images.

    Reads every field once.
    """
    scales: dict[str, float] = {}
    for index in progress(range(len(source)), len(source), "grey values"):
        for name, image in _real(source.pair(index)).items():
            high = float(np.percentile(image, 99.9))
            scales[name] = max(scales.get(name, 0.0), high)
    return {name: high if high > 0 else 1.0 for name, high in scales.items()}


def _real(pair: FieldPair) -> dict[str, Array]:
    inputs = () if pair.inputs is None else pair.inputs
    return {
        **dict(zip(pair.input_channels, inputs, strict=True)),
        **dict(zip(pair.channels, pair.truth, strict=True)),
    }


def compare_features(
    source: PairSource,
    channels: ObjectChannels,
    *,
    level: Level | None = None,
    scales: Mapping[str, float] | None = None,
    workers: int | None = None,
    segment: Segment = segment,
) -> FeatureResult:
    """Measure every field of the source in its real channels and in the hybrid set, and correlate.

    Fields are read here, one after the other, and measured by worker processes; no more than a
    worker's fields and one are in memory, and of each only a few sums a feature are kept.

    Args:
        source: the fields; inputs and truth are the real set, inputs and predictions the hybrid.
        channels: where to find objects; see `object_channels`.
        level: what r is over; None for "fields" if there are at least `MIN_FIELDS`, else "objects".
        scales: grey value that counts as 1, for every channel; None measures it (`grey_scales`).
        workers: processes; None for one a core, 1 for none beside this one.
        segment: (nuclear channel, body channel or None, micrometres a pixel if known) -> nuclei, cells
            of the same numbers or None; a function that can be pickled.

    Raises:
        UserError: cp-measure is not installed, a worker died.
    """
    require_cp_measure()
    level = level or ("fields" if len(source) >= MIN_FIELDS else "objects")
    scales = dict(grey_scales(source) if scales is None else scales)
    workers = min(workers or os.cpu_count() or 1, max(len(source), 1))
    names: list[str] = []
    left_out: dict[str, str] = {}
    predicted: dict[str, None] = {}

    def jobs() -> Iterator[_Job]:
        for index in range(len(source)):
            pair = source.pair(index)
            reason = _unfit(pair, channels)
            if reason:
                left_out[pair.field] = reason
                continue
            names.append(pair.field)
            predicted.update(dict.fromkeys(pair.channels))
            planes = dict(zip(pair.channels, pair.prediction, strict=True))
            yield _Job(_real(pair), planes, scales, channels, level, segment, pair.pixel_size)

    sums: dict[Feature, _Moments] = {}
    fields = objects = 0
    answers = progress(_answers(jobs(), workers), len(source), "features")
    for number, answer in enumerate(answers):
        if answer.reason:
            left_out[names[number]] = answer.reason
            continue
        fields, objects = fields + 1, objects + answer.objects
        for feature, pairs in answer.values.items():
            sums.setdefault(feature, _Moments()).add(pairs)
    moved = predicted if level == "fields" else ()
    rows = [
        moments.row(
            feature,
            tuple(
                name
                for name in predicted
                if name in feature.channels
                or (name in moved and name in channels.of(feature.compartment))
            ),
        )
        for feature, moments in sorted(sums.items(), key=lambda item: _order(item[0]))
    ]
    return FeatureResult(tuple(rows), level, channels, tuple(predicted), fields, objects, left_out)


def _unfit(pair: FieldPair, channels: ObjectChannels) -> str:
    """Why a field cannot be measured; empty if it can."""
    there = {*pair.input_channels, *pair.channels}
    for needed in filter(None, (channels.nuclear, channels.body)):
        if needed not in there:
            return f"it has no channel {needed}, in which objects are to be found"
    for name, plane in zip(pair.channels, pair.prediction, strict=True):
        if not np.isfinite(plane).all():
            return f"the prediction of {name} has pixels that are NaN or infinite"
    return ""


def _order(feature: Feature) -> tuple[int, int, tuple[str, ...], str]:
    return (
        GROUPS.index(feature.group),
        COMPARTMENTS.index(feature.compartment),
        feature.channels,
        feature.name,
    )


def _answers(jobs: Iterator[_Job], workers: int) -> Iterator[_Answer]:
    """Answers in the order of the jobs, from as many processes."""
    if workers == 1:
        yield from map(_compare, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=_context())
    pending: deque[Future[_Answer]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(_compare, job))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as exc:
        raise UserError(
            f"features: one of {workers} worker processes was ended, most likely for lack of memory; "
            "give fewer workers"
        ) from exc
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """Processes that are not copies of this one, which holds torch and its threads.

    A fork server loads the modules once for all workers; where there is none, each loads its own.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "cp_measure.bulk"])
    return context

"""Feature fidelity of an evaluation: every field measured in its real and its predicted channels.

Features of nuclei, cells and cytoplasm are measured on the real channels and on a hybrid set, in which
predicted channels stand for the real ones that they replace.

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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from typing import NamedTuple

import numpy as np

from vfn.errors import UserError
from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.metrics.feature_fidelity import FeatureResult, Level, Moments
from vfn.metrics.features import COMPARTMENTS, GROUPS, Array, Feature, ObjectChannels, measure
from vfn.metrics.objects import segment_cells, segment_nuclei
from vfn.system.progress import progress

Segment = Callable[[Array, Array | None, float | None], tuple[Array, Array | None]]
MIN_FIELDS = 8  # below, r is over objects


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


class _Answer(NamedTuple):
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
    involving = {name: tuple(job.predicted) for name in true_objects}
    objects = true_objects
    if job.level == "fields":  # objects that are found in a predicted channel move
        moved = {n for n in true_objects if not job.predicted.keys().isdisjoint(channels.of(n))}
        found = _compartments(hybrid, job) if moved else true_objects
        if not found["nuclei"].any():
            return _Answer({}, count, "no nuclei in the predicted channels")
        objects = true_objects | {name: found[name] for name in moved}
        involving = {name: names for name, names in involving.items() if name not in moved}
    first = measure(real, true_objects, channels, involving)
    second = measure(hybrid, objects, channels, involving)
    summed = _mean if job.level == "fields" else np.asarray
    both = [feature for feature in first if feature in second]
    return _Answer({f: np.stack([summed(first[f]), summed(second[f])]) for f in both}, count)


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


def _mean(values: Array) -> Array:
    """Mean (1,) of what is finite; NaN if nothing is."""
    finite = values[np.isfinite(values)]
    return np.array([finite.mean() if finite.size else math.nan])


def grey_scales(source: PairSource) -> dict[str, float]:
    """Grey value that counts as 1 in each channel: the highest 99.9th percentile of its real images.

    Reads every field once.
    """
    scales: dict[str, float] = {}
    for index in progress(range(len(source)), len(source), "grey values"):
        for name, image in source.pair(index).real.items():
            high = float(np.percentile(image, 99.9))
            scales[name] = max(scales.get(name, 0.0), high)
    return {name: high if high > 0 else 1.0 for name, high in scales.items()}


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
    level = level or ("fields" if len(source) >= MIN_FIELDS else "objects")
    scales = dict(grey_scales(source) if scales is None else scales)
    workers = min(workers or os.cpu_count() or 1, len(source))
    names: list[str] = []
    left_out: dict[str, str] = {}
    predicted: dict[str, None] = {}

    def jobs() -> Iterator[_Job]:
        for index in range(len(source)):
            pair = source.pair(index)
            if reason := _unfit(pair, channels):
                left_out[pair.field] = reason
                continue
            names.append(pair.field)
            predicted.update(dict.fromkeys(pair.channels))
            drawn = dict(zip(pair.channels, pair.prediction, strict=True))
            yield _Job(pair.real, drawn, scales, channels, level, segment, pair.pixel_size)

    sums: dict[Feature, Moments] = {}
    fields = objects = 0
    answers = progress(_answers(jobs(), workers), len(source), "features")
    for number, answer in enumerate(answers):
        if answer.reason:
            left_out[names[number]] = answer.reason
            continue
        fields, objects = fields + 1, objects + answer.objects
        for feature, pairs in answer.values.items():
            sums.setdefault(feature, Moments()).add(pairs)
    rows = tuple(
        sums[feature].row(feature, _depends_on(feature, predicted, channels, level))
        for feature in sorted(sums, key=_order)
    )
    return FeatureResult(rows, level, channels, tuple(predicted), fields, objects, left_out)


def _depends_on(
    feature: Feature, predicted: Iterable[str], channels: ObjectChannels, level: Level
) -> tuple[str, ...]:
    """The predicted channels that a feature depends on, by pixels or by outlines of objects."""
    outlines = channels.of(feature.compartment) if level == "fields" else ()
    return tuple(name for name in predicted if name in (*feature.channels, *outlines))


def _unfit(pair: FieldPair, channels: ObjectChannels) -> str:
    """The reason why a field cannot be measured; empty if it can."""
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

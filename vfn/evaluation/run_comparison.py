"""Compare evaluations of two or more runs on the fields that they share."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from vfn.errors import UserError
from vfn.evaluation.columns import HIGHER_IS_BETTER
from vfn.evaluation.criteria import first_few
from vfn.evaluation.runs import Run
from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison

Notes = dict[str, dict[str, None]]  # remark -> all subjects that it is true of


def compare_runs(runs: Sequence[Run], unit: str) -> tuple[list[Comparison], list[str]]:
    """Compare every pair of runs in every channel and figure that both have.

    Args:
        runs: two or more.
        unit: see `compare`.

    Returns:
        Comparisons, channel by channel, pair by pair, the figures in the order of metrics.csv; and
        what was left out and why, in sentences.

    Raises:
        UserError: a pair without a field and channel in common; see `compare`.
    """
    notes: Notes = defaultdict(dict)
    comparisons = [c for a, b in combinations(runs, 2) for c in _compare_pair(a, b, unit, notes)]
    order = {channel: i for i, channel in enumerate(c for run in runs for c in run.figures)}
    comparisons.sort(key=lambda c: order[c.channel])  # stable: pairs and columns keep their order
    said = [f"{', '.join(subjects)}: {text}" for text, subjects in notes.items()]
    return comparison.correct(comparisons), said


def _compare_pair(a: Run, b: Run, unit: str, notes: Notes) -> list[Comparison]:
    channels = [c for c in a.figures if c in b.figures]
    _check_common(a, b, channels)
    for one, other in ((a, b), (b, a)):
        for channel in (c for c in one.figures if c not in other.figures):
            notes[f"in {one.name} but not in {other.name}, left out of this pair"][channel] = None
    kind = _kind(a, b, channels, unit)
    differing = [c for c in channels if _differ(a, b, c, "range_full")]
    if differing == channels:
        raise UserError(
            f"compare: {a.name} and {b.name} were scored against different truths (full range of "
            f"{channels[0]}: {_span(a, channels[0])} and {_span(b, channels[0])}); "
            "evaluate both on the same images"
        )
    for channel in differing:
        text = f"the truths of {a.name} and {b.name} differ in their full range, left out"
        notes[text][channel] = None
    same = (c for c in channels if c not in differing)
    return [found for c in same for found in _compare_channel(a, b, c, kind, notes)]


def _common(a: Run, b: Run, channel: str) -> list[str]:
    return [field for field in a.figures[channel] if field in b.figures[channel]]


def _check_common(a: Run, b: Run, channels: Sequence[str]) -> None:
    if not channels:
        raise UserError(
            f"compare: {a.name} has the channels {', '.join(a.figures)}, {b.name} "
            f"{', '.join(b.figures)}: none in common; compare runs of the same stain"
        )
    if not any(_common(a, b, c) for c in channels):
        first, second = (next(iter(run.figures[channels[0]])) for run in (a, b))
        raise UserError(
            f"compare: no field is in both {a.name} (first {first}) and {b.name} (first {second}); "
            "evaluate both on the same images"
        )


def _kind(a: Run, b: Run, channels: Iterable[str], unit: str) -> str:
    """ "well" where each common field has one, or "field"."""
    if unit == "field":
        return "field"
    fields = dict.fromkeys(f for c in channels for f in _common(a, b, c))
    unknown = [f for f in fields if f not in a.wells and f not in b.wells]
    if unknown and unit == "well":
        raise UserError(
            f"unit=well: the well of {len(unknown)} of {len(fields)} fields (first {unknown[0]}) is "
            "not known in metrics.csv; say unit=field"
        )
    if unknown:
        return "field"
    for f in fields:
        if a.wells.get(f, b.wells.get(f)) == b.wells.get(f, a.wells.get(f)):
            continue
        raise UserError(
            f"compare: field {f} is in well {a.wells[f]} in {a.name} but {b.wells[f]} in {b.name}; "
            "evaluate both on the same images, or say unit=field"
        )
    return "well"


def _differ(a: Run, b: Run, channel: str, key: str) -> bool:
    """Return whether both ranges are known and differ."""
    if channel not in a.ranges or channel not in b.ranges:
        return False
    pairs = zip(a.ranges[channel][key], b.ranges[channel][key], strict=True)
    return not all(math.isclose(x, y, rel_tol=1e-6) for x, y in pairs)


def _span(run: Run, channel: str, key: str = "range_full") -> str:
    return "{:g} to {:g}".format(*run.ranges[channel][key])


def _compare_channel(a: Run, b: Run, channel: str, kind: str, notes: Notes) -> list[Comparison]:
    fields = _common(a, b, channel)
    if not fields:
        notes[f"no field is in both {a.name} and {b.name}, left out of this pair"][channel] = None
        return []
    columns = [c for c in a.columns if c in b.columns]
    _note_what_is_missing(a, b, channel, fields, notes)
    if _differ(a, b, channel, "range_signal"):
        text = (
            f"signal ranges differ ({_span(a, channel, 'range_signal')} in {a.name}, "
            f"{_span(b, channel, 'range_signal')} in {b.name}), so that their figures on the signal "
            "range cannot be compared and are left out; evaluate both on the same set of images"
        )
        notes[text][channel] = None
        columns = [c for c in columns if not c.endswith("_signal")]
    wells = {**b.wells, **a.wells}
    labels = [wells[f] for f in fields] if kind == "well" else fields
    result = []
    for column in columns:
        first, second = ([run.figures[channel][f][column] for f in fields] for run in (a, b))
        units = comparison.make_units(first, second, labels)
        if units.left_out:
            text = (
                f"infinite or undefined in {units.left_out} of {len(fields)} fields in {a.name} or "
                f"{b.name}: these fields are left out of both runs"
            )
            notes[text][f"{channel} {column}"] = None
        found = comparison.compare(units)
        higher = HIGHER_IS_BETTER.get(column)
        result.append(Comparison(channel, column, a.name, b.name, kind, units, found, higher))
    if len(fields) == 1:
        text = f"one field only in {a.name} and {b.name}: no statistics, figures alone"
        notes[text][channel] = None
    return result


def _note_what_is_missing(
    a: Run, b: Run, channel: str, fields: Sequence[str], notes: Notes
) -> None:
    for one, other in ((a, b), (b, a)):
        lacking = f"in {one.name} but not in {other.name}, left out"
        if alone := [f for f in one.figures[channel] if f not in other.figures[channel]]:
            named = f"({first_few(alone)}); {len(fields)} in both"
            notes[f"{len(alone)} field(s) {lacking} {named}"][channel] = None
        if extra := [c for c in one.columns if c not in other.columns]:
            notes[lacking][", ".join(extra)] = None
        if channel not in one.ranges:
            text = (
                "summary.json says nothing of the intensity ranges: whether the runs were scored "
                "against the same truth was not checked"
            )
            notes[text][one.name] = None

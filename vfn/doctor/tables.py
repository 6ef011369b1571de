"""`doctor.csv` and `exclude.csv`."""

import math
from collections.abc import Iterator

from vfn.doctor.case import Case
from vfn.doctor.measure import PlaneStats
from vfn.doctor.optics import corner_ratio
from vfn.doctor.reading import FieldStats, Key

NUMBERS = (
    "height", "width", "dtype", "bits", "step", "min", "p0_1", "p50", "p99_9", "max",
    "saturated", "noise", "structure", "focus", "corner",
)  # fmt: skip
HEADER = (
    "field", "channel", "z", "role", "plate", "well", "site", "part", "status", *NUMBERS,
    "shift_y", "shift_x", "shift_confidence", "shift_sure", "severity", "kinds", "findings", "path",
)  # fmt: skip
EXCLUDE_HEADER = ("field", "channel", "reason")  # of the table that `data.exclude` takes


def rows(case: Case) -> Iterator[list[str]]:
    """The lines of `doctor.csv`, one per field and channel, in the order of the fields.

    Findings on a whole field are repeated on each of its rows.
    """
    for stats in case.fields:
        entry = stats.entry
        for key in stats.keys:
            name = case.names[key]
            mine = [f for f in case.about.get(entry.name, ()) if f.channel in ("", name)]
            yield [
                entry.name, key[0], f"{key[1]:g}", role(stats, key), entry.plate, entry.well,
                entry.site, "+".join(case.parts.get(entry.name, ())), status(stats, key),
                *_numbers(stats.planes.get(key)), *_shift(stats, key),
                mine[0].severity if mine else "", " ".join(dict.fromkeys(f.kind for f in mine)),
                " ".join(f.text for f in mine), str(entry.planes.get(key, "")),
            ]  # fmt: skip


def role(entry: FieldStats, key: Key) -> str:
    """Return the role of a plane in the task."""
    roles = {"input": entry.inputs, "target": entry.targets}
    return "+".join(name for name, keys in roles.items() if key in keys)


def status(entry: FieldStats, key: Key) -> str:
    """Return whether a plane was read, or why not."""
    if key in entry.planes:
        return "read"
    return "unreadable" if key in entry.errors else "missing"


def _numbers(plane: PlaneStats | None) -> list[str]:
    if plane is None:
        return [""] * len(NUMBERS)
    low, _, middle, _, high = plane.quantiles
    return [
        str(plane.shape[0]), str(plane.shape[1]), plane.dtype, str(plane.depth or ""),
        str(plane.step), *(number(v) for v in (plane.low, low, middle, high, plane.high)),
        number(plane.top), number(plane.noise), number(plane.structure), number(plane.focus),
        number(corner_ratio(plane)),
    ]  # fmt: skip


def _shift(entry: FieldStats, key: Key) -> list[str]:
    shift = entry.shifts.get(key)
    if shift is None:
        return [""] * 4
    return [f"{shift.dy:.2f}", f"{shift.dx:.2f}", f"{shift.confidence:.2f}", str(int(shift.sure))]


def number(value: float) -> str:
    """Four digits; empty where undefined."""
    return "" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"

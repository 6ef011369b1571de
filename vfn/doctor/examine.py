"""All findings on a data set, from what was measured of its fields."""

from collections.abc import Iterator, Mapping, Sequence

from vfn.data.base import DataConfig
from vfn.data.discovery import split_plane
from vfn.data.samples import Task
from vfn.doctor.files import different_dtypes, different_sizes, missing_planes, unreadable_files
from vfn.doctor.findings import DAMAGED, FATAL, Finding, all_keys, in_order, label, of_field
from vfn.doctor.grey_values import bit_depths, empty, empty_images, saturation, stretching
from vfn.doctor.likeness import swaps
from vfn.doctor.measure import PlaneStats
from vfn.doctor.optics import channel_shifts, noisy_images, out_of_focus, uneven_illumination
from vfn.doctor.reading import FieldStats, Key


def examine(fields: Sequence[FieldStats], task: Task, config: DataConfig) -> list[Finding]:
    """All findings but those on copies and on the split (see `leakage`), the gravest first."""
    keys = all_keys(fields)
    names = {key: label(key, keys) for key in keys}
    found = [*unreadable_files(fields, names), *missing_planes(fields, names, task, config)]
    found += [*different_sizes(fields), *different_dtypes(fields, task, names)]
    for key, name in names.items():
        planes = {f.name: f.planes[key] for f in fields if key in f.planes}
        if planes:
            found += _of_channel(planes, name, config)
    found += channel_shifts(fields, names, config.register)
    found += _swapped(fields, names)
    found += _too_little(fields, found, task)
    return in_order(found)


def _of_channel(
    planes: Mapping[str, PlaneStats], name: str, config: DataConfig
) -> Iterator[Finding]:
    yield from bit_depths(planes, name, config)
    yield from saturation(planes, name)
    yield from stretching(planes, name)
    yield from empty_images(planes, name)
    yield from uneven_illumination(planes, name, config.illumination)
    yield from out_of_focus(planes, name)
    yield from noisy_images(planes, name)


def _swapped(fields: Sequence[FieldStats], names: Mapping[Key, str]) -> Iterator[Finding]:
    for swap in swaps(fields, tuple(names)):
        name = fields[swap.field].name
        one, other = names[swap.one], names[swap.other]
        yield of_field(
            "swap", name,
            f"{name}: {one} looks like the {other} of the other fields, and {other} like their {one}.",
            "look at the two; rename the files if they are exchanged, or leave the field out",
        )  # fmt: skip


def _too_little(
    fields: Sequence[FieldStats], found: Sequence[Finding], task: Task
) -> Iterator[Finding]:
    damaged = {
        name
        for finding in found
        if finding.kind in ("unreadable", "unpaired", "size", "dtype")
        for name in finding.exclude
    }
    if len(damaged) > DAMAGED * len(fields):
        yield Finding(
            "damaged", FATAL,
            f"{len(damaged)} of {len(fields)} fields cannot be used: files are missing or damaged.",
            "mend the files, or check data.channels and data.pattern", tuple(sorted(damaged)),
        )  # fmt: skip
    inputs = [split_plane(c)[0] for c in task.inputs]
    for role, channels in (("input", inputs), ("target", list(task.targets))):
        dead = [c for c in channels if _dead(fields, c)]
        if dead and (role == "target" or len(dead) == len(channels)):
            yield Finding(
                "empty", FATAL,
                f"The {role} {', '.join(dead)} shows nothing above the noise in any field.",
                "check which files data.channels takes for it", channel=dead[0],
            )  # fmt: skip


def _dead(fields: Sequence[FieldStats], channel: str) -> bool:
    planes = [p for f in fields for key, p in f.planes.items() if key[0] == channel]
    return bool(planes) and all(empty(p) for p in planes)

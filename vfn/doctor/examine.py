"""All findings on a data set, from what was measured of its fields."""

from collections.abc import Iterator, Sequence

from vfn.data.config import DataConfig
from vfn.data.discovery.layout import split_plane
from vfn.data.samples import Task
from vfn.doctor.files import different_dtypes, different_sizes, missing_planes, unreadable_files
from vfn.doctor.findings import DAMAGED, FATAL, Finding, plane_names
from vfn.doctor.grey_values import bit_depths, empty, empty_images, saturation, stretching
from vfn.doctor.likeness import swaps
from vfn.doctor.optics import channel_shifts, noisy_images, out_of_focus, uneven_illumination
from vfn.doctor.reading import FieldStats


def examine(fields: Sequence[FieldStats], task: Task, config: DataConfig) -> list[Finding]:
    """All findings but those on copies and on the split (see `leakage`)."""
    names = plane_names(fields)
    found = [*unreadable_files(fields, names), *missing_planes(fields, names, task, config)]
    found += [*different_sizes(fields), *different_dtypes(fields, task, names)]
    for key, name in names.items():
        planes = {f.name: f.planes[key] for f in fields if key in f.planes}
        if planes:
            found += bit_depths(planes, name, config)
            found += saturation(planes, name)
            found += stretching(planes, name)
            found += empty_images(planes, name)
            found += uneven_illumination(planes, name, config.illumination)
            found += out_of_focus(planes, name)
            found += noisy_images(planes, name)
    found += channel_shifts(fields, names, config.register)
    found += swaps(fields, names)
    found += _too_little(fields, found, task)
    return found


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

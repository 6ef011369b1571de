"""Samples: one field each, with the input and target planes that a task asks for."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vfn.data.discovery.fields import Field, ImageSource, Time
from vfn.data.discovery.layout import split_plane
from vfn.errors import UserError

log = logging.getLogger(__name__)

Region = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Task:
    """Input channels -> target channels (paper, Table 1).

    Attributes:
        name: of the task, as in `conf/task/`.
        inputs, targets: channel names; an input "phase@-4" is the plane of `phase` 4 um below focus,
            so that several planes of a stack can be input channels side by side.
        input_z: planes (um from focus) that are inputs, each a sample of its own; empty where the
            data has one plane a field. Targets are always at z = 0.
    """

    name: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    input_z: tuple[float, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """All channels, once each and without planes."""
        return tuple(dict.fromkeys(split_plane(c)[0] for c in self.inputs + self.targets))

    @property
    def depths(self) -> tuple[float, ...]:
        """All planes (um) of the task, the focal one first."""
        named = [split_plane(c)[1] for c in self.inputs]
        return tuple(dict.fromkeys((0.0, *self.input_z, *(z for z in named if z is not None))))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        lists = {key: list(getattr(self, key)) for key in ("inputs", "targets", "input_z")}
        return {"name": self.name, **lists}


@dataclass(frozen=True)
class Sample:
    """One field with the planes of a task.

    Attributes:
        name: of the field; with the plane ("_z-10") where the task has several.
        inputs, targets: planes in the order of the task's channels; None for a target that the
            field lacks.
        region: rows and columns that belong to this split; None for the whole field.
        offsets: (dy, dx) px of each target, whose pixel (y + dy, x + dx) shows what the first
            input's (y, x) shows; empty where nothing was registered.
        z: um of the inputs from the focal plane.
        time: the field's place in a time lapse; None where it is of none.
        plate, well, site, well_from_name: see `Field`.
    """

    name: str
    field: str
    inputs: tuple[ImageSource, ...]
    targets: tuple[ImageSource | None, ...]
    region: Region | None = None
    plate: str = ""
    well: str = ""
    site: str = ""
    offsets: tuple[tuple[float, float], ...] = ()
    z: float = 0.0
    well_from_name: bool = False
    time: Time | None = None

    @property
    def position(self) -> str:
        """Name of the field of view, the same for all time points and planes."""
        return self.time.position if self.time else self.field

    @property
    def movie(self) -> str:
        """Name of the file that holds this and other time points; empty if none does."""
        if self.time is None or not self.time.movie:
            return ""
        return self.time.movie + self.name.removeprefix(self.field)

    @property
    def planes(self) -> tuple[ImageSource, ...]:
        """All planes that exist."""
        return self.inputs + tuple(plane for plane in self.targets if plane is not None)


class NothingPairs(UserError):  # noqa: N818 - as NothingMatches
    """No field has all channels."""


def make_samples(
    fields: Sequence[Field],
    task: Task,
    targets: bool = True,
    unpaired: str = "error",
    prefix: str = "data.",
) -> list[Sample]:
    """Return the samples of all fields.

    A field must have all inputs and, where the task has several targets, one of them at least
    (partial labels).

    Args:
        targets: False leaves the target planes out, for prediction.
        unpaired: "error" refuses fields that lack more than that, "skip" leaves them out.
        prefix: of the settings in messages, see `Layout`.

    Raises:
        NothingPairs: each channel makes fields of its own.
        UserError: a field lacks a channel that the task needs; none is complete.
    """
    if unpaired not in ("error", "skip"):
        raise UserError(f"data.unpaired={unpaired}: unknown; choose error or skip")
    samples: list[Sample] = []
    skipped: list[UserError] = []
    for entry in fields:
        try:
            samples += _samples_of(entry, task, targets, prefix)
        except UserError as exc:
            skipped.append(exc)
    if skipped and unpaired == "error":
        raise (None if samples else _apart(fields, task, prefix)) or skipped[0]
    if not samples:
        raise NothingPairs(
            f"none of {len(fields)} field(s) has all of the channels {', '.join(task.channels)}; "
            "check that the files of one field differ in the channel alone"
        )
    if skipped:
        log.warning(
            "data.unpaired=skip: %d of %d fields left out, the first: %s",
            len(skipped), len(fields), skipped[0],
        )  # fmt: skip
    return samples


def _apart(fields: Sequence[Field], task: Task, prefix: str) -> NothingPairs | None:
    """Return the error for channels that form separate fields; None if they do not."""
    has = {entry.name: sorted({channel for channel, _ in entry.planes}) for entry in fields}
    one, *others = has
    other = next((name for name in others if not set(has[name]) <= set(has[one])), None)
    if other is None:
        return None
    return NothingPairs(
        f"none of {len(fields)} fields has all of {', '.join(task.channels)}: {one} has "
        f"{', '.join(has[one])}, {other} has {', '.join(has[other])}; the paths of one field must "
        f"differ in the channel alone, else pair them by {prefix}pattern or {prefix}manifest"
    )


def _samples_of(entry: Field, task: Task, targets: bool, prefix: str) -> list[Sample]:
    samples: list[Sample] = []
    depths = _depths(entry, task, targets, prefix)
    truths = [(c, 0.0) for c in task.targets] if targets else []
    for z in depths:
        # An input's own plane if it names one, else the sample's.
        named = map(split_plane, task.inputs)
        wanted = [(channel, z if plane is None else plane) for channel, plane in named]
        missing = [key for key in wanted if key not in entry.planes]
        if not any(key in entry.planes for key in truths):
            missing += truths
        if missing:
            raise _lacking(entry, missing, targets, prefix)
        name = f"{entry.name}_z{z:g}" if task.input_z and len(depths) > 1 else entry.name
        samples.append(
            Sample(
                name, entry.name, tuple(entry.planes[key] for key in wanted),
                tuple(entry.planes.get(key) for key in truths),
                plate=entry.plate, well=entry.well, site=entry.site, z=z, time=entry.time,
                well_from_name=entry.well_from_name,
            )
        )  # fmt: skip
    return samples


def _depths(entry: Field, task: Task, targets: bool, prefix: str) -> list[float]:
    """Return the planes (um) of a field of which each makes a sample.

    Raises:
        UserError: it has none of those that the task names, or none in focus.
    """
    there = sorted({z for _, z in entry.planes})
    named = [z for z in there if z in task.input_z or not targets]
    if task.input_z and not named:
        raise UserError(
            f"field {entry.name}: has no plane at z = {_listed(task.input_z)} um, which task.input_z names "
            f"(it has {_present(entry)})"
        )
    if task.input_z:
        return named
    if 0.0 in there or len(task.depths) > 1:  # the focal plane, or those that inputs name
        return [0.0]
    if len(there) > 1:
        raise UserError(
            f"field {entry.name}: has planes at z = {_listed(there)} um and none in focus (0 um); say which one "
            f"is by {prefix}z_zero=NUMBER"
            + (", or name those that are inputs by task.input_z=[...]" if targets else "")
        )
    return there or [0.0]


def _listed(depths: Iterable[float]) -> str:
    return ", ".join(f"{z:g}" for z in depths)


def _lacking(
    entry: Field, missing: Sequence[tuple[str, float]], targets: bool, prefix: str
) -> UserError:
    """Return the error for a field that lacks channels or planes (um)."""
    counts = Counter(channel for channel, _ in entry.planes)
    stack = any(depth for _, depth in (*entry.planes, *missing))
    named = ", ".join(f"{c} at {depth:g} um" if stack else c for c, depth in missing)
    lacks = f"{named} (it has {_present(entry)})"
    zero = f"{prefix}z_zero=NUMBER says which plane is in focus (0 um)"
    if all(counts[channel] > 1 for channel, _ in missing):  # of these, planes are there
        return UserError(
            f"field {entry.name}: no plane for {lacks}; name planes that are there, or say how far apart they "
            f"lie by {prefix}z_step=MICROMETRES; {zero}"
        )
    remedy = "leave such fields out by data.unpaired=skip" if targets else "take its files away"
    if any(counts[channel] and not depth for channel, depth in missing):
        remedy += f"; {zero}"
    return UserError(f"field {entry.name}: no file for {lacks}; add the file, or {remedy}")


def _present(entry: Field) -> str:
    """List the channels of a field, with their planes if there are several."""
    channels: dict[str, list[float]] = {}
    for channel, z in sorted(entry.planes):
        channels.setdefault(channel, []).append(z)
    if not any(z for _, z in entry.planes):
        return ", ".join(channels)
    return ", ".join(f"{channel} at {_listed(depths)} um" for channel, depths in channels.items())


def within(outer: Region | None, inner: Region) -> Region:
    """Return rows and columns of the field for `inner`, a region within `outer`."""
    if outer is None:
        return inner
    rows, columns = (
        slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True)
    )
    return rows, columns

"""What a task asks of the data: samples, each one field with the input and target planes chosen."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vfn.data.discovery import Field, ImageSource, Time, split_plane
from vfn.data.names import Names
from vfn.data.times import alike_but_for_time
from vfn.errors import UserError

SPATIAL_GAP = 32  # px, the default of `data.gap`: about one nucleus at 20x
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
        """All channels, each once and without planes."""
        return tuple(dict.fromkeys(split_plane(c)[0] for c in self.inputs + self.targets))

    @property
    def depths(self) -> tuple[float, ...]:
        """All planes (um) that the task names, the focal one first."""
        named = [split_plane(c)[1] for c in self.inputs]
        return tuple(dict.fromkeys((0.0, *self.input_z, *(z for z in named if z is not None))))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {
            "name": self.name,
            "inputs": list(self.inputs),
            "targets": list(self.targets),
            "input_z": list(self.input_z),
        }


@dataclass(frozen=True)
class Sample:
    """One field as a task sees it.

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
        """What is seen: the same for all time points and all planes."""
        return self.time.position if self.time else self.field

    @property
    def movie(self) -> str:
        """Name of the file that holds this and other time points; empty where none does."""
        if self.time is None or not self.time.movie:
            return ""
        return self.time.movie + self.name.removeprefix(self.field)

    @property
    def planes(self) -> tuple[ImageSource, ...]:
        """Every plane that is there."""
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
    """Every sample of every field.

    A field must have all inputs and, where the task has several targets, one of them at least
    (partial labels): it trains those it has.

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
    """What is said where each channel makes fields of its own; None where it does not."""
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
    depths = sorted({z for _, z in entry.planes})
    if task.input_z:
        depths = [z for z in depths if z in task.input_z] if targets else depths
    elif 0.0 in depths or len(task.depths) > 1:  # the focal plane, or those that inputs name
        depths = [0.0]
    elif len(depths) > 1:
        raise UserError(
            f"field {entry.name}: has planes at z = {', '.join(f'{z:g}' for z in depths)} um and none "
            f"in focus (0 um); say which one is by {prefix}z_zero=NUMBER"
            + (", or name those that are inputs by task.input_z=[...]" if targets else "")
        )
    if not depths:
        raise UserError(
            f"field {entry.name}: has no plane at z = "
            f"{', '.join(f'{z:g}' for z in task.input_z)} um, which task.input_z names (it has "
            f"{_present(entry)})"
        )
    for z in depths:
        wanted = [_place(channel, z) for channel in task.inputs]
        truths = [(c, 0.0) for c in task.targets] if targets else []
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


def _lacking(
    entry: Field, missing: Sequence[tuple[str, float]], targets: bool, prefix: str
) -> UserError:
    """What is said of a field without some of the channels, or planes (um), that it must have."""
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
    """Channels of a field, with their planes where these are several."""
    channels: dict[str, list[float]] = {}
    for channel, z in sorted(entry.planes):
        channels.setdefault(channel, []).append(z)
    if not any(z for _, z in entry.planes):
        return ", ".join(channels)
    return ", ".join(
        f"{channel} at {', '.join(f'{z:g}' for z in depths)} um"
        for channel, depths in channels.items()
    )


def _place(channel: str, z: float) -> tuple[str, float]:
    """Key of an input's plane in a field: its own plane if it names one, else the sample's."""
    name, plane = split_plane(channel)
    return name, z if plane is None else plane


def within(outer: Region | None, inner: Region) -> Region:
    """Rows and columns of the field that `inner` means within `outer`."""
    if outer is None:
        return inner
    rows, columns = (
        slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True)
    )
    return rows, columns


@dataclass(frozen=True)
class SplitRule:
    """How samples are divided.

    Attributes:
        by: "auto" (plates where several are known, else wells, else fields), "plate", "well",
            "field" or "spatial" (each field is cut in two with a gap).
        test_fraction: share of the groups (or, spatial, of each field's area) for testing.
        val_fraction: share of what is left that validates; 0.2 in the paper, sec. 2.3.
        test_plates, test_wells, test_fields: names set apart for testing, see `Names`; they replace
            `test_fraction`. A well "H12" is that of every plate, "20585/H12" of one. With none, a
            split by plate sets the last one apart.
        gap: pixels left out between the parts of a spatial split.
        seed: of the shuffle; the same groups and seed give the same split. Of a spatial split: which side
            of the fields is for testing, one of four.
    """

    by: str = "auto"
    test_fraction: float = 0.2
    val_fraction: float = 0.2
    test_plates: tuple[str, ...] = ()
    test_wells: tuple[str, ...] = ()
    test_fields: tuple[str, ...] = ()
    gap: int = SPATIAL_GAP
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Samples for training, validation, testing; `by` says what was kept together."""

    train: list[Sample] = field(default_factory=list)
    val: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    by: str = "field"


def _group(sample: Sample, by: str) -> str:
    """What `sample` may not be parted from; its position where the well is not known."""
    if by == "plate":
        return sample.plate
    # A well's sites show the same treated cells, so they stay together.
    return f"{sample.plate}/{sample.well}" if by == "well" and sample.well else sample.position


def _groups(samples: Sequence[Sample], by: str) -> list[str]:
    """The groups of `samples`, in the order that they are drawn from.

    Wells that are read from names come in the order of their first fields, so that naming them changes no
    split where each has one field.
    """
    order: dict[str, str] = {}
    for sample in samples:
        group = _group(sample, by)
        place = sample.position if sample.well_from_name and by == "well" else group
        order[group] = min(order.get(group, place), place)
    return sorted(order, key=lambda group: order[group])


class _SharedWellError(UserError):
    """A well would be in two parts."""


def _check_rule(rule: SplitRule) -> None:
    if rule.by not in ("auto", "plate", "well", "field", "spatial"):
        raise UserError(
            f"data.split={rule.by}: unknown; choose auto, plate, well, field or spatial"
        )
    for key, value in (("test_fraction", rule.test_fraction), ("val_fraction", rule.val_fraction)):
        if not 0 < value < 1:
            raise UserError(f"data.{key}={value}: give a share between 0 and 1")
    if rule.gap < 0:
        raise UserError(f"data.gap={rule.gap}: give a number of pixels, 0 or more")
    named = [key for key in ("test_plates", "test_wells", "test_fields") if getattr(rule, key)]
    if len(named) > 1:
        raise UserError(f"data.{' and data.'.join(named)} are both given; give one")
    if named and rule.by == "spatial":
        raise UserError(
            f"data.{named[0]} is given with data.split=spatial, which tests on a part of every field; "
            "leave one of them out"
        )


def split_samples(samples: Sequence[Sample], rule: SplitRule) -> Split:
    """Divide `samples` by `rule`. No group is in two parts; all planes of a field stay together.

    With "auto", wells that are read from names are shared, with a warning, where they cannot be kept
    apart; wells that are known are not.

    Raises:
        UserError: unknown rule, unknown plates or fields, fractions out of (0, 1), too few groups.
    """
    _check_rule(rule)
    if rule.by == "spatial":
        raise ValueError("spatial splits need the size of each sample: use split_spatial")
    by = rule.by
    has_wells = any(sample.well for sample in samples)
    if by == "auto":
        several_plates = len({sample.plate for sample in samples}) > 1
        by = "plate" if several_plates else "well" if has_wells else "field"
    if by == "plate" or rule.by == "well":
        lacking = [sample.name for sample in samples if not getattr(sample, by)]
        if lacking:
            raise UserError(
                f"data.split={rule.by}: field {lacking[0]} has no {by}; name it by data.pattern or a "
                "manifest, or say data.split=field"
            )
    inner = "well" if has_wells and by != "field" else "field"
    try:
        return _divided(samples, rule, by, inner)
    except _SharedWellError as exc:
        if rule.by != "auto" or not any(sample.well_from_name for sample in samples):
            raise
        split = _divided(samples, rule, "field" if by == "well" else by, "field")
        log.warning(
            "%s; so wells are shared: training and testing show the same treated cells, and the scores come out "
            "too good. Bring fields of other wells (wells are read from the names)",
            str(exc).partition("; ")[0],
        )  # fmt: skip
        return split


def _divided(samples: Sequence[Sample], rule: SplitRule, by: str, inner: str) -> Split:
    """Divide `samples`.

    Args:
        by: unit that is chosen for testing.
        inner: the smaller unit that what is left is divided by for validation; no part shares one.

    Raises:
        UserError: unknown plates or fields, too few groups.
    """
    key, names = _test_groups(samples, rule, by)
    test = [sample for sample in samples if _group(sample, key) in names]
    rest = [sample for sample in samples if _group(sample, key) not in names]
    groups = _groups(rest, inner)
    shared = {_group(sample, inner) for sample in test} & set(groups)
    if shared:  # fields named one by one
        raise _SharedWellError(
            f"data.test_fields: well {min(shared).strip('/')} would be in training and testing; "
            "name all its fields, or say data.split=field"
        )
    if not test or len(groups) < 2:
        total = len({_group(sample, inner) for sample in samples})
        found = f"{total} {inner}(s) found"
        if key != inner:
            found += f", {len(groups)} of them not on test {key} {', '.join(sorted(names)[:8])}"
        finer = "let wells be shared by data.split=field, " if inner == "well" else ""
        raise (_SharedWellError if inner == "well" else UserError)(
            f"{found}: too few to train, validate and test on different ones (3 at least); "
            f"bring more, {finer}or cut each field in two by data.split=spatial"
        )
    alike = alike_but_for_time(sorted({_group(sample, inner) for sample in samples}))
    if alike:
        log.warning(
            "%s and %s differ in a time point alone, it seems, yet one may train and the other test: name "
            "it by the group time of data.pattern, or the column time of data.manifest", *alike,
        )  # fmt: skip
    val_names = _draw(groups, rule.val_fraction, rule.seed + 1, leave=1)
    train = [sample for sample in rest if _group(sample, inner) not in val_names]
    val = [sample for sample in rest if _group(sample, inner) in val_names]
    return Split(train, val, test, by=key)


def _test_groups(samples: Sequence[Sample], rule: SplitRule, by: str) -> tuple[str, set[str]]:
    """What is set apart for testing: the unit ("plate", "well", "field"), and which of them."""
    for key, names in (
        ("plate", rule.test_plates), ("well", rule.test_wells), ("field", rule.test_fields),
    ):  # fmt: skip
        if names:
            groups_of = _labels(samples, key)
            picked = Names(groups_of).pick(names, f"data.test_{key}s", key)
            return key, {group for name in picked for group in groups_of[name]}
    groups = _groups(samples, by)
    return by, {groups[-1]} if by == "plate" else _draw(groups, rule.test_fraction, rule.seed, 2)


def _labels(samples: Sequence[Sample], key: str) -> dict[str, set[str]]:
    """What the user may call groups -> the groups that are meant: a well by itself, or with its plate.

    Raises:
        UserError: no sample has what is to be named.
    """
    known = [sample for sample in samples if getattr(sample, key)]
    if not known:
        raise UserError(
            f"data.test_{key}s: no field has a {key}; name it by the group {key} of data.pattern or the "
            f"column {key} of a manifest, or name fields by data.test_fields"
        )
    found: dict[str, set[str]] = {}
    for sample in known:
        group = _group(sample, key)
        labels = {group.strip("/"), sample.well} if key == "well" else {group}
        for label in labels:
            found.setdefault(label, set()).add(group)
    return found


def _draw(groups: Sequence[str], fraction: float, seed: int, leave: int) -> set[str]:
    """A seeded share of `groups`: at least one, leaving at least `leave`."""
    count = min(max(1, round(fraction * len(groups))), max(0, len(groups) - leave))
    order = np.random.default_rng(seed).permutation(len(groups))
    return {groups[i] for i in order[:count]}


def split_spatial(
    samples: Sequence[Sample], shapes: Sequence[tuple[int, int]], rule: SplitRule
) -> Split:
    """Cut every sample along its longer side: training | gap | validation | gap | test.

    Other seeds than 0 make other splits of the same fields: 1 the other way round, 2 and 3 along
    the shorter side, and so on.

    For labs with few fields. The parts of one field show other cells but the same day and dish, so
    scores are those of new areas, not of new experiments.

    Args:
        shapes: (H, W) of each sample.

    Raises:
        UserError: a field too small for the parts and the gaps.
    """
    _check_rule(rule)
    parts: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for sample, shape in zip(samples, shapes, strict=True):
        axis = int(shape[1] >= shape[0]) ^ (rule.seed // 2 % 2)
        length = shape[axis]
        test = max(1, round(rule.test_fraction * length))
        val = max(1, round(rule.val_fraction * (length - test - rule.gap)))
        stops = {
            "train": (0, length - test - val - 2 * rule.gap),
            "val": (length - test - val - rule.gap, length - test - rule.gap),
            "test": (length - test, length),
        }
        if stops["train"][1] < 1:
            raise UserError(
                f"field {sample.name}: {shape[0]}x{shape[1]} pixels are too few to cut in two with a "
                f"gap of {rule.gap}; lower data.gap or data.test_fraction"
            )
        for part, (start, stop) in stops.items():
            if rule.seed % 2:
                start, stop = length - stop, length - start
            sides = [slice(0, side) for side in shape]
            sides[axis] = slice(start, stop)
            region = within(sample.region, (sides[0], sides[1]))
            parts[part].append(replace(sample, region=region))
    return Split(parts["train"], parts["val"], parts["test"], by="spatial")

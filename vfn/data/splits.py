"""Divide samples for training, validation and testing."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vfn.data.names import Names
from vfn.data.samples import Sample, within
from vfn.data.times import alike_but_for_time
from vfn.errors import UserError

log = logging.getLogger(__name__)
SPATIAL_GAP = 32  # px, the default of `data.gap`: about one nucleus at 20x


@dataclass(frozen=True)
class SplitRule:
    """Rule by which samples are divided.

    Attributes:
        by: "auto" (plates where several are known, else wells, else fields), "plate", "well",
            "field" or "spatial" (each field is cut in two with a gap).
        test_fraction: share of the groups (or, spatial, of each field's area) for testing.
        val_fraction: share of what is left that validates; 0.2 in the paper, sec. 2.3.
        test_plates, test_wells, test_fields: names set apart for testing, see `Names`; they replace
            `test_fraction`. A well "H12" is that of every plate, "20585/H12" of one. With none, a
            split by plate sets the last one apart.
        gap: pixels left out between the parts of a spatial split.
        seed: seed of the shuffle; in a spatial split the side of the fields that is for testing, one of four.
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

    @property
    def samples(self) -> list[Sample]:
        """All samples."""
        return [*self.train, *self.val, *self.test]


def _group(sample: Sample, by: str) -> str:
    """Return the group that `sample` belongs to; its position if the well is not known."""
    if by == "plate":
        return sample.plate
    # A well's sites show the same treated cells, so they stay together.
    return f"{sample.plate}/{sample.well}" if by == "well" and sample.well else sample.position


def _groups(samples: Sequence[Sample], by: str) -> list[str]:
    """Return the groups of `samples` in the order for drawing.

    Wells read from names are ordered by their first fields, so that naming them leaves a split unchanged if
    each has one field.
    """
    order: dict[str, str] = {}
    for sample in samples:
        group = _group(sample, by)
        place = sample.position if sample.well_from_name and by == "well" else group
        order[group] = min(order.get(group, place), place)
    return sorted(order, key=lambda group: order[group])


class _SharedWellError(UserError):
    """One well would be in two parts."""


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
    by = _unit(samples, rule)
    has_wells = any(sample.well for sample in samples)
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


def _unit(samples: Sequence[Sample], rule: SplitRule) -> str:
    """Return the unit that is set apart for testing.

    Raises:
        UserError: a field without a plate, or without a well where the rule names it.
    """
    by = rule.by
    if by == "auto":
        has_wells = any(sample.well for sample in samples)
        several_plates = len({sample.plate for sample in samples}) > 1
        by = "plate" if several_plates else "well" if has_wells else "field"
    lacking = [sample.name for sample in samples if by != "field" and not getattr(sample, by)]
    if lacking and (by == "plate" or rule.by == "well"):
        raise UserError(
            f"data.split={rule.by}: field {lacking[0]} has no {by}; name it by data.pattern or a "
            "manifest, or say data.split=field"
        )
    return by


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
    everything = {_group(sample, inner) for sample in samples}
    shared = {_group(sample, inner) for sample in test} & set(groups)
    if shared:  # fields named one by one
        raise _SharedWellError(
            f"data.test_fields: well {min(shared).strip('/')} would be in training and testing; "
            "name all its fields, or say data.split=field"
        )
    if not test or len(groups) < 2:
        found = f"{len(everything)} {inner}(s) found"
        if key != inner:
            found += f", {len(groups)} of them not on test {key} {', '.join(sorted(names)[:8])}"
        raise _too_few(found, inner)
    _warn_of_times(everything)
    val_names = _draw(groups, rule.val_fraction, rule.seed + 1, leave=1)
    train = [sample for sample in rest if _group(sample, inner) not in val_names]
    val = [sample for sample in rest if _group(sample, inner) in val_names]
    return Split(train, val, test, by=key)


def _too_few(found: str, inner: str) -> UserError:
    finer = "let wells be shared by data.split=field, " if inner == "well" else ""
    return (_SharedWellError if inner == "well" else UserError)(
        f"{found}: too few to train, validate and test on different ones (3 at least); "
        f"bring more, {finer}or cut each field in two by data.split=spatial"
    )


def _warn_of_times(groups: Iterable[str]) -> None:
    """Warn of groups that differ in what looks like a time point."""
    alike = alike_but_for_time(sorted(groups))
    if alike:
        log.warning(
            "%s and %s differ in a time point alone, it seems, yet one may train and the other test: name "
            "it by the group time of data.pattern, or the column time of data.manifest", *alike,
        )  # fmt: skip


def _test_groups(samples: Sequence[Sample], rule: SplitRule, by: str) -> tuple[str, set[str]]:
    """Return the unit that is set apart for testing ("plate", "well", "field") and the groups."""
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
    """Map the names that a user may write to groups: a well by itself, or with its plate.

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
    """Draw a seeded share of `groups`: at least one, leaving at least `leave`."""
    count = min(max(1, round(fraction * len(groups))), max(0, len(groups) - leave))
    order = np.random.default_rng(seed).permutation(len(groups))
    return {groups[i] for i in order[:count]}


def split_spatial(
    samples: Sequence[Sample], shapes: Sequence[tuple[int, int]], rule: SplitRule
) -> Split:
    """Cut every sample along its longer side: training | gap | validation | gap | test.

    Other seeds than 0 make other splits of the same fields: 1 the other way round, 2 and 3 along
    the shorter side, and so on.

    The parts of one field show other cells on the same day and dish: scores hold for new areas, not for
    new experiments.

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


def stored_region(sample: Sample) -> list[Any]:
    """Return a sample's name and, if it was cut, its rows and columns, as plain data."""
    if sample.region is None:
        return [sample.name, None]
    return [sample.name, [[int(s.start), int(s.stop)] for s in sample.region]]


def overlap(samples: Sequence[Sample], used: Sequence[Sequence[Any]]) -> list[str]:
    """Return the names of `samples` that share pixels with `used`, a part of a recipe's split."""
    by_name: dict[str, list[Any]] = {}
    for name, region in used:
        by_name.setdefault(name, []).append(region)

    def touches(sample: Sample) -> bool:
        for region in by_name.get(sample.name, ()):
            if region is None or sample.region is None:
                return True
            cuts = zip(sample.region, region, strict=True)
            if all(max(c.start, start) < min(c.stop, stop) for c, (start, stop) in cuts):
                return True
        return False

    return [sample.name for sample in samples if touches(sample)]

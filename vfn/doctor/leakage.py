"""Copies among the fields, and what training would share with testing."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from vfn.data.config import DataConfig
from vfn.data.splits import Split, split_samples, split_spatial
from vfn.doctor.findings import FATAL, LOOK, NOTE, Finding, of_field, plane_names
from vfn.doctor.likeness import OVERLAP, near_copies, overlap
from vfn.doctor.reading import FieldStats, Key
from vfn.errors import UserError

PARTS = {"train": "training", "val": "validation", "test": "testing"}
OVERLAP_PAIRS = 1000  # pairs of fields whose borders are compared, at most
NEIGHBOURS = 2  # in the order of the names, where wells are not known
MIN_WELLS = 3  # one to train, one to validate, one to test


def divide(fields: Sequence[FieldStats], config: DataConfig) -> tuple[Split | None, list[Finding]]:
    """The split that training would use, over the fields that can be used; None if there is none,
    with the reason."""
    usable = [f for f in fields if f.samples and not f.errors]
    samples = [sample for f in usable for sample in f.samples]
    rule = config.rule()
    try:
        if not samples:
            raise UserError("no field has all that the task needs; see the findings on files")
        if rule.by != "spatial":
            return split_samples(samples, rule), []
        shapes = [next(iter(f.planes.values())).shape for f in usable for _ in f.samples]
        return split_spatial(samples, shapes, rule), []
    except UserError as exc:
        text, _, remedy = str(exc).partition("; ")
        return None, [Finding("split", FATAL, f"{text}.", remedy or "see the findings")]


def parts_of(split: Split | None) -> dict[str, tuple[str, ...]]:
    """Field -> the parts ("train", "val", "test") that its pixels are in."""
    parts: dict[str, tuple[str, ...]] = {}
    for part in PARTS if split else ():
        for sample in getattr(split, part):
            parts[sample.field] = tuple(dict.fromkeys((*parts.get(sample.field, ()), part)))
    return parts


def leaks(
    fields: Sequence[FieldStats], split: Split | None, config: DataConfig
) -> Iterator[Finding]:
    """Copies within the set, and whatever is in two parts of the split."""
    parts = parts_of(split)
    samples = {sample.field: sample for sample in (split.samples if split else ())}
    # Time points of one position are alike, and always in the same part.
    positions = {field: sample.position for field, sample in samples.items()}
    yield from _copies(fields, parts, positions)
    spatial = config.rule().by == "spatial"
    wells = {f: f"{s.plate}/{s.well}".strip("/") for f, s in samples.items() if s.well}
    if not spatial:
        known = not any(sample.well_from_name for sample in samples.values())
        yield from _shared_wells(wells, parts, known)
    yield from _overlaps(fields, wells, parts, positions)
    plates = {field: sample.plate for field, sample in samples.items() if sample.plate}
    both = _groups_in_two_parts(plates, parts)
    if both and len(set(plates.values())) > 1 and not spatial:
        yield Finding(
            "plate", NOTE,
            f"{len(both)} of {len(set(plates.values()))} plates are in training and in testing: "
            "scores are those of new wells, not of new plates.",
            "data.split=plate sets whole plates apart",
        )  # fmt: skip


def _groups_in_two_parts(
    groups: Mapping[str, str], parts: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, list[str]]]:
    """Group -> part -> its fields, for the groups of which more than one part has some."""
    found: dict[str, dict[str, list[str]]] = {}
    for field, group in groups.items():
        for part in parts.get(field, ()):
            found.setdefault(group, {}).setdefault(part, []).append(field)
    return {group: members for group, members in found.items() if len(members) > 1}


def _shared_wells(
    wells: Mapping[str, str], parts: Mapping[str, tuple[str, ...]], known: bool
) -> Iterator[Finding]:
    shared = _groups_in_two_parts(wells, parts)
    if not shared:
        return
    # Testing first: that is the figure which is quoted.
    well = next((w for w, members in shared.items() if "test" in members), next(iter(shared)))
    where = " and ".join(
        f"{PARTS[part]} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for part in PARTS
        if (names := shared[well].get(part))
    )
    many = f"{len(shared)} wells are in more than one part of the split. "
    fields = {name for members in shared.values() for names in members.values() for name in names}
    enough = len(set(wells.values())) >= MIN_WELLS
    remedy = "data.split=well keeps the fields of a well together"
    yield Finding(
        "leak", LOOK,
        f"{many if len(shared) > 1 else ''}Well {well} is in {where}: its fields show the same treated cells, so the scores "
        f"come out too good{'' if known else ' (wells are read from the names)'}.",
        remedy if enough else "bring fields of other wells", tuple(sorted(fields)),
        setting="data.split=well" if enough else "",
    )  # fmt: skip


def _copies(
    fields: Sequence[FieldStats],
    parts: Mapping[str, tuple[str, ...]],
    positions: Mapping[str, str],
) -> Iterator[Finding]:
    names = plane_names(fields)
    first: dict[bytes, tuple[int, Key]] = {}  # by digest
    same: dict[tuple[int, int], list[tuple[Key, Key]]] = {}
    for number, entry in enumerate(fields):
        for key, plane in entry.planes.items():
            if not plane.constant:
                # Each with the first is enough: a group of copies of one picture.
                at, of = first.setdefault(plane.digest, (number, key))
                if (at, of) != (number, key):
                    same.setdefault((at, number), []).append((of, key))
    for (a, b), planes in sorted(same.items()):
        yield _copy(fields[a], fields[b], planes, names, parts)
    for a, b in near_copies(fields, tuple(names)):
        one, other = fields[a].name, fields[b].name
        if (a, b) not in same and positions.get(one, one) != positions.get(other, other):
            text = f"{other} is nearly the same picture as {one}"
            yield _pair(one, other, text, parts, "a copy with other grey values, or taken twice")


def _copy(
    one: FieldStats,
    other: FieldStats,
    planes: Sequence[tuple[Key, Key]],
    names: Mapping[Key, str],
    parts: Mapping[str, tuple[str, ...]],
) -> Finding:
    if one is other:
        listed = " and ".join(names[key] for key in planes[0])
        return of_field(
            "duplicate", one.name, f"{one.name}: {listed} are the same picture.",
            "one of the two files is a copy of the other: replace it, or leave the field out",
        )  # fmt: skip
    if {a for a, b in planes if a == b} >= set(one.planes) & set(other.planes):
        text = f"{other.name} has the same pixels as {one.name} in every channel"
        return _pair(one.name, other.name, text, parts, "the same field under two names")
    listed = ", ".join(names[b] + ("" if a == b else f" (there {names[a]})") for a, b in planes)
    return Finding(
        "duplicate", LOOK,
        f"{other.name}: {listed} has the same pixels as in {one.name}, its other channels do not.",
        "one of the files has a wrong name or content: replace it, or leave both fields out",
        (one.name, other.name), names[planes[0][1]], (one.name, other.name),
    )  # fmt: skip


def _pair(
    first: str, second: str, text: str, parts: Mapping[str, tuple[str, ...]], why: str
) -> Finding:
    """A copy of a whole field; a leak if training has the one and testing the other."""
    between = _between(first, second, parts)
    return Finding(
        "leak" if between else "duplicate", LOOK,
        f"{text}{f': {between}' if between else ''}.",
        f"{why}: leave {second} out", (first, second), "", (second,),
    )  # fmt: skip


def _between(first: str, second: str, parts: Mapping[str, tuple[str, ...]]) -> str:
    """ "A in training, B in testing", if that is how they lie."""
    one, other = parts.get(first, ()), parts.get(second, ())
    if len(one) != 1 or len(other) != 1 or one == other:
        return ""
    return f"{first} is in {PARTS[one[0]]}, {second} in {PARTS[other[0]]}"


def _neighbours(names: Sequence[str], wells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of fields that may overlap: of one well, or next to each other by name."""
    if not wells:
        for i, name in enumerate(names):
            yield from ((name, other) for other in names[i + 1 : i + 1 + NEIGHBOURS])
    groups: dict[str, list[str]] = {}
    for name in names if wells else ():
        groups.setdefault(wells.get(name, name), []).append(name)
    for group in groups.values():
        yield from itertools.combinations(group, 2)


def _overlaps(
    fields: Sequence[FieldStats],
    wells: Mapping[str, str],
    parts: Mapping[str, tuple[str, ...]],
    positions: Mapping[str, str],
) -> Iterator[Finding]:
    """Find neighbours in two parts of the split whose borders show the same cells."""
    outlines = {
        f.name: p.outline for f in fields for p in f.planes.values() if p.outline is not None
    }
    pairs = [
        (a, b)
        for a, b in _neighbours([name for name in outlines if parts.get(name)], wells)
        if positions[a] != positions[b] and (set(parts[a]) != set(parts[b]) or len(parts[a]) > 1)
    ]
    pairs = pairs[:: max(1, -(-len(pairs) // OVERLAP_PAIRS))]
    with ThreadPoolExecutor() as pool:
        fits = pool.map(lambda pair: overlap(outlines[pair[0]], outlines[pair[1]]), pairs)
        for (first, second), fit in zip(pairs, fits, strict=True):
            if fit > OVERLAP:
                yield Finding(
                    "leak", LOOK,
                    f"The borders of {first} and {second} show the same cells (correlation "
                    f"{fit:.2f}): {_between(first, second, parts) or 'both are cut into all parts'}.",
                    "keep overlapping fields together: data.pattern with a group well, or "
                    "data.test_fields=[...]",
                    (first, second),
                )  # fmt: skip

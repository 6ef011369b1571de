"""Findings on files: unreadable, missing, of another size or dtype."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from vfn.data.config import DataConfig
from vfn.data.grid import relative_size
from vfn.data.proposal import Proposal
from vfn.data.samples import Task
from vfn.doctor.findings import FATAL, LOOK, NOTE, REPLACE, Finding, of_field
from vfn.doctor.reading import FieldStats, Key


def unpaired(proposal: Proposal, task: Task) -> Finding:
    """The names of the files pair no field, and a pattern does."""
    return Finding(
        "names", FATAL,
        f"by their names no field has all of {', '.join(task.channels)}: {proposal.reason}; "
        f"{proposal.setting} pairs {proposal.complete} fields.",
        "give that setting to the doctor and to train.py, or pair the files by data.manifest",
        setting=proposal.setting,
    )  # fmt: skip


def unreadable_files(fields: Sequence[FieldStats], names: Mapping[Key, str]) -> Iterator[Finding]:
    """Find files that cannot be read."""
    for entry in fields:
        for key, message in entry.errors.items():
            yield of_field("unreadable", entry.name, message, REPLACE, names[key])


def missing_planes(
    fields: Sequence[FieldStats], names: Mapping[Key, str], task: Task, config: DataConfig
) -> Iterator[Finding]:
    """Fields that lack a plane; where several stains are targets, each may be missing here and there."""
    skipped = config.unpaired == "skip"
    for entry in fields:
        if entry.samples or not entry.refused:
            continue
        lacking = [names[key] for key in entry.keys if key not in entry.entry.planes]
        have = ", ".join(names[key] for key in entry.keys if key in entry.entry.planes)
        yield Finding(
            "unpaired", NOTE if skipped else LOOK,
            f"{entry.name}: no file for {', '.join(lacking)} (it has {have or 'none'})."
            if lacking else entry.refused,
            "add the file; or data.unpaired=skip leaves such fields out",
            (entry.name,), lacking[0] if len(lacking) == 1 else "",
            () if skipped else (entry.name,),
        )  # fmt: skip
    yield from _partial_labels(fields, task)


def _partial_labels(fields: Sequence[FieldStats], task: Task) -> Iterator[Finding]:
    """Count the targets of a task with several, where some fields lack one."""
    counts = {
        channel: sum(any(k[0] == channel for k in f.targets if k in f.entry.planes) for f in fields)
        for channel in task.targets
    }
    if len(counts) > 1 and min(counts.values()) < len(fields):
        listed = ", ".join(f"{channel} {count}" for channel, count in counts.items())
        yield Finding(
            "labels", NOTE, f"Of {len(fields)} fields, so many have each target: {listed}.",
            "nothing, if that is meant: a field trains the targets that it has",
        )  # fmt: skip


def different_sizes(fields: Sequence[FieldStats]) -> Iterator[Finding]:
    """Find fields whose channels differ in size or binning, and sets of several sizes."""
    sizes: Counter[tuple[int, int]] = Counter()
    binned: Counter[str] = Counter()
    for entry in fields:
        shapes = {key: p.shape for key, p in entry.planes.items()}
        grid = shapes.get(entry.inputs[0], (0, 0))
        apart = {k: relative_size(grid, s) for k, s in shapes.items() if s != grid and all(grid)}
        if apart and 1.0 not in apart.values():
            binned[", ".join(f"{key[0]} {size:g}" for key, size in apart.items())] += 1
            sizes[grid] += 1
        elif len(set(shapes.values())) > 1:
            listed = ", ".join(f"{key[0]} {h}x{w}" for key, (h, w) in shapes.items())
            yield of_field(
                "size", entry.name,
                f"{entry.name}: its channels differ in size ({listed} pixels).",
                "export the channels of a field with one size, or leave the field out",
            )  # fmt: skip
        else:
            sizes.update(set(shapes.values()))
    yield from _several_sizes(sizes, binned, len(fields))


def _several_sizes(
    sizes: Counter[tuple[int, int]], binned: Counter[str], count: int
) -> Iterator[Finding]:
    """Say what sizes and binnings a set has.

    Args:
        sizes: number of fields of each size.
        binned: number of fields of each binning against the first input, in words.
        count: of all fields.
    """
    if len(binned) == 1 and binned.total() == count:
        yield Finding(
            "size", NOTE, f"Pixels in those of the first input: {next(iter(binned))}.",
            "nothing: training brings the channels onto the first input's grid, by repeating and averaging",
        )  # fmt: skip
    elif binned:
        listed = "; ".join(f"{n} of {count}: {what}" for what, n in binned.most_common())
        yield Finding(
            "size", LOOK, f"Fields differ in how channels are binned against the first input ({listed}).",
            "export each channel with one binning throughout",
        )  # fmt: skip
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sizes.most_common())
        yield Finding(
            "size", NOTE, f"Fields differ in size: {listed} pixels.",
            "nothing, if all have one pixel size (um); else scale them to one",
        )  # fmt: skip


def different_dtypes(
    fields: Sequence[FieldStats], task: Task, names: Mapping[Key, str]
) -> Iterator[Finding]:
    """Find channels without a usual dtype, fields of another one, and targets of different dtypes."""
    usual: dict[Key, str] = {}
    for key, name in names.items():
        kinds = Counter(f.planes[key].dtype for f in fields if key in f.planes)
        if not kinds:
            continue
        usual[key], most = kinds.most_common(1)[0]
        if len(kinds) > 1 and 2 * most <= kinds.total():
            listed = ", ".join(f"{kind} in {count}" for kind, count in sorted(kinds.items()))
            yield Finding(
                "dtype", FATAL, f"{name} has no usual pixel type: {listed} field(s).",
                "save one channel in one dtype throughout, or train a model for each",
                channel=name,
            )  # fmt: skip
            continue
        for entry in fields:
            if key in entry.planes and entry.planes[key].dtype != usual[key]:
                yield of_field(
                    "dtype", entry.name,
                    f"{entry.name}: {name} is {entry.planes[key].dtype}, in most fields it is "
                    f"{usual[key]}.", "save one channel in one dtype throughout", name,
                )  # fmt: skip
    asked = {key for entry in fields for key in entry.targets}
    targets = {usual[key] for key in asked & usual.keys()}
    if len(targets) > 1:
        yield Finding(
            "dtype", FATAL,
            f"The targets {', '.join(task.targets)} are {' and '.join(sorted(targets))}.",
            "save them in one dtype, or train a model for each",
        )  # fmt: skip

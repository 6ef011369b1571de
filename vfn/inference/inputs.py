"""Find the fields that a model is to predict: which file is which channel of which field."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from vfn.data.discovery.explicit import check_root
from vfn.data.discovery.fields import Field, NothingMatches
from vfn.data.discovery.layout import Layout, split_plane
from vfn.data.discovery.search import discover, whole_images
from vfn.data.images import is_container, is_image
from vfn.data.samples import Sample, Task, make_samples
from vfn.errors import UserError
from vfn.models.checkpoint import Checkpoint

log = logging.getLogger(__name__)


def find_samples(
    checkpoint: Checkpoint, source: Path | None, given: Layout | None = None
) -> list[Sample]:
    """The fields of a folder, or of one file, as the model's task sees them.

    Files are told apart as in training; where none is a channel that way, by channel names as tokens
    of the path; where none is that way either, each file is taken to hold all inputs by position,
    unless a manifest told files apart in training. Whatever else is wrong with the files ends the
    search.

    Args:
        source: folder or file; None takes what the manifest of `given` names.
        given: what the user says of the layout of these files. It goes before what the checkpoint
            says of that of the training, and rules nameless files out.

    Raises:
        UserError: nothing there, or no way to tell which file is which channel.
    """
    task, given = checkpoint.task, given or Layout(prefix="")
    inputs = tuple(dict.fromkeys(split_plane(channel)[0] for channel in task.inputs))
    root, holding = _place(source, given)
    layouts, reasons = _layouts(checkpoint.layout, given), []
    damaged: list[UserError] | None = None if holding is None else []  # its neighbours may be
    for layout in layouts:
        try:
            fields = discover(root, layout, inputs, damaged, task.targets, holding)
        except NothingMatches as exc:
            reasons.append(exc)
            continue
        if given.manifest and source is not None and holding is None:
            check_root(fields, root, given.manifest, "input")
        return _samples(fields, checkpoint, given.prefix)
    # A container has its channels inside, whatever pattern the paths of training had.
    reason = reasons[-1 if is_container(root) else 0]
    if source is None or given != Layout():
        raise reason
    if checkpoint.layout.manifest:
        raise UserError(
            f"{reason}, by {given.prefix}manifest=files.csv, or, if every image holds the inputs, "
            f"{given.prefix}channels={_positions(task)}: a manifest told the channels of the training, not "
            "the names of files"
        )
    try:
        fields = whole_images(source, task.inputs)
    except NothingMatches as exc:
        raise reason from exc
    _refuse_targets(task, root, layouts)
    log.warning(
        "input=%s: no path holds a word for a channel of the model, so each image is taken as %s; if there are other "
        "stains among them, say which word means which channel by channels={CHANNEL: WORD}",
        source, " + ".join(task.inputs),
    )  # fmt: skip
    return _samples(fields, checkpoint, given.prefix)


def _samples(fields: Sequence[Field], checkpoint: Checkpoint, prefix: str) -> list[Sample]:
    samples = make_samples(fields, checkpoint.task, targets=False, prefix=prefix)
    return [checkpoint.binning.apply(sample) for sample in samples]


def _positions(task: Task) -> str:
    """What says that each file holds the inputs one by one."""
    return "{" + ", ".join(f"{channel}: {i}" for i, channel in enumerate(task.inputs)) + "}"


def _place(source: Path | None, given: Layout) -> tuple[Path, Path | None]:
    """The folder (or container) in which files are looked for, and the file if it is one alone.

    Raises:
        UserError: it is not there, or no image.
    """
    if source is None:
        return Path(str(given.manifest)).parent, None
    if not source.exists():
        raise UserError(f"input={source}: does not exist; give a folder of images or one image")
    if source.is_dir() or is_container(source):
        return source, None
    if not is_image(source):
        raise UserError(f"input={source}: is no TIFF or PNG by its name; give an image or a folder")
    return source.parent, source  # its other channels may be in files beside it


def _layouts(trained: Layout, given: Layout) -> list[Layout]:
    """How files may be named, the likeliest way first."""
    own = used_layout(trained, given)
    return [own] if own == given or given.manifest or given.pattern else [own, given]


def used_layout(trained: Layout, given: Layout) -> Layout:
    """Return the layout of the training with what the user says of new files on top."""
    return replace(
        trained,
        channels={**trained.channels, **given.channels},
        pattern=given.pattern or trained.pattern,
        # That of the training names other files; new ones are named like those of any folder.
        manifest=given.manifest,
        z_zero=trained.z_zero if given.z_zero is None else given.z_zero,
        z_step=trained.z_step if given.z_step is None else given.z_step,
        prefix=given.prefix,
    )


def _refuse_targets(task: Task, root: Path, layouts: Sequence[Layout]) -> None:
    """Refuse images that are known to be a target, and those beside them: they are no nameless inputs.

    Raises:
        UserError: there is one.
    """
    for layout, channel in product(layouts, task.targets):
        if channel in task.inputs:
            continue
        try:
            known = discover(root, layout, [channel])
        except NothingMatches:
            continue
        raise UserError(
            f"{next(iter(known[0].planes.values()))}: is {channel}, which the model predicts, and no "
            f"image is {' or '.join(task.inputs)} by its name; name the inputs by their channel, or say "
            f"which word means it by {layout.prefix}channels={{CHANNEL: TOKEN}}"
        )

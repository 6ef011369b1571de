"""Find the fields below a folder, by channel or as images that carry all channels by position."""

import logging
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from vfn.data.discovery import naming
from vfn.data.discovery.explicit import from_manifest, from_pattern
from vfn.data.discovery.fields import Field, FilePlane, NothingMatches
from vfn.data.discovery.layout import Layout, split_plane
from vfn.data.discovery.tokens import TokenSearch
from vfn.data.formats import Stack, scenes
from vfn.data.images import is_container, read_image
from vfn.data.tiff_stacks import ContainerPlane, is_stack
from vfn.data.walk import find_sources, path_tokens
from vfn.errors import UserError

log = logging.getLogger(__name__)
WORDS = 8  # of the paths, in a message


def discover(
    root: Path,
    layout: Layout,
    wanted: Sequence[str],
    damaged: list[UserError] | None = None,
    others: Sequence[str] = (),
    holding: Path | None = None,
) -> list[Field]:
    """Find the fields below `root` and their planes for the channels `wanted`.

    Fields may lack some of the wanted channels, but each channel is found somewhere.

    Args:
        damaged: collects files that cannot be read while looking for channels inside them; None
            raises the error of the first.
        others: channels that are not wanted; their files are not taken for multi-channel files.
        holding: if given, only the fields that this file is part of.

    Returns:
        Fields sorted by name.

    Raises:
        NothingMatches: there are images, but none of the channels is found.
        UserError: no image, a channel without any file, one file claimed by two channels, two files for
            the same channel of one field, a damaged pattern or manifest.
    """
    if layout.manifest:
        found = list(from_manifest(layout, wanted))
    elif layout.pattern:
        found = list(from_pattern(root, layout, wanted))
    else:
        found = list(TokenSearch(root, layout, wanted, damaged, others).found())
    there = {channel for _, channel, *_ in found}
    if not set(wanted) <= there:
        raise _absent(root, layout, wanted, there)
    if holding is not None:
        names = {name for name, _, _, plane, _ in found if getattr(plane, "path", None) == holding}
        if not names:
            raise NothingMatches(f"{holding}: is no {' or '.join(wanted)} by its name")
        found = [one for one in found if one[0] in names]
    fields = _assembled(found, layout)
    report_stacks(fields.values(), layout)
    return [fields[name] for name in sorted(fields)]


def _assembled(found: Iterable[naming.Found], layout: Layout) -> dict[str, Field]:
    """Put planes together into fields by name.

    Raises:
        UserError: planes of several places, or two for one channel.
    """
    fields: dict[str, Field] = {}
    for name, channel, z, plane, where in found:
        entry = fields.setdefault(name, Field(name, {}, **where))
        for key in ("plate", "well", "site"):
            if getattr(entry, key) != where.get(key, ""):
                raise UserError(
                    f"field {name}: {plane} is of {key} {where.get(key) or '(none)'}, its other files "
                    f"of {getattr(entry, key) or '(none)'}; give each field a name of its own"
                )
        if (channel, z) in entry.planes:
            raise UserError(
                f"field {name}: channel {channel} is both {entry.planes[channel, z]} and {plane}; "
                f"rename one, or tell them apart by {layout.prefix}pattern (groups site, z, time)"
            )
        entry.planes[channel, z] = plane  # type: ignore[index]  # ours until it is returned
    return fields


def report_stacks(fields: Iterable[Field], layout: Layout) -> None:
    """Log what is assumed of stacks when neither the user nor the file says it: focal plane and z step."""
    planes = [
        (entry.name, z, plane)
        for entry in fields
        for (_, z), plane in entry.planes.items()
        if isinstance(plane, ContainerPlane)
    ]
    focal = next(((name, p.z) for name, z, p in planes if z == 0 and p.z), None)
    if focal is not None and layout.z_zero is None:
        log.info(
            "stacks: the middle plane is taken as the focal one (of field %s number %d, counted "
            "from 0); %sz_zero=NUMBER names another", *focal, layout.prefix,
        )  # fmt: skip
    path = next((p.path for _, z, p in planes if z), None)
    if path is not None and layout.z_step is None and scenes(path)[0].load()[0].z_step is None:
        log.info(
            "stacks: %s does not say how far apart its planes are, 1 um is assumed; "
            "%sz_step=MICROMETRES says so", path.name, layout.prefix,
        )  # fmt: skip


def _absent(root: Path, layout: Layout, wanted: Sequence[str], there: Container[str]) -> UserError:
    """Build the error for channels without a file."""
    absent = [channel for channel in wanted if channel not in there]
    tokens = ", ".join(" or ".join(layout.words(channel)) for channel in absent)
    remedy = f"map channel names by {layout.prefix}channels={{CHANNEL: TOKEN}}"
    if layout.manifest:
        source, how = Path(layout.manifest), f"{tokens} in the column channel"
        remedy += ", or correct the column"
    else:
        source, remedy = root, f"{remedy} or name files by {layout.prefix}pattern"
        how = f"{tokens} as pattern {layout.pattern}"
        if not layout.pattern:
            how = f"{tokens} as part of a file's path{_inside(root)}{_words(root)}"
    kind = UserError if len(absent) < len(wanted) else NothingMatches
    return kind(f"{source}: no file for channel {', '.join(absent)} (looked for {how}); {remedy}")


def _inside(root: Path) -> str:
    """Describe the first container, for a message: nobody knows its channel names by heart."""
    for path in find_sources(root):
        if is_container(path) or is_stack(path):
            stacks = scenes(path)[0].load()
            times = f" at {len(stacks)} time points" * (len(stacks) > 1)
            return f", {path.name} holds {stacks[0]}{times}"
    return ""


def _words(root: Path) -> str:
    """List the words that tell files apart, most frequent first, for a message."""
    paths = [naming.path_below(path, root) for path in find_sources(root)]
    counts = Counter(token for path in paths for token in dict.fromkeys(path_tokens(path)))
    words = [token for token, count in counts.most_common() if count < len(paths)][:WORDS]
    return f"; words in some of the {len(paths)} paths: {', '.join(words)}" if words else ""


def whole_images(root: Path, channels: Sequence[str]) -> list[Field]:
    """Find images that hold all channels of a field by position: a folder of inputs alone.

    Args:
        channels: their channels, in order; a z stack gives its focal plane.

    Returns:
        A field for each image below `root`, which may also be one file or container.

    Raises:
        NothingMatches: an image has another number of channels.
    """
    found: list[Field] = []
    for path in [root] if root.is_file() else find_sources(root):
        stem = naming.field_name(naming.path_below(path, root))
        if is_container(path) or is_stack(path):
            for scene in scenes(path):
                for number, stack in enumerate(stacks := scene.load()):
                    name, where = naming.at_time(*naming.scene_place(scene, stem), number, stacks)
                    found.append(whole_field(name, channels, _planes_for(stack, channels), where))
        else:
            planes = [FilePlane(path, i) for i in range(len(read_image(path).array))]
            found.append(whole_field(stem, channels, planes))
    report_stacks(found, Layout(prefix=""))
    return found


def _planes_for(stack: Stack, channels: Sequence[str]) -> tuple[ContainerPlane, ...]:
    """Select the planes of `stack` for `channels`: the focal ones, or the planes that the channels name
    (um from focus)."""
    names, depths = zip(*map(split_plane, channels), strict=True)
    column = stack.planes[0]
    if len(stack.planes) > 1 or len(set(names)) > 1 or len(channels) == 1:
        return stack.focal
    if stack.z_step is None:  # nobody knows how far apart they are
        return column
    there = dict(zip(stack.depths(), column, strict=True))
    absent = [f"{z or 0:g}" for z in depths if (z or 0.0) not in there]
    if absent:
        raise UserError(
            f"{column[0].path}: has no plane at z = {', '.join(absent)} um; it has "
            f"{', '.join(f'{z:g}' for z in there)}"
        )
    return tuple(there[z or 0.0] for z in depths)


def whole_field(
    name: str,
    channels: Sequence[str],
    planes: Sequence[FilePlane | ContainerPlane],
    where: naming.Where | None = None,
) -> Field:
    """Make a field whose `planes` are its `channels`, one by one.

    Raises:
        NothingMatches: not as many of the one as of the other.
    """
    if len(planes) != len(channels):
        raise NothingMatches(
            f"{planes[0].path}: has {len(planes)} channel(s), the model takes {len(channels)} (what a "
            "file calls time or z is no channel); "
            "name the files by channel, or give one file with all of them"
        )
    keys = [(plane, z or 0.0) for plane, z in map(split_plane, channels)]
    return Field(name, dict(zip(keys, planes, strict=True)), **(where or {}))

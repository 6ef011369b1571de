"""Find the fields below a folder."""

import logging
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from vfn.data.discovery.fields import Field, NothingMatches
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.manifest import from_manifest
from vfn.data.discovery.naming import Found, path_below
from vfn.data.discovery.pattern import from_pattern
from vfn.data.discovery.tokens import TokenSearch
from vfn.data.formats import scenes
from vfn.data.images import is_container
from vfn.data.tiff_stacks import ContainerPlane, is_stack
from vfn.data.walk import find_sources, path_tokens
from vfn.errors import UserError

log = logging.getLogger(__name__)


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


def _assembled(found: Iterable[Found], layout: Layout) -> dict[str, Field]:
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
    paths = [path_below(path, root) for path in find_sources(root)]
    counts = Counter(token for path in paths for token in dict.fromkeys(path_tokens(path)))
    words = [token for token, count in counts.most_common() if count < len(paths)][:WORDS]
    return f"; words in some of the {len(paths)} paths: {', '.join(words)}" if words else ""


WORDS = 8  # of the paths, in a message

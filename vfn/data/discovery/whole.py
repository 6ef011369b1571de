"""Images that carry all channels of a field by position."""

from collections.abc import Sequence
from pathlib import Path

from vfn.data.discovery.fields import Field, FilePlane, NothingMatches
from vfn.data.discovery.layout import Layout, split_plane
from vfn.data.discovery.naming import Where, at_time, field_name, path_below, scene_place
from vfn.data.discovery.search import report_stacks
from vfn.data.formats import Stack, scenes
from vfn.data.images import is_container, read_image
from vfn.data.tiff_stacks import ContainerPlane, is_stack
from vfn.data.walk import find_sources
from vfn.errors import UserError


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
        stem = field_name(path_below(path, root))
        if is_container(path) or is_stack(path):
            for scene in scenes(path):
                for number, stack in enumerate(stacks := scene.load()):
                    name, where = at_time(*scene_place(scene, stem), number, stacks)
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
    where: Where | None = None,
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

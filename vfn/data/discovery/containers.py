"""Find the planes of fields inside containers and stacks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vfn.data.discovery.fields import FilePlane, ImageSource
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.naming import Found, Where, at_time, by_name, collecting, nth, scene_place
from vfn.data.formats import Scene, Stack, scenes
from vfn.data.tiff_stacks import ContainerPlane, is_stack
from vfn.errors import UserError


def from_container(
    path: Path,
    stem: tuple[str, str],
    layout: Layout,
    positions: Mapping[tuple[str, float], int],
    tokens: Mapping[str, Sequence[str]],
    hits: Mapping[str, str],
    damaged: list[UserError] | None,
) -> Iterable[Found]:
    """Yield the planes of the fields in a container, matched by its channel names.

    Args:
        stem: name and time point from the path.
        hits: channels that the path names, and the name without them; a field with a single
            unnamed channel is that channel.
        damaged: see `discover`; one damaged field leaves the others of its container.
    """
    with collecting(damaged):
        for scene in scenes(path):
            with collecting(damaged):
                yield from _from_scene(scene, stem, layout, positions, tokens, hits)


def _from_scene(
    scene: Scene,
    stem: tuple[str, str],
    layout: Layout,
    positions: Mapping[tuple[str, float], int],
    tokens: Mapping[str, Sequence[str]],
    hits: Mapping[str, str],
) -> Iterable[Found]:
    stacks = scene.load()
    for number, stack in enumerate(stacks):
        named = by_name(stack.planes[0][0].path, stack.channels, tokens, layout)
        planes = dict(_placed(stack, positions, layout))
        planes |= {key: stack.planes[index] for key, index in named.items()}
        alone = len(hits) == len(stack.planes) == 1
        if alone and {channel for channel, _ in planes} <= set(hits):
            ((channel, name),) = hits.items()
            stem = name, stem[1]
            planes = {(channel, 0.0): stack.planes[0]}
        name, where = at_time(*scene_place(scene, *stem), number, stacks)
        depths = stack.depths(layout.z_zero, layout.z_step)
        for (channel, z), column in planes.items():
            for depth, plane in zip(depths if len(column) > 1 else (0.0,), column, strict=True):
                yield name, channel, z + depth, plane, where


def _placed(
    stack: Stack, positions: Mapping[tuple[str, float], int], layout: Layout
) -> Iterator[tuple[tuple[str, float], tuple[ContainerPlane, ...]]]:
    """Yield the planes at `positions`: channels, or z planes where a single-channel stack has several
    positions for one channel."""
    for (channel, z), index in positions.items():
        several = sum(name == channel for name, _ in positions) > 1
        if several and len(stack.planes) == 1:
            yield (channel, z), (nth(stack, stack.planes[0], index, layout, "z plane"),)
        else:
            yield (channel, z), nth(stack, stack.planes, index, layout)


def planes_in_file(
    path: Path,
    layout: Layout,
    name: str,
    where: Where,
    index: int | None = None,
    is_plane: bool = False,
) -> Iterator[tuple[str, float, ImageSource, Where]]:
    """Yield the planes of one channel in a file: name of the field, z (um), plane, place.

    Args:
        name, where: of the field, as far as they are known without the file.
        index: of the channel in the file; None where it must hold no other.
        is_plane: in a stack of one channel, `index` is a z plane.
    """
    if not is_stack(path):
        yield name, 0.0, FilePlane(path, index), where
        return
    stacks = scenes(path)[0].load()
    for number, stack in enumerate(stacks):
        timed, when = at_time(name, where, number, stacks)
        if is_plane and len(stack.planes) == 1:
            yield timed, 0.0, nth(stack, stack.planes[0], index or 0, layout, "z plane"), when
            continue
        if index is None and len(stack.planes) > 1:
            raise UserError(
                f"{path}: holds {stack} where one channel is expected; split it, or say which is which "
                f"by the column index of {layout.prefix}manifest"
            )
        column = nth(stack, stack.planes, index or 0, layout)
        depths = stack.depths(layout.z_zero, layout.z_step)
        for depth, plane in zip(depths, column, strict=True):
            yield timed, depth, plane, when

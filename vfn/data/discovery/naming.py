"""Names, places and time points of fields, shared by the three ways of finding them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vfn.data.discovery.fields import ImageSource, Time
from vfn.data.discovery.layout import Layout
from vfn.data.formats import Scene, Stack
from vfn.data.tiff_stacks import ContainerPlane
from vfn.data.walk import path_tokens, tokenize
from vfn.errors import UserError

Where = dict[str, Any]  # plate, well, site, time, as far as they are known

# name of the field, channel, z (um), plane, where
Found = tuple[str, str, float, ImageSource, Where]


@contextmanager
def collecting(damaged: list[UserError] | None) -> Iterator[None]:
    """Append a `UserError` to `damaged` instead of raising it, if such a list is given."""
    try:
        yield
    except UserError as exc:
        if damaged is None:
            raise
        damaged.append(exc)


def path_below(path: Path, root: Path) -> str:
    """Return the path relative to `root`, with slashes."""
    return path.name if path == root else path.relative_to(root).as_posix()


def field_name(relative_path: str) -> str:
    """Return the name of the field in a file whose name holds no channel."""
    return "_".join(path_tokens(relative_path)) or "field"


def channel_by_word(layout: Layout, wanted: Sequence[str]) -> dict[str, str]:
    """Map each word, in lower case, to the channel that it means.

    Raises:
        UserError: a word means two channels.
    """
    found: dict[str, str] = {}
    for channel in wanted:
        for word in layout.words(channel):
            other = found.setdefault(word.casefold(), channel)
            if other != channel:
                raise UserError(
                    f"{layout.prefix}channels: {word} means both {other} and {channel}; give each "
                    "channel words of its own"
                )
    return found


def timed(name: str, where: Where, time: str) -> tuple[str, Where]:
    """Return name and place of a field that was taken at `time`, if that is known."""
    time = "_".join(tokenize(time))
    return (f"{name}_t{time}", {**where, "time": Time(name)}) if time else (name, where)


def at_time(name: str, where: Where, number: int, stacks: Sequence[Stack]) -> tuple[str, Where]:
    """Return name and place of a field at time point `number` of the file called `name`."""
    count = len(stacks)
    if count == 1:
        return name, where
    position = where["time"].position if "time" in where else name
    time = Time(position, name, stacks[number].time_step)
    return f"{name}_t{number + 1:0{len(str(count))}}", {**where, "time": time}


def scene_place(scene: Scene, stem: str, time: str = "") -> tuple[str, Where]:
    """Return the name of a scene's field and its place; the container is the plate."""
    name = "_".join(part for part in (stem, scene.name) if part)
    where: Where = {"plate": stem, "well": scene.well, "site": scene.site} if scene.well else {}
    return timed(name, where, time)


T = TypeVar("T")


def nth(stack: Stack, planes: Sequence[T], index: int, layout: Layout, what: str = "channel") -> T:
    """Return the plane, or the stack of planes, at a position that the layout gives."""
    if not 0 <= index < len(planes):
        raise UserError(
            f"{stack.planes[0][0].path}: {what} {index} is asked for, it has {len(planes)} (the first is 0; "
            f"the file holds {stack}, and what it calls time or z is no channel); correct "
            f"{layout.prefix}channels"
        )
    return planes[index]


def along(
    stack: Stack, column: Sequence[ContainerPlane], layout: Layout
) -> Iterator[tuple[float, ContainerPlane]]:
    """Yield the planes of one channel, each with its depth (um); one plane alone is in focus."""
    depths = stack.depths(layout.z_zero, layout.z_step) if len(column) > 1 else (0.0,)
    yield from zip(depths, column, strict=True)


def by_name(
    path: Path, names: Sequence[str], tokens: Mapping[str, Sequence[str]], layout: Layout
) -> dict[tuple[str, float], int]:
    """Match the names that a file gives its channels, case ignored: (channel, z) -> position.

    Raises:
        UserError: two names mean one channel.
    """
    found: dict[tuple[str, float], int] = {}
    for channel, words in tokens.items():
        folded = {word.casefold() for word in words}
        hits = [index for index, name in enumerate(names) if name.casefold() in folded]
        if len({names[index].casefold() for index in hits}) > 1:
            raise UserError(
                f"{path}: holds {' and '.join(names[i] for i in hits)}, which all mean {channel} by "
                f"{layout.prefix}channels; leave one of these words out"
            )
        if hits:
            found[channel, 0.0] = hits[0]
    return found

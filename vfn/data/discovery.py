"""From a folder to fields: which file holds which channel of which field.

Three ways, told apart by what the `Layout` names: a CSV manifest, a regular expression over the
relative path, or tokens of the path (the default, which needs no configuration).
"""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from vfn.data.formats import ContainerPlane, Scene, Stack, scenes
from vfn.data.images import (
    SUFFIXES,
    content_key,
    is_container,
    is_image,
    may_name_channels,
    read_image,
)
from vfn.data.matching import search_all
from vfn.data.names import Names
from vfn.data.tables import read_table
from vfn.data.tiff_stacks import is_stack
from vfn.data.times import time_points
from vfn.data.walk import find_sources, path_tokens, tokenize
from vfn.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")
PATTERN_GROUPS = ("field", "channel", "plate", "well", "site", "z", "time")
MANIFEST_COLUMNS = ("field", "channel", "path")
WORDS = 8  # of the paths, in a message


Words = str | int | Sequence[str | int]


class NothingMatches(UserError):  # noqa: N818
    """No file is one of the channels by the layout: its images may be there under other names."""


class ImageSource(Protocol):
    """One channel of one field at one z: anything that can be read as (H, W)."""

    def read(self) -> np.ndarray:
        """Pixels (H, W)."""
        ...

    @property
    def pixel_size(self) -> float | None:
        """Micrometres a pixel, if known."""
        ...

    @property
    def key(self) -> str:
        """What the pixels are decoded from; another key where they may be others."""
        ...


@dataclass(frozen=True)
class FilePlane:
    """Channel `index` of an image file; None where the file must hold no other."""

    path: Path
    index: int | None = None

    def read(self) -> np.ndarray:
        """Pixels (H, W).

        Raises:
            UserError: see `read_image`; or the file has fewer channels than asked for, or several
                (a stack?) where its name promises one.
        """
        array = read_image(self.path, colour=self.index is not None).array
        if self.index is None and len(array) > 1:
            raise UserError(
                f"{self.path}: holds {len(array)} planes where one is expected; split it, or say which "
                "plane is which channel by channels={CHANNEL: POSITION} (in training data.channels)"
            )
        index = self.index or 0
        if not 0 <= index < len(array):
            raise UserError(
                f"{self.path}: channel {index} is asked for, it has {len(array)} (the first is 0); "
                "correct its position in channels (in training data.channels)"
            )
        return array[index]

    @property
    def pixel_size(self) -> float | None:
        """Micrometres a pixel, if the file states it."""
        return read_image(self.path, colour=True).pixel_size

    @property
    def key(self) -> str:
        """Path, size and time of change of the file, position in it, version of the reader.

        Raises:
            UserError: the file is not there.
        """
        return f"{content_key(self.path)}|{self.index}"

    def __str__(self) -> str:
        return f"{self.path}" + ("" if self.index is None else f" (channel {self.index})")


@dataclass(frozen=True)
class Time:
    """A field's place in a time lapse.

    Attributes:
        position: name of what is seen, whatever the time.
        movie: name of the field's file, where the file holds several time points; else empty.
        step: seconds from one time point of that file to the next, if it says.
    """

    position: str
    movie: str = ""
    step: float | None = None


@dataclass(frozen=True)
class Field:
    """One field of view: its planes by (channel, z in um), where it lies on a plate, and when it was
    taken; a time point is a field of its own.

    Attributes:
        well_from_name: nothing but the field's name tells the well; see `vfn.data.wells`.
    """

    name: str
    planes: Mapping[tuple[str, float], ImageSource]
    plate: str = ""
    well: str = ""
    site: str = ""
    time: Time | None = None
    well_from_name: bool = False


@dataclass(frozen=True)
class Layout:
    """How files are named. Plain data: it goes into the checkpoint, and `predict.py` reads by it.

    Attributes:
        channels: channel -> its token in the path or its name inside the file (a string, or several
            of which each means the channel), or its position inside multi-channel files (an integer).
            A channel that is not listed is its own token. Of a file that holds a stack, each plane
            has a position: "phase@-4" is `phase` 4 um below focus.
        pattern: regular expression with the named groups of `PATTERN_GROUPS`, searched in the path
            relative to the root; the group `channel` holds the token of the channel.
        manifest: CSV with the columns field, channel, path and, if wanted, plate, well, site, time, z
            (um) and index (position inside a multi-channel file, from 0; beside z that of the plane in
            a stack). Paths are relative to the CSV.
        z_zero: value of the group `z` at the focal plane; number of that plane in a stack that lies in
            one file, from 0. None takes 0 in names, or the only value that there is; in a file the
            middle plane.
        z_step: micrometres by which z grows when the group `z`, or the number, grows by 1; None takes
            1 in names, and in a file what it says.
        prefix: of the settings in messages: "data." in training, "" in `predict.py`; not stored.
    """

    channels: Mapping[str, Words] = field(default_factory=dict)
    pattern: str | None = None
    manifest: str | None = None
    z_zero: float | None = None
    z_step: float | None = None
    prefix: str = field(default="data.", compare=False)

    def words(self, channel: str) -> tuple[str, ...]:
        """What means a channel in a path, in a file or in a manifest."""
        given = self.channels.get(channel, channel)
        several = isinstance(given, Sequence) and not isinstance(given, str)
        return tuple(map(str, given)) if several else (str(given),)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        stored = asdict(replace(self, channels=dict(self.channels)))
        return {key: value for key, value in stored.items() if key != "prefix"}


def check_channels(channels: Any, setting: str) -> None:
    """Refuse what `Layout.channels` does not take.

    Args:
        setting: that gave it, for the message.

    Raises:
        UserError: no mapping, or a channel without a word or position.
    """
    if not isinstance(channels, Mapping):
        raise UserError(
            f"{setting}={channels}: give a mapping, in quotes as the shell takes braces apart: "
            f"'{setting}={{CHANNEL: TOKEN}}'"
        )
    for channel, given in channels.items():
        words = [given] if isinstance(given, str | int) else given
        if not isinstance(words, Sequence) or not words or not all(map(_is_word, words)):
            raise UserError(
                f"{setting}: {channel} is {given!r}; give a word, several as [WORD, WORD], or a "
                "position inside of files, 0 or more"
            )


def check_z(zero: Any, step: Any, prefix: str) -> None:
    """Refuse what `Layout.z_zero` and `Layout.z_step` do not take.

    Raises:
        UserError: no number; a step of 0.
    """
    for key, number in (("z_zero", zero), ("z_step", step)):
        if number is not None and not is_number(number):
            raise UserError(f"{prefix}{key}={number}: give a number, or null")
    if step == 0:
        raise UserError(f"{prefix}z_step=0: give the micrometres from one plane to the next")


def is_number(given: Any) -> bool:
    """Whether a setting is a finite number."""
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _is_word(given: Any) -> bool:
    return isinstance(given, str | int) and not isinstance(given, bool) and bool(str(given).strip())


def split_token(relative_path: str, *tokens: str) -> str | None:
    """Name of the field if one of `tokens` is in the path, else None.

    The path is split at anything but letters and digits, case ignored; every occurrence of a
    token (which may itself be several, as in "far-red") is taken out, and what is left, joined by
    "_", names the field. A path of nothing but the token gives "field".

    >>> split_token("plate1/A01_Phase.tif", "phase")
    'plate1_A01'
    """
    folded = [[part.casefold() for part in tokenize(token)] for token in tokens]
    wanted = sorted(filter(None, folded), key=len, reverse=True)  # "dapi far" before "dapi"
    parts = path_tokens(relative_path)
    path = [part.casefold() for part in parts]
    rest: list[str] = []
    found, at = False, 0
    while at < len(parts):
        hit = next((words for words in wanted if path[at : at + len(words)] == words), None)
        if hit:
            found, at = True, at + len(hit)
        else:
            rest.append(parts[at])
            at += 1
    return ("_".join(rest) or "field") if found else None


def split_plane(channel: str) -> tuple[str, float | None]:
    """Name and plane (um) of a channel; None where no plane is named.

    >>> split_plane("phase@-4")
    ('phase', -4.0)

    Raises:
        UserError: what stands behind the @ is no number.
    """
    name, at, plane = channel.partition("@")
    if not at:
        return channel, None
    try:
        return name, float(plane)
    except ValueError as exc:
        raise UserError(
            f"channel {channel}: {plane!r} is no plane; give micrometres from focus, as phase@-4"
        ) from exc


def discover(
    root: Path,
    layout: Layout,
    wanted: Sequence[str],
    damaged: list[UserError] | None = None,
    others: Sequence[str] = (),
    holding: Path | None = None,
) -> list[Field]:
    """Find the fields below `root` and their planes of the channels `wanted`.

    Fields may lack some of the wanted channels, but each channel is found somewhere.

    Args:
        damaged: if given, a file that cannot be read while channels are looked for inside it is told
            of here and left out; else it ends the search.
        others: channels that are not wanted, but whose files must not be taken for multi-channel
            files of those that are.
        holding: if given, only the fields that this file is part of.

    Returns:
        Fields sorted by name.

    Raises:
        NothingMatches: there are images, but none of the channels is found.
        UserError: no image, a channel without any file, one file claimed by two channels, two files for
            the same channel of one field, a damaged pattern or manifest.
    """
    if layout.manifest:
        found = list(_from_manifest(layout, wanted))
    elif layout.pattern:
        found = list(_from_pattern(root, layout, wanted))
    else:
        found = list(_from_tokens(root, layout, wanted, damaged, others))
    there = {channel for _, channel, *_ in found}
    if not set(wanted) <= there:
        raise _absent(root, layout, wanted, there)
    if holding is not None:
        names = {name for name, _, _, plane, _ in found if getattr(plane, "path", None) == holding}
        if not names:
            raise NothingMatches(f"{holding}: is no {' or '.join(wanted)} by its name")
        found = [one for one in found if one[0] in names]
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
    _say_focal(fields.values(), layout)
    return [fields[name] for name in sorted(fields)]


def _say_focal(fields: Iterable[Field], layout: Layout) -> None:
    """Tell of the plane that is taken as the focal one where nobody named it."""
    if layout.z_zero is not None:
        return
    for entry in fields:
        for (_, z), plane in entry.planes.items():
            number = getattr(plane, "z", 0)  # of a plane in a stack, from 0
            if z == 0 and number:
                log.info(
                    "stacks: the middle plane is taken as the focal one (of field %s number %d, counted "
                    "from 0); %sz_zero=NUMBER names another", entry.name, number, layout.prefix,
                )  # fmt: skip
                return


def _absent(root: Path, layout: Layout, wanted: Sequence[str], there: Container[str]) -> UserError:
    """What is said where some of the channels, or all of them, have no file."""
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
    """What the first container holds, for a message: nobody knows channel names by heart."""
    for path in find_sources(root):
        if is_container(path) or is_stack(path):
            stacks = scenes(path)[0].load()
            times = f" at {len(stacks)} time points" * (len(stacks) > 1)
            return f", {path.name} holds {stacks[0]}{times}"
    return ""


Where = dict[str, Any]  # plate, well, site, time, as far as they are known
# File whose name holds no channel, its path without the time point, the time point, its channels by
# (channel, z); None of a stack, which is looked into later.
_Nameless = tuple[Path, str, str, dict[tuple[str, float], int] | None]
# name of the field, channel, z (um), plane, where
Found = tuple[str, str, float, ImageSource, Where]


def _words(root: Path) -> str:
    """Words that tell files apart, the commonest first, for a message: one of them means the channel."""
    paths = [_relative(path, root) for path in find_sources(root)]
    counts = Counter(token for path in paths for token in dict.fromkeys(path_tokens(path)))
    words = [token for token, count in counts.most_common() if count < len(paths)][:WORDS]
    return f"; words in some of the {len(paths)} paths: {', '.join(words)}" if words else ""


def _from_tokens(
    root: Path,
    layout: Layout,
    wanted: Sequence[str],
    damaged: list[UserError] | None,
    others: Sequence[str],
) -> Iterable[Found]:
    positions = _positions(layout, wanted)
    placed = {channel for channel, _ in positions}
    paths = find_sources(root)
    cut = time_points(_relative(path, root) for path in paths)
    words = {c: [cut(word)[0] for word in layout.words(c)] for c in (*wanted, *others)}
    tokens = {c: words[c] for c in wanted if c not in placed}
    inside: list[_Nameless] = []
    beside: set[str] = set()  # names of fields in files that are named by channel
    for path in paths:
        relative, time = cut(_relative(path, root))
        names = {c: split_token(relative, *tokens[c]) for c in tokens}
        hits = {c: name for c, name in names.items() if name is not None}
        container = is_container(path)
        if len(hits) > 1 and not container:
            raise UserError(
                f"{path}: belongs to channels {' and '.join(hits)} by its path; "
                f"tell them apart by {layout.prefix}channels or {layout.prefix}pattern"
            )
        elsewhere = [split_token(relative, *words[c]) for c in others]
        if not container:
            beside |= {name for name in [*hits.values(), *elsewhere] if name}
        if container or (hits and is_stack(path)):
            stem = _name(relative), time
            yield from _from_container(path, stem, layout, positions, tokens, hits, damaged)
        elif hits:
            ((channel, name),) = hits.items()
            name, where = _taken(name, {}, time)
            yield name, channel, 0.0, FilePlane(path), where
        elif any(elsewhere):
            continue
        elif is_stack(path):
            inside.append((path, relative, time, None))
        else:
            # Unnamed planes are only taken by position where the user gave positions.
            with _told(damaged):
                named, first = _look_inside(path, tokens, layout)
                if first:
                    relative, time = cut(str(Path(_relative(path, root)).with_name(first)))
                planes = {**positions, **named}
                inside += [(path, relative, time, planes)] if planes else []
    names_of = _names_beside([relative for _, relative, *_ in inside], beside)
    for (path, _, time, found), name in zip(inside, names_of, strict=True):
        if found is None:
            yield from _from_container(path, (name, time), layout, positions, tokens, {}, damaged)
            continue
        name, where = _taken(name, {}, time)
        for (channel, z), index in found.items():
            yield name, channel, z, FilePlane(path, index), where


def _names_beside(relative_paths: Sequence[str], others: set[str]) -> list[str]:
    """Names of the fields in files whose names hold no channel.

    Args:
        others: names of fields in other files. Words that all of `relative_paths` have, and none of
            these, name the kind of image (`0_brightfield.tif` beside `0_dapi.tif`); they are left out
            where the fields are the same ones then.
    """
    tokens = [path_tokens(path) for path in relative_paths]
    known = {word.casefold() for name in others for word in name.split("_")}
    folded = [{word.casefold() for word in words} for words in tokens]
    kind = set.intersection(*folded) - known if folded else set()
    shorter = ["_".join(w for w in words if w.casefold() not in kind) for words in tokens]
    return shorter if set(shorter) & others else [_name(path) for path in relative_paths]


@contextmanager
def _told(damaged: list[UserError] | None) -> Iterator[None]:
    """What cannot be read is told to `damaged`, if there is such a list, and left out."""
    try:
        yield
    except UserError as exc:
        if damaged is None:
            raise
        damaged.append(exc)


def _relative(path: Path, root: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _name(relative_path: str) -> str:
    """Of the field in a file whose name holds no channel."""
    return "_".join(path_tokens(relative_path)) or "field"


def _positions(layout: Layout, wanted: Sequence[str]) -> dict[tuple[str, float], int]:
    """(channel, z) -> position inside multi-channel files, as `data.channels` gives it."""
    found = {}
    for channel, position in layout.channels.items():
        name, z = split_plane(channel)
        if isinstance(position, int) and name in wanted:
            found[name, z or 0.0] = position
    return found


def _from_container(
    path: Path,
    stem: tuple[str, str],
    layout: Layout,
    positions: Mapping[tuple[str, float], int],
    tokens: Mapping[str, Sequence[str]],
    hits: Mapping[str, str],
    damaged: list[UserError] | None,
) -> Iterable[Found]:
    """Planes of the fields in a container, by what it calls its channels.

    Args:
        stem: what the path gives as name, and as time.
        hits: channels that are in the path, and the name that is left: one of them is the channel of
            a field that has but one, and no name for it.
        damaged: see `discover`; of a container with one damaged field the others are found.
    """
    with _told(damaged):
        for scene in scenes(path):
            with _told(damaged):
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
        named = _by_name(stack.planes[0][0].path, stack.channels, tokens, layout)
        planes = dict(_placed(stack, positions, layout))
        planes |= {key: stack.planes[index] for key, index in named.items()}
        alone = len(hits) == len(stack.planes) == 1
        if alone and {channel for channel, _ in planes} <= set(hits):
            ((channel, name),) = hits.items()
            stem = name, stem[1]
            planes = {(channel, 0.0): stack.planes[0]}
        name, where = _at_time(*_place(scene, *stem), number, stacks)
        depths = stack.depths(layout.z_zero, layout.z_step)
        for (channel, z), column in planes.items():
            for depth, plane in zip(depths if len(column) > 1 else (0.0,), column, strict=True):
                yield name, channel, z + depth, plane, where


def _placed(
    stack: Stack, positions: Mapping[tuple[str, float], int], layout: Layout
) -> Iterator[tuple[tuple[str, float], tuple[ContainerPlane, ...]]]:
    """The planes at `positions`, which are channels; in a stack of one channel, where a channel has
    several, its z planes."""
    for (channel, z), index in positions.items():
        several = sum(name == channel for name, _ in positions) > 1
        if several and len(stack.planes) == 1:
            yield (channel, z), (_nth(stack, stack.planes[0], index, layout, "z plane"),)
        else:
            yield (channel, z), _nth(stack, stack.planes, index, layout)


def _nth(stack: Stack, planes: Sequence[T], index: int, layout: Layout, what: str = "channel") -> T:
    if not 0 <= index < len(planes):
        raise UserError(
            f"{stack.planes[0][0].path}: {what} {index} is asked for, it has {len(planes)} (the first is 0; "
            f"the file holds {stack}, and what it calls time or z is no channel); correct "
            f"{layout.prefix}channels"
        )
    return planes[index]


def _at_time(name: str, where: Where, number: int, stacks: Sequence[Stack]) -> tuple[str, Where]:
    """Name and place of a field at one of the time points of its file, which is called `name`."""
    count = len(stacks)
    if count == 1:
        return name, where
    position = where["time"].position if "time" in where else name
    time = Time(position, name, stacks[number].time_step)
    return f"{name}_t{number + 1:0{len(str(count))}}", {**where, "time": time}


def _place(scene: Scene, stem: str, time: str = "") -> tuple[str, Where]:
    """Name of the field, and where it lies if that is on a plate: the container is the plate."""
    name = "_".join(part for part in (stem, scene.name) if part)
    where: Where = {"plate": stem, "well": scene.well, "site": scene.site} if scene.well else {}
    return _taken(name, where, time)


def _look_inside(
    path: Path, tokens: Mapping[str, Sequence[str]], layout: Layout
) -> tuple[dict[tuple[str, float], int], str | None]:
    """Channels that a file carries by name ((channel, z) -> position), and the file that names its
    field if the metadata spread the channels over several files."""
    if not may_name_channels(path):
        return {}, None
    image = read_image(path, colour=True)
    return _by_name(path, image.channels or (), tokens, layout), image.acquisition


def _by_name(
    path: Path, names: Sequence[str], tokens: Mapping[str, Sequence[str]], layout: Layout
) -> dict[tuple[str, float], int]:
    """Channels by the names that a file gives them, case ignored: (channel, z) -> position.

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


def left_out(fields: Sequence[Field], table: Path) -> list[Field]:
    """`fields` without what `table` excludes: a CSV with the columns field and, if wanted, channel;
    a line without channel means the whole field.

    Raises:
        UserError: an unreadable table; a field that is not there, which may be a misspelt one; no field
            is left.
    """
    rows = read_table(table, "data.exclude", ("field",))
    names = Names(entry.name for entry in fields)
    whole, channels = set(), set()
    for number, row in rows:
        name = names.find(row["field"])
        if name is None:
            raise UserError(
                f"{table}: line {number} excludes field {row['field']!r}, which is not there; "
                f"correct the line or remove it (fields are named like {min(names.there, default='-')})"
            )
        if row.get("channel"):
            channels.add((name, row["channel"].casefold()))
        else:
            whole.add(name)
    kept = [
        replace(
            entry,
            planes={
                (channel, z): plane
                for (channel, z), plane in entry.planes.items()
                if (entry.name, channel.casefold()) not in channels
            },
        )
        for entry in fields
        if entry.name not in whole
    ]
    if not any(entry.planes for entry in kept):
        raise UserError(
            f"data.exclude={table}: leaves out all {len(fields)} field(s); remove the lines of those that "
            "are to be used"
        )
    return kept


def _by_word(layout: Layout, wanted: Sequence[str]) -> dict[str, str]:
    """Channel by each word that means it, case ignored.

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


def _matches(layout: Layout, paths: Sequence[str]) -> list[dict[str, str] | None]:
    """The groups of the layout's pattern in each of `paths`; None where it is not found.

    Raises:
        UserError: see `search_all`; or the pattern lacks a group that it needs.
    """
    text, key = layout.pattern or "", f"{layout.prefix}pattern"
    found = search_all(text, paths, key)
    given, named = f"{key}={text}", set(re.compile(text).groupindex)
    unknown = sorted(named - set(PATTERN_GROUPS))
    if unknown:
        raise UserError(
            f"{given}: the group {', '.join(unknown)} is not known; there are {', '.join(PATTERN_GROUPS)}"
        )
    if "channel" not in named or not named & {"field", "well", "site"}:
        raise UserError(
            f"{given}: needs the named groups channel and field (or well, "
            f"site); others allowed are {', '.join(PATTERN_GROUPS)}; found {sorted(named)}"
        )
    return found


def _from_pattern(root: Path, layout: Layout, wanted: Sequence[str]) -> Iterable[Found]:
    by_word, paths = _by_word(layout, wanted), list(filter(is_image, find_sources(root)))
    found = _matches(layout, [_relative(path, root) for path in paths])
    matched: list[tuple[Path, dict[str, str], str]] = []
    for path, groups in zip(paths, found, strict=True):
        if groups is None:
            continue
        channel = by_word.get(groups.pop("channel").casefold())
        if channel is None:
            continue
        matched.append((path, groups, channel))
    zero, step = _focus(layout, [(path, groups.get("z", "")) for path, groups, _ in matched])
    for path, groups, channel in matched:
        z = groups.pop("z", "")
        z_um = (
            round((float(z) - zero) * step, 6) if z else 0.0
        )  # so that 1.1 - 0.9 is the 0.2 of a task
        name = "_".join(tokenize(groups.pop("field", "")))
        where: Where = {key: groups[key] for key in ("plate", "well", "site") if groups.get(key)}
        site = f"s{where['site']}" if "site" in where else ""
        place = "_".join(part for part in (where.get("plate"), where.get("well"), site) if part)
        name, where = _taken(name or place, where, groups.get("time", ""))
        for at, depth, plane, when in _in_file(path, layout, name, where):
            yield at, channel, z_um + depth, plane, when


def _focus(layout: Layout, found: Sequence[tuple[Path, str]]) -> tuple[float, float]:
    """Number of the focal plane and um from one plane to the next, for planes that names number.

    Raises:
        UserError: a plane that is no number.
    """
    numbers = set()
    for path, z in found:
        try:
            numbers |= {float(z)} if z else set()
        except ValueError as exc:
            raise UserError(
                f"{path}: z is {z!r} by {layout.prefix}pattern, a number is expected"
            ) from exc
    zero = layout.z_zero
    if zero is None:  # one plane throughout is in focus, whatever its number
        zero = numbers.pop() if len(numbers) == 1 else 0.0
    return zero, 1.0 if layout.z_step is None else layout.z_step


def _taken(name: str, where: Where, time: str) -> tuple[str, Where]:
    """Name and place of a field that was taken at `time`, if that is known."""
    time = "_".join(tokenize(time))
    return (f"{name}_t{time}", {**where, "time": Time(name)}) if time else (name, where)


def _in_file(
    path: Path,
    layout: Layout,
    name: str,
    where: Where,
    index: int | None = None,
    is_plane: bool = False,
) -> Iterator[tuple[str, float, ImageSource, Where]]:
    """The planes of one channel in a file: name of the field, z (um), plane, where.

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
        timed, when = _at_time(name, where, number, stacks)
        if is_plane and len(stack.planes) == 1:
            yield timed, 0.0, _nth(stack, stack.planes[0], index or 0, layout, "z plane"), when
            continue
        if index is None and len(stack.planes) > 1:
            raise UserError(
                f"{path}: holds {stack} where one channel is expected; split it, or say which is which "
                f"by the column index of {layout.prefix}manifest"
            )
        column = _nth(stack, stack.planes, index or 0, layout)
        depths = stack.depths(layout.z_zero, layout.z_step)
        for depth, plane in zip(depths, column, strict=True):
            yield timed, depth, plane, when


def _from_manifest(layout: Layout, wanted: Sequence[str]) -> Iterable[Found]:
    manifest = Path(str(layout.manifest))
    rows = read_table(manifest, f"{layout.prefix}manifest", MANIFEST_COLUMNS)
    by_word = _by_word(layout, wanted)
    for number, row in rows:
        # Words that the layout gives a channel do not take its own name away.
        channel = by_word.get(row["channel"].casefold()) or (
            row["channel"] if row["channel"] in wanted else None
        )
        if channel is None:
            continue
        line = f"{manifest}: line {number}"
        try:
            # A spreadsheet may write 2,5.
            z = float((row.get("z") or "0").replace(",", "."))
            index = int(row["index"]) if row.get("index") else None
        except ValueError as exc:
            raise UserError(f"{line}: z or index is no number ({exc})") from exc
        where: Where = {key: row[key] for key in ("plate", "well", "site") if row.get(key)}
        name = row["field"]
        if not name or "/" in name or "\\" in name:  # it becomes a file name
            raise UserError(f"{line}: field {name!r} needs a name without slash")
        path = _listed(manifest, line, row["path"])
        name, where = _taken(name, where, row.get("time") or "")
        is_plane = bool(row.get("z")) and index is not None
        for at, depth, plane, when in _in_file(path, layout, name, where, index, is_plane):
            yield at, channel, z + depth, plane, when


def _listed(manifest: Path, line: str, name: str) -> Path:
    """The file that a line of a manifest names; paths are relative to the CSV.

    Raises:
        UserError: it is not there.
    """
    for path in (manifest.parent / name, manifest.parent / name.replace("\\", "/")):
        if name and path.is_file():
            return path
    odd = "; its letters are not UTF-8, save the table as such" if _is_odd(name) else ""
    raise UserError(
        f"{line} names {name or 'no path'}, which does not exist in {manifest.parent}{odd}; paths are "
        "relative to the folder of the CSV"
    )


def check_root(fields: Sequence[Field], root: Path, manifest: str, setting: str) -> None:
    """Refuse fields that a manifest names, but that lie elsewhere than the user says.

    Args:
        setting: that gave `root`, for the message.

    Raises:
        UserError: a file is not below `root`.
    """
    roots = (Path(os.path.abspath(root)), root.resolve())
    for plane in (plane for entry in fields for plane in entry.planes.values()):
        path = Path(os.path.abspath(getattr(plane, "path", root)))
        if not any(one.is_relative_to(r) for one in (path, path.resolve()) for r in roots):
            raise UserError(
                f"{setting}={root}: {path}, which {manifest} names, is not in it; paths are relative to the "
                f"folder of the CSV: give the manifest of these images, or leave out {setting}"
            )


def _is_odd(name: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in name)


def whole_images(root: Path, channels: Sequence[str]) -> list[Field]:
    """Images that carry all channels of a field by position: a folder of nothing but inputs.

    Args:
        channels: what their channels are, in order. Of a z stack the focal plane is taken.

    Returns:
        A field for each image below `root`, which may also be one file or container.

    Raises:
        NothingMatches: an image has another number of channels.
    """
    found: list[Field] = []
    for path in [root] if root.is_file() else find_sources(root):
        stem = _name(_relative(path, root))
        if is_container(path) or is_stack(path):
            for scene in scenes(path):
                for number, stack in enumerate(stacks := scene.load()):
                    name, where = _at_time(*_place(scene, stem), number, stacks)
                    found.append(whole_field(name, channels, _planes_for(stack, channels), where))
        else:
            planes = [FilePlane(path, i) for i in range(len(read_image(path).array))]
            found.append(whole_field(stem, channels, planes))
    _say_focal(found, Layout(prefix=""))
    return found


def _planes_for(stack: Stack, channels: Sequence[str]) -> tuple[ContainerPlane, ...]:
    """The planes of `stack` that are `channels`: in focus, or where the channels are planes of one
    channel (um from focus), these."""
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
    """A field whose `planes` are its `channels`, one by one.

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


__all__ = [
    "SUFFIXES",
    "Field",
    "FilePlane",
    "ImageSource",
    "Layout",
    "NothingMatches",
    "check_channels",
    "check_root",
    "check_z",
    "discover",
    "is_number",
    "left_out",
    "split_plane",
    "split_token",
    "whole_field",
    "whole_images",
]  # fmt: skip

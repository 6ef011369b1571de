"""Find channels by words of the path, or by names inside files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vfn.data.discovery import naming
from vfn.data.discovery.fields import FilePlane
from vfn.data.discovery.layout import Layout, split_plane
from vfn.data.formats import Scene, Stack, scenes
from vfn.data.images import is_container, may_name_channels, read_image
from vfn.data.tiff_stacks import ContainerPlane, is_stack
from vfn.data.times import time_points
from vfn.data.walk import find_sources, path_tokens, tokenize
from vfn.errors import UserError


def split_token(relative_path: str, *tokens: str) -> str | None:
    """Return the name of the field if one of `tokens` is in the path, else None.

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


# File whose name holds no channel, its path without the time point, the time point, its channels by
# (channel, z); None of a stack, which is looked into later.
_Nameless = tuple[Path, str, str, dict[tuple[str, float], int] | None]


class TokenSearch:
    """A search for channels by words of the paths, or by the names inside files; see `discover`.

    Attributes:
        cut: parts a path from its time point.
        positions: (channel, z) -> position inside multi-channel files.
        tokens, others: channel -> its words; channels with positions have none.
        nameless: files whose names hold no channel.
        beside: names of fields in files that are named by channel.
    """

    def __init__(
        self,
        root: Path,
        layout: Layout,
        wanted: Sequence[str],
        damaged: list[UserError] | None,
        others: Sequence[str],
    ) -> None:
        self.root, self.layout, self.damaged = root, layout, damaged
        self.paths = find_sources(root)
        self.cut = time_points(naming.path_below(path, root) for path in self.paths)
        self.positions = _positions(layout, wanted)
        placed = {channel for channel, _ in self.positions}
        self.tokens = {c: self._words(c) for c in wanted if c not in placed}
        self.others = {c: self._words(c) for c in others}
        self.nameless: list[_Nameless] = []
        self.beside: set[str] = set()

    def _words(self, channel: str) -> list[str]:
        return [self.cut(word)[0] for word in self.layout.words(channel)]

    def found(self) -> Iterable[naming.Found]:
        """Yield the planes of files that are named by channel, then those of the others."""
        for path in self.paths:
            yield from self._of(path)
        names = _names_beside([relative for _, relative, *_ in self.nameless], self.beside)
        for (path, _, time, planes), name in zip(self.nameless, names, strict=True):
            if planes is None:
                yield from self._in_container(path, (name, time), {})
                continue
            name, where = naming.timed(name, {}, time)
            for (channel, z), index in planes.items():
                yield name, channel, z, FilePlane(path, index), where

    def _of(self, path: Path) -> Iterable[naming.Found]:
        relative, time = self.cut(naming.path_below(path, self.root))
        hits = _hits(relative, self.tokens)
        elsewhere = _hits(relative, self.others)
        container = is_container(path)
        if not container:
            if len(hits) > 1:
                raise UserError(
                    f"{path}: belongs to channels {' and '.join(hits)} by its path; "
                    f"tell them apart by {self.layout.prefix}channels or {self.layout.prefix}pattern"
                )
            self.beside |= {*hits.values(), *elsewhere.values()}
        if container or (hits and is_stack(path)):
            yield from self._in_container(path, (naming.field_name(relative), time), hits)
        elif hits:
            ((channel, name),) = hits.items()
            name, where = naming.timed(name, {}, time)
            yield name, channel, 0.0, FilePlane(path), where
        elif is_stack(path) and not elsewhere:
            self.nameless.append((path, relative, time, None))
        elif not elsewhere:
            # Unnamed planes are only taken by position where the user gave positions.
            with naming.collecting(self.damaged):
                named, first = _look_inside(path, self.tokens, self.layout)
                if first:
                    relative, time = self.cut(
                        str(Path(naming.path_below(path, self.root)).with_name(first))
                    )
                if planes := {**self.positions, **named}:
                    self.nameless.append((path, relative, time, planes))

    def _in_container(
        self, path: Path, stem: tuple[str, str], hits: Mapping[str, str]
    ) -> Iterable[naming.Found]:
        """Yield the planes of the fields in a container; one damaged field leaves the others.

        Args:
            stem: name and time point from the path.
            hits: channels that the path names, and the name without them.
        """
        with naming.collecting(self.damaged):
            for scene in scenes(path):
                with naming.collecting(self.damaged):
                    yield from self._in_scene(scene, stem, hits)

    def _in_scene(
        self, scene: Scene, stem: tuple[str, str], hits: Mapping[str, str]
    ) -> Iterable[naming.Found]:
        stacks = scene.load()
        for number, stack in enumerate(stacks):
            planes = self._columns(stack)
            # A single unnamed channel is the one that the path names.
            if len(hits) == len(stack.planes) == 1 and {c for c, _ in planes} <= set(hits):
                ((channel, name),) = hits.items()
                stem, planes = (name, stem[1]), {(channel, 0.0): stack.planes[0]}
            name, where = naming.at_time(*naming.scene_place(scene, *stem), number, stacks)
            for (channel, z), column in planes.items():
                for depth, plane in naming.along(stack, column, self.layout):
                    yield name, channel, z + depth, plane, where

    def _columns(self, stack: Stack) -> dict[tuple[str, float], tuple[ContainerPlane, ...]]:
        """Return the planes of each channel: by position, where several positions for one channel are z
        planes of a single-channel stack, or by name."""
        counts = Counter(channel for channel, _ in self.positions)
        found: dict[tuple[str, float], tuple[ContainerPlane, ...]] = {}
        for (channel, z), index in self.positions.items():
            if counts[channel] > 1 and len(stack.planes) == 1:
                found[channel, z] = (
                    naming.nth(stack, stack.planes[0], index, self.layout, "z plane"),
                )
            else:
                found[channel, z] = naming.nth(stack, stack.planes, index, self.layout)
        named = naming.by_name(stack.planes[0][0].path, stack.channels, self.tokens, self.layout)
        return found | {key: stack.planes[index] for key, index in named.items()}


def _hits(relative_path: str, tokens: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the channels that a path names, each with the name of its field."""
    names = {channel: split_token(relative_path, *words) for channel, words in tokens.items()}
    return {channel: name for channel, name in names.items() if name is not None}


def _names_beside(relative_paths: Sequence[str], others: set[str]) -> list[str]:
    """Return the names of the fields in files whose names hold no channel.

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
    return (
        shorter if set(shorter) & others else [naming.field_name(path) for path in relative_paths]
    )


def _positions(layout: Layout, wanted: Sequence[str]) -> dict[tuple[str, float], int]:
    """Map (channel, z) to its position inside multi-channel files, from `data.channels`."""
    found = {}
    for channel, position in layout.channels.items():
        name, z = split_plane(channel)
        if isinstance(position, int) and name in wanted:
            found[name, z or 0.0] = position
    return found


def _look_inside(
    path: Path, tokens: Mapping[str, Sequence[str]], layout: Layout
) -> tuple[dict[tuple[str, float], int], str | None]:
    """Return the channels that a file names ((channel, z) -> position), and the file that names its field
    if the metadata spread the channels over several files."""
    if not may_name_channels(path):
        return {}, None
    image = read_image(path, colour=True)
    return naming.by_name(path, image.channels or (), tokens, layout), image.acquisition

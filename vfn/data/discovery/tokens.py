"""Find channels by words of the path, or by names inside files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vfn.data.discovery.containers import from_container
from vfn.data.discovery.fields import FilePlane
from vfn.data.discovery.layout import Layout, split_plane
from vfn.data.discovery.naming import Found, by_name, collecting, field_name, path_below, timed
from vfn.data.images import is_container, may_name_channels, read_image
from vfn.data.tiff_stacks import is_stack
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


def from_tokens(
    root: Path,
    layout: Layout,
    wanted: Sequence[str],
    damaged: list[UserError] | None,
    others: Sequence[str],
) -> Iterable[Found]:
    """Yield the planes of the channels whose words are in paths, or in the names inside files."""
    positions = _positions(layout, wanted)
    placed = {channel for channel, _ in positions}
    paths = find_sources(root)
    cut = time_points(path_below(path, root) for path in paths)
    words = {c: [cut(word)[0] for word in layout.words(c)] for c in (*wanted, *others)}
    tokens = {c: words[c] for c in wanted if c not in placed}
    inside: list[_Nameless] = []
    beside: set[str] = set()  # names of fields in files that are named by channel
    for path in paths:
        relative, time = cut(path_below(path, root))
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
            stem = field_name(relative), time
            yield from from_container(path, stem, layout, positions, tokens, hits, damaged)
        elif hits:
            ((channel, name),) = hits.items()
            name, where = timed(name, {}, time)
            yield name, channel, 0.0, FilePlane(path), where
        elif any(elsewhere):
            continue
        elif is_stack(path):
            inside.append((path, relative, time, None))
        else:
            # Unnamed planes are only taken by position where the user gave positions.
            with collecting(damaged):
                named, first = _look_inside(path, tokens, layout)
                if first:
                    relative, time = cut(str(Path(path_below(path, root)).with_name(first)))
                planes = {**positions, **named}
                inside += [(path, relative, time, planes)] if planes else []
    names_of = _names_beside([relative for _, relative, *_ in inside], beside)
    for (path, _, time, found), name in zip(inside, names_of, strict=True):
        if found is None:
            yield from from_container(path, (name, time), layout, positions, tokens, {}, damaged)
            continue
        name, where = timed(name, {}, time)
        for (channel, z), index in found.items():
            yield name, channel, z, FilePlane(path, index), where


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
    return shorter if set(shorter) & others else [field_name(path) for path in relative_paths]


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
    return by_name(path, image.channels or (), tokens, layout), image.acquisition

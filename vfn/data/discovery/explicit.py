"""Find channels by a regular expression over the path, or in a CSV that lists them."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vfn.data.discovery import naming
from vfn.data.discovery.fields import Field, FilePlane
from vfn.data.discovery.layout import PATTERN_GROUPS, Layout
from vfn.data.formats import scenes
from vfn.data.images import is_image
from vfn.data.matching import search_all
from vfn.data.tables import read_table
from vfn.data.tiff_stacks import ContainerPlane, is_stack
from vfn.data.walk import find_sources, tokenize
from vfn.errors import UserError

MANIFEST_COLUMNS = ("field", "channel", "path")
_ODD = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8


def from_manifest(layout: Layout, wanted: Sequence[str]) -> Iterable[naming.Found]:
    """Yield the planes that the layout's manifest lists."""
    manifest = Path(str(layout.manifest))
    rows = read_table(manifest, f"{layout.prefix}manifest", MANIFEST_COLUMNS)
    by_word = naming.channel_by_word(layout, wanted)
    for number, row in rows:
        # Words that the layout gives a channel do not take its own name away.
        channel = by_word.get(row["channel"].casefold(), row["channel"])
        if channel not in wanted:
            continue
        line = f"{manifest}: line {number}"
        try:
            # A spreadsheet may write 2,5.
            z = float((row.get("z") or "0").replace(",", "."))
            index = int(row["index"]) if row.get("index") else None
        except ValueError as exc:
            raise UserError(f"{line}: z or index is no number ({exc})") from exc
        where = _place(row)
        name = row["field"]
        if not name or "/" in name or "\\" in name:  # it becomes a file name
            raise UserError(f"{line}: field {name!r} needs a name without slash")
        path = _listed(manifest, line, row["path"])
        name, where = naming.timed(name, where, row.get("time") or "")
        is_plane = bool(row.get("z")) and index is not None
        yield from _planes(path, layout, where, (name, channel, z), index, is_plane)


def _place(told: Mapping[str, str]) -> naming.Where:
    return {key: told[key] for key in ("plate", "well", "site") if told.get(key)}


def _listed(manifest: Path, line: str, name: str) -> Path:
    """Return the file that a line of a manifest names; paths are relative to the CSV.

    Raises:
        UserError: it is not there.
    """
    for path in (manifest.parent / name, manifest.parent / name.replace("\\", "/")):
        if name and path.is_file():
            return path
    odd = "; its letters are not UTF-8, save the table as such" * bool(_ODD.search(name))
    raise UserError(
        f"{line} names {name or 'no path'}, which does not exist in {manifest.parent}{odd}; paths are "
        "relative to the folder of the CSV"
    )


def check_root(fields: Sequence[Field], root: Path, manifest: str, setting: str) -> None:
    """Refuse fields of a manifest that lie outside the folder that the user gave.

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


def _matches(layout: Layout, paths: Sequence[str]) -> list[dict[str, str] | None]:
    """Match the layout's pattern in each of `paths`: its groups, or None.

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


def from_pattern(root: Path, layout: Layout, wanted: Sequence[str]) -> Iterable[naming.Found]:
    """Yield the planes whose paths match the layout's pattern."""
    by_word = naming.channel_by_word(layout, wanted)
    paths = [path for path in find_sources(root) if is_image(path)]
    found = _matches(layout, [naming.path_below(path, root) for path in paths])
    matched: list[tuple[Path, dict[str, str], str]] = []
    for path, groups in zip(paths, found, strict=True):
        channel = groups and by_word.get(groups.pop("channel").casefold())
        if groups and channel:
            matched.append((path, groups, channel))
    zero, step = _focus(layout, [(path, groups.get("z", "")) for path, groups, _ in matched])
    for path, groups, channel in matched:
        z = groups.pop("z", "")
        # Rounded, so that 1.1 - 0.9 is the 0.2 of a task.
        z_um = round((float(z) - zero) * step, 6) if z else 0.0
        name = "_".join(tokenize(groups.pop("field", "")))
        where = _place(groups)
        site = f"s{where['site']}" if "site" in where else ""
        place = "_".join(part for part in (where.get("plate"), where.get("well"), site) if part)
        name, where = naming.timed(name or place, where, groups.get("time", ""))
        yield from _planes(path, layout, where, (name, channel, z_um))


def _focus(layout: Layout, found: Sequence[tuple[Path, str]]) -> tuple[float, float]:
    """Return the number of the focal plane and the um between planes, for planes numbered in names.

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


def _planes(
    path: Path,
    layout: Layout,
    where: naming.Where,
    found: tuple[str, str, float],
    index: int | None = None,
    is_plane: bool = False,
) -> Iterator[naming.Found]:
    """Yield the planes of one channel in a file.

    Args:
        where: place of the field, as far as it is known without the file.
        found: name of the field, channel and z (um), likewise.
        index: of the channel in the file; None where it must hold no other.
        is_plane: in a stack of one channel, `index` is a z plane.
    """  # fmt: skip
    name, channel, z = found
    if not is_stack(path):
        yield name, channel, z, FilePlane(path, index), where
        return
    stacks = scenes(path)[0].load()
    column: tuple[ContainerPlane, ...]
    for number, stack in enumerate(stacks):
        if index is None and len(stack.planes) > 1:
            raise UserError(
                f"{path}: holds {stack} where one channel is expected; split it, or say which is which "
                f"by the column index of {layout.prefix}manifest"
            )
        if is_plane and len(stack.planes) == 1:
            column = (naming.nth(stack, stack.planes[0], index or 0, layout, "z plane"),)
        else:
            column = naming.nth(stack, stack.planes, index or 0, layout)
        at, when = naming.at_time(name, where, number, stacks)
        for depth, plane in naming.along(stack, column, layout):
            yield at, channel, z + depth, plane, when

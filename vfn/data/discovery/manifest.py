"""Find channels in a CSV that lists them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from vfn.data.discovery.containers import planes_in_file
from vfn.data.discovery.fields import Field
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.naming import Found, Where, channel_by_word, timed
from vfn.data.tables import read_table
from vfn.errors import UserError

MANIFEST_COLUMNS = ("field", "channel", "path")


def from_manifest(layout: Layout, wanted: Sequence[str]) -> Iterable[Found]:
    """Yield the planes that the layout's manifest lists."""
    manifest = Path(str(layout.manifest))
    rows = read_table(manifest, f"{layout.prefix}manifest", MANIFEST_COLUMNS)
    by_word = channel_by_word(layout, wanted)
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
        where: Where = {key: row[key] for key in ("plate", "well", "site") if row.get(key)}
        name = row["field"]
        if not name or "/" in name or "\\" in name:  # it becomes a file name
            raise UserError(f"{line}: field {name!r} needs a name without slash")
        path = _listed(manifest, line, row["path"])
        name, where = timed(name, where, row.get("time") or "")
        is_plane = bool(row.get("z")) and index is not None
        for at, depth, plane, when in planes_in_file(path, layout, name, where, index, is_plane):
            yield at, channel, z + depth, plane, when


def _listed(manifest: Path, line: str, name: str) -> Path:
    """Return the file that a line of a manifest names; paths are relative to the CSV.

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


def _is_odd(name: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in name)

"""Zip archives that are unpacked whole or not at all."""

import errno
import json
import os
import posixpath
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from vfn.errors import UserError
from vfn.system.files import write_text
from vfn.system.progress import progress

MARKER = ".unpacked.json"  # in each folder: file -> size


class DamagedError(Exception):
    """The archive is damaged; the message says how."""


def check_space(root: Path, needed: float, what: str) -> None:
    """Check that the disk has room for `needed` bytes.

    Raises:
        UserError: it has not.
    """
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{root}: {decimal(int(needed))} are needed ({what}), {decimal(free)} are free; make room, "
            "ask for less, or choose another --root"
        )


def folder_of(root: Path, archive: str) -> Path:
    """Return the folder that an archive is unpacked to."""
    return root / Path(archive).stem


def is_whole(folder: Path) -> bool:
    """Return True if `unpack` made `folder` and every file still has its size."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files of `archive` by their path below their common folder.

    Raises:
        UserError: a path that leads out of the folder.
        zipfile.BadZipFile: no file, not as many as the archive says, or a name that has changed.
    """
    assert archive.fp is not None
    archive.fp.seek(-len(archive.comment) - 12, os.SEEK_END)
    (count,) = struct.unpack("<H", archive.fp.read(2))
    # A wrong byte in the table of contents can hide files, which zipfile does not notice.
    if count not in (len(archive.infolist()), 0xFFFF):
        raise zipfile.BadZipFile(f"{len(archive.infolist())} of {count} files found")
    paths: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        archive.open(info).close()  # compares the name with that beside the data
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", info.filename):
            raise UserError(
                f"{archive.filename}: {info.filename!r} would land outside the folder; do not trust "
                "this archive, fetch it from elsewhere by --url"
            )
        hidden = any(part.startswith(".") for part in path.parts)  # what macOS adds
        if not info.is_dir() and not hidden:
            paths[path] = info
    if not paths:
        raise zipfile.BadZipFile("no file in it")
    shared = posixpath.commonpath([str(path.parent) for path in paths])
    return {path.relative_to(shared).as_posix(): info for path, info in paths.items()}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the zip file `archive` to `folder`, completely or not at all.

    Every file is checked against its CRC-32. An existing folder keeps files that the archive lacks.

    Raises:
        DamagedError: not a zip file, or a checksum differs.
        UserError: not enough space, or a path outside the folder.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            sizes = {name: info.file_size for name, info in members.items()}
            check_space(folder.parent, sum(sizes.values()), f"{archive.name} unpacked")
            for name in progress(members, len(members), f"unpacking {archive.name}"):
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(members[name]) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
        write_text(temporary / MARKER, json.dumps(sizes, indent=0))
        if folder.exists():
            for name in (*members, MARKER):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, folder / name)
        else:
            os.replace(temporary, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as exc:
        # The last two: headers that ask for passwords, unknown methods, offsets before the file.
        raise DamagedError(str(exc) or "it ends too early") from exc
    except OSError as exc:
        if exc.errno not in (None, errno.EINVAL):  # the disk's; those two are of impossible offsets
            raise
        raise DamagedError(str(exc)) from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

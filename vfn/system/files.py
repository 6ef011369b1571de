"""Writing that loses nothing: a temporary name beside the target, then a rename."""

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vfn.errors import DiskFull, UserError

# No space, no quota, the limit on the size of a file (ulimit -f).
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAME_BYTES = 255  # of a file, on the usual file systems
LEFTOVER = re.compile(r"\.(?:tmp|old)-[0-9a-f]{8}-(.+)")  # of a write that was killed


def make_folder(path: Path) -> Path:
    """Make `path` and its parents, and check that files can be written in it.

    Raises:
        UserError: the folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as exc:
        raise UserError(
            f"{path}: cannot write there ({exc.strerror or exc}); choose another output folder"
        ) from exc
    return path


def _beside(path: Path, kind: str) -> Path:
    """A name in the folder of `path` that no other process has, nor the same one on another host."""
    return path.with_name(f".{kind}-{uuid.uuid4().hex[:8]}-{_end(path.name)}")


def _end(name: str) -> str:
    """As much of the end of `name` as leaves room for what a temporary name begins with."""
    while len(os.fsencode(name)) > NAME_BYTES - len(".tmp-01234567-"):
        name = name[1:]
    return name


def check_name(path: Path) -> None:
    """Refuse a name that no file can have.

    Raises:
        UserError: it is too long.
    """
    size = len(os.fsencode(path.name))
    if size > NAME_BYTES:
        raise UserError(
            f"{path.name[:40]}...{path.name[-20:]}: is a file name of {size} bytes, {NAME_BYTES} is the most; shorten the "
            "names of the image's file or folders"
        )


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Let a disk that is full become a line about `path`.

    Raises:
        DiskFull: what the block writes does not fit.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in FULL:
            raise
        raise DiskFull(
            f"{path}: cannot be written, no space ({exc.strerror}); make room (or raise the quota, or "
            "ulimit -f) and give the same command again: what is there already is whole"
        ) from exc


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it becomes `path`.

    When the block raises, `path` is left as it was and the temporary file is removed. The
    temporary name keeps the suffix, since image writers choose the format by it.

    Raises:
        DiskFull: it does not fit.
    """
    temporary = _beside(path, "tmp")
    try:
        with room_for(path):
            yield temporary
            _reach_disk(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _reach_disk(path: Path) -> None:
    """Wait until the bytes lie on the disk: after a power cut the name must not lead to an empty file."""
    handle = os.open(path, os.O_RDWR)  # Windows syncs no other
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """`replacing` for a folder, which the block makes: what is at `path` is whole at any time."""
    temporary, old = (_beside(path, kind) for kind in ("tmp", "old"))
    try:
        with room_for(path):
            yield temporary
            if path.exists():  # a folder cannot be renamed onto another that is not empty
                path.rename(old)
            temporary.rename(path)
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(folder: Path, names: Iterable[str] | None = None) -> None:
    """Remove what writes that were killed left in `folder` under temporary names.

    Args:
        folder: may be missing.
        names: of the targets whose leftovers go, where others write into the folder, too; None takes
            all. Nobody else may be writing these.
    """
    ends = None if names is None else set(map(_end, names))
    for left in folder.glob(".*"):
        found = LEFTOVER.fullmatch(left.name)
        if not found or (ends is not None and found[1] not in ends):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; names of files that are not UTF-8 byte for byte."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")

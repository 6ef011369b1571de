"""Atomic writing: a temporary file beside the target, then a rename."""

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
    """Create `path` and its parents, and check that it is writable.

    Raises:
        UserError: the folder cannot be created or written.
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
    """Return a name beside `path` that is unique across processes and hosts."""
    return path.with_name(f".{kind}-{uuid.uuid4().hex[:8]}-{_end(path.name)}")


def _end(name: str) -> str:
    """Shorten `name` from the left to leave room for the prefix of a temporary name."""
    while len(os.fsencode(name)) > NAME_BYTES - len(".tmp-01234567-"):
        name = name[1:]
    return name


def check_name(path: Path) -> None:
    """Refuse a file name that is too long.

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
    """Turn a full disk into a `DiskFull` error about `path`.

    Raises:
        DiskFull: the disk is full.
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
    """Yield a temporary path beside `path`, and rename it to `path` on success.

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
    """Flush the file to disk, so that a power cut leaves no empty file under the final name."""
    handle = os.open(path, os.O_RDWR)  # Windows syncs no other
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Do the same for a folder, which the block creates; `path` is complete at any time."""
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
    """Remove the temporary files that killed writes left in `folder`.

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
    """Write `text` as UTF-8 atomically; file names that are not UTF-8 are kept byte for byte."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")

"""Writing that loses nothing: a temporary name beside the target, then a rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vfn.errors import UserError


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it becomes `path`.

    When the block raises, `path` is left as it was and the temporary file is removed. The
    temporary name keeps the suffix, since image writers choose the format by it.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """`replacing` for a folder, which the block makes: what is at `path` is whole at any time."""
    temporary, old = (
        path.with_name(f".{kind}-{os.getpid()}-{path.name}") for kind in ("tmp", "old")
    )
    try:
        yield temporary
        if path.exists():  # a folder cannot be renamed onto another that is not empty
            path.rename(old)
        temporary.rename(path)
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; names of files that are not UTF-8 byte for byte."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")

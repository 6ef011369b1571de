"""Folder locks, which the system releases when their holder dies."""

import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vfn.errors import UserError
from vfn.system.files import clear_leftovers, make_folder
from vfn.system.shards import Shard

LOCK = ".vfn.lock"
WHOLE = Shard()
# A network disk that was mounted without locks, or a file system that has none.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# Seconds. Long enough for a look by another job, and for a child that was forked as its parent was
# killed: it closes the lock that it inherited as soon as it runs.
MOMENT = 0.5

log = logging.getLogger(__name__)


@contextmanager
def claimed(folder: Path, shard: Shard = WHOLE, parts: Sequence[str] = ()) -> Iterator[None]:
    """Keep other processes out of `folder` while the block writes into it.

    The folder is made if it is missing, and removed again if it stays empty. Temporary files that a
    killed process left there are removed, unless others share the folder. Where the disk has no
    locks, a warning says so.

    Args:
        shard: one of several jobs shares the folder with the others, but not with a second job of
            its own number, with jobs of another count, nor with a command that takes it whole.
        parts: folders in it whose temporary files are removed, too.

    Raises:
        UserError: another process works there, or the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    own = shard.own(folder / LOCK)
    try:
        with ExitStack() as held:
            held.enter_context(_locked(folder, own))
            # Each takes its own lock before it looks at the others', so that no two miss each other.
            for other in _rivals(folder, shard):
                _refuse_if_held(folder, other)
            if shard.count == 1:
                for part in ("", *parts):
                    clear_leftovers(folder / part)
            yield
    finally:
        for path in made:
            with suppress(OSError):  # it holds something
                path.rmdir()


def refuse_if_claimed(folder: Path) -> None:
    """Check that no other process works in `folder`.

    Raises:
        UserError: another process works there.
    """
    for path in (folder / LOCK, *_locks_of_jobs(folder)):
        _refuse_if_held(folder, path)


def _rivals(folder: Path, shard: Shard) -> list[Path]:
    """Return the other locks that must be free."""
    jobs = _locks_of_jobs(folder)
    if shard.count == 1:
        return jobs
    return [folder / LOCK, *(p for p in jobs if f"-of-{shard.count}." not in p.name)]


def _locks_of_jobs(folder: Path) -> list[Path]:
    path = folder / LOCK
    return sorted(folder.glob(f"{path.stem}.*-of-*{path.suffix}"))


@contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=MOMENT)
    except Timeout:
        raise _taken(folder, path) from None
    except OSError as exc:
        if exc.errno not in NO_LOCKS:
            raise
        log.warning(
            "%s: this disk has no locks; make sure that no other process writes there", folder
        )
    try:
        with suppress(OSError):  # a full disk: the lock is held all the same
            path.write_text(_ourselves(), encoding="utf-8", errors="replace")
        yield
    finally:
        with suppress(OSError):  # Windows removes it with the lock
            path.unlink()
        lock.release()


def _refuse_if_held(folder: Path, path: Path) -> None:
    if path.exists():
        with _locked(folder, path):
            pass  # left by a process that was killed: now it is removed


def _ourselves() -> str:
    command = Path(sys.argv[0]).name
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} ({command}) on {socket.gethostname()} since {since}"


def _taken(folder: Path, path: Path) -> UserError:
    who = ""
    with suppress(OSError):
        who = path.read_text(encoding="utf-8", errors="replace").strip()
    return UserError(
        f"{folder}: {who or 'another process'} is working there; wait until it is done, or choose "
        "another output folder"
    )

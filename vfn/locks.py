"""Who works in a folder: a lock that the system lets go when its holder dies, whatever it dies of.

`flock` rather than the filelock package, which the stores of decoded images use: here the lock may be
shared (jobs of one plate), the file tells who holds it, and disks without locks do without.
"""

import errno
import fcntl
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vfn.errors import UserError
from vfn.files import clear_leftovers, make_folder
from vfn.shards import Shard

LOCK = ".vfn.lock"
WHOLE = Shard()
# A network disk that was mounted without locks, or a file system that has none.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)

log = logging.getLogger(__name__)
_held: set[int] = set()


def _let_go_in_child() -> None:
    """A worker process inherits what its parent holds, and may live on for seconds after it."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def claimed(folder: Path, shard: Shard = WHOLE, parts: Sequence[str] = ()) -> Iterator[None]:
    """Keep other processes out of `folder` while the block writes into it.

    The folder is made if it is missing, and removed again if it stays empty. What a process that was
    killed left there under temporary names is cleared away, unless others share the folder. Where the
    disk knows no locks, a warning says so.

    Args:
        shard: one of several jobs shares the folder with the others, but not with a second job of
            its own number, with jobs of another count, nor with a command that takes it whole.
        parts: folders in it that are cleared, too.

    Raises:
        UserError: another process is at it, or the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    handles: list[tuple[Path, int | None]] = []
    try:
        handles.append((folder / LOCK, _hold(folder, folder / LOCK, shard.count > 1)))
        if shard.count > 1:
            handles.append((shard.own(folder / LOCK), _hold(folder, shard.own(folder / LOCK))))
            for other in _locks_of_jobs(folder):
                if not other.name.endswith(f"-of-{shard.count}{other.suffix}"):
                    _refuse_if_held(folder, other)
        else:
            for part in ("", *parts):
                clear_leftovers(folder / part)
        yield
    finally:
        for path, handle in reversed(handles):
            _release(path, handle)
        for path in made:
            with suppress(OSError):  # it holds something
                path.rmdir()


def refuse_if_claimed(folder: Path) -> None:
    """Say who works in `folder`, if anybody does.

    Raises:
        UserError: another process is at it.
    """
    _refuse_if_held(folder, folder / LOCK)


def _locks_of_jobs(folder: Path) -> list[Path]:
    path = folder / LOCK
    return sorted(folder.glob(f"{path.stem}.*-of-*{path.suffix}"))


def _hold(folder: Path, path: Path, shared: bool = False) -> int | None:
    """A handle that holds the lock at `path`; None where the disk has no locks."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(handle)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _close(handle)
            raise _taken(folder) from None
        except OSError as exc:
            _close(handle)
            if exc.errno not in NO_LOCKS:
                raise
            log.warning(
                "%s: this disk has no locks; see to it that no other process writes there", folder
            )
            return None
        # Whoever held it before may have removed the file between our two calls.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                with suppress(OSError):  # a full disk: it is held all the same
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, _ourselves().encode(errors="replace"), 0)
                return handle
        _close(handle)


def _ourselves() -> str:
    command = Path(sys.argv[0]).name
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} ({command}) on {socket.gethostname()} since {since}"


def _taken(folder: Path) -> UserError:
    """Who holds `folder`: a command that takes it whole, or one of the jobs that share it."""
    own = folder / LOCK
    holders = [path for path in (*_locks_of_jobs(folder), own) if path == own or _is_held(path)]
    with suppress(OSError):
        who = holders[0].read_text(encoding="utf-8", errors="replace").strip()
        return UserError(
            f"{folder}: {who or 'another process'} is working there; wait until it is done, or choose "
            "another output folder"
        )
    return UserError(f"{folder}: another process was working there; give the command again")


def _is_held(path: Path) -> bool:
    """Whether another handle than ours has the lock at `path` for itself."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _refuse_if_held(folder: Path, path: Path) -> None:
    if _is_held(path):
        raise _taken(folder)


def _release(path: Path, handle: int | None) -> None:
    if handle is None:
        path.unlink(missing_ok=True)
        return
    # The last one out removes the file; while others share it, it stays.
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    _close(handle)


def _close(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)

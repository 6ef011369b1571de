"""The temporary folder of the page, deleted when the program ends."""

import re
import secrets
import shutil
import stat
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from vfn.data.images import CONTAINERS, SUFFIXES
from vfn.errors import DiskFull, UserError
from vfn.system.files import replacing

KEPT = 6  # drops, and as many predictions; older ones make room
LONGEST = 180  # bytes of a name: a prediction's is longer than its input's
# An OME-Zarr is a folder, which cannot be dropped as a file.
UPLOADED = tuple(s for s in SUFFIXES + CONTAINERS if not s.endswith(".zarr"))
UPLOADS = 8  # at once, of all tabs; each sends one file after the other
PREFIX = "vfn-app-"
LOCK = ".lock"  # in such a folder; nobody holds it once the page was killed
STARTING = 1.0  # s
GONE = "these files are no longer there; drop them again"


class Refused(UserError):  # noqa: N818
    """A request was refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class Drop:
    """Files that were uploaded together.

    Attributes:
        most_bytes, most_files: bounds of all of them together.
        size: bytes that are there or on their way.
        coming: files that are on their way.
    """

    name: str
    folder: Path
    most_bytes: int
    most_files: int
    size: int = 0
    coming: int = 0
    files: list[str] = field(default_factory=list)

    @contextmanager
    def receiving(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """Yield a function that writes the next bytes of a new file, which appears once complete.

        Args:
            name: as the browser tells it.

        Raises:
            Refused: too many files or bytes, no image by its name, a name twice, a full disk, removed.
        """
        name = safe_name(name)
        if len(self.files) >= self.most_files:
            raise Refused(
                413,
                f"{name}: is one file more than the {self.most_files} that the page takes at once; drop "
                "fewer, choose a folder instead, or start the page with a higher files=",
            )
        if name in self.files:
            raise Refused(
                409, f"{name}: two files have this name; rename one, or drop one field at a time"
            )
        self.files.append(name)
        self.coming += 1
        mine = 0
        try:
            with replacing(self.folder / name) as temporary, temporary.open("wb") as file:

                def write(chunk: bytes) -> None:
                    nonlocal mine
                    mine += len(chunk)
                    self.size += len(chunk)
                    self.check_size(name)
                    file.write(chunk)

                yield write
        except BaseException as exc:
            self.files.remove(name)
            self.size -= mine
            if isinstance(exc, FileNotFoundError):
                raise Refused(404, GONE) from exc
            if isinstance(exc, DiskFull):
                raise Refused(
                    507,
                    f"{name}: does not fit on the disk of {self.folder.parent}; make room, or start the "
                    "page with TMPDIR=DIR on a larger disk",
                ) from exc
            raise
        finally:
            self.coming -= 1

    def check_size(self, name: str, coming: int = 0) -> None:
        """Refuse an upload beyond `most_bytes`.

        Raises:
            Refused: too many.
        """
        if self.size + coming > self.most_bytes:
            raise Refused(
                413,
                f"{safe_name(name)}: is too large: the page takes {self.most_bytes / 2**20:.3g} MB at once; "
                "choose a folder instead, or start the page with a higher upload_mb=",
            )


class Workspace:
    """The temporary folder.

    Args:
        most_bytes, most_files: of each drop.
    """

    def __init__(self, most_bytes: int, most_files: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
        self._lock = _hold(self.root)
        _clear_leftovers(self.root)
        self._bounds = (most_bytes, most_files)
        self._drops: dict[str, Drop] = {}

    def new_drop(self, in_use: Callable[[Drop], bool]) -> Drop:
        """Create a folder for uploads; the oldest idle ones beyond `KEPT` are removed."""
        for drop in [d for d in self._drops.values() if not (d.coming or in_use(d))][: -(KEPT - 1)]:
            self.remove(drop)
        name = secrets.token_hex(8)
        drop = Drop(name, self.new_folder(), *self._bounds)
        self._drops[name] = drop
        return drop

    def drop(self, name: str) -> Drop:
        """Return the drop of that name.

        Raises:
            Refused: there is none.
        """
        if name not in self._drops:  # looked up, never made into a path
            raise Refused(404, GONE)
        return self._drops[name]

    def check_uploads(self) -> None:
        """Refuse uploads beyond `UPLOADS`.

        Raises:
            Refused: the limit is reached.
        """
        if sum(drop.coming for drop in self._drops.values()) >= UPLOADS:
            raise Refused(429, f"{UPLOADS} files are on their way already; try again later")

    def remove(self, drop: Drop) -> None:
        """Delete a drop and its files."""
        self._drops.pop(drop.name, None)
        shutil.rmtree(drop.folder, ignore_errors=True)

    def new_folder(self) -> Path:
        """Create an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.root))

    def close(self) -> None:
        """Delete everything."""
        if self._lock is not None:
            self._lock.release()
        shutil.rmtree(self.root, ignore_errors=True)


def _hold(folder: Path) -> FileLock | None:
    """Lock the folder of a page; return None if another process holds it or the disk has no locks."""
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        return None
    return lock


def _clear_leftovers(own: Path) -> None:
    """Delete the folders of this user's killed pages, whose locks are free."""
    for left in own.parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone by now
            status, age = left.lstat(), time.time() - (left / LOCK).lstat().st_mtime
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == own.stat().st_uid
            # A page that starts just now makes the file first, and holds it then.
            if ours and age > STARTING and left != own and (lock := _hold(left)):
                lock.release()
                shutil.rmtree(left, ignore_errors=True)


def safe_name(text: str) -> str:
    """Return an image file name without folders, odd characters or undue length.

    >>> safe_name("../../plate 1/A01_phase.tif")
    'A01_phase.tif'

    Raises:
        Refused: the suffix is not an image's.
    """
    name = unicodedata.normalize("NFC", re.split(r"[\\/]", text)[-1])
    name = "".join("_" if c in '<>:"|?*' or not c.isprintable() else c for c in name)
    name = name.strip().lstrip(".")
    if not name.lower().endswith(UPLOADED):
        raise Refused(
            415,
            f"{name or 'a file without a name'}: is no image by its name; "
            f"{', '.join(UPLOADED)} files are read",
        )
    cut = len(name.encode()) - LONGEST
    if cut > 0:
        stem, dot, suffix = name.rpartition(".")
        name = stem.encode()[:-cut].decode(errors="ignore") + dot + suffix
    return name

"""Decoded planes on disk, memory-mapped: each image is decoded once, a crop touches only its rows.

A store is a folder of shards. A shard is one file of raw pixels, plane after plane, and an index that
says which plane lies where; the index is written last and under its final name only when the pixels
are whole, so a shard that was interrupted is never read. Planes are known by what they were decoded
from (path, size, time of change, reader version): a changed or moved file is simply not in the store.

The index begins with a checksum of itself, and holds one for each MiB of a plane. Every process checks a MiB when it reads from it first,
so a start does not read the whole store, and bytes that changed on the disk are never used.
Behind the pixels of a shard lie the statistics of its images of 8 and 16 bit, measured when they were decoded.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock

from vfn.data.discovery.fields import ImageSource
from vfn.data.image_statistics import ImageStatistics, measured, unpacked
from vfn.data.images import release
from vfn.errors import UserError
from vfn.system.files import clear_leftovers, make_folder, replacing, write_text
from vfn.system.progress import progress

T = TypeVar("T")
R = TypeVar("R")
SHARD_BYTES = 256 * 2**20  # small enough that an interrupted decoding loses little
ALIGNMENT = 64  # bytes: every plane starts on a cache line
FORMAT = 4  # of the index; a shard with another is not read
BLOCK = 2**20  # bytes of a plane that share a checksum
log = logging.getLogger(__name__)


def in_parallel(
    work: Callable[[T], R], items: Iterable[T], label: str, count: int, ahead: int = 4
) -> Iterator[R]:
    """Yield `work` of each item, in order, by as many threads as there are cores; with a progress bar.

    Args:
        items: taken one by one by the thread that asks for results.
        count: how many there are.
        ahead: items of each thread that may wait for it, or for their results to be taken.
    """
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:

        def results() -> Iterator[R]:
            pending: deque[Future[R]] = deque()
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead * workers:  # bounds what waits when the taker is slow
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield from progress(results(), count, label)
        finally:
            pool.shutdown(cancel_futures=True)


def cache_folder(chosen: str | None) -> Path:
    """Return the folder of the stores: `chosen`, else $VFN_CACHE, else the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfn"
    return Path(chosen or os.environ.get("VFN_CACHE") or users)


def store_name(root: Path) -> str:
    """Folder name of the store of a data set: readable, and different for different roots."""
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=5).hexdigest()
    return f"{root.resolve().name or 'root'}-{digest}"


class Place(NamedTuple):
    """Place of a plane: its shard, first byte, shape, dtype, the CRC-32 of each of its blocks, and the first
    byte and length of its statistics."""

    shard: Path
    offset: int
    shape: tuple[int, int]
    dtype: str
    checksums: tuple[int, ...]
    statistics: tuple[int, int]


class ImageCache:
    """Reads planes: from the store's shards what `prepare` found or put there, the rest directly.

    Args:
        folder: of the shards; None keeps nothing and decodes at every reading.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._where: dict[ImageSource, Place] = {}
        self._checked: dict[ImageSource, set[int]] = {}  # blocks that are as they were written
        self._maps: dict[Path, np.memmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which a worker process opens for itself."""
        return {**self.__dict__, "_maps": {}}

    def read(self, plane: ImageSource) -> np.ndarray:
        """Return the pixels (H, W) of `plane`, read-only where they are memory-mapped.

        Raises:
            UserError: as the plane itself, if it is decoded.
        """
        return self.checked(plane, self.peek(plane))

    def peek(self, plane: ImageSource) -> np.ndarray:
        """Do `read` before its bytes are checked: for shape and dtype, or to be `checked` where it is used.

        Raises:
            UserError: as the plane itself, if it is decoded.
        """
        place = self._where.get(plane)
        if place is None:
            return plane.read()
        try:
            return np.ndarray(place.shape, place.dtype, self._map(place.shard), place.offset)
        except (OSError, TypeError, ValueError):  # gone, or shorter by now
            return self._decoded_anew(plane, place)

    def _map(self, shard: Path) -> np.memmap:
        found = self._maps.get(shard)
        if found is None:
            found = self._maps[shard] = np.memmap(shard, np.uint8, "r")
        return found

    def holds(self, plane: ImageSource) -> bool:
        """Return True if `peek` finds the plane in the store, without decoding it."""
        return plane in self._where

    def statistics(self, plane: ImageSource) -> ImageStatistics | None:
        """Return what was measured when `plane` was decoded; None if it is not in the store, or not of 8 or
        16 bit."""
        place = self._where.get(plane)
        if place is None or not place.statistics[1]:
            return None
        start, size = place.statistics
        try:
            return unpacked(self._map(place.shard)[start : start + size].tobytes())
        except (OSError, ValueError, zlib.error):  # gone, or changed
            self._forget(plane, place)
            return None

    def checked(
        self, plane: ImageSource, array: np.ndarray, rows: slice = slice(None)
    ) -> np.ndarray:
        """Return `array`, which `peek` gave for `plane`, if its bytes are those that were written; else the
        plane, decoded anew.

        Args:
            rows: that are going to be used; the others are left unchecked.

        Raises:
            UserError: as the plane itself, if it is decoded.
        """
        place = self._where.get(plane)
        if place is None:
            return array
        checked = self._checked.setdefault(plane, set())
        start, stop, _ = rows.indices(len(array))
        pitch = array.strides[0]
        for block in range(start * pitch // BLOCK, math.ceil(stop * pitch / BLOCK)):
            if block not in checked:
                pixels = array.reshape(-1).view(np.uint8)[block * BLOCK : (block + 1) * BLOCK]
                if zlib.crc32(pixels.data) != place.checksums[block]:
                    return self._decoded_anew(plane, place)
                checked.add(block)
        return array

    def _decoded_anew(self, plane: ImageSource, place: Place) -> np.ndarray:
        """Read the plane from its file, now and at every later reading by this process."""
        self._forget(plane, place)
        return plane.read()

    def _forget(self, plane: ImageSource, place: Place) -> None:
        log.warning(
            "data.cache: %s has changed since it was written: %s is decoded at every reading; "
            "the next start decodes it anew",
            place.shard, plane,
        )  # fmt: skip
        self._where.pop(plane, None)  # another thread may have found it at the same time
        with suppress(OSError):  # others may have done it; a cache to read only stays as it is
            place.shard.with_suffix(".json").unlink()

    def prepare(self, planes: Iterable[ImageSource]) -> None:
        """Decode, in parallel, what of `planes` is not in the store yet. Nothing without a folder, or for planes
        that were prepared before.

        Raises:
            UserError: an image that cannot be read, a disk that is full or cannot be written.
        """
        wanted = [plane for plane in dict.fromkeys(planes) if plane not in self._where]
        if self.folder is None or not wanted:
            return
        try:
            make_folder(self.folder)
        except UserError as exc:
            raise UserError(
                f"data.cache: {exc}: name it by data.cache_dir=DIR, or read images directly by "
                "data.cache=off"
            ) from exc
        with FileLock(self.folder / ".lock"):  # of several processes one decodes, the others wait
            keys = {plane: hashed(plane.key) for plane in wanted}
            known = _known(self.folder)
            missing = [plane for plane in wanted if keys[plane] not in known]
            if missing:
                _clear(self.folder)
                _decode(self.folder, missing, keys)
                known = _known(self.folder)
        self._where |= {plane: known[keys[plane]] for plane in wanted}


def _known(folder: Path) -> dict[str, Place]:
    """Map the key of every plane in whole shards to its place; the planes of others are decoded anew."""
    known = {}
    for index in sorted(folder.glob("*.json")):
        try:
            known.update(_places(index))
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
            log.info("data.cache: %s is not read (%s: %s)", index, type(exc).__name__, exc)
    return known


def _clear(folder: Path) -> None:
    """Remove what a process that was killed left, and shards whose index is gone."""
    clear_leftovers(folder)
    for shard in folder.glob("*.planes"):
        if not shard.with_suffix(".json").exists():
            with suppress(OSError):  # another process reads it, on Windows
                shard.unlink()


def _decode(folder: Path, planes: Sequence[ImageSource], keys: Mapping[ImageSource, str]) -> None:
    """Write shards of `planes`."""
    decoded = in_parallel(_decoded, planes, "decoding images", len(planes))
    first, done = next(decoded), 0
    _check_space(folder, first[1].nbytes * len(planes))
    rest = chain([first], decoded)
    taken = [int(path.stem) for path in folder.iterdir() if path.stem.isdecimal()]
    for number in count(max(taken, default=-1) + 1):
        shard = folder / f"{number:06d}.planes"
        entries: list[list[Any]] = []
        known: list[bytes] = []
        with replacing(shard) as temporary, temporary.open("wb") as file:
            for plane, array, statistics in rest:
                pixels = array.reshape(-1).view(np.uint8)
                file.write(bytes(-file.tell() % ALIGNMENT))
                entry = [keys[plane], file.tell(), array.shape, array.dtype.name]
                entries.append([*entry, _checksums(pixels)])
                file.write(pixels.data)
                known.append(statistics)
                if file.tell() >= SHARD_BYTES:
                    break
            for one, statistics in zip(entries, known, strict=True):
                one.append([file.tell(), len(statistics)])
                file.write(statistics)
            size = file.tell()
        text = json.dumps({"bytes": size, "planes": entries})
        write_text(shard.with_suffix(".json"), f"{_head(text)}\n{text}")
        done += len(entries)
        if done == len(planes):
            return


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise UserError(
            f"data.cache: decoded images need {needed / 2**30:.1f} GiB in {folder}, "
            f"{free / 2**30:.1f} are free; name another folder by data.cache_dir=DIR, or read "
            "images directly by data.cache=off"
        )


def _checksums(pixels: np.ndarray) -> list[int]:
    """CRC-32 of each block of a plane's bytes."""
    return [zlib.crc32(pixels[at : at + BLOCK].data) for at in range(0, len(pixels), BLOCK)]


def _head(text: str) -> str:
    """First line of an index whose rest is `text`."""
    return f"{FORMAT} {zlib.crc32(text.encode())}"


def _places(index: Path) -> dict[str, Place]:
    """Map the key of each plane in a shard to its place.

    Raises:
        ValueError: the index or the shard is not what was written; so do other errors of damaged data.
    """
    shard = index.with_suffix(".planes")
    head, _, text = index.read_text(encoding="utf-8").partition("\n")
    if head != _head(text):
        raise ValueError("it has changed since it was written, or another version wrote it")
    described = json.loads(text)
    if shard.stat().st_size != described["bytes"]:
        raise ValueError("the shard has another size")
    return {
        key: Place(shard, offset, tuple(shape), dtype, tuple(checksums), tuple(statistics))
        for key, offset, shape, dtype, checksums, statistics in described["planes"]
    }


def hashed(key: str) -> str:
    """Return a short name of what a plane was decoded from."""
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).hexdigest()


@cache
def code_digest(file: str) -> str:
    """Return a digest of the code in `file`, for the keys of planes that it computes."""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest()


def _decoded(plane: ImageSource) -> tuple[ImageSource, np.ndarray, bytes]:
    array = np.ascontiguousarray(_read(plane))
    statistics = measured(array)
    release(array)  # a large one waits on the disk to be written
    return plane, array, statistics


def _read(plane: ImageSource) -> np.ndarray:
    return plane.read()

"""Decoded planes on disk, memory-mapped: each image is decoded once, a crop touches only its rows.

A store is a folder of shards. A shard is one file of raw pixels, plane after plane, and an index that
says which plane lies where; the index is written last and under its final name only when the pixels
are whole, so a shard that was interrupted is never read. Planes are known by what they were decoded
from (path, size, time of change, reader version): a changed or moved file is simply not in the store.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from vfn.data.discovery import Plane
from vfn.errors import UserError
from vfn.files import make_folder, replacing, write_text
from vfn.progress import progress

T = TypeVar("T")
R = TypeVar("R")
SHARD_BYTES = 256 * 2**20  # small enough that an interrupted decoding loses little
ALIGNMENT = 64  # bytes: every plane starts on a cache line


def in_parallel(
    work: Callable[[T], R], items: Iterable[T], label: str, count: int, ahead: int = 4
) -> Iterator[R]:
    """`work` of each item, in order, by as many threads as there are cores; with a progress bar.

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
    """Where stores lie: `chosen`, else $VFN_CACHE, else the user's cache folder."""
    if chosen or os.environ.get("VFN_CACHE"):
        return Path(chosen or os.environ["VFN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfn"


def store_name(root: Path) -> str:
    """Folder name of the store of a data set: readable, and different for different roots."""
    digest = hashlib.blake2b(str(root.resolve()).encode(), digest_size=5).hexdigest()
    return f"{root.resolve().name or 'root'}-{digest}"


class PlaneStore:
    """Reads planes: from the store's shards what `prepare` found or put there, the rest directly.

    Args:
        folder: of the shards; None keeps nothing and decodes at every reading.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._where: dict[Plane, tuple[Path, int, tuple[int, int], str]] = {}
        self._maps: dict[Path, np.memmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which a worker process opens for itself."""
        return {**self.__dict__, "_maps": {}}

    def read(self, plane: Plane) -> np.ndarray:
        """Pixels (H, W) of `plane`, read-only where they are memory-mapped.

        Raises:
            UserError: as the plane itself, if it is decoded.
        """
        place = self._where.get(plane)
        if place is None:
            return plane.read()
        path, offset, shape, dtype = place
        shard = self._maps.get(path)
        if shard is None:
            shard = self._maps[path] = np.memmap(path, np.uint8, "r")
        return np.ndarray(shape, dtype, shard, offset)

    def prepare(self, planes: Iterable[Plane]) -> None:
        """Decode, in parallel, what of `planes` is not in the store yet. Nothing without a folder.

        Raises:
            UserError: an image that cannot be read, a disk that is full or cannot be written.
        """
        wanted = list(dict.fromkeys(planes))
        if self.folder is None:
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
            known = self._known()
            missing = [plane for plane in wanted if keys[plane] not in known]
            if missing:
                for left in self.folder.glob(".tmp-*"):  # of a process that was killed
                    left.unlink()
                self._decode(missing, keys)
                known = self._known()
        self._where = {plane: known[keys[plane]] for plane in wanted}

    def _known(self) -> dict[str, tuple[Path, int, tuple[int, int], str]]:
        """Key -> (shard, offset, shape, dtype) of every plane in whole shards."""
        assert self.folder is not None
        known = {}
        for index in sorted(self.folder.glob("*.json")):
            shard = index.with_suffix(".planes")
            described = json.loads(index.read_text(encoding="utf-8"))
            if not shard.is_file() or shard.stat().st_size != described["bytes"]:
                continue  # somebody's clean-up took one of the two: its planes are decoded anew
            for key, offset, height, width, dtype in described["planes"]:
                known[key] = (shard, offset, (height, width), dtype)
        return known

    def _decode(self, planes: Sequence[Plane], keys: dict[Plane, str]) -> None:
        assert self.folder is not None
        decoded = zip(
            planes, in_parallel(_read, planes, "decoding images", len(planes)), strict=True
        )
        number = 1 + max((int(p.stem) for p in self.folder.glob("*.planes")), default=-1)
        first, done = next(decoded), 0
        self._check_space(first[1].nbytes * len(planes))
        rest = chain([first], decoded)
        while done < len(planes):
            shard = self.folder / f"{number:06d}.planes"
            entries: list[list[Any]] = []
            with replacing(shard) as temporary, temporary.open("wb") as file:
                for plane, array in rest:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    entries.append([keys[plane], file.tell(), *array.shape, array.dtype.name])
                    file.write(np.ascontiguousarray(array).data)
                    if file.tell() >= SHARD_BYTES:
                        break
                size = file.tell()
            write_text(shard.with_suffix(".json"), json.dumps({"bytes": size, "planes": entries}))
            done, number = done + len(entries), number + 1

    def _check_space(self, needed: int) -> None:
        assert self.folder is not None
        free = shutil.disk_usage(self.folder).free
        if needed > 0.95 * free:
            raise UserError(
                f"data.cache: decoded images need {needed / 2**30:.1f} GiB in {self.folder}, "
                f"{free / 2**30:.1f} are free; name another folder by data.cache_dir=DIR, or read "
                "images directly by data.cache=off"
            )


def hashed(key: str) -> str:
    """A short name of what a plane was decoded from."""
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _read(plane: Plane) -> np.ndarray:
    return plane.read()

"""Checks of what zarr is going to decode: metadata and chunks of an array from anywhere.

zarr opens pipes, decodes by any codec that is installed (numcodecs has some that run code) and lets a chunk
unpack to any size. Only the codecs that image writers use pass here, and a chunk gives what its shape says.
"""

import json
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from vfn.data.images import check_promise, damaged
from vfn.errors import UserError

MAX_JSON = 2**25  # bytes: plates of thousands of fields with consolidated metadata have some 20 MB
MAX_CHUNKS = 2**18  # of one plane: 130,000 x 130,000 pixels in chunks of 256
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")  # what zarr may open
MAX_MEMBERS = 100  # gzip streams one after the other in a chunk
SLACK = 64  # bytes that a chunk may have more, for checksums within
COMPRESSORS = ("blosc", "gzip", "lz4", "zlib", "zstd")
# Where these say in their headers to how many bytes they unpack; their decoders hold them to it.
SIZE_AT = {"blosc": 4, "lz4": 0}
PLAIN = ("bytes", "crc32c", "endian", "transpose")  # change no more than the order
DTYPE = re.compile(r"[<>|]?[uif][1248]|u?int(?:8|16|32|64)|float(?:16|32|64)")
INDEX_CODECS = ["bytes", "crc32c"]


def _size_of(file: Path) -> int:
    """Return the bytes in a file.

    Raises:
        UserError: a pipe, a device or a folder.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise UserError(f"{file}: is a pipe, a device or a folder, no file; copy it anew, whole")
    return status.st_size


def read_json(path: Path) -> Any:
    """Read a metadata file.

    Raises:
        UserError: a pipe or a device, or too large.
        ValueError: no JSON.
    """
    size = _size_of(path)
    if size > MAX_JSON:
        raise UserError(
            f"{path}: has {size:,} bytes, metadata up to {MAX_JSON:,} are read; export it anew"
        )
    return json.loads(path.read_bytes())


@dataclass(frozen=True)
class ZarrArray:
    """An array by its metadata, of which all is checked that zarr acts on.

    Attributes:
        folder: of the array.
        zarr_format: 2 or 3.
        shape, chunks: of the array, and of each chunk file (a shard, if there are any).
        inner: shape of the chunks within a shard; as `chunks` where there are none.
        itemsize: bytes of a pixel.
        prefix, separator: of the names of the chunk files.
        compressor: of each inner chunk; None for none.
        index_first: the index of a shard lies at its beginning.
    """

    folder: Path
    zarr_format: int
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    inner: tuple[int, ...]
    itemsize: int
    prefix: tuple[str, ...]
    separator: str
    compressor: str | None
    index_first: bool = False

    def check_plane(self, at: Sequence[int]) -> None:
        """Look through the chunks of the plane at `at`, positions along all axes but the last two.

        Raises:
            UserError: what is no file, or unpacks to more than its shape.
        """
        grid = [range(n // c, n // c + 1) for n, c in zip(at, self.chunks, strict=False)]
        grid += [range(-(-n // c)) for n, c in zip(self.shape[-2:], self.chunks[-2:], strict=True)]
        count = math.prod(map(len, grid))
        if count > MAX_CHUNKS:
            raise UserError(
                f"{self.folder}: has {count:,} chunks a plane, up to {MAX_CHUNKS:,} are read; export it "
                "in larger chunks"
            )
        for position in product(*grid):
            file = self.folder / self.separator.join((*self.prefix, *map(str, position)))
            if file.exists():
                self._check_file(file)

    def _check_file(self, file: Path) -> None:
        check_promise(file, math.prod(self.chunks) * self.itemsize, _size_of(file))
        size = math.prod(self.inner) * self.itemsize
        for packed in self._within(file, file.read_bytes()):
            if not _fits(packed, self.compressor, size + SLACK):
                what = f"a chunk unpacks to more than the {size:,} bytes of its shape"
                raise damaged(file, f"is damaged ({what})")

    def _within(self, file: Path, data: bytes) -> Iterator[bytes]:
        """Yield the inner chunks of a shard, or the one chunk that `data` is."""
        if self.inner == self.chunks:
            yield data
            return
        parts = math.prod(c // i for c, i in zip(self.chunks, self.inner, strict=True))
        size = 16 * parts + 4  # offsets, lengths, checksum
        if len(data) < size:
            raise UserError(f"{file}: is truncated ({len(data)} bytes); copy it anew, whole")
        index = data[: size - 4] if self.index_first else data[-size:-4]
        for offset, length in np.frombuffer(index, "<u8").reshape(-1, 2).tolist():
            if offset < 2**64 - 1:  # else it is not there
                yield data[offset : offset + length]


def _fits(packed: bytes, compressor: str | None, allowed: int) -> bool:
    """Return True if a chunk unpacks to `allowed` bytes at most. Damage of another kind is left to the decoder."""
    if compressor is None:
        return len(packed) <= allowed
    if compressor in SIZE_AT:
        at = SIZE_AT[compressor]
        return len(packed) < at + 4 or struct.unpack_from("<I", packed, at)[0] <= allowed
    if compressor == "zstd":  # may say it, but need not
        try:
            imagecodecs.zstd_decode(packed, out=allowed)
        except imagecodecs.ZstdError as exc:
            return "too small" not in str(exc)
        return True
    return _inflates(packed, allowed)


def _inflates(packed: bytes, allowed: int) -> bool:
    """`_fits` for zlib and gzip, of which several may follow each other."""
    total = members = 0
    while packed and total <= allowed and members < MAX_MEMBERS:
        members += 1
        stream = zlib.decompressobj(wbits=47)  # either header
        try:
            total += len(stream.decompress(packed, allowed + 1 - total))
        except zlib.error:
            break
        packed = stream.unused_data
    return total <= allowed and members < MAX_MEMBERS


def open_metadata(folder: Path) -> ZarrArray:
    """Read the metadata of the array in `folder`.

    Raises:
        UserError: codecs or pixels that are not read, files that are none.
        ValueError, and other errors of damaged metadata.
    """
    there = [name for name in METADATA if os.path.lexists(folder / name)]
    documents = {name: read_json(folder / name) for name in there}
    if "zarr.json" in there:
        array = _version_3(folder, documents["zarr.json"])
    else:
        array = _version_2(folder, documents[".zarray"])
    sides = (array.shape, array.chunks, array.inner)
    if array.separator not in ("/", "."):
        raise ValueError(f"separator {array.separator!r}")
    if len({len(side) for side in sides}) > 1 or any(
        type(n) is not int or n < 1 for side in sides for n in side
    ):
        raise UserError(
            f"{folder}: has no pixels (shape {array.shape}, chunks {array.chunks}); leave it out"
        )
    return array


def _version_2(folder: Path, stated: dict[str, Any]) -> ZarrArray:
    compressor = stated["compressor"] and stated["compressor"]["id"]
    named = [f["id"] for f in stated.get("filters") or ()]
    _check_codecs(folder, [compressor] if compressor else [], COMPRESSORS)
    _check_codecs(folder, named, ())
    chunks = tuple(stated["chunks"])
    return ZarrArray(
        folder, 2, tuple(stated["shape"]), chunks, chunks, _itemsize(folder, stated["dtype"]), (),
        stated.get("dimension_separator", "."), compressor,
    )  # fmt: skip


def _version_3(folder: Path, stated: dict[str, Any]) -> ZarrArray:
    if stated["chunk_grid"]["name"] != "regular" or stated.get("storage_transformers"):
        raise UserError(f"{folder}: has chunks of several sizes, or transformed; export it anew")
    chunks = inner = tuple(stated["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = stated["chunk_key_encoding"]
    is_plain = encoding["name"] == "default"
    codecs, index_first = stated["codecs"], False
    names = _names(codecs)
    if "sharding_indexed" in names:
        _check_codecs(folder, names, ("sharding_indexed",))
        shards = codecs[0]["configuration"]
        inner, codecs = tuple(shards["chunk_shape"]), shards["codecs"]
        index_first = shards.get("index_location", "end") == "start"
        if _names(shards["index_codecs"]) != INDEX_CODECS or len(names) > 1:
            raise UserError(f"{folder}: has shards with an index of another kind; export it anew")
        names = _names(codecs)
    _check_codecs(folder, names, COMPRESSORS + PLAIN)
    compressors = [name for name in names if name in COMPRESSORS]
    if len(compressors) > 1:
        raise UserError(
            f"{folder}: is compressed by {' and '.join(compressors)}; export it anew by one"
        )
    return ZarrArray(
        folder, 3, tuple(stated["shape"]), chunks, inner, _itemsize(folder, stated["data_type"]),
        ("c",) if is_plain else (),
        encoding.get("configuration", {}).get("separator", "/" if is_plain else "."),
        compressors[0] if compressors else None, index_first,
    )  # fmt: skip


def _names(codecs: Sequence[Any]) -> list[str]:
    return [codec if isinstance(codec, str) else codec["name"] for codec in codecs]


def _check_codecs(folder: Path, names: Sequence[str], allowed: Sequence[str]) -> None:
    unknown = next((name for name in names if name not in allowed), None)
    if unknown is not None:
        raise UserError(
            f"{folder}: is encoded by {str(unknown)[:80]}, which is not read; export it with one of "
            f"{', '.join(COMPRESSORS)} and no filter"
        )


def _itemsize(folder: Path, dtype: Any) -> int:
    if not isinstance(dtype, str) or not DTYPE.fullmatch(dtype):
        raise UserError(f"{folder}: holds {str(dtype)[:80]}, which are no pixels; export it anew")
    return np.dtype(dtype).itemsize

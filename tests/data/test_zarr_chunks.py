"""OME-Zarr from strangers: what zarr would wait for, run, or unpack beyond all bounds."""

import json
import os
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from tests.conftest import make_image, write_zarr_image, write_zarr_plate
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.formats import ZarrPlane, scenes
from vfn.data.zarr_chunks import MAX_JSON
from vfn.errors import UserError

PIXELS = np.stack([make_image(seed, "uint16") for seed in range(3)])  # (3, 70, 91)
ZEROS = 2**28  # bytes that some kilobytes unpack to


def plane(path: Path, channel: int = 1) -> ZarrPlane:
    return ZarrPlane(path, channel, 0, None, array="0", axes="cyx")


def refused_quickly(read: Callable[[], object], says: str) -> None:
    """In little time and memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        read()
    assert says in str(caught.value)
    assert time.monotonic() - began < 10
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert taken < 60 * 1024 or sys.platform == "darwin"


SHARDED = {"shards": (3, 64, 64), "chunks": (1, 32, 32)}
WRITTEN: dict[str, dict[str, Any]] = {
    "2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("lz4")},
    "2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip()},
    "2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "2 lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "2 none": {"zarr_format": 2, "compressors": None},
    "2 nested": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "3": {},
    "3 blosc": {"compressors": zarr.codecs.BloscCodec()},
    "3 gzip": {"compressors": zarr.codecs.GzipCodec()},
    "3 checksum": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    "3 none": {"compressors": None},
    "3 dots": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "3 big endian": {"serializer": zarr.codecs.BytesCodec(endian="big")},
    "3 transposed": {"filters": [zarr.codecs.TransposeCodec(order=(0, 2, 1))]},
    "3 sharded": SHARDED,
    "3 sharded, plain": {**SHARDED, "compressors": None},
    "3 sharded, gzip": {**SHARDED, "compressors": zarr.codecs.GzipCodec()},
}  # fmt: skip


def array(path: Path, **options: Any) -> zarr.Array:
    settings = {"chunks": (2, 32, 40), **options}
    made = zarr.create_array(str(path / "0"), shape=PIXELS.shape, dtype=PIXELS.dtype, **settings)
    made[:] = PIXELS
    return made


@pytest.mark.parametrize("how", WRITTEN)
def test_whatever_image_writers_use_is_read(tmp_path: Path, how: str) -> None:
    array(tmp_path, **WRITTEN[how])
    for channel, pixels in enumerate(PIXELS):
        np.testing.assert_array_equal(plane(tmp_path, channel).read(), pixels)


def test_a_shard_whose_index_comes_first(tmp_path: Path) -> None:
    shards = zarr.create_array(
        str(tmp_path / "0"), shape=PIXELS.shape, dtype=PIXELS.dtype, chunks=(1, 32, 32),
        shards={"shape": (3, 64, 64), "index_location": "start"},
    )  # fmt: skip
    shards[:] = PIXELS
    np.testing.assert_array_equal(plane(tmp_path).read(), PIXELS[1])


def deflated(wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(ZEROS // 2**20)) + packer.flush()


def unsized_zstd() -> bytes:
    """A frame that does not say how much it holds: blocks of one repeated byte."""
    block = struct.pack("<I", (2**17 << 3) | 2)[:3] + b"\0"
    last = struct.pack("<I", (2**17 << 3) | 3)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (ZEROS // 2**17 - 1) + last


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "blosc": ("2 blosc", lambda: numcodecs.Blosc("lz4").encode(np.zeros(ZEROS, np.uint8))),
    "zstd": ("2 zstd", lambda: numcodecs.Zstd().encode(np.zeros(ZEROS, np.uint8))),
    "zstd without a size": ("3", unsized_zstd),
    "zstd, second frame": ("3", lambda: numcodecs.Zstd().encode(bytes(9)) + unsized_zstd()),
    "gzip": ("3 gzip", lambda: deflated(31)),
    "gzip, second member": ("2 gzip", lambda: numcodecs.GZip().encode(bytes(9)) + deflated(31)),
    "zlib": ("2 zlib", lambda: deflated(15)),
    "lz4": ("2 lz4", lambda: struct.pack("<I", 2**31 - 9) + bytes(2**20)),
    "plain": ("2 none", lambda: bytes(2**20)),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_chunk_that_unpacks_to_more_than_its_shape(tmp_path: Path, what: str) -> None:
    how, bomb = BOMBS[what]
    array(tmp_path, **WRITTEN[how])
    file = tmp_path / "0" / ("c/0/1/1" if how.startswith("3") else "0.1.1")
    assert file.is_file()
    file.write_bytes(bomb())
    refused_quickly(plane(tmp_path).read, "unpacks to more than the 5,120 bytes of its shape")
    plane(tmp_path, 2).read()  # of other chunks


@pytest.mark.parametrize("how", ["3 sharded", "3 sharded, gzip"])
def test_a_bomb_within_a_shard(tmp_path: Path, how: str) -> None:
    array(tmp_path, **WRITTEN[how])
    file = tmp_path / "0" / "c/0/0/0"
    whole, bomb = file.read_bytes(), unsized_zstd() if how == "3 sharded" else deflated(31)
    index = np.frombuffer(whole[-(16 * 12 + 4) : -4], "<u8").copy()
    index[8:10] = (len(whole) - 16 * 12 - 4, len(bomb))  # the first chunk of channel 1
    checksum = bytes(4)  # it is not looked at before
    file.write_bytes(whole[: -(16 * 12 + 4)] + bomb + index.tobytes() + checksum)
    refused_quickly(plane(tmp_path).read, "unpacks to more than the 2,048 bytes of its shape")


# --- metadata ---


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def v2(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.update({key: value})


def codecs(*names: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.update(codecs=[{"name": n, "configuration": {}} for n in names])


PICKLES = {
    "2 compressor": ("2 zstd", v2("compressor", {"id": "pickle", "protocol": 5})),
    "2 filter": ("2 zstd", v2("filters", [{"id": "pickle", "protocol": 5}])),
    "2 json": ("2 zstd", v2("compressor", {"id": "json2", "encoding": "utf-8"})),
    "2 delta": ("2 zstd", v2("filters", [{"id": "delta", "dtype": "<u2"}])),
    "3 pickle": ("3", codecs("bytes", "numcodecs.pickle")),
    "3 imagecodecs": ("3", codecs("bytes", "imagecodecs_jpeg2k")),
    "3 text": ("3", codecs("vlen-utf8")),
}  # fmt: skip


@pytest.mark.parametrize("what", PICKLES)
def test_codecs_that_run_code_or_are_not_for_pixels(tmp_path: Path, what: str) -> None:
    how, change = PICKLES[what]
    array(tmp_path, **WRITTEN[how])
    changed(tmp_path / "0" / ("zarr.json" if how.startswith("3") else ".zarray"), change)
    refused_quickly(plane(tmp_path).read, "which is not read; export it with one of blosc, gzip")


@pytest.mark.parametrize("dtype", ["|O", "|S4", "<U9", "<M8[ns]", [["a", "<u2"]], "|V8", None])
def test_pixels_that_are_none(tmp_path: Path, dtype: Any) -> None:
    array(tmp_path, zarr_format=2)
    changed(tmp_path / "0" / ".zarray", v2("dtype", dtype))
    refused_quickly(plane(tmp_path).read, "which are no pixels")


ODD = {
    "trillions of planes": ("shape", [16 * 10**12, 70, 91], "states 16,000,000,000,000 planes"),
    "a negative shape": ("shape", [-1, 70, 91], "has no pixels"),
    "a shape of text": ("shape", ["3", 70, 91], "has no pixels"),
    "two axes": ("shape", [70, 91], "has no pixels"),
    "small chunks": ("chunks", [1, 1, 0], "has no pixels"),
    "no shape": ("shape", None, "cannot be read"),
    "a separator": ("dimension_separator", "../", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_absurd_sizes(tmp_path: Path, what: str) -> None:
    key, value, says = ODD[what]
    path = tmp_path / "a.ome.zarr"
    write_zarr_image(path, PIXELS, "cyx", ["a", "b", "c"], "0.4")
    (level,) = (p for p in path.glob("*/.zarray") if "0" in p.parent.name)
    changed(level, v2(key, value))
    refused_quickly(lambda: scenes(path)[0].load(), says)


def test_a_plane_of_millions_of_chunks(tmp_path: Path) -> None:
    array(tmp_path, zarr_format=2)
    changed(tmp_path / "0/.zarray", lambda d: d.update(shape=[3, 9000, 9000], chunks=[1, 1, 1]))
    refused_quickly(plane(tmp_path).read, "has 81,000,000 chunks a plane")


def test_a_chunk_that_states_gigabytes(tmp_path: Path) -> None:
    array(tmp_path, zarr_format=2)
    changed(tmp_path / "0/.zarray", v2("chunks", [3, 70, 10**9]))
    refused_quickly(plane(tmp_path).read, "its header promises 420,000,000,000 bytes of pixels")


# --- pipes ---

PIPES = [
    "zarr.json",
    "A/1/zarr.json",
    "A/1/0/zarr.json",
    "A/1/0/LEVEL/zarr.json",
    "A/1/0/LEVEL/.zattrs",
]
PIPES += ["A/1/0/LEVEL/c/0/0/0"]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("where", PIPES)
def test_a_pipe_is_no_file(tmp_path: Path, where: str, linked: bool) -> None:
    """Nobody ever writes into it: reading it would wait for ever. So does what names one."""
    root = tmp_path / "images"
    write_zarr_plate(root / "p.ome.zarr", {"A/1": 1}, ["phase", "dapi"])
    (level,) = (p.name for p in (root / "p.ome.zarr/A/1/0").iterdir() if p.name.endswith("0"))
    file = root / "p.ome.zarr" / where.replace("LEVEL", level)
    file.unlink(missing_ok=True)
    pipe = tmp_path / "pipe" if linked else file
    os.mkfifo(pipe)
    if linked:
        file.symlink_to(pipe)

    def read() -> None:
        (field,) = discover(root, Layout(), ["phase", "dapi"])
        for one in field.planes.values():
            one.read()

    refused_quickly(read, f"{file}: is a pipe, a device or a folder, no file")


def test_metadata_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    path.mkdir()
    (path / ".zattrs").touch()
    os.truncate(path / ".zattrs", MAX_JSON + 1)
    refused_quickly(lambda: scenes(path), "metadata up to 33,554,432 are read")
    (path / ".zattrs").write_text("[" * 10**6)
    refused_quickly(lambda: scenes(path), "cannot be read (RecursionError")

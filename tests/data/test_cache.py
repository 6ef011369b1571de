import json
import os
import pickle
import shutil
import zlib
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planes import Memory, make_sample
from vfn.data import cache as store_module
from vfn.data.cache import ImageCache, cache_folder, in_parallel, store_name
from vfn.data.discovery.fields import FilePlane
from vfn.data.pixels import read_sample, registered, sample_shape
from vfn.errors import UserError


def write_files(folder: Path, count: int = 5) -> list[FilePlane]:
    """Files of all dtypes and odd sizes, the last one of three channels."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    planes = []
    for i in range(count):
        dtype = ("uint8", "uint16", "float32")[i % 3]
        array = (rng.random((7 + i, 13)) * 200).astype(dtype)
        tifffile.imwrite(folder / f"{i}.tif", array, compression="lzw")
        planes.append(FilePlane(folder / f"{i}.tif"))
    stack = rng.integers(0, 60000, (3, 9, 5)).astype(np.uint16)
    tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack")
    return [*planes, *(FilePlane(folder / "stack.tif", i) for i in range(3))]


def same(store: ImageCache, planes: list[FilePlane]) -> bool:
    """Bit for bit, dtype and shape included, what direct reading gives."""
    for plane in planes:
        ours, direct = store.read(plane), plane.read()
        assert (ours.dtype, ours.shape) == (direct.dtype, direct.shape)
        np.testing.assert_array_equal(ours, direct)
    return True


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the planes that stores decode."""
    names: list[str] = []

    def read(plane: FilePlane) -> np.ndarray:
        names.append(str(plane))
        return plane.read()

    monkeypatch.setattr(store_module, "_read", read)
    return names


def test_the_store_gives_the_pixels_of_direct_reading(tmp_path: Path) -> None:
    planes = write_files(tmp_path / "images")
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert same(store, planes)
    array = store.read(planes[0])
    assert isinstance(array.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1  # the store is shared by all who read it


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["uint8", "uint16", "float32"])),
        min_size=1, max_size=12,
    ),
    shard=st.integers(1, 4000),
)  # fmt: skip
def test_any_sizes_in_any_shards(
    shapes: list[tuple[int, int, str]], shard: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(0)
    planes = [
        Memory(str(i), (rng.random((h, w)) * 250).astype(dtype))
        for i, (h, w, dtype) in enumerate(shapes)
    ]
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "SHARD_BYTES", shard)
        store = ImageCache(folder)
        store.prepare(planes)
    for plane in planes:
        got = store.read(plane)
        assert got.dtype == plane.array.dtype
        np.testing.assert_array_equal(got, plane.array)
        assert len(plane.reads) == 1


def test_a_second_use_decodes_nothing(tmp_path: Path, decoded: list[str]) -> None:
    planes = write_files(tmp_path / "images")
    ImageCache(tmp_path / "store").prepare(planes[:4])
    assert len(decoded) == 4
    again = ImageCache(tmp_path / "store")
    again.prepare(planes)
    assert len(decoded) == len(planes)  # the others alone
    assert same(again, planes)
    third = ImageCache(tmp_path / "store")
    third.prepare(reversed(planes))
    assert len(decoded) == len(planes)


def test_a_changed_file_is_decoded_anew(tmp_path: Path, decoded: list[str]) -> None:
    planes = write_files(tmp_path / "images")
    ImageCache(tmp_path / "store").prepare(planes)
    path = planes[1].path
    changed = planes[1].read() + np.uint16(1)
    tifffile.imwrite(path, changed, compression="lzw")
    os.utime(path, ns=(0, 12345))
    decoded.clear()
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert decoded == [str(path)]
    np.testing.assert_array_equal(store.read(planes[1]), changed)


def test_a_moved_file_is_noticed(tmp_path: Path) -> None:
    planes = write_files(tmp_path / "images")
    ImageCache(tmp_path / "store").prepare(planes)
    planes[0].path.rename(tmp_path / "elsewhere.tif")
    with pytest.raises(UserError, match=r"0\.tif: cannot be read \(No such file"):
        ImageCache(tmp_path / "store").prepare(planes)


def test_another_reader_version_decodes_anew(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = write_files(tmp_path / "images", 2)
    ImageCache(tmp_path / "store").prepare(planes)
    monkeypatch.setattr("vfn.data.images.READER_VERSION", 999)
    decoded.clear()
    ImageCache(tmp_path / "store").prepare(planes)
    assert len(decoded) == len(planes)


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_half_built_store_is_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Whatever plane the decoding dies at, what is found afterwards is right and complete."""
    planes = write_files(tmp_path / "images")
    monkeypatch.setattr(store_module, "SHARD_BYTES", 300)  # a shard every other plane
    calls = 0

    def dies(plane: FilePlane) -> np.ndarray:
        nonlocal calls
        calls += 1
        if plane == planes[stop]:
            raise KeyboardInterrupt
        return plane.read()

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_read", dies)
        with pytest.raises(KeyboardInterrupt):
            ImageCache(tmp_path / "store").prepare(planes)
    (tmp_path / "store" / ".tmp-0123abcd-000009.planes").write_bytes(
        b"of a process that was killed"
    )
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert same(store, planes)
    assert not list((tmp_path / "store").glob(".tmp-*"))


@pytest.mark.parametrize("damage", ["cut", "gone", "index gone"])
def test_a_damaged_shard_is_decoded_anew(tmp_path: Path, damage: str) -> None:
    planes = write_files(tmp_path / "images")
    ImageCache(tmp_path / "store").prepare(planes)
    (shard,) = (tmp_path / "store").glob("*.planes")
    if damage == "cut":
        os.truncate(shard, 100)
    elif damage == "gone":
        shard.unlink()
    else:
        shard.with_suffix(".json").unlink()
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert same(store, planes)


def index_of(folder: Path) -> Path:
    (index,) = folder.glob("*.json")
    return index


def rewritten(index: Path, key: str | int, value: object) -> None:
    """The index with another value: of the whole, or of the first plane where `key` is a number."""
    checksum, _, text = index.read_text().partition("\n")
    data = json.loads(text)
    (data["planes"][0] if isinstance(key, int) else data)[key] = value  # type: ignore[index]
    index.write_text(f"{checksum}\n{json.dumps(data)}")


def described(index: Path) -> list[list[Any]]:
    """The planes in an index."""
    planes: list[list[Any]] = json.loads(index.read_text().partition("\n")[2])["planes"]
    return planes


INDEX = [
    ("bytes", 10**30), ("bytes", "many"), ("planes", None), ("planes", 7),
    ("planes", [[]]), ("planes", [["key", 0, 1, 1, "uint8"]]), ("planes", {"a": 1}), (0, ["a"]),
    (1, -64), (1, 64.0), (1, 32), (1, 10**30), (1, None), (2, [10**30, 9]), (2, [-1, 9]), (2, [0, 9]), (2, ["9", 9]),
    (2, [True, 9]), (3, "object"), (3, "O"), (3, "uint64"), (3, ["uint8"]), (3, None), (3, "V999999999"), (4, []),
    (4, [1, 2]), (4, ["a"]), (4, None), (4, 7),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), INDEX)
def test_an_index_that_is_damaged_counts_as_absent(
    tmp_path: Path, key: str | int, value: object, decoded: list[str]
) -> None:
    planes = write_files(tmp_path / "images", 2)
    ImageCache(tmp_path / "store").prepare(planes)
    rewritten(index_of(tmp_path / "store"), key, value)
    decoded.clear()
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert decoded == [str(plane) for plane in planes]
    assert same(store, planes)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"format": NaN}', "[" * 100_000, "\0" * 50, b"\xff\xfe"]
)
def test_an_index_that_is_none(tmp_path: Path, text: str | bytes) -> None:
    planes = write_files(tmp_path / "images", 2)
    ImageCache(tmp_path / "store").prepare(planes)
    index = index_of(tmp_path / "store")
    index.write_bytes(text.encode() if isinstance(text, str) else text)
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert same(store, planes)


def test_folders_where_files_should_be(tmp_path: Path) -> None:
    planes = write_files(tmp_path / "images", 2)
    for name in (
        "000000.json",
        "notes.json",
        "000003.planes",
        ".tmp-0123abcd-000004.planes",
        "x.planes",
    ):
        (tmp_path / "store" / name).mkdir(parents=True)
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert same(store, planes)
    assert same(store, planes)


def change(shard: Path, at: int) -> None:
    """Turn a byte over, and leave size and times as they are."""
    status, data = shard.stat(), bytearray(shard.read_bytes())
    data[at] ^= 255
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("when", ["before", "after"])
def test_changed_bytes_are_never_used(
    tmp_path: Path, when: str, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whether they change before a start or between start and first reading."""
    planes = write_files(tmp_path / "images")
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    index = index_of(tmp_path / "store")
    entry = described(index)[2]
    shard = index.with_suffix(".planes")
    if when == "before":
        change(shard, entry[1] + 5)
        store = ImageCache(tmp_path / "store")
        store.prepare(planes)
        decoded.clear()
    else:
        change(shard, entry[1] + 5)
    assert same(store, planes)
    assert same(store, planes)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"data.cache: {shard} has changed since it was written: {planes[2]} is")
    decoded.clear()
    third = ImageCache(tmp_path / "store")
    third.prepare(planes)
    assert len(decoded) == len(planes)
    assert same(third, planes)
    assert [p.stem for p in (tmp_path / "store").glob("*.planes")] == [
        "000000"
    ]  # the old one is gone


@pytest.mark.parametrize("loss", ["gone", "cut"])
def test_a_shard_that_goes_away_after_the_start(tmp_path: Path, loss: str) -> None:
    planes = write_files(tmp_path / "images")
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    shard = index_of(tmp_path / "store").with_suffix(".planes")
    shard.unlink()
    if loss == "cut":
        shard.write_bytes(bytes(10))
    assert same(store, planes)


def test_only_the_rows_that_are_used_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crop of a large image does not read all of it; what it reads is checked once."""
    monkeypatch.setattr(store_module, "BLOCK", 100)
    pixels = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)  # 60 bytes a row
    plane = Memory("a", pixels)
    store = ImageCache(tmp_path)
    store.prepare([plane])
    sums: list[int] = []
    original = zlib.crc32

    def crc32(data: memoryview) -> int:
        sums.append(len(data))
        return original(data)

    monkeypatch.setattr(zlib, "crc32", crc32)
    array = store.peek(plane)
    assert not sums
    store.checked(plane, array, slice(10, 12))  # bytes 600 to 720
    assert sums == [100, 100]
    store.checked(plane, array, slice(9, 12))
    assert sums == [100] * 3
    store.read(plane)
    assert sum(sums) == pixels.nbytes
    store.read(plane)
    assert sum(sums) == pixels.nbytes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), block=st.integers(1, 400), data=st.data(),
    dy=st.sampled_from([-2.0, -0.5, 0.0, 0.3, 1.0]),
)  # fmt: skip
def test_no_crop_holds_a_changed_byte(
    height: int, width: int, block: int, dy: float, data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Whatever byte changes and whatever is cut out, moved targets included."""
    folder = tmp_path_factory.mktemp("store")
    pixels = np.random.default_rng(0).integers(0, 60000, (height, width)).astype(np.uint16)
    sample = make_sample("a", [pixels], [pixels + np.uint16(9)])
    sample = registered(sample, pixels.shape, [(dy, 0.0)]) if height > 5 else sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "BLOCK", block)
        store = ImageCache(folder)
        store.prepare(sample.planes)
        change(folder / "000000.planes", data.draw(st.integers(0, pixels.nbytes - 1)))
        top = data.draw(st.integers(0, sample_shape(sample, store)[0] - 1))
        window = (slice(top, top + data.draw(st.integers(1, 5))), slice(0, width))
        for found, expected in zip(
            read_sample(sample, store, window),
            read_sample(sample, ImageCache(), window),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)


def test_an_unreadable_image_is_named_and_leaves_what_was_decoded(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = write_files(tmp_path / "images")
    data = planes[4].path.read_bytes()
    planes[4].path.write_bytes(data[:-9])
    monkeypatch.setattr(store_module, "SHARD_BYTES", 1)  # every plane a shard
    with pytest.raises(UserError, match=r"4\.tif: is truncated"):
        ImageCache(tmp_path / "store").prepare(planes)
    planes[4].path.write_bytes(data)
    decoded.clear()
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    assert str(planes[0]) not in decoded
    assert same(store, planes)


def test_without_a_folder_every_reading_decodes() -> None:
    plane = Memory("a", np.zeros((3, 4), np.uint8))
    store = ImageCache()
    store.prepare([plane])
    for _ in range(3):
        assert store.read(plane) is plane.array
    assert len(plane.reads) == 3


def test_a_full_disk_is_refused_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    planes = [Memory(str(i), np.zeros((20, 20), np.uint8)) for i in range(3)]
    with pytest.raises(UserError, match=r"data\.cache_dir=DIR.*data\.cache=off"):
        ImageCache(tmp_path).prepare(planes)
    assert not list(tmp_path.glob("*.planes"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        ImageCache(tmp_path / "file" / "store").prepare([Memory("a", np.zeros((2, 2), np.uint8))])


def _sum(store: ImageCache, plane: FilePlane) -> float:
    return float(store.read(plane).sum())


def test_a_worker_process_opens_the_store_for_itself(tmp_path: Path) -> None:
    planes = write_files(tmp_path / "images")
    store = ImageCache(tmp_path / "store")
    store.prepare(planes)
    expected = [_sum(store, plane) for plane in planes]
    assert b"memmap" not in pickle.dumps(store)
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        assert list(pool.map(_sum, [store] * len(planes), planes)) == expected


def _prepare(folder: Path, planes: list[FilePlane]) -> int:
    store = ImageCache(folder)
    store.prepare(planes)
    return sum(same(store, planes) for _ in range(1))


def test_processes_that_start_together_decode_once(tmp_path: Path) -> None:
    """As the processes of a training on several GPUs do."""
    planes = write_files(tmp_path / "images")
    with ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        jobs = [pool.submit(_prepare, tmp_path / "store", planes) for _ in range(4)]
        assert [job.result() for job in jobs] == [1] * 4
    indices = (tmp_path / "store").glob("*.json")
    assert sum(len(described(index)) for index in indices) == len(planes)


def test_where_stores_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("VFN_CACHE", str(tmp_path / "own"))
    assert cache_folder("chosen") == Path("chosen")
    assert cache_folder(None) == tmp_path / "own"
    monkeypatch.delenv("VFN_CACHE")
    assert cache_folder(None) == tmp_path / "xdg" / "vfn"
    assert store_name(tmp_path / "a") != store_name(tmp_path / "b" / "a")
    assert store_name(tmp_path / "a").startswith("a-")
    assert store_name(tmp_path / "\udcff") != store_name(tmp_path / "\udcfe")  # not UTF-8


# --- in_parallel ---


@settings(max_examples=30, deadline=None, derandomize=True)
@given(count=st.integers(0, 60))
def test_results_come_in_order(count: int) -> None:
    assert list(in_parallel(lambda i: i * i, range(count), "test", count)) == [
        i * i for i in range(count)
    ]


def test_the_work_never_runs_far_ahead() -> None:
    started: list[int] = []

    def work(i: int) -> int:
        started.append(i)
        return i

    results: Iterator[int] = in_parallel(work, range(1000), "test", 1000)
    for taken in range(50):
        next(results)
        assert len(started) <= taken + 1 + 4 * (os.cpu_count() or 1) + 1
    results.close()  # type: ignore[attr-defined]
    assert len(started) < 200


def test_an_error_ends_the_work() -> None:
    def work(i: int) -> int:
        if i == 30:
            raise UserError("30: is damaged")
        return i

    with pytest.raises(UserError, match="30: is damaged"):
        list(in_parallel(work, range(1000), "test", 1000))

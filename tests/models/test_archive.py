"""Checkpoints from strangers: looked through before anything is built from them."""

import io
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.errors import UserError
from vfn.models.archive import check_entries, check_pickle, is_whole
from vfn.models.reading import read_raw

STR = b"X\x01\0\0\0k"  # the key "k"


class Call:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def check_both(path: Path) -> None:
    check_entries(path)
    check_pickle(path)


def saved(path: Path, data: Any) -> Path:
    torch.save(data, path)
    return path


def archive(path: Path, pickled: bytes, **storages: bytes) -> Path:
    """What torch.save writes, with another pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for key, content in storages.items():
            file.writestr(f"archive/data/{key.removeprefix('_')}", content)
        file.writestr("archive/version", "3\n")
    return path


def valued(value: bytes) -> bytes:
    """A pickled dictionary with `value`, opcodes, at "k"."""
    return b"\x80\x02}" + STR + value + b"s."


def itself(kind: type) -> Any:
    one: Any = kind()
    (one.append if kind is list else lambda x: one.update(a=x))(one)
    return one


def in_a_ring() -> Any:
    one: list[Any] = []
    one.append([{"a": [one]}])
    return one


def doubled(count: int) -> bytes:
    """A tuple of twice the same tuple of twice the same tuple, ..."""
    return b")" + b"q\0h\0\x86" * count


def nested(count: int) -> Any:
    one: Any = []
    for _ in range(count):
        one = [one]
    return one


def storage(count: int, dtype: str = "Float") -> bytes:
    named = b"(X\x07\0\0\0storage" + f"ctorch\n{dtype}Storage\n".encode()
    return named + b"X\x01\0\0\x000X\x03\0\0\0cpu" + b"\x8a\x08" + struct.pack("<q", count) + b"tQ"


def tensor(count: int, size: bytes) -> bytes:
    build = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return build + storage(count) + b"K\0" + size + b"K\x01\x85\x89}tR"


MALICE = {
    "list": ({"a": itself(list)}, "a list holds itself"),
    "dictionary": (itself(dict), "a dict holds itself"),
    "ring": ({"a": in_a_ring()}, "holds itself"),
    "attributes": ({"a": itself(OrderedDict)}, "holds itself"),
    "deep": ({"a": nested(200)}, "more than 64 deep"),
    "3 GB": ({"a": Call(bytearray, 3 * 10**9)}, "names __builtin__.bytearray, which no checkpoint of vfn does"),
    "counter": ({"a": Counter("ab")}, "names collections.Counter"),
    "zeros": ({"a": Call(torch.zeros, 10**9)}, "which no checkpoint of vfn does"),
    "set": ({"a": {1, 2}}, "names __builtin__.set"),
    "bytes": ({"a": b"abc"}, "names _codecs.encode"),
    "integer": ({"a": 1 << 1000}, "holds an integer of 1001 bits"),
    "expanded": ({"a": torch.zeros(1).expand(10**5, 10**4)}, "1,000,000,000 elements has fewer"),
    "list alone": ([1], "is not a checkpoint of vfn"),
}  # fmt: skip
OPCODES = {
    "doubled": (valued(doubled(60)), "unfold to more than the file holds"),
    "doubled lists": (valued(b"]" + b"q\0]q\1h\0ah\0a" * 60), "unfold to more than the file holds"),
    "key": (b"\x80\x02}" + doubled(12) + b"K\1s.", "a key that is neither text nor a number"),
    "binbytes": (valued(b"B\xff\xff\xff\x7f"), "no checkpoint"),
    "bytearray8": (b"\x80\x05\x96" + struct.pack("<Q", 3 * 10**9), "no checkpoint"),
    "reduce": (valued(b"K\x01K\x02R"), "calls what is no function"),
    "called type": (valued(b"ctorch\nFloatStorage\n)R"), "calls torch FloatStorage"),
    "ordered by": (valued(b"ccollections\nOrderedDict\nK\x01\x85R"), "calls collections OrderedDict"),
    "new": (valued(b"ccollections\nOrderedDict\n)\x81"), "holds a newobj, which is no plain data"),
    "stack": (b"\x80\x02}ss.", "no checkpoint"),
    "no mark": (b"\x80\x02}u.", "no checkpoint"),
    "no memo": (valued(b"h\x07"), "no checkpoint"),
    "append to text": (valued(STR + b"K\x01a"), "fills a atom as a list"),
    "float key": (b"\x80\x02}G" + bytes(8) + b"K\x01s.", "a key that is neither"),
    "storage": (valued(storage(10**9)), "a tensor of 4,000,000,000 bytes has 16 in the file"),
    "negative": (valued(storage(-4)), "a tensor of -16 bytes has 16 in the file"),
    "beyond": (valued(tensor(4, b"M\xff\xffM\xff\xff\x86")), "a tensor of 4,294,836,225 elements has fewer"),
    "dtype": (valued(storage(1, "Quint")), "names torch.QuintStorage"),
    "cut": (valued(b"K")[:-3], "no checkpoint"),
    "none": (b"", "no checkpoint"),
}  # fmt: skip


def refused_quickly(path: Path, says: str) -> None:
    """In well below a second and some megabytes."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for mapped in (False, True):
        with pytest.raises(UserError) as caught:
            read_raw(path, mapped)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert taken < 100 * 1024 or sys.platform == "darwin"


@pytest.mark.parametrize("what", MALICE)
def test_what_unfolds_to_more_than_the_file_holds(tmp_path: Path, what: str) -> None:
    data, says = MALICE[what]
    refused_quickly(saved(tmp_path / "a.ckpt", data), says)


@pytest.mark.parametrize("what", OPCODES)
def test_opcodes_that_torch_does_not_write(tmp_path: Path, what: str) -> None:
    pickled, says = OPCODES[what]
    refused_quickly(archive(tmp_path / "a.ckpt", pickled, _0=bytes(16)), says)


def test_what_torch_writes_passes(tmp_path: Path) -> None:
    """Shared parts and samples of one storage, too."""
    whole = torch.arange(12.0)
    shared = ["phase"]
    state = torch.nn.Linear(3, 4).state_dict()  # has attributes
    data = {
        "a": [1, -5, 2**40, 0.5, None, True, "é", (), (1,), (1, 2, 3, 4)], "b": [shared, shared],
        1: whole, "view": whole[2:5], "shape": whole.reshape(3, 4).T, "state": state, "empty": torch.zeros(0),
        "half": whole.bfloat16(), "bytes": torch.get_rng_state(), "many": [[i] for i in range(3000)],
        "parameter": torch.nn.Parameter(whole), "small": torch.ones(1).expand(100),
    }  # fmt: skip
    check_both(saved(tmp_path / "a.ckpt", data))
    found = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(found["shape"], data["shape"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.text(max_size=3) | st.integers(-9, 9),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=2), inner, max_size=3),
            max_leaves=12,
        ),
    )
)  # fmt: skip
def test_all_plain_data_passes(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    check_both(saved(tmp_path_factory.mktemp("a") / "a.ckpt", data))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_passes_is_read_by_torch_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Opcodes in any order: refused by an ordinary error, or plain data that is no larger than it says."""
    parts = [
        b"N", b"\x88", b"K\x01", STR, b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s", b"u",
        b"q\0", b"q\1", b"h\0", b"h\1", b"ccollections\nOrderedDict\n", b"R", b"b", storage(4),
        tensor(4, b"K\x02K\x02\x86"),
    ]  # fmt: skip
    body = b"".join(data.draw(st.lists(st.sampled_from(parts), max_size=25)))
    path = archive(
        tmp_path_factory.mktemp("a") / "a.ckpt", b"\x80\x02}" + body + b".", _0=bytes(16)
    )
    refused = (ValueError, LookupError, TypeError, AttributeError)
    with suppress(*refused):
        check_both(path)
        with suppress(*refused, pickle.UnpicklingError):  # torch is stricter in details
            found = torch.load(path, weights_only=True)
            assert len(repr(found)) < 10**6  # it ends


def test_the_archive_that_is_checked_is_the_one_that_torch_reads(tmp_path: Path) -> None:
    """zipfile finds an archive behind anything; torch would take what stands before it."""
    good = saved(tmp_path / "good.ckpt", {"a": 1}).read_bytes()
    legacy = io.BytesIO()
    torch.save({"a": Call(bytearray, 10)}, legacy, _use_new_zipfile_serialization=False)
    (tmp_path / "a.ckpt").write_bytes(legacy.getvalue() + good)
    assert zipfile.is_zipfile(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"not an archive of torch\.save"):
        check_both(tmp_path / "a.ckpt")


def test_entries_that_share_a_name_or_their_bytes(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", valued(b"N"))
    check_both(path)
    assert is_whole(path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", pickle.dumps({"k": 1}, 2))
    with pytest.raises(ValueError, match="share a name"):
        check_both(path)
    path = archive(tmp_path / "b.ckpt", valued(b"N"), _0=bytes(50_000))
    data = path.read_bytes()
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)  # of byteorder, in the directory
    longer = data[: entry + 20] + struct.pack("<II", 60_000, 60_000) + data[entry + 28 :]
    path.write_bytes(longer)
    with pytest.raises(ValueError, match="their bytes"):
        check_both(path)
    assert not is_whole(path)

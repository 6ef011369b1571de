"""The archive that a checkpoint is, looked through before torch unpickles it.

torch runs no code of a stranger's file (weights_only), but it builds whatever the pickle describes: gigabytes
from a few bytes, containers that hold themselves, tensors beyond the end of their storage. Here the pickle is
read without building anything; only what `torch.save` writes for plain data and tensors passes, and it
unfolds to no more than the file holds.
"""

import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIGNATURE = b"PK\x03\x04"  # torch looks at the beginning of a file, zipfile at its end
MAX_DEPTH = 64  # of containers; recipes have 10
NODES_PER_BYTE, MAX_FREE_NODES = 4, 10_000  # of the unfolded pickle: parts may be shared, a little
MAX_FREE_ELEMENTS = 2**20  # of a tensor that repeats what its storage holds
LONGEST = 16  # bytes of an integer
ITEM_SIZES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
    "Bool": 1,
}  # fmt: skip
STORAGES = {f"torch {name}Storage": size for name, size in ITEM_SIZES.items()}
TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
ORDERED = "collections OrderedDict"
_MARK = object()


def is_whole(path: Path) -> bool:
    """Return True if every byte of the checkpoint at `path` is as it was written: torch itself does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, path.stat().st_size)
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, zlib.error):
        return False


def check_entries(path: Path) -> None:
    """Raise for an archive that is not as `torch.save` writes one.

    Raises:
        ValueError: it says what is other; so do other errors of damaged archives.
    """
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError("not an archive of torch.save")
    with zipfile.ZipFile(path) as archive:
        _check_entries(archive, path.stat().st_size)


def check_pickle(path: Path) -> None:
    """Raise for a pickle that is no plain data and tensors, or would unfold to more than the file holds.

    Raises:
        ValueError: see `check_entries`.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = _check_entries(archive, path.stat().st_size)
        folder = archive.infolist()[0].filename.split("/")[0]  # as torch finds it
        _Machine(folder, sizes).run(archive.read(f"{folder}/data.pkl"))


def _check_entries(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Names and bytes of the entries: each stored once and as it is."""
    entries = archive.infolist()
    sizes = {entry.filename: entry.file_size for entry in entries}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed, which could grow a thousandfold")
    if len(sizes) < len(entries) or sum(sizes.values()) > size:
        raise ValueError("several entries of the archive share a name or their bytes")
    return sizes


class _Node:
    """The value that a part of the pickle would become.

    Attributes:
        kind: "atom", "tuple", "list", "dict", "global", "storage" or "tensor".
        value: of an atom; items of a tuple; name of a global; elements of a storage.
        nodes, depth: of all that it holds, unfolded.
        is_placed: within another; then it grows no more, so that nothing holds itself.
    """

    __slots__ = ("depth", "is_placed", "kind", "nodes", "value")

    def __init__(self, kind: str, value: Any = None) -> None:
        self.kind, self.value = kind, value
        self.nodes, self.depth, self.is_placed = 1, 1, False


class _Machine:
    """Reads a pickle by its opcodes."""

    def __init__(self, folder: str, sizes: dict[str, int]) -> None:
        self.folder, self.sizes, self.limit = folder, sizes, MAX_FREE_NODES
        self.stack: list[Any] = []
        self.memo: dict[int, _Node] = {}
        self.steps: dict[str, Callable[[Any], object]] = {
            **dict.fromkeys(
                ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE"),
                self._atom,
            ),
            "LONG1": self._integer,
            "GLOBAL": self._global,
            "MARK": lambda _: self.stack.append(_MARK),
            "EMPTY_TUPLE": lambda _: self._tuple([]),
            "EMPTY_LIST": lambda _: self._push("list"),
            "EMPTY_DICT": lambda _: self._push("dict"),
            "TUPLE": lambda _: self._tuple(self._pop_marked()),
            "TUPLE1": lambda _: self._tuple(self._pop(1)),
            "TUPLE2": lambda _: self._tuple(self._pop(2)),
            "TUPLE3": lambda _: self._tuple(self._pop(3)),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._pop_marked()),
            "SETITEM": lambda _: self._update(self._pop(2)),
            "SETITEMS": lambda _: self._update(self._pop_marked()),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda at: self.stack.append(self.memo[at])),
            "REDUCE": lambda _: self._call(),
            "BUILD": lambda _: self._build(),
            "BINPERSID": lambda _: self._storage(),
            "PROTO": lambda _: None,
        }  # fmt: skip

    def run(self, pickled: bytes) -> None:
        self.limit += NODES_PER_BYTE * len(pickled)
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "STOP":
                break
            if opcode.name not in self.steps:
                raise ValueError(f"holds a {opcode.name.lower()}, which is no plain data")
            self.steps[opcode.name](argument)
        if len(self.stack) != 1:
            raise ValueError("not one object")

    def _push(self, kind: str, value: Any = None) -> _Node:
        node = _Node(kind, value)
        self.stack.append(node)
        return node

    def _atom(self, value: Any) -> None:
        self._push("atom", value)

    def _integer(self, value: int) -> None:
        if value.bit_length() > 8 * LONGEST:
            raise ValueError(f"holds an integer of {value.bit_length()} bits")
        self._push("atom", value)

    def _global(self, name: str) -> None:
        if name not in STORAGES and name not in TENSORS and name != ORDERED:
            raise ValueError(
                f"names {name[:80].replace(' ', '.')}, which no checkpoint of vfn does"
            )
        self._push("global", name)

    def _tuple(self, items: list[_Node]) -> None:
        self._place(items, self._push("tuple", items))

    def _extend(self, items: list[_Node]) -> None:
        self._place(items, self._top("list"))

    def _update(self, items: list[_Node]) -> None:
        # Other keys than these may take for ever to hash, or all have one hash.
        for key in items[::2]:
            if not isinstance(key.value, str) and not (
                isinstance(key.value, int) and abs(key.value) < 2**31
            ):
                raise ValueError("a dictionary has a key that is neither text nor a number")
        self._place(items, self._top("dict"))

    def _remember(self, at: int) -> None:
        self.memo[at] = self.stack[-1]

    def _call(self) -> None:
        function, arguments = self._pop(2)
        if function.kind != "global" or arguments.kind != "tuple":
            raise ValueError("calls what is no function")
        if function.value == ORDERED and not arguments.value:
            self._push("dict")
        elif function.value == TENSORS[0]:
            storage, _, size = arguments.value[:3]
            count = math.prod(item.value for item in size.value)
            if storage.kind != "storage" or count > max(storage.value, MAX_FREE_ELEMENTS):
                raise ValueError(f"a tensor of {count:,} elements has fewer in the file")
            self._push("tensor")
        elif function.value == TENSORS[1] and arguments.value[0].kind == "tensor":
            self._push("tensor")
        else:
            raise ValueError(f"calls {function.value}")

    def _build(self) -> None:
        (state,) = self._pop(1)
        if state.kind != "dict":  # attributes of the OrderedDict that a state dict is
            raise ValueError("sets a state that is no dictionary")
        self._place([state], self._top("dict"))

    def _storage(self) -> None:
        (named,) = self._pop(1)
        what, dtype, key, _, count = (item.value for item in named.value)
        needed = count * STORAGES[dtype]
        there = self.sizes[f"{self.folder}/data/{key}"]
        if what != "storage" or type(count) is not int or not 0 <= needed <= there:
            raise ValueError(f"a tensor of {needed:,} bytes has {there:,} in the file")
        self._push("storage", count)

    def _top(self, kind: str) -> _Node:
        node: _Node = self.stack[-1]
        if node.kind != kind:
            raise ValueError(f"fills a {node.kind} as a {kind}")
        return node

    def _pop(self, count: int) -> list[_Node]:
        items = self.stack[-count:]
        del self.stack[-count:]
        if len(items) < count or _MARK in items:
            raise ValueError("takes what is not there")
        return items

    def _pop_marked(self) -> list[_Node]:
        items: list[_Node] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _place(self, items: list[_Node], within: _Node) -> None:
        for item in items:
            item.is_placed = True
            within.nodes += item.nodes
            within.depth = max(within.depth, item.depth + 1)
        if within.is_placed:
            raise ValueError(f"a {within.kind} holds itself")
        if within.depth > MAX_DEPTH:
            raise ValueError(f"containers lie more than {MAX_DEPTH} deep within each other")
        if within.nodes > self.limit:
            raise ValueError(
                "containers are shared so that they unfold to more than the file holds"
            )

"""Reads the file that W&B keeps offline: blocks of LevelDB's log format around protobuf records."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER, BLOCK, HEADER = 7, 32 * 1024, 7  # bytes
FULL, LAST = 1, 4  # types of the piece that ends a record


@dataclass
class Run:
    """What a dashboard would show of one run."""

    group: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def read(run_folder: Path) -> Run:
    """The one W&B run of a run folder."""
    (path,) = run_folder.glob("wandb/offline-run-*/*.wandb")
    run = Run()
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.group, run.name = record.run.run_group, record.run.display_name
            run.tags = list(record.run.tags)
            run.config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif kind == "config":
            run.config |= {u.key: json.loads(u.value_json) for u in record.config.update}
        elif kind == "history":
            run.history.append({_key(i): json.loads(i.value_json) for i in record.history.item})
        elif kind == "summary":
            run.summary |= {_key(u): json.loads(u.value_json) for u in record.summary.update}
    return run


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _records(data: bytes) -> list[Record]:
    position, pieces, records = FILE_HEADER, b"", []
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # the rest of a block that holds no header is padding
            position += left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER
        pieces += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(pieces)
            records.append(record)
            pieces = b""
    return records

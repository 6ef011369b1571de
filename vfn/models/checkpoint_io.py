"""Checkpoint files of a training: written whole or not at all, read as data."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from vfn.models.archive import is_whole
from vfn.models.reading import read_raw
from vfn.system.files import replacing

BEST, LAST = "best.ckpt", "last.ckpt"
PREVIOUS = "previous.ckpt"  # what last.ckpt was before


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's, under a temporary name until it is whole; read as data alone. Of `last.ckpt` the one
    before is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._sound: set[Path] = set()  # that this process wrote or read whole

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_raw`: nobody who asks for it gets more than data."""
        checkpoint = read_raw(Path(path), trust=None)
        self._sound.add(Path(path).resolve())
        return checkpoint

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            DiskFull: it does not fit; what was at `path` is still there.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            # Not by Lightning's own writer, which goes through the system's temporary folder; and
            # not straight into the file, since torch hides that a disk is full.
            packed = io.BytesIO()
            torch.save(checkpoint, packed)
            temporary.write_bytes(packed.getbuffer())
            # A damaged one must not push out the sound one before it.
            if path.name == LAST and path.resolve() in self._sound:
                _second_name(path, path.with_name(PREVIOUS))
        self._sound.add(path.resolve())


def _second_name(path: Path, other: Path) -> None:
    """Let the file at `path` be at `other` as well, without a copy where the disk can do that."""
    with replacing(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # no such links on this disk
            shutil.copyfile(path, temporary)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` from which training can go on; None where all are damaged."""
    candidates = (folder / name for name in (LAST, PREVIOUS))
    return next((path for path in candidates if path.is_file() and is_whole(path)), None)

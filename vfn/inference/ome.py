"""Predicted fields as OME-TIFF: channels named, pixel size kept, the model noted."""

import math
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import tifffile

from vfn import __version__
from vfn.data.images import read_image
from vfn.errors import UserError
from vfn.files import replacing, room_for

SIDE = 512  # px, of the tiles in the file
IN_MEMORY = 2**26  # bytes; a larger image goes through a temporary file
BY = "predicted by vfn"
SHIFT = "Input shift"  # the input lies outside what the model was trained on
NOTE = BY + " {version}, model {identity}"


def write_ome(
    path: Path,
    bands: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: str,
    channels: tuple[str, ...],
    pixel_size: float | None,
    identity: str,
    remarks: Sequence[str] = (),
) -> None:
    """Write an image with axes CYX, zlib-compressed; a large one in tiles of `SIDE` pixels.

    Args:
        bands: (C, h, W) from top to bottom. A file holds one channel after the other, so bands
            of a large image wait in a temporary file beside `path`.
        shape: (H, W).
        pixel_size: micrometres, or None where it is not known.
        identity: of the model (and what else the pixels depend on), for `is_whole` and for whoever
            finds the file later.
        remarks: whatever a reader of the file should know of its input, in words.
    """
    note = NOTE.format(version=__version__, identity=identity)
    metadata: dict[str, object] = {
        "axes": "CYX",
        "Channel": {"Name": list(channels)},
        "Description": "\n".join([note, *remarks]),
        # Else a random one, which makes two files of the same prediction differ.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join([note, *channels, *remarks]))),
    }
    if pixel_size is not None:
        for axis in "XY":
            metadata[f"PhysicalSize{axis}"] = pixel_size
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    whole = (len(channels), *shape)
    large = math.prod(whole) * np.dtype(dtype).itemsize > IN_MEMORY
    with replacing(path) as temporary, ExitStack() as spools:
        pixels: Iterable[np.ndarray]
        if large:
            files = [spools.enter_context(TemporaryFile(dir=path.parent)) for _ in channels]
            for band in bands:
                for file, channel in zip(files, band, strict=True):
                    file.write(np.ascontiguousarray(channel).data)
            pixels = (tile for file in files for tile in _tiles(file, shape, np.dtype(dtype)))
        else:
            pixels = np.concatenate(list(bands), 1)
        tifffile.imwrite(
            temporary, pixels, shape=whole, dtype=dtype, ome=True, photometric="minisblack",
            compression="zlib", tile=(SIDE, SIDE) if large else None, metadata=metadata,
        )  # fmt: skip


@contextmanager
def gathered(
    bands: Iterable[np.ndarray], whole: tuple[int, ...], dtype: str, path: Path
) -> Iterator[np.ndarray]:
    """The image `whole` (C, H, W) of bands (C, h, W) from top to bottom, to be written to `path`.

    A large one lies in a temporary file beside `path`, of which the system keeps in memory what it has
    room for.
    """
    size = math.prod(whole) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        yield np.concatenate(list(bands), 1)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path), TemporaryFile(dir=path.parent) as file:
        _, height, width = whole
        top = 0
        for band in bands:
            for i, channel in enumerate(band):
                file.seek((i * height + top) * width * channel.itemsize)
                file.write(np.ascontiguousarray(channel).data)
            top += band.shape[1]
        file.flush()
        yield np.memmap(file, dtype, "r", shape=whole)


def _tiles(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Tiles of the image (H, W) whose rows lie in `file`, smaller at its lower and right edge."""
    height, width = shape
    file.seek(0)
    for top in range(0, height, SIDE):
        rows = min(SIDE, height - top)
        data = file.read(rows * width * dtype.itemsize)
        band = np.frombuffer(data, dtype).reshape(rows, width)
        for left in range(0, width, SIDE):
            yield band[:, left : left + SIDE]


def is_whole(path: Path, identity: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels (C, H, W) of `path` if it is whole, of (H, W) `shape` and by model `identity`.

    Raises:
        UserError: the file is somebody's image, not a prediction, and would be overwritten.
    """
    if not path.exists():
        return None
    try:
        array = read_image(path).array
        with tifffile.TiffFile(path) as tif:
            if not _has_all_tags(tif):  # the note stands behind the pixels: cut off with the end
                return None
            note = tif.ome_metadata or ""
    except UserError:
        return None  # half or damaged: it is computed again, and replaced
    if BY not in note:
        raise UserError(
            f"{path}: is there already and is no prediction of vfn; choose another output folder"
        )
    return array if array.shape[1:] == shape and f"model {identity}" in note else None


def _has_all_tags(tif: tifffile.TiffFile) -> bool:
    """Whether every tag of the first page could be read; tifffile leaves out those that cannot."""
    tif.filehandle.seek(tif.pages.first.offset)
    count = struct.unpack(tif.tiff.tagnoformat, tif.filehandle.read(tif.tiff.tagnosize))[0]
    return len(tif.pages.first.tags) == count

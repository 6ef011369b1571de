"""Predicted fields as OME-TIFF: channels named, pixel size kept, the model noted."""

import json
import math
import struct
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from xml.etree import ElementTree

import numpy as np
import tifffile

from vfn import __version__
from vfn.data.discovery.layout import Layout
from vfn.data.formats import scenes
from vfn.data.images import read_image
from vfn.data.tiff_stacks import is_stack
from vfn.errors import UserError
from vfn.system.files import replacing, room_for

SIDE = 512  # px, of the tiles in the file
CLASSIC = 2**32 - 2**25  # bytes beyond which a TIFF must be a BigTIFF
IN_MEMORY = 2**26  # bytes; a larger image goes through a temporary file
BY = "predicted by vfn"
SHIFT = "Input shift"  # the input lies outside what the model was trained on
VERDICT = "Verdict when predicted"  # what the model card said of each stain by then
LAYOUT = "Names of the input files"  # as JSON; the raw truth is found by it
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
    times: int | None = None,
    time_step: float | None = None,
) -> None:
    """Write an image with axes CYX, zlib-compressed; a large one in tiles of `SIDE` pixels.

    Args:
        bands: see `gathered`: a file holds one channel after the other.
        shape: (H, W).
        pixel_size: micrometres, or None where it is not known.
        identity: of the model (and what else the pixels depend on), for `is_whole` and for whoever
            finds the file later.
        remarks: whatever a reader of the file should know of its model and input, in words.
        times: number of time points, for axes TCYX; None writes no such axis.
        time_step: seconds from one time point to the next, or None where it is not known.
    """
    note = NOTE.format(version=__version__, identity=identity)
    metadata: dict[str, object] = {
        "axes": "CYX" if times is None else "TCYX",
        "Channel": {"Name": list(channels)},
        "Description": "\n".join([note, *remarks]),
        # Else a random one, which makes two files of the same prediction differ.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join([note, *channels, *remarks]))),
    }
    if pixel_size is not None:
        for axis in "XY":
            metadata[f"PhysicalSize{axis}"] = pixel_size
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    if time_step is not None:
        metadata |= {"TimeIncrement": time_step, "TimeIncrementUnit": "s"}
    frame = (len(channels), *shape)
    whole = frame if times is None else (times, *frame)
    item = np.dtype(dtype).itemsize
    with replacing(path) as temporary, gathered(bands, whole, dtype, path) as pixels:
        tifffile.imwrite(
            temporary, pixels, ome=True, photometric="minisblack", compression="zlib",
            tile=(SIDE, SIDE) if math.prod(frame) * item > IN_MEMORY else None, metadata=metadata,
            bigtiff=True if times is not None and math.prod(whole) * item > CLASSIC else None,
        )  # fmt: skip


@contextmanager
def gathered(
    bands: Iterable[np.ndarray], whole: tuple[int, ...], dtype: str, path: Path
) -> Iterator[np.ndarray]:
    """Yield the image `whole` ((T, )C, H, W) of bands (C, h, W) from top to bottom, time point after time
    point, to be written to `path`.

    A large one lies in a temporary file beside `path`, of which the system keeps in memory what it has
    room for.
    """
    channels, height, width = whole[-3:]
    top = 0  # over all time points
    if math.prod(whole) * np.dtype(dtype).itemsize <= IN_MEMORY:
        pixels = np.empty((math.prod(whole[:-3]), *whole[-3:]), dtype)
        for band in bands:
            frame, row = divmod(top, height)
            pixels[frame, :, row : row + band.shape[1]] = band
            top += band.shape[1]
        yield pixels.reshape(whole)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path), TemporaryFile(dir=path.parent) as file:
        for band in bands:
            frame, row = divmod(top, height)
            for i, channel in enumerate(band):
                start = ((frame * channels + i) * height + row) * width
                file.seek(start * channel.itemsize)
                file.write(np.ascontiguousarray(channel).data)
            top += band.shape[1]
        file.flush()
        yield np.memmap(file, dtype, "r", shape=whole)


def not_ours(path: Path) -> UserError:
    """Return the error about an image that is somebody's, and would be overwritten."""
    return UserError(
        f"{path}: is there already and is no prediction of vfn; choose another output folder"
    )


def is_whole(
    path: Path, identity: str, shape: tuple[int, ...], times: int | None = None
) -> np.ndarray | None:
    """The pixels (C, H, W) of `path` if it is whole, of (H, W) `shape` and by model `identity`; of
    `times` time points the last.

    Raises:
        UserError: the file is somebody's image, not a prediction, and would be overwritten.
    """
    if not path.exists():
        return None
    try:
        array, found = _stored(path)
        with tifffile.TiffFile(path) as tif:
            if not _has_all_tags(tif):  # the note stands behind the pixels: cut off with the end
                return None
            note = tif.ome_metadata or ""
    except UserError:
        return None  # half or damaged: it is computed again, and replaced
    if BY not in note:
        raise not_ours(path)
    same = array.shape[1:] == shape and found == times
    return array if same and f"model {identity}" in note else None


def _stored(path: Path) -> tuple[np.ndarray, int | None]:
    """Pixels (C, H, W) of the image, of a movie those of its last time point; and how many there are.

    Raises:
        UserError: a plane cannot be read.
    """
    if not is_stack(path):
        return read_image(path).array, None
    stacks = scenes(path)[0].load()
    for stack in stacks:  # damage may lie in any of them
        array = np.stack([plane.read() for plane in stack.focal])
    return array, len(stacks)


def _has_all_tags(tif: tifffile.TiffFile) -> bool:
    """Return whether every tag of the first page could be read; tifffile leaves out those that cannot."""
    tif.filehandle.seek(tif.pages.first.offset)
    count = struct.unpack(tif.tiff.tagnoformat, tif.filehandle.read(tif.tiff.tagnosize))[0]
    return len(tif.pages.first.tags) == count


def layout_remark(layout: Layout) -> str:
    """Return what a prediction says of the names of its input files; a manifest is on this machine alone."""
    return f"{LAYOUT}: {json.dumps(replace(layout, manifest=None).to_dict())}"


def layout_of(path: Path) -> Layout | None:
    """Return the naming of the input files of a prediction; None where it does not say."""
    try:
        with tifffile.TiffFile(path) as tif:
            root = ElementTree.fromstring(tif.ome_metadata or "<OME/>")
        note = root.findtext("{*}Image/{*}Description") or ""
        said = (line for line in note.splitlines() if line.startswith(f"{LAYOUT}: "))
        found = json.loads(next(said, "null").removeprefix(f"{LAYOUT}: "))
        return None if found is None else Layout(**found)
    except (OSError, ValueError, TypeError, ElementTree.ParseError, tifffile.TiffFileError):
        return None  # no OME-TIFF, or a damaged one, which its reader tells

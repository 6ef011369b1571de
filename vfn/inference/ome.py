"""Predicted fields as OME-TIFF: channels named, pixel size kept, the model noted."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from vfn import __version__
from vfn.data.images import read_image
from vfn.errors import UserError
from vfn.files import replacing

BY = "predicted by vfn"
SHIFT = "Input shift"  # the input lies outside what the model was trained on
NOTE = BY + " {version}, model {identity}"


def write_ome(
    path: Path,
    array: np.ndarray,
    channels: tuple[str, ...],
    pixel_size: float | None,
    identity: str,
    remarks: Sequence[str] = (),
) -> None:
    """Write (C, H, W) with axes CYX, zlib-compressed.

    Args:
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
    }
    if pixel_size is not None:
        for axis in "XY":
            metadata[f"PhysicalSize{axis}"] = pixel_size
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary, array, ome=True, photometric="minisblack", compression="zlib",
            metadata=metadata,
        )  # fmt: skip


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

"""One image file in: TIFF (any compression of imagecodecs), OME-TIFF, ImageJ TIFF, PNG."""

import math
import os
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from vfn.errors import UserError

SUFFIXES = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".png")
READER_VERSION = 1  # raised whenever `read_image` gives other pixels for the same bytes
DTYPES = ("uint8", "uint16", "float32")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOUR_TYPES = {2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
# "Black is zero", "white is zero" (stored values are taken as they are in both), palette indices.
GREY_PHOTOMETRICS = (0, 1, 3)
# What one of these units is in micrometres (OME names, and those that ImageJ and MetaMorph write;
# ImageJ escapes what is not ASCII).
MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00B5m": 1.0, "\\u00b5m": 1.0,
    "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """One file: `array` (C, H, W) in its own dtype; channel names and pixel size (um) if stated."""

    array: np.ndarray
    channels: tuple[str, ...] | None = None
    pixel_size: float | None = None


def strip_suffix(path: Path | str) -> str:
    """File name without `.ome.tif`, `.tif`, `.png` and their kin."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_image(path: Path) -> bool:
    """True for names that `read_image` reads; hidden and temporary names are left out."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def find_images(folder: Path) -> list[Path]:
    """All image files below `folder`, sorted.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the images")
    # Links that lead nowhere stay in: reading them says so, where leaving them out would hide it.
    paths = sorted(path for path in folder.rglob("*") if is_image(path) and not path.is_dir())
    if not paths:
        raise UserError(f"{folder}: no image in it; {', '.join(SUFFIXES)} files are read")
    return paths


def read_image(path: Path) -> Image:
    """Read one grey image of one or more channels.

    Args:
        path: TIFF (8, 16 bit or float; one leading axis at most is taken as channels) or PNG.

    Returns:
        The pixels (C, H, W) as uint8, uint16 or float32 in native byte order.

    Raises:
        UserError: missing, truncated, not an image, colour, empty, another dtype, NaN or infinite
            pixels, or more than one axis beside height and width.
    """
    stat = _stat(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder named like an image; give an image, or rename it")
    # Keyed by time and size, so a changed file is read anew.
    return _read(path, stat.st_mtime_ns, stat.st_size)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror}); check path and rights") from exc


def content_key(path: Path) -> str:
    """Changes where what `read_image` gives for `path` may change.

    Raises:
        UserError: no such file.
    """
    stat = _stat(path)
    return f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|reader {READER_VERSION}"


@lru_cache(maxsize=4)  # the channels of one file are asked for one after the other
def _read(path: Path, _mtime: int, _size: int) -> Image:
    try:
        with path.open(
            "rb"
        ) as file:  # names lie: BBBC006's re-exported planes are TIFFs named .png
            is_png = file.read(8) == PNG_SIGNATURE
        image = _read_png(path) if is_png else _read_tiff(path)
    except UserError:
        raise
    except Exception as exc:  # decoders raise whatever they like on damaged bytes
        raise UserError(
            f"{path}: cannot be read as an image ({type(exc).__name__}: {exc}); "
            "copy it anew from the microscope or leave it out"
        ) from exc
    _check(path, image.array)
    return image


def _check(path: Path, array: np.ndarray) -> None:
    if array.size == 0:
        raise UserError(f"{path}: has no pixels (shape {array.shape}); leave it out")
    if array.dtype.name not in DTYPES:
        raise UserError(
            f"{path}: pixels are {array.dtype.name}; save it as one of {', '.join(DTYPES)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise UserError(f"{path}: {bad} pixels are NaN or infinite; replace them or leave it out")


def _read_png(path: Path) -> Image:
    data = path.read_bytes()
    if len(data) < 33:  # signature and header
        raise UserError(f"{path}: is truncated ({len(data)} bytes); copy it anew")
    depth, colour = struct.unpack(">BB", data[24:26])
    if colour:
        raise UserError(
            f"{path}: is {PNG_COLOUR_TYPES.get(colour, 'of an unknown kind')}, grey is expected; "
            "export each channel as a single-channel grey image"
        )
    if depth not in (8, 16):
        raise UserError(f"{path}: is a {depth}-bit PNG; save it with 8 or 16 bit")
    array = imagecodecs.png_decode(data)
    if array.ndim != 2:  # a grey PNG may name a transparent grey value
        raise UserError(f"{path}: has transparency, grey is expected; save it without")
    return Image(array[np.newaxis])


def _read_tiff(path: Path) -> Image:
    with tifffile.TiffFile(path) as tif:
        if not tif.pages:
            raise UserError(f"{path}: is a TIFF without images; export it anew")
        page = tif.pages.first
        kind = int(page.photometric)
        if kind not in GREY_PHOTOMETRICS or not _is_grey_ramp(page.colormap):
            raise UserError(
                f"{path}: is {getattr(page.photometric, 'name', kind)} colour, grey is expected; "
                "export each channel as a single-channel grey image"
            )
        _check_whole(path, tif)
        array = _pixels(path, tif)
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
                array = array.astype(np.float32)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        names = _channel_names(tif)
        return Image(array, names if len(names) == len(array) else None, _pixel_size(tif))


def _pixels(path: Path, tif: tifffile.TiffFile) -> np.ndarray:
    """(C, H, W) of the one image in the file."""
    series = tif.series[0]
    if any(page is None or page.parent is not tif for page in series.pages):
        # OME metadata may describe a whole acquisition, of which this file holds one part:
        # the planes of its siblings are no channels of this file.
        with tifffile.TiffFile(path, is_ome=False) as alone:
            return _pixels(path, alone)
    size = series.keyframe.shape[-2:]
    if any(other.keyframe.shape[-2:] == size for other in tif.series[1:]):  # no mere thumbnail
        raise UserError(
            f"{path}: holds {len(tif.series)} images; save each one as a file of its own, "
            "or channels as one stack"
        )
    if len(series.shape) > 3 or "X" not in series.axes or "Y" not in series.axes:
        raise UserError(
            f"{path}: has axes {series.axes} {series.shape}; one plane, or one axis of channels "
            "beside Y and X, is read: split time points and z planes into files"
        )
    array = series.asarray()
    if series.axes.startswith("Y") and array.ndim == 3:  # samples behind the pixels: Y, X, S
        array = np.moveaxis(array, -1, 0)
    return array.reshape(-1, *array.shape[-2:])


def _is_grey_ramp(colormap: np.ndarray | None) -> bool:
    """MetaMorph and others store 8-bit intensities as palette indices with a display table: where
    no colour of the table ever falls, a higher index is a higher intensity, and indices are data."""
    return colormap is None or bool((np.diff(colormap.astype(np.int64), axis=-1) >= 0).all())


def _check_whole(path: Path, tif: tifffile.TiffFile) -> None:
    """Decoders fill what is missing at the end of a truncated file with zeros, and pages that are
    missing are no pages to them: refuse such a file first."""
    size = tif.filehandle.size
    if _next_page(tif):
        raise UserError(
            f"{path}: is truncated ({size} bytes, of its pages only {len(tif.pages)} can be read); "
            "copy it anew from the microscope or leave it out"
        )
    for page in tif.pages:
        page = page.aspage()
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if ends and max(ends) > size:
            raise UserError(
                f"{path}: is truncated ({size} bytes, its pixels end at byte {max(ends)}); "
                "copy it anew from the microscope or leave it out"
            )


def _next_page(tif: tifffile.TiffFile) -> int:
    """Where the page after the last one that can be read begins; 0 if that is the last."""
    file, form = tif.filehandle, tif.tiff
    file.seek(tif.pages[-1].offset)
    tags = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
    file.seek(tags * form.tagsize, 1)
    return int(struct.unpack(form.offsetformat, file.read(form.offsetsize))[0])


def _ome_pixels(tif: tifffile.TiffFile) -> dict[str, Any]:
    """The Pixels element of the first OME image; empty where there is none."""
    if not tif.is_ome or tif.ome_metadata is None:
        return {}
    image = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
    image = image[0] if isinstance(image, list) else image
    pixels: dict[str, Any] = image.get("Pixels", {})
    return pixels


def _channel_names(tif: tifffile.TiffFile) -> tuple[str, ...]:
    channels = _ome_pixels(tif).get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    names = [str(channel.get("Name", "")) for channel in channels]
    if not names and tif.is_imagej and tif.imagej_metadata:
        names = [str(label) for label in tif.imagej_metadata.get("Labels", [])]
    return tuple(names) if all(names) and len(set(names)) == len(names) else ()


def _pixel_size(tif: tifffile.TiffFile) -> float | None:
    """Micrometres a pixel along x, from OME, ImageJ or MetaMorph metadata."""
    pixels = _ome_pixels(tif)
    if "PhysicalSizeX" in pixels:
        return _micrometres(pixels["PhysicalSizeX"], pixels.get("PhysicalSizeXUnit", "µm"))
    if tif.is_imagej and tif.imagej_metadata and "unit" in tif.imagej_metadata:
        tag = tif.pages.first.tags.get("XResolution")
        if tag is not None and tag.value[0]:
            return _micrometres(tag.value[1] / tag.value[0], tif.imagej_metadata["unit"])
    description = tif.pages.first.description
    found = re.search(r'id="spatial-calibration-x"[^>]*value="([0-9.eE+-]+)"', description)
    units = re.search(r'id="spatial-calibration-units"[^>]*value="(\w+)"', description)
    if found and units:
        return _micrometres(found[1], units[1])
    return None


def _micrometres(value: Any, unit: str) -> float | None:
    factor = MICROMETRES.get(str(unit).strip())
    size = float(value) * factor if factor else math.nan
    return size if math.isfinite(size) and size > 0 else None

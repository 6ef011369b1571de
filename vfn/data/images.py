"""One image file in: TIFF (any compression of imagecodecs), OME-TIFF, ImageJ TIFF, PNG."""

import math
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
DTYPES = ("uint8", "uint16", "float32")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOUR_TYPES = {2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
# What one of these units is in micrometres (OME names, and those that ImageJ and MetaMorph write).
MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0,
    "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
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
    paths = sorted(path for path in folder.rglob("*") if is_image(path))
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
    try:
        stat = path.stat()
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror}); check path and rights") from exc
    # Keyed by time and size, so a changed file is read anew.
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)  # the channels of one file are asked for one after the other
def _read(path: Path, _mtime: int, _size: int) -> Image:
    try:
        with path.open("rb") as file:  # names lie: BBBC006's re-exported planes are TIFFs named .png
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
    return Image(imagecodecs.png_decode(data)[np.newaxis])


def _read_tiff(path: Path) -> Image:
    with tifffile.TiffFile(path) as tif:
        if not tif.pages:
            raise UserError(f"{path}: is a TIFF without images; export it anew")
        page = tif.pages.first
        if page.photometric == tifffile.PHOTOMETRIC.RGB or not _is_grey_ramp(page.colormap):
            raise UserError(
                f"{path}: is {tifffile.PHOTOMETRIC(page.photometric).name} colour, grey is expected; "
                "export each channel as a single-channel grey image"
            )
        _check_whole(path, tif)
        series = tif.series[0]
        if len(series.shape) > 3 or "X" not in series.axes or "Y" not in series.axes:
            raise UserError(
                f"{path}: has axes {series.axes} {series.shape}; one plane, or one axis of channels "
                "beside Y and X, is read: split time points and z planes into files"
            )
        array = series.asarray()
        if "Y" in series.axes[:1] and array.ndim == 3:  # samples behind the pixels: Y, X, S
            array = np.moveaxis(array, -1, 0)
        array = array.reshape(-1, *array.shape[-2:])
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        names = _channel_names(tif)
        return Image(array, names if len(names) == len(array) else None, _pixel_size(tif))


def _is_grey_ramp(colormap: np.ndarray | None) -> bool:
    """MetaMorph and others store 8-bit intensities as palette indices with a display table: where
    no colour of the table ever falls, a higher index is a higher intensity, and indices are data."""
    return colormap is None or bool((np.diff(colormap.astype(np.int64), axis=-1) >= 0).all())


def _check_whole(path: Path, tif: tifffile.TiffFile) -> None:
    """Decoders fill what is missing at the end of a truncated file with zeros: refuse it first."""
    size = tif.filehandle.size
    for page in tif.pages:
        page = page.aspage()
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if ends and max(ends) > size:
            raise UserError(
                f"{path}: is truncated ({size} bytes, its pixels end at byte {max(ends)}); "
                "copy it anew from the microscope or leave it out"
            )


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

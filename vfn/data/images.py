"""One image file in: TIFF (any compression of imagecodecs), OME-TIFF, ImageJ TIFF, PNG."""

import math
import mmap
import os
import shutil
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from vfn.data.tiff_metadata import Ome, channel_names, pixel_size, whole_names
from vfn.errors import UserError

# Of TIFFs: as a rule, of BigTIFFs, of MetaMorph's and of Zeiss LSM.
SUFFIXES = (
    *(f"{ome}{suffix}" for ome in (".ome", "") for suffix in (".tiff", ".tif", ".btf", ".tf8")),
    ".stk", ".lsm", ".png",
)  # fmt: skip
READER_VERSION = 2  # raised whenever `read_image` gives other pixels for the same bytes
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32")
EXACT = 2**24  # whole numbers up to here float32, which networks compute with, holds exactly
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
TIFF_FORMATS = {
    b"II*\0": tifffile.TIFF.CLASSIC_LE, b"MM\0*": tifffile.TIFF.CLASSIC_BE,
    b"II+\0": tifffile.TIFF.BIG_LE, b"MM\0+": tifffile.TIFF.BIG_BE,
}  # fmt: skip
TIFF_SIGNATURES = tuple(TIFF_FORMATS)
PNG_PALETTE = 3
# Samples of a pixel by colour type; a palette gives RGBA at most.
PNG_SAMPLES = {0: 1, 2: 3, PNG_PALETTE: 4, 4: 2, 6: 4}
COLOURS = ("red", "green", "blue")
# "White is zero", "black is zero", palette indices; stored values are taken as they are in all
# three. In microscopy "white is zero" comes from an inverted display table in ImageJ, which writes
# the measured values under it, and measures on them: the mark says how to show them, not what they
# are. (Bio-Formats turns such values over.)
GREY_PHOTOMETRICS = (0, 1, 3)
COLOUR_PHOTOMETRICS = (2, 6)  # RGB; YCbCr, which JPEG decodes to RGB
# Colours of a palette (of 65536) further apart are a jump. Tables for display have none, or one for
# each of the steps that they show (16 of 255); in palettes of pictures most neighbours are one.
JUMP, JUMPS = 2**13, 0.2
# A header that promises more pixels than its file can hold is damaged. Deflate shrinks 1032-fold at
# most and LZW about as far, zstd and its like farther, but only a blank image; so any file may give
# 256 MB (a field of 11 500 x 11 500 pixels of 16 bit), and a larger one 4096 bytes for each of its own.
MAX_BLANK, MAX_EXPANSION = 2**28, 2**12
MAPPED = 2**27  # bytes of decoded pixels from which on they lie in a file
UNCOMPRESSED, JPEG = 1, 7  # of the TIFF tag Compression
DESCRIPTION, SUB_IFDS = 270, 330  # TIFF tags
# TIFF tags by which pages are of one kind: size, encoding, meaning of a pixel.
KIND_TAGS = {256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 338, 339, 32997, 32998}
MAX_KINDS = 64  # of pages in a file; a pyramid and its thumbnails are fewer
MAX_TAGS = 4096  # of a page; tifffile refuses more
# Several fields in one file or folder; `vfn.data.formats` opens them.
CONTAINERS = (".ome.zarr", ".zarr", ".nd2", ".czi", ".lif")


@dataclass(frozen=True)
class Image:
    """One file: `array` (C, H, W) in its own dtype; channel names and pixel size (um) if stated.

    Attributes:
        colour: the channels are the red, green and blue of a colour image.
        acquisition: name of the first file of the image that this one holds channels of, where the
            metadata spread its channels over several files.
    """

    array: np.ndarray
    channels: tuple[str, ...] | None = None
    pixel_size: float | None = None
    colour: bool = False
    acquisition: str | None = None


def release(array: np.ndarray) -> None:
    """Let the pixels of a large image leave the memory until they are asked for again; nothing
    where they lie in memory alone."""
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    pages = getattr(base, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def strip_suffix(path: Path | str) -> str:
    """File name without `.ome.tif`, `.tif`, `.png`, `.zarr` and their kin."""
    name = Path(path).name
    for suffix in SUFFIXES + CONTAINERS:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_image(path: Path) -> bool:
    """True for names that `read_image` reads; hidden and temporary names are left out."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def is_container(path: Path) -> bool:
    """True for names that `vfn.data.formats` opens."""
    return path.name.lower().endswith(CONTAINERS) and not path.name.startswith(".")


def read_image(path: Path, colour: bool = False) -> Image:
    """Read one grey image of one or more channels. A colour image whose colours are all alike is grey.

    What lacks a part is refused, never filled up. Damage within the pixels shows where the
    compression has a checksum (Deflate, PNG) or the strip no longer decodes to its length (LZW,
    mostly); it cannot show where bytes of uncompressed or JPEG 2000 pixels were changed.

    Args:
        path: TIFF (8, 16, 32 bit or float; one leading axis at most is taken as channels) or PNG; the
            content counts, not the suffix.
        colour: take a colour image too, as the channels `COLOURS`.

    Returns:
        The pixels (C, H, W) as one of `DTYPES` in native byte order, as they are stored,
        whichever of black and white is zero.

    Raises:
        UserError: missing, truncated, damaged, not an image, colour, empty, another dtype, NaN or
            infinite pixels, or more than one axis beside height and width.
    """
    status = file_status(path)
    # Keyed by time and size, so a changed file is read anew.
    image = _read(path, status.st_mtime_ns, status.st_size)
    if image.colour and not colour:
        raise UserError(
            f"{path}: is an RGB colour image, grey is expected; export one grey channel, or train on its "
            "colours by task.inputs=[r,g,b] 'data.channels={r: 0, g: 1, b: 2}'"
        )
    return image


def file_status(path: Path) -> os.stat_result:
    """Size and times of a regular file.

    Raises:
        UserError: there is none, but perhaps a folder or a pipe.
    """
    with reading(path):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: is a folder named like an image; give an image, or rename it")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise UserError(f"{path}: is a pipe or a device, no file; give an image, or rename it")
    return status


@contextmanager
def reading(path: Path, what: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with bytes from outside into one line that names `path`.

    Args:
        what: it is read for, in words.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as exc:  # decoders and readers raise whatever they like on damaged bytes
        if isinstance(exc, OSError) and exc.strerror:
            raise UserError(
                f"{path}: cannot be read ({exc.strerror}); check path and rights"
            ) from exc
        raise damaged(path, f"cannot be read{what} ({type(exc).__name__}: {exc})") from exc


def damaged(path: Path, what: str) -> UserError:
    """Return the error for a file of which something is missing or wrong."""
    return UserError(f"{path}: {what}; copy it anew from the microscope or leave it out")


def content_key(path: Path) -> str:
    """Return a text that changes where the pixels in the file may have changed.

    Raises:
        UserError: no such file.
    """
    status = file_status(path)
    return f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}|reader {READER_VERSION}"


@lru_cache(maxsize=4)  # the channels of one file are asked for one after the other
def _read(path: Path, _mtime: int, _size: int) -> Image:
    read = _reader(path)
    with reading(path, " as an image"):
        image = read(path)
    return replace(image, array=as_pixels(path, image.array))


def _reader(path: Path) -> Callable[[Path], Image]:
    """By the first bytes: names lie (BBBC006's re-exported planes are TIFFs named .png)."""
    head = _head(path, 8)
    if not head:
        raise UserError(f"{path}: is empty (0 bytes); copy it anew from the microscope")
    if head == PNG_SIGNATURE:
        return _read_png
    if head.startswith(TIFF_SIGNATURES):
        return _read_tiff
    if head.startswith(JPEG_SIGNATURE):
        raise UserError(
            f"{path}: is a JPEG, which alters grey values; export it anew as TIFF or PNG"
        )
    raise UserError(
        f"{path}: cannot be read as an image (it begins with {head!r}, which is neither TIFF nor "
        "PNG); export it anew as TIFF or PNG, or leave it out"
    )


def _head(path: Path, size: int) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(size)


def as_pixels(what: Path | str, array: np.ndarray) -> np.ndarray:
    """Decoded pixels in native byte order, float32 if they are any float.

    Raises:
        UserError: none, of another dtype, NaN or infinite; it names `what` they are.
    """
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32: infinite, and refused as such
            array = array.astype(np.float32)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.size == 0:
        raise UserError(f"{what}: has no pixels (shape {array.shape}); leave it out")
    if array.dtype.name not in DTYPES:
        raise UserError(
            f"{what}: pixels are {array.dtype.name}; convert them to one of {', '.join(DTYPES)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise UserError(f"{what}: {bad} pixels are NaN or infinite; replace them or leave it out")
    return array


def may_name_channels(path: Path) -> bool:
    """False for what certainly has no channels by name, without decoding it: a PNG that is not in
    colour, whether or not it is whole."""
    if path.suffix.lower() != ".png":
        return True
    if not path.is_file():
        return False
    head = _head(path, 26)
    colour = head.startswith(PNG_SIGNATURE) and head[25:] in (b"\2", b"\3", b"\6")
    return colour or head.startswith(TIFF_SIGNATURES)


def _without_colour(path: Path, image: Image) -> Image:
    """Return an image of colours: grey where they are all alike, without transparency where all is opaque."""
    array = image.array
    if len(array) not in (2, 3, 4) or array.dtype.kind != "u":
        raise UserError(
            f"{path}: has {len(array)} colours of {array.dtype}; export each as a grey image"
        )
    if len(array) != len(COLOURS):
        if array[-1].min() != np.iinfo(array.dtype).max:
            raise UserError(f"{path}: has transparency, none is expected; save it without")
        array = array[:-1]
    if all(np.array_equal(array[0], other) for other in array[1:]):
        return replace(image, array=array[:1], channels=None)
    return replace(image, array=array, colour=True, channels=COLOURS)


def _read_png(path: Path) -> Image:
    data = path.read_bytes()
    _check_chunks(path, data)
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if colour not in PNG_SAMPLES:
        raise UserError(f"{path}: is a PNG of unknown colour type {colour}; export it anew")
    if depth not in (8, 16) and colour != PNG_PALETTE:
        raise UserError(f"{path}: is a {depth}-bit PNG; save it with 8 or 16 bit")
    if interlaced:  # libpng reads it, but complains on standard output
        raise UserError(f"{path}: is an interlaced PNG; save it without interlacing")
    if not width or not height:
        raise UserError(f"{path}: has no pixels ({width}x{height}); leave it out")
    promised = width * height * max(8, depth) // 8 * PNG_SAMPLES[colour]
    check_promise(path, promised, len(data))
    _check_room(path, promised, _memory(), "this machine has")
    array = imagecodecs.png_decode(data)
    if array.ndim == 2:
        return Image(array[np.newaxis])
    return _without_colour(path, Image(np.ascontiguousarray(np.moveaxis(array, -1, 0))))


def _check_chunks(path: Path, data: bytes) -> None:
    """A PNG is a row of chunks (length, kind, content, checksum) that ends with IEND.

    libpng checks them too; but imagecodecs loses a reference at each image that it refuses.
    """
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        try:
            length, kind = struct.unpack_from(">I4s", data, at)
            (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        except struct.error as exc:
            what = f"is truncated ({len(data)} bytes, its chunk at byte {at} ends later)"
            raise damaged(path, what) from exc
        if zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]) != checksum:
            raise damaged(path, f"is damaged (wrong checksum of its chunk at byte {at})")
        at += 12 + length


def _read_tiff(path: Path) -> Image:
    with open_tiff(path) as (tif, series):
        for number, each in enumerate(tif.pages, start=1):
            # Of an LSM tifffile has mended the lengths of strips, which a page read anew has not.
            check_page(path, number, each if tif.is_lsm else each.aspage())
        array, ome = _pixels(path, tif, series), Ome(tif)
        names = whole_names(channel_names(tif, ome), len(array)) or None
        image = Image(array, names, pixel_size(tif, ome), acquisition=ome.acquisition())
        return _without_colour(path, image) if _is_colour(tif) else image


def _is_colour(tif: tifffile.TiffFile) -> bool:
    """Return True if a pixel's samples are colours; the channels of an LSM are marked so, and are none."""
    return not tif.is_lsm and int(tif.pages.first.photometric) in COLOUR_PHOTOMETRICS


# Both follow the metadata into other files of the folder, whatever these are. OME and ImageJ metadata,
# which Micro-Manager writes too, describe the one file.
ALONE: dict[str, Any] = {"is_mmstack": False, "is_ndtiff": False}


@contextmanager
def open_tiff(path: Path) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPageSeries]]:
    """A grey or RGB TIFF whose chain of pages is whole, and the one image in it. No other file is
    opened, whatever the metadata name.

    Raises:
        UserError: damaged, colour of another kind, or several images.
    """
    with ExitStack() as files:
        tif = files.enter_context(tifffile.TiffFile(path, **ALONE))
        _check_chain(path, tif)
        page = tif.pages.first
        kind = int(page.photometric)
        # ImageJ writes 8 bit values under the table that shows them (Fire, 16 colors), and measures
        # the values; so do others, under tables of their own.
        shown = page.colormap is None or tif.is_imagej or _is_display_table(page.colormap)
        decoded = int(page.compression) == JPEG  # then YCbCr has become RGB
        if kind not in GREY_PHOTOMETRICS + COLOUR_PHOTOMETRICS[: 1 + decoded] or not shown:
            raise UserError(
                f"{path}: is {getattr(page.photometric, 'name', kind)} colour, grey is expected; "
                "export each channel as a single-channel grey image"
            )
        described = tif
        # They may describe a whole acquisition, of which this file holds one part (the planes of its
        # siblings are no channels of this file), or state a wrong number of planes.
        if tif.is_ome and not (Ome(tif).is_of_this_file and None not in tif.series[0].pages):
            described = files.enter_context(tifffile.TiffFile(path, is_ome=False, **ALONE))
        first, *others = described.series
        pixels = first.keyframe.imagelength * first.keyframe.imagewidth
        # What is smaller is a mere thumbnail.
        if any(s.keyframe.imagelength * s.keyframe.imagewidth >= pixels for s in others):
            raise UserError(
                f"{path}: holds {len(described.series)} images; save each one as a file of its own, "
                "or channels as one stack"
            )
        yield tif, first


def _pixels(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> np.ndarray:
    """(C, H, W) of the one image in the file."""
    if len(series.shape) > 3 or {*"XYTZ"} & {*series.axes} != {*"XY"}:
        raise UserError(
            f"{path}: has axes {series.axes} {series.shape}; one plane, or one axis of channels "
            "beside Y and X, is read, and what a file calls time (T) or z is no channel: split time points "
            "and z planes into files"
        )
    # ImageJ writes large stacks behind a single page; of one cut short, that page may be whole.
    stated = (tif.imagej_metadata or {}).get("images", 1)
    if stated > 1 and series.size == series.keyframe.imagelength * series.keyframe.imagewidth:
        raise UserError(
            f"{path}: is truncated (ImageJ's metadata state {stated} images, one is there); "
            "copy it anew, or save the one as a file of its own"
        )
    check_promise(path, series.nbytes, tif.filehandle.size)
    # A large image is decoded into a file that has no name: its pixels may leave the memory.
    if series.nbytes > MAPPED:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        _check_room(path, series.nbytes, free, f"{folder} (TMPDIR names another folder) has")
    array = series.asarray(out="memmap" if series.nbytes > MAPPED else None)
    release(array)
    if series.axes.startswith("Y") and array.ndim == 3:  # samples behind the pixels: Y, X, S
        array = np.moveaxis(array, -1, 0)
    return array.reshape(-1, *array.shape[-2:])


def _is_display_table(colormap: np.ndarray) -> bool:
    """Return True if a palette shows measured values in colours: neighbours among its colours are alike. A
    picture that was reduced to a few colours has them in any order.

    Args:
        colormap: (3, 2**bits).
    """
    table = colormap.astype(np.int64)
    changes = np.abs(np.diff(table, axis=-1)).max(0)
    used = np.trim_zeros(changes, "b")  # what is behind the last colour is filled up
    return float(np.mean(used > JUMP)) < JUMPS if len(used) else True


def _check_chain(path: Path, tif: tifffile.TiffFile) -> None:
    """Each page names the place of the next one. tifffile takes a broken chain for its end, and may
    follow a closed one for ever: refuse both first. It also compares every kind of page with every
    other, and each image that it described itself: bound both."""
    file, form = tif.filehandle, tif.tiff
    pages: dict[int, int] = {}  # offset -> number
    kinds: set[bytes] = set()
    described = 0
    try:
        offset = first_page(file, form)
        while offset:
            if offset in pages:
                raise damaged(
                    path,
                    f"is damaged (its page {len(pages)} is followed by page {pages[offset]})",
                )
            tags, following = read_page(file, form, offset)
            pages[offset], offset = len(pages) + 1, following
            kinds.add(b"".join(tags[code] for code in sorted(KIND_TAGS & tags.keys())))
            described += DESCRIPTION in tags
            parts = (
                struct.unpack_from(form.offsetformat, tags[SUB_IFDS], 4)[0]
                if SUB_IFDS in tags
                else 0
            )
            if max(len(kinds), parts, described * tif.is_shaped) > MAX_KINDS:
                raise UserError(
                    f"{path}: holds more than {MAX_KINDS} images of several kinds; save each one as a "
                    "file of its own, or channels as one stack"
                )
    except struct.error as exc:  # the end of the file
        what = f"is truncated ({file.size} bytes, of its pages only {len(pages)} can be read)"
        raise damaged(path, what) from exc
    if not pages:
        raise UserError(f"{path}: is a TIFF without images; export it anew")


def first_page(file: Any, form: Any) -> int:
    """Return the offset of a TIFF's first page, with which the header ends."""
    file.seek(form.offsetsize)
    return int(struct.unpack(form.offsetformat, file.read(form.offsetsize))[0])


def read_page(file: Any, form: Any, offset: int) -> tuple[dict[int, bytes], int]:
    """Read the page of a TIFF at `offset`.

    Args:
        form: one of `TIFF_FORMATS`.

    Returns:
        Its entries by the code of their tag, as they are stored, and the offset of the next page, 0 for none.

    Raises:
        struct.error: the file ends before.
    """
    file.seek(offset)
    (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    data = file.read(min(count, MAX_TAGS) * form.tagsize)
    file.seek(offset + form.tagnosize + count * form.tagsize)
    (following,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    entries = [data[at : at + form.tagsize] for at in range(0, len(data), form.tagsize)]
    return {
        struct.unpack_from(form.byteorder + "H", entry)[0]: entry for entry in entries
    }, following


def check_page(path: Path, number: int, frame: tifffile.TiffPage | tifffile.TiffFrame) -> None:
    """Decoders fill what is missing with zeros, or with grey: refuse such a file first."""
    page = frame if isinstance(frame, tifffile.TiffPage) else frame.keyframe
    assert page is not None
    size = frame.parent.filehandle.size
    if page.dtype is None:
        raise UserError(
            f"{path}: pixels of {page.bitspersample} bits and sample format {page.sampleformat} are "
            f"not known; convert them to one of {', '.join(DTYPES)}"
        )
    if 0 in page.shape:
        raise UserError(f"{path}: has no pixels (page {number} is {page.shape}); leave it out")
    if page.compression != UNCOMPRESSED and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise UserError(
            f"{path}: is compressed by method {int(page.compression)}, which is not known; "
            "save it with LZW or without compression"
        )
    _check_pieces(path, number, frame, page)
    check_promise(path, math.prod(page.chunks) * page.dtype.itemsize, size)


def _check_pieces(
    path: Path, number: int, frame: tifffile.TiffPage | tifffile.TiffFrame, page: tifffile.TiffPage
) -> None:
    """Refuse strips or tiles of which a part is missing."""
    file = frame.parent.filehandle
    pieces = list(zip(frame.dataoffsets, frame.databytecounts, strict=False))
    there = sum(offset > 0 and count > 0 for offset, count in pieces)
    if there < math.prod(page.chunked):
        raise damaged(
            path,
            f"is damaged (of the {math.prod(page.chunked)} strips or tiles of page {number} {there} are there)",
        )
    end = max(offset + count for offset, count in pieces)
    if end > file.size:
        raise damaged(path, f"is truncated ({file.size} bytes, its pixels end at byte {end})")
    stored, needed = sum(frame.databytecounts), page.size * page.bitspersample // 8
    if page.compression == UNCOMPRESSED and stored < needed:
        raise damaged(
            path,
            f"is damaged (page {number} has {stored} bytes of pixels, {page.shape} of "
            f"{page.bitspersample} bits need {needed})",
        )
    if page.compression == JPEG:
        for offset, count in pieces:
            file.seek(max(offset, offset + count - 16))
            if JPEG_END not in file.read(min(count, 16)):  # padding may follow it
                raise damaged(path, f"is damaged (a JPEG strip of page {number} lacks its end)")


def check_promise(path: Path, promised: int, size: int) -> None:
    """Refuse a header that no file of that size can keep.

    Args:
        promised: bytes of pixels.
        size: of the file, bytes.

    Raises:
        UserError: it does.
    """
    if promised > max(MAX_BLANK, MAX_EXPANSION * size):
        raise damaged(
            path,
            f"is damaged (its header promises {promised:,} bytes of pixels from a file of {size:,})",
        )


def _check_room(path: Path, needed: int, room: float, where: str) -> None:
    if needed > room:
        raise UserError(
            f"{path}: needs {needed / 2**30:.1f} GiB for its pixels, {where} {room / 2**30:.1f} GiB; if it is "
            "what the microscope wrote, cut it into smaller fields"
        )


def _memory() -> float:
    """Bytes of this machine; infinite where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf

"""TIFFs whose metadata name a time or a z axis: one plane is read at a time."""

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import tifffile

from vfn.data import images, tiff_metadata
from vfn.errors import UserError

UIC2 = 33629  # TIFF tag of MetaMorph, of a stack behind one page
# How a description begins that tells of planes behind one page (tifffile's, ImageJ's).
SEVERAL = re.compile(rb'\{"shape": \[(\d+, ){2,}\d+\]|ImageJ=[^\n]*\nimages=')


@dataclass(frozen=True)
class TiffStack:
    """Planes of a TIFF, as it describes them.

    Attributes:
        sizes: how many time points (T), channels (C) and z planes (Z) there are.
        order: these letters as the planes lie in the file, the slowest first.
        channels: their names; empty where the file does not name each.
        pixel_size, z_step: um; None where the file does not say.
        time_step: s; None where the file does not say.
        pages: place of each plane's page in the file; empty where the planes lie in a row behind one.
        offset: of the first of planes in a row.
        shape, dtype: of a plane.
    """

    sizes: Mapping[str, int]
    order: str
    channels: tuple[str, ...]
    pixel_size: float | None
    z_step: float | None
    time_step: float | None
    pages: tuple[int, ...]
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def number(self, time: int, channel: int, z: int) -> int:
        """Return the number of a plane in the file, from 0."""
        at = {"T": time, "C": channel, "Z": z}
        return int(
            np.ravel_multi_index([at[a] for a in self.order], [self.sizes[a] for a in self.order])
        )


def is_stack(path: Path) -> bool:
    """Return True if the file is a TIFF that names a time or z axis of two planes or more.

    Of most files the first page alone is looked at. What is damaged is none: reading it as an image
    says what is wrong.
    """
    try:
        images.file_status(path)
        with path.open("rb") as file:
            if not _may_be_stack(file):
                return False
        found = tiff_stack(path).sizes
    except (OSError, UserError):
        return False
    return found["T"] * found["Z"] > 1


def _may_be_stack(file: IO[bytes]) -> bool:
    """Return True if a second page follows the first, or the first speaks of planes behind it."""
    form = images.TIFF_FORMATS.get(file.read(4))
    if form is None:
        return False
    try:
        tags, following = images.read_page(file, form, images.first_page(file, form))
        if following or UIC2 in tags:
            return True
        if images.DESCRIPTION not in tags:
            return False
        place = tags[images.DESCRIPTION][-form.offsetsize :]
        file.seek(struct.unpack(form.offsetformat, place)[0])
    except (struct.error, ValueError, OverflowError):  # ends before that
        return False
    return bool(SEVERAL.match(file.read(256)))


def tiff_stack(path: Path) -> TiffStack:
    """Return what the TIFF at `path` says of its planes; no pixel is read.

    Raises:
        UserError: no TIFF, damaged, colour, several images, or axes that are not read.
    """
    status = images.file_status(path)
    return _described(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _described(path: Path, _mtime: int, _size: int) -> TiffStack:
    with images.reading(path), images.open_tiff(path) as (tif, series):
        axes, shape = str(series.axes), tuple(int(n) for n in series.shape)
        others = [axis for axis in axes[:-2] if axis not in "TZ"]
        if axes[-2:] != "YX" or len(others) > 1:
            raise UserError(
                f"{path}: has axes {axes} {shape}; planes (Y, X) by time (T), z (Z) and one axis of "
                "channels are read: save it so"
            )
        order = "".join(axis if axis in "TZ" else "C" for axis in axes[:-2])
        sizes = {"T": 1, "C": 1, "Z": 1, **dict(zip(order, shape, strict=False))}
        ome = tiff_metadata.Ome(tif)
        names = tiff_metadata.channel_names(tif, ome)
        pages, offset = _places(path, tif, series)
        if pages and (part := ome.part()):
            sizes, numbers, names = part
            order, pages = "TCZ", tuple(pages[number] for number in numbers)
        return TiffStack(
            sizes, order, tiff_metadata.whole_names(names, sizes["C"]),
            tiff_metadata.pixel_size(tif, ome), tiff_metadata.z_step(tif, ome),
            tiff_metadata.time_step(tif, ome), pages, offset, shape[-2:],
            np.dtype(series.dtype).newbyteorder(tif.byteorder),
        )  # fmt: skip


def _places(
    path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> tuple[tuple[int, ...], int]:
    """Return the place of each plane's page, or none and that of the first of planes in a row.

    Raises:
        UserError: some are not there.
    """
    planes = prod(series.shape[:-2])
    pages = tuple(int(page.offset) for page in series.pages if page is not None)
    offset = series.dataoffset
    if len(pages) == planes:
        return pages, int(offset or 0)
    if offset is None or offset + series.nbytes > tif.filehandle.size:
        raise images.damaged(
            path,
            f"is truncated (its metadata state {planes} planes, they are not all there)",
        )
    return (), int(offset)


@dataclass(frozen=True)
class ContainerPlane(ABC):
    """One channel at one z and time of a container or stack.

    Attributes:
        path: of the container.
        channel, z, time: positions, from 0.
        pixel_size: micrometres a pixel, if the container states it.
    """

    path: Path
    channel: int
    z: int
    pixel_size: float | None
    time: int = 0

    @abstractmethod
    def read(self) -> np.ndarray:
        """Return the pixels (H, W); nothing but this plane is decoded.

        Raises:
            UserError: damaged, or a dtype that is not read.
        """

    @property
    def key(self) -> str:
        """Path, size and time of change of the file, version of the reader, position in the file.

        Raises:
            UserError: the file is not there.
        """
        return f"{images.content_key(self.path)}|{self.channel},{self.z},{self.time}"

    def __str__(self) -> str:
        z = f", z plane {self.z}" if self.z else ""
        time = f", time point {self.time + 1}" if self.time else ""
        return f"{self.path} (channel {self.channel}{z}{time})"


@dataclass(frozen=True)
class TiffPlane(ContainerPlane):
    """One channel at one z and time of a TIFF."""

    def read(self) -> np.ndarray:
        """Return the pixels (H, W)."""
        status = images.file_status(self.path)
        number = tiff_stack(self.path).number(self.time, self.channel, self.z)
        return _plane(self.path, number, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)  # the size of a field is asked for before its pixels
def _plane(path: Path, number: int, _mtime: int, _size: int) -> np.ndarray:
    stack = tiff_stack(path)
    with images.reading(path), tifffile.TiffFile(path, **images.ALONE) as tif:
        if stack.pages:
            if tif.is_lsm:  # tifffile mends what its pages say
                page = next(p for p in tif.series[0].pages if p and p.offset == stack.pages[number])
            else:
                tif.filehandle.seek(stack.pages[number])
                page = tifffile.TiffPage(tif, index=number)
            images.check_page(path, number + 1, page)
            array = page.asarray(out="memmap" if page.nbytes > images.MAPPED else None)
        else:
            size = prod(stack.shape) * stack.dtype.itemsize
            images.check_promise(path, size, tif.filehandle.size)
            tif.filehandle.seek(stack.offset + number * size)
            array = np.frombuffer(tif.filehandle.read(size), stack.dtype).reshape(stack.shape)
        return images.as_pixels(path, array)

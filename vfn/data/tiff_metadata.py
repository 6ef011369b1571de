"""Metadata of a TIFF: names of its planes, pixel size, steps, and the acquisition they belong to."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import tifffile

# What one of these units is in micrometres (OME names, and those that ImageJ and MetaMorph write;
# ImageJ escapes what is not ASCII).
MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00B5m": 1.0, "\\u00b5m": 1.0,
    "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,  # NGFF
}  # fmt: skip
# What one of these units is in seconds (OME and NGFF names, and those that ImageJ writes).
SECONDS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "millisecond": 1e-3, "µs": 1e-6,
    "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0, "hr": 3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
UNITS = {2: 25_400.0, 3: 10_000.0}  # um of the TIFF tag ResolutionUnit: inch, centimetre
# From this size on a resolution is one of print or screen, which programs state by default: 72 dpi is
# 353 um, 600 dpi 42 um. No microscope's pixel is that large.
PRINTED = 20.0


class Position(NamedTuple):
    """Place of a page within an image that OME metadata describe."""

    image: int
    c: int
    z: int
    t: int


class Ome:
    """The OME metadata of a file. They may describe a whole acquisition, of which it holds a part.

    Attributes:
        images: the Pixels elements, one for each image.
        names_others: whether they place planes in other files.
    """

    def __init__(self, tif: tifffile.TiffFile) -> None:
        root = ElementTree.fromstring(tif.ome_metadata or "<OME/>") if tif.is_ome else None
        self.images = [] if root is None else root.findall("{*}Image/{*}Pixels")
        self._uuid = None if root is None else root.get("UUID")
        self._file, self._pages = tif.filename, len(tif.pages)
        elements = [
            data.find("{*}UUID") for each in self.images for data in each.findall("{*}TiffData")
        ]
        self.names_others = any(e is not None and not self._is_here(e) for e in elements)
        self._samples = tif.pages.first.samplesperpixel

    def stated(self, name: str, unit: str) -> "Quantity":
        """Return an attribute of the first image with its unit, which is `unit` where none is given."""
        pixels = self.images[0].attrib if self.images else {}
        return pixels.get(name), pixels.get(f"{name}Unit", unit)

    def _is_here(self, uuid: Element) -> bool:
        if self._uuid is not None:
            return uuid.text == self._uuid
        return uuid.get("FileName", "").casefold() == self._file.casefold()

    @property
    def is_of_this_file(self) -> bool:
        """True if they describe exactly the planes in this file; some state a wrong number."""
        stated = sum(math.prod(_size(each, axis) for axis in "CZT") for each in self.images)
        counts = (
            int(d.get("PlaneCount", 0)) for e in self.images for d in e.findall("{*}TiffData")
        )
        whole = stated == self._pages * self._samples
        return whole and not self.names_others and max(counts, default=0) <= self._pages

    def positions(self) -> list[Position] | None:
        """Return the place of each page of this file; None where the metadata do not say it of every page."""
        found: dict[int, Position] = {}
        told = 0
        for number, pixels in enumerate(self.images):
            order = pixels.get("DimensionOrder", "XYCZT")[2:]
            sizes = [max(1, _size(pixels, axis)) for axis in order]  # some state none
            for data in pixels.findall("{*}TiffData"):
                uuid = data.find("{*}UUID")
                if uuid is not None and not self._is_here(uuid):
                    continue
                page = int(data.get("IFD", 0))
                alone = data.get("IFD") is not None
                count = int(data.get("PlaneCount", 1 if alone else self._pages))
                told += count
                if page < 0 or count < 1 or page + count > self._pages or told > self._pages:
                    return None
                at = [int(data.get(f"First{axis}", 0)) for axis in order]
                first = at[0] + sizes[0] * (at[1] + sizes[1] * at[2])
                for i in range(count):
                    plane, (fast, middle) = first + i, sizes[:2]
                    index = (plane % fast, plane // fast % middle, plane // fast // middle)
                    place = dict(zip(order, index, strict=True))
                    found[page + i] = Position(number, place["C"], place["Z"], place["T"])
        return [found[page] for page in range(self._pages)] if len(found) == self._pages else None

    def channel_names(self) -> list[str]:
        """Return the names of the planes in this file, if they are channels of one place and time."""
        if not self.images:
            return []
        names = _labels(self.images[0])
        if self.is_of_this_file:
            return names
        held = self.positions()
        if held is None:
            return [] if self.names_others else names
        if self._samples > 1 or len({(p.image, p.z, p.t) for p in held}) > 1:
            return []
        names = _labels(self.images[held[0].image])
        return [names[p.c] for p in held] if max(p.c for p in held) < len(names) else []

    def part(self) -> tuple[dict[str, int], list[int], list[str]] | None:
        """Return the part of an acquisition that this file holds, if it lies in several files: lengths of T, C and Z, its
        pages in this order, names of the channels; None where that is no part of one image, whole in
        itself, with several time points or z planes."""
        held = None if self.is_of_this_file else self.positions()
        if held is None or len({p.image for p in held}) > 1:
            return None
        times, channels, depths = (sorted({getattr(p, axis) for p in held}) for axis in "tcz")
        sizes = {"T": len(times), "C": len(channels), "Z": len(depths)}
        page = {(p.t, p.c, p.z): number for number, p in enumerate(held)}
        if len(times) * len(depths) == 1 or not len(page) == len(held) == math.prod(sizes.values()):
            return None
        named = _labels(self.images[held[0].image])
        names = [named[c] if c < len(named) else "" for c in channels]
        order = [page[t, c, z] for t in times for c in channels for z in depths]
        return sizes, order, names

    def acquisition(self) -> str | None:
        """Name of the first file of the image that this file holds channels of, if they lie in several
        files; None where it has been renamed, or has several planes or time points."""
        held = self.positions() if self.names_others else None
        if not held or len({p.image for p in held}) > 1:
            return None
        pixels = self.images[held[0].image]
        if _size(pixels, "Z") * _size(pixels, "T") > 1:
            return None
        files = {}
        for data in pixels.findall("{*}TiffData"):
            uuid = data.find("{*}UUID")
            if uuid is not None:
                files[int(data.get("FirstC", 0))] = re.split(r"[\\/]", uuid.get("FileName", ""))[-1]
        known = self._file.casefold() in (name.casefold() for name in files.values())
        return files[min(files)] if known else None


def _labels(pixels: Element) -> list[str]:
    return [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]


def _size(pixels: Element, axis: str) -> int:
    return int(pixels.get(f"Size{axis}", 1))


def channel_names(tif: tifffile.TiffFile, ome: Ome) -> list[str]:
    """Return the names that OME or ImageJ metadata state; see `whole_names`."""
    if not ome.images and tif.is_imagej and tif.imagej_metadata:
        return list(tif.imagej_metadata.get("Labels", []))
    return ome.channel_names()


def whole_names(names: Sequence[Any], count: int) -> tuple[str, ...]:
    """Return the names of `count` channels; none where one is missing, or there twice."""
    stripped = tuple(str(name).strip() for name in names)
    different = {name.casefold() for name in stripped if name}
    return stripped if len(different) == len(stripped) == count else ()


def pixel_size(tif: tifffile.TiffFile, ome: Ome) -> float | None:
    """Return micrometres a pixel along x: from OME, ImageJ, MetaMorph or LSM metadata, else from TIFF's own
    tags, unless these speak of print."""
    page, imagej = tif.pages.first, tif.imagej_metadata or {}
    tag, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    size = tag.value[1] / tag.value[0] if tag is not None and tag.value[0] else None
    metamorph = re.search(r'id="spatial-calibration-x"[^>]*value="([0-9.eE+-]+)"', page.description)
    units = re.search(r'id="spatial-calibration-units"[^>]*value="(\w+)"', page.description)
    stated = [
        ome.stated("PhysicalSizeX", "µm"),
        (size if "unit" in imagej else None, imagej.get("unit")),
        (metamorph[1], units[1]) if metamorph and units else (None, None),
        _lsm(tif, "VoxelSizeX", "m"),
    ]
    if any(value is not None for value, _ in stated):
        return _first(MICROMETRES, *stated)
    if tag is None or size is None or unit is None:
        return None
    size = UNITS.get(int(unit.value), math.nan) * tag.value[1] / tag.value[0]
    return size if 0 < size < PRINTED else None


def z_step(tif: tifffile.TiffFile, ome: Ome) -> float | None:
    """Return micrometres from one plane to the next, from OME, ImageJ or LSM metadata."""
    imagej = tif.imagej_metadata or {}
    spacing = (imagej.get("spacing"), imagej.get("unit"))
    return _first(
        MICROMETRES, ome.stated("PhysicalSizeZ", "µm"), spacing, _lsm(tif, "VoxelSizeZ", "m")
    )


def time_step(tif: tifffile.TiffFile, ome: Ome) -> float | None:
    """Return seconds from one time point to the next, from OME, ImageJ or LSM metadata."""
    imagej = tif.imagej_metadata or {}
    interval = (imagej.get("finterval"), imagej.get("tunit", "s"))
    return _first(
        SECONDS, ome.stated("TimeIncrement", "s"), interval, _lsm(tif, "TimeIntervall", "s")
    )


Quantity = tuple[Any, str | None]  # value, unit


def _lsm(tif: tifffile.TiffFile, key: str, unit: str) -> Quantity:
    return (tif.lsm_metadata or {}).get(key) if tif.is_lsm else None, unit


def _first(factors: Mapping[str, float], *stated: Quantity) -> float | None:
    """Return the first of the quantities that has a value."""
    value, unit = next((one for one in stated if one[0] is not None), (math.nan, None))
    return _quantity(value, unit, factors)


def seconds(value: Any, unit: str | None) -> float | None:
    """Return a time in seconds; None where the unit is unknown or the value is no time."""
    return _quantity(value, unit, SECONDS)


def micrometres(value: Any, unit: str) -> float | None:
    """Return a length in micrometres; None where the unit is unknown or the value is no length."""
    return _quantity(value, unit, MICROMETRES)


def _quantity(value: Any, unit: str | None, factors: Mapping[str, float]) -> float | None:
    size = float(value) * factors.get(str(unit).strip(), math.nan)
    return size if math.isfinite(size) and size > 0 else None

"""What a TIFF says of its planes: names, pixel size, and the acquisition that they belong to."""

import math
import re
from typing import Any

import tifffile

# What one of these units is in micrometres (OME names, and those that ImageJ and MetaMorph write;
# ImageJ escapes what is not ASCII).
MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00B5m": 1.0, "\\u00b5m": 1.0,
    "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,  # NGFF
}  # fmt: skip
UNITS = {
    2: 25_400.0,
    3: 10_000.0,
}  # of the TIFF tag ResolutionUnit, in micrometres: inch, centimetre
# From this size on a resolution is one of print or screen, which programs state by default: 72 dpi is
# 353 um, 600 dpi 42 um. No microscope's pixel is that large.
PRINTED = 20.0


def ome_pixels(tif: tifffile.TiffFile) -> list[dict[str, Any]]:
    """The Pixels elements of the OME images; none where there is no OME metadata."""
    if not tif.is_ome or tif.ome_metadata is None:
        return []
    images = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", [])
    images = images if isinstance(images, list) else [images]
    return [image["Pixels"] for image in images]


def channel_names(tif: tifffile.TiffFile) -> tuple[str, ...]:
    """Names from OME or ImageJ metadata; none where one is missing, or there twice."""
    pixels = ome_pixels(tif)
    channels = pixels[0].get("Channel", []) if pixels else []
    channels = channels if isinstance(channels, list) else [channels]
    names = [str(channel.get("Name", "")) for channel in channels]
    if not names and tif.is_imagej and tif.imagej_metadata:
        names = [str(label) for label in tif.imagej_metadata.get("Labels", [])]
    return tuple(names) if all(names) and len(set(names)) == len(names) else ()


def pixel_size(tif: tifffile.TiffFile) -> float | None:
    """Micrometres a pixel along x: from OME, ImageJ, MetaMorph or LSM metadata, else from TIFF's own
    tags."""
    pixels = ome_pixels(tif)
    if pixels and "PhysicalSizeX" in pixels[0]:
        return micrometres(pixels[0]["PhysicalSizeX"], pixels[0].get("PhysicalSizeXUnit", "µm"))
    if tif.is_imagej and tif.imagej_metadata and "unit" in tif.imagej_metadata:
        tag = tif.pages.first.tags.get("XResolution")
        if tag is not None and tag.value[0]:
            return micrometres(tag.value[1] / tag.value[0], tif.imagej_metadata["unit"])
    description = tif.pages.first.description
    found = re.search(r'id="spatial-calibration-x"[^>]*value="([0-9.eE+-]+)"', description)
    units = re.search(r'id="spatial-calibration-units"[^>]*value="(\w+)"', description)
    if found and units:
        return micrometres(found[1], units[1])
    if tif.is_lsm and tif.lsm_metadata:
        return micrometres(tif.lsm_metadata.get("VoxelSizeX", 0), "m")
    return _resolution(tif.pages.first)


def _resolution(page: tifffile.TiffPage) -> float | None:
    """Micrometres a pixel by the tags XResolution and ResolutionUnit; None where they speak of print."""
    tag, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    if tag is None or unit is None or not tag.value[0]:
        return None
    size = UNITS.get(int(unit.value), math.nan) * tag.value[1] / tag.value[0]
    return size if 0 < size < PRINTED else None


def micrometres(value: Any, unit: str) -> float | None:
    """A length in micrometres; None where the unit is unknown or the value is no length."""
    factor = MICROMETRES.get(str(unit).strip())
    size = float(value) * factor if factor else math.nan
    return size if math.isfinite(size) and size > 0 else None

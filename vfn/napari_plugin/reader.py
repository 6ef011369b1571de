"""Reader of OME-TIFFs with named channels, one layer per channel."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tifffile

from vfn.data.images import is_image, read_image, strip_suffix
from vfn.inference.ome import BY, SHIFT, VERDICT
from vfn.napari_plugin import layers

USABLE = re.compile(r": use(?: \(|\.)")  # in a verdict; "use with care" is another
LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """Return `read_layers`, or None to leave `path` to napari's other readers.

    Args:
        path: a file; lists (napari's "open as a stack") are left to others.
    """
    if not isinstance(path, str) or not is_image(Path(path)):
        return None
    try:
        with tifffile.TiffFile(path) as tif:
            ours = tif.is_ome and tif.series[0].axes in ("YX", "CYX")
    except (OSError, ValueError, tifffile.TiffFileError):
        return None
    return read_layers if ours else None


def read_layers(path: str) -> list[LayerData]:
    """Read one layer per channel: named, coloured, in micrometres; half-widths hidden.

    Notifications tell the verdict on the model, and that a field lies outside what it was trained on.

    Raises:
        UserError: damaged, or no image that vfn reads.
    """
    image = read_image(Path(path))
    name = strip_suffix(path)
    channels = image.channels or ((name,) if len(image.array) == 1 else ())
    channels = channels or tuple(f"{name} {i}" for i in range(len(image.array)))
    note = _note(path)
    metadata = {"metadata": {layers.KEY: {"file": path, "note": note}}} if BY in note else {}
    verdicts = [line for line in note.splitlines() if line.startswith(VERDICT)]
    shifts = [line for line in note.splitlines() if line.startswith(SHIFT)]
    if verdicts or shifts:
        from napari.utils.notifications import show_info, show_warning

        show = show_warning if shifts or not all(map(USABLE.search, verdicts)) else show_info
        show(f"{name}: {' '.join(verdicts + shifts)}")
    return [
        (pixels, {"name": channel, **look, **layers.scale(image.pixel_size), **metadata}, "image")
        for channel, pixels, look in zip(
            channels, image.array, layers.options(channels, image.array), strict=True
        )
    ]


def _note(path: str) -> str:
    """Return the note in the file's metadata; empty if it has none."""
    with tifffile.TiffFile(path) as tif:
        told = tifffile.xml2dict(tif.ome_metadata or "<OME/>").get("OME") or {}
    images = told.get("Image", {}) if isinstance(told, dict) else {}
    first = images[0] if isinstance(images, list) else images
    return str(first.get("Description", ""))

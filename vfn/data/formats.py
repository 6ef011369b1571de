"""Containers of fields: OME-Zarr images and plates, TIFF stacks, and what bioio reads (ND2, CZI, LIF).

The packages that open them are optional, imported where they are used. What an OME-Zarr says of
itself is JSON (https://ngff.openmicroscopy.org, 0.1 to 0.5) and is read as such: a plate of
thousands of fields is listed in seconds, and no pixel is touched before a plane is read.
"""

import importlib
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from vfn.data import images
from vfn.data.tiff_metadata import micrometres, seconds, whole_names
from vfn.data.tiff_stacks import ContainerPlane, TiffPlane, is_stack, tiff_stack
from vfn.data.walk import walk
from vfn.data.zarr_chunks import open_metadata, read_json
from vfn.errors import UserError

READERS = {".nd2": "bioio_nd2", ".czi": "bioio_czi", ".lif": "bioio_lif"}
MAX_PLANES = 2**17  # of all channels, depths and times
_one_at_a_time = threading.Lock()  # bioio's readers promise nothing about threads


def need(module: str, what: Path | str, packages: str) -> Any:
    """Import `module`, which `what` (a file, or a setting) cannot be read, written or done without.

    Raises:
        UserError: it is not there; names what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise UserError(
            f"{what}: needs a package that is not installed ({exc}): pip install {packages}"
        ) from exc


@dataclass(frozen=True)
class Stack:
    """One field inside a container, at one time.

    Attributes:
        channels: their names; empty where the container names none, or one twice.
        planes: by channel, then by z from the first plane to the last.
        z_step: micrometres from one plane to the next, if the container says.
        time_step: seconds from one time point to the next, if the container says.
    """

    channels: tuple[str, ...]
    planes: tuple[tuple[ContainerPlane, ...], ...]
    z_step: float | None
    time_step: float | None = None

    def __str__(self) -> str:
        """Describe the stack, without its other time points."""
        channels, planes = len(self.planes), len(self.planes[0])
        unnamed = "channels without names" if channels > 1 else "a channel without name"
        return (", ".join(self.channels) or unnamed) + f" in {planes} z planes" * (planes > 1)

    def depths(self, zero: float | None = None, step: float | None = None) -> tuple[float, ...]:
        """Return the micrometres of each z plane from the focal plane, which is at 0.

        Args:
            zero: number of the focal plane, from 0; None takes the middle one (of an even number,
                the later of the two), which is where microscopes centre a stack.
            step: micrometres a plane; None takes the container's, or 1 where it says nothing.
        """
        count = len(self.planes[0])
        if count == 1:
            return (0.0,)
        zero = count // 2 if zero is None else zero
        step = (self.z_step or 1.0) if step is None else step
        # Rounded, so that 3 * 0.3 is the 0.9 that task.input_z names.
        return tuple(round((z - zero) * step, 6) for z in range(count))

    @property
    def focal(self) -> tuple[ContainerPlane, ...]:
        """The focal plane of every channel."""
        z = self.depths().index(0.0)
        return tuple(planes[z] for planes in self.planes)


@dataclass(frozen=True)
class Scene:
    """A field of a container before it is looked at.

    Attributes:
        name: within the container: "A1_s0" for field 0 of well A/1, "s0" for the first of several
            images, empty for the only one.
        load: looks at it: a stack for each time point. Raises `UserError`: damaged, colour.
        well, site: where it lies on its plate, which is the container; empty if on none.
    """

    name: str
    load: Callable[[], list[Stack]]
    well: str = ""
    site: str = ""


def scenes(path: Path) -> list[Scene]:
    """Return the fields in a container, or in a TIFF stack.

    Raises:
        UserError: a package is missing; damaged, or no such container by its metadata.
    """
    if not images.is_container(path):
        found = [Scene("", partial(_tiff_stacks, path))]
    elif path.name.lower().endswith(".zarr"):
        need("zarr", path, "ome-zarr")
        with images.reading(path):
            found = _zarr_scenes(path)
    else:
        found = _bioio_scenes(path)
    if not found:
        raise UserError(f"{path}: holds no image; leave it out")
    return found


# --- TIFF ---


def _stacks(
    plane: Callable[..., ContainerPlane],
    sizes: Mapping[str, int],
    names: Sequence[Any],
    pixel_size: float | None,
    z_step: float | None,
    time_step: float | None,
) -> list[Stack]:
    """Return a stack for each time point.

    Args:
        plane: makes a plane from its channel, its z, the size of its pixels and its time.
        sizes: numbers of time points (t), channels (c) and z planes (z).
        names: of the channels, as far as the container gives them.
    """
    times, channels, depths = (range(sizes[axis]) for axis in "tcz")
    known = whole_names(names, len(channels))
    return [
        Stack(
            known, tuple(tuple(plane(c, z, pixel_size, t) for z in depths) for c in channels),
            z_step, time_step,
        )
        for t in times
    ]  # fmt: skip


def _tiff_stacks(path: Path) -> list[Stack]:
    told = tiff_stack(path)
    return _stacks(
        partial(TiffPlane, path), {axis.lower(): n for axis, n in told.sizes.items()},
        told.channels, told.pixel_size, told.z_step, told.time_step,
    )  # fmt: skip


def count_times(path: Path) -> int:
    """Return the number of time points in an image file."""
    return tiff_stack(path).sizes["T"] if is_stack(path) else 1


def read_at(path: Path, time: int | None) -> images.Image:
    """Read an image file at one of its time points, in focus where it is a stack.

    Args:
        time: from 0; None where the file must hold no other.

    Raises:
        UserError: see `read_image`; there is no such time point.
    """
    if not is_stack(path):
        return images.read_image(path)
    stacks = _tiff_stacks(path)
    if time is None and len(stacks) > 1:
        return images.read_image(path)  # says why not
    if time is not None and time >= len(stacks):
        raise UserError(f"{path}: has {len(stacks)} time point(s), number {time + 1} is asked for")
    stack = stacks[time or 0]
    pixels = np.stack([plane.read() for plane in stack.focal])
    return images.Image(pixels, stack.channels or None, stack.focal[0].pixel_size)


# --- OME-Zarr ---


def _attributes(group: Path) -> dict[str, Any]:
    """Return the NGFF metadata of a group: zarr v3 (NGFF 0.5) or v2 (0.4 and before)."""
    if not group.is_dir():
        raise UserError(
            f"{group}: is no folder, so no OME-Zarr; copy it anew or correct what names it"
        )
    for name in ("zarr.json", ".zattrs"):
        if os.path.lexists(group / name):
            data = read_json(group / name)
            attributes: dict[str, Any] = data.get("attributes", {}) if name == "zarr.json" else data
            return attributes.get("ome", attributes)
    raise UserError(
        f"{group}: has no zarr.json and no .zattrs, so no OME-Zarr metadata; copy it anew, whole"
    )


def _zarr_scenes(path: Path) -> list[Scene]:
    attributes = _attributes(path)
    if "plate" in attributes:
        wells = dict.fromkeys(str(well["path"]) for well in attributes["plate"]["wells"])
        return [scene for well in wells for scene in _well_scenes(_below(path, well), well)]
    if "multiscales" in attributes:
        return [Scene("", partial(_zarr_stacks, path))]
    if "bioformats2raw.layout" in attributes:  # bioformats2raw puts every file into such a layout
        listed = _attributes(path / "OME").get("series") if (path / "OME").is_dir() else None
        series = listed or sorted((p.name for p in path.iterdir() if p.name.isdigit()), key=int)
        several = len(series) > 1
        return [
            Scene(f"s{s}" * several, partial(_zarr_stacks, _below(path, str(s))), site=str(s))
            for s in series
        ]
    raise UserError(
        f"{path}: its metadata name neither an image nor a plate, so it is no OME-Zarr; "
        "export it as OME-Zarr"
    )


def _below(folder: Path, name: str) -> Path:
    """Return the path that metadata name within `folder`.

    Raises:
        UserError: it lies outside.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{folder}: its metadata name {name!r}, outside of it; do not trust it")
    return folder / name


def _well_scenes(folder: Path, path: str) -> list[Scene]:
    well = path.replace("/", "")
    with images.reading(folder):
        sites = [str(image["path"]) for image in _attributes(folder)["well"]["images"]]
    return [Scene(f"{well}_s{s}", partial(_zarr_stacks, _below(folder, s)), well, s) for s in sites]


def _zarr_stacks(path: Path) -> list[Stack]:
    with images.reading(path):
        attributes = _attributes(path)
        scales = attributes["multiscales"][0]
        level = scales["datasets"][0]  # the first is the one of full resolution
        array = _below(path, level["path"])
        shape = open_metadata(array).shape
        listed = scales.get("axes", "tczyx")  # not named before NGFF 0.3
        described: list[dict[str, str]] = [{"name": a} if isinstance(a, str) else a for a in listed]
        letters = {"channel": "c", "time": "t"}  # whatever these two are called
        axes = "".join(letters.get(a.get("type", ""), a["name"][0].lower()) for a in described)
        sizes = _checked_sizes(path, axes, shape)
        steps = [1.0] * len(axes)
        for holder in (level, scales):
            for step in holder.get("coordinateTransformations", ()):
                if step["type"] == "scale":
                    steps = [a * float(b) for a, b in zip(steps, step["scale"], strict=True)]
        units = [a.get("unit") for a in described]
        scale = dict(zip(axes, zip(steps, units, strict=True), strict=True))
        z_step = _length(*scale["z"]) if "z" in scale else None
        time_step = seconds(*scale["t"]) if "t" in scale else None
        labels = [c.get("label", "") for c in attributes.get("omero", {}).get("channels", ())]
        plane = partial(ZarrPlane, path, array=level["path"], axes=axes)
        return _stacks(plane, sizes, labels, _length(*scale["x"]), z_step, time_step)


def _length(step: float, unit: str | None) -> float | None:
    """Return a step in micrometres. Without a unit 1 is what writers put who know nothing; any other
    number is taken as micrometres, as viewers do."""
    return micrometres(step, unit or "micrometer") if unit or step != 1.0 else None


def _checked_sizes(where: object, axes: str, shape: Sequence[int]) -> dict[str, int]:
    """Return the lengths of the axes, t, c and z among them, if a plane is left without these.

    Args:
        axes: a letter each: t, c, z, y, x; s and m for bioio's samples and mosaic tiles.

    Raises:
        UserError: colour samples, mosaic tiles; no Y or X at the end; empty.
    """
    sizes = dict(zip(axes, shape, strict=True))
    if axes[-2:] != "yx" or len(sizes) < len(axes):
        raise UserError(f"{where}: has axes {axes}; one of each is read, the last two y and x")
    if min(shape) < 1:
        raise UserError(f"{where}: has no pixels (shape {tuple(shape)}); leave it out")
    planes = math.prod(n for axis, n in sizes.items() if axis not in "yx")
    if planes > MAX_PLANES:
        raise UserError(
            f"{where}: states {planes:,} planes, up to {MAX_PLANES:,} in one image are read; it is damaged, "
            "or to be split"
        )
    more = {axis: n for axis, n in sizes.items() if axis not in "tczyx" and n != 1}
    if more:
        kinds = {"s": "colour samples a pixel", "m": "mosaic tiles"}
        what = ", ".join(f"{n} {kinds.get(a, f'positions along {a}')}" for a, n in more.items())
        raise UserError(f"{where}: has {what}, one is read; export each one as an image of its own")
    return {"t": 1, "c": 1, "z": 1, **sizes}


@dataclass(frozen=True)
class ZarrPlane(ContainerPlane):
    """One channel at one z and time of an OME-Zarr image.

    Attributes:
        array: of full resolution, relative to `path`.
        axes: of the array, a letter each, y and x last.
    """

    array: str = field(kw_only=True)
    axes: str = field(kw_only=True)

    def read(self) -> np.ndarray:
        """Return the pixels (H, W); only the chunks of this plane are read."""
        zarr = need("zarr", self.path, "ome-zarr")
        at = {"t": self.time, "c": self.channel, "z": self.z}
        with images.reading(self.path):
            stated = open_metadata(self.path / self.array)
            promised = math.prod(stated.shape[-2:]) * stated.itemsize
            if promised > images.MAX_BLANK:
                stored = sum(os.stat(file).st_size for file in walk(self.path / self.array))
                images.check_promise(self.path, promised, stored)
            position = tuple(at.get(axis, 0) for axis in self.axes[:-2])
            stated.check_plane(position)
            array = zarr.open_array(stated.folder, mode="r", zarr_format=stated.zarr_format)
            pixels = np.asarray(array[position])
            # A chunk that is not there reads as zeros: rightly so where empty ones are not stored,
            # wrongly where the copy stopped. None at all is certainly the latter.
            if not pixels.any() and not array.nchunks_initialized:
                raise UserError(f"{self.path}: none of its pixels are there; copy it anew, whole")
            return images.as_pixels(self.path, pixels)

    @property
    def key(self) -> str:
        """Path, size and newest change of metadata and chunks at full resolution, reader, position."""
        with images.reading(self.path):
            array = self.path / self.array
            files = [self.path / name for name in ("zarr.json", ".zattrs")]
            stats = [os.stat(file) for file in files if file.exists()]
            stats += [os.stat(file) for file in walk(array)]
        size, newest = sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)
        where = f"{self.array}:{self.channel},{self.z},{self.time}"
        return f"{self.path.absolute()}|{size}|{newest}|reader {images.READER_VERSION}|{where}"


# --- bioio ---


def _bioio_scenes(path: Path) -> list[Scene]:
    with images.reading(path), _one_at_a_time:
        reader, found = _new_reader(path), []
        for scene in range(count := len(reader.scenes)):
            reader.set_scene(scene)
            # Not every reader knows wells, nor does every file.
            well = "".join(str(getattr(reader, key, None) or "") for key in ("row", "column"))
            name = "_".join(part for part in (well, f"s{scene}" * (count > 1)) if part)
            found.append(Scene(name, partial(_bioio_stacks, path, scene), well, str(scene)))
        return found


def _new_reader(path: Path) -> Any:
    module = READERS[path.suffix.lower()]
    return need(module, path, f"bioio {module.replace('_', '-')}").Reader(path)


@lru_cache(maxsize=4)  # the planes of one scene are asked for one after the other
def _cached_reader(path: Path, scene: int, _mtime: int, _process: int) -> Any:
    reader = _new_reader(path)
    reader.set_scene(scene)
    return reader


def _reader(path: Path, scene: int) -> Any:
    """Return a reader that stays at one scene; a changed file and a forked process get their own."""
    return _cached_reader(path, scene, path.stat().st_mtime_ns, os.getpid())


def _bioio_stacks(path: Path, scene: int) -> list[Stack]:
    where = f"{path} (scene {scene})"
    with images.reading(path), _one_at_a_time:
        reader = _reader(path, scene)
        sizes = _checked_sizes(where, reader.dims.order.lower(), reader.dims.shape)
        spacing = reader.physical_pixel_sizes
        pixel_size, z_step = (
            micrometres(getattr(spacing, axis, None) or 0, "um") for axis in ("X", "Z")
        )
        between = getattr(reader, "time_interval", None)  # not every reader, nor every file, knows
        return _stacks(
            partial(BioioPlane, path, scene=scene), sizes, reader.channel_names or [],
            pixel_size, z_step, between.total_seconds() if between else None,
        )  # fmt: skip


@dataclass(frozen=True)
class BioioPlane(ContainerPlane):
    """One channel at one z and time of one scene of a file that bioio reads."""

    scene: int = field(kw_only=True)

    def read(self) -> np.ndarray:
        """Return the pixels (H, W)."""
        with images.reading(self.path), _one_at_a_time:
            reader = _reader(self.path, self.scene)
            plane = reader.get_image_data("YX", T=self.time, C=self.channel, Z=self.z)
        return images.as_pixels(self.path, np.asarray(plane))

    @property
    def key(self) -> str:
        """See `ContainerPlane.key`; with the scene."""
        return f"{super().key},{self.scene}"

    def __str__(self) -> str:
        return super().__str__().replace("(channel", f"(scene {self.scene}, channel")

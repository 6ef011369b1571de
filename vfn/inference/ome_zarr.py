"""Predicted fields as OME-Zarr: a plate where their wells are known, else an image each.

NGFF 0.5 (zarr v3), the present version of the format, which ome-zarr and bioio read. The package
ome-zarr, which is optional, writes the pyramids and the metadata.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vfn import __version__
from vfn.data.formats import need
from vfn.data.images import reading
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.inference.ome import BY, NOTE, not_ours
from vfn.system.files import replacing_folder

CHUNK = 1024  # px, side of the chunks; smaller levels are one chunk
SMALLEST = 256  # px, longer side that ends the pyramid
COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
WELL = re.compile(r"([A-Za-z]+)(\d+)")  # row, column


def field_paths(output: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """Return where each sample goes, by its name.

    With a well for every sample: `output`/predicted.zarr/ROW/COLUMN/INDEX, one plate for each plate
    among the samples (then predicted_PLATE.zarr). The index counts the samples of a well by site;
    those that are there from before keep theirs, so a second run never mixes fields up. Else
    `output`/NAME.zarr.

    Raises:
        UserError: ome-zarr is not installed; the plate in `output` is another one.
    """
    need("ome_zarr.writer", output, "ome-zarr")
    if not all(WELL.fullmatch(sample.well) for sample in samples):
        return {sample.name: output / f"{sample.name}.zarr" for sample in samples}
    several = len({sample.plate for sample in samples}) > 1
    paths: dict[str, Path] = {}
    taken: dict[Path, dict[str, int]] = {}
    for sample in sorted(
        samples, key=lambda sample: (_natural(sample.site), _natural(sample.name))
    ):
        name = "_" + re.sub(r"[^\w.-]+", "_", sample.plate) if several else ""
        plate = output / f"predicted{name}.zarr"
        row, column = WELL.fullmatch(sample.well).groups()  # type: ignore[union-attr]  # as above
        well = plate / row / column
        if well not in taken:
            _check_plate(plate, sample.plate)
            taken[well] = _names(well)
        there = taken[well]
        there.setdefault(sample.name, max(there.values(), default=-1) + 1)
        paths[sample.name] = well / str(there[sample.name])
    return paths


def _natural(text: str) -> list[int | str]:
    """Sorts "s2" before "s10"."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]


def _attributes(group: Path) -> dict[str, Any]:
    """Of a zarr v3 group; empty where there is none.

    Raises:
        UserError: damaged.
    """
    if not (group / "zarr.json").exists():
        return {}
    with reading(group):
        attributes: dict[str, Any] = json.loads((group / "zarr.json").read_bytes())["attributes"]
        return attributes


def _check_plate(plate: Path, name: str) -> None:
    attributes = _attributes(plate)
    if plate.exists() and "vfn" not in attributes and any(plate.glob("*.*")):
        raise not_ours(plate)
    there = attributes.get("ome", {}).get("plate", {}).get("name", name)
    if there != name:
        raise UserError(
            f"{plate}: holds predictions of plate {there}, these are of {name}; "
            "choose another output folder"
        )


def _names(well: Path) -> dict[str, int]:
    """Fields that are there from before: name -> index."""
    there = [int(path.name) for path in well.glob("*") if path.name.isdigit()]
    names: dict[str, int] = {}
    for index in sorted(there):
        try:
            names[_attributes(well / str(index))["ome"]["multiscales"][0]["name"]] = index
        except (UserError, KeyError):  # damaged, or not ours: nobody else gets its place
            names[f"/{index}"] = index
    return names


def write_zarr(
    path: Path,
    name: str,
    array: np.ndarray,
    channels: tuple[str, ...],
    pixel_size: float | None,
    identity: str,
    windows: Sequence[tuple[float, float]],
    remarks: Sequence[str] = (),
    time_step: float | None = None,
) -> None:
    """Write (C, H, W), or (T, C, H, W), as an image with axes (t)cyx, halved until it fits a screen.

    Args:
        name: of the field.
        pixel_size: micrometres, or None where it is not known.
        identity: see `vfn.inference.ome.write_ome`.
        windows: grey values that viewers show as black and white, for each channel.
        remarks: on the field, for whoever finds the image later.
        time_step: seconds from one time point to the next, or None where it is not known.
    """
    classes = need("ome_zarr.classes", path, "ome-zarr")
    zarr = need("zarr", path, "ome-zarr")
    step = pixel_size or 1.0
    axes = "tcyx"[-array.ndim :]
    steps = {"t": time_step or 1.0, "c": 1.0, "y": step, "x": step}
    units = {"y": "micrometer", "x": "micrometer"} if pixel_size else {}
    units |= {"t": "second"} if time_step else {}
    image = classes.OMEZarrImage(
        array, axes, {axis: steps[axis] for axis in axes}, units or None, name
    )
    height, width = array.shape[-2:]
    factors = [2]
    while max(height, width) // factors[-1] > SMALLEST // 2:
        factors.append(2 * factors[-1])
    factors = [f for f in factors[:-1] if min(height, width) >= f]
    pyramid = classes.OMEZarrMultiscale(image, factors, "local_mean")
    dark, full = 0, float(array.max())
    if array.dtype.kind != "f":
        dark, full = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
    pyramid.omero = {
        "channels": [
            {
                "label": channel,
                "active": True,
                "color": COLOURS[i % len(COLOURS)],
                "window": {"min": dark, "max": full, "start": low, "end": high},
            }
            for i, (channel, (low, high)) in enumerate(zip(channels, windows, strict=True))
        ]
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(path) as temporary:
        chunks = (*(1 for _ in axes[:-2]), min(height, CHUNK), min(width, CHUNK))
        pyramid.to_ome_zarr(str(temporary), {"chunks": chunks}, "0.5")
        zarr.open_group(temporary, mode="r+").attrs["vfn"] = {
            "note": NOTE.format(version=__version__, identity=identity),
            "pixels": _digest(array),
            "remarks": list(remarks),
        }


def _digest(array: np.ndarray) -> str:
    """A chunk that is lost reads as zeros, so only the pixels themselves tell that all are there."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def whole_zarr(
    path: Path, identity: str, shape: tuple[int, ...], times: int | None = None
) -> np.ndarray | None:
    """The pixels ((T, )C, H, W) of `path` if it is whole, of (H, W) `shape` and `times` time points, and
    by model `identity`.

    Raises:
        UserError: it is somebody's image, not a prediction, and would be overwritten.
    """
    if not path.exists():
        return None
    try:
        attributes = _attributes(path)
    except UserError:
        return None  # damaged: it is computed again, and replaced
    note: Mapping[str, str] = attributes.get("vfn", {})
    if BY not in note.get("note", ""):
        raise not_ours(path)
    try:
        with reading(path):
            zarr = need("zarr", path, "ome-zarr")
            array = np.asarray(zarr.open_array(path / "s0", mode="r")[:])
    except UserError:
        return None
    found = array.shape[0] if array.ndim == 4 else None
    same = array.shape[-2:] == shape and found == times and f"model {identity}" in note["note"]
    return array if same and _digest(array) == note.get("pixels") else None


def list_in_plate(field: Path, plate_name: str) -> None:
    """Name a field that is whole in the metadata of its well and plate; twice does no harm.

    Args:
        field: PLATE.zarr/ROW/COLUMN/INDEX.
        plate_name: as the samples have it; may be empty.
    """
    writer = need("ome_zarr.writer", field, "ome-zarr")
    ngff = need("ome_zarr.format", field, "ome-zarr").FormatV05()
    zarr = need("zarr", field, "ome-zarr")
    well, plate = field.parent, field.parents[2]
    images = {image["path"] for image in _part(well, "well").get("images", ())}
    if field.name not in images:
        images.add(field.name)
        zarr.open_group(well.parent, mode="a", zarr_format=3)  # the row
        listed = [{"path": index} for index in sorted(images, key=int)]
        writer.write_well_metadata(str(well), listed, ngff)
    before = _part(plate, "plate")
    wells = {one["path"] for one in before.get("wells", ())}
    path, count = f"{well.parent.name}/{well.name}", max(before.get("field_count", 0), len(images))
    if path in wells and count == before["field_count"]:
        return
    wells.add(path)
    rows, columns = zip(*(one.split("/") for one in wells), strict=True)
    group = zarr.open_group(plate, mode="a", zarr_format=3)
    group.attrs["vfn"] = {"note": f"{BY} {__version__}"}
    writer.write_plate_metadata(
        group, _sorted(rows), _sorted(columns), _sorted(wells), ngff,
        field_count=count, name=plate_name,
    )  # fmt: skip


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(set(names), key=_natural)


def _part(group: Path, key: str) -> dict[str, Any]:
    part: dict[str, Any] = _attributes(group).get("ome", {}).get(key, {})
    return part

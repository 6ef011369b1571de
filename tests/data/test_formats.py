"""OME-Zarr and bioio's files as fields, built by ome-zarr and tifffile themselves."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from torch.utils.data import DataLoader

from tests.conftest import write, write_zarr_image, write_zarr_plate
from vfn.data import formats
from vfn.data.discovery.fields import Field
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover, whole_images
from vfn.data.formats import BioioPlane, Stack, ZarrPlane
from vfn.data.samples import Task, make_samples
from vfn.data.walk import find_images, find_sources
from vfn.errors import UserError

RNG = np.random.default_rng(0)
VERSIONS = ["0.4", "0.5"]
NAMES = ["Hoechst 33342", "Phase"]
BY_NAME = Layout({"dapi": "hoechst 33342"})


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(1, 200, shape).astype(dtype)


def image(
    path: Path, axes: str = "cyx", array: np.ndarray | None = None, **options: Any
) -> np.ndarray:
    array = pixels(2, 37, 45) if array is None else array
    write_zarr_image(path, array, axes, options.pop("names", NAMES), **options)
    return array


def found(root: Path, layout: Layout = BY_NAME) -> list[Field]:
    return discover(root, layout, ["dapi", "phase"])


def read(entry: Field, channel: str, z: float = 0.0) -> np.ndarray:
    return entry.planes[channel, z].read()


def read_all(root: Path, layout: Layout) -> None:
    for entry in found(root, layout):
        for plane in entry.planes.values():
            plane.read()


def refused(root: Path, *parts: object, layout: Layout = BY_NAME) -> None:
    with pytest.raises(UserError) as caught:
        read_all(root, layout)
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- OME-Zarr ---


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plate_beside_files(tmp_path: Path, version: str) -> None:
    plate = tmp_path / "day 1" / "P7.ome.zarr"
    truth = write_zarr_plate(plate, {"A/1": 2, "B/12": 1}, NAMES, version)
    for name in ("x_phase.tif", "x hoechst 33342.tif"):
        write(tmp_path / name, pixels(9, 8))
    fields = {entry.name: entry for entry in found(tmp_path)}
    assert {(e.name, e.plate, e.well, e.site) for e in fields.values()} == {
        ("day_1_P7_A1_s0", "day_1_P7", "A1", "0"),
        ("day_1_P7_A1_s1", "day_1_P7", "A1", "1"),
        ("day_1_P7_B12_s0", "day_1_P7", "B12", "0"),
        ("x", "", "", ""),
    }
    for (well, site), array in truth.items():
        entry = fields[f"day_1_P7_{well.replace('/', '')}_s{site}"]
        assert entry.planes.keys() == {("phase", 0.0), ("dapi", 0.0)}
        np.testing.assert_array_equal(read(entry, "dapi"), array[0])
        np.testing.assert_array_equal(read(entry, "phase"), array[1])
        assert entry.planes["phase", 0.0].pixel_size == 0.65
    assert [entry.name for entry in found(plate)] == ["P7_A1_s0", "P7_A1_s1", "P7_B12_s0"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", ">u2"])
def test_pixels_are_read_exactly(tmp_path: Path, version: str, dtype: str) -> None:
    array = image(tmp_path / "a.zarr", array=pixels(2, 37, 45, dtype=dtype), version=version)
    (entry,) = found(tmp_path)
    plane = read(entry, "phase")
    np.testing.assert_array_equal(plane, array[1])
    assert plane.dtype == np.dtype("float32" if dtype == "float64" else dtype).newbyteorder("=")
    assert (entry.name, entry.plate, entry.well) == ("a", "", "")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("cyx", (2, 37, 45)), ("tcyx", (1, 2, 37, 45)), ("tczyx", (1, 2, 1, 37, 45)),
     ("czyx", (2, 1, 37, 45))],
)  # fmt: skip
def test_axes(tmp_path: Path, version: str, axes: str, shape: tuple[int, ...]) -> None:
    array = image(tmp_path / "a.zarr", axes, pixels(*shape), version=version)
    (entry,) = found(tmp_path)
    np.testing.assert_array_equal(read(entry, "phase"), array.reshape(2, 37, 45)[1])


def test_planes_that_are_stored_as_channels(tmp_path: Path) -> None:
    array = image(tmp_path / "a.zarr", names=[])
    (entry,) = discover(tmp_path, Layout({"phase@-4": 0, "phase": 1}), ["phase"])
    np.testing.assert_array_equal(read(entry, "phase", -4.0), array[0])
    np.testing.assert_array_equal(read(entry, "phase"), array[1])


def test_channels_by_position(tmp_path: Path) -> None:
    array = image(tmp_path / "a.zarr", names=[])
    (entry,) = found(tmp_path, Layout({"dapi": 1, "phase": 0}))
    np.testing.assert_array_equal(read(entry, "dapi"), array[1])
    np.testing.assert_array_equal(read(entry, "phase"), array[0])
    refused(tmp_path, tmp_path / "a.zarr", "channel 2", layout=Layout({"dapi": 2, "phase": 0}))
    refused(tmp_path, "a.zarr holds channels without names", layout=Layout())


def test_a_channel_that_is_not_inside_is_named_with_those_that_are(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr")
    refused(tmp_path, "channel dapi", "a.zarr holds Hoechst 33342, Phase", layout=Layout())


def test_two_channels_of_one_name_count_as_unnamed(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr", names=["Phase", "phase"])
    refused(tmp_path, "without names")


def test_one_channel_by_the_path(tmp_path: Path) -> None:
    truth = [
        image(tmp_path / f"f1_{name}.zarr", "yx", pixels(9, 8), names=[])
        for name in ("dapi", "Phase")
    ]
    (entry,) = found(tmp_path, Layout())
    assert entry.name == "f1"
    np.testing.assert_array_equal(read(entry, "dapi"), truth[0])
    np.testing.assert_array_equal(read(entry, "phase"), truth[1])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("count", "depths"), [(3, (-0.9, 0, 0.9)), (4, (-1.8, -0.9, 0, 0.9))])
def test_z_stacks(tmp_path: Path, version: str, count: int, depths: tuple[float, ...]) -> None:
    options = {"scale": {"z": 900.0}, "unit": "nanometer", "version": version}
    array = image(tmp_path / "a.zarr", "czyx", pixels(2, count, 37, 45), **options)
    (entry,) = found(tmp_path)
    assert sorted(z for c, z in entry.planes if c == "dapi") == list(depths)
    for i, z in enumerate(depths):
        np.testing.assert_array_equal(read(entry, "dapi", z), array[0, i])
    (sample,) = make_samples([entry], Task("t", ("phase",), ("dapi",)))
    np.testing.assert_array_equal(sample.inputs[0].read(), array[1, count // 2])
    blurred, focal = make_samples([entry], Task("t", ("phase",), ("dapi",), (-0.9, 0.9)))[0], sample
    np.testing.assert_array_equal(blurred.inputs[0].read(), array[1, depths.index(-0.9)])
    assert blurred.targets == focal.targets
    assert entry.planes["dapi", 0.0].pixel_size == pytest.approx(0.65e-3)
    # A data set that states its own focal plane and step is believed.
    (own,) = found(tmp_path, Layout(BY_NAME.channels, z_zero=2, z_step=5.0))
    assert sorted(z for c, z in own.planes if c == "dapi") == [5.0 * (i - 2) for i in range(count)]


def test_steps_without_unit(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr", "czyx", pixels(2, 3, 9, 8), unit=None, scale={"z": 2.0})
    image(tmp_path / "b.zarr", "czyx", pixels(2, 3, 9, 8), unit=None, scale={"y": 1.0, "x": 1.0})
    stated, unknown = found(tmp_path)
    assert {z for _, z in stated.planes} == {-2.0, 0.0, 2.0}
    assert stated.planes["dapi", 0.0].pixel_size == 0.65
    assert {z for _, z in unknown.planes} == {-1.0, 0.0, 1.0}
    assert unknown.planes["dapi", 0.0].pixel_size is None


def test_scales_of_level_and_image_are_multiplied(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr", version="0.4")
    metadata = tmp_path / "a.zarr" / ".zattrs"
    attributes = json.loads(metadata.read_text())
    whole = [{"type": "scale", "scale": [1.0, 2.0, 2.0]}]
    attributes["multiscales"][0]["coordinateTransformations"] = whole
    metadata.write_text(json.dumps(attributes))
    assert found(tmp_path)[0].planes["dapi", 0.0].pixel_size == 1.3


def test_one_plane_is_the_focal_one() -> None:
    plane = ZarrPlane(Path("a"), 0, 0, None, array="0", axes="czyx")
    assert Stack((), ((plane,),), 2.0).depths(16, 2.0) == (0.0,)


@pytest.mark.parametrize("listed", [True, False])
def test_series_of_bioformats2raw(tmp_path: Path, listed: bool) -> None:
    root = tmp_path / "a.zarr"
    truth = {s: image(root / s, version="0.4") for s in ("0", "10", "2")}
    (root / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    if listed:
        (root / "OME").mkdir()
        (root / "OME" / ".zattrs").write_text(json.dumps({"series": ["0", "2"]}))
        truth.pop("10")
    fields = {entry.name: entry for entry in found(tmp_path)}
    assert fields.keys() == {f"a_s{s}" for s in truth}
    for s, array in truth.items():
        np.testing.assert_array_equal(read(fields[f"a_s{s}"], "phase"), array[1])


def test_whole_images_of_a_plate_are_its_fields(tmp_path: Path) -> None:
    truth = write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1, "A/2": 1}, ["x", "y"])
    fields = whole_images(tmp_path, ["phase", "er"])
    assert [(e.name, e.well, e.site) for e in fields] == [
        ("P_A1_s0", "A1", "0"), ("P_A2_s0", "A2", "0"),
    ]  # fmt: skip
    np.testing.assert_array_equal(read(fields[1], "er"), truth["A/2", 0][1])
    with pytest.raises(UserError, match=r"P\.zarr/A/1/0: has 2 channel\(s\), the model takes 1"):
        whole_images(tmp_path / "P.zarr", ["phase"])


def test_images_inside_of_a_container_are_not_looked_at(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr")
    write(tmp_path / "a.zarr" / "thumbnail_phase.tif", pixels(4, 5))
    write(tmp_path / "b.zarr.tif", pixels(4, 5))
    write(tmp_path / ".hidden.zarr" / "c.tif", pixels(4, 5))
    assert find_images(tmp_path) == [tmp_path / "b.zarr.tif"]
    assert find_sources(tmp_path) == [tmp_path / "a.zarr", tmp_path / "b.zarr.tif"]


# --- what a plane is to caches and worker processes ---


class Planes:
    """A dataset of planes, for a DataLoader."""

    def __init__(self, planes: list[Any]) -> None:
        self.planes = planes

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.planes[index].read()


def check_worker_processes(entry: Field) -> None:
    planes = [*entry.planes.values()]
    truth = [plane.read() for plane in planes]  # the parent has read before it forks
    loader = DataLoader(
        Planes(planes), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )  # type: ignore[arg-type]
    for array, expected in zip(loader, truth, strict=True):
        np.testing.assert_array_equal(array, expected)


def check_identity(entry: Field, change: Callable[[], object]) -> None:
    planes = [*entry.planes.values()]
    copies = pickle.loads(pickle.dumps(planes))
    assert copies == planes
    assert len({*planes, *copies}) == len(planes)
    keys = [plane.key for plane in copies]  # type: ignore[attr-defined]
    assert len(set(keys)) == len(planes)
    assert keys == [plane.key for plane in planes]  # type: ignore[attr-defined]
    change()
    assert not set(keys) & {plane.key for plane in planes}  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", VERSIONS)
def test_zarr_planes_in_worker_processes(tmp_path: Path, version: str) -> None:
    image(tmp_path / "a.zarr", version=version)
    check_worker_processes(found(tmp_path)[0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["pixels", "metadata"])
def test_another_key_where_the_pixels_may_be_others(
    tmp_path: Path, version: str, what: str
) -> None:
    root = tmp_path / "a.zarr"
    image(root, "czyx", pixels(2, 3, 37, 45), version=version)
    inner = {"pixels": "s0/c/0/0/0/0" if version == "0.5" else "s0/0/0/0/0", "metadata": "s0/*z*"}
    (changed,) = (
        root.glob(inner[what])
        if what == "pixels"
        else [root / ("zarr.json" if version == "0.5" else ".zattrs")]
    )
    (entry,) = found(tmp_path)
    check_identity(entry, lambda: os.utime(changed, (1, 2e9)))


def test_a_plane_names_itself(tmp_path: Path) -> None:
    plane = ZarrPlane(Path("a.zarr"), 1, 0, None, array="0", axes="cyx")
    assert str(plane) == "a.zarr (channel 1)"
    stacked = ZarrPlane(Path("a"), 1, 2, None, array="0", axes="czyx")
    assert str(stacked) == "a (channel 1, z plane 2)"
    scene = BioioPlane(Path("a.nd2"), 1, 2, None, scene=3)
    assert str(scene) == "a.nd2 (scene 3, channel 1, z plane 2)"


# --- what cannot be used ---


@pytest.mark.parametrize("version", VERSIONS)
def test_every_time_point_is_a_field(tmp_path: Path, version: str) -> None:
    array = image(tmp_path / "a.zarr", "tcyx", pixels(3, 2, 9, 8), version=version)
    fields = found(tmp_path)
    assert [entry.name for entry in fields] == ["a_t1", "a_t2", "a_t3"]
    assert {entry.time.position for entry in fields if entry.time} == {"a"}
    for entry, (dapi, phase) in zip(fields, array, strict=True):
        np.testing.assert_array_equal(read(entry, "dapi"), dapi)
        np.testing.assert_array_equal(read(entry, "phase"), phase)
    assert len({plane.key for entry in fields for plane in entry.planes.values()}) == 6


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_other_dtypes_are_refused(tmp_path: Path, dtype: str) -> None:
    image(tmp_path / "a.zarr", array=pixels(2, 9, 8, dtype=dtype))
    refused(tmp_path, "a.zarr", dtype, "uint8, uint16, int16")


def test_nan_is_refused(tmp_path: Path) -> None:
    array = pixels(2, 9, 8, dtype="float32")
    array[1, 2, 3] = np.nan
    image(tmp_path / "a.zarr", array=array)
    refused(tmp_path, "a.zarr", "1 pixels are NaN")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no metadata": (lambda p: (p / "zarr.json").unlink(), "P.zarr: has no zarr.json"),
    "metadata cut": (lambda p: cut(p / "zarr.json"), "P.zarr: cannot be read"),
    "no wells": (lambda p: (p / "zarr.json").write_text('{"attributes": {"ome": {"plate": {"wells": []}}}}'),
                 "P.zarr: holds no image"),
    "not a plate": (lambda p: (p / "zarr.json").write_text('{"attributes": {}}'), "no OME-Zarr"),
    "not an object": (lambda p: (p / "zarr.json").write_text("[]"), "P.zarr: cannot be read"),
    "a well is missing": (lambda p: shutil.rmtree(p / "A" / "2"), "P.zarr/A/2: is no folder"),
    "a well is cut": (lambda p: cut(p / "A/2/zarr.json"), "P.zarr/A/2: cannot be read"),
    "a field is missing": (lambda p: shutil.rmtree(p / "A/2/0"), "P.zarr/A/2/0: is no folder"),
    "a field is cut": (lambda p: cut(p / "A/2/0/zarr.json"), "P.zarr/A/2/0: cannot be read"),
    "no array": (lambda p: shutil.rmtree(p / "A/2/0/s0"), "P.zarr/A/2/0: cannot be read"),
    "array metadata cut": (lambda p: cut(p / "A/2/0/s0/zarr.json"), "P.zarr/A/2/0: cannot be read"),
    "chunk cut": (lambda p: cut(p / "A/2/0/s0/c/0/0/0"), "P.zarr/A/2/0: cannot be read"),
    "chunks missing": (lambda p: shutil.rmtree(p / "A/2/0/s0/c"), "A/2/0: none of its pixels"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_plate_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1, "A/2": 1}, NAMES)
    do, message = DAMAGE[damage]
    do(tmp_path / "P.zarr")
    refused(tmp_path, message)
    refused(tmp_path / "P.zarr", message)


def test_damage_does_not_hide_the_other_fields(tmp_path: Path) -> None:
    write_zarr_plate(tmp_path / "P.zarr", {"A/1": 2, "A/2": 1}, NAMES)
    image(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    cut(tmp_path / "P.zarr/A/1/1/zarr.json")
    damaged: list[UserError] = []
    fields = discover(tmp_path, BY_NAME, ["dapi", "phase"], damaged)
    assert [entry.name for entry in fields] == ["P_A1_s0", "P_A2_s0", "b"]
    assert [str(line).split(":")[0] for line in damaged] == [
        str(tmp_path / "P.zarr/A/1/1"), str(tmp_path / "c.zarr"),
    ]  # fmt: skip


def test_a_file_named_zarr_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").write_text("no")
    refused(tmp_path, "a.zarr: is no folder")
    (tmp_path / "a.zarr").unlink()
    (tmp_path / "a.zarr").symlink_to("nowhere")
    refused(tmp_path, "a.zarr: is no folder")


def test_a_black_plane_is_no_damage(tmp_path: Path) -> None:
    image(tmp_path / "a.zarr", array=np.zeros((2, 9, 8), np.uint16) + np.uint16([[[0]], [[1]]]))
    (entry,) = found(tmp_path)
    assert not read(entry, "dapi").any()


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [("a.zarr", "zarr", "ome-zarr"), ("a.nd2", "bioio_nd2", "bioio bioio-nd2"),
     ("a.CZI", "bioio_czi", "bioio bioio-czi"), ("a.lif", "bioio_lif", "bioio bioio-lif")],
)  # fmt: skip
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).touch()
    refused(tmp_path, tmp_path / name, f"pip install {install}")


# --- what bioio reads: its OME-TIFF reader stands for those whose files nobody can write freely ---


@pytest.fixture
def lif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[np.ndarray]]:
    """A "LIF" of two scenes, two channels, three planes 2 um apart."""
    monkeypatch.setitem(formats.READERS, ".lif", "bioio_ome_tiff")
    return tmp_path / "in" / "run 1.lif", write_scenes(tmp_path / "in" / "run 1.lif", "CZYX", 2, 3)


def write_scenes(path: Path, axes: str, *shape: int) -> list[np.ndarray]:
    path.parent.mkdir(exist_ok=True)
    arrays = [pixels(*shape, 37, 45), pixels(*shape, 33, 20)]
    names = {"Channel": {"Name": NAMES}, "PhysicalSizeX": 0.5, "PhysicalSizeZ": 2.0}
    with tifffile.TiffWriter(path, ome=True) as tif:
        for array in arrays:
            tif.write(array, photometric="minisblack", metadata={"axes": axes, **names})
    return arrays


bioio = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@bioio
def test_scenes_of_a_file(lif: tuple[Path, list[np.ndarray]]) -> None:
    path, arrays = lif
    fields = found(path.parent)
    assert [(e.name, e.plate, e.well) for e in fields] == [
        ("run_1_s0", "", ""), ("run_1_s1", "", ""),
    ]  # fmt: skip
    for entry, array in zip(fields, arrays, strict=True):
        for (channel, z), plane in entry.planes.items():
            expected = array[["dapi", "phase"].index(channel), int(z / 2) + 1]
            np.testing.assert_array_equal(plane.read(), expected)
            assert plane.pixel_size == 0.5
        assert {z for _, z in entry.planes} == {-2.0, 0.0, 2.0}
    assert found(path) == fields
    check_identity(fields[1], lambda: os.utime(path, (1, 1)))


@bioio
def test_bioio_planes_in_worker_processes(lif: tuple[Path, list[np.ndarray]]) -> None:
    check_worker_processes(found(lif[0])[0])


@bioio
def test_wells_that_a_reader_knows(
    lif: tuple[Path, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import bioio_ome_tiff

    monkeypatch.setattr(bioio_ome_tiff.Reader, "row", property(lambda self: "B"), raising=False)
    column = property(lambda self: str(5 + self.current_scene_index))
    monkeypatch.setattr(bioio_ome_tiff.Reader, "column", column, raising=False)
    assert [(e.name, e.plate, e.well, e.site) for e in found(lif[0])] == [
        ("run_1_B5_s0", "run_1", "B5", "0"), ("run_1_B6_s1", "run_1", "B6", "1"),
    ]  # fmt: skip


@bioio
def test_time_points_of_scenes(lif: tuple[Path, list[np.ndarray]]) -> None:
    arrays = write_scenes(lif[0], "TCYX", 3, 2)
    fields = {entry.name: entry for entry in found(lif[0])}
    assert list(fields) == [f"run_1_s{s}_t{t}" for s in (0, 1) for t in (1, 2, 3)]
    np.testing.assert_array_equal(read(fields["run_1_s1_t3"], "phase"), arrays[1][2, 1])


@bioio
def test_a_changed_file_is_read_anew(lif: tuple[Path, list[np.ndarray]]) -> None:
    path, arrays = lif
    plane = found(path)[0].planes["dapi", 0.0]
    np.testing.assert_array_equal(plane.read(), arrays[0][0, 1])
    anew = write_scenes(path, "CZYX", 2, 3)
    np.testing.assert_array_equal(plane.read(), anew[0][0, 1])


@bioio
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_damaged_file_is_refused_by_name(
    lif: tuple[Path, list[np.ndarray]], share: float
) -> None:
    data = lif[0].read_bytes()
    lif[0].write_bytes(data[: int(share * len(data))])
    refused(lif[0].parent, lif[0], "cannot be read")

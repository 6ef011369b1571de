import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.images import DTYPES
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.inference.ome import write_ome
from vfn.inference.ome_zarr import field_paths, list_in_plate, whole_zarr, write_zarr

RNG = np.random.default_rng(0)
WINDOWS = [(0.0, 200.0), (10.0, 90.0), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)]


def sample(name: str, well: str = "", site: str = "", plate: str = "") -> Sample:
    return Sample(name, name, (), (), plate=plate, well=well, site=site)


def pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(1, 250, shape).astype(dtype)


def written(path: Path, array: np.ndarray, name: str = "f", identity: str = "abc") -> np.ndarray:
    names = tuple(["dapi", "α-actin <&>", "far red", "er", 'so "x"'][: len(array)])
    write_zarr(path, name, array, names, 0.65, identity, WINDOWS[: len(array)])
    return array


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (3, 33, 20), (5, 300, 1201)])
def test_an_independent_reader_reads_what_is_written(
    tmp_path: Path, dtype: str, shape: tuple[int, int, int]
) -> None:
    import bioio_ome_zarr
    from bioio import BioImage

    path = tmp_path / "deep" / "a field.zarr"
    array = written(path, pixels(*shape, dtype=dtype))
    image = BioImage(path, reader=bioio_ome_zarr.Reader)
    read = image.get_image_data("CYX")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    write_ome(
        tmp_path / "a.ome.tif", [array], shape[1:], dtype, tuple("abcde"[: shape[0]]), 0.65, "abc"
    )  # fmt: skip
    tiff = tifffile.imread(tmp_path / "a.ome.tif")
    assert tiff.dtype == read.dtype
    np.testing.assert_array_equal(read, tiff.reshape(shape))
    assert image.channel_names == ["dapi", "α-actin <&>", "far red", "er", 'so "x"'][: shape[0]]
    assert image.physical_pixel_sizes[1:] == (0.65, 0.65)
    assert [p.name for p in path.parent.iterdir()] == ["a field.zarr"]
    ours = discover(tmp_path / "deep", Layout(), ["dapi"])[0].planes["dapi", 0.0]
    np.testing.assert_array_equal(ours.read(), array[0])
    assert ours.pixel_size == 0.65
    omero = zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"]  # type: ignore[index,call-overload]
    windows = [(c["window"]["start"], c["window"]["end"]) for c in omero]
    assert windows == WINDOWS[: shape[0]]


def test_the_pyramid_halves_until_it_fits_a_screen(tmp_path: Path) -> None:
    array = written(tmp_path / "a.zarr", pixels(2, 1040, 1392))
    levels = [np.asarray(zarr.open_array(tmp_path / f"a.zarr/s{i}")[:]) for i in range(4)]
    assert [level.shape for level in levels] == [
        (2, 1040, 1392), (2, 520, 696), (2, 260, 348), (2, 130, 174),
    ]  # fmt: skip
    assert not (tmp_path / "a.zarr" / "s4").exists()
    assert {level.dtype.name for level in levels} == {"uint16"}
    means = array.reshape(2, 520, 2, 696, 2).mean((2, 4))
    np.testing.assert_allclose(levels[1], means, atol=1)


def test_an_unknown_pixel_size_stays_unknown(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", "a", pixels(1, 4, 5), ("dapi",), None, "abc", WINDOWS[:1])
    (entry,) = discover(tmp_path, Layout(), ["dapi"])
    assert entry.planes["dapi", 0.0].pixel_size is None


def test_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    assert whole_zarr(path, "abc", (30, 40)) is None
    array = written(path, pixels(2, 30, 40))
    kept = whole_zarr(path, "abc", (30, 40))
    assert kept is not None
    np.testing.assert_array_equal(kept, array)
    assert whole_zarr(path, "abd", (30, 40)) is None
    assert whole_zarr(path, "abc", (40, 30)) is None
    written(path, array, identity="abd")  # over the old one
    assert whole_zarr(path, "abd", (30, 40)) is not None
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [lambda p: cut(p / "zarr.json"), lambda p: cut(p / "s0/zarr.json"), lambda p: shutil.rmtree(p / "s0"),
     lambda p: cut(p / "s0/c/1/0/0"), lambda p: (p / "s0/c/1/0/0").unlink()],
    ids=["metadata", "array metadata", "no array", "chunk cut", "chunk gone"],
)  # fmt: skip
def test_damage_is_never_whole(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "a.zarr"
    written(path, pixels(2, 30, 40))
    damage(path)
    assert whole_zarr(path, "abc", (30, 40)) is None


@pytest.mark.parametrize("by", [".zattrs", "zarr.json", "a.txt"])
def test_somebodys_image_is_not_taken_for_a_prediction(tmp_path: Path, by: str) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / by).write_text('{"attributes": {}}')
    with pytest.raises(UserError, match=r"a\.zarr: is there already and is no prediction"):
        whole_zarr(tmp_path / "a.zarr", "abc", (4, 5))


# --- plates ---


def predict(output: Path, *samples: Sample) -> dict[str, Path]:
    """Write all `samples` as a run does."""
    paths = field_paths(output, samples)
    for one in samples:
        written(paths[one.name], pixels(1, 4, 5), one.name)
        list_in_plate(paths[one.name], one.plate)
    return {name: path.relative_to(output) for name, path in paths.items()}  # type: ignore[misc]


def test_without_wells_an_image_a_field(tmp_path: Path) -> None:
    for samples in (
        [sample("a"), sample("b")],
        [sample("a"), sample("b", "A01")],
        [sample("a", "left"), sample("b")],
    ):
        assert field_paths(tmp_path, samples) == {n: tmp_path / f"{n}.zarr" for n in "ab"}


def test_fields_of_a_well_are_counted_by_site(tmp_path: Path) -> None:
    samples = [sample(f"w{w}s{s}", w, s) for w in ("A01", "B12") for s in ("10", "2", "1")]
    assert predict(tmp_path, *samples[:4]) == {
        "wA01s1": Path("predicted.zarr/A/01/0"),
        "wA01s2": Path("predicted.zarr/A/01/1"),
        "wA01s10": Path("predicted.zarr/A/01/2"),
        "wB12s10": Path("predicted.zarr/B/12/0"),
    }
    # Later more fields come: none takes another one's place.
    predict(tmp_path, *samples[2:])
    fields = discover(tmp_path, Layout(), ["dapi"])
    names = {
        (e.well, e.site): json.loads((e.planes["dapi", 0.0].path / "zarr.json").read_text())  # type: ignore[attr-defined]
        ["attributes"]["ome"]["multiscales"][0]["name"]
        for e in fields
    }  # fmt: skip
    assert names == {
        ("A01", "0"): "wA01s1", ("A01", "1"): "wA01s2", ("A01", "2"): "wA01s10",
        ("B12", "0"): "wB12s10", ("B12", "1"): "wB12s1", ("B12", "2"): "wB12s2",
    }  # fmt: skip


def test_the_plate_is_valid_after_every_field(tmp_path: Path) -> None:
    from ome_zarr_models.v05.hcs import HCS

    samples = [sample(f"{w}{s}", w, s, "P") for w in ("B10", "A2", "A10") for s in "12"]
    for one in samples:
        predict(tmp_path, one)
        plate = HCS.from_zarr(
            zarr.open_group(tmp_path / "predicted.zarr", mode="r")
        ).ome_attributes.plate
        assert plate.name == "P"
    assert [row.name for row in plate.rows] == ["A", "B"]
    assert [column.name for column in plate.columns] == ["2", "10"]
    assert [well.path for well in plate.wells] == ["A/2", "A/10", "B/10"]
    assert plate.field_count == 2
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("zarr.json")}
    list_in_plate(tmp_path / "predicted.zarr" / "A" / "2" / "0", "P")
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("zarr.json")}


def test_several_plates(tmp_path: Path) -> None:
    samples = [sample("x1", "A1", "", "P 1"), sample("x2", "A1", "", "P2")]
    assert predict(tmp_path, *samples) == {
        "x1": Path("predicted_P_1.zarr/A/1/0"),
        "x2": Path("predicted_P2.zarr/A/1/0"),
    }


def test_fields_of_another_plate_are_not_mixed_in(tmp_path: Path) -> None:
    predict(tmp_path, sample("a", "A1", "", "P"))
    for other in ("Q", ""):
        with pytest.raises(UserError, match=r"predicted\.zarr: holds predictions of plate P"):
            field_paths(tmp_path, [sample("a", "A1", "", other)])


def test_somebodys_plate_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "predicted.zarr").mkdir()
    (tmp_path / "predicted.zarr" / ".zattrs").write_text("{}")
    with pytest.raises(UserError, match=r"predicted\.zarr: is there already"):
        field_paths(tmp_path, [sample("a", "A1")])


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ome_zarr.writer", None)
    with pytest.raises(UserError, match="pip install ome-zarr"):
        field_paths(tmp_path, [sample("a")])

"""A file of several time points in, one file of as many out."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.conftest import write_zarr_image
from tests.inference.test_predictor import grey, make_checkpoint, make_predictor
from vfn.data.cache import ImageCache
from vfn.data.discovery.search import discover
from vfn.data.formats import scenes
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.inference import ome
from vfn.inference.folder import predict_samples, run
from vfn.inference.inputs import find_samples
from vfn.inference.ome import is_whole, write_ome
from vfn.system.shards import Shard

FRAMES = np.stack([grey(seed) for seed in range(3)])
SIZE = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "TimeIncrement": 60}


def movie(path: Path, array: np.ndarray = FRAMES, axes: str = "TYX", **metadata: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, ome=True, metadata={"axes": axes, **SIZE, **metadata})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A movie of three time points beside a single field."""
    movie(tmp_path / "in" / "m_phase.tif")
    tifffile.imwrite(tmp_path / "in" / "one_phase.tif", grey(9))
    return tmp_path / "in"


def test_one_file_for_each_movie(folder: Path, tmp_path: Path) -> None:
    predictor = make_predictor(make_checkpoint(targets=["dapi", "actin"]))
    paths = run(predictor, folder, tmp_path / "out")
    assert [path.name for path in paths] == ["m.ome.tif", "one.ome.tif"]
    expected = np.stack([predictor.predict([frame]) for frame in FRAMES])
    with tifffile.TiffFile(paths[0]) as tif:
        assert tif.series[0].axes == "TCYX"
        np.testing.assert_array_equal(tif.asarray(), expected)
    stacks = scenes(paths[0])[0].load()
    assert [stack.channels for stack in stacks] == [("dapi", "actin")] * 3
    assert {stack.time_step for stack in stacks} == {60.0}
    assert stacks[0].planes[0][0].pixel_size == 0.5
    np.testing.assert_array_equal(stacks[2].planes[1][0].read(), expected[2, 1])
    with tifffile.TiffFile(paths[1]) as tif:
        assert tif.series[0].axes == "CYX"


def test_a_whole_movie_is_kept_and_a_changed_one_predicted_anew(
    folder: Path, tmp_path: Path
) -> None:
    predictor = make_predictor(make_checkpoint())
    path = run(predictor, folder, tmp_path / "out")[0]
    before = path.stat().st_mtime_ns
    assert run(predictor, folder, tmp_path / "out")[0].stat().st_mtime_ns == before
    changed = FRAMES.copy()
    changed[1, 0, 0] += 1
    movie(folder / "m_phase.tif", changed)
    assert run(predictor, folder, tmp_path / "out")[0].stat().st_mtime_ns != before
    np.testing.assert_array_equal(tifffile.imread(path)[1], predictor.predict([changed[1]])[0])


def test_a_damaged_time_point_refuses_its_movie_alone(folder: Path, tmp_path: Path) -> None:
    path = movie(folder / "m_phase.tif")
    nan = FRAMES.astype(np.float32)
    movie(path, nan)
    predictor = make_predictor(make_checkpoint())
    with pytest.raises(UserError, match=r"1 of 2 fields were not predicted.*m_t1.*float32"):
        run(predictor, folder, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("*.tif")] == ["one.ome.tif"]


def test_jobs_share_movies_whole(folder: Path, tmp_path: Path) -> None:
    predictor = make_predictor(make_checkpoint())
    for number in (1, 2):
        run(predictor, folder, tmp_path / "out", shard=Shard(number, 2))
    assert tifffile.imread(tmp_path / "out" / "m.ome.tif").shape == (3, *FRAMES.shape[1:])


def test_a_time_point_alone_is_a_field(folder: Path, tmp_path: Path) -> None:
    predictor = make_predictor(make_checkpoint())
    samples = find_samples(predictor.checkpoint, folder)
    (path,) = predict_samples(predictor, samples[1:2], tmp_path / "out")
    assert path.name == "m_t2.ome.tif"
    np.testing.assert_array_equal(tifffile.imread(path), predictor.predict([FRAMES[1]])[0])


def test_a_movie_that_loses_a_time_point_is_refused(folder: Path, tmp_path: Path) -> None:
    def leave_out(samples: list[Sample], store: ImageCache) -> list[Sample]:
        return [sample for sample in samples if sample.name != "m_t2"]

    predictor = make_predictor(make_checkpoint())
    with pytest.raises(UserError, match=r"field m: 1 of its 3 time points"):
        run(predictor, folder, tmp_path / "out", prepare=leave_out)
    assert [p.name for p in (tmp_path / "out").glob("*.tif")] == ["one.ome.tif"]


def test_planes_and_times(tmp_path: Path) -> None:
    stack = np.stack([FRAMES, FRAMES[::-1]])  # T, Z
    movie(tmp_path / "in" / "m_phase.tif", stack, "TZYX", PhysicalSizeZ=2.0)
    each = make_predictor(make_checkpoint(input_z=(-2.0, 0.0, 2.0)))
    paths = run(each, tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in paths) == ["m_z-2.ome.tif", "m_z0.ome.tif", "m_z2.ome.tif"]
    expected = np.stack([each.predict([frame])[0] for frame in stack[:, 0]])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "m_z-2.ome.tif"), expected)


def test_an_ome_zarr_of_several_time_points(tmp_path: Path) -> None:
    write_zarr_image(tmp_path / "in" / "m.zarr", FRAMES[:, None], "tcyx", ["phase"])
    predictor = make_predictor(make_checkpoint())
    (path,) = run(predictor, tmp_path / "in", tmp_path / "out", "ome_zarr")
    assert path.name == "m.zarr"
    before = path.stat().st_mtime_ns
    fields = discover(path, make_checkpoint(["dapi"]).layout, ["dapi"])
    assert [entry.name for entry in fields] == ["m_t1", "m_t2", "m_t3"]
    for entry, frame in zip(fields, FRAMES, strict=True):
        expected = predictor.predict([frame])[0]
        np.testing.assert_array_equal(entry.planes["dapi", 0.0].read(), expected)
    assert run(predictor, tmp_path / "in", tmp_path / "out", "ome_zarr") == [path]
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("in_memory", [2**26, 64])
def test_frames_are_written_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(ome, "IN_MEMORY", in_memory)
    path, array = tmp_path / "a.ome.tif", np.stack([FRAMES, FRAMES[::-1], FRAMES + 1])
    bands = (frame[:, top : top + 10] for frame in array for top in range(0, 37, 10))
    names = ("a", "b", "c")
    write_ome(path, bands, (37, 45), "uint16", names, 0.5, "abc", times=3, time_step=2.5)
    np.testing.assert_array_equal(tifffile.imread(path), array)
    kept = is_whole(path, "abc", (37, 45), 3)
    assert kept is not None
    np.testing.assert_array_equal(kept, array[-1])
    for other in ((37, 45), 2), ((45, 37), 3), ((37, 45), None):
        assert is_whole(path, "abc", *other) is None
    assert is_whole(path, "abd", (37, 45), 3) is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert is_whole(path, "abc", (37, 45), 3) is None


def test_somebodys_movie_is_not_taken_for_a_prediction(tmp_path: Path) -> None:
    path = movie(tmp_path / "m.ome.tif")
    for times in (3, None):
        with pytest.raises(UserError, match="no prediction of vfn"):
            is_whole(path, "abc", (37, 45), times)

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data import describe
from vfn.data.config import DataConfig
from vfn.data.discovery.fields import FilePlane
from vfn.data.grid import Binning, Regridded, over_true_pixels, relative_size
from vfn.data.samples import Task
from vfn.data.sets import FolderData
from vfn.errors import UserError

RNG = np.random.default_rng(0)


def plane(path: Path, array: np.ndarray) -> FilePlane:
    tifffile.imwrite(path, array, resolution=(1e4, 1e4), resolutionunit="CENTIMETER")  # 1 um
    return FilePlane(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_pixels_are_repeated_or_averaged(tmp_path: Path, dtype: str) -> None:
    array = np.array([[1, 2, 30, 40], [3, 5, 50, 61]], dtype)
    coarse = plane(tmp_path / "a.tif", array)
    repeated = Regridded(coarse, 3.0)
    assert repeated.read().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(repeated.read(), np.kron(array, np.ones((3, 3), dtype)))
    assert repeated.pixel_size == pytest.approx(1 / 3)
    averaged = Regridded(coarse, 0.5)
    expected = [[2.75, 45.25]] if dtype == "float32" else [[3, 45]]
    assert averaged.read().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(averaged.read(), expected)
    assert averaged.pixel_size == pytest.approx(2)
    assert len({coarse.key, repeated.key, averaged.key}) == 3
    with pytest.raises(UserError, match="2x4 pixels, of which 3x3"):
        Regridded(coarse, 1 / 3).read()


@pytest.mark.parametrize(
    ("shape", "size"),
    [((60, 80), 1), ((30, 40), 2), ((20, 26), 1), ((15, 20), 4), ((30, 80), 1), ((120, 160), 0.5),
     ((29, 40), 1), ((1, 1), 1)],
)  # fmt: skip
def test_only_an_integral_ratio_on_both_sides_is_binning(
    shape: tuple[int, int], size: float
) -> None:
    assert relative_size((60, 80), shape) == size


@given(
    st.integers(2, 4), st.integers(0, 7), st.integers(0, 7), st.integers(1, 9), st.integers(1, 9)
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_means_over_true_pixels(size: int, top: int, left: int, height: int, width: int) -> None:
    whole = RNG.normal(0, 1, (2, 40, 40)).astype(np.float32)
    image = whole[:, top : top + height, left : left + width]
    found = over_true_pixels(image, float(size), (top, left))
    for y in range(height):
        for x in range(width):
            rows = [r for r in range(height) if (r + top) // size == (y + top) // size]
            columns = [c for c in range(width) if (c + left) // size == (x + left) // size]
            block = image[:, rows][:, :, columns]
            np.testing.assert_allclose(found[:, y, x], block.mean((1, 2)), atol=1e-6)


def test_what_is_repeated_stays_as_it_is() -> None:
    repeated = np.kron(RNG.integers(0, 60_000, (5, 6)), np.ones((3, 3), int)).astype(np.uint16)
    np.testing.assert_array_equal(over_true_pixels(repeated, 3.0), repeated)
    np.testing.assert_array_equal(over_true_pixels(repeated[1:, 2:], 3.0, (1, 2)), repeated[1:, 2:])


def test_plain_data_round_trip() -> None:
    binning = Binning((1.0, 0.5), (2.0,))
    assert Binning.from_dict(binning.to_dict(), 2, 1) == binning
    assert Binning.from_dict(None, 2, 1) == Binning((1.0, 1.0), (1.0,))
    for bad in ({"inputs": [1], "targets": [1.5]}, {"inputs": [1], "targets": []},
                {"inputs": [1], "targets": [1e9]}, {"inputs": [1], "targets": [float("nan")]}):  # fmt: skip
        with pytest.raises(ValueError, match="binning"):
            Binning.from_dict(bad, 1, 1)


def test_a_data_set_comes_onto_the_grid_of_its_first_input(tmp_path: Path) -> None:
    fields = {}
    for i in range(5):
        fine = RNG.integers(0, 60_000, (40, 48)).astype(np.uint16)
        coarse = RNG.integers(0, 60_000, (20, 24)).astype(np.uint16)
        finest = RNG.integers(0, 60_000, (80, 96)).astype(np.uint16)
        fields[f"{i}"] = (fine, finest, coarse)
        for name, array in zip(("rna", "er", "dna"), fields[f"{i}"], strict=True):
            tifffile.imwrite(tmp_path / f"{i}_{name}.tif", array)
    config = DataConfig("folder", str(tmp_path), patch_size=16, cache_dir=str(tmp_path / "cache"))
    data = FolderData(Task("t", ("rna", "er"), ("dna",)), config)
    data.setup()
    assert data.registration.binning == Binning((1.0, 0.5), (2.0,))
    assert "on the grid of rna: er averaged 2x2, dna repeated 2x2" in describe.summary(data)
    assert describe.recipe(data)["binning"] == {"inputs": [1.0, 0.5], "targets": [2.0]}
    assert data.split is not None
    for sample in data.split.train:
        fine, finest, coarse = fields[sample.name]
        np.testing.assert_array_equal(data.store.read(sample.inputs[0]), fine)
        means = np.rint(finest.reshape(40, 2, 48, 2).mean((1, 3)))
        np.testing.assert_array_equal(data.store.read(sample.inputs[1]), means)
        assert sample.targets[0] is not None
        repeated = data.store.read(sample.targets[0])
        np.testing.assert_array_equal(repeated[::2, ::2], coarse)
        np.testing.assert_array_equal(repeated[1::2, 1::2], coarse)


def test_another_ratio_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for i in range(5):
        tifffile.imwrite(tmp_path / f"{i}_rna.tif", np.eye(40, dtype=np.uint16))
        tifffile.imwrite(tmp_path / f"{i}_dna.tif", np.eye(27, dtype=np.uint16))
    config = DataConfig("folder", str(tmp_path), patch_size=16, cache="off")
    with pytest.raises(
        UserError, match=r"2x2, 3x3, \.\.\. of the other in every field; crop or scale"
    ):
        FolderData(Task("t", ("rna",), ("dna",)), config).setup()

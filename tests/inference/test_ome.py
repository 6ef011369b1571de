from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vfn.data.images import DTYPES, read_image
from vfn.errors import UserError
from vfn.inference import ome
from vfn.inference.ome import gathered, is_whole, write_ome

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 20)])
def test_what_is_written_is_read(
    tmp_path: Path, dtype: str, channels: int, size: tuple[int, int]
) -> None:
    array = (RNG.random((channels, *size)) * 250).astype(dtype)
    names = tuple(["dapi", "α-actin <&>", "far red", "er", 'so "x"'][:channels])
    path = tmp_path / "a field.ome.tif"
    write_ome(path, [array], size, dtype, names, 0.65, "abc")
    image = read_image(path)
    assert image.array.dtype == array.dtype
    np.testing.assert_array_equal(image.array, array)
    assert image.channels == names
    assert image.pixel_size == pytest.approx(0.65)
    assert [p.name for p in tmp_path.iterdir()] == ["a field.ome.tif"]
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        axes, shape = (
            tif.series[0].get_axes(squeeze=False),
            tif.series[0].get_shape(squeeze=False),
        )
        sizes = {axis: side for axis, side in zip(axes, shape, strict=True) if side > 1}
        long = {"C": channels, "Y": size[0], "X": size[1]}
        assert list(sizes.items()) == [(a, n) for a, n in long.items() if n > 1]
        assert "predicted by vfn" in str(tif.ome_metadata)


@pytest.mark.parametrize("in_memory", [10**6, 100])
def test_bands_are_gathered_into_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(ome, "IN_MEMORY", in_memory)
    image = RNG.integers(0, 60000, (2, 11, 7), np.uint16)
    bands = (image[:, top : top + 4] for top in range(0, 11, 4))
    with gathered(bands, image.shape, "uint16", tmp_path / "new" / "a.zarr") as whole:
        assert isinstance(whole, np.memmap) == (in_memory == 100)
        np.testing.assert_array_equal(whole, image)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_unknown_pixel_size_stays_unknown(tmp_path: Path) -> None:
    write_ome(
        tmp_path / "a.ome.tif",
        [np.zeros((1, 4, 5), np.uint8)],
        (4, 5),
        "uint8",
        ("dapi",),
        None,
        "abc",
    )
    assert read_image(tmp_path / "a.ome.tif").pixel_size is None


def test_the_same_prediction_is_the_same_file_byte_for_byte(tmp_path: Path) -> None:
    array = np.arange(40, dtype=np.uint16).reshape(1, 5, 8)
    for name, identity in (("a", "abc"), ("b", "abc"), ("c", "other")):
        path = tmp_path / f"{name}.ome.tif"
        write_ome(path, [array], (5, 8), "uint16", ("dapi",), 0.65, identity, ["a remark"])
    first, second, other = ((tmp_path / f"{name}.ome.tif").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    array = RNG.integers(0, 60_000, (2, 30, 40)).astype(np.uint16)
    assert is_whole(path, "abc", (30, 40)) is None
    write_ome(path, [array], (30, 40), "uint16", ("dapi", "actin"), 0.5, "abc")
    kept = is_whole(path, "abc", (30, 40))
    assert kept is not None
    np.testing.assert_array_equal(kept, array)
    assert is_whole(path, "abd", (30, 40)) is None
    assert is_whole(path, "abc", (40, 30)) is None
    data = path.read_bytes()
    size = len(data)
    for cut in (*range(0, size, size // 20), *range(size - 400, size, 7), size - 1):
        path.write_bytes(data[:cut])
        assert is_whole(path, "abc", (30, 40)) is None


def test_somebodys_image_is_not_taken_for_a_prediction(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8))
    with pytest.raises(UserError, match=r"a\.ome\.tif: is there already and is no prediction"):
        is_whole(path, "abc", (4, 5))


@pytest.mark.parametrize("size", [(1200, 700), (512, 512), (3, 1100)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_goes_through_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], channels: int
) -> None:
    monkeypatch.setattr(ome, "IN_MEMORY", 1000)
    array = RNG.integers(0, 60_000, (channels, *size)).astype(np.uint16)
    bands = [array[:, top : top + 97] for top in range(0, size[0], 97)]
    path = tmp_path / "a.ome.tif"
    names = ("dapi", "er", "rna")[:channels]
    write_ome(path, iter(bands), size, "uint16", names, 0.5, "abc")
    kept = is_whole(path, "abc", size)
    assert kept is not None
    np.testing.assert_array_equal(kept, array)
    assert read_image(path).channels == names
    with tifffile.TiffFile(path) as tif:
        assert tif.pages.first.is_tiled
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.tif"]


def test_bands_that_end_in_an_error_leave_nothing(tmp_path: Path) -> None:
    def bands() -> Iterator[np.ndarray]:
        yield np.zeros((1, 2, 5), np.uint8)
        raise UserError("the rest is gone")

    with pytest.raises(UserError, match="the rest is gone"):
        write_ome(tmp_path / "a.ome.tif", bands(), (4, 5), "uint8", ("dapi",), None, "abc")
    assert not list(tmp_path.iterdir())

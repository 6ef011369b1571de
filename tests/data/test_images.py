import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.odd_files import png, png_chunk
from tests.ome_set import ome_set, page
from vfn.data.images import read_image, strip_suffix
from vfn.data.walk import find_images
from vfn.errors import UserError

RNG = np.random.default_rng(0)
GREY16 = RNG.integers(0, 60_000, (37, 53)).astype(np.uint16)
GREY8 = RNG.integers(0, 256, (37, 53)).astype(np.uint8)
STACK = RNG.integers(0, 60_000, (3, 37, 53)).astype(np.uint16)
RGB = RNG.integers(0, 256, (37, 53, 3)).astype(np.uint8)


def written(path: Path, array: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def refused(path: Path, *words: str) -> None:
    """One line that names the file and says each of `words`."""
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"compression": c} for c in ("lzw", "zlib", "deflate", "zstd", "packbits", "lzma")),
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "predictor": True, "rowsperstrip": 5},
        {"compression": "jpeg2000", "compressionargs": {"reversible": True, "level": 0}},
        {"compression": "jpegxl", "compressionargs": {"lossless": True}},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib", "predictor": True},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"tile": (32, 16), "compression": "zstd"},
        {"rowsperstrip": 4},
        {"photometric": "miniswhite"},
    ],
    ids=str,
)
@pytest.mark.parametrize("array", [GREY8, GREY16], ids=["uint8", "uint16"])
def test_every_encoding_gives_the_pixels_back(
    tmp_path: Path, array: np.ndarray, options: dict[str, object]
) -> None:
    image = read_image(written(tmp_path / "a.tif", array, **options))
    assert image.array.dtype == array.dtype
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array, array[np.newaxis])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_floats_become_float32(tmp_path: Path, dtype: str, compression: str | None) -> None:
    array = RNG.normal(0, 10, (11, 7)).astype(dtype)
    image = read_image(written(tmp_path / "a.tif", array, compression=compression))
    assert image.array.dtype == np.dtype("float32")
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array[0], array.astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("ome", [False, True])
def test_smallest_images(tmp_path: Path, shape: tuple[int, int], ome: bool) -> None:
    array = GREY16[: shape[0], : shape[1]]
    image = read_image(written(tmp_path / "a.tif", array, ome=ome))
    np.testing.assert_array_equal(image.array, array[np.newaxis])


@pytest.mark.parametrize("array", [GREY8, GREY16], ids=["uint8", "uint16"])
def test_png(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.PNG"
    path.write_bytes(imagecodecs.png_encode(array))
    image = read_image(path)
    assert image.array.dtype == array.dtype
    np.testing.assert_array_equal(image.array, array[np.newaxis])


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    tiff = written(tmp_path / "a.tif", GREY16).rename(tmp_path / "tiff.png")
    np.testing.assert_array_equal(read_image(tiff).array[0], GREY16)
    (tmp_path / "png.tif").write_bytes(imagecodecs.png_encode(GREY8))
    np.testing.assert_array_equal(read_image(tmp_path / "png.tif").array[0], GREY8)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "metadata": None},
        {"photometric": "minisblack", "planarconfig": "separate"},
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}},
        {"bigtiff": True, "photometric": "minisblack", "compression": "zlib", "byteorder": ">"},
    ],
    ids=str,
)
def test_planes_of_one_file_in_order(tmp_path: Path, options: dict[str, object]) -> None:
    path = written(tmp_path / "a.tif", STACK, **options)
    np.testing.assert_array_equal(read_image(path).array, STACK)


def test_samples_behind_the_pixels_are_channels(tmp_path: Path) -> None:
    behind = np.ascontiguousarray(np.moveaxis(STACK, 0, -1))
    path = written(tmp_path / "a.tif", behind, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(path).array, STACK)


@pytest.mark.parametrize(
    ("value", "unit", "micrometres"),
    [(0.65, "µm", 0.65), (0.65, None, 0.65), (650, "nm", 0.65), (0.001, "mm", 1.0),
     (0.5, "pixel", None), (0.5, "reference frame", None)],
)  # fmt: skip
def test_ome_names_and_pixel_size(
    tmp_path: Path, value: float, unit: str | None, micrometres: float | None
) -> None:
    names = ["phase", "DAPI", "α-actin <&>"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}, "PhysicalSizeX": value}
    if unit:
        metadata["PhysicalSizeXUnit"] = unit
    image = read_image(
        written(tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata=metadata)
    )
    assert image.channels == tuple(names)
    assert image.pixel_size == (None if micrometres is None else pytest.approx(micrometres))


@pytest.mark.parametrize("names", [["a", "a", "b"], ["a", "", "b"]])
def test_names_that_do_not_tell_channels_apart_are_no_names(
    tmp_path: Path, names: list[str]
) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    path = written(tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata=metadata)
    assert read_image(path).channels is None


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [("um", 0.5), ("micron", 0.5), ("\\u00B5m", 0.5), ("nm", 5e-4), ("mm", 500.0), ("inch", None)],
)
def test_imagej_pixel_size(tmp_path: Path, unit: str, micrometres: float | None) -> None:
    path = written(
        tmp_path / "a.tif", GREY16, imagej=True, resolution=(2.0, 2.0), metadata={"unit": unit}
    )
    image = read_image(path)
    assert image.pixel_size == (None if micrometres is None else pytest.approx(micrometres))


def test_imagej_labels_name_the_channels(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Labels": ["phase", "dapi", "actin"]}
    path = written(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata)
    assert read_image(path).channels == ("phase", "dapi", "actin")


@pytest.mark.parametrize(("unit", "micrometres"), [("um", 0.32), ("pixel", None)])
def test_metamorph_pixel_size(tmp_path: Path, unit: str, micrometres: float | None) -> None:
    description = (
        "<MetaData><prop id=\"spatial-calibration-x\" type=\"float\" value=\"0.32\"/>"
        f"<prop id=\"spatial-calibration-units\" type=\"string\" value=\"{unit}\"/></MetaData>"
    )  # fmt: skip
    path = written(tmp_path / "a.tif", GREY16, description=description, metadata=None)
    assert read_image(path).pixel_size == micrometres


@pytest.mark.parametrize(
    ("unit", "per_unit", "micrometres"),
    [
        ("centimeter", 1e4 / 0.325, 0.325), ("inch", 25_400 / 0.65, 0.65),
        # Defaults of print and screen: 72, 600 dpi, 300 dpi in centimetres; a number without a unit.
        ("inch", 72, None), ("inch", 600, None), ("centimeter", 118.11, None), ("none", 1e4, None),
    ],
)  # fmt: skip
def test_pixel_size_by_the_tags_of_tiff(
    tmp_path: Path, unit: str, per_unit: float, micrometres: float | None
) -> None:
    path = written(tmp_path / "a.tif", GREY16, resolution=(per_unit, per_unit), resolutionunit=unit)
    expected = None if micrometres is None else pytest.approx(micrometres, rel=1e-5)
    assert read_image(path).pixel_size == expected


@pytest.mark.parametrize("suffix", [".stk", ".lsm", ".btf", ".tf8", ".ome.btf", ".STK"])
def test_tiffs_by_other_names_are_found_and_read(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", GREY16, bigtiff="f" in suffix, metadata=None)
    assert find_images(tmp_path) == [path]
    np.testing.assert_array_equal(read_image(path).array[0], GREY16)
    assert strip_suffix(path) == "a"


def test_an_ome_file_of_a_set_gives_its_own_plane(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ome_set(tmp_path, {"a_1.ome.tif": [(1, 0, 0)], "a.ome.tif": [(0, 0, 0)]})
    for c, name in enumerate(("a", "a_1")):
        image = read_image(tmp_path / f"{name}.ome.tif")
        np.testing.assert_array_equal(image.array, [page(c)])
        assert image.pixel_size == 0.5
        assert image.channels == (("one", "two")[c],)
        assert image.acquisition == "a.ome.tif"
    # Without its sibling the missing plane must not come back as zeros. By its new name nothing is
    # known of the others.
    moved = (tmp_path / "a_1.ome.tif").rename(tmp_path / "alone.ome.tif")
    (tmp_path / "a.ome.tif").unlink()
    with caplog.at_level(logging.CRITICAL):
        image = read_image(moved)
    np.testing.assert_array_equal(image.array, [page(1)])
    assert (image.channels, image.acquisition) == (("two",), None)


def test_channels_of_a_set_in_another_order(tmp_path: Path) -> None:
    files = {"a.ome.tif": [(1, 0, 0), (0, 0, 0)], "b.ome.tif": [(0, 0, 1)]}
    ome_set(tmp_path, files, sizes=(2, 1, 2))
    image = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image.array, [page(1), page(0)])
    assert image.channels == ("two", "one")
    assert image.acquisition is None  # several time points lie in files of their own


def test_planes_of_a_stack_are_no_channels(tmp_path: Path) -> None:
    ome_set(
        tmp_path,
        {"a.ome.tif": [(0, 0, 0), (0, 1, 0)], "b.ome.tif": [(1, 0, 0), (1, 1, 0)]},
        sizes=(2, 2, 1),
    )
    assert read_image(tmp_path / "a.ome.tif").channels is None


def test_no_other_file_is_opened_whatever_the_metadata_name(tmp_path: Path) -> None:
    ome_set(tmp_path, {"a.ome.tif": [(0, 0, 0)], "pipe.ome.tif": [(1, 0, 0)]})
    (tmp_path / "pipe.ome.tif").unlink()
    os.mkfifo(tmp_path / "pipe.ome.tif")  # opening it would wait for ever
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif").array, [page(0)])


def test_a_count_of_planes_beyond_the_file_is_not_believed(tmp_path: Path) -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="53" SizeY="37" SizeC="1" '
        'SizeZ="1" SizeT="1"><TiffData IFD="0" PlaneCount="9999999999"/></Pixels></Image></OME>'
    )
    path = written(tmp_path / "a.ome.tif", GREY16, description=xml, metadata=None)
    np.testing.assert_array_equal(read_image(path).array, [GREY16])


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.parametrize("described", [False, True])
def test_pages_of_many_kinds_are_refused_at_once(tmp_path: Path, described: bool) -> None:
    # tifffile compares each with each: 2000 sizes took 34 s, 2000 images of its own 4 s.
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for i in range(1000):
            tif.write(
                np.zeros((8, 8 + i * (not described)), np.uint16),
                metadata={} if described else None,
            )
    assert _seconds(lambda: refused(path, "holds more than 64 images", "one stack")) < 1


def test_the_time_for_pages_grows_with_their_number(tmp_path: Path) -> None:
    def write(count: int) -> Path:
        path = tmp_path / f"{count}.tif"
        with tifffile.TiffWriter(path) as tif:
            for i in range(count):
                tif.write(np.full((8, 8), i, np.uint16), metadata=None)
        return path

    few, many = write(200), write(2000)
    assert read_image(many).array[:, 0, 0].tolist() == list(range(2000))
    many.touch()  # read anew
    assert _seconds(lambda: read_image(many)) < 30 * _seconds(lambda: read_image(few))


def lsm(path: Path, planes: np.ndarray, **options: object) -> Path:
    """A Zeiss LSM of one plane: channels (C, H, W) as separate samples, marked as RGB, and a thumbnail
    in colour behind it; 0.2 um a pixel."""
    channels, height, width = planes.shape
    sizes = (width, height, 1, channels, 1, 3 if planes.itemsize == 1 else 2, 64, 64)
    info = struct.pack("<II8i3d3dHH", 0x0400494C, 500, *sizes, 2e-7, 2e-7, 0, 0, 0, 0, 0, 0)
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            planes if channels > 1 else planes[0], metadata=None, planarconfig="separate",
            photometric="rgb" if channels == 3 else "minisblack",
            extratags=[(34412, 1, len(info), info + bytes(500 - len(info)), True)], **options,
        )  # fmt: skip
        tif.write(np.zeros((16, 16, 3), np.uint8), photometric="rgb", subfiletype=1, metadata=None)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_an_lsm_gives_its_channels_and_not_the_thumbnail(tmp_path: Path, channels: int) -> None:
    image = read_image(lsm(tmp_path / "a.lsm", STACK[:channels]))
    np.testing.assert_array_equal(image.array, STACK[:channels])
    assert image.pixel_size == pytest.approx(0.2)
    assert not image.colour


def _ramp(steps: int = 256) -> np.ndarray:
    return np.arange(256) // (256 // steps) * (256 // steps) * 257


def _table(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return np.stack([red, green, blue]).clip(0, 65535).astype(np.uint16)


RAMP, DARK = _ramp(), 0 * _ramp()
FIRE = _table(3 * RAMP, 3 * RAMP - 65535, np.abs(2 * RAMP - 65535))
SIXTEEN = _table(_ramp(16), 65535 * (np.arange(256) // 16 % 2), 65535 - _ramp(16))
TABLES = {
    "grey": _table(RAMP, RAMP, RAMP), "inverted": 65535 - _table(RAMP, RAMP, RAMP),
    "half": _table(RAMP, RAMP, RAMP) // 2, "green": _table(DARK, RAMP, DARK), "black": _table(*[DARK] * 3),
    "fire": FIRE, "16 colors": SIXTEEN,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_values_under_a_display_table_are_data(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.tif", GREY8, photometric="palette", colormap=TABLES[name])
    np.testing.assert_array_equal(read_image(path).array[0], GREY8)


def test_values_under_any_table_of_imagej_are_data(tmp_path: Path) -> None:
    colours = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    path = written(
        tmp_path / "a.tif", GREY8, photometric="palette", colormap=colours, metadata=None,
        description="ImageJ=1.54f\nmin=0.0\nmax=255.0\n",
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(path).array[0], GREY8)


@pytest.mark.parametrize("colours", [8, 16, 256])
def test_colour_palette_is_refused(tmp_path: Path, colours: int) -> None:
    table = np.zeros((3, 256), np.uint16)
    table[:, :colours] = RNG.integers(0, 65536, (3, colours))
    path = written(tmp_path / "a.tif", GREY8, photometric="palette", colormap=table)
    refused(path, "PALETTE", "grey")


COLOUR_FILES = [
    ({"photometric": "rgb"}, RGB),
    ({"photometric": "rgb", "planarconfig": "separate"}, np.moveaxis(RGB, -1, 0)),
    ({"photometric": "rgb"}, np.dstack([RGB, np.full_like(RGB[..., :1], 255)])),  # opaque
    ({"photometric": "rgb", "compression": "zlib"}, RGB.astype(np.uint16) * 250),
]


@pytest.mark.parametrize(("options", "array"), COLOUR_FILES, ids=range(len(COLOUR_FILES)))
def test_a_colour_tiff_is_three_channels_on_request(
    tmp_path: Path, options: dict[str, object], array: np.ndarray
) -> None:
    path = written(tmp_path / "a.tif", array, **options)
    refused(path, "RGB colour", "grey is expected", "data.channels={r: 0, g: 1, b: 2}")
    image = read_image(path, colour=True)
    assert image.channels == ("red", "green", "blue")
    behind = np.moveaxis(image.array, 0, -1)
    np.testing.assert_array_equal(behind, RGB if array.dtype == np.uint8 else array)


@pytest.mark.parametrize("separate", [False, True])
def test_a_tiff_of_equal_colours_is_grey(tmp_path: Path, separate: bool) -> None:
    array = np.stack([GREY16] * 3, 0 if separate else -1)
    path = written(
        tmp_path / "a.tif", array, photometric="rgb",
        planarconfig="separate" if separate else "contig",
    )  # fmt: skip
    image = read_image(path)
    np.testing.assert_array_equal(image.array, GREY16[np.newaxis])
    assert image.channels is None
    array[..., -1, -1] ^= 1  # one pixel in one colour
    written(path, array, photometric="rgb", planarconfig="separate" if separate else "contig")
    if not separate:
        refused(path, "RGB colour")


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (RGB, {"photometric": "ycbcr", "compression": "jpeg"}, ["RGB colour"]),
        (np.dstack([RGB, RGB[..., :1]]), {"photometric": "rgb"}, ["transparency"]),
        (RGB.astype(np.float32), {"photometric": "rgb"}, ["colours of float32"]),
        (RGB, {"photometric": "cielab"}, ["CIELAB", "grey", "export each channel"]),
        (np.dstack([RGB, RGB[..., :1]]), {"photometric": "separated"}, ["SEPARATED"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_other_colours_are_refused(
    tmp_path: Path, array: np.ndarray, options: dict[str, object], words: list[str]
) -> None:
    refused(written(tmp_path / "a.tif", array, **options), *words)


def test_a_colour_png_is_three_channels_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    opaque = np.full_like(RGB[..., :1], 255)
    for array in (RGB, np.dstack([RGB, opaque])):
        path.write_bytes(imagecodecs.png_encode(array))
        refused(path, "RGB colour", "grey")
        image = read_image(path, colour=True)
        assert image.channels == ("red", "green", "blue")
        np.testing.assert_array_equal(np.moveaxis(image.array, 0, -1), RGB)
    # Palette: pixels 0 and 1 of two colours.
    path.write_bytes(png(2, 1, 8, 3, b"\0\0\1", png_chunk(b"PLTE", bytes(range(6)))))
    refused(path, "RGB colour")
    np.testing.assert_array_equal(
        read_image(path, colour=True).array, [[[0, 3]], [[1, 4]], [[2, 5]]]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_of_equal_colours_is_grey(tmp_path: Path, dtype: type) -> None:
    path, grey = tmp_path / "a.png", GREY16.astype(dtype)
    opaque = np.full_like(grey, np.iinfo(dtype).max)
    for samples in ([grey] * 3, [grey] * 3 + [opaque], [grey, opaque]):
        path.write_bytes(imagecodecs.png_encode(np.dstack(samples)))
        np.testing.assert_array_equal(read_image(path).array, grey[np.newaxis])
    path.write_bytes(png(2, 1, 8, 3, b"\0\0\1", png_chunk(b"PLTE", b"\7\7\7\5\5\5")))
    np.testing.assert_array_equal(read_image(path).array, [[[7, 5]]])


def test_transparency_and_odd_depths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(np.dstack([RGB, RGB[..., :1]])))
    refused(path, "transparency")
    path.write_bytes(png(2, 1, 8, 0, b"\0\5\6", png_chunk(b"tRNS", b"\0\5")))
    refused(path, "transparency")
    path.write_bytes(png(8, 1, 1, 0, b"\0\x55"))
    refused(path, "1-bit")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None, "rowsperstrip": 3},
        {"compression": "lzw"},
        {"compression": "zlib", "rowsperstrip": 4},
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "zstd", "bigtiff": True},
        {"stack": True, "photometric": "minisblack", "metadata": None},
        {"stack": True, "photometric": "minisblack", "compression": "lzw"},
        {"stack": True, "imagej": True, "metadata": {"axes": "CYX"}},
        {"stack": True, "ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}},
        {"stack": True, "ome": True, "photometric": "minisblack", "compression": "zlib",
         "metadata": {"axes": "CYX"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_truncated_tiff_never_gives_wrong_pixels(
    tmp_path: Path, options: dict[str, object]
) -> None:
    options = dict(options)
    truth = STACK if options.pop("stack", False) else GREY16[np.newaxis]
    check_cuts(
        written(tmp_path / "whole.tif", truth.squeeze(), **options).read_bytes(), tmp_path, truth
    )


def test_a_truncated_tiff_with_its_table_at_the_end(tmp_path: Path) -> None:
    # libtiff (ImageJ, MATLAB) writes pixels first: move the table of tifffile's file to the end.
    path = written(tmp_path / "a.tif", GREY16, metadata=None, compression="zlib", rowsperstrip=5)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        start = tif.pages.first.offset
        length = tif.tiff.tagnosize + len(tif.pages.first.tags) * 12 + 4
    moved = data[:4] + struct.pack("<I", len(data)) + data[8:] + data[start : start + length]
    check_cuts(moved, tmp_path, GREY16[np.newaxis])


@pytest.mark.parametrize("array", [GREY8, GREY16], ids=["uint8", "uint16"])
def test_a_truncated_png_never_gives_wrong_pixels(tmp_path: Path, array: np.ndarray) -> None:
    check_cuts(imagecodecs.png_encode(array), tmp_path, array[np.newaxis])


def check_cuts(whole: bytes, folder: Path, truth: np.ndarray) -> None:
    """Cut at every tenth, close to both ends, and at random places."""
    size = len(whole)
    cuts = {size * tenth // 10 for tenth in range(10)} | {1, 3, 7, 8, 9, 20}
    cuts |= {size - n for n in (1, 2, 4, 8, 12, 13, 20)}
    cuts |= {int(n) for n in np.random.default_rng(1).integers(0, size, 20)}
    path = folder / "cut.tif"
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path).array, truth)
    refusals: list[str] = []
    logging.getLogger("tifffile").disabled = True
    try:
        for cut in sorted(cuts):
            path.write_bytes(whole[:cut])
            try:
                array = read_image(path).array
            except UserError as exc:
                refusals.append(str(exc))
            else:
                np.testing.assert_array_equal(array, truth)
    finally:
        logging.getLogger("tifffile").disabled = False
    assert len(refusals) > len(cuts) // 2
    assert all(str(path) in line and "\n" not in line for line in refusals)


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".ome.tif", ".png"])
def test_what_is_no_image_is_refused(tmp_path: Path, suffix: str) -> None:
    text = tmp_path / f"text{suffix}"
    text.write_text("well,site\nA01,1\n")
    refused(text, "cannot be read")
    empty = tmp_path / f"empty{suffix}"
    empty.touch()
    refused(empty)
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    refused(folder, "folder")
    link = tmp_path / f"link{suffix}"
    link.symlink_to(tmp_path / "nowhere")
    refused(link, "cannot be read")
    refused(tmp_path / f"missing{suffix}", "cannot be read")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    array = np.zeros((5, 6), np.float32)
    array[2, 3] = array[4, 5] = value
    refused(written(tmp_path / "a.tif", array), "2 pixels")


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    refused(written(tmp_path / "a.tif", np.full((2, 2), 1e300)), "4 pixels")


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_whole_numbers_with_a_sign_or_32_bit(tmp_path: Path, dtype: str, byteorder: str) -> None:
    limits = np.iinfo(dtype)
    array = np.array([[limits.min, 0, 1], [7, 300, limits.max]], dtype)
    image = read_image(written(tmp_path / "a.tif", array, byteorder=byteorder))
    assert image.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.array, [array])


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64", "bool", "complex64"])
def test_other_dtypes_are_refused(tmp_path: Path, dtype: str) -> None:
    refused(written(tmp_path / "a.tif", np.ones((4, 5), dtype)), dtype, "uint8, uint16, int16")


@pytest.mark.parametrize(
    ("axes", "options"),
    [("TZYX", {"imagej": True}), ("ZCYX", {"imagej": True}), ("TCYX", {"ome": True}),
     ("TYX", {"imagej": True}), ("ZYX", {"ome": True}), ("TYX", {})],
)  # fmt: skip
def test_time_and_depth_are_no_channels(
    tmp_path: Path, axes: str, options: dict[str, object]
) -> None:
    array = np.zeros((2, 3, 8, 9)[-len(axes) :], np.uint16)
    path = written(
        tmp_path / "a.tif", array, photometric="minisblack", metadata={"axes": axes}, **options
    )
    refused(path, "axes", "split time points and z planes")


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(GREY16)
        tif.write(GREY16 + 1)
    refused(path, "holds 2 images")


def test_a_thumbnail_beside_the_image_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(GREY16)
        tif.write(GREY16[::4, ::4])
    np.testing.assert_array_equal(read_image(path).array[0], GREY16)


def test_a_page_without_pixels_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY16, metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        at = tif.pages.first.tags["ImageLength"].valueoffset
    data[at : at + 4] = struct.pack("<I", 0)
    path.write_bytes(data)
    refused(path)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY16)
    read_image(path)
    written(path, GREY8)
    np.testing.assert_array_equal(read_image(path).array[0], GREY8)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.b.OME.TIF", "a.b"), ("a.ome.tiff", "a"), ("x y.Tiff", "x y"), ("a.png", "a"),
     ("d/a.tif", "a"), ("a.jpg", "a.jpg")],
)  # fmt: skip
def test_strip_suffix(name: str, stem: str) -> None:
    assert strip_suffix(name) == stem

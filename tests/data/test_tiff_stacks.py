"""TIFFs that name a time or a z axis: the right plane at the right time and depth."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data import tiff_stacks
from vfn.data.discovery.fields import Field
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover, whole_images
from vfn.data.samples import Task, make_samples
from vfn.data.tiff_stacks import TiffPlane, is_stack, tiff_stack
from vfn.errors import UserError

RNG = np.random.default_rng(0)
IMAGEJ, OME, SHAPED = {"imagej": True}, {"ome": True}, {}


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 60_000, (*shape, 9, 7)).astype(np.uint16)


def written(
    path: Path, array: np.ndarray, axes: str, kind: dict[str, bool] = OME, **options: object
) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": axes, **dict(options.pop("metadata", {}))}  # type: ignore[call-overload]
    tifffile.imwrite(
        path, array, photometric="minisblack", metadata=metadata, **kind, **options
    )  # fmt: skip
    return array


def found(root: Path, wanted: Sequence[str], **layout: object) -> dict[str, Field]:
    return {entry.name: entry for entry in discover(root, Layout(**layout), wanted)}  # type: ignore[arg-type]


def read(entry: Field, channel: str, z: float = 0.0) -> np.ndarray:
    return entry.planes[channel, z].read()


def refused(work: Callable[[], object], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "kind", "options"),
    [
        ("TYX", IMAGEJ, {}),
        ("ZYX", IMAGEJ, {}),
        ("TZCYX", IMAGEJ, {}),
        ("TCYX", OME, {"compression": "zlib"}),
        ("ZCYX", OME, {"byteorder": ">"}),
        ("CTZYX", OME, {"bigtiff": True, "compression": "lzw"}),
        ("TYX", SHAPED, {}),  # all planes behind one page
        ("ZCYX", SHAPED, {"byteorder": ">"}),
        ("TZYX", SHAPED, {"bigtiff": True}),
    ],
    ids=str,
)
def test_every_plane_of_every_layout(
    tmp_path: Path, axes: str, kind: dict[str, bool], options: dict[str, object]
) -> None:
    sizes = {"T": 2, "Z": 3, "C": 4}
    array = pixels(*(sizes[axis] for axis in axes[:-2]))
    path = tmp_path / "a.tif"
    written(path, array, axes, kind, **options)
    assert is_stack(path)
    told = tiff_stack(path)
    assert told.sizes == {axis: n if axis in axes else 1 for axis, n in sizes.items()}
    for at in np.ndindex(array.shape[:-2]):
        place = {"T": 0, "C": 0, "Z": 0, **dict(zip(axes, at, strict=False))}
        plane = TiffPlane(path, place["C"], place["Z"], None, place["T"])
        np.testing.assert_array_equal(plane.read(), array[at])
        assert plane.read().dtype.isnative


@settings(max_examples=20, deadline=None)
@given(st.permutations("TZC"), st.tuples(*[st.integers(1, 3)] * 3))
def test_axes_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], sizes: tuple[int, ...]
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.ome.tif"
    array = written(path, pixels(*sizes), "".join(order) + "YX")
    length = dict(zip(order, sizes, strict=True))
    assert is_stack(path) == (length["T"] * length["Z"] > 1)
    if not is_stack(path):
        return
    for at in np.ndindex(sizes):
        place = dict(zip(order, at, strict=True))
        plane = TiffPlane(path, place["C"], place["Z"], None, place["T"])
        np.testing.assert_array_equal(plane.read(), array[at])


@pytest.mark.parametrize(
    ("metadata", "kind", "z", "time"),
    [
        ({"spacing": 0.5, "unit": "um", "finterval": 60.0}, IMAGEJ, 0.5, 60.0),
        ({"spacing": 0.5}, IMAGEJ, None, None),  # pixels, for all that is known
        ({"PhysicalSizeZ": 300, "PhysicalSizeZUnit": "nm", "TimeIncrement": 2,
          "TimeIncrementUnit": "min"}, OME, 0.3, 120.0),
        ({}, OME, None, None),
    ],
)  # fmt: skip
def test_steps(
    tmp_path: Path,
    metadata: dict[str, object],
    kind: dict[str, bool],
    z: float | None,
    time: float | None,
) -> None:
    written(tmp_path / "a.tif", pixels(2, 3), "TZYX", kind, metadata=metadata)
    told = tiff_stack(tmp_path / "a.tif")
    assert (told.z_step, told.time_step) == (pytest.approx(z) if z else None, time)


def test_what_is_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "one.tif", pixels(), description="a field")
    written(tmp_path / "channels.ome.tif", pixels(3), "CYX")
    written(tmp_path / "channels.tif", pixels(3), "CYX", IMAGEJ)
    tifffile.imwrite(tmp_path / "unnamed.tif", pixels(3), photometric="minisblack", metadata=None)
    written(tmp_path / "single.ome.tif", pixels(1, 2, 1), "TCZYX")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels()))
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "folder.tif").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")  # opening it would wait for ever
    for path in tmp_path.iterdir():
        assert not is_stack(path), path
    assert not is_stack(tmp_path / "absent.tif")
    # Of a file of one page the first page alone is looked at: plates have tens of thousands.
    monkeypatch.setattr(tiff_stacks, "tiff_stack", None)
    assert not is_stack(tmp_path / "one.tif")


@pytest.mark.parametrize("kind", [IMAGEJ, SHAPED], ids=["imagej", "shaped"])
def test_a_stack_cut_short_is_refused(tmp_path: Path, kind: dict[str, bool]) -> None:
    path = tmp_path / "0_rna.tif"
    written(path, pixels(4), "TYX", kind)
    path.write_bytes(path.read_bytes()[:-100])

    def read_all() -> None:
        for entry in found(tmp_path, ["rna"]).values():
            read(entry, "rna")

    refused(read_all, str(path), "truncated")


def test_the_middle_plane_is_focal_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    z = written(
        tmp_path / "0_rna.tif", pixels(5), "ZYX", IMAGEJ, metadata={"spacing": 0.3, "unit": "um"}
    )
    flat = pixels()
    tifffile.imwrite(tmp_path / "0_dna.tif", flat)
    with caplog.at_level("INFO"):
        (entry,) = found(tmp_path, ["rna", "dna"]).values()
    assert "field 0 number 2" in caplog.text
    assert "data.z_zero" in caplog.text
    assert entry.name == "0"
    assert sorted(depth for c, depth in entry.planes if c == "rna") == [-0.6, -0.3, 0, 0.3, 0.6]
    np.testing.assert_array_equal(read(entry, "rna"), z[2])
    np.testing.assert_array_equal(read(entry, "rna", 0.6), z[4])
    np.testing.assert_array_equal(read(entry, "dna"), flat)
    # Planes side by side, beside a flat target.
    (sample,) = make_samples([entry], Task("t", ("rna@-0.3", "rna", "rna@0.3"), ("dna",)))
    for plane, expected in zip(sample.planes, [*z[1:4], flat], strict=True):
        np.testing.assert_array_equal(plane.read(), expected)
    refused(
        lambda: make_samples([entry], Task("t", ("rna@-4",), ("dna",))),
        "no plane for rna at -4 um", "rna at -0.6, -0.3, 0, 0.3, 0.6 um", "dna at 0 um",
    )  # fmt: skip
    caplog.clear()
    (named,) = found(tmp_path, ["rna", "dna"], z_zero=0, z_step=2).values()
    np.testing.assert_array_equal(read(named, "rna", 8.0), z[4])
    assert not caplog.text


def test_a_z_step_that_nobody_states_is_said_to_be_assumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "0_rna.tif", pixels(5), "ZYX", IMAGEJ)
    with caplog.at_level("INFO"):
        (entry,) = found(tmp_path, ["rna"]).values()
    assert sorted(depth for _, depth in entry.planes) == [-2, -1, 0, 1, 2]
    assert "0_rna.tif does not say how far apart its planes are, 1 um is assumed" in caplog.text
    assert "data.z_step=MICROMETRES" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        found(tmp_path, ["rna"], z_step=0.5)
    assert "assumed" not in caplog.text


def test_channels_inside_a_stack_by_name_and_position(tmp_path: Path) -> None:
    names = {"Channel": {"Name": ["RNA", "dna"]}}
    named = written(tmp_path / "n" / "a.ome.tif", pixels(3, 2), "ZCYX", metadata=names)
    (entry,) = found(tmp_path / "n", ["rna", "dna"]).values()
    np.testing.assert_array_equal(read(entry, "dna", 1.0), named[2, 1])
    bare = written(tmp_path / "p" / "a.tif", pixels(3, 2), "TCYX", IMAGEJ)
    movie = found(tmp_path / "p", ["rna", "dna"], channels={"rna": 1, "dna": 0})
    assert list(movie) == ["a_t1", "a_t2", "a_t3"]
    np.testing.assert_array_equal(read(movie["a_t3"], "rna"), bare[2, 1])
    refused(
        lambda: found(tmp_path / "p", ["rna"]),
        "a.tif holds channels without names at 3 time points",
    )


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
@pytest.mark.parametrize("kind", [IMAGEJ, OME, SHAPED], ids=["imagej", "ome", "shaped"])
def test_time_and_depth_are_never_channels(
    tmp_path: Path, axes: str, kind: dict[str, bool]
) -> None:
    written(tmp_path / "m.tif", pixels(2), axes, kind)
    positions = {"rna": 0, "dna": 1}
    refused(
        lambda: found(tmp_path, ["rna", "dna"], channels=positions),
        "channel 1 is asked for, it has 1", "no channel",
    )  # fmt: skip
    refused(lambda: whole_images(tmp_path, ["rna", "er"]), "1 channel(s), the model takes 2")


def test_positions_of_one_channel_are_its_planes(tmp_path: Path) -> None:
    z = written(tmp_path / "0_rna.tif", pixels(3), "ZYX", IMAGEJ)
    tifffile.imwrite(tmp_path / "0_dna.tif", pixels())
    channels = {"rna@-1": 0, "rna": 1, "rna@1": 2}
    (entry,) = found(tmp_path, ["rna", "dna"], channels=channels).values()
    for depth, expected in zip((-1.0, 0.0, 1.0), z, strict=True):
        np.testing.assert_array_equal(read(entry, "rna", depth), expected)
    refused(
        lambda: found(tmp_path, ["rna"], channels={"rna": 1, "rna@1": 3}),
        "z plane 3 is asked for, it has 3",
    )


def test_a_stack_under_a_pattern_and_in_a_manifest(tmp_path: Path) -> None:
    z = written(tmp_path / "A01_bf.tif", pixels(3), "ZYX", IMAGEJ)
    (entry,) = found(tmp_path, ["bf"], pattern=r"(?P<well>A\d+)_(?P<channel>bf)").values()
    np.testing.assert_array_equal(read(entry, "bf", -1.0), z[0])
    assert (entry.name, entry.well) == ("A01", "A01")
    table = tmp_path / "m.csv"
    table.write_text("field,channel,path,z,index\nf,bf,A01_bf.tif,-4,2\nf,bf,A01_bf.tif,0,0\n")
    (entry,) = found(tmp_path, ["bf"], manifest=str(table)).values()
    np.testing.assert_array_equal(read(entry, "bf", -4.0), z[2])
    np.testing.assert_array_equal(read(entry, "bf"), z[0])
    table.write_text("field,channel,path,index\nf,bf,A01_bf.tif,1\n")
    refused(lambda: found(tmp_path, ["bf"], manifest=str(table)), "channel 1", "it has 1")
    both = written(tmp_path / "both.tif", pixels(3, 2), "ZCYX", IMAGEJ)
    table.write_text("field,channel,path,index\nf,bf,both.tif,1\n")
    (entry,) = found(tmp_path, ["bf"], manifest=str(table)).values()
    np.testing.assert_array_equal(read(entry, "bf"), both[1, 1])
    table.write_text("field,channel,path\nf,bf,both.tif\n")
    refused(lambda: found(tmp_path, ["bf"], manifest=str(table)), "both.tif", "one channel")


def test_whole_stacks_and_movies_are_fields(tmp_path: Path) -> None:
    movie = written(tmp_path / "m.tif", pixels(2), "TYX", IMAGEJ)
    z = written(tmp_path / "z.tif", pixels(3), "ZYX", IMAGEJ, metadata={"spacing": 2, "unit": "um"})
    fields = {entry.name: entry for entry in whole_images(tmp_path, ["phase"])}
    assert list(fields) == ["m_t1", "m_t2", "z"]
    np.testing.assert_array_equal(read(fields["m_t2"], "phase"), movie[1])
    np.testing.assert_array_equal(read(fields["z"], "phase"), z[1])
    (field,) = whole_images(tmp_path / "z.tif", ["phase", "phase@-2"])
    np.testing.assert_array_equal(read(field, "phase", -2.0), z[0])
    refused(lambda: whole_images(tmp_path / "z.tif", ["phase", "phase@4"]), "no plane at z = 4")


def test_a_changed_stack_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    written(path, pixels(2), "TYX", IMAGEJ)
    plane = TiffPlane(path, 0, 0, None, 1)
    before = plane.key, plane.read()
    anew = written(path, pixels(2), "TYX", IMAGEJ)
    os.utime(path, (1, 1))
    assert plane.key != before[0]
    np.testing.assert_array_equal(plane.read(), anew[1])
    assert TiffPlane(path, 0, 0, None).key != plane.key


def test_a_part_of_an_acquisition_in_several_files(tmp_path: Path) -> None:
    # Micro-Manager writes a file for each channel, or position, of all time points.
    array = pixels(3)
    for c, name in enumerate(("rna", "dna")):
        data = "".join(
            f'<TiffData FirstT="{t}" FirstC="{d}" IFD="{2 - t}" PlaneCount="1">'
            f'<UUID FileName="{other}.ome.tif">urn:uuid:{d}</UUID></TiffData>'
            for d, other in enumerate(("rna", "dna"))
            for t in range(3)
        )
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{c}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="7" '
            'SizeY="9" SizeC="2" SizeZ="1" SizeT="3"><Channel ID="C:0" Name="RNA"/>'
            f'<Channel ID="C:1" Name="DNA"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            tmp_path / f"a_{name}.ome.tif",
            array + c,
            description=xml,
            metadata=None,
            photometric="minisblack",
        )
    assert is_stack(tmp_path / "a_dna.ome.tif")
    fields = found(tmp_path, ["rna", "dna"])
    assert list(fields) == ["a_t1", "a_t2", "a_t3"]
    for entry, frame in zip(fields.values(), array[::-1], strict=True):  # as the pages say
        np.testing.assert_array_equal(read(entry, "rna"), frame)
        np.testing.assert_array_equal(read(entry, "dna"), frame + 1)

import csv
import gc
import json
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import tifffile
import torch

from tests.conftest import write_zarr_plate
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.illumination import FlatField, MeanImage
from vfn.data.images import read_image
from vfn.data.input_shift import TrainingDistribution, field_statistics
from vfn.data.intensity import IntensityNormaliser, to_dtype
from vfn.data.linear_filter import LinearFilter
from vfn.data.samples import Task
from vfn.data.statistics import Baselines
from vfn.errors import UserError
from vfn.inference.folder import predict_samples, run
from vfn.inference.inputs import find_samples
from vfn.inference.ome import SHIFT
from vfn.inference.predictor import FieldPixels, Predictor
from vfn.models.checkpoint import Checkpoint
from vfn.models.nets import make_generator
from vfn.models.precision import pick_device, pick_precision

SPEC = {"name": "unet", "width": 4, "depth": 2}


def make_checkpoint(
    inputs: Sequence[str] = ("phase",),
    targets: Sequence[str] = ("dapi",),
    layout: Layout | None = None,
    dtypes: tuple[str, str] = ("uint16", "uint16"),
    identity: str = "0123456789ab",
    input_z: tuple[float, ...] = (),
) -> Checkpoint:
    torch.manual_seed(0)
    task = Task("t", tuple(inputs), tuple(targets), input_z)
    n, m = len(task.inputs), len(task.targets)
    top = {"uint8": 200.0, "uint16": 4000.0, "float32": 2.5}
    top |= {"int16": 4000.0, "int32": 4e6, "uint32": 4e6}
    return Checkpoint(
        Path("best.ckpt"),
        identity,
        make_generator(SPEC, n, m).eval(),  # type: ignore[arg-type]
        task,
        layout or Layout(),
        tuple(IntensityNormaliser(0.0, top[dtypes[0]], dtypes[0]) for _ in range(n)),
        tuple(IntensityNormaliser(0.0, top[dtypes[1]], dtypes[1]) for _ in range(m)),
        (None,) * (n + m),
        (_envelope(dtypes[0]),) * n,
        Baselines(
            np.zeros((m, n)), *np.zeros((3, m)), LinearFilter(np.zeros((m, n, 7, 7)), np.zeros(m))
        ),
        {"data": {"patch_size": 16}},
    )


def _envelope(dtype: str) -> TrainingDistribution:
    rng = np.random.default_rng(0)
    return TrainingDistribution.fit(
        [field_statistics(rng.integers(50, 200, (40, 40)).astype(dtype)) for _ in range(4)]
    )


def make_predictor(checkpoint: Checkpoint, **options: object) -> Predictor:
    return Predictor(checkpoint, "cpu", "float32", **{"tile": 32, **options})  # type: ignore[arg-type]


def grey(seed: int, shape: tuple[int, ...] = (37, 45), dtype: str = "uint16") -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 250).astype(dtype)


def write(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **options)
    return path


# --- in memory ---


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (37, 45), (64, 64), (101, 3)])
@pytest.mark.parametrize(
    "dtypes",
    [
        ("uint8", "uint16"),
        ("float32", "uint8"),
        ("uint16", "float32"),
        ("int16", "int32"),
        ("uint32", "int16"),
        ("int32", "uint32"),
    ],
)
def test_size_of_the_field_and_dtype_of_the_target(
    shape: tuple[int, int], dtypes: tuple[str, str]
) -> None:
    predictor = make_predictor(make_checkpoint(["a", "b"], ["x", "y", "z"], dtypes=dtypes))
    out = predictor.predict([grey(0, shape, dtypes[0]), grey(1, shape, dtypes[0])])
    assert out.shape == (3, *shape)
    assert out.dtype == np.dtype(dtypes[1])


def test_a_field_of_one_tile_is_what_the_network_says() -> None:
    checkpoint = make_checkpoint()
    array = grey(0, (32, 32))
    x = torch.from_numpy(checkpoint.inputs[0].normalise(array))[None, None]
    with torch.inference_mode():
        expected = checkpoint.targets[0].restore(checkpoint.generator(x)[0].numpy())
    np.testing.assert_allclose(make_predictor(checkpoint).predict([array]), expected, atol=1)


def test_channels_go_in_in_the_order_of_the_task() -> None:
    predictor = make_predictor(make_checkpoint(["a", "b"]))
    one, other = grey(0), grey(1)
    assert not np.array_equal(predictor.predict([one, other]), predictor.predict([other, one]))


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ([grey(0)], r"1 input\(s\).*takes 2 of one size: a, b"),
        ([grey(0), grey(0, (37, 44))], r"\(37, 44\)"),
        ([grey(0), grey(0, dtype="uint8")], "channel b is uint8, the model was trained on uint16"),
        ([grey(0, dtype="float32"), grey(0)], "channel a is float32"),
    ],
)
def test_inputs_unlike_those_of_training_are_refused(arrays: list[np.ndarray], match: str) -> None:
    with pytest.raises(UserError, match=match):
        make_predictor(make_checkpoint(["a", "b"])).predict(arrays)


@pytest.mark.parametrize(
    "options", [{"overlap": -0.1}, {"overlap": 0.6}, {"tile": 0}, {"batch_size": 0}]
)
def test_settings_are_checked(options: dict[str, float]) -> None:
    (key, value), = options.items()  # fmt: skip
    with pytest.raises(UserError, match=f"{key}={value}"):
        make_predictor(make_checkpoint(), **options)


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert pick_device("cpu") == cpu
    for name in ("tpu9", "meta", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(UserError, match=f"device={name}"):
            pick_device(name)
    assert pick_precision("auto", cpu) in ("bf16", "float32")
    assert pick_precision("float32", cpu) == "float32"
    with pytest.raises(UserError, match="precision=fp16"):
        pick_precision("fp16", cpu)


def test_bf16_is_taken_where_it_costs_less_than_half_a_grey_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """8 bit: taken; 16 bit over a range of 60 000 levels, and floats: not."""
    both = (torch.device("cpu"), "bf16")
    monkeypatch.setattr("vfn.inference.predictor.pick_arithmetic", lambda *_: both)
    picked = {}
    for dtype, top in (("uint8", 200.0), ("uint16", 60_000.0), ("float32", 200.0)):
        checkpoint = make_checkpoint(dtypes=("uint16", dtype))
        last = checkpoint.generator.last
        torch.nn.init.normal_(last.weight, 0.0, 0.5)  # an untrained network says nearly nothing
        checkpoint = replace(checkpoint, targets=(IntensityNormaliser(0.0, top, dtype),))
        predictor = Predictor(checkpoint, "cpu", "auto", tile=32)
        out = predictor.predict([grey(0)])
        picked[dtype] = predictor.precision
        chosen = "bf16" if dtype == "uint8" else "float32"
        fixed = Predictor(checkpoint, "cpu", chosen, tile=32)
        fixed.precision = chosen
        fixed._on_trial = False
        np.testing.assert_array_equal(out, fixed.predict([grey(0)]))
    assert picked == {"uint8": "bf16", "uint16": "float32", "float32": "float32"}


def test_rows_of_a_large_field_are_read_as_they_are_needed() -> None:
    """What comes out of bands is what a field in one piece gives."""
    predictor = make_predictor(make_checkpoint(["a", "b"]), overlap=0.25)
    fields = [[grey(i, (150 + i, 45)), grey(i + 9, (150 + i, 45))] for i in range(2)]
    bands: dict[int, list[np.ndarray]] = {0: [], 1: []}
    pixels = [FieldPixels(field, None) for field in fields]
    for field, top, band in predictor.bands(pixels):
        mine = bands[pixels.index(field)]
        assert top == sum(part.shape[1] for part in mine)
        assert band.shape[1] <= 32
        mine.append(band)
    for i, field in enumerate(fields):
        np.testing.assert_array_equal(np.concatenate(bands[i], 1), predictor.predict(field))


def test_fields_leave_the_memory_once_they_are_predicted() -> None:
    predictor = make_predictor(make_checkpoint(), batch_size=1)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def fields() -> Iterator[FieldPixels]:
        for i in range(6):
            array = grey(i, (40, 45))
            alive.append(weakref.ref(array))
            yield FieldPixels([array], None)
            del array

    for _ in predictor.bands(fields()):
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
    assert most <= 2


# --- which files are which fields ---


def found(checkpoint: Checkpoint, source: Path) -> dict[str, list[str]]:
    return {v.name: [str(p) for p in v.inputs] for v in find_samples(checkpoint, source)}


def test_by_token_as_in_training(tmp_path: Path) -> None:
    for name in ("d1/A1_Phase.tif", "d1/A1_DAPI.tif", "A2 phase.png.tif", "d1/A1_er.tif"):
        write(tmp_path / name, grey(0))
    assert found(make_checkpoint(), tmp_path) == {
        "A2_png": [str(tmp_path / "A2 phase.png.tif")],
        "d1_A1": [str(tmp_path / "d1/A1_Phase.tif")],
    }
    both = make_checkpoint(["er", "phase"], layout=Layout({"er": "ER"}))
    assert found(both, tmp_path / "d1") == {
        "A1": [str(tmp_path / "d1/A1_er.tif"), str(tmp_path / "d1/A1_Phase.tif")]
    }
    with pytest.raises(UserError, match="field A2_png: no file for er"):
        find_samples(both, tmp_path)


def test_names_of_training_come_before_channel_names(tmp_path: Path) -> None:
    write(tmp_path / "f1_c1.tif", grey(0))
    write(tmp_path / "f1_c2.tif", grey(1))
    trained = make_checkpoint(["er"], layout=Layout({"er": "c2"}))
    assert found(trained, tmp_path) == {"f1": [str(tmp_path / "f1_c2.tif")]}
    # A manifest served training; its pattern-free names serve now.
    listed = make_checkpoint(["er"], layout=Layout({}, None, "gone.csv"))
    write(tmp_path / "new/f9_er.tif", grey(2))
    assert found(listed, tmp_path / "new") == {"f9": [str(tmp_path / "new/f9_er.tif")]}
    patterned = make_checkpoint(["er"], layout=Layout({}, r"never(?P<field>.)(?P<channel>.)"))
    assert found(patterned, tmp_path / "new") == {"f9": [str(tmp_path / "new/f9_er.tif")]}


def test_one_file(tmp_path: Path) -> None:
    for name in ("A1_phase.tif", "A2_phase.tif", "A2_er.tif"):
        write(tmp_path / name, grey(0))
    assert list(found(make_checkpoint(), tmp_path / "A2_phase.tif")) == ["A2"]
    two = make_checkpoint(["phase", "er"])
    assert found(two, tmp_path / "A2_phase.tif") == {
        "A2": [str(tmp_path / "A2_phase.tif"), str(tmp_path / "A2_er.tif")]
    }


def test_a_folder_without_channel_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "day 1/x1.tif", grey(0))
    write(tmp_path / "x2.tif", grey(1))
    with caplog.at_level(logging.WARNING):
        samples = find_samples(make_checkpoint(), tmp_path)
    assert [sample.name for sample in samples] == ["day_1_x1", "x2"]
    assert "each image is taken as phase" in caplog.text  # never silently
    with pytest.raises(UserError, match="no file for channel phase, er"):
        find_samples(make_checkpoint(["phase", "er"]), tmp_path)


def test_a_target_is_never_taken_for_an_input(tmp_path: Path) -> None:
    write(tmp_path / "A1_bf.tif", grey(0))
    write(tmp_path / "A1_dapi.tif", grey(0))
    with pytest.raises(UserError, match=r"A1_dapi\.tif: is dapi, which the model predicts"):
        find_samples(make_checkpoint(), tmp_path)


def refused(checkpoint: Checkpoint, source: Path, *words: str, given: Layout | None = None) -> None:
    with pytest.raises(UserError) as caught:
        find_samples(checkpoint, source, given and replace(given, prefix=""))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "data." not in message.replace(str(source), "")


W = r"_(?P<well>[A-P]\d+)_w(?P<channel>\d)"


def test_only_folders_without_any_channel_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("P_A01_w1.tif", "P_A01_w1_small.tif", "P_A01_w2.tif"):
        write(tmp_path / "double" / name, grey(0))
    patterned = make_checkpoint(layout=Layout({"phase": 1, "dapi": 2}, W))
    refused(patterned, tmp_path / "double", "field A01: channel phase is both", "apart by pattern")
    for name in ("A1_phase.tif", "A1-phase.png.tif", "A1_dapi.tif", "x.tif"):
        write(tmp_path / "two" / name, grey(0))
    write(tmp_path / "two" / "a_phase.tif", grey(0))
    write(tmp_path / "two" / "a.phase.tif", grey(0))
    refused(make_checkpoint(), tmp_path / "two", "field a: channel phase is both")
    for name in ("A1_phase.tif", "A2_phase.tif", "A1_c2.tif", "A2_c2.tif"):
        write(tmp_path / "half" / name, grey(0))
    both = make_checkpoint(["phase", "er"])
    refused(both, tmp_path / "half", "no file for channel er", "by channels={CHANNEL: TOKEN}")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "x.tif").write_bytes(b"II*\x00")
    refused(make_checkpoint(), tmp_path / "damaged", "x.tif")
    write(tmp_path / "odd" / "A1_phase.tif", grey(0))
    write(tmp_path / "odd" / "A2_er.tif", grey(0))
    refused(both, tmp_path / "odd", "A1 has phase, A2 has er", "by pattern or manifest")


def test_one_of_several_targets_rules_nameless_inputs_out(tmp_path: Path) -> None:
    for name in ("x_actin.tif", "x_1.tif", "y_1.tif"):
        write(tmp_path / name, grey(0))
    two = make_checkpoint(targets=["dapi", "actin"])
    refused(two, tmp_path, "x_actin.tif: is actin, which the model predicts", "channels={")
    refused(two, tmp_path / "y_1.tif", "x_actin.tif: is actin")


def test_one_file_is_not_refused_for_its_neighbours(tmp_path: Path) -> None:
    for name in ("A1_phase.tif", "A1-phase.tif", "A2_phase.tif"):
        write(tmp_path / name, grey(0))
    (tmp_path / "torn.tif").write_bytes(b"II*\x00")
    assert list(found(make_checkpoint(), tmp_path / "A2_phase.tif")) == ["A2"]
    refused(make_checkpoint(), tmp_path / "A1_phase.tif", "channel phase is both")
    refused(make_checkpoint(), tmp_path / "torn.tif", "torn.tif")


def test_the_user_says_how_new_files_are_named(tmp_path: Path) -> None:
    for i, name in enumerate(("A1_BF", "A1_d0", "A2_TL", "A2_d0")):
        write(tmp_path / f"{name}.tif", grey(i))
    checkpoint = make_checkpoint(layout=Layout({"phase": 1, "dapi": 2}, W))
    samples = find_samples(checkpoint, tmp_path, Layout({"phase": ["bf", "tl"]}))
    assert [(v.name, str(v.inputs[0])) for v in samples] == [
        ("A1", str(tmp_path / "A1_BF.tif")),
        ("A2", str(tmp_path / "A2_TL.tif")),
    ]
    # The channels of the training hold for a pattern of the new files, and the other way round.
    new = Layout({"phase": "BF"}, r"(?P<field>\w+)_(?P<channel>\w+)\.tif")
    assert [v.name for v in find_samples(checkpoint, tmp_path, new)] == ["A1"]
    write(tmp_path / "plate" / "_B01_w7.tif", grey(0))
    (sample,) = find_samples(checkpoint, tmp_path / "plate", Layout({"phase": 7}))
    assert (sample.name, sample.well) == ("B01", "B01")
    # What the user says of the files may be wrong; then they are not stained all the same.
    refused(
        checkpoint,
        tmp_path,
        "no file for channel phase",
        "looked for GFP",
        given=Layout({"phase": "GFP"}),
    )
    refused(make_checkpoint(), tmp_path, "pattern=(: not a regular", given=Layout({}, "("))


def test_the_plane_in_focus_of_new_stacks(tmp_path: Path) -> None:
    stack = grey(0, (5, 37, 45))
    write(tmp_path / "A1_phase.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    for trained, given, number in (
        (None, Layout(), 2), (3.0, Layout(), 3), (3.0, Layout(z_zero=1), 1), (None, Layout(z_zero=4), 4),
    ):  # fmt: skip
        checkpoint = make_checkpoint(layout=Layout(z_zero=trained))
        (sample,) = find_samples(checkpoint, tmp_path, given)
        np.testing.assert_array_equal(sample.inputs[0].read(), stack[number])


def test_by_a_manifest_of_the_new_files(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "in" / f"{i}.tif", grey(i))
    (tmp_path / "m.csv").write_text(
        "Field;Channel;Path\nf1;Phase;in\\0.tif\nf1;dapi;in\\1.tif\nf2;BF;in\\2.tif\n"
    )
    checkpoint = make_checkpoint(layout=Layout({"phase": ["phase", "bf"]}, manifest="gone.csv"))
    given = Layout(manifest=str(tmp_path / "m.csv"))
    both = {"f1": tmp_path / "in/0.tif", "f2": tmp_path / "in/2.tif"}
    for source in (None, tmp_path, tmp_path / "in"):
        samples = find_samples(checkpoint, source, given)
        assert {v.name: v.inputs[0].path for v in samples} == both  # type: ignore[attr-defined]
    (sample,) = find_samples(checkpoint, tmp_path / "in/2.tif", given)
    assert sample.name == "f2"
    (tmp_path / "other").mkdir()
    refused(checkpoint, tmp_path / "other", "input=", "m.csv names, is not in it", given=given)
    refused(checkpoint, tmp_path / "in/3.tif", "3.tif: is no phase", given=given)


def test_names_tell_nothing_where_a_manifest_told_in_training(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.tif", grey(i))
    listed = make_checkpoint(layout=Layout(manifest="gone.csv"))
    refused(
        listed, tmp_path, "no file for channel phase", "manifest=files.csv", "channels={phase: 0}"
    )
    samples = find_samples(listed, tmp_path, Layout({"phase": 0}))
    assert [sample.name for sample in samples] == ["0", "1", "2"]


def test_channels_inside_of_ome(tmp_path: Path) -> None:
    stack = grey(0, (3, 37, 45))
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "er", "Phase"]}, "PhysicalSizeX": 0.4}
    write(tmp_path / "A1.ome.tif", stack, photometric="minisblack", metadata=names)
    (sample,) = find_samples(make_checkpoint(["phase", "er"]), tmp_path)
    assert sample.name == "A1"
    np.testing.assert_array_equal(np.stack([p.read() for p in sample.inputs]), stack[[2, 1]])
    assert sample.inputs[0].pixel_size == pytest.approx(0.4)


def test_unnamed_stacks_hold_the_inputs_in_order(tmp_path: Path) -> None:
    stack = grey(0, (2, 37, 45))
    write(tmp_path / "A1.tif", stack, photometric="minisblack")
    (sample,) = find_samples(make_checkpoint(["phase", "er"]), tmp_path)
    np.testing.assert_array_equal(np.stack([p.read() for p in sample.inputs]), stack)
    with pytest.raises(UserError):
        find_samples(make_checkpoint(), tmp_path)


def test_every_plane_out_of_focus_is_a_field(tmp_path: Path) -> None:
    for z in (-4, 0, 4):
        write(tmp_path / f"A1_z{z}_actin.tif", grey(z + 4))
    layout = Layout({}, r"(?P<field>A\d)_z(?P<z>-?\d)_(?P<channel>\w+)\.tif")
    checkpoint = make_checkpoint(["actin"], ["actin"], layout, input_z=(-4.0, 4.0))
    assert list(found(checkpoint, tmp_path)) == ["A1_z-4", "A1_z0", "A1_z4"]


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "empty"])
def test_a_source_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        find_samples(make_checkpoint(), tmp_path / name)


# --- from folder to folder ---


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for i in range(3):
        names = {"axes": "YX", "PhysicalSizeX": 0.3 + i}
        write(folder / f"A{i}_phase.ome.tif", grey(i, (37 + i, 45)), metadata=names)
    return folder


def test_whole_fields_to_ome(images: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(targets=["dapi", "actin"], dtypes=("uint16", "uint8"))
    predictor = make_predictor(checkpoint)
    out = tmp_path / "deep" / "out"
    paths = run(predictor, images, out)
    assert paths == [out / f"A{i}.ome.tif" for i in range(3)]
    assert sorted(out.glob("*.tif")) == paths
    for i, path in enumerate(paths):
        image = read_image(path)
        assert image.channels == ("dapi", "actin")
        assert image.pixel_size == pytest.approx(0.3 + i)
        assert image.array.dtype == np.uint8
        np.testing.assert_array_equal(image.array, predictor.predict([grey(i, (37 + i, 45))]))


def test_predictions_that_are_no_numbers_are_not_written(images: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    next(checkpoint.generator.parameters()).data.fill_(torch.nan)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"^field A0: \d+ of \d+ values are NaN or infinite"):
        run(make_predictor(checkpoint), images, out)
    assert list(out.glob("*.tif*")) == []


def test_what_is_there_and_whole_is_kept(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predictor = make_predictor(make_checkpoint())
    paths = run(predictor, images, out)
    before = [path.stat().st_ino for path in paths]  # a file that is written anew is another one
    truth = [path.read_bytes() for path in paths]
    paths[1].write_bytes(truth[1][: len(truth[1]) // 2])
    run(predictor, images, out)
    after = [path.stat().st_ino for path in paths]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    np.testing.assert_array_equal(
        read_image(paths[1]).array, predictor.predict([grey(1, (38, 45))])
    )


def ome_note(path: Path) -> str:
    with tifffile.TiffFile(path) as tif:
        return tif.ome_metadata or ""


def test_fields_unlike_those_of_training_are_named(images: Path, tmp_path: Path) -> None:
    """In a table, in the log and in the file itself; a field like those of training is not."""
    fields = [read_image(images / f"A{i}_phase.ome.tif").array[0] for i in range(3)]
    checkpoint = make_checkpoint(targets=["dapi", "actin"])
    usual = TrainingDistribution.fit([field_statistics(field) for field in fields])
    checkpoint = replace(checkpoint, envelopes=(usual,))
    out = tmp_path / "out"
    paths = run(make_predictor(checkpoint), images, out)
    assert sorted(out.iterdir()) == paths
    dark = (fields[1] // 8).astype(fields[1].dtype)
    write(images / "A1_phase.ome.tif", dark)
    run(make_predictor(checkpoint), images, out)
    with (out / "input_shift.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["field"], row["channel"]) for row in rows} == {("A1", "phase")}
    notes = [ome_note(path) for path in paths]
    assert [SHIFT in note for note in notes] == [False, True, False]
    assert all(escape(f"phase: {row['finding']}"[:20]) in notes[1] for row in rows[:1])
    again = [path.stat().st_mtime_ns for path in paths]
    run(make_predictor(checkpoint), images, out)  # kept files are judged as well
    assert (out / "input_shift.csv").exists()
    assert [path.stat().st_mtime_ns for path in paths] == again
    write(images / "A1_phase.ome.tif", fields[1])
    run(make_predictor(checkpoint), images, out)
    assert not (out / "input_shift.csv").exists()


def test_a_field_that_cannot_be_predicted_stops_no_other(images: Path, tmp_path: Path) -> None:
    damaged = images / "A1_phase.ome.tif"
    damaged.write_bytes(damaged.read_bytes()[:600])
    with pytest.raises(UserError, match=r"^1 of 3 fields were not predicted.*A1_phase.ome.tif: "):
        run(make_predictor(make_checkpoint()), images, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == ["A0.ome.tif", "A2.ome.tif"]


def test_a_name_that_no_file_can_have_stops_no_other(images: Path, tmp_path: Path) -> None:
    deep = images / ("x" * 130) / ("y" * 130)  # folders are part of a field's name
    deep.mkdir(parents=True)
    (images / "A1_phase.ome.tif").rename(deep / "A1_phase.ome.tif")
    longest = "z" * (255 - len("_phase.ome.tif"))
    (images / "A2_phase.ome.tif").rename(images / f"{longest}_phase.ome.tif")
    words = r"^1 of 3 fields were not predicted.*_A1\.ome\.tif: is a file name of 272 bytes"
    with pytest.raises(UserError, match=words):
        run(make_predictor(make_checkpoint()), images, tmp_path / "out")
    found = sorted(p.name for p in (tmp_path / "out").glob("*.tif"))
    assert found == ["A0.ome.tif", f"{longest}.ome.tif"]


def test_whoever_watches_hears_how_far_it_is_and_may_end_it(images: Path, tmp_path: Path) -> None:
    predictor = make_predictor(make_checkpoint())
    samples = find_samples(predictor.checkpoint, images)
    shares: list[float] = []
    predict_samples(predictor, samples, tmp_path / "out", watch=shares.append)
    assert shares == sorted(shares)
    assert len(shares) >= len(samples) > 1
    assert shares[-1] == 1

    def enough(share: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict_samples(predictor, samples, tmp_path / "ended", watch=enough)
    assert not (tmp_path / "ended").exists()


def test_a_flat_field_is_taken_out_and_put_back(images: Path) -> None:
    """The network sees flat inputs, the prediction has the falloff of the real stain."""
    mean = MeanImage()
    falloff = np.linspace(1, 2, 48)[None] * np.ones((40, 1))
    for seed in range(6):
        mean.add(
            (np.random.default_rng(seed).uniform(900, 1000, (40, 48)) * falloff).astype("uint16")
        )
    flat = FlatField.fit(mean)
    plain = make_checkpoint()
    corrected = replace(plain, flats=(flat, flat))
    field = (1000 * falloff).astype(np.uint16)
    ours = make_predictor(corrected).predict([field])
    inside = make_predictor(plain).predict([to_dtype(flat.correct(field), "uint16")])
    expected = flat.restore(inside[0].astype(float))
    np.testing.assert_allclose(ours[0], np.clip(expected, 0, 65535), atol=0.02 * 65535)
    assert not np.array_equal(ours, make_predictor(plain).predict([field]))


@pytest.mark.parametrize("change", ["model", "image", "overlap"])
def test_what_is_there_but_of_other_making_is_computed_again(
    images: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    (first, *_) = run(make_predictor(make_checkpoint()), images, out)
    before = first.stat().st_ino
    checkpoint = make_checkpoint(identity="ba9876543210" if change == "model" else "0123456789ab")
    predictor = make_predictor(checkpoint, overlap=0.5 if change == "overlap" else 0.25)
    if change == "image":  # another plate whose fields have the same names
        write(images / "A0_phase.ome.tif", grey(77, (37, 45)))
    run(predictor, images, out)
    assert first.stat().st_ino != before
    expected = predictor.predict([read_image(images / "A0_phase.ome.tif").array[0]])
    np.testing.assert_array_equal(read_image(first).array, expected)


def test_somebodys_images_are_not_overwritten(images: Path, tmp_path: Path) -> None:
    truth = write(tmp_path / "out" / "A0.ome.tif", grey(5))
    before = truth.read_bytes()
    with pytest.raises(UserError, match=r"A0\.ome\.tif: is there already"):
        run(make_predictor(make_checkpoint()), images, tmp_path / "out")
    assert truth.read_bytes() == before


@pytest.mark.parametrize("below", ["", "pred"])
def test_the_input_folder_is_no_output_folder(images: Path, below: str) -> None:
    with pytest.raises(UserError, match="lies in the input folder"):
        run(make_predictor(make_checkpoint()), images, images / below)
    assert not (images / "pred").exists()


def test_one_file_may_be_predicted_into_a_folder_beside_it(images: Path) -> None:
    source = images / "A0_phase.ome.tif"
    assert run(make_predictor(make_checkpoint()), source, images / "pred")[0].is_file()
    with pytest.raises(UserError, match="lies in the input folder"):
        run(make_predictor(make_checkpoint()), source, images)


def test_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a/1.tif", grey(0))
    write(tmp_path / "a_1.tif", grey(0))
    with pytest.raises(UserError, match="two fields are named a_1"):
        run(make_predictor(make_checkpoint()), tmp_path, tmp_path.parent / "out")


def test_a_wrong_dtype_names_the_field(tmp_path: Path) -> None:
    write(tmp_path / "in/A7_phase.tif", grey(0, dtype="uint8"))
    with pytest.raises(UserError, match="field A7: channel phase is uint8"):
        run(make_predictor(make_checkpoint()), tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write there"):
        run(make_predictor(make_checkpoint()), images, tmp_path / "file" / "out")


# --- OME-Zarr in and out ---


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_in(tmp_path: Path, version: str) -> None:
    truth = write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1, "B/2": 2}, ["Phase", "er"], version)
    # Whatever names the files of training had.
    patterned = make_checkpoint(["phase"], layout=Layout({}, r"_(?P<field>.)_(?P<channel>.)"))
    for checkpoint in (make_checkpoint(["phase"]), patterned):
        for source in (tmp_path, tmp_path / "P.zarr"):
            samples = find_samples(checkpoint, source)
            assert [(v.name, v.plate, v.well, v.site) for v in samples] == [
                ("P_A1_s0", "P", "A1", "0"),
                ("P_B2_s0", "P", "B2", "0"),
                ("P_B2_s1", "P", "B2", "1"),
            ]
            np.testing.assert_array_equal(samples[2].inputs[0].read(), truth["B/2", 1][0])
    for checkpoint in (make_checkpoint(["dna"]), make_checkpoint(["dna"], layout=patterned.layout)):
        with pytest.raises(UserError, match=r"no file for channel dna .*P\.zarr holds Phase, er"):
            find_samples(checkpoint, tmp_path / "P.zarr")


def test_a_plate_without_names_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1}, ["a", "b"])
    with caplog.at_level(logging.WARNING):
        (sample,) = find_samples(make_checkpoint(["phase", "er"]), tmp_path / "P.zarr")
    assert "each image is taken as phase + er" in caplog.text
    assert (sample.name, sample.well) == ("P_A1_s0", "A1")
    np.testing.assert_array_equal(sample.inputs[1].read(), truth["A/1", 0][1])


def test_a_damaged_container_is_named(tmp_path: Path) -> None:
    (tmp_path / "P.zarr").mkdir()
    for source in (tmp_path, tmp_path / "P.zarr"):
        with pytest.raises(UserError, match=r"P\.zarr: has no zarr\.json"):
            find_samples(make_checkpoint(), source)


def test_a_plate_out(tmp_path: Path) -> None:
    write_zarr_plate(tmp_path / "P.zarr", {"A/1": 1, "B/2": 2}, ["phase"])
    checkpoint = make_checkpoint(targets=["dapi", "actin"], dtypes=("uint16", "uint8"))
    predictor = make_predictor(checkpoint)
    tiffs = run(predictor, tmp_path / "P.zarr", tmp_path / "tiff")
    paths = run(predictor, tmp_path / "P.zarr", tmp_path / "out", "ome_zarr")
    plate = tmp_path / "out" / "predicted.zarr"
    assert paths == [plate / "A/1/0", plate / "B/2/0", plate / "B/2/1"]
    # These fields are unlike those of the training, and the plate tells so as the table does.
    assert sorted(os.listdir(tmp_path / "out")) == ["input_shift.csv", "predicted.zarr"]
    attributes = json.loads((paths[0] / "zarr.json").read_text())["attributes"]
    assert any("phase: " in remark for remark in attributes["vfn"]["remarks"])
    fields = discover(plate, Layout(), ["dapi", "actin"])
    assert [(e.well, e.site) for e in fields] == [("A1", "0"), ("B2", "0"), ("B2", "1")]
    for entry, tiff in zip(fields, tiffs, strict=True):
        image = read_image(tiff)
        for channel, expected in zip(("dapi", "actin"), image.array, strict=True):
            plane = entry.planes[channel, 0.0]
            assert plane.read().dtype == expected.dtype
            np.testing.assert_array_equal(plane.read(), expected)
            assert plane.pixel_size == image.pixel_size == 0.65
    # What is there is kept, what is damaged is computed again, and so is what another model made.
    before = [path.stat().st_mtime_ns for path in paths]
    (paths[1] / "s0" / "c" / "0" / "0" / "0").unlink()
    run(predictor, tmp_path / "P.zarr", tmp_path / "out", "ome_zarr")
    after = [path.stat().st_mtime_ns for path in paths]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    other = make_predictor(make_checkpoint(identity="ba9876543210"))
    run(other, tmp_path / "P.zarr", tmp_path / "out", "ome_zarr")
    assert not {path.stat().st_mtime_ns for path in paths} & {*after}


def test_images_out(images: Path, tmp_path: Path) -> None:
    predictor = make_predictor(make_checkpoint())
    paths = run(predictor, images, tmp_path / "out", "ome_zarr")
    assert paths == [tmp_path / "out" / f"A{i}.zarr" for i in range(3)]
    assert sorted((tmp_path / "out").glob("*.zarr")) == paths
    for i, entry in enumerate(discover(tmp_path / "out", Layout(), ["dapi"])):
        plane = entry.planes["dapi", 0.0]
        np.testing.assert_array_equal(plane.read(), predictor.predict([grey(i, (37 + i, 45))])[0])
        assert plane.pixel_size == pytest.approx(0.3 + i)


def test_an_unknown_format_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format=png: unknown; choose ome_tiff or ome_zarr"):
        run(make_predictor(make_checkpoint()), images, tmp_path / "out", "png")

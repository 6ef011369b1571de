"""The Python interface gives what the scripts write."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import vfn
from tests.cli import ROOT, run
from tests.conftest import make_image, write
from vfn.data.images import read_image

SIZE = 0.65  # um
TINY = [
    "logger=csv", "loss=mae", "model.generator.width=4", "model.generator.depth=3",
    "model.generator.max_width=8", "data.patch_size=32", "data.patches_per_epoch=4",
    "data.val_patches=4", "trainer.max_epochs=1", "trainer=cpu",
]  # fmt: skip
BEST = "checkpoints/best.ckpt"


def save(path: Path, image: np.ndarray, size: float = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, image, ome=True, metadata=metadata)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a calibrated model of one input, one of two whose dtypes differ, and what predict.py
    and evaluate.py write."""
    root = tmp_path_factory.mktemp("api")
    for field in range(1, 6):
        save(root / f"images/f{field:02d}_phase.ome.tif", make_image(field, "uint16"))
        write(root / f"images/f{field:02d}_rna.tif", make_image(field + 50, "uint8"))
        write(root / f"images/f{field:02d}_dapi.tif", make_image(field + 100, "uint16"))
    data = ["data=folder", "data.root=images", "task.targets=[dapi]", *TINY]
    run("train.py", *data, "task.inputs=[phase]", "run=one", cwd=root).ok()
    run("train.py", *data, "task.inputs=[phase,rna]", "run=two", cwd=root).ok()
    run("vfn.calibrate", f"ckpt=outputs/one/{BEST}", "steps=2", cwd=root).ok()
    for field in (1, 2):
        bright = make_image(field + 200, "uint16") // 3 * 4
        save(root / f"new/g{field}_phase.ome.tif", bright)
        write(root / f"new/g{field}_rna.tif", make_image(field + 250, "uint8"))
    for name, output, more in (
        ("one", "stains_one", []), ("two", "stains_two", []), ("one", "intervals", ["uncertainty=0.8"]),
    ):  # fmt: skip
        keys = [f"ckpt=outputs/{name}/{BEST}", "input=new", f"output={output}", *more]
        run("predict.py", *keys, cwd=root).ok()
    run("evaluate.py", f"ckpt=outputs/one/{BEST}", "output=scores", cwd=root).ok()
    return root


@pytest.fixture(scope="module")
def one(folder: Path) -> vfn.Model:
    return vfn.load(folder / "outputs" / "one" / BEST)


@pytest.fixture(scope="module")
def two(folder: Path) -> vfn.Model:
    return vfn.load(str(folder / "outputs" / "two" / BEST))


def new(folder: Path, field: int, channel: str = "phase") -> np.ndarray:
    (path,) = (folder / "new").glob(f"g{field}_{channel}.*")
    return read_image(path).array[0]


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys, vfn; assert not {'torch', 'numpy', 'lightning'} & set(sys.modules); "
        "assert 'load' in dir(vfn) and not hasattr(vfn, 'laod')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_a_model_says_what_it_takes_and_gives(folder: Path, one: vfn.Model) -> None:
    assert (one.inputs, one.targets) == (("phase",), ("dapi",))
    assert (one.input_dtypes, one.dtype, one.pixel_size) == (("uint16",), "uint16", SIZE)
    assert one.calibrated
    assert one.channels() == ("dapi",)
    assert one.channels(0.8) == ("dapi", "dapi_halfwidth80")
    assert repr(one) == f"<vfn.Model phase -> dapi, {folder / 'outputs' / 'one' / BEST}>"


def test_predict_gives_what_the_script_writes(folder: Path, one: vfn.Model, two: vfn.Model) -> None:
    for field in (1, 2):
        phase, rna = new(folder, field), new(folder, field, "rna")
        written = read_image(folder / f"stains_one/g{field}.ome.tif").array
        np.testing.assert_array_equal(one.predict(phase, axes="YX"), written)
        np.testing.assert_array_equal(one.predict(phase[None], pixel_size=SIZE), written)
        assert one.predict(phase, "YX").dtype == np.uint16
        intervals = read_image(folder / f"intervals/g{field}.ome.tif")
        np.testing.assert_array_equal(one.predict([phase], uncertainty=0.8), intervals.array)
        assert one.channels(0.8) == intervals.channels
        written = read_image(folder / f"stains_two/g{field}.ome.tif").array
        # 8 bit beside 16 bit, as numpy stacks them.
        np.testing.assert_array_equal(two.predict(np.stack([phase, rna])), written)


def test_the_example_of_the_page_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    for named, here in (
        ("outputs/nuclei", "outputs/one"),
        ("A01_phase.tif", "images/f01_phase.ome.tif"),
        ("A01_dapi.tif", "images/f01_dapi.tif"),
    ):
        assert named in example
        example = example.replace(named, here)
    monkeypatch.chdir(folder)
    exec(example, {})
    assert len(capsys.readouterr().out.split()) == 3


def test_leading_axes_are_fields_of_their_own(folder: Path, one: vfn.Model, two: vfn.Model) -> None:
    fields = [np.stack([new(folder, f), new(folder, f, "rna")]) for f in (1, 2)]
    expected = np.stack([two.predict(field) for field in fields])
    stack = np.stack(fields)  # T C Y X
    np.testing.assert_array_equal(two.predict(stack, "TCYX"), expected)
    np.testing.assert_array_equal(two.predict(stack.transpose(1, 2, 3, 0), "CYXS"), expected)
    deep = np.stack([stack, stack[::-1]])  # T Z C Y X
    np.testing.assert_array_equal(two.predict(deep, "TZCYX"), np.stack([expected, expected[::-1]]))
    phases = one.predict(stack[:, 0], "ZYX")
    assert phases.shape == (2, 1, *stack.shape[2:])
    np.testing.assert_array_equal(phases[1], one.predict(stack[1, 0], "YX"))


def test_check_says_what_the_table_says(folder: Path, one: vfn.Model) -> None:
    with (folder / "stains_one" / "input_shift.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table
    stacked = []
    for number in (1, 2):
        rows = [f"{r['channel']}: {r['finding']}" for r in table if r["field"] == f"g{number}"]
        assert one.check(new(folder, number), "YX") == rows
        stacked += [f"T={number - 1}: {row}" for row in rows]
    assert one.check(np.stack([new(folder, 1), new(folder, 2)]), "TYX") == stacked
    assert one.check(read_image(folder / "images" / "f01_phase.ome.tif").array) == []


IMAGE = make_image(1, "uint16")


@pytest.mark.parametrize(
    ("name", "array", "options", "says"),
    [
        ("one", IMAGE, {}, "axes='CYX', shape (70, 91): give one letter for each of the 2 axes"),
        ("one", IMAGE, {"axes": "YQ"}, "give Y and X"),
        ("one", IMAGE, {"axes": "CY"}, "give Y and X"),
        ("one", IMAGE[None], {"axes": "YYX"}, "each once"),
        ("two", IMAGE, {"axes": "YX"}, "the model takes 2 channels (phase, rna)"),
        ("two", IMAGE[None], {}, "1 channel(s), the model takes 2: phase, rna"),
        ("one", np.stack([IMAGE] * 3), {}, "3 channel(s), the model takes 1: phase"),
        ("one", IMAGE[None].astype(np.uint8), {}, "phase is uint8, the model was trained on uint16"),
        ("one", IMAGE[None].astype(np.int64), {}, "array: pixels are int64; convert them to one of"),
        ("one", IMAGE[None].astype(float), {}, "phase is float32, the model was trained on uint16"),
        ("two", np.stack([IMAGE] * 2), {}, "channel rna: grey values up to"),
        ("one", np.full((1, 70, 91), np.nan), {}, "array: 6370 pixels are NaN or infinite"),
        ("one", IMAGE[None, :0], {}, "array: has no pixels"),
        ("one", [["a", "b"]], {"axes": "YX"}, "array: pixels are"),
        ("one", IMAGE[None], {"pixel_size": 0.325}, "pixel size 0.325 um (training 0.65): structures are larger"),
        ("one", IMAGE[None], {"pixel_size": -1}, "pixel_size=-1: give micrometres"),
        ("one", IMAGE[None], {"uncertainty": 0.3}, "uncertainty=0.3"),
        ("two", np.stack([IMAGE // 257] * 2), {"uncertainty": 0.9}, "python -m vfn.calibrate"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    request: pytest.FixtureRequest, name: str, array: Any, options: dict[str, Any], says: str
) -> None:
    model: vfn.Model = request.getfixturevalue(name)
    with pytest.raises(vfn.UserError) as caught:
        model.predict(array, **options)
    assert says in str(caught.value)


def test_the_script_warns_of_another_pixel_size(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "images" / "g1_phase.ome.tif", make_image(201, "uint16"), size=1.3)
    keys = [f"ckpt={folder / 'outputs' / 'one' / BEST}", "input=images", "output=out"]
    said = run("predict.py", *keys, cwd=tmp_path).ok().out
    phrase = "pixel size 1.3 um (training 0.65): structures are smaller than in training"
    assert phrase in said
    assert phrase in (tmp_path / "out" / "input_shift.csv").read_text()
    with tifffile.TiffFile(tmp_path / "out" / "g1.ome.tif") as tif:
        assert phrase in (tif.ome_metadata or "")


def test_a_pixel_size_within_a_tenth_passes(one: vfn.Model) -> None:
    assert one.predict(IMAGE[None], pixel_size=1.08 * SIZE).shape == (1, *IMAGE.shape)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "abacus"}, "device=abacus"),
        ({"precision": "8"}, "precision=8"),
        ({"backend": "paper"}, "backend=paper"),
        ({"tile": 0}, "tile=0"),
    ],
)
def test_load_refuses(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(vfn.UserError, match=says):
        vfn.load(folder / "outputs" / "one" / BEST, **options)


def test_score_gives_what_evaluate_writes(folder: Path) -> None:
    with (folder / "scores" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((folder / "scores" / "summary.json").read_text())["dapi"]
    preds, truths = [], []
    for row in rows:
        preds.append(read_image(folder / f"scores/predictions/{row['field']}.ome.tif").array[0])
        truths.append(read_image(folder / f"images/{row['field']}_dapi.tif").array[0])
        full = vfn.score(preds[-1], truths[-1])
        for name, value in full.items():
            written = float(row[name] or "nan")
            assert value == pytest.approx(written, rel=1e-6, abs=1e-9, nan_ok=True), name
        signal = summary["range_signal"]
        found = vfn.score(preds[-1], truths[-1], data_range=signal)
        for name in ("mae", "psnr", "ssim"):
            assert found[name] == pytest.approx(float(row[f"{name}_signal"]), rel=1e-5)
    stacked = vfn.score(np.stack(preds), np.stack(truths))
    assert stacked["mae"].tolist() == [
        vfn.score(p, t)["mae"] for p, t in zip(preds, truths, strict=True)
    ]


def test_score_refuses_what_cannot_be_compared() -> None:
    grey = make_image(1, "uint16")
    for pred, truth, data_range, says in (
        (grey, grey[1:], None, r"pred is \(70, 91\), truth is \(69, 91\)"),
        (grey, grey.astype(float), None, "data_range: float32 has no range"),
        (grey, grey.astype(np.int64), None, "truth: pixels are int64"),
        (grey > 9, grey, None, "pred is bool"),
        (grey, grey, 0, "data_range=0"),
        (grey, grey, (5, 5), "data_range="),
        (grey, grey, (1, 2, 3), "data_range="),
        (grey[0], grey[0], None, "give images"),
    ):
        with pytest.raises(vfn.UserError, match=says):
            vfn.score(pred, truth, data_range)  # type: ignore[arg-type]
    assert vfn.score(grey, grey.astype(float), data_range=100.0)["mae"] == 0

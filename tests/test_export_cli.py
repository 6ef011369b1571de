"""A tiny trained model, handed to other programs through the real command line."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
import torch

from tests.cli import refuse_network, run
from tests.conftest import make_image, write_tokens
from vfn.errors import UserError
from vfn.export.bioimage import Label, write_bioimage
from vfn.inference.predictor import Predictor
from vfn.models.card import card_of, markdown
from vfn.models.checkpoint import Checkpoint, load_checkpoint

TINY = [
    "data.patch_size=32", "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=1",
    "model.generator.width=4", "model.generator.max_width=8", "model.generator.depth=3",
    "model.discriminator.width=4", "trainer=cpu", "logger=csv", "loss=mae",
]  # fmt: skip
CHANNELS = ("phase", "cy5", "dapi", "tubulin")
TASK = ["task.inputs=[phase,cy5]", "task.targets=[dapi,tubulin]"]
STRIDE = 8


def train(root: Path, name: str, *overrides: str) -> None:
    run("train.py", "data=folder", *TASK, *TINY, *overrides, f"run={name}", cwd=root).ok()


def ckpt(name: str) -> str:
    return f"ckpt=outputs/{name}/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of uint8 and uint16 images, and two that a package cannot state."""
    root = tmp_path_factory.mktemp("export")
    for dtype in ("uint8", "uint16"):
        write_tokens(root / dtype, CHANNELS, 4, dtype)
        train(root, dtype, f"data.root={dtype}")
    train(root, "curve", "data.root=uint16", "data.equalise=true")
    train(root, "flat", "data.root=uint16", "data.illumination=true")
    return root


def model(folder: Path, name: str) -> Checkpoint:
    return load_checkpoint(folder / "outputs" / name / "checkpoints" / "best.ckpt")


def stain(checkpoint: Checkpoint, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return checkpoint.generator(torch.from_numpy(x)).numpy()


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def predicted(checkpoint: Checkpoint, images: list[np.ndarray]) -> np.ndarray:
    """By torch, in one tile."""
    return Predictor(checkpoint, "cpu", "float32", 128).predict(images)


def assert_like(found: np.ndarray, expected: np.ndarray) -> None:
    """The tolerance that docs/export.md states: 1 grey level, and 1e-4 of [-1, 1]."""
    assert found.dtype == expected.dtype
    limit = 1 + 1e-4 * np.iinfo(expected.dtype).max / 2
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= limit


SHAPES = [(1, 2, STRIDE, STRIDE), (3, 2, 5 * STRIDE, 2 * STRIDE), (2, 2, STRIDE, 9 * STRIDE)]


def test_onnx_runs_at_every_size_and_says_what_it_is(folder: Path) -> None:
    said = run("vfn.export", ckpt("uint16"), "output=onnx", cwd=folder).ok()
    assert said.out == "onnx/model.onnx\n"
    assert {path.name for path in (folder / "onnx").iterdir()} == {"model.onnx", "model_card.md"}
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("input", ["batch", 2, "height", "width"])
    assert (given.name, given.shape) == ("output", ["batch", 2, "height", "width"])
    checkpoint = model(folder, "uint16")
    for shape in SHAPES:
        x = numbers(*shape)
        np.testing.assert_allclose(
            session.run(None, {"input": x})[0], stain(checkpoint, x), atol=1e-5
        )
    facts = json.loads(session.get_modelmeta().custom_metadata_map["vfn"])
    assert_facts(facts, checkpoint)
    onnx.checker.check_model(folder / "onnx" / "model.onnx", full_check=True)


def assert_facts(facts: dict[str, Any], checkpoint: Checkpoint) -> None:
    assert facts["stride"] == STRIDE
    assert facts["model"] == checkpoint.identity
    assert [one["channel"] for one in facts["inputs"]] == ["phase", "cy5"]
    assert [one["channel"] for one in facts["targets"]] == ["dapi", "tubulin"]
    for said, fitted in zip(facts["inputs"], checkpoint.inputs, strict=True):
        assert (said["low"], said["high"], said["dtype"]) == (fitted.low, fitted.high, fitted.dtype)
        assert said["knots"] is None
    assert facts["illumination_corrected"] is False
    said = [verdict.text for verdict in checkpoint.verdicts]
    assert facts["verdicts"] == said
    assert said[0].startswith("dapi: never scored on test fields")


def test_torch_runs_at_every_size_and_says_what_it_is(folder: Path) -> None:
    run("vfn.export", ckpt("uint16"), "output=torch", "format=torch", cwd=folder).ok()
    facts = {"vfn.json": ""}
    program = torch.export.load(folder / "torch" / "model.pt2", extra_files=facts).module()
    checkpoint = model(folder, "uint16")
    for shape in SHAPES:
        x = numbers(*shape)
        with torch.inference_mode():
            found = program(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, stain(checkpoint, x), atol=1e-5)
    assert_facts(json.loads(facts["vfn.json"]), checkpoint)


def test_the_example_of_the_page_gives_what_predict_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/export.md, word for word."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "export.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    run("vfn.export", ckpt("uint16"), "output=example", cwd=folder).ok()
    images = [make_image(seed, "uint16")[:64, :88] for seed in (100, 101)]
    for name, image in zip(("phase", "cy5"), images, strict=True):
        tifffile.imwrite(folder / f"{name}.tif", image)
    scope: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(compile(example, "docs/export.md", "exec"), scope)
    assert_like(scope["stains"], predicted(model(folder, "uint16"), images))


def test_a_package_passes_the_zoos_test_and_keeps_grey_values(folder: Path) -> None:
    dtype = "uint16"
    label = ["name=Two stains", "authors=[Jane Doe,John Roe]", "license=MIT", "pixel_size=0.65"]
    given = ("format=bioimage", f"output=zoo_{dtype}", *label)
    # The command tests the package, too.
    said = run("vfn.export", ckpt(dtype), *given, cwd=folder, prepare=refuse_network).ok()
    assert said.out == f"zoo_{dtype}/Two_stains.zip\n"
    path = folder / f"zoo_{dtype}" / "Two_stains.zip"
    assert sorted(path.parent.iterdir()) == [path, path.with_name("model_card.md")]
    images = [make_image(seed, dtype)[:64, :80] for seed in (100, 101)]
    np.save(folder / "image.npy", np.stack(images)[None])
    zoo = ("tests.zoo", path, "image.npy", f"{dtype}.npy")
    about = json.loads(run(*zoo, cwd=folder, prepare=refuse_network).ok().out)
    assert_like(np.load(folder / f"{dtype}.npy")[0], predicted(model(folder, dtype), images))
    assert about["format_version"].startswith("0.5.")
    assert about["authors"] == [{"name": "Jane Doe"}, {"name": "John Roe"}]
    assert about["license"] == "MIT"
    assert about["cite"][0]["doi"] == "10.1117/1.JBO.25.9.096009"
    (taken,), (given_back,) = about["inputs"], about["outputs"]
    for tensor, channels in ((taken, ["phase", "cy5"]), (given_back, ["dapi", "tubulin"])):
        assert tensor["data"]["type"] == dtype
        assert [axis["type"] for axis in tensor["axes"]] == ["batch", "channel", "space", "space"]
        assert tensor["axes"][1]["channel_names"] == channels
        assert {(a["unit"], a["scale"]) for a in tensor["axes"][2:]} == {("micrometer", 0.65)}
    assert taken["axes"][2]["size"] == {"min": STRIDE, "step": STRIDE}


def test_a_package_names_itself(folder: Path) -> None:
    run("vfn.export", ckpt("uint8"), "format=bioimage", "output=named", cwd=folder).ok()
    (path,) = (folder / "named").glob("*.zip")
    card = (folder / "named" / "model_card.md").read_text(encoding="utf-8")
    assert card == markdown(card_of(model(folder, "uint8").recipe))
    assert path.name == "phase_+_cy5_to_dapi_+_tubulin.zip"
    with zipfile.ZipFile(path) as package:
        about = package.read("rdf.yaml").decode()
        assert "predicts dapi, tubulin from phase, cy5" in about.lower()
        assert "license: CC-BY-4.0" in about
        page = package.read("README.md").decode()
    assert "multiples of 8" in page
    assert card.split("\n", 1)[1] in page  # the same under the package's own name


def test_a_package_has_the_licence_and_the_pixel_size_of_the_card(folder: Path) -> None:
    raw = torch.load(folder / ckpt("uint8").removeprefix("ckpt="), weights_only=True)
    card = raw["vfn"]["card"]
    card["licence"], card["data"]["pixel_size"] = "CC0-1.0", 0.5
    torch.save(raw, folder / "licensed.ckpt")
    keys = ["ckpt=licensed.ckpt", "format=bioimage", "output=licensed"]
    run("vfn.export", *keys, cwd=folder).ok()
    (path,) = (folder / "licensed").glob("*.zip")
    with zipfile.ZipFile(path) as package:
        about = package.read("rdf.yaml").decode()
    assert "license: CC0-1.0" in about
    assert "scale: 0.5" in about


@pytest.mark.parametrize("module", ["onnxscript", "bioimageio.core"])
def test_a_missing_package_is_named(
    folder: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"format=bioimage: needs .*pip install .*{module}"):
        write_bioimage(folder, model(folder, "uint8"), Label())


@pytest.mark.parametrize(
    ("name", "says"), [("curve", "phase is equalised"), ("flat", "illumination corrected")]
)
def test_what_is_no_line_is_no_package(folder: Path, name: str, says: str) -> None:
    result = run("vfn.export", ckpt(name), "format=bioimage", "output=none", cwd=folder)
    result.refused("format=bioimage", says, "format=onnx")
    assert not list((folder / "none").glob("*"))
    told = run("vfn.export", ckpt(name), f"output={name}_onnx", cwd=folder).ok().out
    assert ("correction of illumination" in told) == (name == "flat")
    session = onnxruntime.InferenceSession(folder / f"{name}_onnx" / "model.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["vfn"])
    assert facts["illumination_corrected"] == (name == "flat")
    assert (facts["inputs"][0]["knots"] is not None) == (name == "curve")


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["uint8", "curve"])
def test_predict_gives_the_same_by_every_backend(folder: Path, name: str, backend: str) -> None:
    source = "uint8" if name == "uint8" else "uint16"
    common = (ckpt(name), f"input={source}", "precision=float32")
    run("predict.py", *common, f"output={name}_torch", cwd=folder).ok()
    output = f"{name}_{backend}"
    run("predict.py", *common, f"output={output}", f"backend={backend}", cwd=folder).ok()
    paths = sorted((folder / output).glob("*.ome.tif"))
    assert len(paths) == 4
    for path in paths:
        found, expected = (
            tifffile.imread(path),
            tifffile.imread(folder / f"{name}_torch" / path.name),
        )
        assert_like(found, expected)
        with tifffile.TiffFile(path) as tif:
            assert f"{backend} float32" in (tif.ome_metadata or "")


def test_another_backend_is_another_prediction(folder: Path) -> None:
    """A field is computed again when the backend changes, and not when it stays."""
    given = (ckpt("uint16"), "input=uint16", "output=changing", "precision=float32")
    times = []
    for backend in ("torch", "onnx", "onnx"):
        run("predict.py", *given, f"backend={backend}", cwd=folder).ok()
        times.append([p.stat().st_mtime_ns for p in sorted((folder / "changing").glob("*.tif"))])
    assert times[0] != times[1]
    assert times[1] == times[2]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((), ("ckpt: not given",)),
        ((ckpt("uint8"),), ("output: not given",)),
        ((ckpt("none"), "output=x"), ("ckpt=outputs/none", "no such file")),
        ((ckpt("uint8"), "output=x", "format=tflite"), ("format=tflite", "onnx, torch, bioimage")),
        ((ckpt("uint8"), "output=x", "format=bioimage", "authors=[]"), ("authors=[]", "authors=[Jane Doe]")),
        ((ckpt("uint8"), "output=x", "format=bioimage", "pixel_size=-1"), ("pixel_size=-1", "micrometres")),
        ((ckpt("uint8"), "output=x", "format=bioimage", "pixel_size=big"), ("pixel_size=big",)),
        ((ckpt("uint8"), "output=uint8/f01_dapi.tif"), ("uint8/f01_dapi.tif",)),
        ((ckpt("uint8"), "output=x", "format=bioimage", "name=a/b/c"), ("format=bioimage", "name")),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(
    folder: Path, overrides: tuple[str, ...], says: tuple[str, ...]
) -> None:
    run("vfn.export", *overrides, cwd=folder).refused(*says)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("backend=tensorrt",), ("backend=tensorrt", "torch, onnx, openvino")),
        (("backend=onnx", "precision=bf16"), ("precision=bf16", "backend=onnx")),
    ],
)
def test_predict_refuses_in_one_line(
    folder: Path, overrides: tuple[str, ...], says: tuple[str, ...]
) -> None:
    given = (ckpt("uint8"), "input=uint8", "output=refused", *overrides)
    run("predict.py", *given, cwd=folder).refused(*says)

"""The napari plugin in napari itself, without a screen."""

import csv
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import vfn
from tests.cli import ROOT, run
from tests.conftest import make_image, write
from vfn.data.images import read_image
from vfn.napari_plugin import layers as looks
from vfn.napari_plugin.reader import get_reader, read_layers

MANIFEST = ROOT / "vfn" / "napari_plugin" / "napari.yaml"
SIZE = 0.65  # um
BEST = "outputs/two/checkpoints/best.ckpt"
WAIT = 120  # s


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": "YX", "PhysicalSizeX": SIZE, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, image, ome=True, metadata=metadata)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model of two inputs and two targets, and what predict.py writes by it."""
    root = tmp_path_factory.mktemp("napari")
    for field in range(1, 6):
        save(root / f"images/f{field:02d}_phase.ome.tif", make_image(field, "uint16"))
        for number, channel in enumerate(("rna", "dapi", "actin"), 1):
            image = make_image(field + 50 * number, "uint16")
            write(root / f"images/f{field:02d}_{channel}.tif", image)
    run(
        "train.py", "data=folder", "data.root=images", "task.inputs=[phase,rna]",
        "task.targets=[dapi,actin]", "logger=csv", "loss=mae", "model.generator.width=4",
        "model.generator.depth=3", "model.generator.max_width=8", "data.patch_size=32",
        "data.patches_per_epoch=4", "data.val_patches=4", "trainer.max_epochs=1", "trainer=cpu",
        "run=two", cwd=root,
    ).ok()  # fmt: skip
    run("vfn.calibrate", f"ckpt={BEST}", "steps=2", cwd=root).ok()
    save(root / "new/g1_phase.ome.tif", make_image(200, "uint16") // 3 * 4)  # brighter
    write(root / "new/g1_rna.tif", make_image(250, "uint16"))
    run(
        "predict.py", f"ckpt={BEST}", "input=new", "output=stains", "uncertainty=0.9", cwd=root
    ).ok()
    return root


@pytest.fixture(scope="module")
def predicted(folder: Path) -> Path:
    return folder / "stains" / "g1.ome.tif"


def field(folder: Path, number: int = 200) -> np.ndarray:
    """The inputs of the new field, (2, H, W)."""
    paths = (folder / "new/g1_phase.ome.tif", folder / "new/g1_rna.tif")
    return np.concatenate([read_image(path).array for path in paths])


# --- without napari -------------------------------------------------------------------------------


def test_the_package_and_the_reader_import_neither_napari_nor_torch() -> None:
    code = (
        "import sys, vfn, vfn.napari_plugin.reader; "
        "assert not {'torch', 'napari', 'qtpy', 'magicgui', 'npe2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("dna", "bop blue"), ("A01_Hoechst 33342", "bop blue"), ("actin", "green"),
        ("golgi_actin", "bop orange"), ("mito", "red"), ("er", "green"), ("phase", "gray"),
        ("er_halfwidth90", "inferno"), ("fibre", "magenta"), ("lamin", "magenta"),
    ],
)  # fmt: skip
def test_colours(channel: str, expected: str) -> None:
    assert looks.colormap(channel, 1) == expected


def test_contrast_limits_leave_out_the_hot_pixel_and_survive_a_blank_image() -> None:
    image = np.tile(np.arange(1000, dtype=np.uint16), (1000, 1))
    image[500, 500] = 65535
    low, high = looks.contrast_limits(image)
    assert 0 <= low < 5
    assert 990 < high < 1000
    large = np.repeat(np.repeat(image, 3, 0), 3, 1)  # of which a sample is taken
    assert looks.contrast_limits(large) == pytest.approx((low, high), abs=2)
    assert looks.contrast_limits(np.full((9, 9), 7, np.uint8)) == (7, 8)


def test_the_reader_leaves_what_it_does_not_know_to_others(tmp_path: Path, predicted: Path) -> None:
    assert get_reader(str(predicted)) is read_layers
    assert get_reader([str(predicted)]) is None
    movie = tmp_path / "movie.ome.tif"
    tifffile.imwrite(movie, np.zeros((3, 9, 9), np.uint8), ome=True, metadata={"axes": "TYX"})
    plain = tmp_path / "plain.ome.tif"
    tifffile.imwrite(plain, np.zeros((9, 9), np.uint8), ome=False)
    (tmp_path / "no.ome.tif").write_bytes(b"no TIFF")
    for path in (movie, plain, tmp_path / "no.ome.tif", tmp_path / "absent.ome.tif", ROOT):
        assert get_reader(str(path)) is None, path


def test_the_reader_says_what_is_wrong_with_a_damaged_file(tmp_path: Path, predicted: Path) -> None:
    half = tmp_path / "half.ome.tif"
    data = bytearray(predicted.read_bytes())
    with tifffile.TiffFile(predicted) as tif:
        at = tif.pages[1].dataoffsets[0]
    data[at : at + 40] = bytes(40)
    half.write_bytes(data)
    read = get_reader(str(half))
    assert read is not None
    with pytest.raises(vfn.UserError, match=r"half\.ome\.tif"):
        read(str(half))


def test_the_readers_layers(predicted: Path, folder: Path) -> None:
    image = read_image(predicted)
    assert image.channels == ("dapi", "actin", "dapi_halfwidth90", "actin_halfwidth90")
    found = _layers(predicted)
    assert [options["name"] for _, options, _ in found] == list(image.channels)
    assert [options["visible"] for _, options, _ in found] == [True, True, False, False]
    colours = [options["colormap"] for _, options, _ in found]
    assert colours == ["bop blue", "green", "inferno", "inferno"]
    for (pixels, options, kind), plane in zip(found, image.array, strict=True):
        np.testing.assert_array_equal(pixels, plane)
        assert kind == "image"
        assert (options["scale"], options["units"]) == ((SIZE, SIZE), ("um", "um"))
        low, high = options["contrast_limits"]
        assert plane.min() <= low < high <= plane.max() + 1
        assert options["metadata"]["vfn"]["note"].startswith("predicted by vfn")
    ((_, options, _),) = _layers(folder / "new" / "g1_phase.ome.tif")
    assert options["name"] == "g1_phase"  # the file names no channel
    assert "metadata" not in options


def _layers(path: Path) -> list[Any]:
    read = get_reader(str(path))
    assert read is not None
    return read(str(path))


# --- with napari ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _offscreen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No window on anybody's screen, nobody's settings read or written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QT_QPA_PLATFORM", "offscreen")
        patch.setenv("NAPARI_CONFIG", str(tmp_path_factory.mktemp("config") / "settings.yaml"))
        patch.setenv("NAPARI_ASYNC", "0")
        yield


@pytest.fixture(scope="module")
def plugins(_offscreen: None) -> Any:
    """npe2's plugin manager, which knows ours as if the package were installed."""
    pytest.importorskip("napari")
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    manifest = PluginManifest.from_file(MANIFEST)
    if manifest.name not in manager:
        manager.register(manifest)
    return manager


@pytest.fixture
def viewer(plugins: Any) -> Any:
    """The viewer without a window."""
    from napari.components import ViewerModel
    from napari.qt import get_qapp

    get_qapp()
    return ViewerModel()


@pytest.fixture
def window(plugins: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The viewer with its window, which is never drawn: that would take OpenGL, and so X."""
    import napari
    from napari._vispy import canvas
    from napari._vispy.layers import base, image, labels

    for module in (canvas, base, image, labels):
        monkeypatch.setattr(module, "get_max_texture_sizes", lambda: (2048, 2048))
    monkeypatch.setattr(image, "get_gl_extensions", lambda: "texture_float")
    viewer = napari.Viewer(show=False)
    yield viewer
    viewer.close()


def test_the_manifest_is_the_packages(plugins: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (entry,) = project["project"]["entry-points"]["napari.manifest"].values()
    module, name = entry.split(":")
    assert ROOT / module.replace(".", "/") / name == MANIFEST
    data = project["tool"]["setuptools"]["package-data"]["vfn"]
    assert str(MANIFEST.relative_to(ROOT / "vfn")) in data
    manifest = plugins.get_manifest("vfn")
    assert manifest.name == project["project"]["name"]
    manifest.validate_imports()


def test_napari_opens_a_prediction(viewer: Any, predicted: Path) -> None:
    from napari.utils.notifications import notification_manager

    before = len(notification_manager.records)
    viewer.open(predicted, plugin="vfn")
    assert [layer.name for layer in viewer.layers] == list(read_image(predicted).channels or ())
    assert [layer.visible for layer in viewer.layers] == [True, True, False, False]
    assert [str(unit) for unit in viewer.layers[0].units] == ["micrometer"] * 2
    assert list(viewer.layers[0].scale) == [SIZE] * 2
    (said,) = notification_manager.records[before:]
    assert said.severity.name == "WARNING"
    assert said.message.startswith("g1: Verdict when predicted: dapi: never scored on test fields")
    assert " Input shift: phase: " in said.message


def pump(until: Callable[[], bool]) -> int:
    """Let the window live until something is so; how often it was its turn meanwhile."""
    from qtpy.QtWidgets import QApplication

    turns, end = 0, time.monotonic() + WAIT
    while not until():
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.005)
        turns += 1
    return turns


def loaded(viewer: Any, path: Path) -> Any:
    from vfn.napari_plugin.widget import PredictWidget

    widget = PredictWidget(viewer)
    load(widget, path)
    return widget


def load(widget: Any, path: Path) -> None:
    widget.checkpoint.setText(str(path))
    widget.load()
    pump(lambda: widget._worker is None)


def predict(widget: Any) -> int:
    widget.button.click()
    assert not widget.progress.isHidden()
    turns = pump(lambda: widget._worker is None)
    assert widget.progress.isHidden()
    assert (widget.button.text(), widget.button.isEnabled()) == ("Predict", True)
    return turns


def add_inputs(viewer: Any, inputs: np.ndarray, **options: Any) -> None:
    for name, array in zip(("g1_phase", "g1_rna"), inputs, strict=True):
        viewer.add_image(array, name=name, **options)


def test_predict_in_the_window(window: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, model = field(folder), vfn.load(folder / BEST)
    threads, real = [], vfn.Model.predict

    def slow(self: vfn.Model, *args: Any, **options: Any) -> np.ndarray:
        threads.append(threading.current_thread())
        time.sleep(0.2)
        return real(self, *args, **options)

    monkeypatch.setattr(vfn.Model, "predict", slow)
    add_inputs(window, inputs, scale=(SIZE, SIZE), units=("um", "um"), translate=(10, 20))
    window.add_image(np.zeros((9, 9, 3), np.uint8), name="rna in colour", rgb=True)
    _, widget = window.window.add_plugin_dock_widget("vfn", "Predict stains")
    assert not widget.button.isEnabled()
    load(widget, folder / BEST)
    assert widget.status.text() == f"phase + rna → dapi, actin, trained on {SIZE} µm a pixel."
    said = [f"{name}: never scored on test fields" for name in ("dapi", "actin")]
    assert [line.split(";")[0] for line in widget.verdict.text().splitlines()] == said
    assert "color: #e0a030" in widget.verdict.styleSheet()
    chosen = {channel: box.currentText() for channel, box in widget.inputs.items()}
    assert chosen == {"phase": "g1_phase", "rna": "g1_rna"}
    assert widget.pixel_size.value() == SIZE
    widget.intervals.setChecked(True)
    widget.coverage.setValue(80)
    assert predict(widget) > 5  # the window was alive while the model worked
    assert threading.main_thread() not in threads
    expected = model.predict(inputs, pixel_size=SIZE, uncertainty=0.8)
    added = window.layers[3:]
    names = ["dapi", "actin", "dapi_halfwidth80", "actin_halfwidth80"]
    assert [layer.name for layer in added] == [f"{name} predicted" for name in names]
    for layer, plane in zip(added, expected, strict=True):
        np.testing.assert_array_equal(layer.data, plane)
        assert layer.data.dtype == plane.dtype
        for same in ("scale", "translate", "units"):
            assert tuple(getattr(layer, same)) == tuple(getattr(window.layers[0], same))
    verdicts = [verdict.text for verdict in model.verdicts]
    assert widget.verdict.text().splitlines() == verdicts
    assert all(layer.metadata[looks.KEY]["verdict"] == verdicts for layer in added)
    assert [layer.visible for layer in added] == [True, True, False, False]
    assert [layer.colormap.name for layer in added[:3]] == ["bop blue", "green", "inferno"]
    with (folder / "stains" / "input_shift.csv").open(newline="") as file:
        rows = [f"⚠ {row['channel']}: {row['finding']}" for row in csv.DictReader(file)]
    assert rows
    assert widget.warnings.text().splitlines() == rows[:5]
    assert not widget.error.text()


def test_a_stack_is_predicted_slice_by_slice(viewer: Any, folder: Path) -> None:
    inputs = field(folder)
    stack = np.stack([inputs, inputs // 2, inputs[:, ::-1]], 1)  # (C, Z, H, W)
    add_inputs(viewer, stack)
    widget = loaded(viewer, folder / BEST)
    predict(widget)
    dapi = viewer.layers["dapi predicted"].data
    np.testing.assert_array_equal(dapi, vfn.load(folder / BEST).predict(stack, "CZYX")[:, 0])
    said = widget.warnings.text().splitlines()
    assert said[0].startswith("⚠ pixel size not known")
    assert said[1].startswith("⚠ slice 0: phase: ")


def test_stop_ends_after_the_field(
    viewer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_inputs(viewer, np.stack([field(folder)] * 50, 1))
    widget = loaded(viewer, folder / BEST)
    calls, real = [], vfn.Model.predict

    def counted(self: vfn.Model, *args: Any, **options: Any) -> np.ndarray:
        calls.append(1)
        time.sleep(0.05)
        return real(self, *args, **options)

    monkeypatch.setattr(vfn.Model, "predict", counted)
    widget.button.click()
    pump(lambda: len(calls) > 1)
    assert widget.button.text() == "Stop"
    widget.button.click()
    pump(lambda: widget._worker is None)
    assert len(calls) < 20
    assert widget.status.text() == "Stopped; no layer was added."
    assert len(viewer.layers) == 2
    assert widget.button.text() == "Predict"


def test_choices_follow_the_layers(viewer: Any, folder: Path) -> None:
    widget = loaded(viewer, folder / BEST)
    box = widget.inputs["rna"]
    assert box.currentData() is None
    first = viewer.add_image(make_image(1, "uint16"), name="plate1 RNA")
    assert box.currentData() is first
    exact = viewer.add_image(make_image(2, "uint16"), name="rna", scale=(0.5, 0.5))
    assert box.currentData() is first  # chosen, if not by hand
    first.name = "tubulin"
    assert (box.currentData(), box.currentText()) == (first, "tubulin")
    viewer.layers.remove(first)
    assert box.currentData() is exact
    assert widget.pixel_size.value() == 0.5
    exact.name = "something"
    viewer.layers.clear()
    assert (box.count(), box.currentData()) == (1, None)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda v, w: v.layers.pop(), "Error: no layer for rna; open one, and choose it"),
        (
            lambda v, w: setattr(v.layers[1], "data", v.layers[1].data[:60]),
            "Error: the layers differ in size: phase (70, 91), rna (60, 91); choose layers of one",
        ),
        (
            lambda v, w: [setattr(layer, "data", layer.data.astype(np.float32)) for layer in v.layers],
            "Error: channel phase is float32, the model was trained on uint16",
        ),
        (lambda v, w: w.pixel_size.setValue(0.325), "Error: pixel size 0.325 um (training 0.65): structures are"),
        (lambda v, w: setattr(w, "model", Broken()), "Error: RuntimeError: out of luck and memory"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(
    viewer: Any, folder: Path, break_it: Callable[[Any, Any], Any], says: str
) -> None:
    from napari.utils.notifications import notification_manager

    before = len(notification_manager.records)
    add_inputs(viewer, field(folder))
    widget = loaded(viewer, folder / BEST)
    break_it(viewer, widget)
    count = len(viewer.layers)
    widget.button.click()
    pump(lambda: widget._worker is None)
    assert widget.error.text().startswith(says)
    assert "\n" not in widget.error.text()
    assert len(viewer.layers) == count
    assert len(notification_manager.records) == before  # nothing pops up
    assert (widget.button.text(), widget.button.isEnabled()) == ("Predict", True)


class Broken:
    """A model with a fault of ours."""

    inputs, targets, pixel_size, calibrated = ("phase", "rna"), ("dapi",), None, False

    def predict(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("out of luck\nand memory")


def test_a_bad_checkpoint_is_one_line_and_a_good_one_mends_it(viewer: Any, folder: Path) -> None:
    widget = loaded(viewer, folder / "absent.ckpt")
    assert "absent.ckpt" in widget.error.text()
    assert not widget.button.isEnabled()
    load(widget, folder / "new" / "g1_rna.tif")
    assert widget.error.text().startswith(f"Error: ckpt={folder / 'new' / 'g1_rna.tif'}")
    load(widget, folder / BEST)
    assert not widget.error.text()
    assert widget.button.isEnabled()


def test_a_dock_that_is_closed_while_it_works_leaves_nothing_behind(
    viewer: Any, folder: Path
) -> None:
    from napari.utils.notifications import notification_manager
    from qtpy.QtCore import QCoreApplication, QEvent

    before = len(notification_manager.records)
    add_inputs(viewer, np.stack([field(folder)] * 3, 1))
    widget = loaded(viewer, folder / BEST)
    widget.button.click()
    ended: list[bool] = []
    widget._worker.finished.connect(lambda: ended.append(True))
    widget.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    pump(lambda: bool(ended))
    viewer.layers.pop()
    pump(lambda: True)
    assert len(viewer.layers) == 1
    assert len(notification_manager.records) == before


@pytest.mark.parametrize(
    ("scale", "unit", "expected"),
    [(1, None, None), (0.3, None, 0.3), (325, "nm", 0.325), (1, "um", 1), (2, "second", None)],
)
def test_pixel_sizes_of_layers(
    viewer: Any, scale: float, unit: str | None, expected: float | None
) -> None:
    from vfn.napari_plugin.widget import pixel_size

    units = {} if unit is None else {"units": (unit, unit)}
    layer = viewer.add_image(np.zeros((5, 5), np.uint8), scale=(scale, scale), **units)
    assert pixel_size(layer) == pytest.approx(expected)

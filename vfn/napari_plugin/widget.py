"""Widget: choose a checkpoint and input layers, predict one layer per stain.

Loading and predicting run in a background thread. Errors appear as one line in the widget.
"""

import logging
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from napari.qt.threading import create_worker
from qtpy import QtWidgets
from qtpy.QtCore import Qt

import vfn
from vfn.data.discovery.layout import split_plane
from vfn.data.discovery.tokens import split_token
from vfn.data.tiff_metadata import micrometres
from vfn.napari_plugin import layers
from vfn.napari_plugin.background import Failure, caught, loading, predicting

log = logging.getLogger(__name__)
NOT_CHOSEN = "choose a layer"
SHOWN = 5  # warnings in the widget; a movie may have hundreds
# Of a verdict; the worst level comes first, None is a stain that was never scored.
COLOURS = {"do not use": "#ff7068", None: "#e0a030", "care": "#e0a030", "use": "#62cf82"}
LENGTH, NO_UNIT = "[length]", "pixel"


class PredictWidget(QtWidgets.QWidget):
    """The dock widget "Predict stains".

    Args:
        napari_viewer: napari hands it in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model: vfn.Model | None = None
        self._worker: Any = None
        self._gone = threading.Event()  # the dock was closed: Qt has deleted what is inside
        self.destroyed.connect(self._gone.set)
        self._before: dict[str, Any] = {}  # of the first input's layer, for those that are added
        self.checkpoint = QtWidgets.QLineEdit()
        self.checkpoint.setPlaceholderText("outputs/NAME/checkpoints/best.ckpt")
        self.checkpoint.editingFinished.connect(self.load)
        browse = QtWidgets.QPushButton("Choose…")
        browse.clicked.connect(self._browse)
        self.inputs: dict[str, QtWidgets.QComboBox] = {}
        self._inputs_form = QtWidgets.QFormLayout()
        self.pixel_size = QtWidgets.QDoubleSpinBox()
        self.pixel_size.setDecimals(4)
        self.pixel_size.setRange(0, 1000)
        self.pixel_size.setSpecialValueText("not known")
        self.pixel_size.setToolTip("Compared with that of the training images; 0: not known")
        self.intervals = QtWidgets.QCheckBox("half-widths of intervals that hold")
        self.coverage = QtWidgets.QSpinBox()
        self.coverage.setRange(50, 99)
        self.coverage.setValue(90)
        self.coverage.setSuffix(" % of pixels")
        self.button = QtWidgets.QPushButton("Predict")
        self.button.clicked.connect(self._pressed)
        self.progress = QtWidgets.QProgressBar()
        self.status = _label()
        self.verdict = _label()
        self.warnings = _label("color: #e0a030;")
        self.error = _label("color: #ff7068;")
        form = QtWidgets.QFormLayout()
        form.addRow("Checkpoint", _row(self.checkpoint, browse))
        form.addRow(self._inputs_form)
        form.addRow("Pixel size (µm)", self.pixel_size)
        form.addRow(_row(self.intervals, self.coverage))
        column = QtWidgets.QVBoxLayout(self)
        column.addLayout(form)
        for widget in (
            self.button, self.progress, self.error, self.verdict, self.warnings, self.status,
        ):  # fmt: skip
            column.addWidget(widget)
        column.addStretch()
        events = self.viewer.layers.events
        for event in (events.inserted, events.removed, events.renamed):
            event.connect(self._refresh)
        self._settle()
        self.status.setText("Choose the checkpoint of a trained model.")

    # --- the model ---

    def _browse(self) -> None:
        start = self.checkpoint.text() or "outputs"
        path, _ = QtWidgets.QFileDialog.getOpenFileName(
            self, "Checkpoint of a trained model", start, "Checkpoints (*.ckpt)"
        )
        if path:
            self.checkpoint.setText(path)
            self.load()

    def load(self) -> None:
        """Load the chosen checkpoint and show its inputs."""
        path = Path(self.checkpoint.text().strip()).expanduser()
        if self._worker is not None or path == Path():
            return
        if self.model is not None and self.model.path == path:
            return
        self.model = None
        self.verdict.clear()
        self._show_inputs()
        self._start("Loading the model …", loading(path), self._loaded)

    def _loaded(self, model: vfn.Model) -> None:
        self.model = model
        self._show_inputs()
        levels = {verdict.level for verdict in model.verdicts}
        worst = next(level for level in COLOURS if level in levels)
        self.verdict.setStyleSheet(f"color: {COLOURS[worst]};")
        self.verdict.setText("\n".join(verdict.text for verdict in model.verdicts))
        size = "" if model.pixel_size is None else f", trained on {model.pixel_size:g} µm a pixel"
        self.status.setText(f"{' + '.join(model.inputs)} → {', '.join(model.targets)}{size}.")

    def _show_inputs(self) -> None:
        while self._inputs_form.rowCount():
            self._inputs_form.removeRow(0)
        self.inputs = {}
        for channel in () if self.model is None else self.model.inputs:
            box = QtWidgets.QComboBox()
            box.activated.connect(self._take_pixel_size)
            self._inputs_form.addRow(channel, box)
            self.inputs[channel] = box
        self._refresh()

    # --- its inputs ---

    def _images(self) -> list[Image]:
        return [layer for layer in self.viewer.layers if type(layer) is Image and not layer.rgb]

    def _refresh(self, event: Any = None) -> None:
        """List the layers; keep the chosen one, else choose the layer with the channel's name."""
        if self._gone.is_set():
            return
        images = self._images()
        for channel, box in self.inputs.items():
            chosen = box.currentData()
            if chosen not in images:
                chosen = _likely(channel, images, alone=len(self.inputs) == 1)
            box.clear()
            box.addItem(NOT_CHOSEN, None)
            for layer in images:
                box.addItem(layer.name, layer)
            box.setCurrentIndex(images.index(chosen) + 1 if chosen is not None else 0)
        self._take_pixel_size()
        self._settle()

    def _chosen(self) -> list[Any]:
        """Return the chosen layer of each input, or None."""
        return [box.currentData() for box in self.inputs.values()]

    def _take_pixel_size(self, *_: Any) -> None:
        layer = next((layer for layer in self._chosen() if layer is not None), None)
        self.pixel_size.setValue((layer and pixel_size(layer)) or 0)

    # --- the prediction ---

    def _pressed(self) -> None:
        if self._worker is None:
            self.predict()
        else:
            self._worker.quit()
            self.status.setText("Stopping after this field …")

    def predict(self) -> None:
        """Predict in the background; the layers are added when it is done."""
        if self.model is None or self._worker is not None:
            return
        chosen = self._chosen()
        absent = [name for name, layer in zip(self.inputs, chosen, strict=True) if layer is None]
        if absent:
            self._fail(vfn.UserError(f"no layer for {', '.join(absent)}; open one, and choose it"))
            return
        size = self.pixel_size.value() or None
        coverage = self.coverage.value() / 100 if self.intervals.isChecked() else None
        arrays = [layer.data[0] if layer.multiscale else layer.data for layer in chosen]
        self._before = {
            key: getattr(chosen[0], key) for key in ("scale", "translate", "units", "axis_labels")
        } | {"affine": chosen[0].affine.affine_matrix}
        self._start(
            "Predicting …",
            predicting(self.model, arrays, size, coverage),
            lambda result: self._predicted(result, size, coverage),
            int(np.prod(arrays[0].shape[:-2])),
        )

    def _predicted(
        self, result: tuple[np.ndarray, list[str]], size: float | None, coverage: float | None
    ) -> None:
        assert self.model is not None
        stack, warnings = result
        channels = self.model.channels(coverage)
        verdict = [verdict.text for verdict in self.model.verdicts]
        names = [f"{channel} predicted" for channel in channels]
        for channel, name, pixels, look in zip(
            channels, names, stack, layers.options(channels, stack), strict=True
        ):
            about = {"channel": channel, "checkpoint": str(self.model.path), "verdict": verdict}
            told = {layers.KEY: about}
            self.viewer.add_image(pixels, name=name, **look, **self._before, metadata=told)
        if size is None and self.model.pixel_size is not None:
            warnings = [
                f"pixel size not known, so not compared with the training's "
                f"{self.model.pixel_size:g} µm; structures must have the same size in pixels",
                *warnings,
            ]
        more = [f"… and {len(warnings) - SHOWN} more"] if len(warnings) > SHOWN else []
        self.warnings.setText("\n".join(f"⚠ {line}" for line in warnings[:SHOWN] + more))
        self.status.setText(f"Added {', '.join(names)}.")

    # --- work in the background ---

    def _start(
        self, says: str, work: Generator[Any, None, Any], done: Any, fields: int = 1
    ) -> None:
        """Run `work` in a thread and pass its result to `done`."""
        self.error.clear()
        self.warnings.clear()
        self.status.setText(says)
        self.progress.setRange(0, fields if fields > 1 else 0)  # of one field: a bar that moves
        self.progress.setValue(0)

        def returned(result: Any) -> None:
            if isinstance(result, Failure):
                self._fail(result.error)
            else:
                done(result)

        def finished() -> None:
            self._worker = None
            self._settle()

        def while_here(slot: Any) -> Any:
            return lambda *given: None if self._gone.is_set() else slot(*given)

        slots = {
            "yielded": self.progress.setValue,
            "returned": returned,
            "aborted": lambda: self.status.setText("Stopped; no layer was added."),
            "finished": finished,
        }
        self._worker = create_worker(
            caught, work, self._gone,
            _connect={signal: while_here(slot) for signal, slot in slots.items()},
        )  # fmt: skip
        self._settle()

    def _fail(self, error: Exception) -> None:
        self.status.clear()
        self.warnings.clear()
        told = " ".join(str(error).split())
        if not isinstance(error, vfn.UserError):  # a fault of ours: its traceback is in the log
            log.error("prediction failed", exc_info=error)
            told = f"{type(error).__name__}: {told}"
        self.error.setText(f"Error: {told}")

    def _settle(self) -> None:
        """Enable the controls that apply."""
        busy = self._worker is not None
        calibrated = self.model is not None and self.model.calibrated
        self.progress.setVisible(busy)
        self.button.setText("Stop" if busy and self.model is not None else "Predict")
        self.button.setEnabled(self.model is not None)
        self.checkpoint.setEnabled(not busy)
        for widget in (self.intervals, self.coverage):
            widget.setEnabled(calibrated)
            widget.setToolTip("" if calibrated else "python -m vfn.calibrate ckpt=CKPT, once")
        if not calibrated:
            self.intervals.setChecked(False)


def _row(*widgets: QtWidgets.QWidget) -> QtWidgets.QHBoxLayout:
    row = QtWidgets.QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row


def _label(style: str = "") -> QtWidgets.QLabel:
    label = QtWidgets.QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setStyleSheet(style)
    return label


def _likely(channel: str, images: list[Image], alone: bool) -> Image | None:
    """Return the layer with `channel` as its name or among the words of its name; a single layer
    fits a single input."""
    measured = [layer for layer in images if layers.KEY not in layer.metadata] or images
    name, z = split_plane(channel)
    fitting = [layer for layer in measured if layer.name.casefold() == channel.casefold()]
    if z is None:
        fitting += [layer for layer in measured if split_token(layer.name, name) is not None]
    if alone and len(measured) == 1:
        fitting += measured
    return next(iter(fitting), None)


def pixel_size(layer: Image) -> float | None:
    """Return the micrometres per pixel of a layer, or None if unknown.

    A scale without a unit is taken as micrometres, as most readers mean it; 1 is what a layer has
    of which nothing is known.
    """
    step, unit = float(layer.scale[-1]), layer.units[-1]
    if unit.dimensionality == {LENGTH: 1}:
        return micrometres(step, f"{unit}")
    return step if str(unit) == NO_UNIT and step != 1 else None

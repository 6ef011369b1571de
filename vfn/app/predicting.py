"""Predictions of the page, by the code of the command `predict`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from vfn.app.folders import check_inside
from vfn.app.models import Model
from vfn.app.pixels import AUTO, SAMPLES, Scale, measure
from vfn.app.queue import Job
from vfn.commands.predict import make_predictor, refocusing_step
from vfn.data.discovery.fields import FilePlane, ImageSource
from vfn.data.discovery.search import whole_field
from vfn.data.images import is_image, read_image, strip_suffix
from vfn.data.intensity import subsample
from vfn.data.samples import Sample, make_samples
from vfn.data.tiff_stacks import is_stack
from vfn.data.walk import find_sources
from vfn.errors import UserError
from vfn.inference.folder import predict_samples
from vfn.inference.inputs import find_samples
from vfn.models.checkpoint import Checkpoint, load_checkpoint
from vfn.system.csv_files import read_csv

SHOWN_FIELDS = 200  # of a folder; more are for predict.py


@dataclass(frozen=True)
class Source:
    """A folder of images: dropped files or an allowed folder.

    Attributes:
        folder: holds them.
        allowed: folder (resolved) out of which no link may lead.
        private: the folder's name means nothing to the user, so messages leave it out.
    """

    folder: Path
    allowed: Path
    private: bool

    def words(self, text: object) -> str:
        """Return a message with file names as the user knows them."""
        if not self.private:
            return str(text)
        return str(text).replace(f"{self.folder}/", "").replace(str(self.folder), "dropped files")

    def name(self, plane: ImageSource) -> str:
        """Return the file name of a plane and its position in the file."""
        text = str(getattr(plane, "path", plane))
        name = text.removeprefix(f"{self.folder}/")
        index = getattr(plane, "index", None)
        return name if index is None else f"{name}, channel {index + 1}"


@dataclass(frozen=True)
class Found:
    """The fields of a source as a model sees them.

    Attributes:
        samples: none where `problem` says why.
        planes: (file, position) of each grey image, for an assignment by hand; of a few files alone.
        damaged: files that cannot be read, in a line each.
    """

    samples: Sequence[Sample]
    problem: str = ""
    planes: Sequence[tuple[str, int]] = ()
    damaged: Sequence[str] = ()


@dataclass(frozen=True)
class Order:
    """A prediction that the page asked for.

    Attributes:
        coverage: of the intervals; None for the stains alone.
        output: an empty folder.
    """

    model: Model
    source: Source
    samples: Sequence[Sample]
    coverage: float | None
    output: Path


@dataclass(frozen=True)
class Layer:
    """One image that the page shows: an input, a stain, or a half-width.

    Attributes:
        training: the range of the training's images that became [-1, 1], grey values.
        bright: of a half-width, its median where the stain is bright.
    """

    kind: str
    channel: str
    plane: ImageSource
    scale: Scale
    training: tuple[float, float]
    bright: float | None = None

    def told(self) -> dict[str, Any]:
        """Return plain data for the page."""
        return {key: getattr(self, key) for key in ("kind", "channel", "training", "bright")} | (
            asdict(self.scale)
        )


@dataclass(frozen=True)
class Predicted:
    """A predicted field.

    Attributes:
        told: plain data for the page; of a field that failed, its `name` and `error` alone.
        path: of its file.
    """

    told: Mapping[str, Any]
    path: Path | None = None
    layers: Sequence[Layer] = ()


def checkpoint_of(model: Model) -> Checkpoint:
    """Return the checkpoint of a model; it is read once.

    Raises:
        UserError: see `load_checkpoint`.
    """
    status = model.path.stat()
    return _load(model.path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)  # with their weights, which may be large
def _load(path: Path, _mtime: int, _size: int) -> Checkpoint:
    return load_checkpoint(path)


def look(model: Model, source: Source) -> Found:
    """Find the fields of the model among the files.

    Raises:
        UserError: a model that cannot be read; a link that leads out of what is allowed.
    """
    checkpoint = checkpoint_of(model)
    check_inside(source.folder, source.allowed)
    try:
        samples, problem = find_samples(checkpoint, source.folder), ""
    except UserError as exc:
        samples, problem = [], source.words(exc)
    planes, damaged = _planes(source) if source.private else ([], [])
    return Found(samples, problem, planes, damaged)


def _planes(source: Source) -> tuple[list[tuple[str, int]], list[str]]:
    planes, damaged = [], []
    try:
        paths = [path for path in find_sources(source.folder) if is_image(path)]
    except UserError:  # containers alone, or nothing
        return [], []
    for path in paths:
        if is_stack(path):  # which is no single image, and has a field for each time point
            continue
        try:
            planes += [(path.name, index) for index in range(len(read_image(path).array))]
        except UserError as exc:
            damaged.append(source.words(exc))
    return planes, damaged


def assigned(model: Model, source: Source, channels: Mapping[str, tuple[str, int]]) -> list[Sample]:
    """Return one field whose channels the user assigned.

    Args:
        channels: input -> file and position in it.

    Raises:
        UserError: an input without an image, or an image that is not there.
    """
    checkpoint = checkpoint_of(model)
    known, _ = _planes(source)
    planes = []
    for channel in checkpoint.task.inputs:
        chosen = channels.get(channel)
        if chosen is None:
            raise UserError(f"{channel}: no image is chosen for it; choose one")
        if chosen not in known:  # looked up, never made into a path
            raise UserError(f"{channel}: {chosen[0]} is not among the dropped files")
        planes.append(FilePlane(source.folder / chosen[0], chosen[1]))
    name = strip_suffix(planes[0].path)
    return make_samples(
        [whole_field(name, checkpoint.task.inputs, planes)], checkpoint.task, targets=False
    )


def predict(job: Job, config: DictConfig) -> list[Predicted]:
    """Predict the fields of a job; a refused field does not stop the others."""
    order: Order = job.order
    job.tell(0.0, "reading the model")
    checkpoint = checkpoint_of(order.model)
    # Made anew each time: as predict.py, it chooses the arithmetic by the first field that it meets.
    predictor = make_predictor(config, checkpoint, order.coverage, str(config.backend))
    notes = []
    if predictor.coverage is not None and checkpoint.uncertainty is not None:
        notes = checkpoint.uncertainty.promise(predictor.coverage, checkpoint.task.targets)
    results = []
    for number, sample in enumerate(order.samples):

        def watch(share: float, before: int = number, name: str = sample.name) -> None:
            job.tell((before + share) / len(order.samples), f"predicting {name}")

        watch(0.0)
        folder = order.output / str(number)
        try:
            prepare = refocusing_step(checkpoint, folder / "refocus.csv")
            paths = predict_samples(predictor, [sample], folder, prepare=prepare, watch=watch)
            if not (paths and paths[0].is_file()):
                raise UserError(
                    f"field {sample.name}: is out of focus, and the model leaves it out"
                )
            watch(1.0)
            results.append(_described(sample, paths[0], checkpoint, predictor.channels, notes))
        except UserError as exc:
            told = {"name": sample.name, "error": order.source.words(exc)}
            results.append(Predicted(told))
    return results


def _described(
    sample: Sample,
    path: Path,
    checkpoint: Checkpoint,
    channels: Sequence[str],
    notes: Sequence[str],
) -> Predicted:
    task, image, layers = checkpoint.task, read_image(path), []
    for channel, plane, fitted in zip(task.inputs, sample.inputs, checkpoint.inputs, strict=True):
        pixels = plane.read()
        layers.append(Layer("input", channel, plane, measure(pixels), fitted.range_in(pixels)))
    ranges = [(one.low, one.high) for one in checkpoint.targets]
    ranges += [(0.0, (high - low) / 2) for low, high in ranges]
    for index, (channel, pixels) in enumerate(zip(channels, image.array, strict=True)):
        kind, bright = "stain", None
        if index >= len(task.targets):
            kind, bright = "halfwidth", _bright(pixels, image.array[index - len(task.targets)])
        plane = FilePlane(path, index)
        layers.append(Layer(kind, channel, plane, measure(pixels), ranges[index], bright))
    size, trained = sample.inputs[0].pixel_size, checkpoint.pixel_size
    unknown = (
        f"the file states no pixel size; the model was trained on {trained or 0:.4g} µm a pixel: check that "
        "yours are alike"
    )
    shifts = path.parent / "input_shift.csv"
    alarms = read_csv(shifts).rows if shifts.is_file() else []
    told = {
        "name": sample.name,
        "error": "",
        "height": image.array.shape[1],
        "width": image.array.shape[2],
        "pixel_size": size,
        "bytes": path.stat().st_size,
        "warnings": [f"{row['channel']}: {row['finding']}" for row in alarms],
        "notes": [*notes, *([unknown] if trained and not size else [])],
        "layers": [layer.told() for layer in layers],
    }
    return Predicted(told, path, layers)


def _bright(halfwidth: np.ndarray, stain: np.ndarray) -> float:
    """Return the median half-width over the bright pixels of the stain."""
    widths, values = (subsample(pixels, SAMPLES) for pixels in (halfwidth, stain))
    middle, top = np.percentile(values, (50, AUTO[1]))
    return float(np.median(widths[values >= (middle + top) / 2]))

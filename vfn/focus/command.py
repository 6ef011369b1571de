"""`python -m vfn.focus`: score fields by a scale of focus, or make one from defocus series."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from vfn.cli.entry import refuse_unread, set_up_logging, trainable_task
from vfn.commands.predict import required
from vfn.data.cache import ImageCache, in_parallel
from vfn.data.discovery.fields import NothingMatches
from vfn.data.discovery.layout import Layout, split_plane
from vfn.data.discovery.search import discover, whole_images
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample, Task, make_samples
from vfn.errors import UserError
from vfn.focus.figures import calibration_figure, focus_figure
from vfn.inference.inputs import find_samples
from vfn.models.checkpoint import load_checkpoint
from vfn.refocus import measures
from vfn.refocus.measures import Spectrum, mean_spectrum, tile_spectra
from vfn.refocus.scale import FocusMap, FocusScale, FocusScore
from vfn.refocus.series import calibrate_on_samples
from vfn.report.figures import write_png
from vfn.system.csv_files import write_csv
from vfn.system.dotted import trusted
from vfn.system.files import write_text
from vfn.system.locks import claimed
from vfn.training.build import stain_data

log = logging.getLogger(__name__)
MEASURES = (
    measures.power_log_log_slope, measures.variance_of_laplacian, measures.normalised_variance,
)  # fmt: skip
FIELDS_HEADER = (
    "field", "um", "low", "high", "blurred", "tiles_blurred", *(m.__name__ for m in MEASURES),
)  # fmt: skip
TILES_HEADER = ("field", "top", "left", "um", "low", "high")
CALIBRATION_HEADER = ("of", "depth", "mean_absolute_error", "mean_error")


@dataclass(frozen=True)
class Scored:
    """One field."""

    name: str
    score: FocusScore
    tiles: FocusMap
    measures: Sequence[float]


def focus(config: DictConfig) -> None:
    """Score the fields of `input`, or calibrate a scale on the data set.

    Raises:
        UserError: anything wrong in the config or the images.
    """
    set_up_logging()
    output = required(config, "output", "DIR")
    given = "without" if config.input is None else "with"
    refuse_unread({"without input=...": ("data",)}, {f"{given} input=..."})
    if config.input is None:
        if config.ckpt is not None or config.scale is not None:
            raise UserError("input: which images are to be scored? give input=DIR")
        with claimed(output):
            _calibrate(config, output)
        return
    if (config.ckpt is None) == (config.scale is None):
        raise UserError(
            "give ckpt=CKPT of a refocusing model, or scale=DIR/focus.json: one of them"
        )
    if not config.beyond > 0:
        raise UserError(f"beyond={config.beyond}: give micrometres above 0")
    scale, samples = _scale_and_samples(config, Path(str(config.input)))
    with claimed(output):
        if config.anchor:
            spectra = in_parallel(_spectrum, samples, "focus", len(samples))
            scale = scale.anchored(list(spectra))
        fields = in_parallel(lambda sample: _score(sample, scale), samples, "focus", len(samples))
        _write(list(fields), scale, float(config.beyond), output)


def _scale_and_samples(config: DictConfig, source: Path) -> tuple[FocusScale, list[Sample]]:
    if config.ckpt is not None:
        checkpoint = load_checkpoint(Path(str(config.ckpt)), trusted(config.trust))
        scale = checkpoint.part("focus", FocusScale.from_dict)
        if scale is None:
            raise UserError(
                f"ckpt={config.ckpt}: carries no scale of focus; give a model of task=refocus"
            )
        return scale, find_samples(checkpoint, source)
    path = Path(str(config.scale))
    try:
        scale = FocusScale.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as exc:
        raise UserError(f"scale={path}: cannot be read ({exc}); give a focus.json") from exc
    task = trainable_task(config.task)
    if not source.exists():
        raise UserError(f"input={source}: does not exist; give a folder of images or one image")
    alone = Task(task.name, task.inputs[:1], ())
    channel = split_plane(task.inputs[0])[0]
    try:
        fields = discover(source, Layout(), (channel,))
    except NothingMatches:
        log.warning(
            "input=%s: no %s in the paths, so each image is taken as it is", source, channel
        )
        fields = whole_images(source, alone.inputs)
    return scale, make_samples(fields, alone, targets=False)


def _image(sample: Sample) -> NDArray[np.generic]:
    image = present(read_sample(sample, ImageCache()))[0]
    if min(image.shape) < measures.MIN_SIDE:
        raise UserError(
            f"field {sample.name}: {image.shape[0]}x{image.shape[1]} pixels are too few to tell focus; "
            f"give images of {measures.MIN_SIDE} pixels a side or more"
        )
    return image


def _spectrum(sample: Sample) -> Spectrum:
    return mean_spectrum(tile_spectra(_image(sample)))


def _score(sample: Sample, scale: FocusScale) -> Scored:
    image = _image(sample)
    spectrum = tile_spectra(image, scale.tile)
    score, tiles = scale.rate(mean_spectrum(spectrum)), scale.rate_tiles(spectrum, image.shape)
    return Scored(sample.name, score, tiles, [measure(image) for measure in MEASURES])


def _share_blurred(field: Scored, beyond: float) -> float:
    """Return the share of blurred tiles among those with content; NaN without any."""
    known = field.tiles.um[np.isfinite(field.tiles.um)]
    return float((known > beyond).mean()) if known.size else float("nan")


def _write(fields: Sequence[Scored], scale: FocusScale, beyond: float, output: Path) -> None:
    lines = [
        [
            f.name, *(_number(v) for v in f.score),
            "" if np.isnan(f.score.um) else str(f.score.um > beyond).lower(),
            _number(_share_blurred(f, beyond)), *(_number(v) for v in f.measures),
        ]
        for f in fields
    ]  # fmt: skip
    write_csv(output / "focus.csv", FIELDS_HEADER, lines)
    tiles = [
        [
            f.name, str(top), str(left),
            *(_number(float(part[i, j])) for part in (f.tiles.um, f.tiles.low, f.tiles.high)),
        ]
        for f in fields
        for i, top in enumerate(f.tiles.tops)
        for j, left in enumerate(f.tiles.lefts)
    ]  # fmt: skip
    write_csv(output / "tiles.csv", TILES_HEADER, tiles)
    shown = [(f.name, f.score.um, f.tiles.um) for f in fields]
    write_png(output / "focus.png", focus_figure(shown, beyond))
    blurred = sum(f.score.um > beyond for f in fields)
    empty = sum(np.isnan(f.score.um) for f in fields)
    print(
        f"{blurred} of {len(fields)} field(s) lie more than {beyond:g} um from focus"
        + (f", {empty} show nothing" if empty else "")
        + f"; the scale: {scale}"
    )
    print(f"tables and figure: {output}")


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"


def _calibrate(config: DictConfig, output: Path) -> None:
    """Make a scale from the data set's planes of known depth."""
    task = trainable_task(config.task)
    if not task.input_z:
        raise UserError("task.input_z: a scale needs planes at known depths; give task=refocus")
    data = stain_data(config, task)
    scale = calibrate_on_samples(data.samples(), task, data.store)
    if scale is None:
        raise UserError("no scale could be made; see above")
    write_text(output / "focus.json", json.dumps(scale.to_dict()) + "\n")
    lines = [
        [of, f"{depth:g}", f"{absolute:.4g}", f"{off:.4g}"]
        for of, tiles in (("fields", False), ("tiles", True))
        for depth, (absolute, off) in scale.errors(tiles).items()
    ]
    write_csv(output / "calibration.csv", CALIBRATION_HEADER, lines)
    write_png(output / "calibration.png", calibration_figure(scale))
    print(f"scale of focus of {task.inputs[0]}: {scale}; tiles +- {scale.mean_error(True):.2g} um")
    print(f"scale=...: {output / 'focus.json'}")

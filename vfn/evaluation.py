"""`evaluate.py`: score a checkpoint on the test split, or any program's images; compare evaluations."""

import logging
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from vfn import __version__
from vfn.checkpoint import load_checkpoint
from vfn.cli import plain, set_up_logging
from vfn.comparing import compare
from vfn.data.base import StainData, overlap
from vfn.data.pixels import present, read_view
from vfn.data.views import View
from vfn.errors import UserError
from vfn.files import make_folder
from vfn.inference.predictor import Predictor
from vfn.metrics.pairs import FieldPair, FolderPairs
from vfn.metrics.stain import Nuclei
from vfn.prediction import coverage, make_predictor, required
from vfn.refocusing import is_refocused, refocusing_of, restored
from vfn.report.verdict import read_limits
from vfn.scoring import Settings, score
from vfn.trained import recorded, trained_data, true_targets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointPairs:
    """The test views of a data set, each with the model's and the baselines' predictions."""

    predictor: Predictor
    data: StainData
    views: list[View]
    folder: Path | None  # of the predictions; None keeps none

    def __len__(self) -> int:
        return len(self.views)

    def truth(self, index: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Channels that the field has, and their truth (C, H, W) in the dtype on disk."""
        view = self.views[index]
        arrays = read_view(replace(view, inputs=()), self.data.store)
        return true_targets(self.predictor.checkpoint, view, arrays, self.data.store)

    def pair(self, index: int) -> FieldPair:
        """Predict one field (or take the prediction that is there) and put the baselines beside it."""
        view, checkpoint = self.views[index], self.predictor.checkpoint
        arrays = read_view(view, self.data.store)
        count = len(view.inputs)
        inputs = present(arrays[:count])
        channels, truth = true_targets(checkpoint, view, arrays[count:], self.data.store)
        there = [checkpoint.task.targets.index(channel) for channel in channels]
        if self.folder is None:
            predicted = self.predictor.predict(inputs, view.region)
        else:
            alarms = self.predictor.alarms(inputs)
            path = self.folder / f"{view.name}.ome.tif"
            predicted = self.predictor.predict_to_file(view, inputs, path, alarms)
        prediction, halfwidth = np.split(predicted, [len(checkpoint.task.targets)])
        baselines = checkpoint.baselines.predict(inputs, [m.dtype for m in checkpoint.targets])
        if checkpoint.deconvolution is not None:  # refocusing: one channel, in and out
            baselines["input"] = inputs[0][None]
            baselines["wiener"] = checkpoint.deconvolution.apply(inputs[0], view.z)[None]
        return FieldPair(
            view.name,
            channels,
            truth,
            prediction[there],
            np.stack([array.astype(np.float32) for array in inputs]),
            checkpoint.task.inputs,
            {name: images[there] for name, images in baselines.items()},
            view.inputs[0].pixel_size,
            halfwidth[there].astype(np.float32) if len(halfwidth) else None,
            self.predictor.coverage,
            f"{view.plate} {view.well}".strip() if view.well else None,
            view.z if checkpoint.task.input_z else None,
            self._unrefocused(view)[there] if is_refocused(view) else None,
        )

    def _unrefocused(self, view: View) -> np.ndarray:
        """What the model makes of the view's inputs as they lie on the disk."""
        inputs = present(read_view(replace(restored(view), targets=()), self.data.store))
        stain = self.predictor.predict(inputs, view.region)
        return stain[: len(self.predictor.checkpoint.task.targets)]


def _test_data(config: DictConfig, predictor: Predictor) -> tuple[StainData, list[View]]:
    """The data set of the checkpoint with what the user said on top, and its test views.

    Raises:
        UserError: test views that the model was trained on.
    """
    checkpoint = predictor.checkpoint
    trained = trained_data(config, checkpoint)
    data, split = trained.data, checkpoint.recipe["split"]
    views = (
        recorded(data, checkpoint, "test")
        if trained.same_split and split["by"] != "spatial"
        else []
    )
    if not views:
        views, step = data.divide().test, refocusing_of(checkpoint)
        views = views if step is None else step.apply(views, data.store)
    # Fields of another data set may bear the same names by chance.
    seen = overlap(views, [*split["train"], *split["val"]]) if trained.same_images else []
    if seen:
        raise UserError(
            f"{len(seen)} of {len(views)} test fields (first {seen[0]}) were trained on: their scores "
            "would flatter; leave the data.split... keys as they were in training, or, if these are "
            "other images under the same names, score the output of predict.py by pred=DIR truth=DIR"
        )
    return data, views


def _settings(config: DictConfig) -> Settings:
    """What is asked of the stains beyond their pixels."""
    nuclei = tuple(str(name) for name in config.nuclei)
    features = None
    if config.features:
        cells = None if config.cells is None else str(config.cells)
        features = (nuclei[0] if nuclei else None, cells)
    if not 0 <= config.survives <= 1:
        raise UserError(f"survives={config.survives}: give a correlation, 0 to 1")
    limits = read_limits(plain(config.verdict))
    return Settings(limits, Nuclei(nuclei), features, float(config.survives))


def _wells(pattern: str | None) -> re.Pattern[str] | None:
    """The expression that finds wells in the names of fields."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise UserError(f"wells={pattern}: is no regular expression ({exc})") from exc
    if "well" not in compiled.groupindex:
        raise UserError(f"wells={pattern}: name the part that is the well (?P<well>...)")
    return compiled


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Score a checkpoint (`ckpt`) or a folder (`pred`, `truth`), or `compare` runs, into `output`.

    Returns:
        The summary, as in summary.json; of a comparison what compare.json holds.
    """
    set_up_logging()
    output = required(config, "output", "DIR")
    given = [key for key in ("ckpt", "pred", "truth") if config[key] is not None]
    if config.compare:
        given.append("compare")
    if given not in (["ckpt"], ["pred", "truth"], ["compare"]):
        raise UserError(
            f"{' and '.join(given) or 'nothing'} given: say ckpt=CKPT for a model, "
            "pred=DIR truth=DIR for images, or compare=[A,B] for evaluations that are there"
        )
    settings = _settings(config)
    provenance = {
        "command": "python evaluate.py " + " ".join(HydraConfig.get().overrides.task),
        "vfn": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
    if given == ["compare"]:
        runs = config.compare if isinstance(config.compare, ListConfig) else [config.compare]
        return compare([Path(str(run)) for run in runs], output, str(config.unit), provenance)
    if given == ["ckpt"]:
        checkpoint = load_checkpoint(Path(str(config.ckpt)))
        wanted = coverage(config) if checkpoint.uncertainty is not None else None
        predictor = make_predictor(config, checkpoint, wanted)
        data, views = _test_data(config, predictor)
        folder = make_folder(make_folder(output) / "predictions")
        recipe = predictor.checkpoint.recipe
        provenance |= {
            "model": f"{recipe['model']} {predictor.checkpoint.identity}",
            "precision": predictor.precision,
            "data": f"{data.config.name}, split by {data.config.split}, "
            f"{len(recipe['split']['train'])} training views",
        }
        return score(CheckpointPairs(predictor, data, views, folder), output, provenance, settings)
    channels = tuple(str(c) for c in config.channels) or None
    pred = config.pred if isinstance(config.pred, ListConfig) else [config.pred]
    pairs = FolderPairs(
        [Path(str(folder)) for folder in pred],
        Path(str(config.truth)),
        channels,
        [str(name) for name in config.inputs],
        _wells(config.wells),
    )
    return score(pairs, make_folder(output), provenance, settings)

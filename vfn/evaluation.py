"""`evaluate.py`: score a checkpoint on the test split, or any program's images against the truth."""

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vfn import __version__
from vfn.checkpoint import load_checkpoint
from vfn.cli import set_up_logging
from vfn.data.base import StainData, overlap
from vfn.data.pixels import present, read_view
from vfn.data.views import View
from vfn.errors import UserError
from vfn.files import make_folder
from vfn.inference.predictor import Predictor
from vfn.metrics.pairs import FieldPair, FolderPairs
from vfn.prediction import coverage, make_predictor, required
from vfn.scoring import score
from vfn.trained import recorded, trained_data, true_targets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointPairs:
    """The test views of a data set, each with the model's and the baselines' predictions."""

    predictor: Predictor
    data: StainData
    views: list[View]
    folder: Path  # of the predictions

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
        alarms = self.predictor.alarms(inputs)
        path = self.folder / f"{view.name}.ome.tif"
        predicted = self.predictor.predict_to_file(view, inputs, path, alarms)
        prediction, halfwidth = np.split(predicted, [len(checkpoint.task.targets)])
        baselines = checkpoint.baselines.predict(inputs, [m.dtype for m in checkpoint.targets])
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
        )


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
    views = views or data.divide().test
    # Fields of another data set may bear the same names by chance.
    seen = overlap(views, [*split["train"], *split["val"]]) if trained.same_images else []
    if seen:
        raise UserError(
            f"{len(seen)} of {len(views)} test fields (first {seen[0]}) were trained on: their scores "
            "would flatter; leave the data.split... keys as they were in training, or, if these are "
            "other images under the same names, score the output of predict.py by pred=DIR truth=DIR"
        )
    return data, views


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Score a checkpoint (`ckpt`) or a folder (`pred`, `truth`) into `output`.

    Returns:
        The summary, as in summary.json.
    """
    set_up_logging()
    output = required(config, "output", "DIR")
    given = [key for key in ("ckpt", "pred", "truth") if config[key] is not None]
    if given not in (["ckpt"], ["pred", "truth"]):
        raise UserError(
            f"{' and '.join(given) or 'nothing'} given: say ckpt=CKPT for a model, "
            "or pred=DIR truth=DIR for images"
        )
    provenance = {
        "command": "python evaluate.py " + " ".join(HydraConfig.get().overrides.task),
        "vfn": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
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
        return score(CheckpointPairs(predictor, data, views, folder), output, provenance)
    channels = tuple(str(c) for c in config.channels) or None
    pairs = FolderPairs(Path(str(config.pred)), Path(str(config.truth)), channels)
    return score(pairs, make_folder(output), provenance)

"""`evaluate.py`: score a checkpoint on the test split, or any program's images against the truth."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vfn import __version__
from vfn.cli import explicit, known_tasks, plain, set_up_logging
from vfn.data.base import DataConfig, StainData, overlap
from vfn.data.intensity import to_dtype
from vfn.data.pixels import present, read_view, target_dtype
from vfn.data.sets import make_data
from vfn.data.shifts import Shifts
from vfn.data.views import View
from vfn.errors import UserError
from vfn.files import make_folder
from vfn.inference.predictor import Predictor
from vfn.metrics.pairs import FieldPair, FolderPairs
from vfn.prediction import make_predictor, required
from vfn.report.verdict import read_limits
from vfn.scoring import score

log = logging.getLogger(__name__)
SPLIT_KEYS = (
    "split",
    "test_fraction",
    "val_fraction",
    "test_plates",
    "test_fields",
    "gap",
    "split_seed",
)


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
        return self._truth(view, read_view(replace(view, inputs=()), self.data.store))

    def _truth(
        self, view: View, targets: Sequence[np.ndarray | None]
    ) -> tuple[tuple[str, ...], np.ndarray]:
        checkpoint = self.predictor.checkpoint
        channels, arrays = [], []
        for i, (channel, array, fitted) in enumerate(
            zip(checkpoint.task.targets, targets, checkpoint.targets, strict=True)
        ):
            if array is None:
                continue
            dtype = target_dtype(view, i, array, self.data.store)
            if dtype.name != fitted.dtype:
                raise UserError(
                    f"field {view.name}: {channel} is {dtype}, the model predicts {fitted.dtype}; "
                    "evaluate on images of the same kind as in training"
                )
            channels.append(channel)
            arrays.append(to_dtype(array, fitted.dtype) if array.dtype != dtype else array)
        return tuple(channels), np.stack(arrays)

    def pair(self, index: int) -> FieldPair:
        """Predict one field (or take the prediction that is there) and put the baselines beside it."""
        view, checkpoint = self.views[index], self.predictor.checkpoint
        arrays = read_view(view, self.data.store)
        count = len(view.inputs)
        inputs = present(arrays[:count])
        channels, truth = self._truth(view, arrays[count:])
        there = [checkpoint.task.targets.index(channel) for channel in channels]
        alarms = self.predictor.alarms(inputs)
        path = self.folder / f"{view.name}.ome.tif"
        prediction = self.predictor.predict_to_file(view, inputs, path, alarms)
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
        )


def _test_data(config: DictConfig, predictor: Predictor) -> tuple[StainData, list[View]]:
    """The data set of the checkpoint with what the user said on top, and its test views.

    Raises:
        UserError: test views that the model was trained on.
    """
    checkpoint = predictor.checkpoint
    stored = OmegaConf.create({"data": dict(checkpoint.recipe["data"])})
    merged = explicit(stored, config, skip=tuple(str(key) for key in config if key != "data"))
    node = plain(merged.data)
    same = node["name"] == checkpoint.recipe["data"]["name"]
    if not same:  # how another data set names its files is its own affair
        node = plain(config.data)
    data = make_data(checkpoint.task, DataConfig.from_dict(node), known_tasks())
    split = checkpoint.recipe["split"]
    kept = same and all(node[key] == checkpoint.recipe["data"][key] for key in SPLIT_KEYS)
    if same:  # shifts as they were measured then
        data.shifts = Shifts.from_dict(checkpoint.recipe["shifts"])
    views = _recorded(data, split["test"]) if kept and split["by"] != "spatial" else []
    views = views or data.divide().test
    # Fields of another data set may bear the same names by chance.
    seen = overlap(views, [*split["train"], *split["val"]]) if same else []
    if seen:
        raise UserError(
            f"{len(seen)} of {len(views)} test fields (first {seen[0]}) were trained on: their scores "
            "would flatter; leave the data.split... keys as they were in training, or, if these are "
            "other images under the same names, score the output of predict.py by pred=DIR truth=DIR"
        )
    return data, views


def _recorded(data: StainData, test: list[Any]) -> list[View]:
    """The very views that training set apart, also where fields were added or removed since."""
    names = {name for name, _ in test}
    views = [view for view in data.views() if view.name in names]
    if views and len(views) < len(names):
        log.warning("%d of the %d test fields of the training are here", len(views), len(names))
    return data.registered(views)


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
    limits = read_limits(plain(config.verdict))
    provenance = {
        "command": "python evaluate.py " + " ".join(HydraConfig.get().overrides.task),
        "vfn": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
    if given == ["ckpt"]:
        predictor = make_predictor(config, Path(str(config.ckpt)))
        data, views = _test_data(config, predictor)
        folder = make_folder(make_folder(output) / "predictions")
        recipe = predictor.checkpoint.recipe
        provenance |= {
            "model": f"{recipe['model']} {predictor.checkpoint.identity}",
            "precision": predictor.precision,
            "data": f"{data.config.name}, split by {data.config.split}, "
            f"{len(recipe['split']['train'])} training views",
        }
        return score(CheckpointPairs(predictor, data, views, folder), output, provenance, limits)
    channels = tuple(str(c) for c in config.channels) or None
    pairs = FolderPairs(Path(str(config.pred)), Path(str(config.truth)), channels)
    return score(pairs, make_folder(output), provenance, limits)

"""One cell of a panel: train, predict the test fields, score them; done once, kept as JSON."""

import gc
import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from vfn import __version__
from vfn.cli.entry import plain, set_up_logging
from vfn.commands.checkpoint_pairs import CheckpointPairs
from vfn.evaluation.ranges import channel_ranges
from vfn.evaluation.results import finite
from vfn.evaluation.rows import pixel_figures
from vfn.inference.predictor import Predictor
from vfn.models.checkpoint import load_checkpoint
from vfn.panel.findings import FIGURES
from vfn.panel.plan import Cell
from vfn.system.files import clear_leftovers, make_folder, write_text
from vfn.training.build import stain_data
from vfn.training.fit import fit

log = logging.getLogger(__name__)


class Cells:
    """The cells of one panel in a folder.

    Args:
        config: of `python -m vfn.panel`.
        folder: of the panel; cells lie in `cells/`, checkpoints in `models/`.
        data: a digest of the images that all cells learn from.
    """

    def __init__(self, config: DictConfig, folder: Path, data: str) -> None:
        self.config, self.folder, self.data = config, make_folder(folder / "cells"), data
        self.models = folder / "models"

    def training(self, cell: Cell) -> DictConfig:
        """The config of `train.py` for a cell."""
        config = self.config
        data = plain(config.data)
        data["split_seed"] += cell.repeat
        data["patches_per_epoch"] = int(config.steps) * data["batch_size"]
        once = {"max_epochs": 1, "sample_every_n_epochs": 10**6}
        return OmegaConf.create(
            {
                "data": data,
                "task": cell.task.to_dict(),
                "loss": plain(config.loss),
                "model": plain(config.model),
                "trainer": {**plain(config.trainer), **once},
                "logger": {"name": "csv"},
                "run": cell.name,
                "seed": int(config.seed) + cell.repeat,
                "init": None,
                "freeze": "none",
                "resume": None,
            }
        )

    def digest(self, cell: Cell) -> str:
        """Digest of everything that a cell's metrics depend on."""
        settings = plain(self.training(cell))
        for key in ("cache_dir", "num_workers", "root"):  # where, not what
            settings["data"].pop(key)
        text = json.dumps([settings, self.data, __version__], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return the stored result of a cell; None if it was not trained with these settings and images."""
        path = self.folder / f"{cell.name}.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("%s is damaged: trained again", path)
            return None
        return dict(known) if known.get("digest") == self.digest(cell) else None

    def train(self, cell: Cell, wait: bool) -> dict[str, Any] | None:
        """Train and score a cell, unless that is done.

        Args:
            wait: for another process that is at it; else None is returned then.
        """
        lock = FileLock(self.folder / f"{cell.name}.lock")
        try:
            with lock.acquire(timeout=-1 if wait else 0):
                return self.read(cell) or self._train(cell)
        except Timeout:
            return None

    def _train(self, cell: Cell) -> dict[str, Any]:
        start = time.monotonic()
        config, folder = self.training(cell), self.folder / cell.name
        shutil.rmtree(folder, ignore_errors=True)  # of a training that was cut off
        clear_leftovers(self.folder, {f"{cell.name}.json"})
        data = stain_data(config, cell.task)
        data.setup()
        path = fit(config, folder, data, quiet=True)
        set_up_logging()  # the training wrote to its own log.txt
        checkpoint = load_checkpoint(path)
        trained = time.monotonic()
        predictor = Predictor(checkpoint)
        targets = _score(CheckpointPairs(predictor, data, data.split.test, None))
        result = {
            "inputs": list(cell.inputs),
            "targets": targets,
            "repeat": cell.repeat,
            "split": data.split.by,
            "fields": len(data.split.test),
            "seconds": round(time.monotonic() - start, 2),
            "training_seconds": round(trained - start, 2),
            "digest": self.digest(cell),
        }
        if self.config.keep == "best":
            make_folder(self.models)
            checkpoint.path.replace(self.models / f"{cell.name}.ckpt")
        write_text(self.folder / f"{cell.name}.json", json.dumps(result, indent=1))
        shutil.rmtree(folder)
        gc.collect()  # Lightning's cycles hold the images of a cell
        return result


def _score(pairs: CheckpointPairs) -> dict[str, dict[str, dict[str, float | None]]]:
    """target -> prediction or baseline -> figure, each the mean over the test fields."""
    ranges = channel_ranges(pairs)
    values: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in ranges}
    for index in range(len(pairs)):
        pair = pairs.pair(index)
        for i, channel in enumerate(pair.channels):
            for system, image in {"prediction": pair.prediction, **pair.baselines}.items():
                figures = pixel_figures(image[i], pair.truth[i], ranges[channel], FIGURES)
                values[channel].setdefault(system, []).append(figures)
    return {
        channel: {
            system: {c: finite(sum(f[c] for f in fields) / len(fields)) for c in FIGURES}
            for system, fields in systems.items()
        }
        for channel, systems in values.items()
    }

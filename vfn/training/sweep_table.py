"""The runs of a sweep beside each other: `sweep.csv`, and a table at its end."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from vfn.cli.entry import set_up_logging, swept_keys
from vfn.cli.stored import read_stored
from vfn.models.words import counted
from vfn.system.csv_files import read_epochs, write_csv
from vfn.training.loggers import SEARCH
from vfn.training.outcome import FEW
from vfn.training.trainer_args import is_first

TABLE = "sweep.csv"

log = logging.getLogger(__name__)


class Run(NamedTuple):
    """One run of a sweep."""

    mae: float
    name: str
    best_epoch: int
    epochs: int
    patches: int
    values: dict[str, str]


def show(folder: Path) -> None:
    """Write `sweep.csv` into the folder of a sweep, and log its runs, the best first."""
    if not is_first():
        return
    set_up_logging()  # the last job wrote to its own log.txt too
    keys = swept_keys(folder) or []
    found = (_run(stored, folder, keys) for stored in folder.rglob("config.yaml"))
    runs = sorted(run for run in found if run is not None)
    if not runs:
        return
    lines = [[r.name, f"{r.mae:.6g}", r.best_epoch, r.epochs, *r.values.values()] for r in runs]
    write_csv(folder / TABLE, ["run", "val_mae", "best_epoch", "epochs", *keys], lines)
    log.info("%s, the best first; table: %s", counted(len(runs), "run"), folder / TABLE)
    for run in runs:
        log_run(run.mae, run.name, run.values)
    if any(key.partition(".")[0] in ("data", "task") for key in keys):
        log.info("errors on different images or stains do not compare")
    fewest = min(run.patches for run in runs)
    if fewest < FEW:
        log.info("a run learnt from %d patches: too few to judge by; let them train longer", fewest)


def _run(stored: Path, folder: Path, keys: Sequence[str]) -> Run | None:
    """Return the run whose config is `stored`; None if it has validated nothing."""
    scores = validation_errors(stored.parent)
    is_trial = (stored.parent.parent / SEARCH).is_file()  # it stands in the table of its search
    if not scores or is_trial:
        return None
    config = OmegaConf.create(read_stored(stored))
    best = min(scores, key=lambda epoch: scores[epoch])
    name = stored.parent.relative_to(folder).as_posix()
    batches = int(read_epochs(stored.parent / "metrics.csv")[-1]["batches"])
    values = {key: _value(config, key) for key in keys}
    patches = batches * int(config.data.batch_size)
    return Run(scores[best], name, best, max(scores) + 1, patches, values)


def log_run(mae: float, name: str, values: Mapping[str, str]) -> None:
    """Log one run of a sweep or search: validation MAE, folder, and the settings that differ."""
    log.info("  %.5f  %s  %s", mae, name, " ".join(f"{k}={v}" for k, v in values.items()))


def _value(config: DictConfig, key: str) -> str:
    """Return a setting, or the choice of a group, of a run."""
    found = OmegaConf.select(config, key)
    return str(found.get("name", "") if isinstance(found, DictConfig) else found)


def validation_errors(folder: Path) -> dict[int, float]:
    """Return the finite validation MAE by epoch, as the table of the run in `folder` has it."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return {}
    rows = {int(r["epoch"]): float(r.get("val/mae") or "nan") for r in read_epochs(path)}
    return {epoch: score for epoch, score in rows.items() if math.isfinite(score)}

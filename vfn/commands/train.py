"""`train.py`: from a config to a run folder with a trained model."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vfn.cli.entry import (
    known_tasks,
    make_task,
    plain,
    set_up_logging,
    typed_keys,
    typed_words,
    varied,
)
from vfn.cli.settings import idle, settings_lines
from vfn.errors import UserError
from vfn.training.fit import fit
from vfn.training.instantiators import leave_out_shipped
from vfn.training.run_folder import folder_of, run_folder
from vfn.training.trainer_args import is_first

log = logging.getLogger(__name__)


def train(config: DictConfig) -> Path | None:
    """Train a model, or search for settings, as `config` says.

    Returns:
        The path of `best.ckpt`; None if nothing is kept.

    Raises:
        UserError: anything wrong in the config or the data; nothing is trained then.
    """
    set_up_logging(quiet=not is_first())
    _name_task(config)
    if config.get("sweep"):
        leave_out_shipped(config)
        _show(config)
        try:
            from vfn.training.search import search
        except ModuleNotFoundError as exc:
            raise UserError("sweep=optuna: not installed; pip install optuna") from exc
        return search(config, folder_of(config))
    folder, config = run_folder(config)
    leave_out_shipped(config)
    _show(config)
    if config.trainer.get("fast_dev_run"):
        _try_out(config)
        return None
    single = HydraConfig.get().mode != RunMode.MULTIRUN
    best = fit(config, folder, advise=single)
    if is_first() and single:
        log.info("next: python evaluate.py ckpt=%s output=%s", best, folder / "evaluation")
        log.info("      python predict.py ckpt=%s input=DIR output=DIR", best)
    return best


def _try_out(config: DictConfig) -> None:
    """Train as `trainer.fast_dev_run` says, in a folder that is not kept."""
    if config.resume:
        raise UserError("trainer.fast_dev_run: tries a new run out; leave out resume")
    with TemporaryDirectory() as scratch:
        fit(config, Path(scratch) / "run")
    log.info("trainer.fast_dev_run: training and validation ran; nothing is kept")


def _name_task(config: DictConfig) -> None:
    """Rename a task whose channels were changed on the command line."""
    task = make_task(plain(config.task))
    named = next((known for known in known_tasks() if known.name == task.name), None)
    if task != named and task.inputs and task.targets:
        config.task.name = f"{'_'.join(task.targets)}_from_{'_'.join(task.inputs)}"


def _show(config: DictConfig) -> None:
    """Log the settings that were given; of a sweep's later jobs what it varies."""
    hydra = HydraConfig.get()
    if not is_first():
        return
    if hydra.mode == RunMode.MULTIRUN and hydra.job.num:
        log.info("job %d: %s", hydra.job.num, " ".join(varied()))
        return
    for line in settings_lines(config, typed_words()):
        log.info("%s", line)
    if config.resume:
        log.info("  all others as in %s", Path(config.resume) / "config.yaml")
    for line in idle(config, typed_keys()):
        log.warning("%s", line)

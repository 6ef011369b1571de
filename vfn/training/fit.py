"""Fit the model of a config into a run folder."""

import logging
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback, ProgressBar
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from vfn.cli.entry import plain, set_up_logging, trainable_task
from vfn.data import describe
from vfn.data.base import StainData
from vfn.errors import UserError
from vfn.models.checkpoint_io import BEST, LAST
from vfn.models.gan import VirtualStain
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.system.files import write_text
from vfn.system.locks import claimed
from vfn.training import outcome
from vfn.training.build import ModelBuilder, stain_data
from vfn.training.callbacks import Budget, Limits
from vfn.training.instantiators import instantiate_callbacks, instantiate_loggers
from vfn.training.loggers import start_loggers
from vfn.training.resume import check_fields, check_networks
from vfn.training.run_folder import PARTS, new_parts, newest_checkpoint
from vfn.training.schedule import make_schedule
from vfn.training.trainer_args import duration, is_alone, is_first, make_trainer, trainer_arguments

log = logging.getLogger(__name__)


def fit(
    config: DictConfig,
    folder: Path,
    data: StainData | None = None,
    quiet: bool = False,
    callbacks: Sequence[L.Callback] = (),
    advise: bool = False,
) -> Path:
    """Train the model of a whole config into `folder`; `config.resume` goes on with what is there.

    Args:
        data: set up already; None makes it as the config says.
        quiet: nothing on the console; log.txt has it all.
        callbacks: come before ours.
        advise: say at the end how to go on.

    Returns:
        The path of `best.ckpt`.

    Raises:
        UserError: anything wrong in the config or the data; another process trains in `folder`, or its disk is full.
    """
    # Of the processes of one training the first alone writes.
    with claimed(folder, parts=PARTS) if is_first() else nullcontext():
        return _fit(config, folder, data, quiet, callbacks, advise)


def _fit(
    config: DictConfig,
    folder: Path,
    data: StainData | None,
    quiet: bool,
    callbacks: Sequence[L.Callback],
    advise: bool,
) -> Path:
    resumed = newest_checkpoint(folder / "checkpoints") if config.resume else None
    seed = _seed(config, resumed)
    L.seed_everything(seed, workers=True, verbose=False)
    task = trainable_task(config.task)
    settings = plain(config.trainer)
    schedule = make_schedule(config.model)
    data = data or stain_data(config, task, seed)
    arguments = trainer_arguments(settings, 2 if config.loss.adversarial else 1, folder, quiet)
    ours = instantiate_callbacks(config, progress_bar=arguments["enable_progress_bar"])
    arguments["enable_progress_bar"] = any(isinstance(c, ProgressBar) for c in ours)
    loggers = [] if settings.get("fast_dev_run") else instantiate_loggers(config, folder)
    # Networks first: they are checked in a moment, reading the images takes longer.
    builder = ModelBuilder(config, task, data)
    _set_up(data, builder, folder, resumed, quiet)
    module = builder.module()

    def record(trainer: L.Trainer, _module: L.LightningModule) -> None:
        """Write the run's config, in the first process, once the checkpoint of a resumed run is loaded."""
        if not trainer.is_global_zero:
            return
        data.record(folder)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))

    started = LambdaCallback(on_train_start=record)
    # The time limit comes before the callbacks that ask whether the run stops.
    budget = [Budget(duration(str(settings["max_time"])))] if settings["max_time"] else []
    trainer = make_trainer(
        module,
        **arguments,
        default_root_dir=folder,
        logger=loggers,
        callbacks=[started, *callbacks, *schedule, *budget, Limits(), *ours],
    )
    if is_first():
        start_loggers(loggers, folder, {**plain(config), "parameters": builder.parameters()})
    data.rank, data.world = trainer.global_rank, trainer.world_size
    data.repeat = bool(settings.get("overfit_batches"))
    log.info(
        "training %s -> %s with model=%s in %s",
        " + ".join(task.inputs), ", ".join(task.targets), config.model.name, folder,
    )  # fmt: skip
    _run(trainer, module, data, folder, resumed)
    if not settings.get("fast_dev_run"):
        outcome.report(trainer, module, config, folder, advise)
    return folder / "checkpoints" / BEST


def _seed(config: DictConfig, resumed: Path | None) -> int:
    """Return the seed of a run; with `seed=null` a random one, which its checkpoints record."""
    if config.seed is not None:
        return int(config.seed)
    if not is_alone(plain(config.trainer)):
        raise UserError("seed=null: several processes must draw the same patches; give a number")
    if resumed is not None:
        return int(read_raw(resumed, mapped=True, trust=None)[RECIPE]["data"]["seed"])
    return secrets.randbits(32)


def _set_up(
    data: StainData, builder: ModelBuilder, folder: Path, resumed: Path | None, quiet: bool
) -> None:
    """Set the data up and open log.txt; refuse a checkpoint that fits neither networks nor images."""
    before = None if resumed is None else read_raw(resumed, mapped=True, trust=None)
    if before is not None:
        check_networks(before, builder.generator, builder.discriminator, folder)
    with new_parts(folder) if is_first() else nullcontext():
        data.setup()
    if before is not None:
        check_fields(before[RECIPE], describe.recipe(data), folder)
    set_up_logging(folder / "log.txt" if is_first() else None, quiet or not is_first())
    if resumed is not None and resumed.name != LAST:
        log.warning(
            "%s is damaged; going on from %s, the one before it", resumed.with_name(LAST), resumed
        )
    log.info(describe.summary(data))
    for remark in describe.remarks(data):
        log.warning(remark)


def _run(
    trainer: L.Trainer, module: VirtualStain, data: StainData, folder: Path, resumed: Path | None
) -> None:
    """Train, and close the loggers however that ends."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (MisconfigurationException, ValueError) as exc:
        told = " ".join(str(exc).split())
        known = isinstance(exc, MisconfigurationException) or "val_check_interval" in told
        if not known:
            raise
        if resumed is None or "max_epochs" not in told:
            raise UserError(f"trainer: {told}") from exc
        done = torch.load(resumed, map_location="cpu", weights_only=True)["epoch"] + 1
        raise UserError(
            f"trainer.max_epochs={trainer.max_epochs}: {folder} has more epochs already; give {done} or more"
        ) from exc
    except RuntimeError as exc:
        if "deterministic" not in str(exc):
            raise
        told = str(exc).partition(". ")[0]
        raise UserError(f"trainer.deterministic: {told}; give trainer.deterministic=warn") from exc
    except SystemExit:
        # Lightning turns Ctrl-C into exit code 1, after our callback has saved.
        if trainer.interrupted:
            outcome.report_interrupted(trainer, folder)
            raise KeyboardInterrupt from None
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

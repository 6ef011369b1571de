"""`train.py`: from a config to a run folder with a trained model."""

import copy
import logging
import netrc
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from vfn import __version__
from vfn.cli.entry import (
    MULTIRUN,
    known_tasks,
    make_task,
    plain,
    set_up_logging,
    trainable_task,
    typed_keys,
    varied,
)
from vfn.cli.paths import is_path
from vfn.cli.settings import check_settings, idle, settings_lines
from vfn.cli.stored import read_stored
from vfn.data.base import DataConfig, StainData
from vfn.data.samples import Task
from vfn.data.sets import make_data
from vfn.errors import UserError
from vfn.models.card import About, make_card
from vfn.models.checkpoint import (
    BEST,
    FORMAT,
    LAST,
    PREVIOUS,
    AtomicCheckpointIO,
    newest_whole,
    read_raw,
    refuse_code,
    submodule,
)
from vfn.models.ema import checked_decay
from vfn.models.gan import RECIPE, AdamSettings, VirtualStain, ema_state_dict
from vfn.models.losses import LossWeights
from vfn.models.nets import Discriminator, Generator, make_discriminator, make_generator
from vfn.models.nets.generator import AUTO, STARTS
from vfn.models.nets.sync import share_norms
from vfn.models.precision import has_fast_bf16
from vfn.system.csv_files import read_epochs
from vfn.system.files import make_folder, write_text
from vfn.system.locks import claimed, refuse_if_claimed
from vfn.system.signals import ignore_signals
from vfn.system.slurm import processes
from vfn.training.callbacks import (
    Budget,
    Checkpoints,
    EpochTable,
    Finite,
    ModelCard,
    OnceStarted,
    Samples,
)
from vfn.training.resume import check_fields, check_networks, check_whole, merged
from vfn.training.schedule import Schedule, ScheduleSettings

log = logging.getLogger(__name__)
MOST = 0.5  # share of the targets' variance
FEW = 1000  # patches from which a network that starts at nothing has learnt little
PARTS = ("checkpoints", "samples")  # of a run folder
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
SAMPLE_ROWS = 4  # patches on a sheet of samples
SEARCH = "search.yaml"  # our record of a search, in its folder
WANDB_TAG, WANDB_GROUP = 64, 128  # characters that W&B takes


def train(config: DictConfig) -> Path:
    """Train a model as `config` says.

    Returns:
        The path of `best.ckpt`.

    Raises:
        UserError: anything wrong in the config or the data; nothing is trained then.
    """
    set_up_logging(quiet=not _is_first())
    _name_task(config)
    if config.get("sweep"):
        from vfn.training.search import search  # here: it is made of trainings

        _show(config)
        return search(config, folder_of(config))
    folder, config = _run_folder(config)
    _show(config)
    best = fit(config, folder)
    if _is_first() and HydraConfig.get().mode != RunMode.MULTIRUN:
        log.info("next: python evaluate.py ckpt=%s output=%s", best, folder / "evaluation")
        log.info("      python predict.py ckpt=%s input=DIR output=DIR", best)
    return best


def _show(config: DictConfig) -> None:
    """The settings, on the console alone: the run folder has them in config.yaml. Of the jobs of a
    sweep the first shows all, the others what they vary."""
    hydra = HydraConfig.get()
    if not _is_first():
        return
    if hydra.mode == RunMode.MULTIRUN and hydra.job.num:
        log.info("job %d: %s", hydra.job.num, " ".join(varied()))
        return
    for line in settings_lines(config, "train"):
        log.info("%s", line)
    for line in idle(config, typed_keys()):
        log.warning("%s", line)


def fit(
    config: DictConfig,
    folder: Path,
    data: StainData | None = None,
    quiet: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> Path:
    """Train the model of a whole config into `folder`; `config.resume` goes on with what is there.

    Args:
        data: set up already; None makes it as the config says.
        quiet: nothing on the console; log.txt has it all.
        callbacks: come before ours.

    Returns:
        The path of `best.ckpt`.

    Raises:
        UserError: see `train`; another process trains in `folder`, or its disk is full.
    """
    # Of the processes of one training the first alone writes.
    with claimed(folder, parts=PARTS) if _is_first() else nullcontext():
        return _fit(config, folder, data, quiet, callbacks)


def _fit(
    config: DictConfig,
    folder: Path,
    data: StainData | None,
    quiet: bool,
    callbacks: Sequence[L.Callback],
) -> Path:
    resumed = _resumed(folder / "checkpoints") if config.resume else None
    L.seed_everything(config.seed, workers=True, verbose=False)
    task = trainable_task(config.task)
    card = config.get("card")  # older run folders have none, nor have the trainings of a panel
    about = About.from_dict(plain(card) if card else {})
    settings = plain(config.trainer)
    objective = LossWeights(**_known(plain(config.loss)))
    schedule = ScheduleSettings(
        str(config.model.get("schedule", "constant")), float(config.model.get("warmup", 0.0))
    )
    ema = checked_decay(float(config.model.get("ema", 0.0)))  # older run folders do not say
    data = data or stain_data(config, task)
    trainer_args = _trainer_arguments(settings, quiet)
    open_start = config.model.generator.get("start") == AUTO
    if open_start:
        config.model.generator.start = _start_of(Path(config.init)) if config.init else STARTS[0]
    # Networks first: they are checked in a moment, reading the images takes longer.
    parts = _networks(config, task, objective, data)
    fresh = True
    if config.init:
        fresh = _initialise(*parts, Path(config.init), task)
    _freeze(parts[0], config)
    before = None if resumed is None else read_raw(resumed, mapped=True)
    if before is not None:
        check_networks(before, *parts, folder)
    with _new_parts(folder) if _is_first() else nullcontext():
        data.setup()
    if before is not None:
        check_fields(before[RECIPE], data.recipe(), folder)
    set_up_logging(folder / "log.txt" if _is_first() else None, quiet or not _is_first())
    if resumed is not None and resumed.name != LAST:
        log.warning(
            "%s is damaged; going on from %s, the one before it", resumed.with_name(LAST), resumed
        )
    log.info(data.summary())
    for remark in data.remarks():
        log.warning(remark)
    if open_start and not config.init and _starts_linear(data, parts[0]):
        config.model.generator.start = "linear"
        parts = _networks(config, task, objective, data)
    if fresh:
        _start(parts[0], data)
    module = VirtualStain(
        *parts, objective, _adam(config), _recipe(config, data, about), bool(settings["channels_last"]),
        ema,
    )  # fmt: skip
    if settings.get("sync_batchnorm") and trainer_args["accelerator"] == "cpu":
        share_norms(module)

    def record() -> None:
        data.record_refocusing(folder / "refocus.csv")
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))

    trainer = _trainer(
        **trainer_args,
        logger=_logger(folder, config, parts) or False,
        callbacks=[
            OnceStarted(record),
            *callbacks,
            *_schedule(schedule),
            *_callbacks(settings, folder, data, task, quiet),
        ],
    )
    data.rank, data.world = trainer.global_rank, trainer.world_size
    log.info("training %s -> %s in %s", " + ".join(task.inputs), ", ".join(task.targets), folder)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    except MisconfigurationException as exc:
        if resumed is None or "max_epochs" not in str(exc):
            raise
        done = torch.load(resumed, map_location="cpu", weights_only=True)["epoch"] + 1
        raise UserError(
            f"trainer.max_epochs={config.trainer.max_epochs}: {folder} has more epochs already; give "
            f"{done} or more"
        ) from exc
    except SystemExit:
        # Lightning turns Ctrl-C into exit code 1, after our callback has saved.
        if trainer.interrupted:
            _leave_to_first(trainer)
            if (folder / "checkpoints" / LAST).is_file():
                saved = any(
                    isinstance(callback, Checkpoints) and callback.saved_step == trainer.global_step
                    for callback in trainer.callbacks  # type: ignore[attr-defined]
                )
                how = "interrupted and saved" if saved else "interrupted within a step"
                log.info("%s; go on by: python train.py resume=%s", how, folder)
            else:
                log.info(
                    "interrupted within a step of the first epoch; start again with resume=auto"
                )
            raise KeyboardInterrupt from None
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
    best = folder / "checkpoints" / BEST
    log.info("best validation MAE %.5f; checkpoint: %s", _best(trainer), best)
    more = _ended(trainer, settings, folder)
    seen = trainer.global_step // len(trainer.optimizers) * data.config.batch_size * data.world
    if seen < FEW:
        log.info(
            "it learnt from %d patches: too few to judge by; let it train longer (%s), on a GPU, or make it "
            "faster (model=best data.patch_size=128)",
            seen, more,
        )  # fmt: skip
    return best


def _trainer(**arguments: Any) -> L.Trainer:
    """Lightning's, which finds out what the devices cannot do.

    Raises:
        UserError: they cannot.
    """
    try:
        return L.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as exc:
        raise UserError(
            f"trainer.devices={arguments['devices']}, trainer.strategy={arguments['strategy']}: {exc}"
        ) from exc


def _ended(trainer: L.Trainer, settings: dict[str, Any], folder: Path) -> str:
    """Say what ended the training.

    Returns:
        The settings with which it goes on.
    """
    epochs = int(settings["max_epochs"])
    if trainer.current_epoch >= epochs:
        more = f"resume={folder} trainer.max_epochs={2 * epochs}"
        log.info("trainer.max_epochs=%d is reached; for more epochs give %s", epochs, more)
    elif any(isinstance(c, Budget) and c.is_over for c in trainer.callbacks):  # type: ignore[attr-defined]
        more = f"resume={folder} trainer.max_time=DD:HH:MM:SS"
        log.info("trainer.max_time=%s is over; go on by %s", settings["max_time"], more)
    else:  # a search that has seen enough
        more = f"resume={folder}"
    return more


def _leave_to_first(trainer: L.Trainer) -> None:
    """Of several processes that were interrupted the first alone says so, by its exit code too.

    Whoever started them takes another one that leaves with 130 for a crash, and kills the first: Lightning
    within 5 s, srun --kill-on-bad-exit after 30 s. That may still write, or tell a dashboard.
    """
    if trainer.global_rank:
        ignore_signals()  # srun ends those that are left once the first is gone
        sys.exit(0)
    started: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
    for process in started:  # Lightning has killed them, after they had nothing left to write
        process.wait()
    started.clear()  # nor does Lightning watch them any longer


def stain_data(config: DictConfig, task: Task) -> StainData:
    """The data set of a whole config, not set up.

    Raises:
        UserError: see `make_data`.
    """
    data = plain(config.data)
    # Relative folders are stored as absolute ones, so that a checkpoint works from anywhere.
    data |= {k: str(Path(v).absolute()) for k, v in data.items() if v and is_path(k)}
    data["seed"] = config.seed
    return make_data(task, DataConfig.from_dict(data), known_tasks())


def _schedule(settings: ScheduleSettings) -> list[L.Callback]:
    return [] if settings == ScheduleSettings() else [Schedule(settings)]


def _best(trainer: L.Trainer) -> float:
    return next(c.best for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]


def _name_task(config: DictConfig) -> None:
    """A task whose channels were changed on the command line is no longer the one it is named after."""
    task = make_task(plain(config.task))
    named = next((known for known in known_tasks() if known.name == task.name), None)
    if task != named and task.inputs and task.targets:
        config.task.name = f"{'_'.join(task.targets)}_from_{'_'.join(task.inputs)}"


def _resumed(checkpoints: Path) -> Path:
    """What a resumed training starts from.

    Raises:
        UserError: every checkpoint that it could start from is damaged.
    """
    whole = newest_whole(checkpoints)
    if whole is None:
        raise UserError(
            f"resume={checkpoints.parent}: {LAST} is damaged, and no whole {PREVIOUS} is beside it; "
            f"start another run from the best weights by init={checkpoints / BEST}"
        )
    return whole


def _run_folder(config: DictConfig) -> tuple[Path, DictConfig]:
    """The folder of this run, and its config: stored and overridden when it is resumed."""
    if config.resume == "auto":  # a queue starts a job that it stopped by the same command
        own = folder_of(config)
        config.resume = str(own) if _is_begun(own) else None
        if _is_cut_short(own):
            return own, config
    if config.resume:
        folder = Path(config.resume)
        stored = folder / "config.yaml"
        if not stored.is_file() or not _is_begun(folder):
            raise UserError(
                f"resume={folder}: holds no run (config.yaml and checkpoints/{LAST}); "
                "give the folder of a run, outputs/NAME"
            )
        before = OmegaConf.create(read_stored(stored))
        refuse_code(OmegaConf.to_container(before), str(stored))
        check_settings(before, "train", str(stored))
        check_whole(before, stored)
        read_raw(_resumed(folder / "checkpoints"))  # refused before anything is written
        return folder, merged(before, config, folder)
    folder = folder_of(config)
    # What failed before it learnt anything may be started anew.
    if _is_begun(folder) or (folder / "checkpoints" / BEST).exists():
        refuse_if_claimed(folder)
        again = (
            "start it anew by resume=auto"
            if _is_cut_short(folder)
            else f"go on with it by resume={folder}"
        )
        raise UserError(
            f"run={config.run}: {folder} holds a run already; {again}, or give another run=NAME"
        )
    return folder, config


def _is_begun(folder: Path) -> bool:
    """Whether the run in `folder` has got so far that it can be resumed."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


def _is_cut_short(folder: Path) -> bool:
    """Whether the run was killed at the end of its first epoch: between its two checkpoints."""
    table = folder / "metrics.csv"
    rows = len(read_epochs(table)) if table.is_file() else 0
    return (folder / "checkpoints" / BEST).is_file() and not _is_begun(folder) and rows <= 1


def folder_of(config: DictConfig) -> Path:
    """The folder of a new run or search: outputs/NAME, or within it one for each job of a sweep."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return Path("outputs") / str(config.run)
    folder, what = Path(hydra.sweep.dir), varied()
    if config.get("sweep") and not what:  # a search alone needs no `-m`, and may have it
        return folder
    # File systems allow 255 bytes; the number keeps names apart that are cut.
    return folder / re.sub(r"[^\w.,=+-]", "_", "_".join([str(hydra.job.num), *what]))[:100]


@contextmanager
def _new_parts(folder: Path) -> Iterator[None]:
    """Make what a run folder holds before the long reading, which may fail: then nothing of it stays."""
    parts = [make_folder(folder / name) for name in PARTS]
    try:
        yield
    except UserError:
        for path in parts:
            if not any(path.iterdir()):
                path.rmdir()
        raise


def _known(node: dict[str, Any]) -> dict[str, Any]:
    """Without the group's name, which chose the file."""
    return {key: value for key, value in node.items() if key != "name"}


def _networks(
    config: DictConfig, task: Task, objective: LossWeights, data: StainData
) -> tuple[Generator, Discriminator | None]:
    inputs, targets = len(task.inputs), len(task.targets)
    generator = make_generator(plain(config.model.generator), inputs, targets)
    patch = data.config.patch_size
    if patch % generator.stride:
        raise UserError(
            f"data.patch_size={patch}: the generator halves the image {generator.stride.bit_length() - 1} "
            f"times, so give a multiple of {generator.stride} or lower model.generator.depth"
        )
    _check_norms(generator, inputs, data.config)
    if not objective.adversarial:
        return generator, None
    spec = plain(config.model.discriminator)
    return generator, make_discriminator(spec, inputs + targets, patch)


def _check_norms(generator: Generator, inputs: int, config: DataConfig) -> None:
    """Refuse a batch norm that would see one pixel: there is no spread to divide by.

    Raises:
        UserError: it would.
    """
    patch = config.patch_size
    if config.batch_size * (patch // generator.stride) ** 2 > 1:
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy.deepcopy(generator).train()(torch.zeros(1, inputs, patch, patch))
    except ValueError as exc:
        depth = generator.stride.bit_length() - 1
        raise UserError(
            f"data.batch_size=1 with data.patch_size={patch}: at depth {depth} one pixel is left, and a batch norm "
            f"needs more; give data.batch_size=2, data.patch_size={2 * patch} or model.generator.depth={depth - 1}"
        ) from exc


def _start_of(path: Path) -> str:
    """How the generator in a checkpoint started: weights fit its like alone."""
    return str(read_raw(path)[RECIPE]["generator"].get("start", STARTS[0]))


def _starts_linear(data: StainData, generator: Generator) -> bool:
    """`model.generator.start=auto`: whether the linear map of the inputs has most of the answer.

    It is a head start then. Where it has not, a network that starts there is slow to leave it: on the
    Schwann cells of docs/models.md it stayed in all of a training.
    """
    share = float(np.mean(data.measured.explained))
    linear = share >= MOST and data.linear_start() is not None and not generator.residual
    log.info(
        "the best linear map of the inputs explains %.0f %% of the targets' variance; starting at %s",
        100 * share, "that map" if linear else "the mean of each target",
    )  # fmt: skip
    return linear


def _start(generator: Generator, data: StainData) -> None:
    linear = data.linear_start()
    if generator.start == "linear" and linear is None:
        log.info(
            "model.generator.start=linear: equalised or corrected images have no linear map yet; "
            "starting at the mean of each target"
        )
    generator.start_at(data.target_level(), linear)


def _adam(config: DictConfig) -> AdamSettings:
    adam = plain(config.model.adam)
    return AdamSettings(adam["lr_generator"], adam["lr_discriminator"], tuple(adam["betas"]))


def _recipe(config: DictConfig, data: StainData, about: About) -> dict[str, Any]:
    recipe = {
        "format": FORMAT,
        "version": __version__,
        "generator": plain(config.model.generator),
        "model": config.model.name,
        "loss": plain(config.loss),
        "seed": config.seed,
        **data.recipe(),
    }
    return {**recipe, "card": make_card(recipe, about, data.counts())}


def _initialise(
    generator: torch.nn.Module, discriminator: Discriminator | None, path: Path, task: Task
) -> bool:
    """Start from the weights of another model (`init=CKPT`).

    With the same inputs but other targets all layers but the last are taken.

    Returns:
        Whether the last layer is as it was.

    Raises:
        UserError: another network, or another number of inputs.
    """
    raw = read_raw(path)
    theirs = submodule(ema_state_dict(raw["state_dict"]), "generator")
    ours = generator.state_dict()
    other = [
        name
        for name, value in ours.items()
        if getattr(theirs.get(name), "shape", None) != value.shape
    ]
    if theirs.keys() != ours.keys() or any(
        not name.startswith(("last.", "linear.")) for name in other
    ):
        task_there = raw[RECIPE]["task"]
        raise UserError(
            f"init={path}: its generator ({len(task_there['inputs'])} input(s), "
            f"{len(task_there['targets'])} target(s), {raw[RECIPE]['generator']}) is not the one of this run "
            f"({len(task.inputs)}, {len(task.targets)}); choose the same model and number of inputs"
        )
    generator.load_state_dict({**theirs, **{name: ours[name] for name in other}})
    # A discriminator is taken along if it fits; it is no loss if it does not.
    theirs_d = submodule(raw["state_dict"], "discriminator")
    if discriminator is not None and {
        k: v.shape for k, v in discriminator.state_dict().items()
    } == {k: v.shape for k, v in theirs_d.items()}:
        discriminator.load_state_dict(theirs_d)
    log.info(
        "weights from %s%s", path, "; the last layer starts anew (other targets)" if other else ""
    )
    return bool(other)


def _freeze(generator: Generator, config: DictConfig) -> None:
    """Do what `freeze` says.

    Raises:
        UserError: an unknown word, or nothing learnt that could be kept.
    """
    freeze = str(config.get("freeze", "none"))  # run folders of earlier versions do not say
    if freeze not in ("none", "encoder"):
        raise UserError(f"freeze={freeze}: choose none or encoder")
    if freeze == "none":
        return
    if not (config.init or config.resume):
        raise UserError("freeze=encoder: a new network has nothing to keep; give init=CKPT")
    generator.freeze_encoder()


def _trainer_arguments(settings: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Lightning's arguments from the trainer group; what it cannot do here is refused in a line."""
    accelerator = settings["accelerator"]
    gpu = torch.cuda.is_available()
    if accelerator == "auto":
        accelerator = "gpu" if gpu else "cpu"
    if accelerator not in ("cpu", "gpu"):
        raise UserError(f"trainer.accelerator={accelerator}: choose auto, cpu or gpu")
    if settings["max_time"]:
        _duration(str(settings["max_time"]))
    if accelerator == "gpu" and not gpu:
        raise UserError("trainer.accelerator=gpu: no CUDA device here; choose trainer=cpu")
    precision = settings["precision"]
    if precision == "auto":
        device = torch.device("cuda" if accelerator == "gpu" else "cpu")
        precision = "bf16-mixed" if has_fast_bf16(device) else "32-true"
    if precision not in ("bf16-mixed", "32-true"):
        raise UserError(f"trainer.precision={precision}: choose auto, bf16-mixed or 32-true")
    for key in ("max_epochs", "val_every_n_epochs", "sample_every_n_epochs", "log_every_n_steps"):
        if settings[key] < 1:
            raise UserError(f"trainer.{key}={settings[key]}: give 1 or more")
    if settings["strategy"] not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={settings['strategy']}: choose one of {', '.join(STRATEGIES)}; two networks take "
            "turns, which the others cannot split"
        )
    devices, environment = processes(settings, accelerator == "gpu")
    return {
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": settings["num_nodes"],
        "strategy": settings["strategy"],
        "precision": precision,
        "sync_batchnorm": accelerator == "gpu" and bool(settings.get("sync_batchnorm")),
        "max_epochs": settings["max_epochs"],
        "check_val_every_n_epoch": settings["val_every_n_epochs"],
        "log_every_n_steps": settings["log_every_n_steps"],
        "plugins": [AtomicCheckpointIO(), *environment],
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": sys.stderr.isatty() and not quiet,
        "use_distributed_sampler": False,  # PatchLoader deals the patches out itself
        "benchmark": gpu,
    }


def _duration(text: str) -> timedelta:
    if not re.fullmatch(r"\d+:\d{1,2}:\d{1,2}:\d{1,2}", text):
        raise UserError(f"trainer.max_time={text}: give days:hours:minutes:seconds, as 00:00:05:00")
    days, hours, minutes, seconds = (int(part) for part in text.split(":"))
    duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not duration:
        raise UserError(f"trainer.max_time={text}: no time at all; give a second or more, or null")
    return duration


def _callbacks(
    settings: dict[str, Any], folder: Path, data: StainData, task: Task, quiet: bool
) -> list[L.Callback]:
    patches = data.val_patches()
    count = min(SAMPLE_ROWS, len(patches))
    batch = data.normaliser(patches.__getitems__([i * len(patches) // count for i in range(count)]))
    callbacks: list[L.Callback] = [
        Finite(folder / "checkpoints"),
        ModelCard(data),
        EpochTable(folder / "metrics.csv"),
        Samples(
            folder / "samples", settings["sample_every_n_epochs"], batch, task.inputs, task.targets
        ),
        Checkpoints(folder / "checkpoints"),
    ]
    if settings["max_time"]:  # first, so that the others see that the run stops
        callbacks.insert(0, Budget(_duration(str(settings["max_time"]))))
    if sys.stderr.isatty() and not quiet:
        callbacks.append(RichProgressBar())
    return callbacks


def _logger(
    folder: Path, config: DictConfig, networks: Sequence[torch.nn.Module | None]
) -> Logger | None:
    """The logger beside metrics.csv, which is always written."""
    name = config.logger.name
    if name == "csv":
        return None
    if name == "tensorboard":
        try:
            return TensorBoardLogger(folder, name="tensorboard", version="")
        except ModuleNotFoundError as exc:
            raise UserError("logger=tensorboard: not installed; pip install tensorboard") from exc
    return WandbLogger(experiment=_wandb_run(folder, config, networks)) if _is_first() else None


def _is_first() -> bool:
    """Whether this is the only process, or the one of several that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0  # Lightning reads the launcher's variables


def _wandb_run(folder: Path, config: DictConfig, networks: Sequence[torch.nn.Module | None]) -> Any:
    """A run of Weights & Biases in the run folder; a resumed training goes on with its run."""
    import wandb  # here: it is slow to import, and not every training asks for it

    os.environ.setdefault("WANDB_SILENT", "true")
    identity = folder / "wandb" / "run_id.txt"
    if not identity.exists():
        make_folder(identity.parent)
        write_text(identity, uuid.uuid4().hex[:8])
    online = _has_wandb_account()
    if not online:
        log.info(
            "W&B: no account is set up, so the run is kept in %s (wandb sync)", identity.parent
        )
    sweep = folder.parent
    swept = any((sweep / name).is_file() for name in (MULTIRUN, SEARCH))
    tags = [config.data.name, config.task.name, config.model.name, *(["sweep"] if swept else [])]
    parameters = {
        name: sum(p.numel() for p in network.parameters()) if network is not None else 0
        for name, network in zip(("generator", "discriminator"), networks, strict=True)
    }
    run = wandb.init(
        project=config.logger.project,
        group=config.logger.group or (sweep.name[:WANDB_GROUP] if swept else None),
        name=folder.name,
        id=identity.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=folder,
        mode="online" if online else "offline",
        config={**plain(config), "parameters": parameters},
        tags=[tag[:WANDB_TAG] for tag in dict.fromkeys(tags)],
    )
    # A dashboard's row shows the best epoch, as best.ckpt is, not the last.
    run.define_metric("val/mae", summary="min")
    run.define_metric("val/psnr", summary="max")
    return run


def _has_wandb_account() -> bool:
    """Whether W&B would find a key (environment or netrc) and was not told to stay offline."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False

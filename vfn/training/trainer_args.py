"""The arguments of `L.Trainer` from the `trainer` group."""

import re
import sys
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only

from vfn.errors import UserError
from vfn.models.checkpoint_io import AtomicCheckpointIO
from vfn.models.precision import has_fast_bf16
from vfn.system.slurm import processes

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def is_first() -> bool:
    """Return whether this process writes: the only one, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0  # Lightning reads the launcher's variables


def trainer_arguments(settings: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Return the arguments of `L.Trainer`.

    Args:
        settings: the trainer group.
        quiet: without progress bars.

    Raises:
        UserError: a setting that this machine or our training loop cannot honour.
    """
    accelerator = settings["accelerator"]
    gpu = torch.cuda.is_available()
    if accelerator == "auto":
        accelerator = "gpu" if gpu else "cpu"
    if accelerator not in ("cpu", "gpu"):
        raise UserError(f"trainer.accelerator={accelerator}: choose auto, cpu or gpu")
    if settings["max_time"]:
        duration(str(settings["max_time"]))
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
        "enable_model_summary": False,
        "enable_progress_bar": sys.stderr.isatty() and not quiet,
        "use_distributed_sampler": False,  # PatchLoader deals the patches out itself
        "benchmark": gpu,
    }


def duration(text: str) -> timedelta:
    """Return the time span written as DD:HH:MM:SS.

    Raises:
        UserError: another format, or no time at all.
    """
    if not re.fullmatch(r"\d+:\d{1,2}:\d{1,2}:\d{1,2}", text):
        raise UserError(f"trainer.max_time={text}: give days:hours:minutes:seconds, as 00:00:05:00")
    days, hours, minutes, seconds = (int(part) for part in text.split(":"))
    duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not duration:
        raise UserError(f"trainer.max_time={text}: no time at all; give a second or more, or null")
    return duration


def make_trainer(**arguments: Any) -> L.Trainer:
    """Return Lightning's trainer.

    Raises:
        UserError: the devices that were asked for are not there.
    """
    try:
        return L.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as exc:
        raise UserError(
            f"trainer.devices={arguments['devices']}, trainer.strategy={arguments['strategy']}: {exc}"
        ) from exc

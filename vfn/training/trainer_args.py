"""The arguments of `L.Trainer` from the `trainer` group."""

import re
import sys
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import RichModelSummary
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

from vfn.errors import UserError, check_choice
from vfn.models.checkpoint_io import AtomicCheckpointIO
from vfn.models.manual_optimization import SharedScaler
from vfn.models.precision import has_fast_bf16
from vfn.system.slurm import processes

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
PRECISIONS = ("auto", "bf16-mixed", "16-mixed", "32-true")
SHORT = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}
ARGUMENTS = tuple(name for name in signature(L.Trainer).parameters if name != "max_time")
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
CLOCK = re.compile(r"(\d+):(\d{1,2}):(\d{1,2}):(\d{1,2})")  # days, hours, minutes, seconds
_NUMBER = r"(\d+(?:\.\d+)?)"
SPAN = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s)?")
LEAST = {
    "check_val_every_n_epoch": 1, "sample_every_n_epochs": 1, "log_every_n_steps": 1,
    "accumulate_grad_batches": 1, "num_sanity_val_steps": -1, "fast_dev_run": 0, "overfit_batches": 0,
    "gradient_clip_val": 0,
}  # fmt: skip


def is_first() -> bool:
    """Return whether this process writes: the only one, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0  # Lightning reads the launcher's variables


def is_alone(settings: dict[str, Any]) -> bool:
    """Return whether the trainer group asks for one process."""
    devices = settings["devices"]
    one = len(devices) == 1 if isinstance(devices, list) else str(devices) == "1"
    return one and settings["num_nodes"] == 1


def trainer_arguments(
    settings: dict[str, Any], optimisers: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Return the arguments of `L.Trainer`, but for callbacks and loggers.

    Args:
        settings: the trainer group.
        optimisers: Lightning counts the steps of all of them, `max_steps` those of one.
        folder: of the run; a profiler writes there.
        quiet: without progress bars.

    Raises:
        UserError: a setting that this machine or our training loop cannot honour.
    """
    _check_numbers(settings)
    if settings["max_time"]:
        duration(str(settings["max_time"]))
    accelerator = _accelerator(str(settings["accelerator"]))
    gpu = accelerator == "gpu"
    remedy = "; the others split one network with one optimiser, here are two of each"
    check_choice("trainer.strategy", settings["strategy"], STRATEGIES, remedy)
    if settings.get("sync_batchnorm") and not gpu:
        raise UserError("trainer.sync_batchnorm=true: PyTorch has it for GPUs alone; leave it out")
    precision = _precision(str(settings["precision"]), accelerator)
    devices, environment = processes(settings, gpu)
    given = {k: v for k, v in settings.items() if k in ARGUMENTS and v is not None}
    if given.pop("overfit_batches", 0):  # Lightning would take the data loader apart
        limits = ("limit_train_batches", "limit_val_batches")
        given |= dict.fromkeys(limits, settings["overfit_batches"])
    for key in ("max_steps", "min_steps"):
        if given.get(key, -1) > 0:
            given[key] *= optimisers
    plugins = [AtomicCheckpointIO(), *environment, *map(instantiate, given.pop("plugins", []))]
    if precision == "16-mixed":
        given.pop("precision")
        plugins.append(SharedScaler("cuda"))
    else:
        given["precision"] = precision
    if "profiler" in given:
        given["profiler"] = _profiler(given["profiler"], settings, folder)
    return {
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "enable_progress_bar": sys.stderr.isatty() and not quiet,
        **({} if given.get("deterministic") else {"benchmark": gpu}),
        **given,
        "accelerator": accelerator,
        "devices": devices,
        "plugins": plugins,
        "use_distributed_sampler": False,  # PatchLoader deals the patches out itself
    }


def _check_numbers(settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        least = LEAST.get(key)
        if least is not None and value is not None:
            if not isinstance(value, int | float) or value < least:
                raise UserError(f"trainer.{key}={value}: give a number, {least} or more")
        elif key in ("max_epochs", "max_steps") and value is not None and value < 1 and value != -1:
            raise UserError(f"trainer.{key}={value}: give 1 or more, or -1 for no limit")
        elif key in ("limit_train_batches", "limit_val_batches") and value == 0:
            raise UserError(f"trainer.{key}=0: a run needs training and validation; give 1 or more")
        elif key == "gradient_clip_algorithm" and value is not None:
            check_choice(f"trainer.{key}", value, ("norm", "value"))


def _accelerator(name: str) -> str:
    if name == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name in ("gpu", "cuda", "mps"):
        if name != "mps" and torch.cuda.is_available():
            return "gpu"
        if name != "cuda" and torch.backends.mps.is_available():
            return "mps"
        kind = "Apple GPU" if name == "mps" else "CUDA device"
        raise UserError(f"trainer.accelerator={name}: no {kind} here; choose trainer=cpu")
    raise UserError(
        f"trainer.accelerator={name}: choose auto, cpu, gpu or mps; the fused Adam that trains both networks "
        "runs on no other"
    )


def _precision(name: str, accelerator: str) -> str:
    precision = SHORT.get(name, name)
    check_choice("trainer.precision", precision, PRECISIONS)
    if precision == "auto":
        device = torch.device("cuda" if accelerator == "gpu" else "cpu")
        fast = accelerator != "mps" and has_fast_bf16(device)
        return "bf16-mixed" if fast else "32-true"
    if precision == "16-mixed" and accelerator != "gpu":
        raise UserError(
            f"trainer.precision={name}: scaled float16 needs a CUDA device; choose bf16-mixed or 32-true"
        )
    return precision


def _profiler(given: Any, settings: dict[str, Any], folder: Path) -> Any:
    if settings.get("fast_dev_run"):
        raise UserError(
            f"trainer.profiler={given}: trainer.fast_dev_run keeps no files; give trainer.max_epochs=1 instead"
        )
    if given in PROFILERS:
        return PROFILERS[given](dirpath=folder, filename="profile")
    if isinstance(given, str):
        check_choice("trainer.profiler", given, list(PROFILERS))
    return instantiate(given)


def make_trainer(module: Any, **arguments: Any) -> L.Trainer:
    """Return Lightning's trainer; `module` takes over what that refuses in manual optimisation.

    Raises:
        UserError: an argument that Lightning refuses.
    """
    if arguments["enable_model_summary"]:
        arguments["callbacks"].append(RichModelSummary())
    try:
        trainer = L.Trainer(**arguments)
    except (MisconfigurationException, ValueError, TypeError) as exc:
        told = " ".join(str(exc).split())
        raise UserError(
            f"trainer.devices={arguments['devices']}, trainer.strategy={arguments['strategy']}: {told}"
            if "device" in told
            else f"trainer: {told}"
        ) from exc
    if arguments.get("fast_dev_run"):  # it counts batches, not the steps of all optimisers
        trainer.fit_loop.epoch_loop.max_steps = -1
    module.take_over(trainer)
    return trainer


def duration(text: str) -> timedelta:
    """Return the time span written as 3m, 1h30m or DD:HH:MM:SS.

    Raises:
        UserError: another format, or no time at all.
    """
    found = CLOCK.fullmatch(text) or SPAN.fullmatch(text.replace(" ", "").lower())
    if not text or found is None:
        raise UserError(
            f"trainer.max_time={text}: give 3m, 1h30m or days:hours:minutes:seconds, as 00:00:05:00"
        )
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not span:
        raise UserError(f"trainer.max_time={text}: no time at all; give a second or more, or null")
    return span

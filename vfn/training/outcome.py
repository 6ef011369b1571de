"""The end of a training: its last lines, and the exit of all but the first process."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig

from vfn.cli.entry import plain
from vfn.models.checkpoint_io import BEST, LAST
from vfn.models.gan import VirtualStain
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.system.signals import ignore_signals
from vfn.training.callbacks import Budget, Checkpoints

FEW = 1000  # patches from which a network that starts at nothing has learnt little
RECOMMENDED = ("recommended", "best")

log = logging.getLogger(__name__)


def report(
    trainer: L.Trainer, module: VirtualStain, config: DictConfig, folder: Path, advise: bool
) -> None:
    """Log the best figure beside the baselines, what ended the training and how it goes on.

    Args:
        config: of the run.
        advise: also what to change.
    """
    if not trainer.is_global_zero:
        return
    kept = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    name, path = kept.monitor.removeprefix("val/").upper(), folder / "checkpoints" / BEST
    log.info("best validation %s %.5f; checkpoint: %s", name, kept.best, path)
    _beside_baselines(path)
    why, how, more = _ended(trainer, plain(config.trainer))
    if not advise:
        log.info("%s", why)
        return
    again = f"resume={folder}{more}"
    log.info("%s; %s %s", why, how, again)
    seen = module.steps * int(config.data.batch_size) * trainer.world_size
    if seen < FEW:
        log.info(
            "it learnt from %d patches: too few to judge by; %s",
            seen,
            _advice(config, module, again),
        )


def _beside_baselines(best: Path) -> None:
    """Log the validation MAE of the best weights beside those of the baselines."""
    found = read_raw(best, mapped=True, trust=None)[RECIPE]["card"]["validation"] or {}
    mae, baselines = found.get("mae"), found.get("baselines")
    if mae is None or not baselines:
        return
    rivals = ", ".join(f"{key} {value:.4f}" for key, value in baselines.items())
    log.info("validation MAE %.4f; baselines: %s", mae, rivals)
    least = min(baselines, key=lambda key: baselines[key])
    if mae >= baselines[least]:
        log.warning("it is not better than the baseline %s, which costs nothing", least)


def _ended(trainer: L.Trainer, settings: dict[str, Any]) -> tuple[str, str, str]:
    """Return what ended the training, how it goes on in words, and the setting for that, if it needs one."""
    epochs, steps = trainer.max_epochs or -1, int(settings.get("max_steps") or -1)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    early = [c for c in callbacks if isinstance(c, EarlyStopping) and c.stopped_epoch]
    if 0 < trainer.max_steps <= trainer.global_step:
        why, how, more = f"max_steps={steps} is reached", "for more steps give", 2 * steps
        return f"trainer.{why}", how, f" trainer.max_steps={more}"
    if 0 < epochs <= trainer.current_epoch:
        why, how, more = f"max_epochs={epochs} is reached", "for more epochs give", 2 * epochs
        return f"trainer.{why}", how, f" trainer.max_epochs={more}"
    if any(isinstance(c, Budget) and c.is_over for c in callbacks):
        limit = f"trainer.max_time={settings['max_time']}"
        return f"{limit} is over", "go on by", f" {limit}"
    if early:
        monitor, patience = early[0].monitor, early[0].patience
        why = f"{monitor} did not improve in {patience} validations, so the training ended early"
        return why, "go on by", ""
    return "a callback ended the training", "go on by", ""


def _advice(config: DictConfig, module: VirtualStain, again: str) -> str:
    """Return what helps a training of too few patches, without what it has already."""
    faster = [] if config.model.name in RECOMMENDED else ["model=recommended"]
    faster += ["data.patch_size=128"] if config.data.patch_size > 128 else []
    ways = [f"let it train longer ({again})"]
    ways += ["use a GPU"] if module.device.type == "cpu" else []
    ways += [f"make it faster ({' '.join(faster)})"] if faster else []
    return ", or ".join(ways)


def report_interrupted(trainer: L.Trainer, folder: Path) -> None:
    """Log how an interrupted training goes on; of several processes the first alone returns."""
    _leave_to_first(trainer)
    if not (folder / "checkpoints" / LAST).is_file():
        log.info("interrupted within a step of the first epoch; start again with resume=auto")
        return
    saved = any(
        isinstance(callback, Checkpoints) and callback.saved_step == trainer.global_step
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )
    how = "interrupted and saved" if saved else "interrupted within a step"
    log.info("%s; go on by: python train.py resume=%s", how, folder)


def _leave_to_first(trainer: L.Trainer) -> None:
    """Leave with exit code 0 in all interrupted processes but the first.

    A launcher takes 130 from another process for a crash and kills the first, which may still write:
    Lightning within 5 s, srun --kill-on-bad-exit after 30 s.
    """
    if trainer.global_rank:
        ignore_signals()  # srun ends those that are left once the first is gone
        sys.exit(0)
    started: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
    for process in started:  # Lightning has killed them, after they had nothing left to write
        process.wait()
    started.clear()  # nor does Lightning watch them any longer

"""How a training ended: its last lines, and what other processes do when it was interrupted."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from vfn.models.checkpoint_io import BEST, LAST
from vfn.models.gan import VirtualStain
from vfn.system.signals import ignore_signals
from vfn.training.callbacks import Budget, Checkpoints

FEW = 1000  # patches from which a network that starts at nothing has learnt little

log = logging.getLogger(__name__)


def report(
    trainer: L.Trainer,
    module: VirtualStain,
    batch_size: int,
    settings: dict[str, Any],
    folder: Path,
) -> None:
    """Log the best figure, what ended the training and how it goes on.

    Args:
        batch_size: of one process.
        settings: the trainer group.
    """
    kept = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    name, path = kept.monitor.removeprefix("val/").upper(), folder / "checkpoints" / BEST
    log.info("best validation %s %.5f; checkpoint: %s", name, kept.best, path)
    more = _ended(trainer, settings, folder)
    seen = module.steps * batch_size * trainer.world_size
    if seen < FEW:
        log.info(
            "it learnt from %d patches: too few to judge by; let it train longer (%s), on a GPU, or make it "
            "faster (model=best data.patch_size=128)",
            seen, more,
        )  # fmt: skip


def _ended(trainer: L.Trainer, settings: dict[str, Any], folder: Path) -> str:
    """Log what ended the training, and return the settings that continue it."""
    epochs, steps = trainer.max_epochs or -1, int(settings.get("max_steps") or -1)
    if 0 < trainer.max_steps <= trainer.global_step:
        more = f"resume={folder} trainer.max_steps={2 * steps}"
        log.info("trainer.max_steps=%d is reached; for more steps give %s", steps, more)
    elif 0 < epochs <= trainer.current_epoch:
        more = f"resume={folder} trainer.max_epochs={2 * epochs}"
        log.info("trainer.max_epochs=%d is reached; for more epochs give %s", epochs, more)
    elif any(isinstance(c, Budget) and c.is_over for c in trainer.callbacks):  # type: ignore[attr-defined]
        more = f"resume={folder} trainer.max_time=DD:HH:MM:SS"
        log.info("trainer.max_time=%s is over; go on by %s", settings["max_time"], more)
    else:
        more = f"resume={folder}"
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
                log.info(
                    "%s did not improve in %d validations, so the training ended early",
                    callback.monitor, callback.patience,
                )  # fmt: skip
    return more


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

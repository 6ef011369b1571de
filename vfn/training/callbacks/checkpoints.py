"""`best.ckpt` and `last.ckpt`."""

import math
import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from vfn.data.batch import Batch
from vfn.errors import UserError, check_choice
from vfn.models.checkpoint_io import BEST, LAST
from vfn.system.signals import StopRequest, interrupt

AGREE_EVERY = 10  # steps between two questions whether another process was told to stop
MODES = {"mae": "min", "mse": "min", "psnr": "max", "ssim": "max", "pearson": "max"}


def mode_of(monitor: str) -> str:
    """Return "min" or "max", whichever is better of the metric `monitor`, such as `val/psnr`.

    Raises:
        UserError: no validation metric of a known kind.
    """
    kind = re.match(rf"val/({'|'.join(MODES)})(?![a-z])", monitor)
    if kind is None:
        known = ", ".join(f"val/{name}" for name in MODES)
        raise UserError(
            f"monitor={monitor}: give one of {known}; of a metric of your own say what is better, by "
            "callbacks.checkpoints.mode=min or max"
        )
    return MODES[kind[1]]


class Checkpoints(Checkpoint):
    """Save `best.ckpt` (weights alone) where the monitored metric is best; `last.ckpt` (everything)
    after each epoch, and after the last whole step of a run that stops within one.

    A subclass of Lightning's `Checkpoint`, so that Lightning calls it after all other callbacks: their
    hooks have run when it saves or raises.

    Args:
        monitor: a metric of the validation.
        mode: "min" or "max"; None: told from the metric.
    """

    def __init__(self, monitor: str = "val/mae", mode: str | None = None) -> None:
        self.monitor, self.mode = monitor, mode or mode_of(monitor)
        check_choice("callbacks.checkpoints.mode", self.mode, ("min", "max"))
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = -1
        self.interrupted, self.saved_step = False, -1
        self._request = StopRequest()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals wait for the end of the step: between the two optimisers' no run can resume."""
        self._request.listen(together=trainer.world_size > 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._request.restore()

    def _agree(self, trainer: L.Trainer, step: int) -> None:
        """Stop all processes at the same step where one of them was told to."""
        if trainer.world_size == 1:
            self.interrupted = self._request.made
        elif step % AGREE_EVERY == 0:
            made = trainer.strategy.reduce_boolean_decision(self._request.made, all=False)
            self.interrupted = self.interrupted or made

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, _: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save within the epoch where the run stops here."""
        self._agree(trainer, batch_idx)
        if trainer.is_last_batch or not (self.interrupted or trainer.should_stop):
            return
        self._save_last(trainer)
        if self.interrupted:
            interrupt()

    def _save_last(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(_folder(trainer) / LAST)
        self.saved_step = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the weights if they are the best so far."""
        if trainer.sanity_checking:
            return
        score = self._score(trainer)
        better = score < self.best if self.mode == "min" else score > self.best
        # A first score is kept even if it is NaN: best.ckpt exists whenever a run ends. All
        # processes decide alike, since saving is a step that they take together.
        if better or self.best_epoch < 0 or math.isnan(self.best):
            self.best, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(_folder(trainer) / BEST, weights_only=True)

    def _score(self, trainer: L.Trainer) -> float:
        figures = trainer.callback_metrics
        if self.monitor not in figures:
            known = sorted(name for name in figures if name.startswith("val/"))
            raise UserError(f"monitor={self.monitor}: the validation has {', '.join(known)}")
        return float(figures[self.monitor])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save all that a resumed run needs; an epoch cut short was saved where it was cut."""
        if trainer.is_last_batch:
            self._save_last(trainer)
        self._agree(trainer, 0)
        if self.interrupted:
            interrupt()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save weights to predict with, if an interrupted run has none yet.

        It was saved at the end of a step, unless a second signal would not wait for that: then it
        goes on from its last epoch, since from the middle of a step none can.
        """
        # Processes save together: not where one of them was told to stop before training.
        together = self.interrupted or trainer.world_size == 1
        stopped = isinstance(exception, KeyboardInterrupt) and together
        if stopped and trainer.global_step and self.best_epoch < 0:
            trainer.save_checkpoint(_folder(trainer) / BEST, weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best": self.best, "best_epoch": self.best_epoch, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the score to beat, unless it is another metric's."""
        if state_dict.get("monitor", "val/mae") == self.monitor:  # earlier versions had this one
            self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"

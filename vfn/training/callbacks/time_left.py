"""Time left of a training: a line now and then, and in the progress bar."""

import logging
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from vfn.models.gan import VirtualStain
from vfn.training.callbacks.limits import Budget
from vfn.training.schedule import share_of_steps

log = logging.getLogger(__name__)


class TimeLeft(Callback):
    """Log the time left of the whole training; on the console only where no progress bar shows it.

    Args:
        every: seconds between two lines.

    Attributes:
        text: "1:40 left of 4:00"; empty as long as nobody knows.
    """

    def __init__(self, every: float = 30.0) -> None:
        self.every, self.text = every, ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of this call."""
        assert isinstance(pl_module, VirtualStain)
        self.start = self.told = time.monotonic()
        self.before = share_of_steps(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Estimate, and log when it is time."""
        assert isinstance(pl_module, VirtualStain)
        now = time.monotonic()
        left = self._left(trainer, pl_module, now - self.start)
        if left is not None:
            self.text = f"{_clock(left)} left of {_clock(now - self.start + left)}"
        if not self.text or now - self.told < self.every:
            return
        self.told = now
        log.info(
            "%s, in epoch %d", self.text, trainer.current_epoch,
            extra={"file_only": trainer.progress_bar_callback is not None},
        )  # fmt: skip

    def _left(self, trainer: L.Trainer, module: VirtualStain, spent: float) -> float | None:
        """Return the seconds until the steps or the time are used up, whichever comes first."""
        share, ends = share_of_steps(trainer, module), []
        if share > self.before:
            ends.append(spent * (1 - share) / (share - self.before))
        budgets = (c.time_remaining() for c in trainer.callbacks if isinstance(c, Budget))  # type: ignore[attr-defined]
        ends += [left for left in budgets if left is not None]
        return max(min(ends), 0.0) if ends else None


class TimedProgressBar(RichProgressBar):
    """Lightning's bar of an epoch, with the time left of the training."""

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands beside the bar."""
        told = next((c.text for c in trainer.callbacks if isinstance(c, TimeLeft)), "")  # type: ignore[attr-defined]
        return {**super().get_metrics(trainer, pl_module), **({"training": told} if told else {})}


def _clock(seconds: float) -> str:
    """Return "1:40", or "1:01:40" from an hour on."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if seconds < 3599.5 else text

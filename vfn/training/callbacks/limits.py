"""Limits of a training: `trainer.max_time`, `max_steps`, `min_steps` and `min_epochs`."""

from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer


class Budget(Timer):
    """`trainer.max_time` of this call: a resumed run gets it anew, as a cluster's queue grants it.

    Lightning's own timer counts the time before the stop as well.
    """

    def __init__(self, duration: timedelta) -> None:
        super().__init__(duration=duration, interval="step", verbose=False)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: time spent before a stop does not count."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start from zero."""

    @property
    def is_over(self) -> bool:
        """True if the time is spent."""
        left = self.time_remaining()
        return left is not None and left <= 0


class Limits(Callback):
    """Set `should_stop` where a training ends by its number of steps, and only there.

    Lightning ends it without; then it would neither validate nor be saved within an epoch. And it keeps
    `should_stop` of a callback through all the steps that `min_steps` or `min_epochs` still ask for.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Decide before other callbacks ask."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = 0
        trainer.should_stop = trainer.should_stop and trainer.fit_loop._can_stop_early

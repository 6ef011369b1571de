"""`trainer.max_steps`, `min_steps` and `min_epochs` as the callbacks of a training must see them."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class Limits(Callback):
    """Set `should_stop` where a training ends by its number of steps, and only there.

    Lightning ends it without; then it would neither validate nor be saved within an epoch. And it keeps
    `should_stop` of a callback through all the steps that `min_steps` or `min_epochs` still ask for.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Decide before other callbacks ask."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = 0
        trainer.should_stop = trainer.should_stop and trainer.fit_loop._can_stop_early

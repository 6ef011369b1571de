"""Work that waits until a training has started."""

from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Callback


class OnceStarted(Callback):
    """Call `work` in the first process once the checkpoint of a resumed run is loaded."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Call it."""
        if trainer.is_global_zero:
            self.work()

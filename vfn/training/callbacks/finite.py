"""End a training that has diverged."""

import math
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from vfn.data.batch import Batch
from vfn.errors import UserError
from vfn.models.checkpoint_io import BEST
from vfn.models.gan import VirtualStain


class Finite(Callback):
    """End a training whose losses are NaN or infinite, before a checkpoint of it is saved.

    It checks the sums of the epoch, which a NaN never leaves, every `log_every_n_steps`: a GPU does
    not wait in each step.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, _: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Check the losses.

        Raises:
            UserError: see `_refuse`.
        """
        due = (batch_idx + 1) % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if not (due or trainer.is_last_batch or trainer.should_stop):
            return
        assert isinstance(pl_module, VirtualStain)
        sums = {name: total for name, (total, _) in pl_module.sums.items()}
        values = torch.stack([torch.as_tensor(v, device=pl_module.device) for v in sums.values()])
        sound = torch.isfinite(values)
        # All processes leave at the same step: none waits for another.
        if trainer.strategy.reduce_boolean_decision(bool(sound.all()), all=True):
            return
        wrong = [name for name, fine in zip(sums, sound.tolist(), strict=True) if not fine]
        self._refuse(trainer, pl_module, wrong[0] if wrong else "a loss")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the validation.

        Raises:
            UserError: see `_refuse`.
        """
        if trainer.sanity_checking:
            return
        if not math.isfinite(float(trainer.callback_metrics["val/mae"])):
            self._refuse(trainer, pl_module, "val/mae")

    def _refuse(self, trainer: L.Trainer, module: L.LightningModule, name: str) -> NoReturn:
        """Raise the line that says what to change."""
        assert isinstance(module, VirtualStain)
        adam, best = module.adam, Path(trainer.default_root_dir) / "checkpoints" / BEST
        rates = f"model.adam.lr_generator={adam.lr_generator:g}"
        if module.discriminator is not None:
            rates += f", model.adam.lr_discriminator={adam.lr_discriminator:g}"
        kept = f"; {best} is as it was before" if best.is_file() else ""
        raise UserError(
            f"the training diverged: {name} is not finite by step {module.steps} (epoch "
            f"{module.current_epoch}); lower the learning rate (it is {rates}), give model.warmup=0.05 or "
            f"trainer.precision=32-true, and start anew with another run=NAME{kept}"
        )

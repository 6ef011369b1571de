"""Keep the model card of the checkpoints true."""

import math
import platform
import time
from datetime import UTC, datetime
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from vfn.data.base import StainData
from vfn.data.baselines import baseline_errors
from vfn.models.card import updated
from vfn.models.gan import VirtualStain
from vfn.models.words import counted


class ModelCard(Callback):
    """Write time, steps, device and the last validation into the card of the module's recipe.

    It comes before the callback that saves checkpoints.
    """

    def __init__(self) -> None:
        self.start, self.before = 0.0, 0.0
        self.patches = 0
        self.baselines: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and measure the baselines."""
        data = _data(trainer)
        self.start, self.patches = time.monotonic(), len(data.val_patches())
        if trainer.is_global_zero:
            self.baselines = baseline_errors(data)
        self._update(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Update the card before the module puts its recipe into `last.ckpt`."""
        self._update(trainer, pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Update the card: saving weights alone calls no hook of callbacks."""
        if self.start:
            self._update(trainer, pl_module)

    def _update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, VirtualStain)
        config, device = _data(trainer).config, pl_module.device
        gpu = device.type == "cuda"
        training = {
            "seconds": round(self.seconds, 1),
            "epoch": trainer.current_epoch + 1,
            "steps": pl_module.steps,
            "patches": pl_module.steps * config.batch_size * trainer.world_size,
            "patch_size": config.patch_size,
            "device": torch.cuda.get_device_name(device)
            if gpu
            else f"CPU {platform.machine()}, {counted(torch.get_num_threads(), 'thread')}",
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "parameters": sum(p.numel() for p in pl_module.generator.parameters()),
            "date": datetime.now(UTC).date().isoformat(),
        }
        pl_module.recipe["card"] = updated(pl_module.recipe["card"], training=training)

    @property
    def seconds(self) -> float:
        """Training time over all calls of the run."""
        return self.before + time.monotonic() - self.start

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the figures of these very weights."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, VirtualStain)
        # Every process asks: the figures are reduced when they are asked for.
        figures = {key: float(trainer.callback_metrics[f"val/{key}"]) for key in ("mae", "mse")}
        mae, mse = figures["mae"], figures["mse"]
        validation = {
            "patches": self.patches,
            "mae": mae if math.isfinite(mae) else None,
            "psnr": 10 * math.log10(4 / mse) if math.isfinite(mse) and mse > 0 else None,
            "baselines": self.baselines,
        }
        pl_module.recipe["card"] = updated(pl_module.recipe["card"], validation=validation)
        self._update(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.before = float(state_dict["seconds"])


def _data(trainer: L.Trainer) -> StainData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, StainData)
    return data

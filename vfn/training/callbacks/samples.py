"""Sheets of sample patches."""

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from vfn.data.base import StainData
from vfn.models.gan import VirtualStain
from vfn.training.sample_sheet import sample_sheet


class Samples(Callback):
    """Draw `samples/epoch_0005.png` every few epochs: inputs, prediction and truth of fixed patches.

    Args:
        every_n_epochs: between two sheets.
        rows: validation patches on a sheet.
    """

    def __init__(self, every_n_epochs: int = 5, rows: int = 4) -> None:
        self.every_n_epochs, self.rows = every_n_epochs, rows

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the patches."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, StainData)
        patches, self.task = data.val_patches(), data.task
        count = min(self.rows, len(patches))
        chosen = [i * len(patches) // count for i in range(count)]
        self.batch = data.normaliser(patches.__getitems__(chosen))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and save the sheet, and log it to W&B and TensorBoard."""
        due = trainer.current_epoch % self.every_n_epochs == 0 and not trainer.sanity_checking
        if not due or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, VirtualStain)
        with torch.inference_mode():  # Lightning left the networks in evaluation mode
            prediction = pl_module(self.batch.input.to(pl_module.device)).float().cpu()
        folder, task = Path(trainer.default_root_dir) / "samples", self.task
        path = folder / f"epoch_{trainer.current_epoch:04d}.png"
        sheet = sample_sheet(self.batch, prediction, task.inputs, task.targets, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [np.ascontiguousarray(sheet)], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", sheet, trainer.global_step, dataformats="HWC"
                )

"""Sheets of sample patches."""

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vfn.data.base import StainData
from vfn.data.batch import Batch
from vfn.models.gan import VirtualStain
from vfn.system.files import replacing

INCHES, DPI = 1.6, 110  # of one tile


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


def sample_sheet(
    batch: Batch,
    prediction: Tensor,
    inputs: tuple[str, ...],
    targets: tuple[str, ...],
    path: Path,
) -> np.ndarray:
    """Draw a row a patch: inputs, then prediction and truth of each target, on the truth's range.

    Args:
        batch: B patches; `prediction` (B, Ct, h, w), all in [-1, 1].
        path: of the PNG.

    Returns:
        The sheet (H, W, 3) uint8.
    """
    columns = [(name, batch.input[:, i], batch.input[:, i]) for i, name in enumerate(inputs)]
    for i, name in enumerate(targets):
        columns.append((f"{name}, predicted", prediction[:, i], batch.target[:, i]))
        columns.append((f"{name}, true", batch.target[:, i], batch.target[:, i]))
    rows = len(batch.input)
    figure = Figure((INCHES * len(columns), INCHES * rows + 0.25), DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for c, (title, images, scale) in enumerate(columns):
        axes[0, c].set_title(title, fontsize=8)
        for r in range(rows):
            low, high = np.percentile(scale[r].numpy(), [0.5, 99.5])
            axes[r, c].imshow(images[r].numpy(), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes[r, c].set_axis_off()
    with replacing(path) as temporary:
        # Lays out and draws once, where `savefig` does both twice.
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]
    sheet: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return sheet

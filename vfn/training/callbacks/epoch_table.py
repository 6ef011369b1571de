"""`metrics.csv`."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from vfn.data.batch import Batch
from vfn.system.csv_files import read_epochs, write_csv

log = logging.getLogger(__name__)


class EpochTable(Callback):
    """Write `metrics.csv`, one row per epoch; a resumed run goes on below the rows it had."""

    def __init__(self) -> None:
        self.images, self.start = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: a run that resumes within an epoch does not start that epoch again."""
        self.images, self.start = 0, time.monotonic()
        if pl_module.device.type == "cuda":  # an earlier training of this process may have had more
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self.images, self.start = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, _: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the patches; the clock of the throughput stops before validation."""
        self.images += len(batch.input) * trainer.world_size
        self.seconds = time.monotonic() - self.start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table with this epoch's row, and log the row to the loggers."""
        # Every process asks: the figures are reduced when they are asked for.
        figures = {
            key.removesuffix("_epoch"): float(value)
            for key, value in sorted(trainer.callback_metrics.items())
            if not key.endswith("_step")
        }
        if not self.images or not trainer.is_global_zero:
            return
        optimizers = zip("gd", trainer.optimizers, strict=False)
        rates = {f"lr/{name}": one.param_groups[0]["lr"] for name, one in optimizers}
        extra = {"images_per_s": self.images / max(self.seconds, 1e-9), **rates}
        if pl_module.device.type == "cuda":
            extra["gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        epoch = trainer.current_epoch
        for logger in trainer.loggers:
            logger.log_metrics({**extra, "epoch": epoch}, trainer.global_step)
        log.info(
            "epoch %d: MAE %.4f training, %.4f validation; %.1f patches/s",
            epoch, figures["train/mae"], figures.get("val/mae", math.nan), extra["images_per_s"],
        )  # fmt: skip
        text = {key: f"{value:.6g}" for key, value in {**extra, **figures}.items()}
        row = {"epoch": str(epoch), "batches": str(pl_module.steps), **text}
        self._write(Path(trainer.default_root_dir) / "metrics.csv", row)

    def _write(self, path: Path, row: dict[str, str]) -> None:
        """Write the table; an epoch that a resumed run finishes replaces its unfinished row."""
        before = read_epochs(path) if path.exists() else []
        rows = [r for r in before if int(r["epoch"]) < int(row["epoch"])] + [row]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_csv(path, columns, ([row.get(c, "") for c in columns] for row in rows))

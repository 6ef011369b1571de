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
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the patches; the clock of the throughput stops before validation."""
        self.images += len(batch.input) * trainer.world_size
        self.seconds = time.monotonic() - self.start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table with this epoch's row, and log the row to the loggers."""
        # Every process asks: the figures are reduced when they are asked for.
        figures = {
            k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")
        }
        if not self.images or not trainer.is_global_zero:
            return
        rates = {
            f"lr/{n}": o.param_groups[0]["lr"]
            for n, o in zip("gd", trainer.optimizers, strict=False)
        }
        extra = {"images_per_s": self.images / max(self.seconds, 1e-9), **rates}
        if pl_module.device.type == "cuda":
            extra["gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        for logger in trainer.loggers:
            logger.log_metrics({**extra, "epoch": trainer.current_epoch}, trainer.global_step)
        row = {
            "epoch": trainer.current_epoch,
            "batches": pl_module.steps,
        }
        named = {key.removesuffix("_epoch"): value for key, value in sorted(figures.items())}
        text = {k: f"{v:.6g}" for k, v in {**extra, **named}.items()}
        log.info(
            "epoch %d: MAE %.4f training, %.4f validation; %.1f patches/s",
            trainer.current_epoch,
            named["train/mae"],
            named.get("val/mae", math.nan),
            extra["images_per_s"],
        )
        path = Path(trainer.default_root_dir) / "metrics.csv"
        before = read_epochs(path) if path.exists() else []
        # An epoch that a resumed run finishes replaces its unfinished row.
        rows = [r for r in before if int(r["epoch"]) < trainer.current_epoch]
        rows.append({**{k: str(v) for k, v in row.items()}, **text})
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_csv(path, columns, ([row.get(c, "") for c in columns] for row in rows))

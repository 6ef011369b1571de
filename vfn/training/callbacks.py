"""What a training leaves in its run folder: checkpoints with their card, metrics.csv, sample images."""

import logging
import math
import platform
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from vfn.data.base import StainData
from vfn.data.batch import Batch
from vfn.errors import UserError
from vfn.models.card import counted, updated
from vfn.models.checkpoint import BEST, LAST
from vfn.models.gan import VirtualStain
from vfn.report.samples import sample_sheet
from vfn.system.csv_files import read_epochs, write_csv
from vfn.system.signals import available, hang_up, insist, interrupt, is_hang_up, leave_soon

# Ctrl-C, what a queue sends before it takes a machine away (SLURM: --signal=USR1@120), and a terminal
# that is closed.
STOPPING = available("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
AGREE_EVERY = 10  # steps between two questions whether another process was told to stop

log = logging.getLogger(__name__)


class Budget(Timer):
    """`trainer.max_time` of this call: a resumed run gets it anew, as a cluster's queue gives it."""

    def __init__(self, duration: timedelta) -> None:
        super().__init__(duration=duration, interval="step", verbose=False)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: time spent before a stop does not count."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take up."""

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        left = self.time_remaining()
        return left is not None and left <= 0


class OnceStarted(Callback):
    """Does `work` in the first process once a training starts: the checkpoint of a resumed one is loaded."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do it."""
        if trainer.is_global_zero:
            self.work()


class Finite(Callback):
    """Ends a training whose losses are no numbers any more. It comes before what saves checkpoints.

    It looks at the sums of the epoch, which a NaN never leaves, where loggers ask for figures anyway: a
    GPU does not wait in each step.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Look at the losses.

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
        self._refuse(pl_module, wrong[0] if wrong else "a loss")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the validation.

        Raises:
            UserError: see `_refuse`.
        """
        if not math.isfinite(float(trainer.callback_metrics["val/mae"])):
            self._refuse(pl_module, "val/mae")

    def _refuse(self, module: L.LightningModule, name: str) -> NoReturn:
        """Raise the line that says what to change."""
        assert isinstance(module, VirtualStain)
        adam, best = module.adam, self.folder / BEST
        rates = f"model.adam.lr_generator={adam.lr_generator:g}"
        if module.discriminator is not None:
            rates += f", model.adam.lr_discriminator={adam.lr_discriminator:g}"
        kept = f"; {best} is as it was before" if best.is_file() else ""
        raise UserError(
            f"the training diverged: {name} is not finite by step {module.steps} (epoch "
            f"{module.current_epoch}); lower the learning rate (it is {rates}), give model.warmup=0.05 or "
            f"trainer.precision=32-true, and start anew with another run=NAME{kept}"
        )


class Checkpoints(Callback):
    """`best.ckpt` by validation MAE (weights alone); `last.ckpt` (everything) after each epoch, and
    after the last whole step of a run that stops within one.

    It comes last of the callbacks that write or stop: the others' hooks have run when it raises.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.best, self.best_epoch = folder, math.inf, -1
        self.interrupted, self.saved_step = False, -1
        self._told, self._several = False, False
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let Ctrl-C and SIGTERM wait for the end of the step: between D's and G's no run can go on."""
        self._several = trainer.world_size > 1
        if threading.current_thread() is threading.main_thread():
            asked = [
                number for number in STOPPING
                if not (is_hang_up(number) and signal.getsignal(number) == signal.SIG_IGN)  # nohup
            ]  # fmt: skip
            self._handlers = {number: signal.signal(number, self._stop) for number in asked}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _stop(self, number: int, _frame: object) -> None:
        if is_hang_up(number):
            hang_up()
        if self._told:  # a second signal does not wait for the end of the step
            insist()
        elif self._several:
            leave_soon()
        self._told = True  # nothing is printed from a handler

    def _agree(self, trainer: L.Trainer, step: int) -> None:
        """Of several processes all stop where one was told to, at the same step."""
        if trainer.world_size == 1:
            self.interrupted = self._told
        elif step % AGREE_EVERY == 0:
            told = trainer.strategy.reduce_boolean_decision(self._told, all=False)
            self.interrupted = self.interrupted or told

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save within the epoch where the run stops here."""
        self._agree(trainer, batch_idx)
        if trainer.is_last_batch or not (self.interrupted or trainer.should_stop):
            return
        self._save_last(trainer)
        if self.interrupted:
            interrupt()

    def _save_last(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self.saved_step = trainer.global_step

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        score = float(trainer.callback_metrics["val/mae"])
        # A first score is kept even if it is NaN: best.ckpt exists whenever a run ends. All
        # processes decide alike, since saving is a step that they take together.
        if score < self.best or self.best_epoch < 0 or math.isnan(self.best):
            self.best, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything that a resumed run needs; an epoch cut short was saved where it was cut."""
        if trainer.is_last_batch:
            self._save_last(trainer)
        self._agree(trainer, 0)
        if self.interrupted:
            interrupt()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """An interrupted run can predict.

        It was saved at the end of a step, unless a second signal would not wait for that: then it
        goes on from its last epoch, since from the middle of a step none can.
        """
        # Saving is a step that processes take together: not where one of them was told before training.
        together = self.interrupted or trainer.world_size == 1
        stopped = isinstance(exception, KeyboardInterrupt) and together
        if stopped and trainer.global_step and self.best_epoch < 0:
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run must beat the score that it had."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]


class ModelCard(Callback):
    """Keeps the card in the module's recipe true: what was spent so far, the last validation.

    It comes before what saves checkpoints.
    """

    def __init__(self, data: StainData) -> None:
        self.data = data
        self.start, self.before = 0.0, 0.0
        self.patches = 0
        self.baselines: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and measure the baselines."""
        self.start, self.patches = time.monotonic(), len(self.data.val_patches())
        if trainer.is_global_zero:
            self.baselines = self.data.baseline_errors()
        self._spent(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Of `last.ckpt`; the module puts its recipe into it after this."""
        self._spent(trainer, pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Weights alone may be saved now, of which no callback is told."""
        if self.start:
            self._spent(trainer, pl_module)

    def _spent(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, VirtualStain)
        config, device = self.data.config, pl_module.device
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
        """Of training, over all calls of the run."""
        return self.before + time.monotonic() - self.start

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The figures of these very weights."""
        assert isinstance(pl_module, VirtualStain)
        # Asked for by every process: the figures are reduced when they are asked for.
        figures = {key: float(trainer.callback_metrics[f"val/{key}"]) for key in ("mae", "mse")}
        mae, mse = figures["mae"], figures["mse"]
        validation = {
            "patches": self.patches,
            "mae": mae if math.isfinite(mae) else None,
            "psnr": 10 * math.log10(4 / mse) if math.isfinite(mse) and mse > 0 else None,
            "baselines": self.baselines,
        }
        pl_module.recipe["card"] = updated(pl_module.recipe["card"], validation=validation)
        self._spent(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What was spent so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run goes on counting."""
        self.before = float(state_dict["seconds"])


class EpochTable(Callback):
    """`metrics.csv`: a row an epoch; a resumed run goes on below the rows it had."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images, self.start = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that resumes within an epoch does not start that one anew."""
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
        """Count the patches; the clock of a throughput stops before validation."""
        self.images += len(batch.input) * trainer.world_size
        self.seconds = time.monotonic() - self.start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table anew with this epoch's row, and tell the loggers."""
        # Asked for by every process: the figures are reduced when they are asked for.
        figures = {
            k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")
        }
        if not self.images or not trainer.is_global_zero:
            return
        rates = {
            f"lr/{n}": o.param_groups[0]["lr"]
            for n, o in zip("gd", trainer.optimizers, strict=False)
        }
        extra = {
            "images_per_s": self.images / max(self.seconds, 1e-9),
            **rates,
        }
        if pl_module.device.type == "cuda":
            extra["gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        if figures.get("val/mse", 0) > 0:
            extra["val/psnr"] = 10 * math.log10(
                4 / figures["val/mse"]
            )  # the range [-1, 1] is 2 wide
        for logger in trainer.loggers:
            logger.log_metrics({**extra, "epoch": trainer.current_epoch}, trainer.global_step)
        row = {
            "epoch": trainer.current_epoch,
            "batches": trainer.global_step // len(trainer.optimizers),
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
        # An epoch that a resumed run finishes replaces its unfinished row.
        before = [r for r in self._read() if int(r["epoch"]) < trainer.current_epoch]
        self._write([*before, {**{k: str(v) for k, v in row.items()}, **text}])

    def _read(self) -> list[dict[str, str]]:
        return read_epochs(self.path) if self.path.exists() else []

    def _write(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_csv(self.path, columns, ([row.get(c, "") for c in columns] for row in rows))


class Samples(Callback):
    """`samples/epoch_0005.png` each few epochs: inputs, prediction and truth of fixed patches.

    Args:
        every: epochs between two sheets.
        batch: validation patches, on the CPU.
        inputs, targets: channel names.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        batch: Batch,
        inputs: tuple[str, ...],
        targets: tuple[str, ...],
    ) -> None:
        self.folder, self.every, self.batch = folder, every, batch
        self.inputs, self.targets = inputs, targets

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, write, and hand to the loggers that show images."""
        if trainer.current_epoch % self.every or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, VirtualStain)
        with torch.inference_mode():  # Lightning left the networks in evaluation mode
            prediction = pl_module(self.batch.input.to(pl_module.device)).float().cpu()
        path = self.folder / f"epoch_{trainer.current_epoch:04d}.png"
        sheet = sample_sheet(self.batch, prediction, self.inputs, self.targets, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [np.ascontiguousarray(sheet)], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", sheet, trainer.global_step, dataformats="HWC"
                )

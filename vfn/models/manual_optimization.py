"""Manual optimisation as Lightning leaves it to the module: accumulation, clipping and float16."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor


class ManualOptimization(L.LightningModule):
    """A module with several optimisers that accumulates and clips gradients as `L.Trainer` does with one.

    A training step calls `add_gradients` and `step_if_due` for each optimiser, and `end_batch` once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate = 1
        self.clip_val: float | None = None
        self.clip_algorithm: str | None = None
        self.scaler: torch.amp.GradScaler | None = None
        # Since the training began, over all its calls: batches, and steps of each optimiser.
        self.steps, self.updates = 0, 0
        self.waiting = 0  # batches whose gradients no optimiser has stepped on
        self._gradients: dict[str, Tensor] = {}  # of a checkpoint, until training starts

    def take_over(self, trainer: L.Trainer) -> None:
        """Do what `trainer` was asked for and refuses to do in manual optimisation."""
        self.accumulate, trainer.accumulate_grad_batches = trainer.accumulate_grad_batches, 1
        self.clip_val, trainer.gradient_clip_val = trainer.gradient_clip_val, None
        self.clip_algorithm, trainer.gradient_clip_algorithm = trainer.gradient_clip_algorithm, None

    @property
    def is_due(self) -> bool:
        """True if the optimisers step on this batch: every N batches, and at the end of an epoch."""
        return self.waiting + 1 >= self.accumulate or self.trainer.is_last_batch

    @property
    def loss_scale(self) -> float:
        """The factor of losses and gradients in float16; 1 in other precisions."""
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    def add_gradients(self, optimiser: Any, loss: Tensor, **options: Any) -> None:
        """Backpropagate this batch's share of the loss."""
        if not self.waiting:
            optimiser.zero_grad()
        self.manual_backward(loss / self.accumulate, **options)

    def step_if_due(self, optimiser: Any) -> None:
        """Let the optimiser step, unless gradients of further batches come first."""
        if self.is_due:
            optimiser.step()

    def end_batch(self) -> None:
        """Count the batch; all optimisers are done with it."""
        self.steps += 1
        self.waiting = 0 if self.is_due else self.waiting + 1
        if not self.waiting:
            self.updates += 1
            if self.scaler is not None:
                self.scaler.update()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients of one network, which are unscaled by now."""
        if self.clip_val:
            # Not by the plugins of mixed precision: they refuse fused optimisers, some of which unscale
            # gradients themselves.
            kind = GradClipAlgorithmType(self.clip_algorithm or "norm")
            Precision.clip_gradients(self.trainer.precision_plugin, optimizer, self.clip_val, kind)

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients that wait for the next step."""
        if not self.waiting:
            super().on_validation_model_zero_grad()

    def on_train_start(self) -> None:
        """Take the scaler from the trainer, and gradients from the checkpoint."""
        self.scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        for name, parameter in self.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        self._gradients = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the counts, and the gradients where a run stops between two steps."""
        checkpoint |= {"steps": self.steps, "updates": self.updates, "waiting": self.waiting}
        if self.waiting and "optimizer_states" in checkpoint:
            pairs = self.named_parameters()
            checkpoint["gradients"] = {n: p.grad for n, p in pairs if p.grad is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the counts and the gradients of a checkpoint."""
        self.steps, self.updates, self.waiting = (
            int(checkpoint[key]) for key in ("steps", "updates", "waiting")
        )
        self._gradients = checkpoint.get("gradients", {})


class SharedScaler(MixedPrecision):
    """float16 with one gradient scale for all optimisers of a batch; `ManualOptimization` updates it.

    Lightning's plugin updates the scale after each optimiser, so that the next one would divide by
    another scale than its accumulated gradients were multiplied by.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: L.LightningModule, closure: Any, **kwargs: Any
    ) -> Any:
        """Unscale, call the hooks, and step unless a gradient is not finite."""
        assert self.scaler is not None
        closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        return self.scaler.step(optimizer, **kwargs)

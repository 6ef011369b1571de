"""Learning rates over a training: warm-up, and a fall to 0 by its end."""

import math
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer
from omegaconf import DictConfig

from vfn.errors import UserError, check_choice
from vfn.models.gan import VirtualStain

KINDS = ("constant", "cosine", "onecycle")
FIRST = 1 / 25  # of the rate, at the start of onecycle; PyTorch's OneCycleLR
FINAL = FIRST * 1e-4  # and at its end


@dataclass(frozen=True)
class ScheduleSettings:
    """`model.schedule` and `model.warmup`.

    Attributes:
        kind: "constant"; "cosine": down to 0 in half a cosine (Loshchilov and Hutter 2017, eq. 5);
            "onecycle": up from 1/25 and down to about 0 in half a cosine each (Smith and Topin 2018).
        warmup: share of the training, in [0, 1), in which the rate climbs; by "constant" and "cosine"
            in a straight line from 0.

    Raises:
        UserError: another kind or share.
    """

    kind: str = "constant"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_choice("model.schedule", self.kind, KINDS)
        if not 0 <= self.warmup < 1:
            raise UserError(
                f"model.warmup={self.warmup}: give a share of the training, 0 to below 1"
            )

    def factor(self, share: float) -> float:
        """Return the factor of the learning rates after `share`, in [0, 1], of the training."""
        if share < self.warmup:
            climbed = share / self.warmup
            return _between(FIRST, 1, climbed) if self.kind == "onecycle" else climbed
        if self.kind == "constant":
            return 1.0
        fallen = (share - self.warmup) / (1 - self.warmup)
        return _between(1, FINAL if self.kind == "onecycle" else 0, fallen)


def _between(start: float, end: float, share: float) -> float:
    """Along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class Schedule(Callback):
    """Sets both optimisers' rates before each step.

    A training is over after `trainer.max_epochs`, `trainer.max_steps` or `trainer.max_time`,
    whichever comes first: the share that is done is the larger of steps and time. `max_time` is that
    of one call, so that a resumed run spends its new time on the share that was left. With more epochs
    than before, a resumed run goes back to the rate of its new share.
    """

    def __init__(self, settings: ScheduleSettings) -> None:
        self.settings = settings
        self.timed, self.before = 0.0, 0.0  # share by time: now, and when this call began

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Steps are counted from 0, so that the first is that of share 0."""
        assert isinstance(pl_module, VirtualStain)
        adam = pl_module.adam
        factor = self.settings.factor(self._share(trainer, pl_module))
        rates = (adam.lr_generator, adam.lr_discriminator)
        for optimiser, rate in zip(trainer.optimizers, rates, strict=False):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def _share(self, trainer: L.Trainer, module: VirtualStain) -> float:
        """Return the share of the training that is done, in [0, 1]."""
        share = share_of_steps(trainer, module)
        timer = next((c for c in trainer.callbacks if isinstance(c, Timer)), None)  # type: ignore[attr-defined]
        if timer is not None and timer.time_remaining() is not None:
            spent = timer.time_elapsed()
            left = timer.time_remaining() or 0.0
            part = min(spent / max(spent + left, 1e-9), 1.0)
            # All processes take one rate, else their weights would drift apart.
            self.timed = float(trainer.strategy.broadcast(self.before + (1 - self.before) * part))
            share = max(share, self.timed)
        return min(share, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The share by time."""
        return {"timed": self.timed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind it."""
        self.before = self.timed = float(state_dict["timed"])


def share_of_steps(trainer: L.Trainer, module: VirtualStain) -> float:
    """Return the share of `trainer.max_epochs` or `max_steps` that is done; 0 without either."""
    ends = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        ends.append(trainer.max_epochs * -(-trainer.num_training_batches // module.accumulate))
    if trainer.max_steps > 0:  # manual optimisation counts a step for each optimiser
        ends.append(trainer.max_steps / len(trainer.optimizers))
    done = trainer.global_step / len(trainer.optimizers)
    return float(done / min(ends)) if ends else 0.0


def make_schedule(model: DictConfig) -> list[Schedule]:
    """Return the callback of `model.schedule` and `model.warmup`; none where the rates are constant."""
    settings = ScheduleSettings(
        str(model.get("schedule", "constant")), float(model.get("warmup", 0.0))
    )
    return [] if settings == ScheduleSettings() else [Schedule(settings)]

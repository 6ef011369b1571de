"""Lightning callbacks: they write a run folder, and end a training early."""

from vfn.training.callbacks.checkpoints import Checkpoints
from vfn.training.callbacks.epoch_table import EpochTable
from vfn.training.callbacks.finite import Finite
from vfn.training.callbacks.limits import Budget, Limits
from vfn.training.callbacks.model_card import ModelCard
from vfn.training.callbacks.samples import Samples
from vfn.training.callbacks.time_left import TimedProgressBar, TimeLeft

__all__ = [
    "Budget",
    "Checkpoints",
    "EpochTable",
    "Finite",
    "Limits",
    "ModelCard",
    "Samples",
    "TimeLeft",
    "TimedProgressBar",
]

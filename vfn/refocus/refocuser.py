"""A refocusing model on one channel of another data set.

The grey values of another channel mean something else, so the model's range is carried over: the channel's range
is fitted on its training fields in focus, by the rule of the model's own training, and stands for the range of the
model's target; the range of the model's input keeps its place relative to that.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vfn.data.cache import ImageCache
from vfn.data.discovery.fields import ImageSource
from vfn.data.intensity import Histogram, IntensityNormaliser
from vfn.data.samples import Sample
from vfn.errors import UserError
from vfn.inference.predictor import Predictor
from vfn.models.checkpoint import Checkpoint
from vfn.models.precision import pick_device, pick_precision
from vfn.system.progress import progress

KEPT = 8  # refocused planes in memory


class Refocuser:
    """A refocusing model on one channel of another data set. Thread-safe: one image at a time.

    Args:
        checkpoint: of a model that refocuses one channel.
        sharp: range of the channel's grey values in focus.

    Raises:
        UserError: a checkpoint of another kind.
    """

    def __init__(self, checkpoint: Checkpoint, sharp: IntensityNormaliser) -> None:
        check_refocuses(checkpoint)
        self.checkpoint, self.sharp = checkpoint, sharp
        own_in, own_out = checkpoint.inputs[0], checkpoint.targets[0]
        if own_in.knots is not None or own_out.knots is not None:
            raise UserError(
                f"data.refocus={checkpoint.path}: was trained with data.equalise, whose curve holds for "
                "its own images alone; train it without"
            )
        scale = (sharp.high - sharp.low) / (own_out.high - own_out.low)
        low, high = (sharp.low + (e - own_out.low) * scale for e in (own_in.low, own_in.high))
        moved = replace(sharp, low=float(low), high=float(high))
        if own_in.per_field:  # holds for fields of any channel
            moved = replace(own_in, dtype=sharp.dtype)
        self._predictor = Predictor(
            replace(
                checkpoint, inputs=(moved,), targets=(sharp,), flats=(None, None), envelopes=(),
                uncertainty=None,
            ),
            # Settled here, not by the first image: what is kept must not depend on the order.
            precision=pick_precision("auto", pick_device("auto")),
        )  # fmt: skip
        self.identity = (
            f"{checkpoint.identity} {sharp.low:g} {sharp.high:g} {self._predictor.precision}"
        )
        self._lock = threading.Lock()
        # Fields are read several times in a row.
        self.plane = lru_cache(KEPT)(lambda plane: self(plane.read()))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Refocus an image (H, W) in grey values; dtype and scale stay.

        Raises:
            UserError: another dtype than the channel has.
        """
        with self._lock:
            return self._predictor.predict([image])[0]


def check_refocuses(checkpoint: Checkpoint) -> None:
    """Refuse a model that does not refocus one channel.

    Raises:
        UserError: it does something else.
    """
    task = checkpoint.task
    if not task.input_z or len(task.inputs) != 1 or task.inputs != task.targets:
        raise UserError(
            f"data.refocus={checkpoint.path}: is a model of {' + '.join(task.inputs)} -> "
            f"{', '.join(task.targets)}; give one that refocuses a channel (task=refocus)"
        )


@dataclass(frozen=True)
class RefocusedPlane:
    """A plane that is refocused when read."""

    blurred: ImageSource
    refocuser: Refocuser

    def read(self) -> np.ndarray:
        """Read the pixels (H, W) in the dtype of the blurred plane."""
        return self.refocuser.plane(self.blurred)  # type: ignore[arg-type]  # hashable

    @property
    def pixel_size(self) -> float | None:
        """Micrometres per pixel, if known."""
        return self.blurred.pixel_size

    @property
    def key(self) -> str:
        """Key of the blurred plane and identity of the model."""
        return f"{self.blurred.key} refocused by {self.refocuser.identity}"

    @property
    def remark(self) -> str:
        """Remark for readers of a prediction."""
        return f"Input {self}"

    def __str__(self) -> str:
        return f"{self.blurred} (refocused)"


def range_of(
    planes: Sequence[ImageSource], model: Checkpoint, store: ImageCache
) -> IntensityNormaliser:
    """Fit the range of planes in focus, by the rule of the model's training."""
    histogram = Histogram(store.read(planes[0]).dtype)
    for plane in progress(planes, len(planes), "grey values in focus"):
        histogram.add(store.read(plane))
    rule = model.recipe["data"]
    low, high = rule["percentiles"]
    return IntensityNormaliser.fit(
        histogram, str(rule["range"]), (float(low), float(high)), equalise=False
    )


def original(plane: ImageSource) -> ImageSource:
    """Return the plane as it is on disk."""
    return plane.blurred if isinstance(plane, RefocusedPlane) else plane


def restored(sample: Sample) -> Sample:
    """Return the sample with its planes as they are on disk."""
    return replace(sample, inputs=tuple(original(plane) for plane in sample.inputs))


def is_refocused(sample: Sample) -> bool:
    """Return True if an input of the sample is a refocused plane."""
    return any(isinstance(plane, RefocusedPlane) for plane in sample.inputs)

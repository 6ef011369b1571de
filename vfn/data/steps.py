"""The steps that samples pass through before a network sees them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vfn.data.cache import ImageCache
from vfn.data.grid import Binning
from vfn.data.illumination import FlatField
from vfn.data.samples import Sample, Task
from vfn.data.shifts import Shifts
from vfn.data.splits import Split
from vfn.data.statistics import mean_images


class Step:
    """A step of the preparation: fitted once, on the split, and recorded in the checkpoint.

    `StainData` runs the steps in order. Those that need a model or a measure of focus live in `vfn.refocus` and
    are handed in.
    """

    def fit(self, split: Split, cache: ImageCache) -> Split:
        """Fit on the training samples; return the split as the next step sees it."""
        return split

    def summary(self) -> str:
        """Describe the result in a phrase; empty for nothing done."""
        return ""

    def recipe(self) -> dict[str, Any]:
        """Return this step's parts of the recipe, as plain data."""
        return {}

    def record(self, folder: Path) -> None:
        """Write files of this step's own into the run folder."""


class Registration:
    """All channels on the pixel grid of the first input, and targets moved onto it (`data.register`).

    It works on samples before the split, since a spatial split cuts registered fields.

    Attributes:
        binning: None until measured.
        shifts: measured for samples that are not in it yet.
    """

    def __init__(self, task: Task, register: bool) -> None:
        self.task, self.register = task, register
        self.binning: Binning | None = None
        self.shifts = Shifts()

    def apply(self, samples: list[Sample], cache: ImageCache) -> list[Sample]:
        """Return the samples on one grid."""
        if not samples:
            return samples
        if self.binning is None:
            self.binning = Binning.measure(samples, cache)
        samples = [self.binning.apply(sample) for sample in samples]
        if not self.register:
            return samples
        self.shifts = self.shifts.measured(samples, cache)
        return [self.shifts.apply(sample, cache) for sample in samples]

    def summary(self) -> str:
        """Describe what was done; empty for nothing."""
        channels = self.task.inputs + self.task.targets
        parts = [self.binning.summary(channels)] if self.binning else []
        if self.register:
            parts.append(self.shifts.summary(self.task.targets))
        return "; ".join(filter(None, parts))

    def recipe(self) -> dict[str, Any]:
        """Return the parts of the recipe."""
        binning = None if self.binning is None else self.binning.to_dict()
        return {"shifts": self.shifts.to_dict(), "binning": binning}


class FlatFields(Step):
    """A flat field for each channel (`data.illumination`), which patches are divided by.

    Attributes:
        flats: inputs first; None where illumination is not corrected.
    """

    def __init__(self, channels: Sequence[str], correct: bool) -> None:
        self.channels, self.correct = tuple(channels), correct
        self.flats: list[FlatField | None] = [None] * len(self.channels)

    def fit(self, split: Split, cache: ImageCache) -> Split:
        """Estimate the flat fields; the samples stay as they are."""
        if self.correct:
            means = mean_images(split.train, cache, len(self.channels))
            self.flats = [FlatField.fit(mean) for mean in means]
        return split

    def summary(self) -> str:
        """Describe the falloff that is corrected; empty for none."""
        losses = [
            f"{channel} {flat.falloff:.0%}"
            for channel, flat in zip(self.channels, self.flats, strict=True)
            if flat is not None
        ]
        return f"falloff of light corrected: {', '.join(losses)}" if losses else ""

    def recipe(self) -> dict[str, Any]:
        """Return the parts of the recipe."""
        return {"flats": [None if flat is None else flat.to_dict() for flat in self.flats]}

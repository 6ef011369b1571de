"""The steps of `vfn.refocus` in the preparation of a data set, see `vfn.data.steps.Step`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vfn.data.cache import ImageCache
from vfn.data.config import DataConfig
from vfn.data.discovery.layout import listed
from vfn.data.samples import Task
from vfn.data.splits import Split
from vfn.data.steps import Step
from vfn.errors import UserError
from vfn.refocus.deconvolution import Deconvolution
from vfn.refocus.scale import FocusScale
from vfn.refocus.series import calibrate_on_samples
from vfn.refocus.settings import RefocusSettings, read_fields
from vfn.refocus.step import Refocusing

TABLE = "refocus.csv"  # in the run folder


def preparation(task: Task, config: DataConfig) -> Sequence[Step]:
    """Return the steps of a training, to be handed to `StainData`."""
    return RefocusStep(task, config), FocusStep(task)


class RefocusStep(Step):
    """`data.refocus`: refocus blurred fields, or leave them out."""

    def __init__(self, task: Task, config: DataConfig) -> None:
        self.task, self.config = task, config
        self.fitted: Refocusing | None = None

    def fit(self, split: Split, cache: ImageCache) -> Split:
        """Fit the step and return the split with its blurred fields dealt with."""
        config = self.config
        if not config.refocus:
            return split
        if config.cache == "off":
            raise UserError(
                "data.refocus: with data.cache=off every patch would be refocused anew; "
                "leave data.cache=disk"
            )
        fields: frozenset[str] | None = None
        if config.refocus_fields is not None:
            known = {sample.field for sample in split.samples}
            fields = read_fields(Path(config.refocus_fields), known)
        settings = RefocusSettings(
            config.refocus_beyond, listed(config.refocus_channels), config.refocus_action, fields
        )
        path = Path(str(config.refocus))
        self.fitted = Refocusing.fit(path, settings, self.task, split.train, cache)
        self._whole, self._cache = split, cache
        split = self.fitted.divided(split, cache)
        cache.prepare(plane for sample in split.samples for plane in sample.planes)
        return split

    def summary(self) -> str:
        """Count the blurred fields; empty if nothing was looked for."""
        if self.fitted is None:
            return ""
        return self.fitted.summary(self._whole.samples, self._cache)

    def recipe(self) -> dict[str, Any]:
        """Return the part of the recipe."""
        return {"refocus": None if self.fitted is None else self.fitted.to_dict()}

    def record(self, folder: Path) -> None:
        """Write `refocus.csv`, which fields were blurred and what was done, if anything was looked for."""
        if self.fitted is not None:
            parts = {part: getattr(self._whole, part) for part in ("train", "val", "test")}
            self.fitted.record(folder / TABLE, parts, self._cache)


class FocusStep(Step):
    """The scale of focus and the classical baseline of a data set with planes out of focus."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scale: FocusScale | None = None
        self.deconvolution: Deconvolution | None = None

    def fit(self, split: Split, cache: ImageCache) -> Split:
        """Calibrate on the training samples; the split stays as it is."""
        if self.task.input_z:
            self.scale = calibrate_on_samples(split.train, self.task, cache)
            self.deconvolution = Deconvolution.fit_samples(split.train, self.task, cache)
        return split

    def summary(self) -> str:
        """Describe the scale; empty for none."""
        return "" if self.scale is None else f"focus scale: {self.scale}"

    def recipe(self) -> dict[str, Any]:
        """Return the parts of the recipe."""
        parts = {"focus": self.scale, "deconvolution": self.deconvolution}
        return {key: None if part is None else part.to_dict() for key, part in parts.items()}

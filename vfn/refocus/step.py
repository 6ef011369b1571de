"""Refocus, then stain: refocus blurred fields of an input before a network sees them (paper, sec. 3.1, fig. 1).

A refocusing model (`task=refocus`) was trained on one stain of one data set; here it works on a channel of another.
Its scale of focus says which fields are blurred, where the paper picked them by hand. The files stay as they are.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vfn.data.cache import ImageCache, in_parallel
from vfn.data.discovery.fields import ImageSource
from vfn.data.input_shift import SIZES_DIFFER
from vfn.data.intensity import IntensityNormaliser
from vfn.data.samples import Sample, Task
from vfn.data.splits import Split
from vfn.errors import UserError
from vfn.models.checkpoint import Checkpoint, from_recipe, load_checkpoint
from vfn.refocus.measures import Spectrum, mean_spectrum, tile_spectra
from vfn.refocus.refocuser import RefocusedPlane, Refocuser, check_refocuses, original, range_of
from vfn.refocus.scale import FocusScale, FocusScore
from vfn.refocus.settings import ACTIONS, RefocusSettings
from vfn.system.csv_files import write_csv

log = logging.getLogger(__name__)

HEADER = ("field", "channel", "part", "focus_um", "low", "high", "blurred", "refocused")


@dataclass(frozen=True)
class Looked:
    """Focus of one input of one field."""

    field: str
    channel: str
    score: FocusScore
    blurred: bool


class Refocusing:
    """A fitted refocusing step: finds blurred fields and deals with them.

    Args:
        settings: settings of the data set.
        task: the task whose inputs are looked at.
        model: the refocusing model.
        inputs: scale of focus and refocuser (on the channel's range) for each input that is looked at,
            by its index.
    """

    def __init__(
        self,
        settings: RefocusSettings,
        task: Task,
        model: Checkpoint,
        inputs: Mapping[int, tuple[FocusScale, Refocuser]],
    ) -> None:
        self.settings, self.task, self.model, self.inputs = settings, task, model, inputs
        self._looked: dict[tuple[str, int], Looked] = {}

    @classmethod
    def fit(
        cls,
        path: Path,
        settings: RefocusSettings,
        task: Task,
        samples: Sequence[Sample],
        store: ImageCache,
    ) -> "Refocusing":
        """Fit scales of focus and ranges of grey values on the training samples.

        Args:
            path: checkpoint of the model.

        Raises:
            UserError: no such model; a channel without a training field in focus.
        """
        model = load_checkpoint(path)
        check_refocuses(model)
        focus = model.part("focus", FocusScale.from_dict)
        if focus is None:
            raise UserError(
                f"data.refocus={path}: carries no scale of focus (its fields are too small, or it was "
                "trained by an earlier version); train it anew"
            )
        own, here = focus.pixel_size, samples[0].inputs[0].pixel_size
        if own and here and abs(here / own - 1) > SIZES_DIFFER:
            log.warning(
                "data.refocus=%s: learnt on pixels of %g um, these are %g um: blur looks different to it",
                path, own, here,
            )  # fmt: skip

        def spectrum(plane: ImageSource) -> Spectrum:
            return mean_spectrum(tile_spectra(store.read(plane)))

        inputs: dict[int, tuple[FocusScale, Refocuser]] = {}
        for i in settings.looked_at(task, model.task.inputs[0]):
            fields = {sample.inputs[i]: sample.field for sample in samples}
            spectra = list(in_parallel(spectrum, fields, "focus", len(fields)))
            scale = focus.anchored(spectra)
            sharp = [
                plane
                for (plane, field), found in zip(fields.items(), spectra, strict=True)
                if not settings.is_blurred(field, scale.rate(found).um)
            ]
            if not sharp:
                raise UserError(
                    f"data.refocus_beyond={settings.beyond:g}: no training field of {task.inputs[i]} "
                    "is in focus; raise it"
                )
            inputs[i] = scale, Refocuser(model, range_of(sharp, model, store))
        return cls(settings, task, model, inputs)

    def look(self, sample: Sample, i: int, store: ImageCache) -> Looked:
        """Rate the focus of input `i` of a sample, as it is on disk; once."""
        plane = original(sample.inputs[i])
        key = (plane.key, i)
        if key not in self._looked:
            score = self.inputs[i][0].score(store.read(plane))
            blurred = self.settings.is_blurred(sample.field, score.um)
            self._looked[key] = Looked(sample.field, self.task.inputs[i], score, blurred)
        return self._looked[key]

    def is_blurred(self, sample: Sample, store: ImageCache) -> bool:
        """Return True if an input of the sample is blurred."""
        return any(self.look(sample, i, store).blurred for i in self.inputs)

    def apply(self, samples: Iterable[Sample], store: ImageCache) -> list[Sample]:
        """Return the samples with blurred inputs refocused, if that is the action; else as they are."""
        if self.settings.action != "refocus":
            return list(samples)
        return [replace(sample, inputs=self._inputs(sample, store)) for sample in samples]

    def _inputs(self, sample: Sample, store: ImageCache) -> tuple[ImageSource, ...]:
        inputs = list(sample.inputs)
        for i, (_, refocuser) in self.inputs.items():
            if self.look(sample, i, store).blurred:
                inputs[i] = RefocusedPlane(inputs[i], refocuser)
        return tuple(inputs)

    def divided(self, split: Split, store: ImageCache) -> Split:
        """Return the split with blurred fields refocused, left out or kept.

        Raises:
            UserError: nothing is left to train or validate on.
        """
        if self.settings.action != "leave_out":
            train, val, test = (
                self.apply(part, store) for part in (split.train, split.val, split.test)
            )
            return Split(train, val, test, by=split.by)
        train, val = (
            [sample for sample in part if not self.is_blurred(sample, store)]
            for part in (split.train, split.val)
        )
        if not train or not val:
            raise UserError(
                f"data.refocus_action=leave_out: of {len(split.train)} training and {len(split.val)} "
                f"validation fields {len(train)} and {len(val)} are in focus; raise data.refocus_beyond"
            )
        return Split(train, val, split.test, by=split.by)

    def record(self, path: Path, parts: Mapping[str, Sequence[Sample]], store: ImageCache) -> None:
        """Write `refocus.csv`: one row per field and input that was looked at.

        Args:
            parts: name of the part ("train", ...; empty in a prediction) -> its samples.
        """
        does = self.settings.action == "refocus"
        lines = [
            [
                found.field, found.channel, part,
                *("" if np.isnan(v) else f"{v:.3g}" for v in found.score),
                str(found.blurred).lower(), str(found.blurred and does).lower(),
            ]
            for part, samples in parts.items()
            for found in dict.fromkeys(
                self.look(sample, i, store) for sample in samples for i in self.inputs
            )
        ]  # fmt: skip
        write_csv(path, HEADER, lines)

    def summary(self, samples: Sequence[Sample], store: ImageCache) -> str:
        """Count the blurred fields, in a sentence."""
        seen = {sample.field: self.is_blurred(sample, store) for sample in samples}
        named = ", ".join(self.task.inputs[i] for i in self.inputs)
        by_name = self.settings.fields is not None
        how = "by name" if by_name else f"beyond {self.settings.beyond:g} um"
        return (
            f"refocus: {sum(seen.values())} of {len(seen)} fields are blurred in {named} ({how}), "
            f"{ACTIONS[self.settings.action]}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data and tensors, for the checkpoint: the whole step with the refocusing model."""
        weights = self.model.generator.state_dict()
        return {
            "beyond": self.settings.beyond,
            "channels": list(self.settings.channels),
            "action": self.settings.action,
            "fields": None if self.settings.fields is None else sorted(self.settings.fields),
            "recipe": dict(self.model.recipe),
            "weights": {name: tensor.detach().cpu().clone() for name, tensor in weights.items()},
            "scales": {str(i): scale.to_dict() for i, (scale, _) in self.inputs.items()},
            "ranges": {str(i): r.sharp.to_dict() for i, (_, r) in self.inputs.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], task: Task, path: Path) -> "Refocusing":
        """The inverse of `to_dict`.

        Args:
            task: task of the checkpoint that holds it.
            path: that checkpoint, for messages.
        """
        weights: dict[str, torch.Tensor] = dict(data["weights"])
        model = from_recipe(data["recipe"], weights, path)
        fields = data["fields"]
        settings = RefocusSettings(
            float(data["beyond"]), tuple(data["channels"]), str(data["action"]),
            None if fields is None else frozenset(fields),
        )  # fmt: skip
        inputs = {}
        for i, scale in data["scales"].items():
            sharp = IntensityNormaliser.from_dict(data["ranges"][i])
            inputs[int(i)] = FocusScale.from_dict(scale), Refocuser(model, sharp)
        return cls(settings, task, model, inputs)


def refocusing_of(checkpoint: Checkpoint) -> Refocusing | None:
    """Return the refocusing step that a checkpoint carries, if any."""
    stored = checkpoint.recipe.get("refocus")
    if stored is None:
        return None
    return Refocusing.from_dict(stored, checkpoint.task, checkpoint.path)


def refocused(checkpoint: Checkpoint, samples: list[Sample], store: ImageCache) -> list[Sample]:
    """Return the samples as the model of `checkpoint` sees them: blurred inputs refocused if it carries that step."""
    step = refocusing_of(checkpoint)
    return samples if step is None else step.apply(samples, store)

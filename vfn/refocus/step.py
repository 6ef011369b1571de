"""Refocus, then stain: blurred fields of an input are refocused before a network sees them (paper, sec. 3.1, fig. 1).

A refocusing model (`task=refocus`) was trained on one stain of one data set; here it works on a
channel of another. It comes with its scale of focus, which says which fields are blurred, where the
paper picked them by hand. Only those are touched; the files stay as they are.

The grey values of another channel mean something else, so the model's range is carried over: the new
channel's range is fitted on its training fields that are in focus, by the rule of the model's own
training, and stands for the range of the model's target; the range of its input keeps its place
relative to that.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vfn.data.cache import ImageCache, in_parallel
from vfn.data.discovery import ImageSource, split_plane
from vfn.data.input_shift import SIZES_DIFFER
from vfn.data.intensity import Histogram, IntensityNormaliser
from vfn.data.names import Names
from vfn.data.samples import Sample, Task
from vfn.data.splits import Split
from vfn.data.tables import read_table
from vfn.errors import UserError
from vfn.inference.predictor import Predictor
from vfn.models.checkpoint import Checkpoint, from_recipe, load_checkpoint
from vfn.models.precision import pick_device, pick_precision
from vfn.refocus.measures import Spectrum, mean_spectrum, tile_spectra
from vfn.refocus.scale import FocusScale, FocusScore
from vfn.system.csv_files import write_csv
from vfn.system.progress import progress

log = logging.getLogger(__name__)

PREFERRED = ("golgi_actin", "actin")  # channels that the paper refocuses
ACTIONS = ("refocus", "leave_out", "keep")
KEPT = 8  # refocused planes in memory
HEADER = ("field", "channel", "part", "focus_um", "low", "high", "blurred", "refocused")


@dataclass(frozen=True)
class RefocusSettings:
    """What the keys `data.refocus...` say.

    Attributes:
        beyond: um from focus beyond which a plane is blurred.
        channels: inputs that are looked at; empty for golgi_actin, else actin, else the model's own.
        action: what is done with a field with a blurred plane: "refocus" it; "leave_out" of training and validation;
            "keep" it as it is. Whatever is done, `refocus.csv` records it.
        fields: blurred are these, whatever their score; None goes by the score.

    Raises:
        UserError: a setting out of range.
    """

    beyond: float = 3.0
    channels: tuple[str, ...] = ()
    action: str = "refocus"
    fields: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if not self.beyond > 0:
            raise UserError(f"data.refocus_beyond={self.beyond:g}: give micrometres above 0")
        if self.action not in ACTIONS:
            raise UserError(f"data.refocus_action={self.action}: choose {', '.join(ACTIONS)}")

    def looked_at(self, task: Task, own: str) -> tuple[int, ...]:
        """Numbers of the task's inputs that are looked at.

        Args:
            own: channel that the model was trained on.

        Raises:
            UserError: the task has none of them.
        """
        names = [split_plane(channel)[0] for channel in task.inputs]
        wanted = self.channels or next(((name,) for name in (*PREFERRED, own) if name in names), ())
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted:
            raise UserError(
                f"data.refocus_channels={list(self.channels)}: "
                f"{'no input ' + ', '.join(unknown) if unknown else 'which input is to be refocused?'}; "
                f"the inputs are {', '.join(names)}"
            )
        return tuple(i for i, name in enumerate(names) if name in wanted)


def read_fields(path: Path, known: Iterable[str]) -> frozenset[str]:
    """Names in the column `field` of a CSV.

    Args:
        known: fields that there are.

    Raises:
        UserError: unreadable, without that column, or with a field that is not there.
    """
    key = "data.refocus_fields"
    given = [row["field"] for _, row in read_table(path, key, ["field"])]
    return frozenset(Names(known).pick(given, f"{key}={path}", "field"))


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
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Refocus an image (H, W) in grey values; dtype and scale stay.

        Raises:
            UserError: another dtype than the channel has.
        """
        with self._lock:
            return self._predictor.predict([image])[0]

    def plane(self, plane: ImageSource) -> np.ndarray:
        """Refocus a plane; the last few are kept, since a field is read several times in a row."""
        with self._lock:
            known = self._kept.get(plane.key)
        if known is None:
            known = self(plane.read())
            with self._lock:
                self._kept[plane.key] = known
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return known


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
    """A plane that is refocused when it is read; equal planes of one model have one key."""

    blurred: ImageSource
    refocuser: Refocuser

    def read(self) -> np.ndarray:
        """Pixels (H, W) in the dtype of the blurred plane."""
        return self.refocuser.plane(self.blurred)

    @property
    def pixel_size(self) -> float | None:
        """Micrometres a pixel, if known."""
        return self.blurred.pixel_size

    @property
    def key(self) -> str:
        """Of the blurred plane, and of the model with its settings."""
        return f"{self.blurred.key} refocused by {self.refocuser.identity}"

    @property
    def remark(self) -> str:
        """What a reader of a prediction should know."""
        return f"Input {self}"

    def __str__(self) -> str:
        return f"{self.blurred} (refocused)"


@dataclass(frozen=True)
class Looked:
    """What was found of one input of one field."""

    field: str
    channel: str
    score: FocusScore
    blurred: bool


class Refocusing:
    """The step before staining: which fields are blurred, and what is done with them.

    Args:
        settings: of the data set.
        task: whose inputs are looked at.
        model: that refocuses.
        scales: of focus, for each input that is looked at.
        refocusers: likewise; of the channel's range.
    """

    def __init__(
        self,
        settings: RefocusSettings,
        task: Task,
        model: Checkpoint,
        scales: Mapping[int, FocusScale],
        refocusers: Mapping[int, Refocuser],
    ) -> None:
        self.settings, self.task, self.model = settings, task, model
        self.scales, self.refocusers = dict(scales), dict(refocusers)
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
            path: checkpoint of the model; by the rule of its training ranges are fitted.

        Raises:
            UserError: no such model; a channel of which no training field is in focus.
        """
        model = load_checkpoint(path)
        check_refocuses(model)
        if model.focus is None:
            raise UserError(
                f"data.refocus={path}: carries no scale of focus (its fields are too small, or it was "
                "trained by an earlier version); train it anew"
            )
        _compare_pixel_sizes(model, samples[0], path)
        scales: dict[int, FocusScale] = {}
        refocusers: dict[int, Refocuser] = {}
        for i in settings.looked_at(task, model.task.inputs[0]):
            planes = list(dict.fromkeys(sample.inputs[i] for sample in samples))
            fields = {sample.inputs[i]: sample.field for sample in samples}
            spectra = list(in_parallel(_spectrum_of(store), planes, "focus", len(planes)))
            scale = model.focus.anchored(spectra)
            sharp = [
                plane
                for plane, spectrum in zip(planes, spectra, strict=True)
                if not _is_blurred(fields[plane], scale.rate(spectrum), settings)
            ]
            if not sharp:
                raise UserError(
                    f"data.refocus_beyond={settings.beyond:g}: no training field of {task.inputs[i]} "
                    "is in focus; raise it"
                )
            scales[i] = scale
            refocusers[i] = Refocuser(model, range_of(sharp, model, store))
        return cls(settings, task, model, scales, refocusers)

    def look(self, sample: Sample, i: int, store: ImageCache) -> Looked:
        """Whether input `i` of a sample is blurred, as it lies on the disk. Looked at once."""
        plane = _original(sample.inputs[i])
        key = (plane.key, i)
        if key not in self._looked:
            score = self.scales[i].score(store.read(plane))
            blurred = _is_blurred(sample.field, score, self.settings)
            self._looked[key] = Looked(sample.field, self.task.inputs[i], score, blurred)
        return self._looked[key]

    def is_blurred(self, sample: Sample, store: ImageCache) -> bool:
        """Whether an input of the sample is blurred."""
        return any(self.look(sample, i, store).blurred for i in self.scales)

    def apply(self, samples: Iterable[Sample], store: ImageCache) -> list[Sample]:
        """The samples with their blurred inputs refocused, if that is the action; else as they are."""
        return [self._applied(sample, store) for sample in samples]

    def _applied(self, sample: Sample, store: ImageCache) -> Sample:
        if self.settings.action != "refocus":
            return sample
        inputs = list(sample.inputs)
        for i, refocuser in self.refocusers.items():
            if self.look(sample, i, store).blurred:
                inputs[i] = RefocusedPlane(sample.inputs[i], refocuser)
        return replace(sample, inputs=tuple(inputs))

    def divided(self, split: Split, store: ImageCache) -> Split:
        """A split whose blurred fields were dealt with.

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
        """Write `refocus.csv`: every field that was looked at, and what was done.

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
                self.look(sample, i, store) for sample in samples for i in self.scales
            )
        ]  # fmt: skip
        write_csv(path, HEADER, lines)

    def summary(self, samples: Sequence[Sample], store: ImageCache) -> str:
        """How many of the samples' fields are blurred, in a sentence."""
        seen = {sample.field: self.is_blurred(sample, store) for sample in samples}
        done = {
            "refocus": "refocused",
            "leave_out": "left out of training",
            "keep": "kept as they are",
        }
        named = ", ".join(self.task.inputs[i] for i in self.scales)
        how = (
            "by name" if self.settings.fields is not None else f"beyond {self.settings.beyond:g} um"
        )
        return (
            f"refocus: {sum(seen.values())} of {len(seen)} fields are blurred in {named} ({how}), "
            f"{done[self.settings.action]}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data and tensors, for the checkpoint: the whole step, the refocusing model included."""
        weights = self.model.generator.state_dict()
        return {
            "beyond": self.settings.beyond,
            "channels": list(self.settings.channels),
            "action": self.settings.action,
            "fields": None if self.settings.fields is None else sorted(self.settings.fields),
            "recipe": dict(self.model.recipe),
            "weights": {name: tensor.detach().cpu().clone() for name, tensor in weights.items()},
            "scales": {str(i): scale.to_dict() for i, scale in self.scales.items()},
            "ranges": {str(i): r.sharp.to_dict() for i, r in self.refocusers.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], task: Task, path: Path) -> "Refocusing":
        """The inverse of `to_dict`.

        Args:
            task: of the checkpoint that holds it.
            path: of that checkpoint, for messages.
        """
        weights: dict[str, torch.Tensor] = dict(data["weights"])
        model = from_recipe(data["recipe"], weights, path)
        fields = data["fields"]
        settings = RefocusSettings(
            float(data["beyond"]), tuple(data["channels"]), str(data["action"]),
            None if fields is None else frozenset(fields),
        )  # fmt: skip
        scales = {int(i): FocusScale.from_dict(d) for i, d in data["scales"].items()}
        refocusers = {
            int(i): Refocuser(model, IntensityNormaliser.from_dict(d))
            for i, d in data["ranges"].items()
        }
        return cls(settings, task, model, scales, refocusers)


def range_of(
    planes: Sequence[ImageSource], model: Checkpoint, store: ImageCache
) -> IntensityNormaliser:
    """Of the grey values of planes in focus, by the rule of the model's training."""
    histogram = Histogram(store.read(planes[0]).dtype)
    for plane in progress(planes, len(planes), "grey values in focus"):
        histogram.add(store.read(plane))
    rule = model.recipe["data"]
    low, high = rule["percentiles"]
    return IntensityNormaliser.fit(
        histogram, str(rule["range"]), (float(low), float(high)), equalise=False
    )


def refocusing_of(checkpoint: Checkpoint) -> Refocusing | None:
    """The step before staining that a checkpoint carries, if any."""
    stored = checkpoint.recipe.get("refocus")
    return (
        None if stored is None else Refocusing.from_dict(stored, checkpoint.task, checkpoint.path)
    )


def refocused(checkpoint: Checkpoint, samples: list[Sample], store: ImageCache) -> list[Sample]:
    """The samples as the model of `checkpoint` sees them: blurred inputs refocused, if it carries that step."""
    step = refocusing_of(checkpoint)
    return samples if step is None else step.apply(samples, store)


def _spectrum_of(store: ImageCache) -> Any:
    def work(plane: ImageSource) -> Spectrum:
        return mean_spectrum(tile_spectra(store.read(plane)))

    return work


def _is_blurred(field: str, score: FocusScore, settings: RefocusSettings) -> bool:
    if settings.fields is not None:
        return field in settings.fields
    return score.um > settings.beyond  # never where nothing is shown (NaN)


def _original(plane: ImageSource) -> ImageSource:
    return plane.blurred if isinstance(plane, RefocusedPlane) else plane


def restored(sample: Sample) -> Sample:
    """The sample with its planes as they lie on the disk."""
    return replace(sample, inputs=tuple(_original(plane) for plane in sample.inputs))


def is_refocused(sample: Sample) -> bool:
    """Whether an input of the sample is a refocused plane."""
    return any(isinstance(plane, RefocusedPlane) for plane in sample.inputs)


def _compare_pixel_sizes(model: Checkpoint, sample: Sample, path: Path) -> None:
    assert model.focus is not None
    own, here = model.focus.pixel_size, sample.inputs[0].pixel_size
    if own and here and abs(here / own - 1) > SIZES_DIFFER:
        log.warning(
            "data.refocus=%s: learnt on pixels of %g um, these are %g um: blur looks different to it",
            path, own, here,
        )  # fmt: skip

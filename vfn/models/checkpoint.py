"""Trained models, read from checkpoints and ready to predict."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from vfn.data.discovery.layout import Layout
from vfn.data.grid import Binning
from vfn.data.illumination import FlatField
from vfn.data.images import DTYPES
from vfn.data.input_shift import TrainingDistribution
from vfn.data.intensity import FieldLevel, IntensityNormaliser, field_levels
from vfn.data.samples import Task
from vfn.data.statistics import Baselines
from vfn.errors import UserError
from vfn.models.card import card_of, updated, verdicts_of
from vfn.models.checkpoint_io import AtomicCheckpointIO
from vfn.models.ema import ema_state_dict
from vfn.models.intervals import Uncertainty
from vfn.models.nets import is_own, make_generator, with_weights
from vfn.models.reading import read_raw
from vfn.models.recipe import RECIPE
from vfn.models.verdicts import StainVerdict

P = TypeVar("P")
# Parts of the recipe whose numbers predictions are made with.
MEASURED = ("inputs", "targets", "flats", "envelopes", "baselines", "uncertainty", "deconvolution")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, ready to predict.

    Attributes:
        path: where it came from; `identity` is a digest of its weights.
        flats: of each channel, inputs first; None where illumination is not corrected.
        envelopes: of each input, over the training fields.
        recipe: everything that was stored beside the weights, as plain data.
        uncertainty: None where the model is not calibrated (`python -m vfn.calibrate`).
    """

    path: Path
    identity: str
    generator: nn.Module
    task: Task
    layout: Layout
    inputs: tuple[IntensityNormaliser, ...]
    targets: tuple[IntensityNormaliser, ...]
    flats: tuple[FlatField | None, ...]
    envelopes: tuple[TrainingDistribution, ...]
    baselines: Baselines
    recipe: Mapping[str, Any]
    uncertainty: Uncertainty | None = None

    def levels(self, inputs: Sequence[np.ndarray]) -> list[FieldLevel | None]:
        """Return the level of each input (H, W) of a field; None for those that share a range."""
        return field_levels(inputs, [one.per_field for one in self.inputs])

    def part(self, name: str, read: Callable[[Any], P]) -> P | None:
        """Return a part of the recipe that other rooms know how to read; None if the model has none.

        Args:
            name: key of the recipe.
            read: from plain data.

        Raises:
            UserError: it is damaged.
        """
        data = self.recipe.get(name)
        with recipe_errors(self.path):
            return None if data is None else read(data)

    @cached_property
    def verdicts(self) -> tuple[StainVerdict, ...]:
        """Verdict on each target as the model card has it."""
        return verdicts_of(self.recipe)

    @property
    def patch_size(self) -> int:
        """Side of the training patches (px)."""
        return int(self.recipe["data"]["patch_size"])

    @property
    def pixel_size(self) -> float | None:
        """Micrometres a pixel of the training images; None where they did not say."""
        size = self.recipe.get("pixel_size")
        return None if size is None else float(size)

    @property
    def binning(self) -> Binning:
        """Size of each channel's pixels in those of the first input."""
        counts = len(self.task.inputs), len(self.task.targets)
        return Binning.from_dict(self.recipe.get("binning"), *counts)


def load_checkpoint(path: Path, trust: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint and build its generator in evaluation mode, on the CPU.

    Args:
        trust: dotted paths of networks that are not part of vfn and may be imported.

    Raises:
        UserError: see `read_raw`; or weights that do not fit the network they name.
    """
    raw = read_raw(path, trust=trust)
    return from_recipe(raw[RECIPE], generator_weights(raw), path)


@contextmanager
def recipe_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading a recipe that is not as training wrote it into one of the user's.

    Raises:
        UserError: there was one.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        raise UserError(
            f"ckpt={path}: its recipe is damaged ({type(exc).__name__}: {exc}), or older than version 0.1.0; "
            "train anew or copy it again"
        ) from exc


def from_recipe(
    recipe: Mapping[str, Any], weights: dict[str, torch.Tensor], path: Path
) -> Checkpoint:
    """A checkpoint from its parts: what `load_checkpoint` does once the file is read.

    Args:
        weights: of the generator.
        path: where they came from.

    Raises:
        UserError: weights that do not fit the network they name; a recipe that lacks something.
    """
    with recipe_errors(path):
        task = Task(
            str(recipe["task"]["name"]),
            tuple(recipe["task"]["inputs"]),
            tuple(recipe["task"]["targets"]),
            tuple(float(z) for z in recipe["task"]["input_z"]),
        )
        try:
            generator = with_weights(
                lambda: make_generator(recipe["generator"], len(task.inputs), len(task.targets)),
                weights,
                sketch=not is_own(recipe["generator"]),
            )
        except RuntimeError as exc:
            raise UserError(f"ckpt={path}: weights do not fit its network; train anew") from exc
        for part in MEASURED:
            _check_finite(recipe.get(part), part)
        _check_finite(weights, "weights")
        unknown = {str(d["dtype"]) for d in (*recipe["inputs"], *recipe["targets"])} - set(DTYPES)
        if unknown:
            raise ValueError(f"dtype {min(unknown)}")
        Binning.from_dict(recipe.get("binning"), len(task.inputs), len(task.targets))
        calibrated = recipe.get("uncertainty")
        return Checkpoint(
            path,
            digest(weights),
            generator.eval(),
            task,
            Layout(**recipe["layout"]),
            tuple(IntensityNormaliser.from_dict(d) for d in recipe["inputs"]),
            tuple(IntensityNormaliser.from_dict(d) for d in recipe["targets"]),
            tuple(None if d is None else FlatField.from_dict(d) for d in recipe["flats"]),
            tuple(TrainingDistribution.from_dict(d) for d in recipe["envelopes"]),
            Baselines.from_dict(recipe["baselines"]),
            recipe,
            None if calibrated is None else Uncertainty.from_dict(calibrated, len(task.inputs)),
        )


def _check_finite(node: Any, name: str) -> None:
    """Refuse a NaN or an infinity in plain data or tensors: a training that diverged, or a changed file.

    Raises:
        ValueError: there is one.
    """
    todo = [node]
    while todo:
        part = todo.pop()
        if isinstance(part, Mapping):
            todo += part.values()
        elif isinstance(part, list | tuple):
            todo += part
        elif (
            isinstance(part, float | torch.Tensor)
            and not torch.isfinite(torch.as_tensor(part)).all()
        ):
            raise ValueError(f"{name}: a value is NaN or infinite")


def store_uncertainty(path: Path, uncertainty: Uncertainty) -> None:
    """Put `uncertainty` into the checkpoint at `path`; everything else in it stays as it is.

    Raises:
        UserError: see `read_raw`; it cannot be written there.
    """
    _amend(path, read_raw(path, trust=None), {"uncertainty": uncertainty.to_dict()})


def store_test_scores(path: Path, identity: str, scores: Mapping[str, Any]) -> None:
    """Put `scores` (see `vfn.models.verdicts.scores_of`) into the card of the checkpoint at `path`.

    Args:
        identity: of the weights that were scored.

    Raises:
        UserError: see `read_raw`; other weights lie there by now; it cannot be written there.
    """
    raw = read_raw(path, trust=None)
    if digest(generator_weights(raw)) != identity:
        raise UserError(f"ckpt={path}: was written anew while it was scored; score it again")
    card = updated(card_of(raw[RECIPE]), test=dict(scores))
    _amend(path, raw, {"card": card})


def _amend(path: Path, raw: dict[str, Any], parts: Mapping[str, Any]) -> None:
    raw[RECIPE] = {**raw[RECIPE], **parts}
    try:
        AtomicCheckpointIO().save_checkpoint(raw, path)
    except OSError as exc:
        raise UserError(
            f"ckpt={path}: cannot be written ({exc.strerror or exc}); work on a copy of it"
        ) from exc


def generator_weights(raw: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that predict: the averaged ones where the file has an average."""
    return submodule(ema_state_dict(raw["state_dict"]), "generator")


def submodule(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The part of a state dict that belongs to the submodule `name`."""
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each weight, which tells one network from another."""
    return {key: value.shape for key, value in state.items() if isinstance(value, torch.Tensor)}


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Twelve hex digits that tell one set of weights from another."""
    sha = hashlib.sha256()
    for key in sorted(weights):
        sha.update(key.encode())
        sha.update(weights[key].contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()[:12]

"""Checkpoints: written whole or not at all, and read without running anybody's code."""

import hashlib
import io
import os
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from vfn.data.discovery import Layout
from vfn.data.grid import Binning
from vfn.data.illumination import FlatField
from vfn.data.images import DTYPES
from vfn.data.input_shift import TrainingDistribution
from vfn.data.intensity import IntensityNormaliser
from vfn.data.samples import Task
from vfn.data.statistics import LinearMap
from vfn.errors import UserError
from vfn.models.archive import check_entries, check_pickle, is_whole
from vfn.models.card import card_of, updated
from vfn.models.gan import RECIPE, ema_state_dict
from vfn.models.intervals import Uncertainty
from vfn.models.nets import OURS, is_own, make_generator, with_weights
from vfn.models.recipe import check_recipe
from vfn.refocus.deconvolution import Deconvolution
from vfn.refocus.scale import FocusScale
from vfn.system.dotted import TARGET, refuse_code
from vfn.system.files import replacing

FORMAT = 2  # of the recipe; raised when a reader must know
BEST, LAST = "best.ckpt", "last.ckpt"
# Parts of the recipe whose numbers predictions are made with.
MEASURED = ("inputs", "targets", "flats", "envelopes", "baselines", "uncertainty", "deconvolution")
PREVIOUS = "previous.ckpt"  # what last.ckpt was before


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's, under a temporary name until it is whole; read as data alone. Of `last.ckpt` the one
    before is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._sound: set[Path] = set()  # that this process wrote or read whole

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_raw`: nobody who asks for it gets more than data."""
        checkpoint = read_raw(Path(path), trust=None)
        self._sound.add(Path(path).resolve())
        return checkpoint

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            DiskFull: it does not fit; what was at `path` is still there.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            # Not by Lightning's own writer, which goes through the system's temporary folder; and
            # not straight into the file, since torch hides that a disk is full.
            packed = io.BytesIO()
            torch.save(checkpoint, packed)
            temporary.write_bytes(packed.getbuffer())
            # A damaged one must not push out the sound one before it.
            if path.name == LAST and path.resolve() in self._sound:
                _second_name(path, path.with_name(PREVIOUS))
        self._sound.add(path.resolve())


def _second_name(path: Path, other: Path) -> None:
    """Let the file at `path` be at `other` as well, without a copy where the disk can do that."""
    with replacing(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # no such links on this disk
            shutil.copyfile(path, temporary)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` from which training can go on; None where all are damaged."""
    candidates = (folder / name for name in (LAST, PREVIOUS))
    return next((path for path in candidates if path.is_file() and is_whole(path)), None)


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, ready to predict.

    Attributes:
        path: where it came from; `identity` is a digest of its weights.
        flats: of each channel, inputs first; None where illumination is not corrected.
        envelopes: of each input, over the training fields.
        recipe: everything that was stored beside the weights, as plain data.
        uncertainty: None where the model is not calibrated (`python -m vfn.calibrate`).
        focus: tells how far from focus an input is; None where training saw one plane a field.
        deconvolution: the classical baseline of a refocusing model; None of any other.
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
    baselines: LinearMap
    recipe: Mapping[str, Any]
    uncertainty: Uncertainty | None = None
    focus: FocusScale | None = None
    deconvolution: Deconvolution | None = None

    @property
    def patch_size(self) -> int:
        """Side of the training patches (px)."""
        return int(self.recipe["data"]["patch_size"])

    @property
    def pixel_size(self) -> float | None:
        """Micrometres a pixel of the training images; None where they did not say."""
        size = self.recipe.get("pixel_size")  # checkpoints of earlier versions have none
        return None if size is None else float(size)

    @property
    def binning(self) -> Binning:
        """Size of each channel's pixels in those of the first input."""
        counts = len(self.task.inputs), len(self.task.targets)
        return Binning.from_dict(self.recipe.get("binning"), *counts)


def read_raw(
    path: Path, mapped: bool = False, trust: Collection[str] | None = ()
) -> dict[str, Any]:
    """Read the file as plain data and tensors; nothing in it is imported or run.

    Args:
        mapped: tensors stay in the file until they are looked at, and its checksums unread.
        trust: dotted paths of networks that are not part of vfn and may be built from what is read;
            None for a reader that builds none.

    Raises:
        UserError: missing, unreadable, or no checkpoint of vfn.
    """
    if path.is_dir():
        raise UserError(
            f"ckpt={path}: is a folder; give a file, as outputs/NAME/checkpoints/best.ckpt"
        )
    if not path.is_file():
        raise UserError(f"ckpt={path}: no such file; give outputs/NAME/checkpoints/best.ckpt")
    try:
        check_entries(path)
        if not mapped and not is_whole(path):
            raise UserError(
                f"ckpt={path}: is damaged (its checksums do not fit); copy it again or train anew"
            )
        check_pickle(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: they are refused below
            # weights_only: a stranger's file can hold data, never code.
            with path.open("rb") as file:
                # torch maps no file whose name is not UTF-8.
                mapped = mapped and _is_utf8(path)
                what = path if mapped else file
                raw = torch.load(what, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except Exception as exc:  # the unpickler raises whatever damaged bytes lead to
        raise UserError(
            f"ckpt={path}: is no checkpoint, or a damaged one ({type(exc).__name__}: {exc}); "
            "train anew or copy it again"
        ) from exc
    recipe = raw.get(RECIPE) if isinstance(raw, dict) else None
    if not isinstance(recipe, dict) or "state_dict" not in raw:
        raise UserError(f"ckpt={path}: is not a checkpoint of vfn; give one that train.py wrote")
    stated = recipe.get("format")
    if type(stated) is not int or stated != FORMAT:
        raise UserError(
            f"ckpt={path}: format {str(stated)[:40]}, this version reads {FORMAT}; "
            "use the version of vfn that wrote it"
        )
    refuse_code(recipe, f"ckpt={path}", (*OURS, *(_networks(recipe) if trust is None else trust)))
    try:
        check_recipe(recipe)
    except ValueError as exc:
        raise UserError(
            f"ckpt={path}: its recipe is damaged ({exc}); train anew or copy it again"
        ) from exc
    return raw


def _networks(recipe: Mapping[str, Any]) -> list[str]:
    """The dotted paths that stand where a recipe names its networks."""
    specs = [recipe.get(part) for part in ("generator", "discriminator")]
    return [spec[TARGET] for spec in specs if isinstance(spec, Mapping) and TARGET in spec]


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def load_checkpoint(path: Path, trust: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint and build its generator in evaluation mode, on the CPU.

    Args:
        trust: dotted paths of networks that are not part of vfn and may be imported.

    Raises:
        UserError: see `read_raw`; or weights that do not fit the network they name.
    """
    raw = read_raw(path, trust=trust)
    return from_recipe(raw[RECIPE], _generator_weights(raw), path)


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
    try:
        return _from_recipe(recipe, weights, path)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        raise UserError(
            f"ckpt={path}: its recipe is damaged ({type(exc).__name__}: {exc}); train anew or copy it again"
        ) from exc


def _from_recipe(
    recipe: Mapping[str, Any], weights: dict[str, torch.Tensor], path: Path
) -> Checkpoint:
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
    calibrated, focus = recipe.get("uncertainty"), recipe.get("focus")
    classical = recipe.get("deconvolution")
    return Checkpoint(
        path,
        digest(weights),
        generator.eval(),
        task,
        _layout(recipe),
        tuple(IntensityNormaliser.from_dict(d) for d in recipe["inputs"]),
        tuple(IntensityNormaliser.from_dict(d) for d in recipe["targets"]),
        tuple(None if d is None else FlatField.from_dict(d) for d in recipe["flats"]),
        tuple(TrainingDistribution.from_dict(d) for d in recipe["envelopes"]),
        LinearMap.from_dict(recipe["baselines"]),
        recipe,
        None if calibrated is None else Uncertainty.from_dict(calibrated, len(task.inputs)),
        None if focus is None else FocusScale.from_dict(focus),
        None if classical is None else Deconvolution.from_dict(classical),
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


def _layout(recipe: Mapping[str, Any]) -> Layout:
    layout = Layout(**recipe["layout"])
    # Earlier versions, whose data sets had no such keys, wrote these two where nothing was said.
    if "z_zero" not in recipe["data"] and (layout.z_zero, layout.z_step) == (0.0, 1.0):
        return replace(layout, z_zero=None, z_step=None)
    return layout


def store_uncertainty(path: Path, uncertainty: Uncertainty) -> None:
    """Put `uncertainty` into the checkpoint at `path`; everything else in it stays as it is.

    Raises:
        UserError: see `read_raw`; it cannot be written there.
    """
    _amend(path, read_raw(path, trust=None), {"uncertainty": uncertainty.to_dict()})


def store_test_scores(path: Path, identity: str, scores: Mapping[str, Any]) -> None:
    """Put `scores` (see `vfn.models.card.scores_of`) into the card of the checkpoint at `path`.

    Args:
        identity: of the weights that were scored.

    Raises:
        UserError: see `read_raw`; other weights lie there by now; it cannot be written there.
    """
    raw = read_raw(path, trust=None)
    if digest(_generator_weights(raw)) != identity:
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


def _generator_weights(raw: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return submodule(ema_state_dict(raw["state_dict"]), "generator")


def submodule(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The part of a state dict that belongs to the submodule `name`."""
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Twelve hex digits that tell one set of weights from another."""
    sha = hashlib.sha256()
    for key in sorted(weights):
        sha.update(key.encode())
        sha.update(weights[key].contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()[:12]

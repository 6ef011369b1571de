"""The data set, the networks and the module of a training, from its config."""

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from vfn import __version__
from vfn.cli.entry import known_tasks, plain
from vfn.cli.paths import is_path
from vfn.data import describe
from vfn.data.augment import make_augmentation
from vfn.data.base import StainData
from vfn.data.baselines import linear_start, target_level
from vfn.data.config import DataConfig
from vfn.data.samples import Task
from vfn.data.sets import make_data
from vfn.errors import UserError, check_choice
from vfn.models.card import About, make_card
from vfn.models.checkpoint import shapes, submodule
from vfn.models.ema import checked_decay, ema_state_dict
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.models.losses import LossWeights
from vfn.models.nets import is_own, make_discriminator, make_generator, name_of, stride_of
from vfn.models.nets.generator import AUTO, STARTS
from vfn.models.reading import FORMAT, read_raw
from vfn.models.recipe import RECIPE
from vfn.refocus.preparation import preparation

MOST = 0.5  # share of the targets' variance

log = logging.getLogger(__name__)


def stain_data(config: DictConfig, task: Task, seed: int | None = None) -> StainData:
    """Return the data module of a whole config, not set up.

    Args:
        seed: of the patches; None: the config's.

    Raises:
        UserError: see `make_data`.
    """
    data = plain(config.data)
    # Relative folders are stored as absolute ones, so that a checkpoint works from anywhere.
    data |= {k: str(Path(v).absolute()) for k, v in data.items() if v and is_path(k)}
    data["seed"] = config.seed if seed is None else seed
    settings = DataConfig.from_dict(data)
    group = config.get("augment")  # older run folders have none, nor have the trainings of a panel
    augmentation = make_augmentation(
        None if group is None else plain(group), settings.augment, settings.input_jitter
    )
    return make_data(task, settings, known_tasks(), preparation(task, settings), augmentation)


class ModelBuilder:
    """The networks of a config, made and checked before the images are read, and the module after.

    `config.model.generator.start` is settled here if it is open.

    Args:
        data: of the training; only `module` needs it set up.

    Raises:
        UserError: settings that do not fit each other, or weights of `init` that do not fit.
    """

    def __init__(self, config: DictConfig, task: Task, data: StainData) -> None:
        self.config, self.task, self.data = config, task, data
        card = config.get("card")  # older run folders have none, nor have the trainings of a panel
        self.about = About.from_dict(plain(card) if card else {})
        self.objective = LossWeights.from_dict(plain(config.loss))
        self.ema = checked_decay(float(config.model.get("ema", 0.0)))  # older run folders lack it
        spec = config.model.generator
        self.start_is_open = spec.get("start") == AUTO
        before = read_raw(Path(config.init), trust=None) if config.init else None
        if self.start_is_open:  # it decides which layers there are
            theirs = before[RECIPE]["generator"] if before is not None else {}
            spec.start = str(theirs.get("start", STARTS[0]))
        self.generator, self.discriminator = make_networks(config, task, self.objective, data)
        self.last_is_new = True
        if before is not None:
            self.last_is_new = _initialise(
                self.generator, self.discriminator, before, task, config.init
            )
        _freeze(self.generator, config)

    def module(self) -> VirtualStain:
        """Return the LightningModule, its new last layer started at what the training data say."""
        config, data = self.config, self.data
        if self.start_is_open and not config.init and _starts_linear(data, self.generator):
            config.model.generator.start = "linear"
            self.generator, self.discriminator = make_networks(
                config, self.task, self.objective, data
            )
        if self.last_is_new:
            _start(self.generator, data)
        return VirtualStain(
            self.generator,
            self.discriminator,
            self.objective,
            AdamSettings(**plain(config.model.adam)),
            _recipe(config, data, self.about),
            bool(config.trainer.channels_last),
            self.ema,
        )

    def parameters(self) -> dict[str, int]:
        """Return the number of weights of each network."""
        networks = {"generator": self.generator, "discriminator": self.discriminator or nn.Module()}
        return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


def make_networks(
    config: DictConfig, task: Task, objective: LossWeights, data: StainData
) -> tuple[nn.Module, nn.Module | None]:
    """Return generator and discriminator; none where the loss has no adversarial term.

    Raises:
        UserError: a patch that the networks cannot take.
    """
    inputs, targets = len(task.inputs), len(task.targets)
    spec = plain(config.model.generator)
    generator = make_generator(spec, inputs, targets)
    patch, stride = data.config.patch_size, stride_of(generator)
    if patch % stride:
        raise UserError(
            f"data.patch_size={patch}: the generator halves the image {stride.bit_length() - 1} "
            f"times, so give a multiple of {stride} or lower model.generator.depth"
        )
    if is_own(spec):
        _check_shape(generator, name_of(spec), (inputs, targets, patch))
    _check_norms(generator, inputs, data.config)
    if not objective.adversarial:
        return generator, None
    spec = plain(config.model.discriminator)
    if is_own(spec) and objective.feature_matching:
        raise UserError(
            f"loss.feature_matching={objective.feature_matching}: needs the features of one of our "
            f"discriminators, not of {name_of(spec)}; set it to 0"
        )
    return generator, make_discriminator(spec, inputs + targets, patch)


def _check_shape(generator: nn.Module, name: str, sizes: tuple[int, int, int]) -> None:
    """Run a network of the user's once: it must map (B, Ci, h, w) to (B, Ct, h, w)."""
    inputs, targets, patch = sizes
    try:
        made = _try_out(generator, inputs, patch)
    except Exception as exc:  # whatever the user's code raises
        reason = " ".join(str(exc).split())
        raise UserError(
            f"model.generator: {name} fails on an input of shape (1, {inputs}, {patch}, {patch}): "
            f"{type(exc).__name__}: {reason}"
        ) from exc
    shape = tuple(getattr(made, "shape", ()))
    if shape != (1, targets, patch, patch):
        raise UserError(
            f"model.generator: {name} maps (1, {inputs}, {patch}, {patch}) to {shape}; it must give "
            f"(1, {targets}, {patch}, {patch})"
        )


def _try_out(generator: nn.Module, inputs: int, patch: int, training: bool = False) -> Any:
    """Return what a copy of the network makes of one patch; weights and random state stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return copy.deepcopy(generator).train(training)(torch.zeros(1, inputs, patch, patch))


def _check_norms(generator: nn.Module, inputs: int, config: DataConfig) -> None:
    """Refuse a batch norm that would see a single value per channel: it has no variance."""
    patch = config.patch_size
    stride = stride_of(generator)
    if config.batch_size * (patch // stride) ** 2 > 1:
        return
    try:
        _try_out(generator, inputs, patch, training=True)
    except ValueError as exc:
        depth = stride.bit_length() - 1
        raise UserError(
            f"data.batch_size=1 with data.patch_size={patch}: at depth {depth} one pixel is left, and a batch norm "
            f"needs more; give data.batch_size=2, data.patch_size={2 * patch} or model.generator.depth={depth - 1}"
        ) from exc


def _starts_linear(data: StainData, generator: nn.Module) -> bool:
    """Decide `model.generator.start=auto`: whether to initialise with the linear baseline.

    It is a head start where it explains most of the variance. Otherwise the network is slow to leave it: on
    the Schwann cells of docs/models.md it never did.
    """
    share = float(np.mean(data.measured.explained))
    linear = (
        share >= MOST
        and linear_start(data) is not None
        and not getattr(generator, "residual", False)
    )
    log.info(
        "the best linear map of the inputs explains %.0f %% of the targets' variance; starting at %s",
        100 * share, "that map" if linear else "the mean of each target",
    )  # fmt: skip
    return linear


def _start(generator: nn.Module, data: StainData) -> None:
    """Let the untrained network predict what costs nothing, if it has `start_at` of our `Generator`."""
    start_at = getattr(generator, "start_at", None)
    if start_at is None:
        return
    linear = linear_start(data)
    if getattr(generator, "start", None) == "linear" and linear is None:
        log.info(
            "model.generator.start=linear: equalised or corrected images have no linear map yet; "
            "starting at the mean of each target"
        )
    start_at(target_level(data), linear)


def _recipe(config: DictConfig, data: StainData, about: About) -> dict[str, Any]:
    recipe = {
        "format": FORMAT,
        "version": __version__,
        "generator": plain(config.model.generator),
        "model": config.model.name,
        "loss": plain(config.loss),
        "adam": plain(config.model.adam),
        "discriminator": plain(config.model.discriminator) if config.loss.adversarial else None,
        "seed": config.seed,
        **describe.recipe(data),
    }
    return {**recipe, "card": make_card(recipe, about, describe.counts(data))}


def _initialise(
    generator: nn.Module,
    discriminator: nn.Module | None,
    raw: dict[str, Any],
    task: Task,
    path: str,
) -> bool:
    """Load the weights of another model (`init=CKPT`); with other targets, all layers but the last.

    Args:
        raw: its checkpoint.
        path: of the checkpoint, for messages.

    Returns:
        Whether the last layer is still as initialised.

    Raises:
        UserError: another network, or another number of inputs.
    """
    theirs = submodule(ema_state_dict(raw["state_dict"]), "generator")
    ours = generator.state_dict()
    there = shapes(theirs)
    other = [name for name, shape in shapes(ours).items() if there.get(name) != shape]
    if theirs.keys() != ours.keys() or not all(n.startswith(("last.", "linear.")) for n in other):
        task_there = raw[RECIPE]["task"]
        raise UserError(
            f"init={path}: its generator ({len(task_there['inputs'])} input(s), "
            f"{len(task_there['targets'])} target(s), {raw[RECIPE]['generator']}) is not the one of this run "
            f"({len(task.inputs)}, {len(task.targets)}); choose the same model (model={raw[RECIPE]['model']}) and number of inputs"
        )
    generator.load_state_dict({**theirs, **{name: ours[name] for name in other}})
    # A discriminator is taken along if it fits; it is no loss if it does not.
    theirs = submodule(raw["state_dict"], "discriminator")
    if discriminator is not None and shapes(discriminator.state_dict()) == shapes(theirs):
        discriminator.load_state_dict(theirs)
    log.info(
        "weights from %s%s", path, "; the last layer starts anew (other targets)" if other else ""
    )
    return bool(other)


def _freeze(generator: nn.Module, config: DictConfig) -> None:
    """Freeze the encoder where `freeze` asks for it.

    Raises:
        UserError: an unknown word, or new weights that nobody would keep.
    """
    freeze = str(config.get("freeze", "none"))  # run folders of earlier versions do not say
    check_choice("freeze", freeze, ("none", "encoder"))
    if freeze == "none":
        return
    if not (config.init or config.resume):
        raise UserError("freeze=encoder: a new network has nothing to keep; give init=CKPT")
    freeze_encoder = getattr(generator, "freeze_encoder", None)
    if freeze_encoder is None:
        raise UserError(
            f"freeze=encoder: {name_of(plain(config.model.generator))} has no method freeze_encoder; add it, as "
            "vfn.models.nets.generator.Generator has it, or give freeze=none"
        )
    freeze_encoder()

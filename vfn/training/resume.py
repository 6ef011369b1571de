"""Checks of a run that resumes: what it may change, and if its checkpoint fits."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vfn.cli.entry import merge_overrides
from vfn.cli.help import names_in
from vfn.cli.settings import is_below, leaves
from vfn.errors import UserError
from vfn.models.checkpoint import shapes, submodule
from vfn.models.checkpoint_io import BEST
from vfn.training.instantiators import leave_out_shipped

# All else is the run's own: its task, its images and their split, its network, its draws.
MAY_CHANGE = (
    "trainer",
    "callbacks",
    "logger",
    "monitor",
    "card",
    "trust",
    "loss",  # its weights; whether there is an adversary is the network's
    "model.adam",
    "model.ema",
    "model.schedule",
    "model.warmup",
    "augment",
    "data.augment",
    "data.input_jitter",
    "data.num_workers",
    "data.cache",
    "data.cache_dir",
    "resume",
    "init",
    "verbose",
)
# A run folder of any version holds these; what came later may lack.
HELD = (
    "seed", "data.name", "task.name", "task.inputs", "task.targets", "task.input_z", "model.name",
    "model.generator", "model.discriminator", "model.adam.lr_generator", "model.adam.lr_discriminator",
    "model.adam.betas", "loss", "logger.name", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.strategy", "trainer.precision", "trainer.channels_last", "trainer.max_epochs",
    "trainer.max_time", "trainer.check_val_every_n_epoch", "trainer.sample_every_n_epochs",
    "trainer.log_every_n_steps",
)  # fmt: skip


def _refusal(folder: Path, message: str) -> UserError:
    return UserError(
        f"{message}, or start another run by run=NAME, from these weights by init={folder / 'checkpoints' / BEST} "
        "where the network is the same"
    )


def merged(before: DictConfig, config: DictConfig, folder: Path) -> DictConfig:
    """The config with which the run in `folder` goes on.

    Args:
        before: of the run.
        config: what Hydra composed of the command line.

    Raises:
        UserError: the command line gives another value to what belongs to the run.
    """
    after = merge_overrides(before, config, skip=("run",))
    leave_out_shipped(after)
    was, now = (dict(leaves(OmegaConf.to_container(c, resolve=True))) for c in (before, after))
    if config.resume == str(folder) and config.get("init") not in (None, was.get("init")):
        raise UserError(
            f"init={config.init}: the run in {folder} goes on from its own weights; leave out init, or resume"
        )
    for key in now.keys() | was.keys():
        if (
            was.get(key) == now.get(key)
            or is_below(key, MAY_CHANGE)
            or _has_moved(key, was.get(key))
        ):
            continue
        raise _refusal(
            folder, f"{key}={now.get(key)}: the run in {folder} has {was.get(key)}; leave it out"
        )
    after.resume, after.init = str(folder), None
    return after


def check_whole(before: DictConfig, where: Path) -> None:
    """Refuse the config of a run folder that lacks what every one has.

    Raises:
        UserError: a setting is missing.
    """
    there = dict.fromkeys(names_in(OmegaConf.to_container(before)))
    if lacking := [key for key in HELD if key not in there]:
        raise UserError(f"{where}: lacks {lacking[0]}; copy it again")


def _has_moved(key: str, path: Any) -> bool:
    """Return whether the images are no longer where they were; `check_fields` looks whether they are the same."""
    return key == "data.root" and path is not None and not Path(str(path)).exists()


def check_networks(
    checkpoint: Mapping[str, Any],
    generator: nn.Module,
    discriminator: nn.Module | None,
    folder: Path,
) -> None:
    """Refuse a checkpoint whose networks are not those of the settings.

    Raises:
        UserError: another network.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        ours = {} if network is None else network.state_dict()
        theirs = submodule(checkpoint["state_dict"], name)
        if shapes(ours) != shapes(theirs):
            raise _refusal(
                folder,
                f"resume={folder}: its checkpoint has another {name} than the settings ask for (model.{name}, "
                "loss.adversarial); leave them as they were",
            )


def check_fields(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse images that are not those of the run: test fields would be trained on.

    Args:
        before, now: recipes.

    Raises:
        UserError: other fields, another part of the split, other grey values.
    """
    was, new = ({p: _names(r["split"][p]) for p in ("train", "val", "test")} for r in (before, now))
    parts = [part for part in was if was[part] != new[part]]
    if parts:
        odd = sorted(was[parts[0]] ^ new[parts[0]])[0]
        raise _refusal(
            folder,
            f"resume={folder}: the {parts[0]} fields are not those of the run (first {odd[0]}): images were added, "
            "removed or renamed; bring them back",
        )
    names = (*before["task"]["inputs"], *before["task"]["targets"])
    ranges = [[*r["inputs"], *r["targets"]] for r in (before, now)]
    for name, one, other in zip(names, *ranges, strict=True):
        if not all(math.isclose(one[k], other[k], rel_tol=1e-6) for k in ("low", "high")):
            raise _refusal(
                folder,
                f"resume={folder}: {name} has grey values {other['low']:g} to {other['high']:g}, the run has "
                f"{one['low']:g} to {one['high']:g}: these are other images; bring the first ones back",
            )


def _names(fields: Any) -> set[tuple[str, str]]:
    """Names and regions of fields; regions are lists or tuples, as they were read or made."""
    return {
        (str(name), str([[int(n) for n in side] for side in region] if region else None))
        for name, region in fields
    }

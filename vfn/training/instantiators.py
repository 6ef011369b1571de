"""Callbacks and loggers from their config groups."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict

from vfn.cli.entry import plain
from vfn.cli.groups import NODES, shipped
from vfn.cli.help import CONF
from vfn.errors import UserError
from vfn.system.dotted import TARGET, build
from vfn.training.callbacks import Checkpoints, EpochTable, ModelCard

PROMISED = {"model_card": ModelCard, "epoch_table": EpochTable, "checkpoints": Checkpoints}
MONITOR = "val/mae"  # of run folders that do not say


def leave_out_shipped(config: DictConfig) -> None:
    """Reduce both groups of `config` to what they add to the shipped entries.

    A run folder keeps that: settings that an entry refers to stay settings, and it names no class of ours,
    which may move.
    """
    for group in NODES:
        if not config.get(group):
            continue
        given, known = OmegaConf.to_container(config[group]), shipped(group)
        assert isinstance(given, dict)
        added = {str(name): _added(entry, known.get(str(name))) for name, entry in given.items()}
        # What is there anyway, or chosen by its name, needs no mention.
        for name in (*_always(group), str(added.get("name"))):
            if added.get(name) == {} and not (group == "logger" and _tables(added) != [name]):
                del added[name]
        with open_dict(config):
            config[group] = added
            if not added:
                del config[group]


def _added(entry: Any, known: dict[str, Any] | None) -> Any:
    if not isinstance(entry, dict) or known is None:
        return entry
    return {k: v for k, v in entry.items() if k not in known or v != known[k]}


def _always(group: str) -> list[str]:
    """Return the entries that are there whatever the group chooses."""
    return list(OmegaConf.load(CONF / group / "default.yaml")) if group == "callbacks" else []


def _tables(group: Mapping[Any, Any]) -> list[str]:
    return [str(name) for name, entry in group.items() if _is_table(entry)]


def _entries(config: DictConfig, group: str) -> dict[str, Any]:
    """Return the entries of a group as plain data, the shipped ones filled in."""
    known, given = shipped(group), config.get(group) or OmegaConf.create()
    names = [*_always(group), *_tables(given)]
    if group == "logger" and not names and given.get("name") in known:
        names = [str(given.name)]  # a run folder of an earlier version
    below = {name: known[name] for name in names if name in known}
    whole = OmegaConf.merge({"monitor": MONITOR, group: below}, config)
    entries = plain(OmegaConf.select(whole, group))
    return {str(k): v for k, v in entries.items() if k in below or _is_table(v)}


def _is_table(entry: Any) -> bool:
    return isinstance(entry, dict | DictConfig)


def _objects(entries: dict[str, Any], key: str, **offered: Any) -> dict[str, Any]:
    """Build every entry; one without `_target_` is a table of further entries."""
    made = {}
    for name, entry in entries.items():
        where = f"{key}.{name}"
        if entry is None:
            continue
        if TARGET in entry:
            made[where] = build(
                entry, where, **{k: v for k, v in offered.items() if k not in entry}
            )
            continue
        inner = {k: v for k, v in entry.items() if _is_table(v)}
        if not inner:
            raise UserError(f"{where}={entry}: has no _target_; give +{where}._target_=DOTTED.PATH")
        made |= _objects(inner, where, **offered)
    return made


def instantiate_callbacks(config: DictConfig, progress_bar: bool) -> list[L.Callback]:
    """Return the callbacks of the group `callbacks`.

    Args:
        progress_bar: whether there may be one.

    Raises:
        UserError: one that cannot be built, is no callback, or leaves out a file of the run folder.
    """
    made = _objects(_entries(config, "callbacks"), "callbacks")
    for where, callback in made.items():
        if not isinstance(callback, L.Callback):
            raise UserError(f"{where}: {type(callback).__name__} is no callback of Lightning")
        if isinstance(callback, WeightAveraging):
            # It swaps the averaged weights out again before best.ckpt is saved, averages the discriminator
            # too, and its decay does not rise from 0: so `model.ema` has an average of its own.
            raise UserError(f"{where}: best.ckpt would not hold the average; give model.ema=0.999")
    for name, kind in PROMISED.items():
        if not isinstance(made.get(f"callbacks.{name}"), kind):
            raise UserError(
                f"callbacks.{name}: writes what a run folder promises; it cannot be left out or replaced"
            )
    return [c for c in made.values() if progress_bar or not isinstance(c, ProgressBar)]


def instantiate_loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """Return the loggers of the group `logger`; those that state no `save_dir` write into `folder`.

    Raises:
        UserError: one that cannot be built, whose package is not installed, or is no logger.
    """
    made = _objects(_entries(config, "logger"), "logger", save_dir=folder)
    for where, logger in made.items():
        if not isinstance(logger, Logger):
            raise UserError(f"{where}: {type(logger).__name__} is no logger of Lightning")
    return list(made.values())

"""Check the settings of a command against its defaults, and list those that were given."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from vfn.cli.groups import NODES
from vfn.cli.help import CONF, choices, groups_of, no_such
from vfn.cli.paths import is_path
from vfn.errors import UserError
from vfn.system.dotted import TARGET

# Tables whose entries are checked by who reads them; so are those that are null by default.
OPEN = ("model.generator", "model.discriminator", "sweep.usual", "data2")
NULLABLE = {"train": ("seed",)}  # where the default is not null
ANY_KIND = ("trainer.devices", "trainer.fast_dev_run")  # a number, or something else


# What begins so has no effect where the setting beside it is 0 or null.
RESTS_ON = {
    "loss.adversarial_kind": "loss.adversarial",
    "loss.discriminator": "loss.adversarial",
    "loss.feature_matching": "loss.adversarial",
    "loss.r1": "loss.adversarial",
    "model.discriminator": "loss.adversarial",
    "model.adam.lr_discriminator": "loss.adversarial",
    "loss.tolerance_": "loss.tolerance",
    "data.refocus_": "data.refocus",
}


def idle(config: DictConfig, typed: Iterable[str]) -> list[str]:
    """Return a line for each setting of `typed` without effect in `config`."""
    off = {start: OmegaConf.select(config, other) for start, other in RESTS_ON.items()}
    return [
        f"{key}: has no effect, since {RESTS_ON[start]} is {'null' if value is None else value}"
        for key in typed
        for start, value in off.items()
        if key.startswith(start) and not value
    ]


def check_settings(config: DictConfig, command: str, where: str | None = None) -> None:
    """Refuse unknown settings, and values of another kind than the defaults.

    Args:
        config: of a job, or of a run folder.
        command: the name of its config; Hydra must have composed one.
        where: the file that it was read from.

    Raises:
        UserError: a setting that the chosen groups do not have, or a word where the default is a
            number or a switch.
    """
    given, known = (OmegaConf.to_container(c) for c in (config, _defaults(config, command)))
    assert isinstance(given, dict)
    assert isinstance(known, dict)
    given = {k: v for k, v in given.items() if v is not None or k not in NULLABLE.get(command, ())}
    try:
        _check_table(given, known, "", command)
    except UserError as exc:
        raise exc if where is None else UserError(f"{where}: {exc}") from exc


def _defaults(config: DictConfig, command: str) -> DictConfig:
    """Return the defaults for the choices of `config`, or the keys of all choices for a custom one."""
    chosen = _chosen(config, command)
    found = compose(command, overrides=[f"{group}={name}" for group, name in chosen.items()])
    OmegaConf.set_struct(found, False)
    for group, node in found.items():
        if group in chosen or not isinstance(node, DictConfig):
            continue
        for name in choices(str(group)):
            for key, value in OmegaConf.load(CONF / str(group) / f"{name}.yaml").items():
                if key != "defaults" and node.get(key) is None:
                    node[key] = value
    for group in NODES:
        if isinstance(config.get(group), DictConfig):
            found[group] = _with_choices(group, config[group], found.get(group) or {})
    return found


def _with_choices(group: str, given: Mapping[Any, Any], known: dict[Any, Any]) -> dict[Any, Any]:
    """Return `known` with the keys of the choices of which `given` has entries, at any depth."""
    for name, value in given.items():
        if isinstance(value, DictConfig) and name in choices(group):
            known = {**OmegaConf.load(CONF / group / f"{name}.yaml"), **known}
        elif isinstance(value, DictConfig) and TARGET not in value:
            known = {name: _with_choices(group, value, {}), **known}
    return known


def _chosen(config: DictConfig, command: str) -> dict[str, str]:
    """Return the shipped choice of each group of `config`."""
    return {
        group: str(name)
        for group in groups_of(command)
        if (name := OmegaConf.select(config, f"{group}.name"))
        and (CONF / group / f"{name}.yaml").is_file()
    }


def _check_table(
    given: Mapping[Any, Any], known: Mapping[Any, Any], prefix: str, command: str
) -> None:
    for key, value in given.items():
        name = f"{prefix}{key}"
        if key in known:
            if isinstance(value, dict) and isinstance(known[key], dict):
                _check_table(value, known[key], f"{name}.", command)
            elif name not in ANY_KIND and not (value is None and TARGET in _table(known[key])):
                _check_kind(name, value, known[key])
        elif (
            prefix.removesuffix(".") not in OPEN
            # A class refuses what it does not take.
            and given.get(TARGET, known.get(TARGET)) is None
            and not (name.partition(".")[0] in NODES and TARGET in _table(value))
        ):
            inner = next(leaves(value, f"{name}."), None) if isinstance(value, dict) else None
            raise UserError(no_such(inner[0] if inner else name, command))


def _table(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _check_kind(key: str, value: Any, default: Any) -> None:
    """Refuse another kind of value than the default's."""
    if isinstance(value, str) and "${" in value:  # a reference: whoever reads it looks
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    free = default is None and not is_path(key)
    kinds = {
        bool: ("true or false", isinstance(value, bool)),
        int: ("a whole number", number and isinstance(value, int)),
        float: ("a finite number", number and math.isfinite(value)),
        dict: ("a table of settings", isinstance(value, dict) or key == "data2"),
    }
    kind, right = kinds.get(type(default), ("one value", free or not isinstance(value, dict)))
    if not right:
        shown = "" if isinstance(default, dict | None) else f", as {default} is"
        raise UserError(f"{key}={value}: give {kind}{shown}")


def settings_lines(config: DictConfig, typed: Iterable[str]) -> list[str]:
    """Return the settings that were typed, one per line; with `verbose=true` all, as YAML."""
    if config.get("verbose"):
        return ["settings:", OmegaConf.to_yaml(config, resolve=True).rstrip()]
    lines = [f"  {word}" for word in typed]
    return ["settings (verbose=true prints all):", *lines] if lines else []


def is_below(key: str, tables: Iterable[str]) -> bool:
    """Return True if the setting `key` is one of `tables`, or lies in one."""
    return any(f"{key}.".startswith(f"{table}.") for table in tables)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of plain data by its dotted name; a list, or an empty table, is one setting."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

"""The settings of a command as they are shown before it runs: all of them, the changed ones first."""

import textwrap
from collections.abc import Iterator
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from vfn.usage import CONF, WIDTH, groups_of


def settings_lines(config: DictConfig, command: str) -> list[str]:
    """Every setting once, as `key=value`: those that are not at their default, then the others.

    A group is changed where its choice is not the default one; its keys are where they differ from
    that choice.

    Args:
        config: what the command works by, which may come from a run folder.
        command: the name of its config; Hydra must have composed one.
    """
    groups = groups_of(command)
    chosen = {
        group: str(name)
        for group in groups
        if (name := OmegaConf.select(config, f"{group}.name"))
        and (CONF / group / f"{name}.yaml").is_file()
    }
    defaults = _leaves(compose(command, overrides=[f"{g}={name}" for g, name in chosen.items()]))
    # As they were written: a name that holds the time is no change.
    written, values = _leaves(config), _leaves(config, resolve=True)
    changed = []
    rows: dict[str, list[str]] = {"": [], **{group: [] for group in groups}}
    for key, value in values.items():
        group, _, rest = key.partition(".")
        if group in chosen and rest == "name":
            if chosen[group] != groups[group]:
                changed.append(f"{group}={value}")
            rows[group].insert(0, f"{group}={value}")
        elif group in groups and rest == "name":  # of a task that is made on the command line
            rows[group].insert(0, f"{key}={value}")
        elif defaults.get(key) != written[key]:
            changed.append(f"{key}={value}")
        elif group in groups:
            rows[group].append(f"{rest if group in chosen else key}={value}")
        else:
            rows[""].append(f"{key}={value}")
    lines = [_wrapped("settings that were changed: ", changed)] if changed else []
    lines.append("other settings:" if changed else "settings, all at their defaults:")
    lines += [_wrapped("  ", row) for row in rows.values() if row]
    return "\n".join(lines).splitlines()


def _wrapped(start: str, words: list[str]) -> str:
    # A value that holds blanks stays in one piece.
    text = " ".join(word.replace(" ", "\0") for word in words)
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent="      ",
        break_long_words=False, break_on_hyphens=False,
    ).replace("\0", " ")  # fmt: skip


def _leaves(config: DictConfig, resolve: bool = False) -> dict[str, str]:
    """Dotted key -> value as the command line takes it."""
    node = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(node, dict)
    return dict(_flat(node, ""))


def _flat(node: dict[Any, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_text(v) for v in value)}]"
    return str(value)

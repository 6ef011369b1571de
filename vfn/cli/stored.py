"""Configs in run folders, read as plain data since anybody may have written them."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from vfn.cli.help import CONF
from vfn.errors import UserError

MOST_BYTES = 2**18  # ours hold 3 kB, and 100 kB with thousands of test fields
MOST_VALUES = 10_000
MOST_DEEP = 12
LONGEST_NUMBER = 32  # digits and signs


def read_stored(path: Path, references: bool = False) -> dict[str, Any]:
    """Read the config at `path` without resolving, repeating or running anything in it.

    Args:
        references: `${...}` are kept as text, as in Hydra's own records; else they are refused.

    Raises:
        UserError: the file is missing or holds more than plain values.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if len(raw) > MOST_BYTES:
        raise UserError(
            f"{path}: has more than {MOST_BYTES // 1024} kB, which no config of vfn has"
        )
    try:
        text = raw.decode("utf-8")
        _check_events(text, path, references)
        node = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except UserError:
        raise
    except Exception as exc:  # the parser raises whatever damaged bytes lead to
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(
            f"{path}: is no config, or a damaged one ({type(exc).__name__}{line}); copy it again"
        ) from exc
    if not isinstance(node, dict):
        raise UserError(f"{path}: is no table of settings; copy it again")
    return {str(key): value for key, value in node.items()}


def _check_events(text: str, path: Path, references: bool) -> None:
    """Refuse YAML that expands, nests deeply or refers to this machine."""
    depth, values = 0, 0
    # The loader in C refuses file names that are not UTF-8, which we write as escapes.
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = f"{path}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UserError(f"{line}: holds an anchor or alias of YAML; write the values out")
        if getattr(event, "tag", None):
            raise UserError(f"{line}: holds a tag of YAML ({event.tag}); write plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_DEEP:
                raise UserError(f"{line}: is nested too deep for a config of vfn")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if values > MOST_VALUES:
                raise UserError(
                    f"{path}: has more than {MOST_VALUES} values, which no config of vfn has"
                )
            if "${" in event.value and not references:
                raise UserError(
                    f"{line}: holds a reference (${{...}}); write its value in its place"
                )
            if event.implicit[0] and len(event.value) > LONGEST_NUMBER and _is_number(event.value):
                raise UserError(f"{line}: holds a number of {len(event.value)} signs")


def _is_number(text: str) -> bool:
    return set(text) <= set("0123456789+-_.:eE")


def shipped_targets() -> frozenset[str]:
    """Return the dotted paths that the choices in `conf/` name, which are safe in anybody's config."""
    found: set[str] = set()
    for path in CONF.glob("*/*.yaml"):
        found |= set(re.findall(r"_target_: ([\w.]+)", path.read_text(encoding="utf-8")))
    return frozenset(found - {"null"})

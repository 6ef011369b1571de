"""The groups whose entries are objects, and groups spelled as users of Hydra spell them."""

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from vfn.cli.help import CONF, choices, groups_of
from vfn.errors import UserError
from vfn.system.dotted import TARGET

NODES = ("callbacks", "logger")  # each entry is a table with `_target_`, built by Hydra
NOTHING = {"callbacks": "none", "logger": "csv"}  # the choice that stands for null
PAPERS = ("mda_mb_231", "u2os_af", "u2os_cps")  # data sets
PAPERS_MODEL = "model=virfluonet"


def shipped(group: str) -> dict[str, dict[str, Any]]:
    """Return the entries of all choices of a group by name, references unresolved."""
    found = {}
    for choice in choices(group):
        file = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
        assert isinstance(file, dict)
        for name, node in file.items():
            if isinstance(node, dict) and TARGET in node:
                found[str(name)] = node
    return found


def spelled(words: Sequence[str], command: str) -> list[str]:
    """Return the command line with what Hydra's grammar lacks: `GROUP=null`, `+GROUP=CHOICE` for a group
    that is in the defaults, `+trainer.KEY=VALUE` for any argument of L.Trainer, and `+callbacks.NAME=CHOICE`,
    which adds a choice under a name.

    Raises:
        UserError: null for a group that must have a choice.
    """
    groups = groups_of(command)
    found = [_spelled(word, groups) for word in words]
    return [word for word in found if word]


def _spelled(word: str, groups: dict[str, str | None]) -> str:
    key, _, value = word.partition("=")
    name = key.removeprefix("+")
    if key.startswith("+trainer."):  # may be there already, as all arguments of L.Trainer are
        return f"+{word}"
    if name in groups and value == "null":
        if name in NOTHING:
            return f"{name}={NOTHING[name]}"
        if groups[name] is not None:
            raise UserError(f"{word}: choose one of {', '.join(choices(name))}")
        return ""
    if name in groups and groups[name] is None:
        return f"{name}={value}"
    group = name.partition(".")[0]
    if group in NODES and key == f"+{name}" and value in choices(group):
        return f"+{group}@{name}={value}"
    return word


def with_default_model(words: Sequence[str]) -> list[str]:
    """Return the command line of `train.py` with the paper's network for the paper's data sets.

    A run that goes on keeps its own, and an experiment chooses one.

    Raises:
        UserError: a sweep over data sets with different defaults.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word)
    resumed = given.get("resume", "null") not in ("null", "auto")
    sets = given.get("data", "").split(",")
    papers = [name for name in sets if name in PAPERS]
    if not papers or resumed or {"model", "experiment"} & given.keys():
        return list(words)
    if len(papers) < len(sets):
        raise UserError(
            f"data={given['data']}: {papers[0]} is trained with {PAPERS_MODEL} by default, the others are "
            "with model=recommended; give one of them to all"
        )
    return [*words, PAPERS_MODEL]

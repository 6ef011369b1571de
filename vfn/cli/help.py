"""`--help`, and checks of the command line before Hydra reads it.

Hydra's own message on a misspelt key is long, and its help lists only the names of groups.
"""

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vfn.cli.paths import is_verbatim
from vfn.errors import UserError, nearest

PACKAGE = Path(__file__).resolve().parents[1]
# In a clone beside the package; pip puts it into it.
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
WIDTH = 100  # columns of a help
HELP = ("--help", "-h")
# What `python train.py` alone trains: a small network, for two minutes.
DEMO = ("logger=csv", "trainer.max_time=2m")
FLAGS = (  # Hydra's
    "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc",
)  # fmt: skip
OPTIONS = (  # Hydra's, which take the next word
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--info", "-i", "--experimental-rerun",
)  # fmt: skip
_COMMAND = re.compile(r"python (?:(train|predict|evaluate)\.py|-m vfn\.([a-z]+)(?![\w.]))")
PRESETS = ("experiment", "debug")  # groups whose files set keys of all others
# Arguments of L.Trainer that a training here has no use for.
ELSEWHERE = {
    "trainer.logger": "is a group of its own; give logger=CHOICE",
    "trainer.callbacks": "is a group of its own; give callbacks=CHOICE",
    "trainer.default_root_dir": "is the run folder; give run=NAME or hydra.run.dir=DIR",
    "trainer.enable_checkpointing": "a run is its checkpoints; trainer.fast_dev_run=true keeps nothing",
    "trainer.barebones": "a run without checkpoints and metrics is none; trainer.fast_dev_run=true keeps nothing",
    "trainer.use_distributed_sampler": "the data loader divides the patches between the processes itself",
    "trainer.reload_dataloaders_every_n_epochs": "the data loader draws new patches in every epoch as it is",
}
BRACKETS = {"[": "]", "{": "}", "(": ")"}


def groups_of(command: str) -> dict[str, str | None]:
    """Return the groups of a command (`conf/COMMAND.yaml`) with their default choices."""
    listed = OmegaConf.to_container(_load(CONF / f"{command}.yaml").get("defaults", []))
    assert isinstance(listed, list)
    found = {}
    for entry in listed:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if not key.startswith("override "):
                found[key.removeprefix("optional ")] = value
    return found


def choices(group: str) -> list[str]:
    """Return the choices of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def settings_of(command: str) -> list[str]:
    """Return every key of a command over all choices of its groups: `data`, `data.root`, ..."""
    found = dict.fromkeys(names_in(_plain(CONF / f"{command}.yaml")))
    for group in groups_of(command):
        found[group] = None
        for choice in choices(group) if group not in PRESETS else ():
            found |= dict.fromkeys(names_in(_plain(CONF / group / f"{choice}.yaml"), f"{group}."))
    return list(found)


def no_such(key: str, command: str) -> str:
    """Return the message about a setting that the chosen groups lack."""
    if key in ELSEWHERE:
        return f"{key}: {ELSEWHERE[key]}"
    group, _, rest = key.partition(".")
    others = [] if group not in groups_of(command) else choices(group)
    have = [c for c in others if rest and rest in names_in(_plain(CONF / group / f"{c}.yaml"))]
    if have:
        return f"{key}: no such setting; it is one of {group}={' | '.join(have)}"
    near = nearest_setting(key, command)
    hint = f"; did you mean {near}?" if near else ""
    return f"{key}: no such setting{hint} (--help lists the groups, --cfg job all settings)"


def help_text(command: str) -> str:
    """Return the text of `--help`: that of `conf/COMMAND.yaml` with the choices of the groups."""
    template = str(OmegaConf.to_container(_load(CONF / f"{command}.yaml").hydra.help)["template"])  # type: ignore[index, call-overload]
    lines = ["Groups, as GROUP=CHOICE (* by default)"]
    for group, default in groups_of(command).items():
        names = sorted(choices(group), key=lambda name: (name != default, name))
        text = ", ".join(f"{name}*" if name == default else name for name in names)
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {group + ' ':<8}", subsequent_indent=" " * 10,
            break_on_hyphens=False,
        )  # fmt: skip
    return as_called(template.replace("$APP_CONFIG_GROUPS", "\n".join(lines)).strip())


def as_called(text: str) -> str:
    """Return `text` with commands named as this one was called: `python train.py` may be `vfn train`.

    >>> sys.argv[0] = "/usr/bin/vfn"
    >>> as_called("python train.py resume=outputs/a, python -m vfn.doctor")
    'vfn train resume=outputs/a, vfn doctor'
    """
    program = Path(sys.argv[0])
    if program.stem == "vfn":
        prefix = "vfn"
    elif program.name == "__main__.py" and program.parent == PACKAGE:
        prefix = "python -m vfn"
    else:
        return text
    return _COMMAND.sub(lambda found: f"{prefix} {found[1] or found[2]}", text)


def nearest_setting(key: str, command: str) -> str | None:
    """Return the setting that `key` probably means; the help's settings take precedence."""
    names, known = settings_of(command), help_text(command)
    same = [name for name in names if name.rpartition(".")[2] == key and f" {name}=" in known]
    return same[0] if same else nearest(key, names)


def check_words(words: Sequence[str], command: str) -> None:
    """Refuse words other than `key=value`: dashes, missing equals signs, lists that the shell split.

    Raises:
        UserError: says how it is written.
    """
    names = settings_of(command)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key = word.partition("=")[0]
        following = rest[0] if rest and "=" not in rest[0] and rest[0][:1] != "-" else None
        if word == "--run" and following is not None:  # Hydra's --run takes no word
            raise UserError(f"--run {following}: settings have no dashes; write run={following}")
        if word in OPTIONS:
            rest[:1] = []
        elif word.startswith("-"):
            if key not in (*FLAGS, *OPTIONS):
                raise UserError(_dashes(word, following, names, command))
        elif not is_verbatim(key) and _open(word):
            raise UserError(_unclosed(word, rest))
        elif word.startswith("~"):
            if not word.startswith("~hydra"):
                name = key[1:]
                raise UserError(
                    f"~{name}: a setting cannot be taken out; give it a value, {name}=VALUE"
                )
        elif "=" not in word:
            raise UserError(_bare(word, following, names))


def _dashes(word: str, following: str | None, names: Sequence[str], command: str) -> str:
    key, _, value = word.lstrip("-").partition("=")
    right = key if key in names else nearest_setting(key, command) or key
    return f"{word}: settings have no dashes; write {right}={value or following or 'VALUE'}"


def _unclosed(word: str, rest: Sequence[str]) -> str:
    whole, more = word, list(rest)
    while _open(whole) and more:
        whole += f" {more.pop(0)}"
    remedy = "a bracket is not closed" if _open(whole) else "the shell took it apart"
    return f"{word}: {remedy}; put it into quotes: '{whole}'"


def _bare(word: str, following: str | None, names: Sequence[str]) -> str:
    """Return the message about a word without `=`."""
    if word in names and following is not None:
        return f"{word} {following}: an equals sign is missing; write {word}={following}"
    if word in names:
        return f"{word}: an equals sign is missing; write {word}=VALUE"
    wanted = "ckpt" if word.endswith(".ckpt") else "data.root" if "data.root" in names else "input"
    near = f"{wanted}={word}" if Path(word).exists() and wanted in names else f"KEY={word}"
    return f"{word}: is no setting; settings are written KEY=VALUE, here {near} (--help lists them)"


def _open(word: str) -> bool:
    """Return True if a bracket outside quotes is not closed."""
    pending: list[str] = []
    quote = ""
    for letter in word.partition("=")[2]:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in BRACKETS:
            pending.append(BRACKETS[letter])
        elif pending and letter == pending[-1]:
            pending.pop()
    return bool(pending)


@cache
def _load(path: Path) -> Any:
    """Return a file of `conf/`; nobody changes it."""
    return OmegaConf.load(path)


def _plain(path: Path) -> dict[str, Any]:
    node = OmegaConf.to_container(_load(path))
    assert isinstance(node, dict)
    return {str(k): v for k, v in node.items() if k not in ("defaults", "hydra")}


def names_in(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings and tables in plain data."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from names_in(value, f"{prefix}{key}.")

"""Settings that hold paths or free text: taken literally, without Hydra's grammar.

The shell has taken its quotes away by now: `data.root="my images (1)"` arrives without them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from vfn.errors import UserError

# By the last part of a setting's name, of any command.
PATHS = frozenset(
    {
        "root", "manifest", "exclude", "refocus", "refocus_fields", "cache_dir", "ckpt", "input",
        "output", "pred", "truth", "compare", "data2", "scale", "runs", "folders", "resume", "init",
        "run", "dir",
    }
)  # fmt: skip
TEXTS = frozenset({"pattern", "wells", "match", "note", "licence", "license", "description"})
SEVERAL = ("compare", "pred", "folders", "data2")  # may also be a list, or a table
SWEEPING = ("-m", "--multirun")
# Commas between values, not those within quotes or brackets.
_VALUE = re.compile(r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\([^()]*\)|\[[^\[\]]*\]|[^,])+""")


def is_path(key: str) -> bool:
    """Return True if the setting `key` (dotted) holds one path or several."""
    return _last(key) in PATHS


def is_verbatim(key: str) -> bool:
    """Return True if brackets, commas and quotes in the value of `key` are literal."""
    return _last(key) in PATHS | TEXTS and _last(key) not in SEVERAL


def readable(words: Sequence[str]) -> list[str]:
    """Return the command line with every setting quoted for Hydra.

    Raises:
        UserError: not a valid value, or several values where one is expected.
    """
    sweeping = any(word in SWEEPING for word in words)
    return [
        _readable(word, sweeping) if "=" in word and not word.startswith("-") else word
        for word in words
    ]


def expand(config: DictConfig) -> None:
    """Expand `~` and `~user` in every path of `config`."""
    for name in config:
        key = str(name)
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig):
            expand(value)
        elif isinstance(value, ListConfig) and is_path(key):
            config[key] = [_home(one) for one in value]
        elif isinstance(value, str) and is_path(key):
            config[key] = _home(value)


def _home(path: Any) -> Any:
    if not isinstance(path, str) or not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # nobody of that name: a folder may be called so
        return path


def _readable(word: str, sweeping: bool) -> str:
    key, _, value = word.partition("=")
    if _last(key) in PATHS | TEXTS:
        return f"{key}={_verbatim(key, value, sweeping)}"
    if "=" in value and not re.search(r"""['"\\{}()\[\],]""", value):
        return f"{key}={_quoted(value)}"
    parsed = _parsed(word)
    if parsed is None:
        raise UserError(
            f'{word}: is no value; quote it twice, for the shell and within: "{key}={_quoted(value)}"'
        )
    if parsed.is_sweep_override() and not sweeping:
        raise UserError(
            f"{word}: is several values; give a list, '{key}=[{value}]', or a sweep over them by -m"
        )
    return word


def _verbatim(key: str, value: str, sweeping: bool) -> str:
    """Return `value` as Hydra's command line takes it."""
    if _exists(_home(value)):
        return _one(key, value)
    if _last(key) in SEVERAL and value[:1] in ("[", "{"):
        if _parsed(f"{key}={value}"):
            return value
        parts = _VALUE.findall(value[1:].removesuffix("]"))
        return f"[{','.join(_one(key, part.strip()) for part in parts)}]"
    if sweeping:
        if _parsed(f"{key}={value}"):
            return value
        return ",".join(_one(key, part) for part in _VALUE.findall(value))
    return _one(key, value)


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # too long for a name
        return False


def _one(key: str, value: str) -> str:
    return value if _means(key, value) else _quoted(value)


def _means(key: str, value: str) -> bool:
    """Return True if Hydra reads `value` as the same text, apart from quotes and escapes."""
    parsed = _parsed(f"{key}={value}")
    if parsed is None or parsed.is_sweep_override():
        return False
    read = parsed.value()
    return read is None or isinstance(read, str) or str(read) == value


def _parsed(word: str) -> Override | None:
    """Return what Hydra's grammar makes of a word; None if it refuses it."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _quoted(value: str) -> str:
    """Quote `value` for Hydra, which halves only backslashes before a quote."""
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", value)
    return "'" + doubled.replace("'", "\\'") + "'"


def _last(key: str) -> str:
    return key.lstrip("+~").rpartition(".")[2]

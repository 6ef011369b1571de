"""Settings as users of earlier versions, or of plain Hydra and Lightning, write them."""

from collections.abc import Sequence
from typing import Any

RENAMED = {"trainer.val_every_n_epochs": "trainer.check_val_every_n_epoch"}


def renamed_words(words: Sequence[str]) -> list[str]:
    """Return a command line with today's names; `+trainer.KEY` may be there already, as all arguments of
    L.Trainer are."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+")
        plus = "++" if key.startswith("+trainer.") else key.removesuffix(name)
        found.append(f"{plus}{RENAMED.get(name, name)}{equals}{value}")
    return found


def renamed_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a run folder with today's names."""
    for old, new in RENAMED.items():
        group, _, key = old.partition(".")
        if isinstance(config.get(group), dict) and key in config[group]:
            config[group][new.partition(".")[2]] = config[group].pop(key)
    return config

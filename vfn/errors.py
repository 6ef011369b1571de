"""The exception that tells users what is wrong with their input, and suggestions for misspelt names."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

SIMILAR = 0.6  # similarity of two words from which one is suggested for the other, 0 to 1


class UserError(Exception):
    """Invalid input from the user.

    The message is one line: the value that was found, the cause, the remedy. The command line
    prints it and exits with code 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # Library messages may bring line breaks; spaces stay, since names of files have them.
        line = " ".join(filter(None, map(str.strip, message.splitlines())))
        # What a stranger's file says may be in it, and terminals obey control characters.
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line))


class DiskFull(UserError):  # noqa: N818
    """The disk has no room for a file; the same command continues once there is room."""


def check_choice(key: str, value: object, known: Sequence[str], remedy: str = "") -> None:
    """Refuse a value of the setting `key` that is not one of `known`.

    Args:
        remedy: more to say behind the choices.

    Raises:
        UserError: it is not.
    """
    if value not in known:
        choices = " or ".join(known) if len(known) == 2 else f"one of {', '.join(known)}"
        raise UserError(f"{key}={value}: unknown; choose {choices}{remedy}")


def nearest(key: str, names: Sequence[str]) -> str | None:
    """Return the name in `names` that `key` most likely stands for; None if none is similar.

    The last part of a name counts most: `max_time` is `trainer.max_time`, and `lr` begins `lr_generator`.
    """
    last = key.rpartition(".")[2]
    best, score, best_similar = None, 0.0, 0.0
    for name in names:
        end = name.rpartition(".")[2]
        similar = max(_similarity(last, end), SIMILAR * end.startswith(f"{last}_"))
        total = similar + 0.5 * _similarity(key, name)
        if total > score:
            best, score, best_similar = name, total, similar
    return best if best is not None and best_similar >= SIMILAR else None


def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()

"""Words of model cards: texts from files made harmless, numbers, times."""

import re

LONGEST = 500  # characters of a sentence from a file


def plain(value: object, most: int = LONGEST) -> str:
    """Return anything as one short line without control characters, which terminals obey."""
    line = "".join(c if c.isprintable() else " " for c in str(value)[: 2 * most]).strip()
    return line if len(line) <= most else line[: most - 1] + "…"


def text(value: object) -> str:
    """Return anything as one line that shows itself and does nothing else: no control characters,
    no markup."""
    line = "".join(c if c.isprintable() else " " for c in str(value))
    # An underscore within a word is one in Markdown, too: golgi_actin stays readable.
    return re.sub(r"([\\`*\[\]<>|]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def counted(number: int, word: str) -> str:
    """Return "1 step", "2 steps", "12,345 steps"."""
    ending = "" if number == 1 else "es" if word.endswith(("s", "ch")) else "s"
    return f"{number:,} {word}{ending}"


def duration(seconds: float) -> str:
    """Return a time in words: "2 h 5 min"."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 2)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])

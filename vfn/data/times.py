"""Time points in the paths of files, as microscopes' programs write them."""

import re
from collections.abc import Callable, Iterable

# MetaXpress, Opera Phenix (between channel and "fk"), Incucyte (elapsed; date and hour).
TIMES = tuple(
    re.compile(text, re.IGNORECASE)
    for text in (
        r"(?:^|(?<=/))TimePoint_(?P<time>\d+)/",
        r"(?:(?<=ch\d)|(?<=ch\d\d))sk(?P<time>\d+)(?=fk)",
        r"[_-]?(?<!\d)(?P<time>\d+d\d\dh\d\dm)(?![a-z0-9])",
        r"[_-]?(?<!\d)(?P<time>\d{4}y\d\dm\d\dd_\d\dh\d\dm)(?![a-z0-9])",
    )
)
WORD = re.compile(r"(?<![^\W_])t\d+(?![^\W_])", re.IGNORECASE)  # t1, T0001
Cut = Callable[[str], tuple[str, str]]


def time_points(relative_paths: Iterable[str]) -> Cut:
    """Find how to part a path (or a word of one) from its time point.

    A part of the paths is one only where it takes several values: a single `TimePoint_1` folder is no
    time lapse.

    Returns:
        A function: text -> (text without, time), which is empty where there is none.
    """
    values: dict[re.Pattern[str], set[str]] = {pattern: set() for pattern in TIMES}
    for path in relative_paths:
        for pattern, there in values.items():
            if len(there) < 2 and (found := pattern.search(path)):
                there.add(found["time"])
    known = [pattern for pattern, there in values.items() if len(there) > 1]

    def cut(text: str) -> tuple[str, str]:
        times = []
        for pattern in known:
            if found := pattern.search(text):
                times.append(found["time"])
                text = text[: found.start()] + text[found.end() :]
        return text, "_".join(times)

    return cut


def alike_but_for_time(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ in a word like t1 and t2 alone; None where there are none."""
    seen: dict[str, str] = {}
    for name in names:
        rest = WORD.sub("t", name)
        if rest != name and seen.setdefault(rest, name) != name:
            return seen[rest], name
    return None

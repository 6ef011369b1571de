"""A `data.pattern` for files whose names pair no fields: the parts that change with the channel are found
by their positions, those that are left name the field.

Positions count the tokens of a path from its front up to the channel's word, and from its end back to it.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfn.data.discovery.fields import Field, FilePlane
from vfn.data.discovery.layout import Layout
from vfn.data.images import strip_suffix
from vfn.data.tiff_stacks import ContainerPlane
from vfn.data.walk import tokenize

_TOKEN = re.compile(r"[^\W_]+")
_WELL = re.compile(r"(?:[A-Pa-p]|A[A-F])\d{1,2}|r\d\dc\d\d")
_NUMBERED = re.compile(r"([A-Za-z]+)(\d+)")
MAX_DROPPED = 2  # positions beside those that follow the channel which may count otherwise
MAX_POSITIONS = 12  # that are tried one by one
ANYTHING = r"(?:.*[\W_])?"  # where some paths have more tokens than others
PAIRED = 0.5  # share of the fields that a proposal must complete
Position = int  # 0, 1, ... in front of the channel's word; -1, -2, ... behind it, from the end


@dataclass(frozen=True)
class Proposal:
    """A pattern that pairs files.

    Attributes:
        pattern: a regular expression for `Layout.pattern`.
        reason: which part of the names changes with the channel, in words.
        complete: how many fields it completes.
    """

    pattern: str
    reason: str
    complete: int

    @property
    def setting(self) -> str:
        """The pattern as it is typed, quoted for Hydra and a shell."""
        return f"'data.pattern=\"{self.pattern}\"'"


@dataclass(frozen=True)
class _Name:
    """A path in tokens, `at` to `stop` of them the channel's word; `text` has no suffix."""

    path: str
    text: str
    channel: str
    spans: tuple[tuple[int, int], ...]
    at: int
    stop: int

    def token(self, position: Position) -> str:
        return self.text[slice(*self.spans[position])]

    def gap(self, position: Position) -> str:
        """Return the text between a token and the next."""
        at = position % len(self.spans)
        return self.text[self.spans[at][1] : self.spans[at + 1][0]]

    @property
    def word(self) -> str:
        return self.text[self.spans[self.at][0] : self.spans[self.stop - 1][1]]

    @property
    def behind(self) -> int:
        """Number of tokens behind the channel's word."""
        return len(self.spans) - self.stop


def propose_pattern(fields: Sequence[Field], root: Path, layout: Layout) -> Proposal | None:
    """Propose a pattern that pairs the files of `fields`.

    Returns:
        None if the layout says how files pair, or nothing pairs them.
    """
    if layout.pattern or layout.manifest:
        return None
    planes = [(c, plane) for entry in fields for (c, _), plane in entry.planes.items()]
    files = {
        plane.path.relative_to(root).as_posix(): channel
        for channel, plane in planes
        if isinstance(plane, FilePlane | ContainerPlane)
    }
    return propose(files, layout.words) if len(files) > 1 else None


def propose(files: Mapping[str, str], words: Callable[[str], Sequence[str]]) -> Proposal | None:
    """Propose a pattern that pairs the files of fields.

    Args:
        files: relative path -> channel.
        words: of a channel, as they stand in paths.

    Returns:
        None where the channels' words are not found or nothing pairs at least half of the fields.
    """
    split = [_split(path, channel, words(channel)) for path, channel in sorted(files.items())]
    names = [name for name in split if name is not None]
    if len(names) < len(split) or len(set(files.values())) < 2:
        return None
    positions = _positions(names)
    varying = [p for p in positions if len(_tokens(names, p)) > 1]
    bound = {p for p in varying if _follows(names, p)}
    free = [p for p in varying if p not in bound]
    for keys in _candidates(free, positions, names):
        pattern = _pattern(names, keys, positions)
        if pattern and (complete := _complete(pattern, names)):
            # `bound` and `keys` share no position.
            dropped = sorted(set(varying) - set(keys), key=varying.index)
            return Proposal(pattern, _reason(names, dropped), complete)
    return None


def _positions(names: Sequence[_Name]) -> list[Position]:
    """Return the positions that all of `names` have."""
    front, back = min(name.at for name in names), min(name.behind for name in names)
    return [*range(front), *range(-back, 0)]


def _split(path: str, channel: str, words: Sequence[str]) -> _Name | None:
    text = str(Path(path).with_name(strip_suffix(path)))
    spans = tuple(match.span() for match in _TOKEN.finditer(text))
    folded = [text[start:stop].casefold() for start, stop in spans]
    for word in sorted((tokenize(word.casefold()) for word in words), key=len, reverse=True):
        places = [i for i in range(len(folded)) if word and folded[i : i + len(word)] == word]
        if places:
            name = _Name(path, text, channel, spans, places[-1], places[-1] + len(word))
            # "far red" may stand as "Far-red" in the paths: a pattern would not find it.
            return name if name.word.casefold() in map(str.casefold, words) else None
    return None


def _tokens(names: Sequence[_Name], position: Position) -> set[str]:
    return {name.token(position) for name in names}


def _follows(names: Sequence[_Name], position: Position) -> bool:
    """Return True if the token at `position` is one for each channel, and not the same for all."""
    seen = defaultdict(set)
    for name in names:
        seen[name.channel].add(name.token(position))
    return all(len(tokens) == 1 for tokens in seen.values())


def _candidates(
    free: Sequence[Position], positions: Sequence[Position], names: Sequence[_Name]
) -> Iterator[Sequence[Position]]:
    """Yield positions that may name the field, the most first; of a single field any that is always the same."""
    if not free:
        yield from ([p] for p in sorted(positions, key=lambda p: not _is_well(names, p)))
        return
    most = min(MAX_DROPPED, len(free) - 1) if len(free) <= MAX_POSITIONS else 0
    for count in range(most + 1):
        for dropped in itertools.combinations(reversed(free), count):
            yield [p for p in free if p not in dropped]


def _is_well(names: Sequence[_Name], position: Position) -> bool:
    return all(map(_WELL.fullmatch, _tokens(names, position)))


def _pattern(
    names: Sequence[_Name], keys: Sequence[Position], positions: Sequence[Position]
) -> str | None:
    """Return the regular expression that takes `keys` for the field; None where groups cannot hold them."""
    groups = _groups(names, keys)
    if groups is None:
        return None
    fronts = [p for p in positions if p >= 0]
    words = sorted({re.escape(name.word) for name in names}, key=lambda word: (-len(word), word))
    text = "^" + "".join(_token(names, p, groups) + _gap(names, p) for p in fronts)
    if {name.at for name in names} != {len(fronts)}:
        text += ANYTHING
    text += f"(?P<channel>{'|'.join(words)})"
    if all(key >= 0 for key in keys):
        return text + r"[\W_]"
    return text + _gap(names, None) + _behind(names, keys, positions, groups)


def _behind(
    names: Sequence[_Name],
    keys: Sequence[Position],
    positions: Sequence[Position],
    groups: Mapping[str, list[Position]],
) -> str:
    """Return what matches the tokens behind the channel's word, up to the last of `keys`."""  # fmt: skip
    backs, text, end = [p for p in positions if p < 0], "", r"[\W_]"
    if {name.behind for name in names} == {len(backs)}:
        backs = [p for p in backs if p <= max(k for k in keys if k < 0)]
    else:
        text, end = ANYTHING, r"\.\w+$"
    parts = [_token(names, p, groups) + _gap(names, p) for p in backs[:-1]]
    return text + "".join(parts) + _token(names, backs[-1], groups) + end


def _groups(names: Sequence[_Name], keys: Sequence[Position]) -> dict[str, list[Position]] | None:
    """Map each group of a pattern to the positions that it spans; None where there are too few groups."""
    # Of P1_B02 the second is the well, though P1 may be one.
    wells = [p for p in keys if _is_well(names, p)]
    well = max(wells, key=lambda p: {t[0] for t in _tokens(names, p)} != {"P"}, default=None)
    runs: list[list[Position]] = []
    for p in keys:
        last = runs[-1][-1] if runs else None
        if last is not None and well not in (p, last) and _joined(names, last, p):
            runs[-1] += range(last + 1, p + 1)
        else:
            runs.append([p])
    if well is None:
        groups = ["field"] if len(runs) == 1 else ["well", "site"]
    else:
        groups = ["plate", "well", "site"][1 - runs.index([well]) :]
    return dict(zip(groups, runs, strict=False)) if len(runs) <= len(groups) else None


def _joined(names: Sequence[_Name], last: Position, position: Position) -> bool:
    """Return True if one group may span both: only tokens that are the same in all paths lie between."""
    if (position >= 0) != (last >= 0):
        return False
    between = range(last + 1, position)
    return all(p >= 0 and len(_tokens(names, p)) == 1 for p in between)


def _prefix(names: Sequence[_Name], run: Sequence[Position]) -> str:
    """Return the letters before the number of a site, as the s of s1; "" where there are none in common."""
    if len(run) > 1:
        return ""
    told = map(_NUMBERED.fullmatch, _tokens(names, run[0]))
    letters = {match[1] if match else "" for match in told}
    return letters.pop() if len(letters) == 1 else ""


def _token(names: Sequence[_Name], position: Position, groups: Mapping[str, list[Position]]) -> str:
    """Return what matches the tokens at `position`, with the groups that begin or end there."""
    tokens = _tokens(names, position)
    starts = next((group for group, run in groups.items() if run[0] == position), None)
    ends = any(run[-1] == position for run in groups.values())
    prefix = _prefix(names, groups["site"]) if starts == "site" else ""
    if prefix or all(token.isdecimal() and token.isascii() for token in tokens):
        inner = r"\d+"
    elif all(re.fullmatch(r"[A-Z]\d+", token) for token in tokens):
        inner = r"[A-Z]\d+"
    else:
        inner = r"[^\W_]+"
    return prefix + (f"(?P<{starts}>" if starts else "") + inner + (")" if ends else "")


def _gap(names: Sequence[_Name], position: Position | None) -> str:
    """Return what matches the text behind the tokens at `position`; None: behind the channel's word."""
    found = {name.gap(name.stop - 1 if position is None else position) for name in names}
    one = found.pop() if len(found) == 1 else ""
    return one if one in ("_", "-", "/") else r"[\W_]+"


def _complete(pattern: str, names: Sequence[_Name]) -> int:
    """Count the fields that have each channel once.

    Returns:
        0 where that is less than `PAIRED` of them, a file is not matched, or two are taken for one.
    """
    compiled = re.compile(pattern)
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in names:
        match = compiled.search(name.path)
        if match is None or match["channel"] != name.word:
            return 0
        groups = match.groupdict()
        key = tuple(v for k, v in sorted(groups.items()) if k != "channel")
        if name.channel in found[key] or any("/" in v for k, v in groups.items() if k != "field"):
            return 0
        found[key].add(name.channel)
    channels = {name.channel for name in names}
    whole = sum(there == channels for there in found.values())
    return whole if whole >= PAIRED * len(found) else 0


def _reason(names: Sequence[_Name], positions: Sequence[Position]) -> str:
    """Describe the parts of the names at `positions`, which are none of the field."""
    if not positions:
        return "the paths differ in more than the channel"
    one = names[0]
    other = next(name for name in names if name.channel != one.channel)
    parts = [
        f"{one.token(p)} with {one.word}, {other.token(p)} with {other.word}" for p in positions
    ]
    return f"part of the name changes with the channel ({'; '.join(parts)})"

"""A `data.pattern` for files whose names pair no fields: the parts that change with the channel are found
by their positions, those that are left name the field.

Positions count the tokens of a path from its front up to the channel's word, and from its end back to it.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfn.data.discovery import Field, FilePlane, Layout
from vfn.data.formats import ContainerPlane
from vfn.data.images import strip_suffix
from vfn.data.walk import tokenize

_TOKEN = re.compile(r"[^\W_]+")
_WELL = re.compile(r"(?:[A-Pa-p]|A[A-F])\d{1,2}|r\d\dc\d\d")
_NUMBERED = re.compile(r"([A-Za-z]+)(\d+)")
MAX_DROPPED = 2  # positions beside those that follow the channel which may count otherwise
MAX_POSITIONS = 12  # that are tried one by one
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
        """As it is typed, quoted for Hydra and a shell."""
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
        """What stands between a token and the next."""
        at = position % len(self.spans)
        return self.text[self.spans[at][1] : self.spans[at + 1][0]]

    @property
    def word(self) -> str:
        return self.text[self.spans[self.at][0] : self.spans[self.stop - 1][1]]


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
    names = [_split(path, channel, words(channel)) for path, channel in sorted(files.items())]
    split = [name for name in names if name is not None]
    if len(split) < len(names) or len(set(files.values())) < 2:
        return None
    if any(n.word.casefold() not in map(str.casefold, words(n.channel)) for n in split):
        return None  # "far red" stands as "Far-red" in the paths: a pattern would not find it
    front = min(name.at for name in split)
    back = min(len(name.spans) - name.stop for name in split)
    positions = [*range(front), *range(-back, 0)]
    varying = [p for p in positions if len({name.token(p) for name in split}) > 1]
    bound = [p for p in varying if _follows(split, p)]
    for keys in _candidates([p for p in varying if p not in bound], positions, split):
        pattern = _pattern(split, keys, positions)
        if pattern is None:
            continue
        complete = _complete(pattern, split)
        if complete:
            return Proposal(pattern, _reason(split, bound, keys, varying), complete)
    return None


def _split(path: str, channel: str, words: Sequence[str]) -> _Name | None:
    text = str(Path(path).with_name(strip_suffix(path)))
    spans = tuple(match.span() for match in _TOKEN.finditer(text))
    folded = [text[start:stop].casefold() for start, stop in spans]
    for word in sorted((tokenize(word.casefold()) for word in words), key=len, reverse=True):
        places = [i for i in range(len(folded)) if word and folded[i : i + len(word)] == word]
        if places:
            return _Name(path, text, channel, spans, places[-1], places[-1] + len(word))
    return None


def _follows(names: Sequence[_Name], position: Position) -> bool:
    """Whether the token at `position` is one for each channel, and not the same for all."""
    seen = defaultdict(set)
    for name in names:
        seen[name.channel].add(name.token(position))
    return all(len(tokens) == 1 for tokens in seen.values())


def _candidates(
    free: Sequence[Position], positions: Sequence[Position], names: Sequence[_Name]
) -> Iterable[tuple[Position, ...]]:
    """Positions that may name the field, the most first; of a single field any that is always the same."""
    if not free:
        yield from ((p,) for p in sorted(positions, key=lambda p: not _is_well(names, p)))
        return
    for count in range(min(MAX_DROPPED, len(free) - 1) + 1 if len(free) <= MAX_POSITIONS else 1):
        for dropped in itertools.combinations(reversed(free), count):
            yield tuple(p for p in free if p not in dropped)


def _is_well(names: Sequence[_Name], position: Position) -> bool:
    return all(_WELL.fullmatch(name.token(position)) for name in names)


def _pattern(
    names: Sequence[_Name], keys: Sequence[Position], positions: Sequence[Position]
) -> str | None:
    """The regular expression that takes `keys` for the field; None where groups cannot hold them."""
    groups = _groups(names, keys)
    if groups is None:
        return None
    fronts, backs = [p for p in positions if p >= 0], [p for p in positions if p < 0]
    words = sorted({re.escape(name.word) for name in names}, key=lambda word: (-len(word), word))
    text = "^"
    for p in fronts:
        text += _token(names, p, groups) + _gap(names, p)
    if {name.at for name in names} != {len(fronts)}:  # more tokens here and there
        text += "(?:.*[\\W_])?"
    text += f"(?P<channel>{'|'.join(words)})"
    behind = [p for p in backs if p <= max((k for k in keys if k < 0), default=-len(names[0].path))]
    if not behind:
        return text + "[\\W_]"
    text += _gap(names, None)
    aligned = {len(name.spans) - name.stop for name in names} == {len(backs)}
    if not aligned:
        text, behind = text + "(?:.*[\\W_])?", backs
    for p in behind:
        text += _token(names, p, groups) + (_gap(names, p) if p < behind[-1] else "")
    return text + ("[\\W_]" if aligned else r"\.\w+$")


def _groups(names: Sequence[_Name], keys: Sequence[Position]) -> dict[str, list[Position]] | None:
    """Group of a pattern -> the positions that it spans."""
    fixed = {p for p in range(min(n.at for n in names)) if len({n.token(p) for n in names}) == 1}
    runs: list[list[Position]] = []
    # Of P1_B02 the second is the well, though P1 may be one.
    wells = [p for p in keys if _is_well(names, p)]
    letters = {p: {name.token(p)[0] for name in names} for p in wells}
    well = max(wells, key=lambda p: letters[p] != {"P"}, default=None)
    for p in keys:
        between = range(runs[-1][-1] + 1, p) if runs else range(0)
        joined = runs and (p >= 0) == (runs[-1][-1] >= 0) and all(q in fixed for q in between)
        if joined and well not in (p, runs[-1][-1]):
            runs[-1] += [*between, p]
        else:
            runs.append([p])
    if well is None:
        if len(runs) > 2:
            return None
        return {"field": runs[0]} if len(runs) == 1 else {"well": runs[0], "site": runs[1]}
    at = runs.index([well])
    before, after = runs[:at], runs[at + 1 :]
    if len(before) > 1 or len(after) > 1:
        return None
    found = {"plate": before, "well": [[well]], "site": after}
    return {group: some[0] for group, some in found.items() if some}


def _prefix(names: Sequence[_Name], run: Sequence[Position]) -> str:
    """Letters before the number of a site, as the s of s1; empty where there are none in common."""
    if len(run) > 1:
        return ""
    told = [_NUMBERED.fullmatch(name.token(run[0])) for name in names]
    letters = {match[1] if match else "" for match in told}
    return letters.pop() if len(letters) == 1 else ""


def _token(names: Sequence[_Name], position: Position, groups: Mapping[str, list[Position]]) -> str:
    """What matches the tokens at `position`, with the groups that begin or end there."""
    tokens = {name.token(position) for name in names}
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
    """What matches what stands behind the tokens at `position`; None: behind the channel's word."""
    found = {name.gap(name.stop - 1 if position is None else position) for name in names}
    one = found.pop() if len(found) == 1 else ""
    return one if one in ("_", "-", "/") else r"[\W_]+"


def _complete(pattern: str, names: Sequence[_Name]) -> int:
    """How many fields have each channel once; 0 where that is less than `PAIRED` of them, where a file is
    not matched, or where two are taken for one."""
    compiled = re.compile(pattern)
    found: Counter[tuple[str, ...]] = Counter()
    seen = set()
    for name in names:
        match = compiled.search(name.path)
        if match is None or match["channel"] != name.word:
            return 0
        groups = match.groupdict()
        key = tuple(v for k, v in sorted(groups.items()) if k != "channel")
        if (key, name.channel) in seen or any("/" in v for k, v in groups.items() if k != "field"):
            return 0
        seen.add((key, name.channel))
        found[key] += 1
    whole = sum(count == len({name.channel for name in names}) for count in found.values())
    return whole if whole >= PAIRED * len(found) else 0


def _reason(
    names: Sequence[_Name],
    bound: Sequence[Position],
    keys: Sequence[Position],
    varying: Sequence[Position],
) -> str:
    """Which parts of the names are none of the field."""
    example: dict[str, _Name] = {}
    for name in names:
        example.setdefault(name.channel, name)
    one, other = list(example.values())[:2]
    parts = [
        f"{one.token(p)} with {one.word}, {other.token(p)} with {other.word}"
        for p in varying
        if p in bound or p not in keys
    ]
    return (
        f"part of the name changes with the channel ({'; '.join(parts)})"
        if parts
        else ("the paths differ in more than the channel")
    )

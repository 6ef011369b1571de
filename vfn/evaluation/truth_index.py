"""Matching of predictions with the images of their ground truth."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfn.data.discovery.tokens import split_token
from vfn.data.formats import read_at
from vfn.data.images import Image, strip_suffix
from vfn.errors import UserError
from vfn.evaluation.pairs import Array

# How programs mark a prediction beside its input.
ENDING = re.compile(r"(?<=[^/])[-_. ]pred(?:iction|icted)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """One prediction file and its truth: one file, or one file for each channel.

    Attributes:
        field: what is scored by this name.
        place: the field without its time point.
        names: of the predicted channels, if known from the file or the user.
        time: in files of several time points, from 0; else None.
    """

    field: str
    place: str
    prediction: Path
    names: tuple[str, ...] | None
    truths: tuple[Path, ...]
    time: int | None = None


class TruthIndex:
    """The truth files, found by path, by bare name, or by channel and field."""

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self.root, self.paths = root, paths
        self.by_stem: dict[str, list[Path]] = {}
        self.by_name: dict[str, list[Path]] = {}
        self.by_channel: dict[str, dict[str, list[Path]]] = {}
        for path in paths:
            stem = relative_stem(path, root)
            self.by_stem.setdefault(stem, []).append(path)
            self.by_name.setdefault(Path(stem).name, []).append(path)

    def known(self, stem: str) -> str:
        """The path of a prediction without suffix; without `_pred` or the like, too, unless the truth
        has it."""
        bare = ENDING.sub("", stem)
        return stem if stem in self.by_stem or Path(stem).name in self.by_name else bare

    def find(
        self, stem: str, rest: str | None, names: tuple[str, ...] | None, *, unique: bool
    ) -> tuple[Path, ...]:
        """Truth of a prediction: one file, one for each name, or none.

        Args:
            stem: the prediction's relative path without suffix.
            rest: its field, where its path also names its channel.
            names: its channels.
            unique: no other prediction has the same bare name.
        """
        if stem in self.by_stem:
            return (_only(self.by_stem[stem], stem),)
        bare = Path(stem).name
        for key in (rest,) if rest else _keys(stem, unique=unique):
            if found := self._by_channel(key, names or ()):
                return found
        namesakes = self.by_name.get(bare, [])
        if not unique or len(namesakes) != 1:
            return ()
        # Where folders or names sort the truth by channel, a namesake outside them is another stain.
        sorted_out = {p for n in names or () for group in self._channel(n).values() for p in group}
        return tuple(namesakes) if not sorted_out or namesakes[0] in sorted_out else ()

    def _by_channel(self, key: str, names: Sequence[str]) -> tuple[Path, ...]:
        """The image of each channel of a field; nothing if no channel has one."""
        groups = {name: self._channel(name).get(key, []) for name in names}
        missing = [name for name, group in groups.items() if not group]
        if 0 < len(missing) < len(groups):
            raise UserError(
                f"{self.root}: field {key} has no truth for channel {missing[0]}; add an image "
                f"whose path holds {missing[0]} and {key}, or leave this prediction out"
            )
        return () if missing else tuple(_only(group, key) for group in groups.values())

    def find_input(self, matches: Sequence[Match], name: str, *, unique: bool) -> Path:
        """The image of a real channel of the field that was matched so.

        Raises:
            UserError: none or several.
        """
        field = matches[0].place
        by_field = self._channel(name)
        for key in _keys(field, unique=unique):
            if key in by_field:
                return _only(by_field[key], key)
        for path in dict.fromkeys(path for match in matches for path in match.truths):
            if name.casefold() in map(str.casefold, read_at(path, 0).channels or ()):
                return path
        raise UserError(
            f"{self.root}: field {field} has no image of input {name}; add one whose path holds "
            f"{name} and {field}, or leave {name} out of inputs"
        )

    def _channel(self, name: str) -> dict[str, list[Path]]:
        if name not in self.by_channel:
            fields: dict[str, list[Path]] = {}
            for path in self.paths:
                rest = split_token(path.relative_to(self.root).as_posix(), name)
                if rest is not None:
                    fields.setdefault(rest, []).append(path)
            self.by_channel[name] = fields
        return self.by_channel[name]


def one_channel(truth: Image, path: Path, name: str, root: Path) -> Array:
    """The plane (H, W) of a truth file below `root` that shows channel `name`."""
    names = [known.casefold() for known in truth.channels or ()]
    if name.casefold() in names:
        return truth.array[names.index(name.casefold())]
    # A file that was found by the channel in its path, or an unnamed file, has nothing to add; but
    # a file found by its field alone that says it shows another stain is the wrong one.
    told = split_token(path.relative_to(root).as_posix(), name) is not None
    if len(truth.array) == 1 and (told or not names):
        return truth.array[0]
    found = listed(truth.channels) if truth.channels else f"{len(truth.array)} unnamed channels"
    raise UserError(
        f"{path}: has {found} but the prediction is of {name}; give the truth of {name}, or make "
        "the channel names of both agree"
    )


def _only(paths: list[Path], key: str) -> Path:
    if len(paths) > 1:
        raise UserError(
            f"{paths[0]} and {paths[1]} are both the truth of {key}; leave one of them out"
        )
    return paths[0]


def relative_stem(path: Path, root: Path) -> str:
    """Return a path below `root` without its suffix."""
    relative = path.relative_to(root)
    return (relative.parent / strip_suffix(relative)).as_posix()


def _joined(stem: str) -> str:
    """A name as `split_token` writes it: its letters and digits, joined by "_"."""
    return "_".join(part for part in re.split(r"[\W_]+", stem) if part)


def _keys(stem: str, *, unique: bool) -> tuple[str, ...]:
    """Names under which `split_token` may find the channels of a prediction's field."""
    return (_joined(stem), _joined(Path(stem).name)) if unique else (_joined(stem),)


def listed(names: Any) -> str:
    """Return names as the command line takes them."""
    return "[" + ",".join(str(name) for name in names) + "]"

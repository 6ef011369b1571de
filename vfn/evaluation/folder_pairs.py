"""Pairs from folders of predictions and of ground truth, whatever program wrote them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from vfn.data.discovery.tokens import split_token
from vfn.data.formats import count_times, read_at
from vfn.data.images import Image
from vfn.data.walk import find_images
from vfn.errors import UserError
from vfn.evaluation.pairs import HALFWIDTH, Array, FieldPair
from vfn.evaluation.truth_index import Match, TruthIndex, listed, one_channel, relative_stem

T = TypeVar("T", str, float)


@dataclass(frozen=True)
class _Scored:
    """The images of one match; planes in the order of `names`."""

    names: tuple[str, ...]
    truth: Array
    prediction: Array
    halfwidths: Mapping[str, Array]
    coverages: frozenset[float]
    pixel_size: float | None


class FolderPairs:
    """Pairs from folders of predictions and a folder of ground truth.

    A prediction (`_pred`, `_prediction` or `_predicted` at the end of its name apart) finds its truth,
    in this order: the file of the same path without suffix; where
    the prediction's channels are named (OME metadata, or `channels`), the files whose path holds a
    channel's name as a token and whose remaining tokens are the prediction's name; the only file of
    the same name in another folder. The channels are named by the prediction, else by the
    truth, else by `channels`, else c0, c1, ...

    Predictions of one field are one pair with the channels of all of them. Channels that predict.py
    named `<channel>_halfwidth<NN>` are the half-widths of intervals with NN % coverage, not stains.

    Args:
        pred: folder of predicted images, searched with its subfolders, or several such folders. A
            field that one of them lacks is scored for the channels that it has.
        truth: folder of real images.
        channels: names of the predictions' channels, used where the files do not tell. Predictions
            of one channel each may tell by a token of their path which of these it is.
        inputs: names of real channels that stay beside the predictions: images of the truth folder
            whose path holds the name as a token, or the channel of that name in a field's truth.
        wells: its group "well" is looked for in the name of a field.

    Raises:
        UserError: a folder missing or empty, both folders the same, predictions without truth or
            with more than one, two predictions for one channel of a field, an input missing.
    """

    def __init__(
        self,
        pred: Path | Sequence[Path],
        truth: Path,
        channels: Sequence[str] | None = None,
        inputs: Sequence[str] = (),
        wells: re.Pattern[str] | None = None,
    ) -> None:
        self.wells, self.inputs, self.truth_root = wells, tuple(inputs), truth
        self.channels = tuple(channels) if channels else None
        folders = [pred] if isinstance(pred, Path) else list(pred)
        if truth.resolve() in {folder.resolve() for folder in folders}:
            raise UserError(f"pred and truth are both {truth}; give two folders")
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise UserError(f"pred={listed(folders)} names a folder twice; name each once")
        files = [scored_images(folder) for folder in folders]
        index = TruthIndex(truth, scored_images(truth))
        by_folder = [self._matched(*given, index) for given in zip(folders, files, strict=True)]
        self._fields: dict[str, list[Match]] = {}
        for match in chain.from_iterable(by_folder):
            self._fields.setdefault(match.field, []).append(match)
        _check_distinct(self._fields)
        self._names = list(self._fields)
        bare = Counter(Path(field).name for field in self._fields)
        self._input_files: dict[str, list[Path]] = {}
        for field, matches in self._fields.items():
            unique = bare[Path(field).name] == 1
            files_of = [index.find_input(matches, name, unique=unique) for name in self.inputs]
            self._input_files[field] = files_of
        self._tell_what_is_not_scored(dict(zip(folders, by_folder, strict=True)), index)

    def _tell_what_is_not_scored(
        self, matched: Mapping[Path, Sequence[Match]], index: TruthIndex
    ) -> None:
        used = set(chain.from_iterable(self._input_files.values()))
        for folder, found in matched.items():
            used.update(path for match in found for path in match.truths)
            if lacking := len(self._fields) - len({match.field for match in found}):
                print(
                    f"{lacking} of {len(self._fields)} fields have no prediction in {folder}: "
                    "scored for the channels that they have"
                )
        total = len(index.paths)
        if spare := total - len(used):
            print(f"{spare} of {total} images in {index.root} have no prediction: not scored")

    def _matched(self, folder: Path, paths: list[Path], index: TruthIndex) -> list[Match]:
        """The predictions of one folder, each with its truth."""
        predictions: dict[str, Path] = {}
        for path in paths:
            other = predictions.setdefault(index.known(relative_stem(path, folder)), path)
            if other != path:
                raise UserError(f"{other} and {path} predict the same field; leave one of them out")
        found: list[Match] = []
        unmatched: list[Path] = []
        bare = Counter(Path(stem).name for stem in predictions)
        for stem, path in predictions.items():
            names, rest = self._told(path, stem)
            truths = index.find(stem, rest, names, unique=bare[Path(stem).name] == 1)
            if truths:
                found += _at_each_time(rest or stem, path, names, truths)
            else:
                unmatched.append(path)
        if unmatched:
            raise UserError(_no_truth(unmatched, bool(found), len(predictions), folder, index))
        return found

    def _told(self, path: Path, stem: str) -> tuple[tuple[str, ...] | None, str | None]:
        """Names of the stains in a prediction, and its field if its path also names its channel."""
        image = read_at(path, 0)
        if image.channels:
            return tuple(n for n in image.channels if not HALFWIDTH.fullmatch(n)), None
        if self.channels is None:
            return None, None
        if len(image.array) == 1:
            told = {name: rest for name in self.channels if (rest := split_token(stem, name))}
            if len(told) == 1:
                ((name, rest),) = told.items()
                return (name,), rest
        if len(image.array) == len(self.channels):
            return self.channels, None
        raise UserError(
            f"{path}: has {len(image.array)} channels, channels={listed(self.channels)} names "
            f"{len(self.channels)}; name every channel of the predictions in their order"
        )

    def __len__(self) -> int:
        return len(self._names)

    def truth(self, index: int) -> tuple[tuple[str, ...], Array]:
        """Channel names and truth (C, H, W); the prediction is read too, so that a field that
        cannot be scored stops the run in this pass, before anything is written."""
        pair = self.pair(index)
        return pair.channels, pair.truth

    def pair(self, index: int) -> FieldPair:
        """Read one field.

        Raises:
            UserError: an unreadable file, different sizes, channels that cannot be told apart.
        """
        field = self._names[index]
        parts = [self._read(match) for match in self._fields[field]]
        names = tuple(name for part in parts for name in part.names)
        twice = [name for name, count in Counter([*names, *self.inputs]).items() if count > 1]
        if twice:
            raise UserError(
                f"field {field}: {twice[0]} is given twice; predict a channel once, and let no "
                "input have its name"
            )
        shape = parts[0].truth.shape[1:]
        sizes = (_times(part.truth.shape[1:]) for part in parts)
        told = f"field {field}: its predictions have sizes"
        _the_one(told, sizes, "predict every channel on the same images")
        told = f"field {field}: its intervals have coverages"
        coverages = chain.from_iterable(part.coverages for part in parts)
        coverage = _the_one(told, coverages, "predict every channel with one coverage")
        return FieldPair(
            field,
            names,
            stacked([plane for part in parts for plane in part.truth], field),
            np.concatenate([part.prediction for part in parts]),
            self._read_inputs(field, shape),
            self.inputs,
            pixel_size=next((p.pixel_size for p in parts if p.pixel_size), None),
            halfwidth=None if coverage is None else _halfwidths(parts, names, shape),
            coverage=coverage,
            well=self._well(field),
        )

    def _well(self, field: str) -> str | None:
        if self.wells is None:
            return None
        if found := self.wells.search(field):
            return found["well"]
        raise UserError(
            f"wells={self.wells.pattern}: is not found in the name of field {field}; give an "
            "expression that fits all"
        )

    def _read(self, match: Match) -> _Scored:
        """One prediction file and its truth."""
        prediction, halfwidths, coverages = parted(match.prediction, match.time)
        truths = [read_at(path, match.time) for path in match.truths]
        for path, image in zip(match.truths, truths, strict=True):
            if image.array.shape[1:] != prediction.array.shape[1:]:
                raise UserError(
                    f"{match.prediction} is {_size(prediction)} but its truth {path} is "
                    f"{_size(image)} (height x width); predict on the same images, uncropped"
                )
        if match.names and len(match.names) == len(truths):
            given = zip(truths, match.truths, match.names, strict=True)
            planes = [one_channel(*one, self.truth_root) for one in given]
            names, truth = match.names, stacked(planes, match.field)
        else:
            names, truth = _by_name_or_position(match, prediction, truths[0], self.truth_root)
        pixel_size = prediction.pixel_size or truths[0].pixel_size
        return _Scored(names, truth, prediction.array, halfwidths, coverages, pixel_size)

    def _read_inputs(self, field: str, shape: tuple[int, ...]) -> Array | None:
        """The inputs (Ci, H, W) of a field, float32; None where none was asked for."""
        planes = []
        for name, path in zip(self.inputs, self._input_files[field], strict=True):
            image = read_at(path, self._fields[field][0].time)
            if image.array.shape[1:] != shape:
                raise UserError(
                    f"{path} is {_size(image)} but field {field} is {_times(shape)} (height x width); "
                    f"give input {name} in the size of the predictions"
                )
            planes.append(one_channel(image, path, name, self.truth_root).astype(np.float32))
        return np.stack(planes) if planes else None


def _halfwidths(parts: Sequence[_Scored], names: tuple[str, ...], shape: tuple[int, ...]) -> Array:
    known = {name: plane for part in parts for name, plane in part.halfwidths.items()}
    unknown = np.full(shape, np.nan, np.float32)
    return np.stack([known.get(name, unknown) for name in names])


def _by_name_or_position(
    match: Match, prediction: Image, truth: Image, root: Path
) -> tuple[tuple[str, ...], Array]:
    """Channels of a truth file in the order of the prediction's, and what they are called."""
    path, count = match.truths[0], len(prediction.array)
    if match.names and truth.channels:
        return match.names, np.stack([one_channel(truth, path, name, root) for name in match.names])
    if len(truth.array) != count:
        raise UserError(
            f"{match.prediction} has {count} channels but its truth {path} has {len(truth.array)}; "
            "name the channels of both in OME metadata, or give both the same channels"
        )
    return match.names or truth.channels or tuple(f"c{i}" for i in range(count)), truth.array


def scored_images(folder: Path) -> list[Path]:
    """Images below a folder, without the figures of an evaluation that was written there."""
    paths = find_images(folder)
    own = [
        p for p in paths if p.parent.name == "figures" and (p.parents[1] / "report.html").exists()
    ]
    kept = [path for path in paths if path not in set(own)]
    if not kept:
        raise UserError(f"{folder}: holds nothing but figures of a report; give the image folder")
    return kept


def _check_distinct(fields: Mapping[str, Sequence[Match]]) -> None:
    for field, matches in fields.items():
        seen: dict[str, Path] = {}
        for match in matches:
            for name in match.names or ("",):
                other = seen.setdefault(name, match.prediction)
                if other != match.prediction:
                    raise UserError(
                        f"{match.prediction} and {other} both predict field {field}"
                        f"{f', channel {name}' if name else ''}; leave one of them out"
                    )


def _at_each_time(
    place: str, path: Path, names: tuple[str, ...] | None, truths: tuple[Path, ...]
) -> list[Match]:
    """A prediction and its truth; of files of several time points one for each.

    Raises:
        UserError: not as many time points in one file as in another.
    """
    count = count_times(path)
    for truth in truths:
        if (found := count_times(truth)) != count:
            raise UserError(
                f"{path} has {count} time point(s) but its truth {truth} has {found}; give both the same"
            )
    if count == 1:
        return [Match(place, place, path, names, truths)]
    numbers = [f"{time + 1:0{len(str(count))}}" for time in range(count)]
    return [Match(f"{place}_t{n}", place, path, names, truths, int(n) - 1) for n in numbers]


def parted(path: Path, time: int | None) -> tuple[Image, dict[str, Array], frozenset[float]]:
    """A prediction without its half-widths, these by channel, and the coverages they state."""
    image = read_at(path, time)
    told = {name: HALFWIDTH.fullmatch(name) for name in image.channels or ()}
    halfwidths: dict[str, Array] = {}
    coverages = set()
    for plane, match in zip(image.array, told.values(), strict=False):
        if match is None:
            continue
        name, percent = match.groups()
        if name not in told or name in halfwidths:
            raise UserError(
                f"{path}: has {match.string} but {'two of them' if name in halfwidths else f'no {name}'}; "
                "give each predicted channel once, and at most one half-width for each"
            )
        halfwidths[name] = plane.astype(np.float32)
        coverages.add(float(percent) / 100)
    if not halfwidths:
        return image, {}, frozenset()
    kept = [i for i, match in enumerate(told.values()) if match is None]
    names = tuple(name for name, match in told.items() if match is None)
    return replace(image, array=image.array[kept], channels=names), halfwidths, frozenset(coverages)


def stacked(planes: Sequence[Array], field: str) -> Array:
    """Planes (H, W) as (C, H, W); stacking different dtypes would change one, and with it the full
    range of a channel."""
    dtypes = (plane.dtype.name for plane in planes)
    remedy = "convert them to one dtype or score the channels apart"
    _the_one(f"{field}: truths have dtypes", dtypes, remedy)
    return np.stack(planes)


def _the_one(told: str, found: Iterable[T], remedy: str) -> T | None:
    """The value that all have; None without any.

    Raises:
        UserError: they differ.
    """
    values = sorted(set(found))
    if len(values) > 1:
        raise UserError(f"{told} {listed(values)}; {remedy}")
    return values[0] if values else None


def _no_truth(
    unmatched: list[Path], any_found: bool, total: int, pred: Path, index: TruthIndex
) -> str:
    first = unmatched[0].relative_to(pred)
    if any_found:
        return (
            f"{len(unmatched)} of {total} predictions in {pred} have no truth in {index.root}, first "
            f"{first}; add their truth or take them out of the folder"
        )
    return (
        f"no prediction in {pred} has a truth in {index.root} (first prediction {first}, "
        f"first truth {next(iter(index.by_stem))}); give both the same names, or name the channels with "
        "channels=[NAME] if each truth file holds one channel and its name"
    )


def _size(image: Image) -> str:
    return _times(image.array.shape[1:])


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

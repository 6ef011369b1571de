"""What is scored: pairs of ground truth and prediction, one field at a time.

`FieldPair` and `PairSource` are all that scoring knows; `FolderPairs` makes them from two folders of
images, whatever program wrote them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vfn.data.discovery import split_token
from vfn.data.formats import count_times, read_at
from vfn.data.images import Image, strip_suffix
from vfn.data.walk import find_images
from vfn.errors import UserError

Array = NDArray[Any]
# Channels that predict.py writes beside a stain: half-widths of its intervals, coverage in percent.
# How programs mark a prediction beside its input.
ENDING = re.compile(r"(?<=[^/])[-_. ]pred(?:iction|icted)?$", re.IGNORECASE)
HALFWIDTH = re.compile(r"(.+)_halfwidth(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class FieldPair:
    """One field of view: ground truth and prediction on the truth's intensity scale.

    Attributes:
        field: name of the field.
        channels: names of the C target channels.
        truth: (C, H, W), one of `vfn.data.images.DTYPES`.
        prediction: (C, H, W), any of these dtypes; compared as it is, never rescaled.
        inputs: (Ci, H, W), what the model saw; only shown.
        input_channels: names of the Ci inputs.
        baselines: simpler predictions of the same field by name ("mean", "linear"), (C, H, W) each.
        pixel_size: micrometres a pixel, if known.
        halfwidth: (C, H, W) float32, half the width of the prediction's interval in its grey levels;
            NaN for a channel without; None if no channel has one.
        coverage: share of the truth that these intervals were made to cover, in (0, 1).
        well: name of the well that the field lies in, if known.
        z: um of the inputs from the focal plane; None where the task has one plane a field.
        unrefocused: (C, H, W), the same model's prediction from the blurred inputs as they are, where they
            were refocused; else None.
        alarms: input -> in words how it lies outside what the model was trained on; empty where none does.
    """

    field: str
    channels: tuple[str, ...]
    truth: Array
    prediction: Array
    inputs: Array | None = None
    input_channels: tuple[str, ...] = ()
    baselines: Mapping[str, Array] = dataclass_field(default_factory=dict)
    pixel_size: float | None = None
    halfwidth: Array | None = None
    coverage: float | None = None
    well: str | None = None
    z: float | None = None
    unrefocused: Array | None = None
    alarms: Mapping[str, Sequence[str]] = dataclass_field(default_factory=dict)


class PairSource(Protocol):
    """Fields by number, read when asked for, so that memory stays flat in their number."""

    def __len__(self) -> int: ...

    def truth(self, index: int) -> tuple[tuple[str, ...], Array]:
        """Channel names and truth (C, H, W) of one field."""
        ...

    def pair(self, index: int) -> FieldPair:
        """Everything about one field."""
        ...


@dataclass(frozen=True)
class _Match:
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


@dataclass(frozen=True)
class _Scored:
    """What one match gives of its field; planes in the order of `names`."""

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
        self.wells = wells
        self.channels = tuple(channels) if channels else None
        self.inputs = tuple(inputs)
        self.truth_root = truth
        folders = [pred] if isinstance(pred, Path) else list(pred)
        if truth.resolve() in {folder.resolve() for folder in folders}:
            raise UserError(f"pred and truth are both {truth}; give two folders")
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise UserError(f"pred={_listed(folders)} names a folder twice; name each once")
        files = [_score_inputs(folder) for folder in folders]
        index = _TruthIndex(truth, _score_inputs(truth))
        by_folder = [self._matched(*given, index) for given in zip(folders, files, strict=True)]
        self._fields: dict[str, list[_Match]] = {}
        for match in chain.from_iterable(by_folder):
            self._fields.setdefault(match.field, []).append(match)
        _check_distinct(self._fields)
        self._names = list(self._fields)
        for folder, found in zip(folders, by_folder, strict=True):
            lacking = len(self._fields) - len({match.field for match in found})
            if lacking:
                print(
                    f"{lacking} of {len(self._fields)} fields have no prediction in {folder}: "
                    "scored for the channels that they have"
                )
        bare = Counter(Path(field).name for field in self._fields)
        self._input_files = {
            field: tuple(
                index.find_input(matches, name, unique=bare[Path(field).name] == 1)
                for name in self.inputs
            )
            for field, matches in self._fields.items()
        }
        used = {path for match in chain.from_iterable(by_folder) for path in match.truths}
        used.update(*self._input_files.values())
        spare = len(index.paths) - len(used)
        if spare:
            print(f"{spare} of {len(index.paths)} images in {truth} have no prediction: not scored")

    def _matched(self, folder: Path, paths: list[Path], index: "_TruthIndex") -> list[_Match]:
        """The predictions of one folder, each with its truth."""
        predictions: dict[str, Path] = {}
        for path in paths:
            other = predictions.setdefault(index.known(_stem(path, folder)), path)
            if other != path:
                raise UserError(f"{other} and {path} predict the same field; leave one of them out")
        found: list[_Match] = []
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
            raise UserError(
                _no_truth(unmatched, len(predictions), folder, index, any_found=bool(found))
            )
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
            f"{path}: has {len(image.array)} channels, channels={_listed(self.channels)} names "
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
        shapes = {part.truth.shape[1:] for part in parts}
        if len(shapes) > 1:
            raise UserError(
                f"field {field}: its predictions have sizes {_listed(map(_times, sorted(shapes)))}; "
                "predict every channel on the same images"
            )
        coverages = frozenset.union(*(part.coverages for part in parts))
        if len(coverages) > 1:
            raise UserError(
                f"field {field}: its intervals have coverages {_listed(sorted(coverages))}; "
                "predict every channel with one coverage"
            )
        halfwidths = {name: plane for part in parts for name, plane in part.halfwidths.items()}
        unknown = np.full(parts[0].truth.shape[1:], np.nan, np.float32)
        return FieldPair(
            field,
            names,
            _stacked([plane for part in parts for plane in part.truth], field),
            np.concatenate([part.prediction for part in parts]),
            self._read_inputs(field, parts[0].truth.shape[1:]),
            self.inputs,
            pixel_size=next((p.pixel_size for p in parts if p.pixel_size), None),
            halfwidth=np.stack([halfwidths.get(n, unknown) for n in names]) if halfwidths else None,
            coverage=next(iter(coverages), None),
            well=self._well(field),
        )

    def _well(self, field: str) -> str | None:
        found = self.wells.search(field) if self.wells else None
        if self.wells and not found:
            raise UserError(
                f"wells={self.wells.pattern}: is not found in the name of field {field}; give an "
                "expression that fits all"
            )
        return found["well"] if found else None

    def _read(self, match: _Match) -> _Scored:
        """One prediction file and its truth."""
        prediction, halfwidths, coverages = _parted(match.prediction, match.time)
        truths = [read_at(path, match.time) for path in match.truths]
        for path, image in zip(match.truths, truths, strict=True):
            if image.array.shape[1:] != prediction.array.shape[1:]:
                raise UserError(
                    f"{match.prediction} is {_size(prediction)} but its truth {path} is "
                    f"{_size(image)} (height x width); predict on the same images, uncropped"
                )
        if len(match.truths) > 1 or (match.names and len(match.names) == 1):
            planes = [
                _one_channel(image, path, name, self.truth_root)
                for image, path, name in zip(
                    truths, match.truths, match.names or ("",), strict=True
                )
            ]
            names, truth = match.names or (), _stacked(planes, match.field)
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
            planes.append(_one_channel(image, path, name, self.truth_root).astype(np.float32))
        return np.stack(planes) if planes else None


class _TruthIndex:
    """The truth files, found by path, by bare name, or by channel and field."""

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self.root, self.paths = root, paths
        self.by_stem: dict[str, list[Path]] = {}
        self.by_name: dict[str, list[Path]] = {}
        self.by_channel: dict[str, dict[str, list[Path]]] = {}
        for path in paths:
            stem = _stem(path, root)
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
            groups = [self._channel(name).get(key, []) for name in names or ()]
            if groups and all(groups):
                return tuple(_only(group, key) for group in groups)
            if any(groups) and names:
                missing = next(n for n, group in zip(names, groups, strict=True) if not group)
                raise UserError(
                    f"{self.root}: field {key} has no truth for channel {missing}; add an image "
                    f"whose path holds {missing} and {key}, or leave this prediction out"
                )
        namesakes = self.by_name.get(bare, [])
        if not unique or len(namesakes) != 1:
            return ()
        # Where folders or names sort the truth by channel, a namesake outside them is another stain.
        sorted_out = {p for n in names or () for group in self._channel(n).values() for p in group}
        return tuple(namesakes) if not sorted_out or namesakes[0] in sorted_out else ()

    def find_input(self, matches: Sequence[_Match], name: str, *, unique: bool) -> Path:
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


def _by_name_or_position(
    match: _Match, prediction: Image, truth: Image, root: Path
) -> tuple[tuple[str, ...], Array]:
    """Channels of a truth file in the order of the prediction's, and what they are called."""
    path, count = match.truths[0], len(prediction.array)
    if match.names and truth.channels:
        return match.names, np.stack(
            [_one_channel(truth, path, name, root) for name in match.names]
        )
    if len(truth.array) != count:
        raise UserError(
            f"{match.prediction} has {count} channels but its truth {path} has {len(truth.array)}; "
            "name the channels of both in OME metadata, or give both the same channels"
        )
    return match.names or truth.channels or tuple(f"c{i}" for i in range(count)), truth.array


def _one_channel(truth: Image, path: Path, name: str, root: Path) -> Array:
    """The plane (H, W) of a truth file below `root` that shows channel `name`."""
    names = [known.casefold() for known in truth.channels or ()]
    if name.casefold() in names:
        return truth.array[names.index(name.casefold())]
    # A file that was found by the channel in its path, or an unnamed file, has nothing to add; but
    # a file found by its field alone that says it shows another stain is the wrong one.
    told = split_token(path.relative_to(root).as_posix(), name) is not None
    if len(truth.array) == 1 and (told or not names):
        return truth.array[0]
    found = _listed(truth.channels) if truth.channels else f"{len(truth.array)} unnamed channels"
    raise UserError(
        f"{path}: has {found} but the prediction is of {name}; give the truth of {name}, or make "
        "the channel names of both agree"
    )


def _score_inputs(folder: Path) -> list[Path]:
    """Images below a folder, without the figures of an evaluation that was written there."""
    paths = find_images(folder)
    own = [
        p for p in paths if p.parent.name == "figures" and (p.parents[1] / "report.html").exists()
    ]
    kept = [path for path in paths if path not in set(own)]
    if not kept:
        raise UserError(f"{folder}: holds nothing but figures of a report; give the image folder")
    return kept


def _check_distinct(fields: Mapping[str, Sequence[_Match]]) -> None:
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
) -> list[_Match]:
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
        return [_Match(place, place, path, names, truths)]
    width = len(str(count))
    return [
        _Match(f"{place}_t{time + 1:0{width}}", place, path, names, truths, time)
        for time in range(count)
    ]


def _parted(path: Path, time: int | None) -> tuple[Image, dict[str, Array], frozenset[float]]:
    """A prediction without its half-widths, these by channel, and the coverages they state."""
    image = read_at(path, time)
    told = {name: HALFWIDTH.fullmatch(name) for name in image.channels or ()}
    halfwidths, coverages = {}, set()
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


def _stacked(planes: Sequence[Array], field: str) -> Array:
    """Planes (H, W) as (C, H, W); stacking different dtypes would change one, and with it the full
    range of a channel."""
    dtypes = list(dict.fromkeys(plane.dtype.name for plane in planes))
    if len(dtypes) > 1:
        raise UserError(
            f"{field}: truths have dtypes {_listed(dtypes)}; "
            "convert them to one dtype or score the channels apart"
        )
    return np.stack(planes)


def _no_truth(
    unmatched: list[Path], total: int, pred: Path, index: _TruthIndex, *, any_found: bool
) -> str:
    first, example = unmatched[0], next(iter(index.by_stem))
    if any_found:
        return (
            f"{len(unmatched)} of {total} predictions in {pred} have no truth in {index.root}, first "
            f"{first.relative_to(pred)}; add their truth or take them out of the folder"
        )
    return (
        f"no prediction in {pred} has a truth in {index.root} (first prediction {first.relative_to(pred)}, "
        f"first truth {example}); give both the same names, or name the channels with "
        "channels=[NAME] if each truth file holds one channel and its name"
    )


def _only(paths: list[Path], key: str) -> Path:
    if len(paths) > 1:
        raise UserError(
            f"{paths[0]} and {paths[1]} are both the truth of {key}; leave one of them out"
        )
    return paths[0]


def _stem(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    return (relative.parent / strip_suffix(relative)).as_posix()


def _joined(stem: str) -> str:
    """A name as `split_token` writes it: its letters and digits, joined by "_"."""
    return "_".join(part for part in re.split(r"[\W_]+", stem) if part)


def _keys(stem: str, *, unique: bool) -> tuple[str, ...]:
    """Under what names the channels of a prediction's field may be found by `split_token`."""
    return (_joined(stem), _joined(Path(stem).name)) if unique else (_joined(stem),)


def _size(image: Image) -> str:
    return _times(image.array.shape[1:])


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _listed(names: Any) -> str:
    return "[" + ",".join(str(name) for name in names) + "]"

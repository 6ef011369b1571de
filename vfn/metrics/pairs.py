"""What is scored: pairs of ground truth and prediction, one field at a time.

`FieldPair` and `PairSource` are all that scoring knows; `FolderPairs` makes them from two folders of
images, whatever program wrote them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vfn.data.discovery import split_token
from vfn.data.images import Image, find_images, read_image, strip_suffix
from vfn.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class FieldPair:
    """One field of view: ground truth and prediction on the truth's intensity scale.

    Attributes:
        field: name of the field.
        channels: names of the C target channels.
        truth: (C, H, W), uint8, uint16 or float32.
        prediction: (C, H, W), any of these dtypes; compared as it is, never rescaled.
        inputs: (Ci, H, W), what the model saw; only shown.
        input_channels: names of the Ci inputs.
        baselines: simpler predictions of the same field by name ("mean", "linear"), (C, H, W) each.
        pixel_size: micrometres a pixel, if known.
    """

    field: str
    channels: tuple[str, ...]
    truth: Array
    prediction: Array
    inputs: Array | None = None
    input_channels: tuple[str, ...] = ()
    baselines: Mapping[str, Array] = dataclass_field(default_factory=dict)
    pixel_size: float | None = None


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
    """One prediction file and its truth: one file, or one file for each channel."""

    field: str
    prediction: Path
    names: tuple[str, ...] | None  # of the prediction's channels, if known from it or the user
    truths: tuple[Path, ...]


class FolderPairs:
    """Pairs from a folder of predictions and a folder of ground truth.

    A prediction finds its truth, in this order: the file of the same path without suffix; where
    the prediction's channels are named (OME metadata, or `channels`), the files whose path holds a
    channel's name as a token and whose remaining tokens are the prediction's name; the only file of
    the same name in another folder. The channels are named by the prediction, else by the
    truth, else by `channels`, else c0, c1, ...

    Args:
        pred: folder of predicted images, searched with its subfolders.
        truth: folder of real images.
        channels: names of the predictions' channels, used where the files do not tell. Predictions
            of one channel each may tell by a token of their path which of these it is.

    Raises:
        UserError: a folder missing or empty, both folders the same, predictions without truth or
            with more than one, two predictions for one field.
    """

    def __init__(self, pred: Path, truth: Path, channels: Sequence[str] | None = None) -> None:
        self.channels = tuple(channels) if channels else None
        self.truth_root = truth
        if pred.resolve() == truth.resolve():
            raise UserError(f"pred and truth are both {pred}; give two folders")
        predictions: dict[str, Path] = {}
        for path in _score_inputs(pred):
            other = predictions.setdefault(_stem(path, pred), path)
            if other != path:
                raise UserError(f"{other} and {path} predict the same field; leave one of them out")
        index = _TruthIndex(truth, _score_inputs(truth))
        found: list[_Match] = []
        unmatched: list[Path] = []
        bare = Counter(Path(stem).name for stem in predictions)
        for stem, path in predictions.items():
            names, rest = self._names(path, stem)
            truths = index.find(stem, rest, names, unique=bare[Path(stem).name] == 1)
            if truths:
                found.append(_Match(rest or stem, path, names, truths))
            else:
                unmatched.append(path)
        if unmatched:
            raise UserError(_no_truth(unmatched, len(predictions), pred, truth, index, found))
        _check_distinct(found)
        self._matches = found
        used = {path for match in found for path in match.truths}
        spare = len(index.paths) - len(used)
        if spare:
            print(f"{spare} of {len(index.paths)} images in {truth} have no prediction: not scored")

    def _names(self, path: Path, stem: str) -> tuple[tuple[str, ...] | None, str | None]:
        """Channel names of a prediction, and its field if the name of the channel is in its path."""
        image = read_image(path)
        if image.channels:
            return image.channels, None
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
        return len(self._matches)

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
        match = self._matches[index]
        prediction = read_image(match.prediction)
        truths = [read_image(path) for path in match.truths]
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
            names = match.names or ()
            if len({plane.dtype for plane in planes}) > 1:
                # Stacking would change a dtype, and with it the full range of a channel.
                raise UserError(
                    f"{match.field}: truths have dtypes {_listed(p.dtype.name for p in planes)}; "
                    "convert them to one dtype or score the channels apart"
                )
            truth = np.stack(planes)
        else:
            names, truth = _by_name_or_position(match, prediction, truths[0], self.truth_root)
        pixel_size = prediction.pixel_size or truths[0].pixel_size
        return FieldPair(match.field, names, truth, prediction.array, pixel_size=pixel_size)


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
        for key in (
            (rest,) if rest else (_joined(stem), _joined(bare)) if unique else (_joined(stem),)
        ):
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


def _check_distinct(matches: list[_Match]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for match in matches:
        for name in match.names or ("",):
            other = seen.setdefault((match.field, name), match.prediction)
            if other != match.prediction:
                raise UserError(
                    f"{match.prediction} and {other} both predict field {match.field}; "
                    "leave one of them out"
                )


def _no_truth(
    unmatched: list[Path],
    total: int,
    pred: Path,
    truth: Path,
    index: _TruthIndex,
    found: list[_Match],
) -> str:
    first, example = unmatched[0], next(iter(index.by_stem))
    if found:
        return (
            f"{len(unmatched)} of {total} predictions in {pred} have no truth in {truth}, first "
            f"{first.relative_to(pred)}; add their truth or take them out of the folder"
        )
    return (
        f"no prediction in {pred} has a truth in {truth} (first prediction {first.relative_to(pred)}, "
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


def _size(image: Image) -> str:
    return "x".join(str(n) for n in image.array.shape[1:])


def _listed(names: Any) -> str:
    return "[" + ",".join(str(name) for name in names) + "]"

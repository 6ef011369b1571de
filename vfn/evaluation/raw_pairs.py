"""Pairs from predictions of vfn and the folder of raw images that they came from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vfn.data.discovery.fields import Field, NothingMatches
from vfn.data.discovery.search import discover
from vfn.data.formats import count_times
from vfn.data.images import read_image, strip_suffix
from vfn.data.wells import with_wells
from vfn.errors import UserError
from vfn.evaluation.folder_pairs import parted, scored_images, stacked
from vfn.evaluation.pairs import HALFWIDTH, Array, FieldPair
from vfn.inference.ome import layout_of

DEPTH = re.compile(r"_z-?[\d.]+$")  # of the inputs; the truth is in focus


@dataclass(frozen=True)
class RawPairs:
    """Predictions, each with the field of raw images that has its name.

    Attributes:
        predictions: OME-TIFFs.
        fields: one for each.
        inputs: real channels that are read beside the predicted ones.
    """

    predictions: tuple[Path, ...]
    fields: tuple[Field, ...]
    inputs: tuple[str, ...] = ()

    @classmethod
    def find(cls, pred: Path, truth: Path, inputs: Sequence[str] = ()) -> "RawPairs | None":
        """Pair the predictions in `pred` with the raw images in `truth`, named as the predictions tell.

        Returns:
            None where they do not tell, or `truth` holds no images that are named so.

        Raises:
            UserError: some of the predictions have no truth.
        """
        paths = scored_images(pred)
        by_name = _raw_fields(paths, truth, inputs)
        stems = [strip_suffix(path) for path in paths]
        found = [by_name.get(stem) or by_name.get(DEPTH.sub("", stem)) for stem in stems]
        kept = tuple(f for f in found if f is not None)
        if not kept:
            return None
        if len(kept) < len(paths):
            first = paths[found.index(None)].name
            raise UserError(
                f"{len(paths) - len(kept)} of {len(paths)} predictions in {pred} have no truth in {truth}, "
                f"first {first}; add their truth or take them out of the folder"
            )
        spare = len(by_name.keys() - {f.name for f in kept})
        if spare:
            print(f"{spare} of {len(by_name)} fields in {truth} have no prediction: not scored")
        return cls(tuple(paths), kept, tuple(inputs))

    def __len__(self) -> int:
        return len(self.predictions)

    def truth(self, index: int) -> tuple[tuple[str, ...], Array]:
        """Channel names and truth (C, H, W)."""
        pair = self.pair(index)
        return pair.channels, pair.truth

    def pair(self, index: int) -> FieldPair:
        """Read one field.

        Raises:
            UserError: an unreadable file, different sizes, an input that is not there.
        """
        path, field = self.predictions[index], self.fields[index]
        prediction, halfwidths, coverages = parted(path, None)
        names = [n for n in prediction.channels or () if (n, 0.0) in field.planes]
        there = [(prediction.channels or ()).index(name) for name in names]
        sources = [field.planes[name, 0.0] for name in names]
        truth = stacked([source.read() for source in sources], field.name)
        if truth.shape[1:] != prediction.array.shape[1:]:
            raise UserError(
                f"{path} is {prediction.array.shape[1:]} but its truth {sources[0]} is {truth.shape[1:]} "
                "(height x width); predict on the same images, uncropped"
            )
        unknown = np.full(truth.shape[1:], np.nan, np.float32)
        return FieldPair(
            strip_suffix(path),
            tuple(names),
            truth,
            prediction.array[there],
            self._read_inputs(field),
            self.inputs,
            pixel_size=prediction.pixel_size or sources[0].pixel_size,
            halfwidth=np.stack([halfwidths.get(n, unknown) for n in names]) if halfwidths else None,
            coverage=next(iter(coverages), None),
            well=f"{field.plate} {field.well}".strip() if field.well else None,
        )

    def _read_inputs(self, field: Field) -> Array | None:
        lacking = [name for name in self.inputs if (name, 0.0) not in field.planes]
        if lacking:
            raise UserError(f"field {field.name}: has no image of input {lacking[0]}; leave it out")
        planes = [field.planes[name, 0.0].read().astype(np.float32) for name in self.inputs]
        return np.stack(planes) if planes else None


def _raw_fields(paths: Sequence[Path], truth: Path, inputs: Sequence[str]) -> dict[str, Field]:
    """Return the fields in `truth` that have a predicted channel; none where the predictions do not tell."""
    layouts = [layout_of(path) for path in paths]
    layout = layouts[0]
    if layout is None or any(each != layout for each in layouts):
        return {}
    if any(count_times(path) > 1 for path in paths):
        return {}
    names = [n for n in read_image(paths[0]).channels or () if not HALFWIDTH.fullmatch(n)]
    try:
        fields = with_wells(discover(truth, layout, [*names, *inputs]))
    except NothingMatches:
        return {}
    return {f.name: f for f in fields if any((name, 0.0) in f.planes for name in names)}

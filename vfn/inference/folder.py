"""Predict the fields of a folder into files, reading, computing and writing side by side."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from vfn.data.cache import ImageCache
from vfn.data.discovery.layout import Layout
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.errors import UserError, check_choice
from vfn.inference.alarms import input_alarms, report_alarms
from vfn.inference.files import (
    TIFF,
    Target,
    identity_of,
    kept_prediction,
    pixel_digest,
    targets_of,
    write_prediction,
)
from vfn.inference.inputs import find_samples, used_layout
from vfn.inference.ome_zarr import field_paths, list_in_plate
from vfn.inference.predictor import FieldPixels, Predictor, named
from vfn.system.files import check_name, clear_leftovers
from vfn.system.locks import claimed
from vfn.system.progress import ahead, progress
from vfn.system.shards import Shard

log = logging.getLogger(__name__)
WHOLE = Shard()
Prepare = Callable[[list[Sample], ImageCache], list[Sample]]


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def run(
    predictor: Predictor,
    source: Path | None,
    output: Path,
    file_format: str = "ome_tiff",
    prepare: Prepare | None = None,
    shard: Shard = WHOLE,
    layout: Layout | None = None,
) -> list[Path]:
    """Predict every field of `source` into `output`; a field that cannot be predicted stops no other.

    Args:
        source, layout: see `find_samples`.
        file_format, prepare, shard: see `predict_samples`.

    Returns:
        The paths, in order.

    Raises:
        UserError: nothing to predict, or no place for it; at the end, fields that were refused.
    """
    check_choice("format", file_format, ("ome_tiff", "ome_zarr"))
    if shard.count > 1 and file_format == "ome_zarr":
        raise UserError(
            f"format=ome_zarr, shard={shard.number}/{shard.count}: jobs would write one plate's list of wells at once; "
            "give format=ome_tiff, or no shard"
        )
    samples = find_samples(predictor.checkpoint, source, layout)
    folder = source.parent if source is not None and source.is_file() else source
    whole = source is not None and source.is_dir()
    if folder is not None and _inside(output, folder) and (whole or _inside(folder, output)):
        raise UserError(
            f"output={output}: lies in the input folder, where predictions would be taken for images; "
            "choose a folder beside it"
        )
    used = used_layout(predictor.checkpoint.layout, layout or Layout(prefix=""))
    return predict_samples(predictor, samples, output, file_format, prepare, shard, layout=used)


def predict_samples(
    predictor: Predictor,
    samples: list[Sample],
    output: Path,
    file_format: str = "ome_tiff",
    prepare: Prepare | None = None,
    shard: Shard = WHOLE,
    watch: Callable[[float], None] | None = None,
    layout: Layout | None = None,
) -> list[Path]:
    """Predict fields into `output`; a field that cannot be predicted stops no other.

    Args:
        samples: of which those of one movie go into one file.
        file_format: "ome_tiff" for `output`/<field>.ome.tif; "ome_zarr", see `ome_zarr.field_paths`.
        prepare: what is done with the fields before the network sees them (refocusing).
        shard: which of the fields, where several jobs share them.
        watch: is told now and then which share of the work is done, in [0, 1]; what it raises ends
            the prediction.
        layout: of the names of the input files; None for that of the training.

    Returns:
        The paths, in order.

    Raises:
        UserError: no place for it; two fields of one name; at the end, fields that were refused.
    """
    targets = targets_of(samples)
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"two fields are named {twice}: rename one, their predictions would collide"
        )
    with claimed(output, shard):
        paths = {name: output / f"{name}{TIFF}" for name in names}
        if file_format == "ome_zarr":
            paths = field_paths(output, [replace(t.samples[0], name=t.name) for t in targets])
        # Checked and named as a whole: every job sees the same.
        targets = [replace(t, path=paths[t.name], layout=layout) for t in shard.of(targets)]
        return _Folder(predictor, output, watch, shard).predict(targets, prepare)


class _Folder:
    """`predict_samples`, once it is known what goes where and nobody else writes there."""

    def __init__(
        self,
        predictor: Predictor,
        output: Path,
        watch: Callable[[float], None] | None,
        shard: Shard,
    ) -> None:
        self.predictor, self.output, self.watch, self.shard = predictor, output, watch, shard
        self.store = ImageCache()  # nothing is kept
        self.alarms: dict[str, dict[str, list[str]]] = {}
        self.refused: list[UserError] = []
        self.order: dict[str, int] = {}  # number of each sample

    def predict(self, targets: list[Target], prepare: Prepare | None) -> list[Path]:
        """Write the files of `targets`.

        Raises:
            UserError: see `predict_samples`.
        """
        for folder in {target.path.parent for target in targets}:
            clear_leftovers(folder, {target.path.name for target in targets})
        if prepare is not None:
            targets = self._prepared(targets, prepare)
        fields = len(targets) + len(self.refused)
        self.order = {v.name: i for i, v in enumerate(v for t in targets for v in t.samples)}
        # One thread reads the next field, one or more (`lanes`) compute, this one compresses and writes.
        jobs = ahead(self._jobs(targets), 1)
        with closing(ahead(self.predictor.bands(jobs), 2)) as predicted:
            for target, bands in groupby(predicted, key=lambda part: part[0].target):
                write_prediction(self.predictor, target, self._told(bands))
                self._list_in_plate(target)
        table = self.shard.own(self.output / "input_shift.csv")
        report_alarms(self.alarms, len(self.order), table)
        self._report_refused(fields)
        return [target.path for target in targets]

    def _prepared(self, targets: list[Target], prepare: Prepare) -> list[Target]:
        """Return the targets with their samples prepared, without those that were left out."""
        samples = {v.name: v for v in prepare([v for t in targets for v in t.samples], self.store)}
        found = []
        for target in targets:
            left = tuple(samples[v.name] for v in target.samples if v.name in samples)
            lacking = len(target.samples) - len(left)
            if not lacking:
                found.append(replace(target, samples=left))
            elif left:
                told = (
                    f"field {target.name}: {lacking} of its {len(target.samples)} time points are left out "
                    "as out of focus, which a movie cannot be; save them as a file each"
                )
                self.refused.append(UserError(told))
        return found

    def _jobs(self, targets: Sequence[Target]) -> Iterator[FieldPixels]:
        """Yield the fields that are still to be predicted; the others leave their alarms and errors."""
        done = progress(range(len(self.order)), len(self.order), "predicting")
        for target in targets:
            kept = None
            try:
                target, inputs = self._looked_at(target)
                kept = kept_prediction(target)
                is_due = kept is None
            except UserError as exc:
                self.refused.append(exc)
                is_due = False
            for sample in target.samples:
                next(done)
                if is_due:
                    if target.times is not None:  # read time point by time point, once more
                        inputs = present(read_sample(sample, self.store))
                    yield FieldPixels(inputs, sample.region, sample.name, target)
            if kept is not None:
                self._list_in_plate(target)

    def _looked_at(self, target: Target) -> tuple[Target, list[np.ndarray]]:
        """Return the target with all that is known before the prediction, and the inputs of its last sample.

        Raises:
            UserError: an image that cannot be read, or that the model does not take; a name that no file
                can have.
        """
        predictor, digests = self.predictor, []
        check_name(target.path)
        alarms: dict[str, list[str]] = {}
        for sample in target.samples:
            inputs = present(read_sample(sample, self.store))
            found = input_alarms(predictor.checkpoint, inputs, sample.inputs[0].pixel_size)
            with named(sample.name):
                predictor.check(inputs, sample.region)
                predictor.settle(inputs)
            if found:
                self.alarms[sample.name] = found
            at = "" if target.times is None else f"{sample.name}, "
            alarms |= {f"{at}{channel}": phrases for channel, phrases in found.items()}
            digests.append(pixel_digest(inputs))
        identity, shape = identity_of(predictor, digests), inputs[0].shape
        return replace(target, identity=identity, shape=shape, alarms=alarms), inputs

    def _told(self, bands: Iterable[tuple[FieldPixels, int, np.ndarray]]) -> Iterator[np.ndarray]:
        """Yield the pixels of `bands`; `watch` hears of each."""
        for field, top, band in bands:
            if self.watch is not None:
                rows = (top + band.shape[1]) / field.inputs[0].shape[0]
                self.watch((self.order[field.name] + rows) / len(self.order))
            yield band

    def _list_in_plate(self, target: Target) -> None:
        if target.path.parent != self.output:
            list_in_plate(target.path, target.samples[0].plate)

    def _report_refused(self, fields: int) -> None:
        """Raise what was refused, if anything was."""
        if self.refused and len(self.refused) == fields:
            raise self.refused[0]
        if self.refused:
            for reason in self.refused:
                log.warning("not predicted: %s", reason)
            raise UserError(
                f"{len(self.refused)} of {fields} fields were not predicted, the others are in {self.output}; "
                f"the first: {self.refused[0]}"
            )

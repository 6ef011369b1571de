"""The data set that a checkpoint was trained on, as it is on this machine now."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from vfn.cli.entry import known_tasks, merge_overrides, plain
from vfn.data.base import StainData
from vfn.data.cache import ImageCache
from vfn.data.config import DataConfig
from vfn.data.intensity import to_dtype
from vfn.data.pixels import target_dtype
from vfn.data.samples import Sample
from vfn.data.sets import make_data
from vfn.data.shifts import Shifts
from vfn.data.splits import overlap
from vfn.errors import UserError
from vfn.models.checkpoint import Checkpoint
from vfn.refocus.step import refocused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutData:
    """A data set, not set up.

    Attributes:
        same_images: it is the one of the training, not another that the user named.
        same_split: it is, and is divided by the same rule.
    """

    data: StainData
    same_images: bool
    same_split: bool


def held_out_data(config: DictConfig, checkpoint: Checkpoint) -> HeldOutData:
    """The data set of the checkpoint with what the user said (`config.data`) on top.

    Raises:
        UserError: see `make_data`.
    """
    stored = OmegaConf.create({"data": dict(checkpoint.recipe["data"])})
    merged = merge_overrides(
        stored, config, skip=tuple(str(key) for key in config if key != "data")
    )
    node = plain(merged.data)
    same = node["name"] == checkpoint.recipe["data"]["name"]
    if not same:  # how another data set names its files is its own affair
        node = plain(config.data)
    data = make_data(checkpoint.task, DataConfig.from_dict(node), known_tasks())
    kept = same and data.config.rule() == DataConfig.from_dict(checkpoint.recipe["data"]).rule()
    if same:  # shifts as they were measured then
        data.registration.shifts = Shifts.from_dict(checkpoint.recipe["shifts"])
        data.registration.binning = checkpoint.binning
    return HeldOutData(data, same, kept)


def recorded(data: StainData, checkpoint: Checkpoint, part: str) -> list[Sample]:
    """The very samples that training took as `part` ("train", "val", "test"), also where fields were
    added or removed since."""
    regions = dict(checkpoint.recipe["split"][part])
    samples = [sample for sample in data.samples() if sample.name in regions]
    if samples and len(samples) < len(regions):
        log.warning(
            "%d of the %d %s fields of the training are here", len(samples), len(regions), part
        )
    cut = [_cut(sample, regions[sample.name]) for sample in data.aligned(samples)]
    return refocused(checkpoint, cut, data.store)


def _cut(sample: Sample, region: Sequence[Sequence[int]] | None) -> Sample:
    if region is None:
        return sample
    rows, columns = (slice(start, stop) for start, stop in region)
    return replace(sample, region=(rows, columns))


def true_targets(
    checkpoint: Checkpoint, sample: Sample, targets: Sequence[np.ndarray | None], store: ImageCache
) -> tuple[tuple[str, ...], np.ndarray]:
    """Channels that the sample has, and their truth (C, H, W) in the dtype on disk.

    Args:
        targets: as `read_sample` gave them.

    Raises:
        UserError: another dtype than that of the training.
    """
    channels, arrays = [], []
    for i, (channel, array, fitted) in enumerate(
        zip(checkpoint.task.targets, targets, checkpoint.targets, strict=True)
    ):
        if array is None:
            continue
        dtype = target_dtype(sample, i, array, store)
        if dtype.name != fitted.dtype:
            raise UserError(
                f"field {sample.name}: {channel} is {dtype}, the model predicts {fitted.dtype}; "
                "evaluate on images of the same kind as in training"
            )
        channels.append(channel)
        arrays.append(to_dtype(array, fitted.dtype) if array.dtype != dtype else array)
    return tuple(channels), np.stack(arrays)


def test_samples(config: DictConfig, checkpoint: Checkpoint) -> tuple[HeldOutData, list[Sample]]:
    """Return the data set of the checkpoint, as the user changed it, and its test samples.

    Raises:
        UserError: test samples that the model was trained on.
    """
    trained = held_out_data(config, checkpoint)
    data, split = trained.data, checkpoint.recipe["split"]
    if config.all:
        return trained, _all_samples(trained, checkpoint)
    samples = (
        recorded(data, checkpoint, "test")
        if trained.same_split and split["by"] != "spatial"
        else []
    )
    samples = samples or refocused(checkpoint, data.divide().test, data.store)
    # Fields of another data set may bear the same names by chance.
    seen = overlap(samples, [*split["train"], *split["val"]]) if trained.same_images else []
    if seen:
        raise UserError(
            f"{len(seen)} of {len(samples)} test fields (first {seen[0]}) were trained on: their scores "
            "would flatter; leave the data.split... keys as they were in training, or, if these are "
            "other images under the same names, score the output of predict.py by pred=DIR truth=DIR"
        )
    return trained, samples


def _all_samples(trained: HeldOutData, checkpoint: Checkpoint) -> list[Sample]:
    """Return the samples of all fields of a data set.

    Raises:
        UserError: some of them were trained on.
    """
    data = trained.data
    samples = refocused(checkpoint, data.aligned(data.samples()), data.store)
    split = checkpoint.recipe["split"]
    seen = overlap(samples, [*split["train"], *split["val"]]) if trained.same_images else []
    if seen and _places(data.config.to_dict()) == _places(checkpoint.recipe["data"]):
        raise UserError(
            f"all=true: {len(seen)} of {len(samples)} fields (first {seen[0]}) were trained on, their scores "
            "would flatter; give data.root=DIR of other images, or leave out all to score the test fields"
        )
    if seen:  # microscopes name the fields of each experiment alike
        log.warning(
            "%d of %d fields bear names of training fields (first %s): if they are copies of those, their "
            "scores flatter",
            len(seen), len(samples), seen[0],
        )  # fmt: skip
    return samples


def _places(data: Mapping[str, Any]) -> list[Path | None]:
    """Return where the images of a data set are."""
    given = (data.get(key) for key in ("root", "manifest"))
    return [None if place is None else Path(place).expanduser().resolve() for place in given]

"""The data set that a checkpoint was trained on, as it is on this machine now."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from omegaconf import DictConfig, OmegaConf

from vfn.checkpoint import Checkpoint
from vfn.cli import explicit, known_tasks, plain
from vfn.data.base import DataConfig, StainData
from vfn.data.intensity import to_dtype
from vfn.data.pixels import target_dtype
from vfn.data.sets import make_data
from vfn.data.shifts import Shifts
from vfn.data.store import PlaneStore
from vfn.data.views import View
from vfn.errors import UserError
from vfn.refocusing import refocused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedData:
    """A data set, not set up.

    Attributes:
        same_images: it is the one of the training, not another that the user named.
        same_split: it is, and is divided by the same rule.
    """

    data: StainData
    same_images: bool
    same_split: bool


def trained_data(config: DictConfig, checkpoint: Checkpoint) -> TrainedData:
    """The data set of the checkpoint with what the user said (`config.data`) on top.

    Raises:
        UserError: see `make_data`.
    """
    stored = OmegaConf.create({"data": dict(checkpoint.recipe["data"])})
    merged = explicit(stored, config, skip=tuple(str(key) for key in config if key != "data"))
    node = plain(merged.data)
    same = node["name"] == checkpoint.recipe["data"]["name"]
    if not same:  # how another data set names its files is its own affair
        node = plain(config.data)
    data = make_data(checkpoint.task, DataConfig.from_dict(node), known_tasks())
    kept = same and data.config.rule() == DataConfig.from_dict(checkpoint.recipe["data"]).rule()
    if same:  # shifts as they were measured then
        data.shifts = Shifts.from_dict(checkpoint.recipe["shifts"])
        data.binning = checkpoint.binning
    return TrainedData(data, same, kept)


def recorded(data: StainData, checkpoint: Checkpoint, part: str) -> list[View]:
    """The very views that training took as `part` ("train", "val", "test"), also where fields were
    added or removed since."""
    regions = dict(checkpoint.recipe["split"][part])
    views = [view for view in data.views() if view.name in regions]
    if views and len(views) < len(regions):
        log.warning(
            "%d of the %d %s fields of the training are here", len(views), len(regions), part
        )
    cut = [_cut(view, regions[view.name]) for view in data.aligned(views)]
    return refocused(checkpoint, cut, data.store)


def _cut(view: View, region: Sequence[Sequence[int]] | None) -> View:
    if region is None:
        return view
    rows, columns = (slice(start, stop) for start, stop in region)
    return replace(view, region=(rows, columns))


def true_targets(
    checkpoint: Checkpoint, view: View, targets: Sequence[np.ndarray | None], store: PlaneStore
) -> tuple[tuple[str, ...], np.ndarray]:
    """Channels that the view has, and their truth (C, H, W) in the dtype on disk.

    Args:
        targets: as `read_view` gave them.

    Raises:
        UserError: another dtype than that of the training.
    """
    channels, arrays = [], []
    for i, (channel, array, fitted) in enumerate(
        zip(checkpoint.task.targets, targets, checkpoint.targets, strict=True)
    ):
        if array is None:
            continue
        dtype = target_dtype(view, i, array, store)
        if dtype.name != fitted.dtype:
            raise UserError(
                f"field {view.name}: {channel} is {dtype}, the model predicts {fitted.dtype}; "
                "evaluate on images of the same kind as in training"
            )
        channels.append(channel)
        arrays.append(to_dtype(array, fitted.dtype) if array.dtype != dtype else array)
    return tuple(channels), np.stack(arrays)

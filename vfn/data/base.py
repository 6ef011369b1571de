"""The one data module that all data sets share; each data set adds its facts (see `sets.py`)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from vfn.data.discovery import Field, Layout, discover
from vfn.data.intensity import Intensity
from vfn.data.patches import Batch, GridPatches, PatchLoader, PatchReader, RandomPatches
from vfn.data.survey import LinearMap, PlaneCache, Survey, survey
from vfn.data.views import Split, SplitRule, Task, View, make_views, split_spatial, split_views
from vfn.errors import UserError

MIN_PATCHES = 400  # an epoch of a small data set is no shorter than this


@dataclass(frozen=True)
class DataConfig:
    """What `conf/data/*.yaml` says; every key is read.

    Attributes:
        name: of the data set, a key of `vfn.data.sets.DATA_SETS`.
        root: folder of the images.
        channels, pattern, manifest: how files are named; see `vfn.data.discovery.Layout`. None or
            empty leaves the data set's own.
        unpaired: "error" or "skip" fields that lack a channel.
        split, test_fraction, val_fraction, test_plates, test_fields, gap, split_seed: see
            `vfn.data.views.SplitRule`.
        range, percentiles, equalise: see `vfn.data.intensity.Intensity`.
        patch_size: pixels; 256 or 128 in the paper.
        batch_size: patches a step and process.
        patches_per_epoch: None takes as many as cover the training area once, 400 at least.
        val_patches: at most this many patches validate, spread over the validation views.
        augment: flips and quarter turns.
        input_jitter: see `vfn.data.patches.jitter_inputs`; 0 is off, as in the paper.
        num_workers: processes that cut patches; 0 cuts them in the training process.
        cache_gb: decoded images kept in memory, in GiB.
        seed: of the patches.
        extra: keys of one data set alone.
    """

    name: str
    root: str | None = None
    channels: Mapping[str, str | int] | None = None
    pattern: str | None = None
    manifest: str | None = None
    unpaired: str = "error"
    split: str = "auto"
    test_fraction: float = 0.2
    val_fraction: float = 0.2
    test_plates: Sequence[str] = ()
    test_fields: Sequence[str] = ()
    gap: int = 32
    split_seed: int = 0
    range: str = "percentile"
    percentiles: Sequence[float] = (0.1, 99.99)
    equalise: bool = False
    patch_size: int = 256
    batch_size: int = 4
    patches_per_epoch: int | None = None
    val_patches: int = 64
    augment: bool = True
    input_jitter: float = 0.0
    num_workers: int = 0
    cache_gb: float = 4.0
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DataConfig":
        """From plain data; keys that are not common to all data sets go to `extra`."""
        known = {f.name for f in fields(cls)} - {"extra"}
        extra = {key: value for key, value in data.items() if key not in known | {"extra"}}
        common = {key: value for key, value in data.items() if key in known}
        return cls(**common, extra={**data.get("extra", {}), **extra})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return asdict(self)

    def rule(self) -> SplitRule:
        """How views are divided."""
        return SplitRule(
            self.split, self.test_fraction, self.val_fraction,
            tuple(str(p) for p in self.test_plates), tuple(str(f) for f in self.test_fields),
            self.gap, self.split_seed,
        )  # fmt: skip


class StainData(L.LightningDataModule):
    """Fields on disk -> paired patches.

    Subclasses state the facts of their data set as class constants, or override `find`.

    Attributes:
        CHANNELS: channel -> token in the file name; None takes whatever the task names.
        PATTERN: see `Layout`; None splits paths into tokens.
        HAS_Z: the data set has planes out of focus.
    """

    CHANNELS: ClassVar[Mapping[str, str] | None] = None
    PATTERN: ClassVar[str | None] = None
    HAS_Z: ClassVar[bool] = False
    Z_ZERO: ClassVar[float] = 0.0
    Z_STEP: ClassVar[float] = 1.0

    def __init__(self, task: Task, config: DataConfig) -> None:
        super().__init__()
        if config.patch_size < 16 or config.batch_size < 1 or config.val_patches < 1:
            raise UserError(
                f"data.patch_size={config.patch_size}, data.batch_size={config.batch_size}, "
                f"data.val_patches={config.val_patches}: a patch needs 16 pixels, the others 1"
            )
        if not 0 <= config.input_jitter <= 1:
            raise UserError(f"data.input_jitter={config.input_jitter}: give a share, 0 (off) to 1")
        self.task, self.config = task, config
        self.split: Split | None = None
        self.cache = PlaneCache(config.cache_gb)
        self.rank, self.world = 0, 1
        self._drawn = 0  # training batches before this call

    @classmethod
    def fits(cls, task: Task) -> bool:
        """Whether the data set has the channels and planes that `task` names."""
        channels = cls.CHANNELS is None or set(task.channels) <= set(cls.CHANNELS)
        return channels and (cls.HAS_Z or not task.input_z)

    @property
    def layout(self) -> Layout:
        """How the files are named: the data set's own way, unless the user says otherwise."""
        own = self.CHANNELS if not self.config.manifest else None
        return Layout(
            {**(own or {}), **(self.config.channels or {})},
            self.config.pattern or self.PATTERN,
            self.config.manifest,
            self.Z_ZERO,
            self.Z_STEP,
        )

    def find(self) -> list[Field]:
        """All fields of the data set.

        Raises:
            UserError: no root given, or see `discover`.
        """
        if not self.config.root and not self.config.manifest:
            raise UserError(f"data={self.config.name}: where are the images? give data.root=DIR")
        root = Path(self.config.root or Path(str(self.config.manifest)).parent)
        return discover(root, self.layout, self.task.channels)

    def views(self) -> list[View]:
        """Every field as the task sees it."""
        return make_views(self.find(), self.task, unpaired=self.config.unpaired)

    def divide(self) -> Split:
        """Find and split; nothing but (for a spatial split) sizes is read."""
        views, rule = self.views(), self.config.rule()
        if rule.by == "spatial":
            shapes = [self.cache.read(view.inputs[0]).shape for view in views]
            return split_spatial(views, [(s[0], s[1]) for s in shapes], rule)
        return split_views(views, rule)

    def setup(self, stage: str | None = None) -> None:
        """Find, split, read and check everything, fit intensities and baselines. Runs once.

        Raises:
            UserError: anything in the data that training would stumble over.
        """
        if self.split is not None:
            return
        split = self.divide()
        measured = survey(split.train, [*split.val, *split.test], self.cache)
        self.measured, self.split = measured, split
        self.inputs, self.targets = self._fit(measured)

    def summary(self) -> str:
        """One line: how many views each part has, and which grey values become -1 and 1."""
        assert self.split is not None
        counts = ", ".join(f"{len(getattr(self.split, p))} {p}" for p in ("train", "val", "test"))
        ranges = [
            f"{channel} {fitted.low:g} to {fitted.high:g}"
            for channel, fitted in zip(
                self.task.inputs + self.task.targets, [*self.inputs, *self.targets], strict=True
            )
        ]
        return (
            f"data: {self.config.name}, {counts} views, split by {self.split.by}; "
            f"grey values: {', '.join(ranges)}"
        )

    def _fit(self, measured: Survey) -> tuple[list[Intensity], list[Intensity]]:
        low, high = self.config.percentiles
        count = len(self.task.inputs)
        maps = []
        for channel, histogram in zip(
            self.task.inputs + self.task.targets, measured.histograms, strict=True
        ):
            try:
                maps.append(
                    Intensity.fit(histogram, self.config.range, (low, high), self.config.equalise)
                )
            except UserError as exc:
                raise UserError(f"channel {channel}: {exc}") from exc
        kinds = {m.dtype for m in maps[count:]}
        if len(kinds) > 1:  # one predicted image has one dtype
            raise UserError(
                f"targets {', '.join(self.task.targets)} are {' and '.join(sorted(kinds))}; "
                "save them in one dtype, or train a model for each"
            )
        return maps[:count], maps[count:]

    @property
    def baselines(self) -> LinearMap:
        """The mean and the linear map, fitted by `setup`."""
        return self.measured.baselines

    def target_level(self) -> torch.Tensor:
        """Mean of each target over the training pixels, (Ct,) in (-1, 1)."""
        pairs = zip(self.targets, self.baselines.mean, strict=True)
        levels = [float(fitted.normalise(np.array([mean]))[0]) for fitted, mean in pairs]
        return torch.tensor(levels).clamp(-0.99, 0.99)

    def _reader(self) -> PatchReader:
        return PatchReader(self.cache, self.inputs, self.targets, self.config.patch_size)

    def _shapes(self, views: Sequence[View]) -> list[tuple[int, int]]:
        """Sizes of the views; fields of one data set nearly always have one size, so the planes
        that are still in memory answer."""
        shapes = [view.crop(self.cache.read(view.inputs[0])).shape for view in views]
        return [(s[0], s[1]) for s in shapes]

    def train_dataloader(self) -> PatchLoader:
        """Random patches of the training views."""
        assert self.split is not None
        config = self.config
        shapes = self._shapes(self.split.train)
        area = sum(h * w for h, w in shapes)
        wanted = config.patches_per_epoch or max(MIN_PATCHES, area // config.patch_size**2)
        data = RandomPatches(
            self.split.train,
            shapes,
            self._reader(),
            config.augment,
            config.seed,
            config.input_jitter,
        )
        batches = max(1, round(wanted / (config.batch_size * self.world)))
        loading = self._loading(config.batch_size)
        self._loader = PatchLoader(data, batches, self.rank, self.world, **loading)
        self._loader.drawn = self._drawn
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """How many training batches were drawn. Lightning keeps loaders' states, but takes them up
        only within an epoch, not between two.
        """
        return {"drawn": self._loader.drawn}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind the batches that were drawn."""
        self._drawn = int(state_dict["drawn"])

    def val_dataloader(self) -> DataLoader[Batch]:
        """Patches on a grid over the validation views, always the same."""
        assert self.split is not None
        views = self.split.val
        data = GridPatches(views, self._shapes(views), self._reader(), self.config.val_patches)
        return DataLoader(data, **self._loading(self.config.batch_size))

    def _loading(self, batch_size: int) -> dict[str, Any]:
        workers = self.config.num_workers
        return {
            "batch_size": batch_size,
            "num_workers": workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
            # Its own: a loader draws a seed each time it starts, also where a run is resumed.
            "generator": torch.Generator(),
        }

    def recipe(self) -> dict[str, Any]:
        """What prediction and evaluation must know of the data, as plain data."""
        assert self.split is not None
        return {
            "task": self.task.to_dict(),
            "data": self.config.to_dict(),
            "layout": self.layout.to_dict(),
            "inputs": [m.to_dict() for m in self.inputs],
            "targets": [m.to_dict() for m in self.targets],
            "baselines": self.baselines.to_dict(),
            "pixel_size": self.measured.pixel_size,
            "split": {
                "by": self.split.by,
                **{
                    part: [_where(view) for view in getattr(self.split, part)]
                    for part in ("train", "val", "test")
                },
            },
        }


def _where(view: View) -> list[Any]:
    """Plain data that says which pixels a view holds: name and, if cut, its rows and columns."""
    if view.region is None:
        return [view.name, None]
    return [view.name, [[int(s.start), int(s.stop)] for s in view.region]]


def overlap(views: Sequence[View], used: Sequence[Sequence[Any]]) -> list[str]:
    """Names of `views` that share pixels with `used`, a part of a recipe's split."""
    by_name: dict[str, list[Any]] = {}
    for name, region in used:
        by_name.setdefault(name, []).append(region)

    def touches(view: View) -> bool:
        for region in by_name.get(view.name, ()):
            if region is None or view.region is None:
                return True
            cuts = zip(view.region, region, strict=True)
            if all(max(c.start, start) < min(c.stop, stop) for c, (start, stop) in cuts):
                return True
        return False

    return [view.name for view in views if touches(view)]


__all__ = ["DataConfig", "StainData", "overlap"]

"""The one data module that all data sets share; each data set adds its facts (see `sets.py`)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from vfn.data.cache import ImageCache, cache_folder, store_name
from vfn.data.discovery import (
    Field,
    FilePlane,
    Layout,
    Words,
    check_channels,
    check_root,
    check_z,
    discover,
    is_number,
    left_out,
)
from vfn.data.formats import ContainerPlane
from vfn.data.grid import Binning
from vfn.data.illumination import FlatField
from vfn.data.images import EXACT
from vfn.data.intensity import IntensityNormaliser
from vfn.data.patches import (
    BATCHED,
    Batch,
    GridPatches,
    Normaliser,
    PatchLoader,
    PatchReader,
    RandomPatches,
    RawBatch,
    as_it_is,
    leave_signals,
    share_by_name,
)  # fmt: skip
from vfn.data.pixels import sample_shape
from vfn.data.proposal import Proposal, propose
from vfn.data.samples import NothingPairs, Sample, Task, make_samples
from vfn.data.shifts import Shifts
from vfn.data.splits import Split, SplitRule, overlap, split_samples, split_spatial, stored_region
from vfn.data.statistics import DatasetStatistics, LinearMap, mean_images, survey
from vfn.data.wells import with_wells
from vfn.errors import UserError
from vfn.refocus.deconvolution import Deconvolution
from vfn.refocus.scale import FocusScale
from vfn.refocus.series import calibrate_on_samples
from vfn.refocus.step import Refocusing, RefocusSettings, read_fields

SHOWN_WELLS = 4  # in the line on the data
MIN_PATCHES = 400  # an epoch of a small data set is no shorter than this


@dataclass(frozen=True)
class DataConfig:
    """What `conf/data/*.yaml` says; every key is read.

    Attributes:
        name: of the data set, a key of `vfn.data.sets.DATA_SETS`.
        root: folder of the images.
        channels, pattern, manifest, z_zero, z_step: how files are named, and their planes numbered; see
            `vfn.data.discovery.Layout`. None or empty leaves the data set's own.
        unpaired: "error" or "skip" fields that lack an input, or all targets.
        exclude: CSV of fields (and channels) to leave out, as the doctor writes it.
        register: correct the shift between the first input and each target.
        illumination: divide by a flat field that is estimated over the training fields.
        refocus, refocus_beyond, refocus_channels, refocus_action, refocus_fields: see
            `vfn.refocus.step.RefocusSettings`.
        split, test_fraction, val_fraction, test_plates, test_wells, test_fields, gap, split_seed:
            see `vfn.data.samples.SplitRule`.
        range, percentiles, fixed, equalise: see `vfn.data.intensity.Intensity`; `fixed` maps channels
            to (low, high).
        patch_size: pixels; 256 or 128 in the paper.
        batch_size: patches a step and process.
        patches_per_epoch: None takes as many as cover the training area once, 400 at least.
        val_patches: at most this many patches validate, spread over the validation samples.
        augment: flips and quarter turns.
        input_jitter: see `vfn.data.patches.jitter_inputs`; 0 is off, as in the paper.
        num_workers: processes that cut patches; 0 cuts them in the training process.
        cache: "disk" decodes every image once into a memory-mapped store, "off" at every reading.
        cache_dir: of the stores; see `vfn.data.cache.cache_folder`.
        seed: of the patches.
        extra: keys of one data set alone, its `StainData.OWN`.
    """

    name: str
    root: str | None = None
    channels: Mapping[str, Words] | None = None
    pattern: str | None = None
    manifest: str | None = None
    z_zero: float | None = None
    z_step: float | None = None
    unpaired: str = "error"
    exclude: str | None = None
    register: bool = False
    illumination: bool = False
    refocus: str | None = None
    refocus_beyond: float = 3.0
    refocus_channels: Sequence[str] | None = ()
    refocus_action: str = "refocus"
    refocus_fields: str | None = None
    split: str = "auto"
    test_fraction: float = 0.2
    val_fraction: float = 0.2
    test_plates: Sequence[str] | None = ()
    test_wells: Sequence[str] | None = ()
    test_fields: Sequence[str] | None = ()
    gap: int = 32
    split_seed: int = 0
    range: str = "percentile"
    percentiles: Sequence[float] = (0.1, 99.99)
    fixed: Mapping[str, Sequence[float]] | None = None
    equalise: bool = False
    patch_size: int = 256
    batch_size: int = 4
    patches_per_epoch: int | None = None
    val_patches: int = 64
    augment: bool = True
    input_jitter: float = 0.0
    num_workers: int = 0
    cache: str = "disk"
    cache_dir: str | None = None
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
        """How samples are divided."""
        return SplitRule(
            self.split, self.test_fraction, self.val_fraction,
            listed(self.test_plates), listed(self.test_wells), listed(self.test_fields),
            self.gap, self.split_seed,
        )  # fmt: skip


def listed(given: Any) -> tuple[str, ...]:
    """Names that a setting lists: null means none, and one needs no brackets."""
    if given is None:
        return ()
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return tuple(map(str, given)) if several else (str(given),)


def _check_ranges(config: DataConfig) -> None:
    """Refuse ranges that are not two numbers.

    Raises:
        UserError: says which.
    """
    if not _are_two_numbers(config.percentiles):
        raise UserError(
            f"data.percentiles={config.percentiles}: give two numbers in [0, 100], low first"
        )
    if config.fixed is not None and not isinstance(config.fixed, Mapping):
        raise UserError(
            f"data.fixed={config.fixed}: give a mapping, in quotes as the shell takes braces apart: "
            "'data.fixed={CHANNEL: [LOW, HIGH]}'"
        )
    for channel, given in (config.fixed or {}).items():
        if not _are_two_numbers(given):
            raise UserError(f"data.fixed: {channel} is {given}; give two grey values, low first")


def _are_two_numbers(given: Any) -> bool:
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return several and len(given) == 2 and all(map(is_number, given))


class StainData(L.LightningDataModule):
    """Fields on disk -> paired patches.

    Subclasses state the facts of their data set as class constants, or override `find`.

    Attributes:
        CHANNELS: channel -> token in the file name; None takes whatever the task names.
        PATTERN: see `Layout`; None splits paths into tokens.
        HAS_Z: the data set has planes out of focus.
        OWN: keys of `DataConfig.extra` that it reads.
    """

    CHANNELS: ClassVar[Mapping[str, str] | None] = None
    PATTERN: ClassVar[str | None] = None
    HAS_Z: ClassVar[bool] = False
    OWN: ClassVar[tuple[str, ...]] = ()
    Z_ZERO: ClassVar[float | None] = None
    Z_STEP: ClassVar[float | None] = None

    def __init__(self, task: Task, config: DataConfig) -> None:
        super().__init__()
        if config.patch_size < 16 or config.batch_size < 1 or config.val_patches < 1:
            raise UserError(
                f"data.patch_size={config.patch_size}, data.batch_size={config.batch_size}, "
                f"data.val_patches={config.val_patches}: a patch needs 16 pixels, the others 1"
            )
        if config.channels is not None:
            check_channels(config.channels, "data.channels")
        _check_ranges(config)
        check_z(config.z_zero, config.z_step, "data.")
        if not 0 <= config.input_jitter <= 1:
            raise UserError(f"data.input_jitter={config.input_jitter}: give a share, 0 (off) to 1")
        self.task, self.config = task, config
        self.split: Split | None = None
        if config.cache not in ("disk", "off"):
            raise UserError(f"data.cache={config.cache}: unknown; choose disk or off")
        unknown = set(config.fixed or ()) - set(task.inputs + task.targets)
        if unknown:
            raise UserError(
                f"data.fixed: {', '.join(sorted(unknown))} is no channel of the task; it has "
                f"{', '.join(task.inputs + task.targets)}"
            )
        self.store = ImageCache()
        self.shifts = Shifts()
        self.binning: Binning | None = None  # not known yet
        self.focus: FocusScale | None = None
        self.refocusing: Refocusing | None = None
        self.deconvolution: Deconvolution | None = None
        self.rank, self.world = 0, 1
        self._drawn = 0  # training batches before this call

    @classmethod
    def fits(cls, task: Task) -> bool:
        """Whether the data set has the channels and planes that `task` names."""
        channels = cls.CHANNELS is None or set(task.channels) <= set(cls.CHANNELS)
        return channels and (cls.HAS_Z or task.depths == (0.0,))

    @property
    def layout(self) -> Layout:
        """How the files are named: the data set's own way, unless the user says otherwise."""
        own = self.CHANNELS if not self.config.manifest else None
        return Layout(
            {**(own or {}), **(self.config.channels or {})},
            self.config.pattern or self.PATTERN,
            self.config.manifest,
            self.Z_ZERO if self.config.z_zero is None else self.config.z_zero,
            self.Z_STEP if self.config.z_step is None else self.config.z_step,
        )

    @property
    def root(self) -> Path | None:
        """Folder of the images."""
        manifest = self.config.manifest
        root = self.config.root or (Path(str(manifest)).parent if manifest else None)
        return None if root is None else Path(root)

    def find(self, damaged: list[UserError] | None = None) -> list[Field]:
        """All fields of the data set that are not excluded.

        Args:
            damaged: see `discover`.

        Raises:
            UserError: no root given, or see `discover`, `left_out`.
        """
        if self.root is None:
            raise UserError(f"data={self.config.name}: where are the images? give data.root=DIR")
        fields = discover(self.root, self.layout, self.task.channels, damaged)
        if self.config.manifest and self.config.root:
            check_root(fields, self.root, self.config.manifest, "data.root")
        return self._kept(with_wells(fields))

    def _kept(self, fields: list[Field]) -> list[Field]:
        if self.config.exclude is None:
            return fields
        return left_out(fields, Path(self.config.exclude))

    def samples(self) -> list[Sample]:
        """Every field as the task sees it.

        Raises:
            UserError: see `make_samples`; where names pair nothing, with a pattern that does, if there is one.
        """
        fields = self.find()
        try:
            return make_samples(fields, self.task, unpaired=self.config.unpaired)
        except NothingPairs as exc:
            proposal = self.proposal(fields)
            if proposal is None:
                raise
            found = str(exc).partition("; ")[0]
            raise UserError(
                f"{found}; {proposal.reason}: {proposal.setting} pairs {proposal.complete} fields"
            ) from exc

    def proposal(self, fields: Sequence[Field]) -> Proposal | None:
        """A `data.pattern` that pairs the files of `fields`; None where the user says how they pair, or
        nothing does."""
        root = self.root
        if root is None or self.layout.pattern or self.layout.manifest:
            return None
        planes = [(c, plane) for entry in fields for (c, _), plane in entry.planes.items()]
        files = {
            plane.path.relative_to(root).as_posix(): channel
            for channel, plane in planes
            if isinstance(plane, FilePlane | ContainerPlane)
        }
        return propose(files, self.layout.words) if len(files) > 1 else None

    def divide(self) -> Split:
        """Find and split; with `data.register` or a spatial split images are read, too."""
        samples, rule = self.samples(), self.config.rule()
        self.store.prepare(plane for sample in samples for plane in sample.planes)
        samples = self.aligned(samples)
        self.store.prepare(plane for sample in samples for plane in sample.planes)
        if rule.by == "spatial":
            return split_spatial(
                samples, [sample_shape(sample, self.store) for sample in samples], rule
            )
        return split_samples(samples, rule)

    def aligned(self, samples: list[Sample]) -> list[Sample]:
        """The samples with all channels on the grid of the first input, their targets moved onto it if
        `data.register` says so."""
        if not samples:
            return samples
        if self.binning is None:
            self.binning = Binning.measure(samples, self.store)
        samples = [self.binning.apply(sample) for sample in samples]
        if not self.config.register:
            return samples
        self.shifts = self.shifts.measured(samples, self.store)
        return [self.shifts.apply(sample, self.store) for sample in samples]

    def setup(self, stage: str | None = None) -> None:
        """Find, decode, split, check everything, fit intensities and baselines. Runs once.

        Raises:
            UserError: anything in the data that training would stumble over.
        """
        if self.split is not None:
            return
        if self.config.cache == "disk":
            name = store_name(self.root) if self.root else self.config.name
            self.store = ImageCache(cache_folder(self.config.cache_dir) / name)
        split = self.divide()
        if self.config.refocus:
            split = self._refocused(split)
        channels = self.task.inputs + self.task.targets
        for target, name in enumerate(self.task.targets):
            if not any(sample.targets[target] is not None for sample in split.train):
                raise UserError(
                    f"target {name}: no training field has it; leave it out of task.targets, or "
                    "choose another split"
                )
        self.flats: list[FlatField | None] = [None] * len(channels)
        if self.config.illumination:
            means = mean_images(split.train, self.store, len(channels))
            self.flats = [FlatField.fit(mean) for mean in means]
        if self.task.input_z:
            self.focus = calibrate_on_samples(split.train, self.task, self.store)
            self.deconvolution = Deconvolution.fit_views(split.train, self.task, self.store)
        measured = survey(split.train, [*split.val, *split.test], self.store, self.flats)
        self.measured, self.split = measured, split
        self.inputs, self.targets = self._fit(measured)
        self.normaliser = Normaliser(self.inputs, self.targets)

    def _refocused(self, split: Split) -> Split:
        """The split with its blurred fields refocused, or whatever `data.refocus_action` says."""
        config = self.config
        if config.cache == "off":
            raise UserError(
                "data.refocus: with data.cache=off every patch would be refocused anew; "
                "leave data.cache=disk"
            )
        fields: frozenset[str] | None = None
        if config.refocus_fields is not None:
            known = {sample.field for sample in [*split.train, *split.val, *split.test]}
            fields = read_fields(Path(config.refocus_fields), known)
        settings = RefocusSettings(
            config.refocus_beyond, listed(config.refocus_channels), config.refocus_action, fields
        )
        step = Refocusing.fit(
            Path(str(config.refocus)), settings, self.task, split.train, self.store
        )
        self.refocusing, self.undivided = step, split
        split = step.divided(split, self.store)
        parts = [*split.train, *split.val, *split.test]
        self.store.prepare(plane for sample in parts for plane in sample.planes)
        return split

    def record_refocusing(self, path: Path) -> None:
        """Write which fields were blurred, and what was done, if anything was looked for."""
        if self.refocusing is not None:
            whole = {part: getattr(self.undivided, part) for part in ("train", "val", "test")}
            self.refocusing.record(path, whole, self.store)

    def summary(self) -> str:
        """One line: how many samples each part has, and which grey values become -1 and 1."""
        assert self.split is not None
        counts = ", ".join(f"{len(getattr(self.split, p))} {p}" for p in ("train", "val", "test"))
        ranges = [
            f"{channel} {fitted.low:g} to {fitted.high:g}"
            for channel, fitted in zip(
                self.task.inputs + self.task.targets, [*self.inputs, *self.targets], strict=True
            )
        ]
        text = (
            f"data: {self.config.name}, {counts} samples, split by {self._split_by()}; "
            f"grey values: {', '.join(ranges)}"
        )
        if min(self.measured.fields) < len(self.split.train):
            have = zip(self.task.targets, self.measured.fields, strict=True)
            text += "; training samples with " + ", ".join(f"{c}: {n}" for c, n in have)
        assert self.binning is not None
        if binned := self.binning.summary(self.task.inputs + self.task.targets):
            text += f"; {binned}"
        if self.config.register:
            text += f"; {self.shifts.summary(self.task.targets)}"
        losses = [
            f"{channel} {flat.falloff:.0%}"
            for channel, flat in zip(self.task.inputs + self.task.targets, self.flats, strict=True)
            if flat is not None
        ]
        if losses:
            text += f"; falloff of light corrected: {', '.join(losses)}"
        if self.focus is not None:
            text += f"; focus scale: {self.focus}"
        if self.refocusing is not None:
            whole = [*self.undivided.train, *self.undivided.val, *self.undivided.test]
            text += f"; {self.refocusing.summary(whole, self.store)}"
        return text

    def _split_by(self) -> str:
        """What the split keeps together; wells by name where nothing but the names tells them."""
        assert self.split is not None
        samples = [*self.split.train, *self.split.val, *self.split.test]
        wells = sorted({sample.well for sample in samples if sample.well_from_name})
        if self.split.by != "well" or not wells:
            return self.split.by
        shown = ", ".join(wells[:SHOWN_WELLS]) + (", ..." if len(wells) > SHOWN_WELLS else "")
        return f"well ({shown})"

    def remarks(self) -> list[str]:
        """What a user should know of the grey values: one line each."""
        said = []
        channels = zip(
            self.task.inputs + self.task.targets, [*self.inputs, *self.targets],
            self.measured.histograms, strict=True,
        )  # fmt: skip
        for number, (channel, fitted, histogram) in enumerate(channels):
            if histogram.dtype.kind != "f" and histogram.above(EXACT):
                said.append(
                    f"{channel} has whole numbers beyond {EXACT:,}, which networks see rounded to 24 bits"
                )
            cut = fitted.cut_off(histogram)
            if cut is None or number < len(self.inputs) or self.config.range != "percentile":
                continue
            share, top = cut
            said.append(
                f"{100 * share:.2g} % of {channel} lie up to {top:g}, above the range of the model "
                f"({fitted.high:g}): no prediction gets brighter than that; "
                f"data.percentiles=[{self.config.percentiles[0]:g},100] keeps them"
            )
        return said

    def _fit(
        self, measured: DatasetStatistics
    ) -> tuple[list[IntensityNormaliser], list[IntensityNormaliser]]:
        low, high = self.config.percentiles
        count = len(self.task.inputs)
        maps = []
        for channel, histogram in zip(
            self.task.inputs + self.task.targets, measured.histograms, strict=True
        ):
            try:
                maps.append(
                    IntensityNormaliser.fit(
                        histogram, self.config.range, (low, high), self.config.equalise,
                        (self.config.fixed or {}).get(channel),
                    )
                )  # fmt: skip
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

    def linear_start(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The linear map of the baselines between images in [-1, 1]: weight (Ct, Ci), bias (Ct,).

        It was fitted on grey values as they are on disk, so that there is none where the network
        sees others: equalised, or corrected for illumination. Pixels beyond a channel's range,
        which normalisation clips, are taken for its end.
        """
        maps = [*self.inputs, *self.targets]
        if any(m.knots is not None for m in maps) or any(f is not None for f in self.flats):
            return None
        half = np.array([(m.high - m.low) / 2 for m in maps])
        middle = np.array([(m.high + m.low) / 2 for m in maps])
        count, grey = len(self.inputs), self.baselines
        weight = grey.weights * half[:count] / half[count:, None]
        bias = (grey.weights @ middle[:count] + grey.offset - middle[count:]) / half[count:]
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()

    def _reader(self) -> PatchReader:
        kinds = {np.dtype(m.dtype) for m in [*self.inputs, *self.targets]}
        corrected = self.config.illumination or self.config.register  # no longer whole numbers
        dtype = np.result_type(*kinds)
        if corrected or dtype.name not in BATCHED:
            dtype = np.dtype(np.float32)
        return PatchReader(self.store, self.flats, len(self.inputs), self.config.patch_size, dtype)

    def _shapes(self, samples: Sequence[Sample]) -> list[tuple[int, int]]:
        return [sample_shape(sample, self.store) for sample in samples]

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Normalise on the device of the network."""
        return self.normaliser(batch)

    def train_dataloader(self) -> PatchLoader:
        """Random patches of the training samples."""
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

    def val_dataloader(self) -> DataLoader[RawBatch]:
        """Patches on a grid over the validation samples, always the same; each process takes its share.

        Figures are means over pixels, so that shares of unequal size count right. Where there are
        fewer patches than processes, every process takes all: none may be without.
        """
        data = self.val_patches()
        world = self.world if len(data) >= self.world else 1
        share = range(self.rank % world, len(data), world)
        return DataLoader(data, sampler=share, **self._loading(self.config.batch_size))

    def val_patches(self) -> GridPatches:
        """What the validation loader loads."""
        assert self.split is not None
        samples = self.split.val
        return GridPatches(samples, self._shapes(samples), self._reader(), self.config.val_patches)

    def baseline_errors(self) -> dict[str, float]:
        """Mean absolute error of what costs nothing, over the validation patches, in [-1, 1]: the mean
        of the training target; where there is one, the best linear map of the inputs."""
        patches, level, linear = self.val_patches(), self.target_level(), self.linear_start()
        sums, pixels = {"mean": 0.0}, 0
        for start in range(0, len(patches), self.config.batch_size):
            stop = min(start + self.config.batch_size, len(patches))
            batch = self.normaliser(patches.__getitems__(range(start, stop)))
            predicted = {"mean": level[:, None, None].expand_as(batch.target)}
            if linear is not None:
                weight, bias = linear
                mapped = torch.einsum("tc,bchw->bthw", weight, batch.input) + bias[:, None, None]
                predicted["linear"] = mapped.clamp(-1, 1)
            pixels += int(batch.valid.sum())
            for name, image in predicted.items():
                error = (image - batch.target).abs()[batch.valid].sum(dtype=torch.float64)
                sums[name] = sums.get(name, 0.0) + float(error)
        return {name: total / max(pixels, 1) for name, total in sums.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """How many samples, fields, wells and plates (0 where not known) each part has."""
        assert self.split is not None
        found = {}
        for part in ("train", "val", "test"):
            samples: list[Sample] = getattr(self.split, part)
            found[part] = {
                "views": len(samples),
                "fields": len({sample.field for sample in samples}),
                "wells": len({(sample.plate, sample.well) for sample in samples if sample.well}),
                "plates": len({sample.plate for sample in samples if sample.plate}),
            }
        return found

    def _loading(self, batch_size: int) -> dict[str, Any]:
        workers = self.config.num_workers
        if workers:
            share_by_name()
        return {
            "batch_size": batch_size,
            "collate_fn": as_it_is,
            "num_workers": workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
            "worker_init_fn": leave_signals,
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
            "flats": [None if flat is None else flat.to_dict() for flat in self.flats],
            "envelopes": [envelope.to_dict() for envelope in self.measured.envelopes],
            "shifts": self.shifts.to_dict(),
            "binning": None if self.binning is None else self.binning.to_dict(),
            "refocus": None if self.refocusing is None else self.refocusing.to_dict(),
            "focus": None if self.focus is None else self.focus.to_dict(),
            "deconvolution": None if self.deconvolution is None else self.deconvolution.to_dict(),
            "baselines": self.baselines.to_dict(),
            "pixel_size": self.measured.pixel_size,
            "split": {
                "by": self.split.by,
                **{
                    part: [stored_region(sample) for sample in getattr(self.split, part)]
                    for part in ("train", "val", "test")
                },
            },
        }


__all__ = ["DataConfig", "StainData", "overlap"]

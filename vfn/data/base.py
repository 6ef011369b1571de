"""The data module that all data sets share; each data set adds its facts (see `sets.py`)."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from vfn.data.batch import BATCHED, Batch, Normaliser, RawBatch
from vfn.data.cache import ImageCache, cache_folder, store_name
from vfn.data.config import DataConfig, check_config
from vfn.data.discovery.explicit import check_root
from vfn.data.discovery.fields import Field, left_out
from vfn.data.discovery.layout import Layout
from vfn.data.discovery.search import discover
from vfn.data.field_ranges import inputs_per_field
from vfn.data.illumination import FlatField
from vfn.data.intensity import IntensityNormaliser
from vfn.data.loading import PatchLoader, loader_options
from vfn.data.normalise import fit_normalisers
from vfn.data.patches import Augmentation, GridPatches, PatchReader, RandomPatches
from vfn.data.pixels import sample_shape
from vfn.data.samples import NothingPairs, Sample, Task, make_samples
from vfn.data.splits import Split, split_samples, split_spatial
from vfn.data.statistics import survey
from vfn.data.steps import FlatFields, Registration, Step
from vfn.data.wells import with_wells
from vfn.errors import UserError

if TYPE_CHECKING:
    from vfn.data.proposal import Proposal

MIN_PATCHES = 400  # in an epoch of a small data set


class StainData(L.LightningDataModule):
    """Fields on disk -> paired patches.

    Subclasses state the facts of their data set as class constants, or override `find`.

    Args:
        steps: further steps of the preparation, see `Step`.
        augmentation: of training patches; None makes it from `data.augment` and `data.input_jitter`.

    Attributes:
        CHANNELS: channel -> token in the file name; None takes whatever the task names.
        PATTERN: see `Layout`; None splits paths into tokens.
        HAS_Z: the data set has planes out of focus.
        OWN: keys of `DataConfig.extra` that it reads.
        Z_ZERO, Z_STEP: see `Layout`.
        split, measured, inputs, targets, normaliser: made by `setup`.
    """

    CHANNELS: ClassVar[Mapping[str, str] | None] = None
    PATTERN: ClassVar[str | None] = None
    HAS_Z: ClassVar[bool] = False
    OWN: ClassVar[tuple[str, ...]] = ()
    Z_ZERO: ClassVar[float | None] = None
    Z_STEP: ClassVar[float | None] = None
    split: Split

    def __init__(
        self,
        task: Task,
        config: DataConfig,
        steps: Sequence[Step] = (),
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        check_config(config, task)
        self.task, self.config, self.augmentation = task, config, augmentation
        self.channels = task.inputs + task.targets
        self.inputs: list[IntensityNormaliser] = []
        self.targets: list[IntensityNormaliser] = []
        self.store = ImageCache()
        self.registration = Registration(task, config.register)
        self.flat_fields = FlatFields(self.channels, config.illumination)
        self.steps: tuple[Step, ...] = (*steps, self.flat_fields)
        self.rank, self.world = 0, 1
        self.repeat = False  # the same training batches in every epoch
        self._drawn = 0  # training batches before this call

    # --- find ---

    @classmethod
    def fits(cls, task: Task) -> bool:
        """Return True if the data set has the channels and planes of `task`."""
        channels = cls.CHANNELS is None or set(task.channels) <= set(cls.CHANNELS)
        return channels and (cls.HAS_Z or task.depths == (0.0,))

    @property
    def layout(self) -> Layout:
        """Naming scheme of the files: the data set's own, unless the user says otherwise."""
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
        """Return all fields of the data set that are not excluded.

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
        """Return the samples of all fields.

        Raises:
            UserError: see `make_samples`; if names pair nothing, with a pattern that does, if there is one.
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

    def proposal(self, fields: Sequence[Field]) -> "Proposal | None":
        """Propose a `data.pattern` that pairs the files of `fields`; None if the user says how they pair."""
        from vfn.data.proposal import propose_pattern  # needed where names pair nothing alone

        return None if self.root is None else propose_pattern(fields, self.root, self.layout)

    # --- prepare ---

    def aligned(self, samples: list[Sample]) -> list[Sample]:
        """Return the samples with all channels on the grid of the first input, and registered if asked for."""
        return self.registration.apply(samples, self.store)

    def divide(self) -> Split:
        """Find and split; `data.register` and a spatial split read images, too."""
        samples, rule = self.samples(), self.config.rule()
        self.store.prepare(plane for sample in samples for plane in sample.planes)
        samples = self.aligned(samples)
        self.store.prepare(plane for sample in samples for plane in sample.planes)
        if rule.by == "spatial":
            return split_spatial(samples, self._shapes(samples), rule)
        return split_samples(samples, rule)

    def setup(self, stage: str | None = None) -> None:
        """Find, decode and split the images, run the steps, fit intensities and baselines. Runs once.

        Raises:
            UserError: unusable data.
        """
        if hasattr(self, "split"):
            return
        self.use_cache()
        split = self.divide()
        for step in self.steps:
            self._check_targets(split)
            split = step.fit(split, self.store)
        per_field = inputs_per_field(self.task, self.config, split.train, self.store)
        others = [*split.val, *split.test]
        self.measured = survey(split.train, others, self.store, self.flats, per_field)
        self.split = split
        self.inputs, self.targets = fit_normalisers(
            self.task, self.measured, per_field, self.config
        )
        self.normaliser = Normaliser(self.inputs, self.targets)

    def _check_targets(self, split: Split) -> None:
        for target, name in enumerate(self.task.targets):
            if not any(sample.targets[target] is not None for sample in split.train):
                raise UserError(
                    f"target {name}: no training field has it; leave it out of task.targets, or "
                    "choose another split"
                )

    def use_cache(self) -> None:
        """Read images through the cache on disk, unless `data.cache=off`."""
        if self.config.cache == "disk":
            name = store_name(self.root) if self.root else self.config.name
            self.store = ImageCache(cache_folder(self.config.cache_dir) / name)

    @property
    def flats(self) -> list[FlatField | None]:
        """Flat field of each channel, inputs first; None where illumination is not corrected."""
        return self.flat_fields.flats

    # --- load ---

    def train_dataloader(self) -> PatchLoader:
        """Random patches of the training samples."""
        config, samples = self.config, self.split.train
        shapes = self._shapes(samples)
        area = sum(h * w for h, w in shapes)
        wanted = config.patches_per_epoch or max(MIN_PATCHES, area // config.patch_size**2)
        change = self.augmentation or Augmentation(config.augment, config.input_jitter)
        ranges = [(m.low, m.high) for m in [*self.inputs, *self.targets]]
        reader = self._reader(as_float=change.transform is not None)
        data = RandomPatches(samples, shapes, reader, change, config.seed, ranges)
        batches = max(1, round(wanted / (config.batch_size * self.world)))
        options = loader_options(config.batch_size, config.num_workers)
        limit = getattr(self.trainer, "limit_train_batches", 1.0)
        self._loader = PatchLoader(
            data, batches, self.rank, self.world, limit, self.repeat, self._drawn, **options
        )
        return self._loader

    def val_dataloader(self) -> DataLoader[RawBatch]:
        """Patches on a grid over the validation samples, always the same; each process takes its share.

        Figures are means over pixels, so shares of unequal size count right. If there are fewer patches than
        processes, every process takes all: none may be without.
        """
        return self._grid_loader(self.val_patches())

    def test_dataloader(self) -> DataLoader[RawBatch]:
        """Patches on a grid that covers the test samples."""
        return self._grid_loader(self._grid(self.split.test, sys.maxsize))

    def predict_dataloader(self) -> DataLoader[RawBatch]:
        """The patches of `test_dataloader`."""
        return self.test_dataloader()

    def val_patches(self) -> GridPatches:
        """Return the validation loader's patches."""
        return self._grid(self.split.val, self.config.val_patches)

    def _grid(self, samples: Sequence[Sample], at_most: int) -> GridPatches:
        return GridPatches(samples, self._shapes(samples), self._reader(), at_most)

    def _grid_loader(self, data: GridPatches) -> DataLoader[RawBatch]:
        world = self.world if len(data) >= self.world else 1
        share = range(self.rank % world, len(data), world)
        options = loader_options(self.config.batch_size, self.config.num_workers)
        return DataLoader(data, sampler=share, **options)

    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Normalise on the device of the network."""
        return self.normaliser(batch)

    def _reader(self, as_float: bool = False) -> PatchReader:
        kinds = {np.dtype(m.dtype) for m in [*self.inputs, *self.targets]}
        # Corrected grey values, and standardised ones, are no longer whole numbers.
        as_float |= self.config.illumination or self.config.register
        as_float |= any(one.per_field for one in self.inputs)
        dtype = np.result_type(*kinds)
        if as_float or dtype.name not in BATCHED:
            dtype = np.dtype(np.float32)
        per_field = [one.per_field for one in self.inputs]
        return PatchReader(
            self.store, self.flats, len(self.inputs), self.config.patch_size, dtype, per_field
        )

    def _shapes(self, samples: Sequence[Sample]) -> list[tuple[int, int]]:
        return [sample_shape(sample, self.store) for sample in samples]

    def state_dict(self) -> dict[str, int]:
        """Return the number of training batches drawn.

        Lightning keeps the states of loaders, but restores them only within an epoch, not between two.
        """
        return {"drawn": self._loader.drawn}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that were drawn."""
        self._drawn = int(state_dict["drawn"])

    def record(self, folder: Path) -> None:
        """Write the steps' own files into the run folder."""
        for step in self.steps:
            step.record(folder)

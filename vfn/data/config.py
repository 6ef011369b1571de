"""Settings of a data set, the keys of `conf/data/*.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vfn.data.discovery.layout import Words, check_channels, check_z, is_number, listed
from vfn.data.samples import Task
from vfn.data.splits import SplitRule
from vfn.errors import UserError
from vfn.system.dotted import TARGET

INPUT_RANGES = ("auto", "dataset", "field")
FITTED_RANGES = ("percentile", "minmax")  # values of `range` that hold for standardised fields, too


@dataclass(frozen=True)
class DataConfig:
    """Settings of a data set; every key is read.

    Attributes:
        name: a key of `vfn.data.sets.DATA_SETS`, or a label for a class of the user's.
        root: folder of the images.
        channels, pattern, manifest, z_zero, z_step: naming of the files, see `vfn.data.discovery.Layout`;
            None or empty leaves the data set's own.
        unpaired: "error" or "skip" fields that lack an input, or all targets.
        exclude: CSV of fields (and channels) to leave out, in the doctor's format.
        register: correct the shift between the first input and each target.
        illumination: divide by a flat field estimated over the training fields.
        refocus, refocus_beyond, refocus_channels, refocus_action, refocus_fields: see
            `vfn.refocus.settings.RefocusSettings`.
        split, test_fraction, val_fraction, test_plates, test_wells, test_fields, gap, split_seed:
            see `vfn.data.splits.SplitRule`.
        input_range: "dataset" (one range of an input for all fields), "field" (each field is standardised
            by its own level), or "auto", see `vfn.data.field_ranges`. Run folders of earlier versions have
            the first.
        range, percentiles, fixed, equalise: see `vfn.data.intensity.IntensityNormaliser`; `fixed` maps
            channels to (low, high).
        patch_size: pixels; 256 or 128 in the paper.
        batch_size: patches per step and process.
        patches_per_epoch: None covers the training area once, with 400 at least.
        val_patches: maximum number of validation patches, spread over the validation samples.
        augment: False switches the `augment` group off, see `vfn.data.augment`.
        input_jitter: see `vfn.data.patches.Augmentation`; 0 is off, as in the paper.
        num_workers: processes that cut patches; 0 cuts them in the training process.
        cache: "disk" decodes every image once into a memory-mapped store, "off" at every reading.
        cache_dir: folder of the stores; see `vfn.data.cache.cache_folder`.
        seed: seed of the patches.
        _target_: dotted path of the user's own `StainData`; None takes the data set called `name`.
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
    input_range: str = "dataset"
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
    _target_: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DataConfig":
        """Make settings from plain data; keys that are not common to all data sets go to `extra`."""
        known = {f.name for f in fields(cls)} - {"extra"}
        extra = {key: value for key, value in data.items() if key not in known | {"extra"}}
        common = {key: value for key, value in data.items() if key in known}
        return cls(**common, extra={**data.get("extra", {}), **extra})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the checkpoint."""
        return {k: v for k, v in asdict(self).items() if k != TARGET or v is not None}

    def rule(self) -> SplitRule:
        """Return the rule by which samples are divided."""
        return SplitRule(
            self.split, self.test_fraction, self.val_fraction,
            listed(self.test_plates), listed(self.test_wells), listed(self.test_fields),
            self.gap, self.split_seed,
        )  # fmt: skip


def check_config(config: DataConfig, task: Task) -> None:
    """Refuse settings that no data set can take.

    Raises:
        UserError: names the setting.
    """
    if config.patch_size < 16 or config.batch_size < 1 or config.val_patches < 1:
        raise UserError(
            f"data.patch_size={config.patch_size}, data.batch_size={config.batch_size}, "
            f"data.val_patches={config.val_patches}: a patch needs 16 pixels, the others 1"
        )
    if config.channels is not None:
        check_channels(config.channels, "data.channels")
    _check_ranges(config, task.inputs)
    check_z(config.z_zero, config.z_step, "data.")
    if not 0 <= config.input_jitter <= 1:
        raise UserError(f"data.input_jitter={config.input_jitter}: give a share, 0 (off) to 1")
    if config.cache not in ("disk", "off"):
        raise UserError(f"data.cache={config.cache}: unknown; choose disk or off")
    unknown = set(config.fixed or ()) - set(task.inputs + task.targets)
    if unknown:
        raise UserError(
            f"data.fixed: {', '.join(sorted(unknown))} is no channel of the task; it has "
            f"{', '.join(task.inputs + task.targets)}"
        )


def _check_ranges(config: DataConfig, inputs: Sequence[str]) -> None:
    if config.input_range not in INPUT_RANGES:
        raise UserError(
            f"data.input_range={config.input_range}: unknown; choose one of {', '.join(INPUT_RANGES)}"
        )
    if config.input_range == "field" and config.range not in FITTED_RANGES:
        raise UserError(
            f"data.input_range=field, data.range={config.range}: grey values of one field mean nothing in "
            f"another; give data.range={FITTED_RANGES[0]}, or data.input_range=dataset"
        )
    if not _are_two_numbers(config.percentiles):
        raise UserError(
            f"data.percentiles={config.percentiles}: give two numbers in [0, 100], low first"
        )
    if config.fixed is not None and not isinstance(config.fixed, Mapping):
        raise UserError(
            f"data.fixed={config.fixed}: give a mapping, in quotes as the shell takes braces apart: "
            "'data.fixed={CHANNEL: [LOW, HIGH]}'"
        )
    if config.input_range == "field" and (both := set(config.fixed or ()) & set(inputs)):
        raise UserError(
            f"data.fixed: {min(both)} has a fixed range, data.input_range=field gives each field its own; "
            "leave out one of them, or give data.input_range=auto"
        )
    for channel, given in (config.fixed or {}).items():
        if not _are_two_numbers(given):
            raise UserError(f"data.fixed: {channel} is {given}; give two grey values, low first")


def _are_two_numbers(given: Any) -> bool:
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return several and len(given) == 2 and all(map(is_number, given))

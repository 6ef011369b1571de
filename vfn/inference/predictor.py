"""Fields in, predicted stains out: in memory (`Predictor`), and from folder to folder (`run`)."""

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vfn.data.cache import ImageCache
from vfn.data.discovery import (
    Field,
    Layout,
    NothingMatches,
    check_root,
    discover,
    split_plane,
    whole_images,
)
from vfn.data.images import is_container, is_image, release
from vfn.data.input_shift import field_statistics, judge_pixel_size
from vfn.data.intensity import to_dtype
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Region, Sample, Task, make_samples, within
from vfn.errors import UserError
from vfn.inference.backends import make_network, pick_arithmetic
from vfn.inference.ome import SHIFT, gathered, is_whole, write_ome
from vfn.inference.ome_zarr import field_paths, list_in_plate, whole_zarr, write_zarr
from vfn.inference.targets import Target, targets_of
from vfn.inference.tiles import Source, predict_bands
from vfn.inference.workers import share_cores
from vfn.models.checkpoint import Checkpoint, digest
from vfn.models.nets import fold_norms
from vfn.models.precision import autocast
from vfn.system.csv_files import write_csv
from vfn.system.files import check_name, clear_leftovers
from vfn.system.locks import claimed
from vfn.system.progress import ahead, progress
from vfn.system.shards import Shard
from vfn.uncertainty.intervals import ScaleHead, check_coverage, halfwidth, halfwidth_channel

log = logging.getLogger(__name__)
SHOWN_ALARMS = 5  # lines on the console; the table holds them all
TIFF = ".ome.tif"
WHOLE = Shard()
TILE = 1024  # px, the default: most fields are one tile, and none pays for overlaps
BATCH_PIXELS = {"cpu": TILE**2, "cuda": 16 * TILE**2}  # in a batch, where its size is not given
BAND_PIXELS = 2**22  # turned into grey values at once, in float64
PROBE = 512  # px, side of the part of a field on which bf16 is tried
HALF_GREY = 0.5  # grey levels that bf16 may cost, as the root of the mean square
Prepare = Callable[[list[Sample], ImageCache], list[Sample]]


class Predictor:
    """A checkpoint on a device.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "bf16" or "float32"; "auto" is bf16 where the hardware has it and where
            it moves the first field's prediction by less than `HALF_GREY`.
        tile: side of the tiles (px); a field that is no larger is one tile.
        overlap: share of a tile that neighbours have in common, in [0, 0.5].
        batch_size: tiles at once; None takes about a megapixel on a CPU, 16 on a GPU.
        uncertainty: coverage of the intervals, 0.50 to 0.99; None predicts the stains alone.
        backend: what runs the generator, see `vfn.inference.backends`; the error model of the
            intervals stays in torch.

    Attributes:
        channels: of a prediction: the targets, then (with `uncertainty`) the half-widths of each.

    Raises:
        UserError: a setting out of range; intervals are asked of a model that is not calibrated.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: str = "auto",
        tile: int = TILE,
        overlap: float = 0.125,
        batch_size: int | None = None,
        uncertainty: float | None = None,
        backend: str = "torch",
    ) -> None:
        if not 0 <= overlap <= 0.5:
            raise UserError(f"overlap={overlap}: give the shared part of a tile, 0 to 0.5")
        for key, value in (("tile", tile), ("batch_size", batch_size)):
            if not (isinstance(value, int) and value >= 1) and (key == "tile" or value is not None):
                raise UserError(f"{key}={value}: give a whole number, 1 or more")
        self.checkpoint = checkpoint
        self.backend = backend
        self.device, self.precision = pick_arithmetic(backend, device, precision)
        self._on_trial = precision == "auto" and self.precision == "bf16"
        self.tile, self.overlap = tile, overlap
        self.batch_size = batch_size or max(1, BATCH_PIXELS[self.device.type] // tile**2)
        self.stride = checkpoint.generator.stride
        self.generator = fold_norms(checkpoint.generator).to(self.device)
        self.generator = self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = (
            None if backend == "torch" else make_network(self.generator, backend, self.precision)
        )
        # Other backends divide the cores themselves.
        self._lanes = share_cores() if self.device.type == "cpu" and backend == "torch" else 1
        self._cover(uncertainty)
        self.head: ScaleHead | None = None
        if checkpoint.uncertainty is not None:
            head = checkpoint.uncertainty.head.to(self.device)
            self.head = head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _cover(self, uncertainty: float | None) -> None:
        self.channels = self.checkpoint.task.targets
        self._interval = ""
        self.coverage = None if uncertainty is None else check_coverage(uncertainty)
        if self.coverage is None:
            return
        calibrated = self.checkpoint.uncertainty
        if calibrated is None:
            raise UserError(
                f"uncertainty={uncertainty:g}: the model is not calibrated; run "
                f"python -m vfn.calibrate ckpt={self.checkpoint.path}"
            )
        self.multipliers = calibrated.multipliers(self.coverage)
        self.channels += tuple(halfwidth_channel(c, self.coverage) for c in self.channels)
        self._interval = f"interval {self.coverage:.0%} by {digest(calibrated.tensors())}, "

    def covering(self, uncertainty: float | None) -> "Predictor":
        """The same networks with intervals of another coverage, or without.

        Raises:
            UserError: intervals are asked of a model that is not calibrated.
        """
        other = copy.copy(self)
        other._cover(uncertainty)
        return other

    def predict(self, inputs: Sequence[np.ndarray], region: Region | None = None) -> np.ndarray:
        """Predict one field.

        Args:
            inputs: Ci arrays (H, W) in grey values, in the order of the task's inputs.
            region: rows and columns of the field that the inputs are; None for all of it. It counts
                where illumination is corrected: the prediction has the falloff of the real stain.

        Returns:
            (C, H, W), the channels of `channels`, in the targets' dtype and grey values. The truth
            lies within stain +- half-width for the share of pixels that was asked for.

        Raises:
            UserError: an input's dtype is not the one of training, so its grey values mean
                something else; wrong number or sizes of inputs.
        """
        self.check(inputs, region)
        self.settle(inputs)
        field = _Pixels(inputs, region)
        return np.concatenate([band for _, _, band in self.bands([field])], 1)

    def bands(self, fields: Iterable["_Pixels"]) -> Iterator[tuple[Any, int, np.ndarray]]:
        """Predict fields one after the other, in memory that grows with their width alone.

        Args:
            fields: that passed `check`; taken one by one.

        Yields:
            The field, its next row, and (C, h, W) from there on, as `predict` gives them.
        """
        network = self._stain if self.coverage is None else self._stain_and_score
        for field, top, y in self._raw(fields, network):
            region = field.rows(top, top + y.shape[1])
            with named(field.sample) if isinstance(field, _Job) else nullcontext():
                band = self._restored(y, region) if self.coverage is None else self._both(y, region)
            yield field, top, band

    def _both(self, y: np.ndarray, region: Region) -> np.ndarray:
        """Stains, and the half-widths of their intervals."""
        stain, scores = self._scored(y, region)
        widths = [
            halfwidth(score, multiplier, stain.dtype.name)
            for score, multiplier in zip(scores, self.multipliers, strict=True)
        ]
        return np.concatenate([stain, np.stack(widths)])

    def predict_scored(
        self, inputs: Sequence[np.ndarray], region: Region | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict one field and the error to expect, by a checkpoint that has `uncertainty`.

        Args:
            inputs, region: see `predict`.

        Returns:
            Stains (Ct, H, W) as `predict` gives them; scores (Ct, H, W) in grey values, above 0: half
            of what the interval prediction +- expected error becomes in grey values, so a
            half-width is a multiple of it, whatever curve the grey values were equalised by.
        """
        self.check(inputs, region)
        self.settle(inputs)
        parts = [
            self._scored(y, field.rows(top, top + y.shape[1]))
            for field, top, y in self._raw([_Pixels(inputs, region)], self._stain_and_score)
        ]
        stains, scores = zip(*parts, strict=True)
        return np.concatenate(stains, 1), np.concatenate(scores, 1)

    def _scored(self, y: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray]:
        y, score = np.split(y, 2)
        low, high = (self._grey(part, region) for part in (y - score, y + score))
        # An equalising curve ends at its range: an interval outside of it has no width.
        return self._restored(y, region), np.maximum((high - low) / 2, np.finfo(np.float32).tiny)

    def check(self, inputs: Sequence[np.ndarray], region: Region | None) -> None:
        """Refuse inputs that the model does not take.

        Raises:
            UserError: see `predict`.
        """
        maps, channels = self.checkpoint.inputs, self.checkpoint.task.inputs
        if len(inputs) != len(maps) or len({a.shape for a in inputs}) != 1:
            raise UserError(
                f"{len(inputs)} input(s) of shapes {[a.shape for a in inputs]}: the model takes "
                f"{len(maps)} of one size: {', '.join(channels)}"
            )
        for channel, array, one in zip(channels, inputs, maps, strict=True):
            if array.dtype.name != one.dtype:
                raise UserError(
                    f"channel {channel} is {array.dtype}, the model was trained on {one.dtype}; "
                    "give images of the same kind as in training"
                )
        for flat in self.checkpoint.flats:
            if flat is not None:
                flat.check(inputs[0].shape, region)

    def settle(self, inputs: Sequence[np.ndarray]) -> None:
        """Decide once, on the first field, whether bf16 is exact enough; nothing where the user did.

        The measure is the root mean square difference to float32 over the middle of the field, in
        grey levels of the output; floats have no levels, so float images are predicted in float32.
        """
        if not self._on_trial:
            return
        self._on_trial = False
        middle = [slice(max(0, (n - PROBE) // 2), (n + PROBE) // 2) for n in inputs[0].shape]
        probe = _Pixels([array[middle[0], middle[1]] for array in inputs], None)
        grey = {}
        for precision in ("float32", "bf16"):
            self.precision = precision
            y = np.concatenate([y for *_, y in self._raw([probe], self._stain, flat=False)], 1)
            fitted = zip(self.checkpoint.targets, y, strict=True)
            grey[precision] = np.stack([one.grey(channel) for one, channel in fitted])
        difference = np.square(grey["bf16"] - grey["float32"]).mean((1, 2)) ** 0.5
        levels = float(difference.max())
        exact = np.dtype(self.checkpoint.targets[0].dtype).kind in "ui" and levels < HALF_GREY
        self.precision = "bf16" if exact else "float32"
        log.info(
            "precision: %s; bf16 moves the prediction by %.2g grey levels (root mean square)",
            self.precision, levels,
        )  # fmt: skip

    def _raw(
        self,
        fields: Iterable["_Pixels"],
        network: Callable[[torch.Tensor], torch.Tensor],
        flat: bool = True,
    ) -> Iterator[tuple[Any, int, np.ndarray]]:
        """What `network` makes of fields: (field, row, (C, h, W) in [-1, 1]).

        Args:
            flat: correct illumination where training did.
        """
        maps = self.checkpoint.inputs
        flats = self.checkpoint.flats[: len(maps)] if flat else (None,) * len(maps)

        def source(field: _Pixels) -> Source:
            def rows(start: int, stop: int) -> torch.Tensor:
                place, stack = field.rows(start, stop), []
                for array, one, surface in zip(field.inputs, maps, flats, strict=True):
                    crop = array[start:stop]
                    stack.append(one.normalise(surface.correct(crop, place) if surface else crop))
                    release(array)
                return torch.from_numpy(np.stack(stack))

            height, width = field.inputs[0].shape
            return Source((height, width), rows, field)

        for band in predict_bands(
            torch.inference_mode()(network), map(source, fields), self.tile,
            int(self.overlap * self.tile), self.stride, self.batch_size, self._lanes,
        ):  # fmt: skip
            height, width = band.values.shape[1:]
            step = max(1, BAND_PIXELS // width)
            for start in range(0, height, step):
                part = band.values[:, start : start + step].numpy()
                yield band.source.owner, band.top + start, part

    def _grey(self, y: np.ndarray, region: Region | None) -> np.ndarray:
        """Targets (Ct, H, W) in [-1, 1] back to grey values, real numbers."""
        flats = self.checkpoint.flats[len(self.checkpoint.inputs) :]
        greys = []
        for fitted, flat, channel in zip(self.checkpoint.targets, flats, y, strict=True):
            grey = fitted.grey(channel)
            greys.append(grey if flat is None else flat.restore(grey, region))
        return np.stack(greys)

    def _restored(self, y: np.ndarray, region: Region | None) -> np.ndarray:
        return to_dtype(self._grey(y, region), self.checkpoint.targets[0].dtype)

    def alarms(
        self, inputs: Sequence[np.ndarray], pixel_size: float | None = None
    ) -> dict[str, list[str]]:
        """How the inputs (H, W) of a field differ from those of the training, in words, by channel;
        empty where nothing lies outside what was seen.

        Args:
            pixel_size: um, of the field; None where it is not known.
        """
        size = judge_pixel_size(pixel_size, self.checkpoint.pixel_size)
        judged = {
            channel: size + envelope.judge(field_statistics(array))
            for channel, envelope, array in zip(
                self.checkpoint.task.inputs, self.checkpoint.envelopes, inputs, strict=True
            )
        }
        return {channel: phrases for channel, phrases in judged.items() if phrases}

    def _stain(self, tiles: torch.Tensor) -> torch.Tensor:
        if self._network is not None:
            return self._network(tiles)
        tiles = tiles.to(self.device).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            predicted: torch.Tensor = self.generator(tiles)
        return predicted

    def _stain_and_score(self, tiles: torch.Tensor) -> torch.Tensor:
        assert self.head is not None
        tiles = tiles.to(self.device).contiguous(memory_format=torch.channels_last)
        predicted = self._stain(tiles).float()
        with autocast(self.device, self.precision):
            return torch.cat([predicted, self.head(tiles, predicted)], 1)

    def predict_to_file(
        self,
        sample: Sample,
        inputs: Sequence[np.ndarray],
        path: Path,
        alarms: Mapping[str, list[str]],
    ) -> np.ndarray:
        """Predict `sample` into `path` (an OME-TIFF, else OME-Zarr), or read it where it already is.

        A file counts as there if it is whole, has the right size and came from this very model,
        these input pixels and these settings.

        Args:
            inputs: pixels (H, W) of the sample's inputs.
            alarms: of `alarms`, noted in the file.

        Returns:
            See `predict`.

        Raises:
            UserError: see `predict`, `is_whole`.
        """
        self.settle(inputs)
        identity = self.identity(inputs)
        kept = self.kept(path, identity, inputs)
        if kept is not None:
            return kept
        with named(sample):
            predicted = self.predict(inputs, sample.region)
        target = Target(sample.name, (sample,))
        self.write(target, path, identity, alarms, inputs[0].shape, [predicted])
        return predicted

    def kept(
        self, path: Path, identity: str, inputs: Sequence[np.ndarray], times: int | None = None
    ) -> np.ndarray | None:
        """What is at `path` already, if it is this very prediction, whole; of several `times` see
        `is_whole`.

        Raises:
            UserError: see `is_whole`.
        """
        is_kept = is_whole if path.name.endswith(TIFF) else whole_zarr
        return is_kept(path, identity, inputs[0].shape, times)

    def write(
        self,
        target: Target,
        path: Path,
        identity: str,
        alarms: Mapping[str, list[str]],
        shape: tuple[int, ...],
        bands: Iterable[np.ndarray],
    ) -> None:
        """Write a predicted field, or movie, to `path` (an OME-TIFF, else OME-Zarr).

        Args:
            shape: (H, W).
            bands: (C, h, W) from top to bottom, time point after time point.
        """
        pixel_size, times = target.samples[0].inputs[0].pixel_size, target.times
        remarks = [
            f"{SHIFT}: {channel}: {'; '.join(phrases)}" for channel, phrases in alarms.items()
        ]
        # What was done to an input on its way from the file, such as refocusing.
        planes = (plane for sample in target.samples for plane in sample.inputs)
        remarks += [said for plane in planes if (said := getattr(plane, "remark", ""))]
        dtype = self.checkpoint.targets[0].dtype
        if path.name.endswith(TIFF):
            write_ome(
                path, bands, shape, dtype, self.channels, pixel_size, identity, remarks, times,
                target.time_step,
            )  # fmt: skip
            return
        windows = [(fitted.low, fitted.high) for fitted in self.checkpoint.targets]
        if self.coverage is not None:  # white where the interval is as wide as the whole range
            windows += [(0.0, (high - low) / 2) for low, high in windows]
        whole = (*([] if times is None else [times]), len(self.channels), *shape)
        with gathered(bands, whole, dtype, path) as predicted:
            write_zarr(
                path, target.name, predicted, self.channels, pixel_size, identity, windows, remarks,
                target.time_step,
            )  # fmt: skip

    def identity(self, inputs: Sequence[np.ndarray]) -> str:
        """Everything that the predicted pixels depend on, in a line."""
        return self._identified(_digest(inputs))

    def identity_of_movie(self, digests: Sequence[str]) -> str:
        """`identity` of time points, by the `_digest` of the inputs of each."""
        return self._identified(
            hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()
        )

    def _identified(self, pixels: str) -> str:
        return (
            f"{self.checkpoint.identity}, {self.backend} {self.precision}, tile {self.tile}, "
            f"overlap {self.overlap:g}, {self._interval}input {pixels}."
        )


def _digest(inputs: Sequence[np.ndarray]) -> str:
    """Of the pixels, 16 letters."""
    pixels = hashlib.blake2b(digest_size=8)
    for array in inputs:
        pixels.update(np.ascontiguousarray(array).data)
        release(array)
    return pixels.hexdigest()


@contextmanager
def named(sample: Sample) -> Iterator[None]:
    """Let an error say which field it is about."""
    try:
        yield
    except UserError as exc:
        raise UserError(f"field {sample.name}: {exc}") from exc


@dataclass(frozen=True, eq=False)  # each is itself: arrays do not compare
class _Pixels:
    """A field in grey values: inputs (H, W), and the rows and columns that they are (None: all)."""

    inputs: Sequence[np.ndarray]
    region: Region | None

    def rows(self, start: int, stop: int) -> Region:
        """Where the rows from `start` to `stop` of the inputs lie in the field."""
        return within(self.region, (slice(start, stop), slice(0, self.inputs[0].shape[1])))


@dataclass(frozen=True, eq=False)  # each is itself
class _Order:
    """A file that is to be written.

    Attributes:
        alarms: of its samples, by the words that name the channel, and of a movie the time point.
    """

    target: Target
    path: Path
    identity: str
    shape: tuple[int, ...]
    alarms: Mapping[str, list[str]]


@dataclass(frozen=True, eq=False)  # each is itself: arrays do not compare
class _Job(_Pixels):
    """A field that is to be predicted, for a file."""

    sample: Sample
    order: _Order


def find_samples(
    checkpoint: Checkpoint, source: Path | None, given: Layout | None = None
) -> list[Sample]:
    """The fields of a folder, or of one file, as the model's task sees them.

    Files are told apart as in training; where none is a channel that way, by channel names as tokens
    of the path; where none is that way either, each file is taken to hold all inputs by position,
    unless a manifest told files apart in training. Whatever else is wrong with the files ends the
    search.

    Args:
        source: folder or file; None takes what the manifest of `given` names.
        given: what the user says of the layout of these files. It goes before what the checkpoint
            says of that of the training, and rules nameless files out.

    Raises:
        UserError: nothing there, or no way to tell which file is which channel.
    """
    task, given = checkpoint.task, given or Layout(prefix="")
    inputs = tuple(dict.fromkeys(split_plane(channel)[0] for channel in task.inputs))
    root, holding = _place(source, given)
    layouts, reasons = _layouts(checkpoint.layout, given), []
    damaged: list[UserError] | None = None if holding is None else []  # its neighbours may be
    for layout in layouts:
        try:
            fields = discover(root, layout, inputs, damaged, task.targets, holding)
        except NothingMatches as exc:
            reasons.append(exc)
            continue
        if given.manifest and source is not None and holding is None:
            check_root(fields, root, given.manifest, "input")
        return _samples(fields, checkpoint, given.prefix)
    # A container has its channels inside, whatever pattern the paths of training had.
    reason = reasons[-1 if is_container(root) else 0]
    if source is None or given != Layout():
        raise reason
    if checkpoint.layout.manifest:
        raise UserError(
            f"{reason}, by {given.prefix}manifest=files.csv, or, if every image holds the inputs, "
            f"{given.prefix}channels={_positions(task)}: a manifest told the channels of the training, not "
            "the names of files"
        )
    try:
        fields = whole_images(source, task.inputs)
    except NothingMatches as exc:
        raise reason from exc
    _refuse_targets(task, root, layouts)
    log.warning(
        "input=%s: no path holds a word for a channel of the model, so each image is taken as %s; if there are other "
        "stains among them, say which word means which channel by channels={CHANNEL: WORD}",
        source, " + ".join(task.inputs),
    )  # fmt: skip
    return _samples(fields, checkpoint, given.prefix)


def _samples(fields: Sequence[Field], checkpoint: Checkpoint, prefix: str) -> list[Sample]:
    samples = make_samples(fields, checkpoint.task, targets=False, prefix=prefix)
    return [checkpoint.binning.apply(sample) for sample in samples]


def _positions(task: Task) -> str:
    """What says that each file holds the inputs one by one."""
    return "{" + ", ".join(f"{channel}: {i}" for i, channel in enumerate(task.inputs)) + "}"


def _place(source: Path | None, given: Layout) -> tuple[Path, Path | None]:
    """The folder (or container) in which files are looked for, and the file if it is one alone.

    Raises:
        UserError: it is not there, or no image.
    """
    if source is None:
        return Path(str(given.manifest)).parent, None
    if not source.exists():
        raise UserError(f"input={source}: does not exist; give a folder of images or one image")
    if source.is_dir() or is_container(source):
        return source, None
    if not is_image(source):
        raise UserError(f"input={source}: is no TIFF or PNG by its name; give an image or a folder")
    return source.parent, source  # its other channels may be in files beside it


def _layouts(trained: Layout, given: Layout) -> list[Layout]:
    """How files may be named, the likeliest way first."""
    own = replace(
        trained,
        channels={**trained.channels, **given.channels},
        pattern=given.pattern or trained.pattern,
        # That of the training names other files; new ones are named like those of any folder.
        manifest=given.manifest,
        z_zero=trained.z_zero if given.z_zero is None else given.z_zero,
        z_step=trained.z_step if given.z_step is None else given.z_step,
        prefix=given.prefix,
    )
    return [own] if own == given or given.manifest or given.pattern else [own, given]


def _refuse_targets(task: Task, root: Path, layouts: Sequence[Layout]) -> None:
    """Refuse images that are known to be a target, and those beside them: they are no nameless inputs.

    Raises:
        UserError: there is one.
    """
    for layout, channel in product(layouts, task.targets):
        if channel in task.inputs:
            continue
        try:
            known = discover(root, layout, [channel])
        except NothingMatches:
            continue
        raise UserError(
            f"{next(iter(known[0].planes.values()))}: is {channel}, which the model predicts, and no "
            f"image is {' or '.join(task.inputs)} by its name; name the inputs by their channel, or say "
            f"which word means it by {layout.prefix}channels={{CHANNEL: TOKEN}}"
        )


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
    if file_format not in ("ome_tiff", "ome_zarr"):
        raise UserError(f"format={file_format}: unknown; choose ome_tiff or ome_zarr")
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
    return predict_samples(predictor, samples, output, file_format, prepare, shard)


def predict_samples(
    predictor: Predictor,
    samples: list[Sample],
    output: Path,
    file_format: str = "ome_tiff",
    prepare: Prepare | None = None,
    shard: Shard = WHOLE,
    watch: Callable[[float], None] | None = None,
) -> list[Path]:
    """Predict fields into `output`; a field that cannot be predicted stops no other.

    Args:
        samples: of which those of one movie go into one file.
        file_format: "ome_tiff" for `output`/<field>.ome.tif; "ome_zarr", see `ome_zarr.field_paths`.
        prepare: what is done with the fields before the network sees them (refocusing).
        shard: which of the fields, where several jobs share them.
        watch: is told now and then which share of the work is done, in [0, 1]; what it raises ends
            the prediction.

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
        targets = shard.of(targets)  # checked and named as a whole: every job sees the same
        return _Folder(predictor, output, paths, watch, shard).predict(targets, prepare)


class _Folder:
    """`predict_samples`, once it is known what goes where and nobody else writes there."""

    def __init__(
        self,
        predictor: Predictor,
        output: Path,
        paths: Mapping[str, Path],
        watch: Callable[[float], None] | None,
        shard: Shard,
    ) -> None:
        self.predictor, self.output, self.paths = predictor, output, paths
        self.watch, self.shard = watch, shard
        self.store = ImageCache()  # nothing is kept
        self.alarms: dict[str, dict[str, list[str]]] = {}
        self.refused: list[UserError] = []
        self.order: dict[str, int] = {}  # number of each sample

    def predict(self, targets: list[Target], prepare: Prepare | None) -> list[Path]:
        """Write the files of `targets`.

        Raises:
            UserError: see `predict_samples`.
        """
        ours = [self.paths[target.name] for target in targets]
        for folder in {path.parent for path in ours}:
            clear_leftovers(folder, {path.name for path in ours})
        if prepare is not None:
            targets = self._prepared(targets, prepare)
        fields = len(targets) + len(self.refused)
        self.order = {v.name: i for i, v in enumerate(v for t in targets for v in t.samples)}
        # One thread reads the next field, one or more (`lanes`) compute, this one compresses and writes.
        jobs = ahead(self._jobs(targets), 1)
        with closing(ahead(self.predictor.bands(jobs), 2)) as predicted:
            for order, bands in groupby(predicted, key=lambda part: part[0].order):
                self.predictor.write(
                    order.target, order.path, order.identity, order.alarms, order.shape,
                    self._told(bands),
                )  # fmt: skip
                self._list_in_plate(order.target)
        table = self.shard.own(self.output / "input_shift.csv")
        _report_alarms(self.alarms, len(self.order), table)
        self._report_refused(fields)
        return [self.paths[target.name] for target in targets]

    def _prepared(self, targets: list[Target], prepare: Prepare) -> list[Target]:
        """The targets with their samples prepared, without those that were left out."""
        samples = {v.name: v for v in prepare([v for t in targets for v in t.samples], self.store)}
        found = []
        for target in targets:
            left = tuple(
                samples[sample.name] for sample in target.samples if sample.name in samples
            )
            if len(left) == len(target.samples):
                found.append(replace(target, samples=left))
            elif left:
                self.refused.append(
                    UserError(
                        f"field {target.name}: {len(target.samples) - len(left)} of its {len(target.samples)} "
                        "time points are left out as out of focus, which a movie cannot be; save them as "
                        "a file each"
                    )
                )
        return found

    def _jobs(self, targets: Sequence[Target]) -> Iterator[_Job]:
        """The fields that are still to be predicted; the others leave their alarms and errors."""
        done = progress(range(len(self.order)), len(self.order), "predicting")
        order: _Order | None
        for target in targets:
            try:
                order, inputs = self._looked_at(target)
                kept = self.predictor.kept(order.path, order.identity, inputs, target.times)
            except UserError as exc:
                self.refused.append(exc)
                order = kept = None
            for sample in target.samples:
                next(done)
                if order is not None and kept is None:
                    if target.times is not None:  # read time point by time point, once more
                        inputs = present(read_sample(sample, self.store))
                    yield _Job(inputs, sample.region, sample, order)
            if kept is not None:
                self._list_in_plate(target)

    def _looked_at(self, target: Target) -> tuple[_Order, list[np.ndarray]]:
        """What is to be written, and the inputs of its last sample.

        Raises:
            UserError: an image that cannot be read, or that the model does not take; a name that no file
                can have.
        """
        check_name(self.paths[target.name])
        predictor, digests = self.predictor, []
        alarms: dict[str, list[str]] = {}
        for sample in target.samples:
            inputs = present(read_sample(sample, self.store))
            found = predictor.alarms(inputs, sample.inputs[0].pixel_size)
            with named(sample):
                predictor.check(inputs, sample.region)
                predictor.settle(inputs)
            if found:
                self.alarms[sample.name] = found
            at = "" if target.times is None else f"{sample.name}, "
            alarms |= {f"{at}{channel}": phrases for channel, phrases in found.items()}
            if target.times is not None:
                digests.append(_digest(inputs))
        identity = predictor.identity_of_movie(digests) if digests else predictor.identity(inputs)
        path = self.paths[target.name]
        return _Order(target, path, identity, inputs[0].shape, alarms), inputs

    def _told(self, bands: Iterable[tuple[_Job, int, np.ndarray]]) -> Iterator[np.ndarray]:
        """The pixels of `bands`; `watch` hears of each."""
        for job, top, band in bands:
            if self.watch is not None:
                rows = (top + band.shape[1]) / job.inputs[0].shape[0]
                self.watch((self.order[job.sample.name] + rows) / len(self.order))
            yield band

    def _list_in_plate(self, target: Target) -> None:
        path = self.paths[target.name]
        if path.parent != self.output:
            list_in_plate(path, target.samples[0].plate)

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


def _report_alarms(alarms: Mapping[str, Mapping[str, list[str]]], fields: int, path: Path) -> None:
    """Write every alarm, a row each, and tell of the first few; without any there is no table."""
    if not alarms:
        path.unlink(missing_ok=True)  # of a run over other fields
        return
    rows = [
        (field, channel, phrase)
        for field, channels in alarms.items()
        for channel, phrases in channels.items()
        for phrase in phrases
    ]
    write_csv(path, ("field", "channel", "finding"), rows)
    log.warning(
        "input shift: %d of %d field(s) lie outside what the model was trained on, where a predicted "
        "stain deserves less trust; all in %s",
        len(alarms), fields, path,
    )  # fmt: skip
    for field, channel, phrase in rows[:SHOWN_ALARMS]:
        log.warning("  field %s, %s: %s", field, channel, phrase)

"""Files of predictions: OME-TIFF or OME-Zarr, each with the identity of what its pixels depend on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vfn.data.discovery.layout import Layout
from vfn.data.images import release
from vfn.data.samples import Sample
from vfn.inference.ome import SHIFT, VERDICT, gathered, is_whole, layout_remark, write_ome
from vfn.inference.ome_zarr import whole_zarr, write_zarr
from vfn.inference.predictor import Predictor, named

TIFF = ".ome.tif"


@dataclass(frozen=True, eq=False)  # each is itself
class Target:
    """An image file that is to be written.

    Attributes:
        name: of the file, without its suffix.
        samples: whose predictions it holds: one, or the time points of a movie in their order.
        path: an OME-TIFF by its suffix, else an OME-Zarr.
        identity: see `identity_of`.
        shape: (H, W).
        alarms: of its samples, by the words that name the channel, and of a movie the time point.
        layout: of the names of the input files; None for that of the training.
    """

    name: str
    samples: tuple[Sample, ...]
    path: Path = Path()
    identity: str = ""
    shape: tuple[int, ...] = ()
    alarms: Mapping[str, list[str]] = field(default_factory=dict)
    layout: Layout | None = None

    @property
    def times(self) -> int | None:
        """Number of time points; None of a field alone."""
        return len(self.samples) if len(self.samples) > 1 else None

    @property
    def time_step(self) -> float | None:
        """Seconds from one time point to the next, if known."""
        time = self.samples[0].time
        return time.step if time else None


def targets_of(samples: Sequence[Sample]) -> list[Target]:
    """Return the files for `samples`: one for each, and one for all time points that came in one file."""
    movies: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.movie:
            movies.setdefault(sample.movie, []).append(sample)
    targets = []
    for sample in samples:
        frames = movies.get(sample.movie, [sample])
        if len(frames) == 1:
            targets.append(Target(sample.name, (sample,)))
        elif sample is frames[0]:
            targets.append(Target(sample.movie, tuple(frames)))
    return targets


def predict_to_file(
    predictor: Predictor,
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
        alarms: of `input_alarms`, noted in the file.

    Returns:
        See `Predictor.predict`.

    Raises:
        UserError: see `Predictor.predict`, `is_whole`.
    """
    predictor.settle(inputs)
    identity = identity_of(predictor, [pixel_digest(inputs)])
    target = Target(sample.name, (sample,), path, identity, inputs[0].shape, alarms)
    kept = kept_prediction(target)
    if kept is not None:
        return kept
    with named(sample.name):
        predicted = predictor.predict(inputs, sample.region)
    write_prediction(predictor, target, [predicted])
    return predicted


def kept_prediction(target: Target) -> np.ndarray | None:
    """Return the pixels at the path of `target`, if they are this very prediction, whole.

    Raises:
        UserError: see `is_whole`.
    """
    is_kept = is_whole if target.path.name.endswith(TIFF) else whole_zarr
    return is_kept(target.path, target.identity, target.shape, target.times)


def write_prediction(predictor: Predictor, target: Target, bands: Iterable[np.ndarray]) -> None:
    """Write a predicted field, or movie.

    Args:
        bands: (C, h, W) from top to bottom, time point after time point.
    """
    pixel_size, times = target.samples[0].inputs[0].pixel_size, target.times
    remarks = [f"{VERDICT}: {verdict.text}" for verdict in predictor.checkpoint.verdicts]
    remarks += [f"{SHIFT}: {name}: {'; '.join(phrases)}" for name, phrases in target.alarms.items()]
    # What was done to an input on its way from the file, such as refocusing.
    planes = (plane for sample in target.samples for plane in sample.inputs)
    remarks += [said for plane in planes if (said := getattr(plane, "remark", ""))]
    remarks.append(layout_remark(target.layout or predictor.checkpoint.layout))
    fitted = predictor.checkpoint.targets
    dtype = fitted[0].dtype
    if target.path.name.endswith(TIFF):
        write_ome(
            target.path, bands, target.shape, dtype, predictor.channels, pixel_size, target.identity,
            remarks, times, target.time_step,
        )  # fmt: skip
        return
    windows = [(one.low, one.high) for one in fitted]
    if predictor.coverage is not None:  # white where the interval is as wide as the whole range
        windows += [(0.0, (high - low) / 2) for low, high in windows]
    whole = (*([] if times is None else [times]), len(predictor.channels), *target.shape)
    with gathered(bands, whole, dtype, target.path) as predicted:
        write_zarr(
            target.path, target.name, predicted, predictor.channels, pixel_size, target.identity,
            windows, remarks, target.time_step,
        )  # fmt: skip


def identity_of(predictor: Predictor, digests: Sequence[str]) -> str:
    """Return all that predicted pixels depend on in one line, by the `pixel_digest` of each time point."""
    digest = digests[0]
    if len(digests) > 1:
        digest = hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()
    return f"{predictor.identity}, input {digest}."


def pixel_digest(inputs: Sequence[np.ndarray]) -> str:
    """Return 16 letters that tell these pixels from others."""
    pixels = hashlib.blake2b(digest_size=8)
    for array in inputs:
        pixels.update(np.ascontiguousarray(array).data)
        release(array)
    return pixels.hexdigest()

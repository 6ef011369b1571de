"""Files of predictions: OME-TIFF or OME-Zarr, each with the identity of what its pixels depend on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vfn.data.discovery.layout import Layout
from vfn.data.images import release
from vfn.data.samples import Sample
from vfn.inference.ome import SHIFT, VERDICT, gathered, is_whole, layout_remark, write_ome
from vfn.inference.ome_zarr import whole_zarr, write_zarr
from vfn.inference.predictor import Predictor, named
from vfn.inference.targets import Target

TIFF = ".ome.tif"


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
    identity = identity_of(predictor, inputs)
    kept = kept_prediction(path, identity, inputs[0].shape)
    if kept is not None:
        return kept
    with named(sample.name):
        predicted = predictor.predict(inputs, sample.region)
    target = Target(sample.name, (sample,))
    write_prediction(predictor, target, path, identity, alarms, inputs[0].shape, [predicted])
    return predicted


def kept_prediction(
    path: Path, identity: str, shape: tuple[int, ...], times: int | None = None
) -> np.ndarray | None:
    """Return what is at `path` already, if it is this very prediction, whole; of several `times` see
    `is_whole`.

    Args:
        shape: (H, W) of the field.

    Raises:
        UserError: see `is_whole`.
    """
    is_kept = is_whole if path.name.endswith(TIFF) else whole_zarr
    return is_kept(path, identity, shape, times)


def write_prediction(
    predictor: Predictor,
    target: Target,
    path: Path,
    identity: str,
    alarms: Mapping[str, list[str]],
    shape: tuple[int, ...],
    bands: Iterable[np.ndarray],
    layout: Layout | None = None,
) -> None:
    """Write a predicted field, or movie, to `path` (an OME-TIFF, else OME-Zarr).

    Args:
        shape: (H, W).
        bands: (C, h, W) from top to bottom, time point after time point.
        layout: of the names of the input files; None for that of the training.
    """
    pixel_size, times = target.samples[0].inputs[0].pixel_size, target.times
    remarks = [f"{VERDICT}: {verdict.text}" for verdict in predictor.checkpoint.verdicts]
    remarks += [f"{SHIFT}: {channel}: {'; '.join(phrases)}" for channel, phrases in alarms.items()]
    # What was done to an input on its way from the file, such as refocusing.
    planes = (plane for sample in target.samples for plane in sample.inputs)
    remarks += [said for plane in planes if (said := getattr(plane, "remark", ""))]
    remarks.append(layout_remark(layout or predictor.checkpoint.layout))
    fitted = predictor.checkpoint.targets
    dtype = fitted[0].dtype
    if path.name.endswith(TIFF):
        write_ome(
            path, bands, shape, dtype, predictor.channels, pixel_size, identity, remarks, times,
            target.time_step,
        )  # fmt: skip
        return
    windows = [(one.low, one.high) for one in fitted]
    if predictor.coverage is not None:  # white where the interval is as wide as the whole range
        windows += [(0.0, (high - low) / 2) for low, high in windows]
    whole = (*([] if times is None else [times]), len(predictor.channels), *shape)
    with gathered(bands, whole, dtype, path) as predicted:
        write_zarr(
            path, target.name, predicted, predictor.channels, pixel_size, identity, windows, remarks,
            target.time_step,
        )  # fmt: skip


def identity_of(predictor: Predictor, inputs: Sequence[np.ndarray]) -> str:
    """Everything that the predicted pixels depend on, in a line."""
    return f"{predictor.identity}, input {pixel_digest(inputs)}."


def identity_of_movie(predictor: Predictor, digests: Sequence[str]) -> str:
    """`identity_of` time points, by the `pixel_digest` of the inputs of each."""
    digest = hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()
    return f"{predictor.identity}, input {digest}."


def pixel_digest(inputs: Sequence[np.ndarray]) -> str:
    """Of the pixels, 16 letters."""
    pixels = hashlib.blake2b(digest_size=8)
    for array in inputs:
        pixels.update(np.ascontiguousarray(array).data)
        release(array)
    return pixels.hexdigest()

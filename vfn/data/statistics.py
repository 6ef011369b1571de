"""One pass over the data before training: is every image sound, and what are its grey values?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vfn.data.cache import ImageCache, in_parallel
from vfn.data.discovery import ImageSource
from vfn.data.illumination import FlatField, MeanImage
from vfn.data.input_shift import TrainingDistribution, field_statistics
from vfn.data.intensity import Histogram, to_dtype
from vfn.data.pixels import present, read_sample, target_dtype
from vfn.data.samples import Sample
from vfn.errors import UserError


@dataclass(frozen=True)
class LinearMap:
    """The two baselines that any network must beat, in grey values.

    Attributes:
        weights: (Ct, Ci) and `offset` (Ct,): least squares of the targets on the inputs over all
            training pixels. Strong where one stain bleeds into the other's channel.
        mean: (Ct,) of the targets over the training pixels.
    """

    weights: np.ndarray
    offset: np.ndarray
    mean: np.ndarray

    def predict(self, inputs: Sequence[np.ndarray], dtypes: Sequence[str]) -> dict[str, np.ndarray]:
        """Baseline predictions "mean" and "linear", each (Ct, H, W) in the targets' dtype.

        Args:
            inputs: Ci arrays (H, W) in grey values.
            dtypes: of the targets.
        """
        x = np.stack([array.astype(np.float64) for array in inputs])
        linear = np.einsum("tc,chw->thw", self.weights, x) + self.offset[:, None, None]
        mean = np.broadcast_to(self.mean[:, None, None], linear.shape)
        both = {"mean": mean, "linear": linear}
        return {
            name: np.stack([to_dtype(g, d) for g, d in zip(grey, dtypes, strict=True)])
            for name, grey in both.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {key: getattr(self, key).tolist() for key in ("weights", "offset", "mean")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LinearMap":
        """The inverse of `to_dict`."""
        return cls(*(np.asarray(data[key], float) for key in ("weights", "offset", "mean")))


class _Moments:
    """Sums for least squares of one target with an intercept, streamed over pixels in float64."""

    def __init__(self, inputs: int) -> None:
        self.count = 0
        self.sums = np.zeros(inputs + 1)
        self.products = np.zeros((inputs + 1, inputs + 1))

    def add(self, flat: np.ndarray) -> None:
        """Pixels (inputs + 1, n)."""
        self.count += flat.shape[1]
        self.sums += flat.sum(1)
        self.products += flat @ flat.T

    def fit(self) -> tuple[np.ndarray, float, float, float]:
        """Weights (inputs,), offset, mean of the target, and the share of its variance that the map
        explains (R^2); 0 for a constant target."""
        mean = self.sums / self.count
        covariance = self.products / self.count - np.outer(mean, mean)
        # lstsq: two inputs may be the same image, and the map must exist all the same.
        weights = np.linalg.lstsq(covariance[:-1, :-1], covariance[:-1, -1], rcond=None)[0]
        variance = float(covariance[-1, -1])
        explained = float(weights @ covariance[:-1, -1]) / variance if variance > 0 else 0.0
        return weights, float(mean[-1] - weights @ mean[:-1]), float(mean[-1]), explained


@dataclass(frozen=True)
class DatasetStatistics:
    """What the pass found.

    Attributes:
        histograms: of the training pixels, inputs first, then targets; corrected for illumination
            where that is asked for.
        baselines: fitted on the training pixels as they are on disk.
        envelopes: of each input, over the training fields.
        explained: of each target, the share of the training pixels' variance that its linear map
            explains (R^2).
        fields: how many training samples have each target.
        pixel_size: micrometres, of the first input of the first training sample; None if not stated.
    """

    histograms: tuple[Histogram, ...]
    baselines: LinearMap
    envelopes: tuple[TrainingDistribution, ...]
    explained: tuple[float, ...]
    fields: tuple[int, ...]
    pixel_size: float | None


def survey(
    train: Sequence[Sample],
    others: Sequence[Sample],
    store: ImageCache,
    flats: Sequence[FlatField | None],
) -> DatasetStatistics:
    """Read every sample once: check all of them, and measure the training ones.

    Args:
        flats: of each channel, inputs first.

    Raises:
        UserError: an image that cannot be used; dtypes that differ between fields.
    """
    inputs, targets = len(train[0].inputs), len(train[0].targets)
    moments = [_Moments(inputs) for _ in range(targets)]
    histograms: list[Histogram | None] = [None] * (inputs + targets)
    sources: list[ImageSource | None] = [None] * (inputs + targets)
    statistics: list[list[dict[str, float]]] = [[] for _ in range(inputs)]
    training = {id(sample) for sample in train}

    def measure(sample: Sample) -> tuple[Sample, list[np.ndarray | None], list[dict[str, float]]]:
        arrays = read_sample(sample, store)
        numbers = (
            [field_statistics(a) for a in present(arrays[:inputs])]
            if id(sample) in training
            else []
        )
        return sample, arrays, numbers

    for sample, arrays, numbers in in_parallel(
        measure, [*train, *others], "reading images", len(train) + len(others)
    ):
        for channel, (plane, array) in enumerate(
            zip(sample.inputs + sample.targets, arrays, strict=True)
        ):
            if plane is None or array is None:
                continue
            target = channel - inputs
            dtype = array.dtype if target < 0 else target_dtype(sample, target, array, store)
            histogram = histograms[channel]
            if histogram is None:
                histogram, sources[channel] = Histogram(dtype), plane
                histograms[channel] = histogram
            if dtype != histogram.dtype:
                raise UserError(
                    f"{plane}: is {dtype}, but {sources[channel]} is {histogram.dtype}; "
                    "save one channel in one dtype throughout"
                )
            if id(sample) in training:
                flat = flats[channel]
                grey = array if flat is None else flat.correct(array, sample.region)
                histogram.add(to_dtype(grey, dtype.name) if grey.dtype != dtype else grey)
        if id(sample) in training:
            for known, number in zip(statistics, numbers, strict=True):
                known.append(number)
            flat_pixels = [a.ravel().astype(np.float64) for a in present(arrays[:inputs])]
            for sums, array in zip(moments, arrays[inputs:], strict=True):
                if array is not None:
                    sums.add(np.stack([*flat_pixels, array.ravel().astype(np.float64)]))
    weights, offset, mean, explained = zip(*(sums.fit() for sums in moments), strict=True)
    return DatasetStatistics(
        tuple(h for h in histograms if h is not None),
        LinearMap(np.stack(weights), np.array(offset), np.array(mean)),
        tuple(TrainingDistribution.fit(known) for known in statistics),
        explained,
        tuple(sum(sample.targets[i] is not None for sample in train) for i in range(targets)),
        train[0].inputs[0].pixel_size,
    )


def mean_images(train: Sequence[Sample], store: ImageCache, channels: int) -> list[MeanImage]:
    """The mean of each channel over the training fields, for its flat field.

    Whole fields, also where a field is divided in space: falloff belongs to the microscope.

    Raises:
        UserError: fields of different sizes.
    """
    means = [MeanImage() for _ in range(channels)]
    whole = [replace(sample, region=None, offsets=()) for sample in train]
    for arrays in in_parallel(
        lambda sample: read_sample(sample, store), whole, "averaging fields", len(whole)
    ):
        for mean, array in zip(means, arrays, strict=True):
            if array is not None:
                mean.add(array)
    return means

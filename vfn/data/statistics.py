"""Statistics of a data set, from one pass over it before training.

Whole images that the store holds are known from its index (`ImageStatistics`): their pixels are not read again. What needs
the pixels of several channels together is fitted on a sample of the training fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vfn.data.cache import ImageCache, in_parallel
from vfn.data.discovery.fields import ImageSource
from vfn.data.illumination import FlatField, MeanImage
from vfn.data.image_statistics import ImageStatistics
from vfn.data.input_shift import TrainingDistribution, field_statistics
from vfn.data.intensity import FieldLevel, Histogram, field_levels, standardised, to_dtype
from vfn.data.linear_filter import FilterSums, LinearFilter
from vfn.data.pixels import peek_sample, present, read_sample, target_dtype
from vfn.data.samples import Sample
from vfn.errors import UserError

FITTED = 200  # training samples that have a target and that its linear map and filter are fitted on
SEED = 0  # of their choice


@dataclass(frozen=True)
class Baselines:
    """Simple predictions that any network must beat, in grey values, fitted on the training pixels.

    Attributes:
        weights: (Ct, Ci) and `offset` (Ct,): least squares of the targets on the inputs over the
            training pixels, of `FITTED` samples where there are more, inputs standardised where the
            network sees them so. Strong where one stain bleeds into the other's channel.
        mean: (Ct,) of the targets over the training pixels.
        median: (Ct,), the same, the constant with the least absolute error; exact up to 16 bit, else of
            20,000 pixels of each image.
        filter: linear filter of the inputs, fitted on the same samples as `weights`.
    """

    weights: np.ndarray
    offset: np.ndarray
    mean: np.ndarray
    median: np.ndarray
    filter: LinearFilter

    def predict(self, inputs: Sequence[np.ndarray], dtypes: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the predictions "mean", "linear", "median" and "filter", each (Ct, H, W) in the targets' dtype.

        Args:
            inputs: Ci arrays (H, W) in grey values, `standardised` where the network sees them so.
            dtypes: of the targets.
        """
        x = np.stack([array.astype(np.float64) for array in inputs])
        linear = np.einsum("tc,chw->thw", self.weights, x) + self.offset[:, None, None]
        found = {
            "mean": np.broadcast_to(self.mean[:, None, None], linear.shape),
            "linear": linear,
            "median": np.broadcast_to(self.median[:, None, None], linear.shape),
            "filter": self.filter.predict(inputs),
        }
        return {
            name: np.stack([to_dtype(g, d) for g, d in zip(grey, dtypes, strict=True)])
            for name, grey in found.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the checkpoint."""
        arrays = ("weights", "offset", "mean", "median")
        return {key: getattr(self, key).tolist() for key in arrays} | {
            "filter": self.filter.to_dict()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Baselines":
        """Invert `to_dict`."""
        weights, offset, mean, median = (
            np.asarray(data[key], float) for key in ("weights", "offset", "mean", "median")
        )
        kernels = LinearFilter.from_dict(data["filter"], weights.shape)
        return cls(weights, offset, mean, median.reshape(mean.shape), kernels)


class _Moments:
    """Sums for least squares of one target with an intercept, streamed over pixels in float64."""

    def __init__(self, inputs: int) -> None:
        self.count = 0
        self.sums = np.zeros(inputs + 1)
        self.products = np.zeros((inputs + 1, inputs + 1))

    def add(self, flat: np.ndarray) -> None:
        """Add pixels (inputs + 1, n)."""
        self.count += flat.shape[1]
        self.sums += flat.sum(1)
        self.products += flat @ flat.T

    def fit(self) -> tuple[np.ndarray, float, float, float]:
        """Return weights (inputs,), offset, mean of the target, and the share of its variance that the map
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
    """Statistics of the training samples.

    Attributes:
        histograms: of the training pixels, inputs first, then targets; corrected for illumination
            where that is asked for, and of standardised inputs where the network sees them so.
        dtypes: of the images of each channel.
        baselines: fitted on the training pixels as they are on disk.
        fitted: how many training samples the linear ones of these were fitted on.
        envelopes: of each input, over the training fields.
        explained: of each target, the share of the variance that its linear map explains (R^2), over
            the samples that it was fitted on.
        fields: how many training samples have each target.
        pixel_size: micrometres, of the first input of the first training sample; None if not stated.
    """

    histograms: tuple[Histogram, ...]
    dtypes: tuple[str, ...]
    baselines: Baselines
    fitted: int
    envelopes: tuple[TrainingDistribution, ...]
    explained: tuple[float, ...]
    fields: tuple[int, ...]
    pixel_size: float | None


_Measured = tuple[
    Sample,
    list[np.ndarray | None],
    list[ImageStatistics | None],
    list[FieldLevel | None],
    list[dict[str, float]],
]  # the arguments of `_Survey.add`


class _GreyValues:
    """Histogram of one channel; every image of it must have one dtype.

    Args:
        per_field: it counts standardised pixels.
    """

    def __init__(self, per_field: bool = False) -> None:
        self.per_field = per_field
        self.histogram: Histogram | None = None
        self.first: ImageSource | None = None
        self.dtype = np.dtype(np.float32)

    def meet(self, plane: ImageSource, dtype: np.dtype) -> Histogram:
        """Return the histogram, made for the first plane.

        Raises:
            UserError: another dtype than the first plane's.
        """
        if self.histogram is None:
            counted = np.dtype(np.float32) if self.per_field else dtype
            self.histogram, self.first, self.dtype = Histogram(counted), plane, dtype
        if dtype != self.dtype:
            raise UserError(
                f"{plane}: is {dtype}, but {self.first} is {self.dtype}; "
                "save one channel in one dtype throughout"
            )
        return self.histogram


class _Survey:
    """Sums over the samples that were read so far; those of the training alone are measured."""

    def __init__(
        self,
        train: Sequence[Sample],
        store: ImageCache,
        flats: Sequence[FlatField | None],
        per_field: Sequence[bool],
    ) -> None:
        sample, self.whole = train[0], len(train) <= FITTED
        self.training, self.fitted = {id(s) for s in train}, _drawn(train)  # by their id
        self.per_field = per_field
        # The store's index knows images as they are on disk.
        self.indexed = all(flat is None for flat in flats) and not any(per_field)
        self.store, self.flats, self.inputs = store, flats, len(sample.inputs)
        self.grey = [_GreyValues(one) for one in per_field]
        self.grey += [_GreyValues() for _ in sample.targets]
        self.raw = [_GreyValues() for _ in sample.targets]  # before illumination is corrected
        self.windows = FilterSums(self.inputs, len(sample.targets), len(self.fitted))
        self.moments = [_Moments(self.inputs) for _ in sample.targets]
        self.statistics: list[list[dict[str, float]]] = [[] for _ in sample.inputs]

    def read(self, sample: Sample) -> _Measured:
        """Read a sample, its pixels only where the store's index does not tell enough of them."""
        trains = id(sample) in self.training
        known = _known(sample, self.store) if trains and self.indexed else []
        checked = known or not trains  # when it was decoded
        if id(sample) in self.fitted or not (checked and all(map(self.store.holds, sample.planes))):
            arrays = read_sample(sample, self.store)
        else:
            arrays = peek_sample(sample, self.store)
        if not trains:
            return sample, arrays, known, [], []
        inputs = present(arrays[: self.inputs])
        levels = field_levels(inputs, self.per_field)
        numbers = [image.shift for image in known[: self.inputs] if image is not None]
        numbers = numbers or [field_statistics(*pair) for pair in zip(inputs, levels, strict=True)]
        return sample, arrays, known, levels, numbers

    def add(
        self,
        sample: Sample,
        arrays: Sequence[np.ndarray | None],
        known: Sequence[ImageStatistics | None],
        levels: Sequence[FieldLevel | None],
        numbers: list[dict[str, float]],
    ) -> None:
        """Check a sample and, if it comes with the `field_statistics` of its inputs, measure it.

        Args:
            known: from the store's index, for each of `arrays`; empty if that does not know the sample.
            levels: of the inputs, None for those that share a range.
        """
        planes = sample.inputs + sample.targets
        for channel, (plane, array) in enumerate(zip(planes, arrays, strict=True)):
            if plane is None or array is None:
                continue
            target = channel - self.inputs
            dtype = array.dtype
            if target >= 0:
                dtype = target_dtype(sample, target, array, self.store)
            histogram = self.grey[channel].meet(plane, dtype)
            if known and (image := known[channel]) is not None:
                histogram.merge(image.lowest, image.counts)
            elif numbers:
                level = levels[channel] if target < 0 else None
                self._count(sample, channel, array, dtype, level)
        for one, number in zip(self.statistics, numbers, strict=False):
            one.append(number)
        if id(sample) in self.fitted:
            inputs = present(arrays[: self.inputs])
            seen = [standardised(a, level) for a, level in zip(inputs, levels, strict=True)]
            self._add_moments(seen, arrays[self.inputs :])

    def _count(
        self,
        sample: Sample,
        channel: int,
        array: np.ndarray,
        dtype: np.dtype,
        level: FieldLevel | None,
    ) -> None:
        """Count the grey values of an image, corrected and standardised as the network sees them."""
        plane = (sample.inputs + sample.targets)[channel]
        flat, target = self.flats[channel], channel - self.inputs
        assert plane is not None
        grey = array if flat is None else flat.correct(array, sample.region)
        counted = standardised(grey, level) if level else _as(grey, dtype)
        self.grey[channel].meet(plane, dtype).add(counted)
        if target >= 0 and flat is not None:
            self.raw[target].meet(plane, dtype).add(_as(array, dtype))

    def _add_moments(
        self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]
    ) -> None:
        pixels = [a.ravel().astype(np.float64) for a in inputs]
        for sums, array in zip(self.moments, targets, strict=True):
            if array is not None:
                sums.add(np.stack([*pixels, array.ravel().astype(np.float64)]))
        self.windows.add(inputs, targets)

    def baselines(self) -> tuple[Baselines, tuple[float, ...]]:
        """Return the baselines, and the share of each target's variance that the linear map explains."""
        weights, offset, mean, explained = zip(*(sums.fit() for sums in self.moments), strict=True)
        histograms = [
            histogram
            for raw, corrected in zip(self.raw, self.grey[self.inputs :], strict=True)
            if (histogram := raw.histogram or corrected.histogram) is not None
        ]
        if not self.whole:
            means = zip(histograms, mean, strict=True)
            mean = tuple(h.mean() if h.exact else sampled for h, sampled in means)
        fitted = Baselines(
            np.stack(weights),
            np.array(offset),
            np.array(mean),
            np.array([float(h.quantiles(np.array([0.5]))[0]) for h in histograms]),
            self.windows.fit(),
        )
        return fitted, explained


def _as(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array if array.dtype == dtype else to_dtype(array, dtype.name)


def _drawn(train: Sequence[Sample]) -> set[int]:
    """Draw the samples that linear baselines are fitted on: `FITTED` of those that have each target, or all."""
    if len(train) <= FITTED:
        return {id(sample) for sample in train}
    chosen: set[int] = set()
    order = np.random.default_rng(SEED).permutation(len(train))
    for target in range(len(train[0].targets)):
        having = [id(train[i]) for i in order if train[i].targets[target] is not None]
        chosen.update(having[:FITTED])
    return chosen


def _known(sample: Sample, store: ImageCache) -> list[ImageStatistics | None]:
    """Return the statistics in the store's index, inputs first; empty unless they are those of the sample."""
    if sample.region is not None or sample.offsets:
        return []
    known = {plane: store.statistics(plane) for plane in sample.planes}
    if any(one is None for one in known.values()):
        return []
    return [None if plane is None else known[plane] for plane in sample.inputs + sample.targets]


def survey(
    train: Sequence[Sample],
    others: Sequence[Sample],
    store: ImageCache,
    flats: Sequence[FlatField | None],
    per_field: Sequence[bool] = (),
) -> DatasetStatistics:
    """Check every sample, and measure the training ones; pixels that the store's index tells enough of are not read.

    Args:
        flats: flat field of each channel, inputs first.
        per_field: of each input, whether its fields are standardised; empty for none.

    Raises:
        UserError: an image that cannot be used; dtypes that differ between fields.
    """
    alone = tuple(per_field) or (False,) * len(train[0].inputs)
    found = _Survey(train, store, flats, alone)
    samples = [*train, *others]
    for read in in_parallel(found.read, samples, "reading images", len(samples)):
        found.add(*read)
    baselines, explained = found.baselines()
    return DatasetStatistics(
        tuple(one.histogram for one in found.grey if one.histogram is not None),
        tuple(one.dtype.name for one in found.grey),
        baselines,
        len(found.fitted),
        tuple(TrainingDistribution.fit(known) for known in found.statistics),
        explained,
        tuple(sum(s.targets[i] is not None for s in train) for i in range(len(found.moments))),
        train[0].inputs[0].pixel_size,
    )


def mean_images(train: Sequence[Sample], store: ImageCache, channels: int) -> list[MeanImage]:
    """Return the mean image of each channel over the training fields, for its flat field.

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

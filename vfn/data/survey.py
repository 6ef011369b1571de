"""One pass over the data before training: is every image sound, and what are its grey values?"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from vfn.data.discovery import Plane
from vfn.data.intensity import Histogram, to_dtype
from vfn.data.views import View
from vfn.errors import UserError
from vfn.progress import progress


class PlaneCache:
    """Decoded planes, kept in memory as long as they fit; what does not fit is decoded each time."""

    def __init__(self, gigabytes: float) -> None:
        self._left = int(gigabytes * 2**30)
        self._planes: dict[Plane, np.ndarray] = {}

    def read(self, plane: Plane) -> np.ndarray:
        """Pixels (H, W) of `plane`."""
        array = self._planes.get(plane)
        if array is None:
            array = plane.read()
            if array.nbytes <= self._left:  # two threads may both count it: the bound stays a bound
                self._left -= array.nbytes
                self._planes[plane] = array
        return array

    def stack(self, planes: Sequence[Plane], view: View) -> list[np.ndarray]:
        """Planes of one view (H, W), each in its own dtype, cropped to the view's region.

        Raises:
            UserError: they differ in size, which the message names.
        """
        arrays = [self.read(plane) for plane in planes]
        for plane, array in zip(planes, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise UserError(
                    f"field {view.name}: {planes[0]} is {_size(arrays[0])} pixels and {plane} is "
                    f"{_size(array)}; channels of one field must have one size"
                )
        return [view.crop(array) for array in arrays]


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


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
    """Sums for least squares with an intercept, streamed over pixels in float64."""

    def __init__(self, inputs: int, targets: int) -> None:
        size = inputs + targets
        self.inputs, self.count = inputs, 0
        self.sums = np.zeros(size)
        self.products = np.zeros((size, size))

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        flat = np.stack([array.ravel().astype(np.float64) for array in arrays])
        self.count += flat.shape[1]
        self.sums += flat.sum(1)
        self.products += flat @ flat.T

    def fit(self) -> LinearMap:
        n = self.inputs
        mean = self.sums / self.count
        covariance = self.products / self.count - np.outer(mean, mean)
        # lstsq: two inputs may be the same image, and the map must exist all the same.
        weights = np.linalg.lstsq(covariance[:n, :n], covariance[:n, n:], rcond=None)[0].T
        return LinearMap(weights, mean[n:] - weights @ mean[:n], mean[n:])


@dataclass(frozen=True)
class Survey:
    """What the pass found.

    Attributes:
        histograms: of the training pixels, inputs first, then targets.
        baselines: fitted on the training pixels.
        pixel_size: micrometres, of the first input of the first training view; None if not stated.
    """

    histograms: tuple[Histogram, ...]
    baselines: LinearMap
    pixel_size: float | None


def read_in_parallel(
    views: Sequence[View], cache: PlaneCache, label: str
) -> Iterator[tuple[View, list[np.ndarray]]]:
    """(view, its input and target planes) in order, decoded by as many threads as there are cores."""

    def load(view: View) -> tuple[View, list[np.ndarray]]:
        return view, cache.stack(view.inputs + view.targets, view)

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        try:
            # Chunks bound what waits in memory when decoding outruns the reader.
            chunks = (views[i : i + 4 * workers] for i in range(0, len(views), 4 * workers))
            items = (item for chunk in chunks for item in pool.map(load, chunk))
            yield from progress(items, len(views), label)
        finally:
            pool.shutdown(cancel_futures=True)


def survey(train: Sequence[View], others: Sequence[View], cache: PlaneCache) -> Survey:
    """Read every view once: check all of them, and measure the training ones.

    Raises:
        UserError: an image that cannot be used; dtypes that differ between fields.
    """
    inputs, targets = len(train[0].inputs), len(train[0].targets)
    moments = _Moments(inputs, targets)
    histograms: list[Histogram] = []
    training = {id(view) for view in train}
    first: View | None = None
    for view, arrays in read_in_parallel([*train, *others], cache, "reading images"):
        if first is None:
            first = view
            histograms = [Histogram(array.dtype) for array in arrays]
        planes = zip(view.inputs + view.targets, first.inputs + first.targets, strict=True)
        for (plane, one), array, histogram in zip(planes, arrays, histograms, strict=True):
            if array.dtype != histogram.dtype:
                raise UserError(
                    f"{plane}: is {array.dtype}, but {one} is {histogram.dtype}; "
                    "save one channel in one dtype throughout"
                )
            if id(view) in training:
                histogram.add(array)
        if id(view) in training:
            moments.add(arrays)
    assert first is not None
    return Survey(tuple(histograms), moments.fit(), first.inputs[0].pixel_size)

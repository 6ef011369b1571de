"""The classical way to refocus, which a network must beat: Wiener deconvolution.

The blur is modelled as a Gaussian. Its width, the regularisation and the scale of grey values are
chosen for each distance from focus so that training fields come out nearest to their focal plane
(least squares), and at evaluation the distance is given: more than a microscopist would know.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import wiener

from vfn.data.cache import ImageCache
from vfn.data.intensity import to_dtype
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample, Task

Float = NDArray[np.float64]

SIGMAS = tuple(np.geomspace(0.5, 16, 11).round(2).tolist())  # px
BALANCES = tuple(10.0**power for power in range(-5, 2))  # of skimage.restoration.wiener
CROPS = 3  # training fields that a depth is fitted on
SIDE = 256  # px of them


class Pair(NamedTuple):
    """A plane and the focal plane of the same field, (H, W) grey values."""

    z: float
    blurred: NDArray[np.generic]
    sharp: NDArray[np.generic]


@dataclass(frozen=True)
class Filter:
    """Wiener filter for one distance from focus.

    Attributes:
        sigma: width of the Gaussian, px.
        balance: of regularisation against data.
        gain, offset: map the result to grey values.
    """

    sigma: float
    balance: float
    gain: float
    offset: float

    def apply(self, image: NDArray[np.generic]) -> Float:
        """(H, W) -> (H, W), grey values."""
        return self.gain * _deconvolved(image, self.sigma, self.balance) + self.offset


@dataclass(frozen=True)
class Deconvolution:
    """A filter for each |z| in um."""

    filters: Mapping[float, Filter]

    @classmethod
    def fit(cls, pairs: Iterable[Pair]) -> "Deconvolution":
        """Choose the filters by a grid search over widths and balances for each |z|."""
        by_depth: dict[float, list[Pair]] = {}
        for pair in pairs:
            by_depth.setdefault(abs(pair.z), []).append(pair)
        return cls({depth: _best(some) for depth, some in sorted(by_depth.items())})

    @classmethod
    def fit_samples(
        cls, samples: Sequence[Sample], task: Task, store: ImageCache
    ) -> "Deconvolution | None":
        """Fit on the middles of some training fields; None if the task does not refocus a channel."""
        if not (task.input_z and len(task.inputs) == 1 and task.inputs == task.targets):
            return None
        depths: dict[float, list[Sample]] = {}
        for sample in samples:
            depths.setdefault(abs(sample.z), []).append(sample)
        chosen = [
            some[int(i * max(1, len(some) / CROPS))]
            for some in depths.values()
            for i in range(min(CROPS, len(some)))
        ]
        return cls.fit(_middle(sample, store) for sample in chosen)

    def apply(self, image: NDArray[np.generic], z: float) -> NDArray[Any]:
        """Refocus one plane (H, W) that lies `z` um from focus; the dtype stays.

        A depth that was not fitted takes the nearest filter.
        """
        nearest = min(self.filters, key=lambda depth: abs(depth - abs(z)))
        return to_dtype(self.filters[nearest].apply(image), image.dtype.name)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain data, for the checkpoint: |z| -> sigma, balance, gain, offset."""
        return {
            f"{depth:g}": [f.sigma, f.balance, f.gain, f.offset]
            for depth, f in self.filters.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[float]]) -> "Deconvolution":
        """The inverse of `to_dict`."""
        return cls({float(depth): Filter(*map(float, f)) for depth, f in data.items()})


def _middle(sample: Sample, store: ImageCache) -> Pair:
    blurred, sharp = present(read_sample(sample, store))
    cut = tuple(slice(max(0, (n - SIDE) // 2), (n + SIDE) // 2) for n in sharp.shape)
    return Pair(sample.z, blurred[cut], sharp[cut])


def _best(pairs: Sequence[Pair]) -> Filter:
    sharp = np.concatenate([pair.sharp.astype(np.float64).ravel() for pair in pairs])
    # Doing nothing but scaling is in the race, as a width of 0.
    blurred = np.concatenate([pair.blurred.astype(np.float64).ravel() for pair in pairs])
    best = _scaled(blurred, sharp, 0.0, 0.0)
    for sigma in SIGMAS:
        for balance in BALANCES:
            parts = [_deconvolved(pair.blurred, sigma, balance).ravel() for pair in pairs]
            new = _scaled(np.concatenate(parts), sharp, sigma, balance)
            best = min(best, new, key=lambda candidate: candidate[0])
    return best[1]


def _scaled(x: Float, truth: Float, sigma: float, balance: float) -> tuple[float, Filter]:
    """Mean squared error with the best gain and offset, and the filter."""
    variance = float(x.var())
    gain = float(((x - x.mean()) * (truth - truth.mean())).mean()) / variance if variance else 0.0
    offset = float(truth.mean() - gain * x.mean())
    error = float(((gain * x + offset - truth) ** 2).mean())
    return error, Filter(sigma, balance, gain, offset)


def _deconvolved(image: NDArray[np.generic], sigma: float, balance: float) -> Float:
    """Apply Wiener's filter to a field that is mirrored at its edges."""
    x = image.astype(np.float64)
    if not sigma:
        return x
    margin = int(4 * sigma) + 8
    low = x.min()
    span = float(np.ptp(x)) or 1.0  # the balance means the same for any grey values
    padded = np.pad((x - low) / span, margin, mode="symmetric")
    axis = np.arange(-margin, margin + 1)
    line = np.exp(-(axis**2) / (2 * sigma**2))
    psf = np.outer(line, line)
    sharp = wiener(padded, psf / psf.sum(), balance, clip=False)  # type: ignore[no-untyped-call]
    return np.asarray(sharp[margin:-margin, margin:-margin]) * span + low

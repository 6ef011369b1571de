"""Linear filter of the inputs, a baseline: the weighted sum of the 7x7 pixels about each pixel of each input.

It sees what a pixel-wise map does not: blur, sharpening, the ground about a cell. The weights minimise the squared
error over a fixed sample of training pixels, with a ridge penalty for weights that neighbours leave undecided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TAPS = 7  # a side
REACH = TAPS // 2
# Of the penalty, in units of each input's variance. On three real sets 1e-6 to 1e-3 score within 0.03 dB.
RIDGE = 1e-4
# In all, shared out evenly to the training samples: 4000 for each weight of one input.
WINDOWS = 200_000
SEED = 0
_CHUNK = 4096  # windows that are in memory at once


@dataclass(frozen=True)
class LinearFilter:
    """Weights in grey values.

    Attributes:
        kernels: (Ct, Ci, 7, 7), not flipped: the centre weighs the pixel itself.
        offset: (Ct,) grey values.
    """

    kernels: np.ndarray
    offset: np.ndarray

    def predict(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return (Ct, H, W) float64 from Ci arrays (H, W), which are mirrored at their borders."""
        # Takes a second to import, and predict.py does not need it.
        from scipy.ndimage import correlate  # type: ignore[attr-defined]

        filtered = [
            [correlate(image.astype(np.float64), kernel, mode="mirror") for kernel in kernels]
            for image, kernels in zip(inputs, self.kernels.swapaxes(0, 1), strict=True)
        ]
        return np.asarray(np.sum(filtered, 0) + self.offset[:, None, None])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the checkpoint."""
        return {"kernels": self.kernels.tolist(), "offset": self.offset.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], shape: tuple[int, ...]) -> "LinearFilter":
        """The inverse of `to_dict`, for a model of `shape` (Ct, Ci)."""
        kernels, offset = (np.asarray(data[key], float) for key in ("kernels", "offset"))
        if kernels.shape != (*shape, TAPS, TAPS) or offset.shape != shape[:1]:
            raise ValueError(f"a linear filter of {kernels.shape} for {shape}")
        return cls(kernels, offset)


class FilterSums:
    """Normal equations of the filter, streamed over samples in float64.

    Args:
        inputs, targets: numbers of channels.
        samples: that will be added.
    """

    def __init__(self, inputs: int, targets: int, samples: int) -> None:
        self.inputs, self.share, self.seen = inputs, -(-WINDOWS // samples), 0
        size = inputs * TAPS**2 + 1  # the last unknown is the offset
        self.products = np.zeros((targets, size, size))
        self.cross = np.zeros((targets, size))

    def add(self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]) -> None:
        """Add a sample's share of windows, at places drawn by its number; all pixels if it has no more."""
        height, width = inputs[0].shape
        places = np.arange(height * width)
        if len(places) > self.share:
            rng = np.random.default_rng((SEED, self.seen))
            places = rng.choice(len(places), self.share, replace=False, shuffle=False)
        self.seen += 1
        mirrored = [np.pad(array, REACH, mode="reflect") for array in inputs]
        views = [np.lib.stride_tricks.sliding_window_view(m, (TAPS, TAPS)) for m in mirrored]
        for start in range(0, len(places), _CHUNK):
            rows, columns = np.divmod(places[start : start + _CHUNK], width)
            windows = [view[rows, columns].reshape(len(rows), -1) for view in views]
            x = np.hstack([*windows, np.ones((len(rows), 1))]).astype(np.float64)
            products = x.T @ x
            for target, array in enumerate(targets):
                if array is not None:
                    self.products[target] += products
                    self.cross[target] += array[rows, columns].astype(np.float64) @ x

    def fit(self) -> LinearFilter:
        """Return the weights of every target; each must have been in a sample."""
        fitted = [self._solve(*sums) for sums in zip(self.products, self.cross, strict=True)]
        kernels, offset = zip(*fitted, strict=True)
        return LinearFilter(np.stack(kernels), np.array(offset))

    def _solve(self, products: np.ndarray, cross: np.ndarray) -> tuple[np.ndarray, float]:
        count = products[-1, -1]
        mean, target = products[-1, :-1] / count, cross[-1] / count
        covariance = products[:-1, :-1] / count - np.outer(mean, mean)
        variance = np.diag(covariance).reshape(self.inputs, -1).mean(1).clip(min=0)
        penalty = np.repeat(RIDGE * np.where(variance > 0, variance, 1), TAPS**2)
        weights = np.linalg.solve(covariance + np.diag(penalty), cross[:-1] / count - mean * target)
        return weights.reshape(self.inputs, TAPS, TAPS), float(target - weights @ mean)

"""Grey values to [-1, 1] and back: one invertible map a channel, fitted on the training split.

The level of transmitted light differs from field to field and says nothing of the cells, so such an input
may be standardised field by field first (`FieldLevel`).

Paper, sec. 2.3: "All images were preprocessed with [-1, 1] normalization only", histogram
equalisation for MDA-MB-231 alone, and predictions "inversely normalized to the original image
range". The paper equalises each image by itself, which cannot be undone for an image that is not
there yet; here the equalising curve is fitted once over the training split, so it can.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from vfn.errors import UserError

RANGE_MODES = ("percentile", "full", "minmax", "fixed")
KNOTS = 257  # of the equalising curve: one for each of 256 equally filled grey classes
# The top of a channel is cut off where so much of its pixels in the upper half of the range lies above
# the range, and the brightest so far beyond it (shares of these pixels, and of the range). Of 59 channels of
# real sets with the default percentiles none has more than 0.19 with 0.10, or 0.13 with 0.53; bright
# cells that fill less than 0.1 % of the fields have 0.5 with 0.7.
CUT_SHARE, CUT_BEYOND = 0.25, 0.25
PART = 2**22  # pixels that are counted at once: NumPy widens them to 64 bits
LEVEL = (2.0, 50.0, 98.0)  # percentiles that tell a field's level: few pixels move none of them
SAMPLES = 90_000  # pixels that tell percentiles and mean of a field well enough
# A curve that is flat would have no inverse: this share of the straight line is mixed in.
STRAIGHT = 0.05


class Histogram:
    """Grey values of one channel over many images: exact up to 16 bit, sampled beyond."""

    SAMPLES = 20_000  # values kept of each image that is sampled

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.exact = countable(dtype)
        self.lowest = np.iinfo(dtype).min if self.exact else 0
        self.counts = np.zeros(2 ** (8 * dtype.itemsize) if self.exact else 0, np.int64)
        self.samples: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> None:
        """Count the pixels of `array`, of any shape."""
        if self.exact:
            self.merge(*counted(array))
        else:
            flat = array.ravel()
            step = max(1, flat.size // self.SAMPLES)
            # The extremes are kept, so that "minmax" holds here too.
            self.samples += [flat[::step], np.array([flat.min(), flat.max()])]

    def merge(self, first: int, counts: np.ndarray) -> None:
        """Add what `counted` returned for an image; for dtypes that are exact."""
        start = first - self.lowest
        self.counts[start : start + len(counts)] += counts

    def mean(self) -> float:
        """Return the mean of the pixels; for dtypes that are exact."""
        values = np.arange(self.lowest, self.lowest + len(self.counts))
        return float(self.counts @ values / self.counts.sum())

    def above(self, value: float) -> float:
        """Share of the pixels that are larger."""
        if not self.exact:
            return float(np.mean(np.concatenate(self.samples) > value))
        first = max(0, int(np.floor(value)) - self.lowest + 1)
        return float(self.counts[first:].sum() / max(1, self.counts.sum()))

    def quantiles(self, q: np.ndarray) -> np.ndarray:
        """Grey values at the shares `q` in [0, 1]: the smallest value with that share at or below."""
        if not self.exact:
            return np.quantile(np.concatenate(self.samples), q)
        cumulative = np.cumsum(self.counts)
        rank = np.clip(np.ceil(q * cumulative[-1]), 1, None)
        return np.searchsorted(cumulative, rank).astype(float) + self.lowest


def subsample(image: np.ndarray, samples: int = SAMPLES) -> np.ndarray:
    """Return every n-th row and column of an image (H, W), so that at least `samples` pixels are left."""
    stride = max(1, math.isqrt(image.size // samples))
    return image[::stride, ::stride]


def countable(dtype: np.dtype) -> bool:
    """Return True for integers of at most 16 bit, whose values are counted one by one."""
    return dtype.kind in "ui" and dtype.itemsize <= 2


def counted(array: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the lowest grey value of `array` and the counts of the values from there to the highest.

    Args:
        array: of any shape, in a `countable` dtype.
    """
    flat = array.ravel()
    lowest = int(np.iinfo(array.dtype).min)
    counts = np.zeros(2 ** (8 * array.dtype.itemsize), np.int64)
    for start in range(0, len(flat), PART):
        part = flat[start : start + PART]
        above = part.astype(np.int32) - lowest if lowest else part
        counts += np.bincount(above, minlength=len(counts))
    there = np.flatnonzero(counts)
    return lowest + int(there[0]), counts[there[0] : there[-1] + 1]


class FieldLevel(NamedTuple):
    """Level of one channel in one field.

    Attributes:
        middle: median, in grey values.
        spread: 98th less 2nd percentile, in grey values.
    """

    middle: float
    spread: float

    @classmethod
    def measure(cls, array: np.ndarray) -> "FieldLevel":
        """Measure a whole field (H, W); a field of one grey value has a spread of 1."""
        sample = subsample(array)
        low, middle, high = (float(v) for v in np.percentile(sample, LEVEL))
        spread = high - low or float(sample.max()) - float(sample.min())
        return cls(middle, spread or 1.0)

    def standardised(self, array: np.ndarray) -> np.ndarray:
        """Return grey values of the field, of any shape, as spreads from its median, in float32."""
        shifted = array.astype(np.float32) - np.float32(self.middle)
        return shifted * np.float32(1 / self.spread)


def field_levels(
    inputs: Sequence[np.ndarray], per_field: Sequence[bool]
) -> list[FieldLevel | None]:
    """Return the level of each input (H, W) of a field; None for those that share a range."""
    pairs = zip(inputs, per_field, strict=True)
    return [FieldLevel.measure(array) if alone else None for array, alone in pairs]


def standardised(array: np.ndarray, level: FieldLevel | None) -> np.ndarray:
    """Return pixels of a field by its level, see `FieldLevel.standardised`; as they are without one."""
    return array if level is None else level.standardised(array)


@dataclass(frozen=True)
class IntensityNormaliser:
    """The map of one channel.

    Attributes:
        low, high: grey values that become -1 and 1; beyond them is clipped.
        dtype: of the images that it was fitted on, and of what `restore` gives.
        knots: grey values at equally spaced positions of the equalising curve; None for a line.
        per_field: the map is of standardised fields: `low`, `high` and `knots` are spreads from the
            median of a field, and `normalise` takes `standardised` pixels.
    """

    low: float
    high: float
    dtype: str
    knots: tuple[float, ...] | None = None
    per_field: bool = False

    def range_in(self, field: np.ndarray) -> tuple[float, float]:
        """Return the grey values of a field (H, W) that become -1 and 1."""
        middle, spread = FieldLevel.measure(field) if self.per_field else (0.0, 1.0)
        return middle + spread * self.low, middle + spread * self.high

    @classmethod
    def fit(
        cls,
        histogram: Histogram,
        mode: str,
        percentiles: tuple[float, float],
        equalise: bool,
        fixed: Sequence[float] | None = None,
    ) -> "IntensityNormaliser":
        """Fit on the training pixels.

        Args:
            mode: "full" (all that the dtype holds, the paper's), "percentile", "minmax", or
                "fixed". Floats have no dtype range: "full" is "minmax" for them.
            percentiles: in [0, 100], of "percentile".
            fixed: the range of this channel, (low, high) in grey values; it goes before `mode`.

        Raises:
            UserError: unknown mode, percentiles out of order, a channel of one grey value.
        """
        if mode not in RANGE_MODES:
            raise UserError(f"data.range={mode}: unknown; choose one of {', '.join(RANGE_MODES)}")
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise UserError(
                f"data.percentiles={list(percentiles)}: give two numbers in [0, 100], low first"
            )
        dtype = histogram.dtype
        share = np.array(percentiles) / 100 if mode == "percentile" else np.array([0.0, 1.0])
        low, high = (float(v) for v in histogram.quantiles(share))
        if mode == "full" and dtype.kind in "ui":
            low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        if fixed is not None:
            if len(fixed) != 2 or not fixed[0] < fixed[1]:
                raise UserError(f"data.fixed={list(fixed)}: give two grey values, low first")
            low, high = float(fixed[0]), float(fixed[1])
        elif mode == "fixed":
            raise UserError(
                "data.range=fixed, but no range is given; say data.fixed={CHANNEL: [LOW, HIGH]}"
            )
        if high <= low:
            raise UserError(
                f"all training pixels are {low:g}; the channel is empty, or data.range is too narrow"
            )
        knots = None
        if equalise:
            q = np.linspace(0, 1, KNOTS)
            curve = np.clip(histogram.quantiles(q), low, high)
            curve = (1 - STRAIGHT) * curve + STRAIGHT * np.linspace(low, high, KNOTS)
            curve[0], curve[-1] = low, high
            knots = tuple(float(v) for v in np.maximum.accumulate(curve))
        return cls(low, high, dtype.name, knots)

    def cut_off(self, histogram: Histogram) -> tuple[float, float] | None:
        """Share of the pixels above the range, and the brightest of them, where these are the top of
        what is bright, not mere outliers; else None."""
        share, bright = histogram.above(self.high), histogram.above((self.low + self.high) / 2)
        top = float(histogram.quantiles(np.array([1.0]))[0])
        beyond = top - self.high > CUT_BEYOND * (self.high - self.low)
        return (share, top) if beyond and share > CUT_SHARE * bright else None

    def normalise(self, array: np.ndarray) -> np.ndarray:
        """Grey values to float32 in [-1, 1]; any shape."""
        x = array.astype(np.float32)
        if self.knots is not None:
            position = np.interp(x, self.knots, np.linspace(-1, 1, len(self.knots)))
            return position.astype(np.float32)
        scaled = (x - np.float32(self.low)) * np.float32(2 / (self.high - self.low)) - 1
        return np.clip(scaled, -1, 1, out=scaled)

    def grey(self, array: np.ndarray) -> np.ndarray:
        """[-1, 1] back to grey values, float64; any shape."""
        x = array.astype(np.float64)
        if self.knots is not None:
            return np.interp(x, np.linspace(-1, 1, len(self.knots)), self.knots)
        return (x + 1) * ((self.high - self.low) / 2) + self.low

    def restore(self, array: np.ndarray) -> np.ndarray:
        """[-1, 1] back to grey values in the dtype of the training images, rounded; any shape."""
        return to_dtype(self.grey(array), self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {**asdict(self), "knots": None if self.knots is None else list(self.knots)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "IntensityNormaliser":
        """The inverse of `to_dict`."""
        low, high = float(data["low"]), float(data["high"])
        knots = None if data["knots"] is None else tuple(float(v) for v in data["knots"])
        if not low < high:
            raise ValueError(f"a range from {low:g} to {high:g}")
        if knots is not None and (len(knots) < 2 or not np.all(np.diff(knots) >= 0)):
            raise ValueError("an equalising curve that falls")
        # Checkpoints of earlier versions know the range of the data set alone.
        return cls(low, high, str(data["dtype"]), knots, bool(data.get("per_field", False)))


STRETCHED_FIELDS = 4  # fewer may run from end to end by chance
FEW_TOP, ALIKE_TOP = 1e-4, 2.0  # share of pixels at the top: of a single bright one, and how alike


def stretched(images: Sequence[tuple[float, float, float]], dtype: str) -> bool:
    """Tell whether images of a channel were stretched one by one, so that amounts cannot be compared.

    Every image then runs from the smallest to the largest value of its type, with like shares at the top.

    Args:
        images: lowest and highest grey value of each, and the share of its pixels at the highest.
        dtype: of the images.
    """
    if len(images) < STRETCHED_FIELDS or np.dtype(dtype).kind not in "ui":
        return False
    ends = np.iinfo(dtype)
    if any((low, high) != (ends.min, ends.max) for low, high, _ in images):
        return False
    tops = [top for *_, top in images]
    return max(tops) < FEW_TOP or max(tops) <= ALIKE_TOP * min(tops)


def to_dtype(grey: np.ndarray, dtype: str) -> np.ndarray:
    """Real-valued grey values as `dtype`: rounded and clipped to its range if it is an integer.

    Raises:
        UserError: some are NaN or infinite; nothing is cast then.
    """
    kind = np.dtype(dtype)
    if wrong := grey.size - np.count_nonzero(np.isfinite(grey)):
        raise UserError(
            f"{wrong} of {grey.size} values are NaN or infinite: the training diverged, or the file is "
            "damaged; use another checkpoint, or train anew with a lower learning rate"
        )
    if kind.kind == "f":
        return grey.astype(kind)
    limits = np.iinfo(kind)
    if kind.itemsize > 2:
        grey = grey.astype(np.float64)  # float32 holds none of their limits
    return np.clip(np.rint(grey), limits.min, limits.max).astype(kind)

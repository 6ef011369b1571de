"""The two intensity ranges of the metrics, from one pass over the truth.

The *full* range is what the truth's dtype can hold (the paper's scale); the *signal* range runs from
the 0.1 to the 99.9 percentile of all pixels of the channel in the test set. Percentiles are exact
(NumPy's linear interpolation on the pooled pixels), yet memory stays flat in the number of fields:
pixels become keys of the same order from 0; those of 16 bit are counted, those of 32 bit in two passes
of 16 bits each.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfn.data.images import DTYPES
from vfn.errors import UserError
from vfn.evaluation.pairs import PairSource
from vfn.metrics.contrast import PERCENTILES
from vfn.system.progress import progress

FULL_RANGES = {
    name: (float(np.iinfo(name).min), float(np.iinfo(name).max))
    for name in DTYPES
    if np.dtype(name).kind != "f"
}
_BINS = 1 << 16


@dataclass(frozen=True)
class Range:
    """An interval of intensities in the truth's own units."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """From the lower to the upper end; 0 for a single value."""
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class ChannelRanges:
    """Full and signal range of one channel, and what they were taken from."""

    dtype: str
    full: Range
    signal: Range
    fields: int
    pixels: int

    @property
    def full_origin(self) -> str:
        """Origin of the full range, in words."""
        if self.dtype in FULL_RANGES:
            return f"all values that {self.dtype} can hold"
        return f"smallest to largest pixel of the ground truth in all fields ({self.dtype})"


class _Pixels:
    """Pooled pixels of one channel: a histogram of their keys, or of the upper halves of 32 bits."""

    def __init__(self, dtype: str, field: int) -> None:
        self.dtype, self.first_field, self.fields = dtype, field, 0
        self.shift = 16 if np.dtype(dtype).itemsize > 2 else 0
        self.high = np.zeros(_BINS, np.int64)
        self.low: dict[int, NDArray[np.int64]] = {}  # upper half -> histogram of the lower half

    def ranks(self, percent: float) -> tuple[int, int, float]:
        """The two neighbouring places in the sorted pool, and the weight of the second."""
        last = int(self.high.sum()) - 1
        place = percent / 100 * last
        return int(place), min(int(place) + 1, last), place - int(place)

    def percentile(self, percent: float) -> float:
        first, second, weight = self.ranks(percent)
        low, high = self.value(first), self.value(second)
        return low + (high - low) * weight if weight else low

    def value(self, rank: int) -> float:
        """The pixel at this place of the sorted pool."""
        cumulated = np.cumsum(self.high)
        key = int(np.searchsorted(cumulated, rank, side="right"))
        if self.shift:
            rest = rank - (int(cumulated[key - 1]) if key else 0)
            lower = int(np.searchsorted(np.cumsum(self.low[key]), rest, side="right"))
            key = key << 16 | lower
        return _value(key, self.dtype)


def channel_ranges(source: PairSource) -> dict[str, ChannelRanges]:
    """Full and signal range of every channel of the source, in the order of first appearance.

    Args:
        source: the fields; `truth(index)` is read once, twice where there are images of 32 bit.

    Raises:
        UserError: a channel whose dtype changes between fields, or is none of `DTYPES`.
    """
    pools: dict[str, _Pixels] = {}
    for index in progress(range(len(source)), len(source), "intensity ranges"):
        for name, image in zip(*source.truth(index), strict=True):
            pool = pools.setdefault(name, _Pixels(image.dtype.name, index))
            _check_dtype(name, image, pool, source, index)
            pool.high += np.bincount(_keys(image).ravel() >> pool.shift, minlength=_BINS)
            pool.fields += 1
    wide = {name: pool for name, pool in pools.items() if pool.shift}
    if wide:
        _count_lower_halves(source, wide)
    ranges = {}
    for name, pool in pools.items():
        full = FULL_RANGES.get(pool.dtype) or (pool.percentile(0), pool.percentile(100))
        signal = Range(*(pool.percentile(percent) for percent in PERCENTILES))
        pixels = int(pool.high.sum())
        ranges[name] = ChannelRanges(pool.dtype, Range(*full), signal, pool.fields, pixels)
    return ranges


def _count_lower_halves(source: PairSource, pools: dict[str, _Pixels]) -> None:
    """Second pass: the lower 16 bits of the keys that share the upper half with a wanted rank."""
    for pool in pools.values():
        ranks = [rank for percent in (0, *PERCENTILES, 100) for rank in pool.ranks(percent)[:2]]
        uppers = np.searchsorted(np.cumsum(pool.high), ranks, side="right")
        pool.low = {int(upper): np.zeros(_BINS, np.int64) for upper in uppers}
    for index in progress(range(len(source)), len(source), "intensity ranges"):
        for name, image in zip(*source.truth(index), strict=True):
            if name not in pools:
                continue
            keys = _keys(image).ravel()
            for upper, histogram in pools[name].low.items():
                inside = keys[keys >> 16 == upper] & 0xFFFF
                histogram += np.bincount(inside, minlength=_BINS)


def _check_dtype(
    name: str, image: NDArray[np.generic], pool: _Pixels, source: PairSource, index: int
) -> None:
    if image.dtype.name not in DTYPES:
        raise UserError(
            f"{source.pair(index).field}: truth of channel {name} is {image.dtype.name}; "
            f"save it as one of {', '.join(DTYPES)}"
        )
    if image.dtype.name != pool.dtype:
        first, here = source.pair(pool.first_field).field, source.pair(index).field
        raise UserError(
            f"truth of channel {name} is {pool.dtype} in {first} but {image.dtype.name} in {here}; "
            "their full ranges differ: convert them to one dtype or score them apart"
        )


def _keys(image: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers from 0, below 2^32, in the order of the grey values."""
    if image.dtype.kind == "u":
        return image
    if image.dtype.kind == "i":
        return image.astype(np.int64) - np.iinfo(image.dtype).min
    # Adding 0.0 turns -0.0 into 0.0, which must get one key.
    bits = (np.ascontiguousarray(image, np.float32) + np.float32(0)).view(np.uint32)
    # IEEE 754: positive floats sort as their bits do, negative ones the other way round.
    negative = (bits >> np.uint32(31)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint32(0x80000000)).astype(np.int64)


def _value(key: int, dtype: str) -> float:
    """The grey value of a key."""
    if dtype in FULL_RANGES:
        return FULL_RANGES[dtype][0] + key
    bits = key & 0x7FFFFFFF if key & 0x80000000 else ~key & 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])

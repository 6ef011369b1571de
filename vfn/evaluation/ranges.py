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
from vfn.system.progress import progress

SIGNAL_PERCENTILES = (0.1, 99.9)
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
    """Pooled pixels of one channel: a histogram of the upper 16 bits of the keys."""

    def __init__(self, dtype: str, field: int) -> None:
        self.dtype = dtype
        self.first_field = field
        self.fields = 0
        self.high = np.zeros(_BINS, np.int64)
        self.low: dict[int, NDArray[np.int64]] = {}  # upper half -> histogram of the lower half

    def wanted_ranks(self) -> list[tuple[int, int, float]]:
        """For each percentile the two neighbouring ranks and the weight of the second."""
        positions = [q / 100 * (int(self.high.sum()) - 1) for q in SIGNAL_PERCENTILES]
        last = int(self.high.sum()) - 1
        return [(int(x), min(int(x) + 1, last), x - int(x)) for x in positions]

    def extreme_ranks(self) -> tuple[int, int]:
        return 0, int(self.high.sum()) - 1

    def value(self, rank: int) -> float:
        """The pixel at this place of the sorted pool."""
        cumulated = np.cumsum(self.high)
        upper = int(np.searchsorted(cumulated, rank, side="right"))
        if _is_narrow(self.dtype):
            return _value(upper, self.dtype)
        rest = rank - (int(cumulated[upper - 1]) if upper else 0)
        lower = int(np.searchsorted(np.cumsum(self.low[upper]), rest, side="right"))
        return _value(upper << 16 | lower, self.dtype)

    def signal(self) -> Range:
        low, high = (
            self.value(a) + (self.value(b) - self.value(a)) * t for a, b, t in self.wanted_ranks()
        )
        return Range(low, high)

    def full(self) -> Range:
        if self.dtype in FULL_RANGES:
            return Range(*FULL_RANGES[self.dtype])
        low, high = self.extreme_ranks()
        return Range(self.value(low), self.value(high))


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
            keys = _keys(image) if _is_narrow(pool.dtype) else _keys(image) >> 16
            pool.high += np.bincount(keys.ravel(), minlength=_BINS)
            pool.fields += 1
    wide = {name: pool for name, pool in pools.items() if not _is_narrow(pool.dtype)}
    if wide:
        _count_lower_halves(source, wide)
    return {
        name: ChannelRanges(
            pool.dtype, pool.full(), pool.signal(), pool.fields, int(pool.high.sum())
        )
        for name, pool in pools.items()
    }


def _count_lower_halves(source: PairSource, pools: dict[str, _Pixels]) -> None:
    """Second pass: the lower 16 bits of the keys that share the upper half with a wanted rank."""
    for pool in pools.values():
        ranks = {*pool.extreme_ranks(), *(r for a, b, _ in pool.wanted_ranks() for r in (a, b))}
        uppers = np.searchsorted(np.cumsum(pool.high), sorted(ranks), side="right")
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


def _is_narrow(dtype: str) -> bool:
    return np.dtype(dtype).itemsize <= 2


def _keys(image: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers from 0 in the order of the grey values."""
    if image.dtype.kind == "u":
        return image
    if image.dtype.kind == "i":
        return image.astype(np.int64) - np.iinfo(image.dtype).min
    return _float_to_key(image)


def _value(key: int, dtype: str) -> float:
    """The grey value of a key."""
    return FULL_RANGES[dtype][0] + key if dtype in FULL_RANGES else _key_to_float(key)


def _float_to_key(image: NDArray[np.generic]) -> NDArray[np.int64]:
    """Non-negative integers below 2^32 in the same order as the float32 values."""
    # Adding 0.0 turns -0.0 into 0.0, which must get one key.
    bits = (np.ascontiguousarray(image, np.float32) + np.float32(0)).view(np.uint32)
    # IEEE 754: positive floats sort as their bits do, negative ones the other way round.
    negative = (bits >> np.uint32(31)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint32(0x80000000)).astype(np.int64)


def _key_to_float(key: int) -> float:
    bits = key & 0x7FFFFFFF if key & 0x80000000 else ~key & 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])

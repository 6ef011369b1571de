"""Statistics of one image, measured when it is decoded, so that no later start reads its pixels for them."""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from vfn.data.input_shift import STATISTICS, field_statistics
from vfn.data.intensity import countable, counted

HEADER = "<q3s"  # lowest grey value, dtype of the counts


class ImageStatistics(NamedTuple):
    """Grey values and look of an image of 8 or 16 bit.

    Attributes:
        lowest: the lowest grey value.
        counts: pixels of each grey value from `lowest` to the highest.
        shift: see `field_statistics`.
    """

    lowest: int
    counts: np.ndarray
    shift: dict[str, float]


def measured(array: np.ndarray) -> bytes:
    """Return the statistics of an image (H, W), packed; empty for a dtype whose values are not counted."""
    if not countable(array.dtype):
        return b""
    lowest, counts = counted(array)
    narrow = counts.astype(np.min_scalar_type(counts.max()))
    look = field_statistics(array)
    shift = np.array([look[name] for name in STATISTICS])
    header = struct.pack(HEADER, lowest, narrow.dtype.str.encode())
    return zlib.compress(header + shift.tobytes() + narrow.tobytes(), 1)


def unpacked(data: bytes) -> ImageStatistics:
    """Return what `measured` packed.

    Raises:
        zlib.error: the bytes have changed.
    """
    raw = zlib.decompress(data)
    lowest, dtype = struct.unpack_from(HEADER, raw)
    start = struct.calcsize(HEADER)
    shift = np.frombuffer(raw, np.float64, len(STATISTICS), start)
    counts = np.frombuffer(raw, dtype.decode(), offset=start + shift.nbytes)
    return ImageStatistics(lowest, counts, dict(zip(STATISTICS, shift.tolist(), strict=True)))

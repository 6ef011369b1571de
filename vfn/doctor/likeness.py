"""Similar pictures: copies, borders that overlap, and a channel that looks like another."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
from scipy.signal import fftconvolve  # type: ignore[attr-defined]

from vfn.doctor.findings import Finding, of_field
from vfn.doctor.measure import PlaneStats
from vfn.doctor.reading import FieldStats, Key

SIDE, RIM = 32, 4  # pixels of the picture that is compared; its rim holds what all fields share
ALIKE = 0.8  # correlation: copies reach 0.9 and more, other fields of one plate stay below 0.3
OFTEN = 8  # fields, from which on what all of them share can be told and is taken out
BLOCK = 1024  # fields that are compared at once
OVERLAP = 0.75  # correlation of overlapping borders; others stay below 0.62
OVERLAP_AREA = (0.04, 0.6)  # of a field; less is chance, more is a copy
STAGE = 0.1  # of a side: how far a stage strays across its direction of travel
# For a swap: fields beside the one that is judged, how many times better the other channel must
# fit, and how badly its own does (squared deviations in units of the spread between fields).
SWAP_FIELDS, SWAP_RATIO, SWAP_MISFIT = 3, 1.5, 2.5
MANY = 64  # fields, from which on one of them does not matter to the medians
# Spread between fields that is always allowed, for each entry of `traits`: octaves and shares.
TRAIT_FLOOR = np.array([0.3, 0.3, 0.05, 0.05, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])


def _clipped_details(picture: np.ndarray, sigma: float, limit: float) -> np.ndarray:
    """`picture` less its surroundings, bright debris cut, so that no single spot decides."""
    detail = picture - cv2.GaussianBlur(picture, (0, 0), sigma)
    spread = float(np.median(np.abs(detail))) / 0.6745 or float(detail.std()) or 1.0
    return np.clip(detail, -limit * spread, limit * spread)


def descriptor(stats: PlaneStats) -> np.ndarray:
    """Unit vector, float32, whose scalar product with another says how alike two pictures are.

    Blind to gain, offset, bit depth, compression and a little noise.
    """
    small: np.ndarray = stats.thumbnail.astype(np.float32)
    small = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    # The rim is left out: dark corners and the edge of the field stop are the same in all fields.
    inner = _clipped_details(small, 4.0, 3.0)[RIM:-RIM, RIM:-RIM].ravel()
    inner = inner - inner.mean()
    length = float(np.linalg.norm(inner))
    return inner / length if length > 0 else inner


def _descriptors(fields: Sequence[FieldStats], keys: Sequence[Key]) -> np.ndarray:
    """(F, K * D): all planes of each field behind each other, unit length; absent ones are 0."""
    size = (SIDE - 2 * RIM) ** 2
    result = np.zeros((len(fields), len(keys), size), np.float32)
    for row, entry in zip(result, fields, strict=True):
        for vector, key in zip(row, keys, strict=True):
            if key in entry.planes and not entry.planes[key].constant:
                vector[:] = descriptor(entry.planes[key])
    if len(fields) >= OFTEN:  # dirt in the light path is on every field
        result -= np.where(result.any(-1, keepdims=True), np.median(result, axis=0), 0)
    flat = result.reshape(len(fields), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def near_copies(fields: Sequence[FieldStats], keys: Sequence[Key]) -> Iterator[tuple[int, int]]:
    """Pairs of fields (first < second) whose pictures are alike in all planes together."""
    vectors = _descriptors(fields, keys)
    for start in range(0, len(fields), BLOCK):
        likeness = vectors[start : start + BLOCK] @ vectors[start:].T
        for row, column in np.argwhere(likeness > ALIKE):
            if column > row:
                yield start + int(row), start + int(column)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return how well the borders of two neighbouring fields fit each other, -1 to 1.

    The largest correlation over all displacements along one side (the other may stray by
    `STAGE`), each over the pixels that overlap: Padfield, "Masked object registration in the
    Fourier domain", IEEE TIP 21 (2012), with masks that are full.

    Args:
        one, other: outlines of `PlaneStats`.
    """
    a, b = (_clipped_details(o.astype(np.float32), 6.0, 4.0) for o in (one, other))
    b = np.ascontiguousarray(b[::-1, ::-1])  # convolution becomes correlation
    ones_a, ones_b = np.ones_like(a), np.ones_like(b)
    count = np.maximum(fftconvolve(ones_a, ones_b).round(), 1)
    sum_a, sum_b = fftconvolve(a, ones_b), fftconvolve(ones_a, b)
    product = fftconvolve(a, b) - sum_a * sum_b / count
    spread_a = fftconvolve(a * a, ones_b) - sum_a**2 / count
    spread_b = fftconvolve(ones_a, b * b) - sum_b**2 / count
    # A floor, or a strip without any structure would fit everything.
    spread = np.sqrt(
        np.maximum(spread_a, 1e-3 * spread_a.max()) * np.maximum(spread_b, 1e-3 * spread_b.max())
    )
    away = [np.abs(np.arange(n) - p + 1) / p for n, p in zip(count.shape, b.shape, strict=True)]
    sideways = np.minimum(away[0][:, None], away[1]) < STAGE
    share = count / a.size
    allowed = sideways & (share > OVERLAP_AREA[0]) & (share < OVERLAP_AREA[1]) & (spread > 0)
    return float((product[allowed] / spread[allowed]).max()) if allowed.any() else 0.0


def traits(stats: PlaneStats) -> np.ndarray:
    """Return features that tell stains apart, (10,): level and contrast (octaves), where median and 99th
    percentile lie in the signal's range, noise (octaves), how the detail spreads over scales."""
    low, _, middle, high, top = stats.quantiles
    signal = max(top - low, 1e-9)
    bands = np.nan_to_num(np.array(stats.bands))
    total = bands.sum() or 1.0
    return np.array([
        np.log2(max(middle, 0.0) + 1),
        np.log2(signal),
        (middle - low) / signal,
        (high - low) / signal,
        np.log2(max(stats.noise_share, 1e-4)),
        *np.log2(np.maximum(bands[1:], 1e-6 * total) / total),
    ])  # fmt: skip


def swaps(fields: Sequence[FieldStats], names: Mapping[Key, str]) -> Iterator[Finding]:
    """Find fields whose channels look as if they were exchanged.

    Each plane is compared with its own channel and with the other one in all other fields, by
    `traits`; nothing is said where fewer than `SWAP_FIELDS` others have both.
    """
    table = [{k: traits(p) for k, p in f.planes.items() if not p.constant} for f in fields]
    for one, other in itertools.combinations(names, 2):
        both = [i for i, row in enumerate(table) if one in row and other in row]
        if len(both) <= SWAP_FIELDS:
            continue
        first, second = (np.stack([table[i][key] for i in both]) for key in (one, other))
        for at, number in enumerate(both):
            # One field of a few moves the medians.
            out: list[int] = [at] if len(both) <= MANY else []
            own, its = (_typical(np.delete(values, out, axis=0)) for values in (first, second))
            straight = _misfit(first[at], *own) + _misfit(second[at], *its)
            crossed = _misfit(first[at], *its) + _misfit(second[at], *own)
            if straight > max(SWAP_MISFIT, SWAP_RATIO * crossed):
                name, a, b = fields[number].name, names[one], names[other]
                yield of_field(
                    "swap", name,
                    f"{name}: {a} looks like the {b} of the other fields, and {b} like their {a}.",
                    "look at the two; rename the files if they are exchanged, or leave the field out",
                )  # fmt: skip


def _typical(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread of the traits (F, 10) of one channel."""
    centre = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - centre), axis=0)
    return centre, np.maximum(spread, TRAIT_FLOOR)


def _misfit(value: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> float:
    return float(np.minimum(((value - centre) / spread) ** 2, 36).mean())

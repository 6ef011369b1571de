"""Pixels of a sample: its planes cut to its region, targets moved by what registration measured."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vfn.data.cache import ImageCache
from vfn.data.samples import Region, Sample, within
from vfn.errors import UserError

# Closer to a whole pixel than this, a shift is corrected by whole pixels: they keep every grey value.
WHOLE_PIXEL = 0.2
TAPS = (-1, 0, 1, 2)  # pixels that cubic convolution takes a value from


def sample_shape(sample: Sample, store: ImageCache) -> tuple[int, int]:
    """(height, width) of the sample."""
    if sample.region is not None:
        rows, columns = sample.region
        return rows.stop - rows.start, columns.stop - columns.start
    height, width = store.peek(sample.inputs[0]).shape
    return height, width


def read_sample(
    sample: Sample, store: ImageCache, window: Region | None = None
) -> list[np.ndarray | None]:
    """Inputs, then targets, each (h, w); None for a target that the field lacks.

    Args:
        window: rows and columns within the sample; None for the whole sample. Beyond the sample's edge
            there is nothing, so the arrays may be smaller than the window.

    Returns:
        Arrays in their own dtype; float32 where a target was moved by a part of a pixel.

    Raises:
        UserError: channels of different sizes.
    """
    planes, arrays = sample.inputs + sample.targets, peek_sample(sample, store)
    first = present(arrays)[0]
    region = sample.region or (slice(0, first.shape[0]), slice(0, first.shape[1]))
    if window is not None:
        rows, columns = within(region, window)
        region = (
            slice(rows.start, min(rows.stop, region[0].stop)),
            slice(columns.start, min(columns.stop, region[1].stop)),
        )
    moved = sample.offsets or ((0.0, 0.0),) * len(sample.targets)
    offsets = ((0.0, 0.0),) * len(sample.inputs) + moved
    return [
        None
        if plane is None or array is None
        else _moved(store.checked(plane, array, _rows(region, dy)), region, dy, dx)
        for plane, array, (dy, dx) in zip(planes, arrays, offsets, strict=True)
    ]


def peek_sample(sample: Sample, store: ImageCache) -> list[np.ndarray | None]:
    """Return the whole planes of a sample, inputs first, for their dtype and size: see `ImageCache.peek`.

    Raises:
        UserError: channels of different sizes.
    """
    planes = sample.inputs + sample.targets
    arrays = [None if plane is None else store.peek(plane) for plane in planes]
    named, first = next((p, a) for p, a in zip(planes, arrays, strict=True) if a is not None)
    for plane, array in zip(planes, arrays, strict=True):
        if array is not None and array.shape != first.shape:
            raise UserError(
                f"field {sample.name}: {named} is {_size(first)} pixels and {plane} is "
                f"{_size(array)}; channels of one field must have one size, or each "
                "pixel of one cover 2x2, 3x3, ... of the other in every field; crop or scale one of them"
            )
    return arrays


def target_dtype(sample: Sample, target: int, array: np.ndarray, store: ImageCache) -> np.dtype:
    """Return the dtype of the file behind `array`, which `read_sample` gave for the target of that number."""
    plane = sample.targets[target]
    assert plane is not None
    moved = sample.offsets and any(offset % 1 for offset in sample.offsets[target])
    return store.peek(plane).dtype if moved else array.dtype  # float32 now: only the file tells


def present(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The arrays that are there."""
    return [array for array in arrays if array is not None]


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


def registered(
    sample: Sample, shape: tuple[int, int], shifts: Sequence[tuple[float, float]]
) -> Sample:
    """`sample` with its targets moved by `shifts`, cut to the pixels that all of them have.

    Args:
        shape: (H, W) of the field.
        shifts: (dy, dx) of each target against the first input, in px.

    Raises:
        UserError: nothing is left.
    """
    offsets = tuple((_settled(dy), _settled(dx)) for dy, dx in shifts)
    sides = []
    for axis in (0, 1):
        reach = [_reach(offset[axis]) for offset in offsets]
        low = max(0, *(-before for before, _ in reach)) if reach else 0
        high = min(shape[axis], *(shape[axis] - after for _, after in reach))
        if low >= high:
            raise UserError(
                f"field {sample.name}: shifted by {list(shifts)} pixels, nothing is left of "
                f"{shape[0]}x{shape[1]}; leave it out by data.exclude"
            )
        sides.append(slice(low, high))
    return replace(sample, region=(sides[0], sides[1]), offsets=offsets)


def _settled(shift: float) -> float:
    whole = round(shift)
    return float(whole) if abs(shift - whole) < WHOLE_PIXEL else shift


def _reach(offset: float) -> tuple[int, int]:
    """Return the first and last pixel that a value is taken from, relative to its own."""
    whole = int(np.floor(offset))
    return (whole, whole) if offset == whole else (whole + TAPS[0], whole + TAPS[-1])


def _rows(region: Region, dy: float) -> slice:
    """Rows that the pixels at `region` moved by `dy` are taken from."""
    before, after = _reach(dy)
    return slice(max(0, region[0].start + before), max(0, region[0].stop + after))


def _moved(array: np.ndarray, region: Region, dy: float, dx: float) -> np.ndarray:
    """Return the pixels at `region` moved by (dy, dx): whole pixels as they are, parts by cubic convolution
    (Keys 1981, a = -0.5), which is exact for quadratic surfaces."""
    for axis, offset in enumerate((dy, dx)):
        whole = int(np.floor(offset))
        start, stop = region[axis].start + whole, region[axis].stop + whole
        if offset == whole:
            array = _along(array, axis, start, stop)
            continue
        parts = [_along(array, axis, start + tap, stop + tap) for tap in TAPS]
        weights = _keys(offset - whole)
        array = np.asarray(sum(w * p for w, p in zip(weights, parts, strict=True)))
    return array


def _along(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[start:stop] if axis == 0 else array[:, start:stop]


def _keys(t: float) -> list[np.float32]:
    """Weights of the four taps for a point `t` in (0, 1) behind the second."""
    weights = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    return [np.float32(w) for w in weights]

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift

from tests.planes import make_sample
from vfn.data.cache import ImageCache
from vfn.data.pixels import present, read_sample, registered, sample_shape
from vfn.errors import UserError

STORE = ImageCache()


def field(height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    """Smooth texture, so that parts of a pixel mean something."""
    smooth = gaussian_filter(np.random.default_rng(seed).random((height, width)), 3)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 60000).astype(np.uint16)


def test_a_sample_without_region_is_its_planes() -> None:
    a, b = field(), field(seed=1)
    sample = make_sample("v", [a], [b, None])
    x, y, nothing = read_sample(sample, STORE)
    assert x is not None
    assert y is not None
    assert np.shares_memory(x, a)
    np.testing.assert_array_equal(y, b)
    assert nothing is None
    assert len(present([x, y, nothing])) == 2
    assert sample_shape(sample, STORE) == (40, 50)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.tuples(st.integers(0, 39), st.integers(1, 40)),
    columns=st.tuples(st.integers(0, 49), st.integers(1, 50)),
    top=st.integers(0, 39), left=st.integers(0, 49), size=st.integers(1, 60),
)  # fmt: skip
def test_a_window_is_that_part_of_the_region(
    rows: tuple[int, int], columns: tuple[int, int], top: int, left: int, size: int
) -> None:
    a, b = field(), field(seed=1)
    region = (slice(rows[0], max(rows)), slice(columns[0], max(columns)))
    if rows[0] == max(rows) or columns[0] == max(columns):
        return
    sample = make_sample("v", [a], [b], region=region)
    whole = present(read_sample(sample, STORE))
    assert sample_shape(sample, STORE) == whole[0].shape
    parts = present(read_sample(sample, STORE, (slice(top, top + size), slice(left, left + size))))
    for part, array, source in zip(parts, whole, (a, b), strict=True):
        np.testing.assert_array_equal(array, source[region])
        np.testing.assert_array_equal(part, array[top : top + size, left : left + size])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(dy=st.integers(-12, 12), dx=st.integers(-12, 12), seed=st.integers(0, 5))
def test_whole_pixels_move_without_changing_a_grey_value(dy: int, dx: int, seed: int) -> None:
    large = field(70, 80, seed)
    reference = large[15:55, 15:65]
    target = large[15 - dy : 55 - dy, 15 - dx : 65 - dx]  # target[y + dy, x + dx] = reference[y, x]
    sample = registered(make_sample("v", [reference], [target]), (40, 50), [(dy + 0.1, dx - 0.15)])
    x, y = present(read_sample(sample, STORE))
    assert x.shape == (40 - abs(dy), 50 - abs(dx))  # as much as both have
    assert y.dtype == np.uint16
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("offset", [(0.5, 0.0), (0.0, -0.3), (2.4, -3.6), (-0.5, 0.5)])
def test_parts_of_a_pixel_against_scipy(offset: tuple[float, float]) -> None:
    a = field(60, 70)
    sample = registered(make_sample("v", [a], [a]), a.shape, [offset])
    _, moved = present(read_sample(sample, STORE))
    rows, columns = sample.region  # type: ignore[misc]
    reference = shift(a.astype(float), [-offset[0], -offset[1]], order=3)[rows, columns]
    assert moved.dtype == np.float32
    assert moved.shape == reference.shape
    inner = (slice(3, -3), slice(3, -3))  # SciPy's spline feels the border
    error = np.abs(moved - reference)[inner]
    unmoved = np.abs(a[rows, columns] - reference)[inner]
    assert error.mean() < 0.02 * unmoved.mean()


def test_a_quadratic_surface_is_moved_exactly() -> None:
    """Keys 1981: cubic convolution with a = -0.5 reproduces polynomials of second degree."""
    y, x = np.mgrid[0:20, 0:30].astype(np.float32)
    a = 3 + 2 * x - y + 0.5 * x * x + 0.25 * y * y
    sample = registered(make_sample("v", [a], [a]), a.shape, [(0.4, 1.7)])
    _, moved = present(read_sample(sample, STORE))
    rows, columns = sample.region  # type: ignore[misc]
    y, x = y[rows, columns] + 0.4, x[rows, columns] + 1.7
    np.testing.assert_allclose(moved, 3 + 2 * x - y + 0.5 * x * x + 0.25 * y * y, rtol=1e-4)


def test_a_window_of_a_moved_target_is_the_window_of_the_whole() -> None:
    a, b, c = field(), field(seed=1), field(seed=2)
    sample = make_sample("v", [a], [b, c, None])
    sample = registered(sample, a.shape, [(2.0, -1.0), (-0.5, 3.3), (0.0, 0.0)])
    whole = read_sample(sample, STORE)
    part = read_sample(sample, STORE, (slice(4, 20), slice(7, 23)))
    assert whole[3] is part[3] is None
    for array, crop in zip(whole[:3], part[:3], strict=True):
        assert array is not None
        np.testing.assert_array_equal(crop, array[4:20, 7:23])


def test_a_shift_that_leaves_nothing() -> None:
    with pytest.raises(UserError, match=r"field v: shifted by .* nothing is left of 10x10"):
        registered(make_sample("v", [field(10, 10)], [field(10, 10)]), (10, 10), [(12.0, 0.0)])


@pytest.mark.parametrize("where", ["input", "target"])
def test_sizes_that_differ_are_refused(where: str) -> None:
    small, large = field(10, 12), field(10, 13)
    sample = (
        make_sample("v", [large, small], [large])
        if where == "input"
        else make_sample("v", [large], [None, small])
    )
    with pytest.raises(UserError, match=r"field v: v/input0 is 10x13 .* v/\w+1 is 10x12"):
        read_sample(replace(sample, region=None), STORE)

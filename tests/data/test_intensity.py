from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vfn.data.images import DTYPES
from vfn.data.intensity import RANGE_MODES, Histogram, IntensityNormaliser, to_dtype
from vfn.errors import UserError


def histogram(*arrays: np.ndarray) -> Histogram:
    result = Histogram(arrays[0].dtype)
    for array in arrays:
        result.add(array)
    return result


def draw(dtype: str, kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    if kind == "dark":  # a stain: most pixels are background
        grey = rng.gamma(0.5, 600, (64, 65)) + 100
    elif kind == "few":
        grey = rng.choice([3.0, 90.0, 200.0], (64, 65), p=[0.9, 0.08, 0.02])
    else:
        grey = rng.uniform(0, 65536, (64, 65))
    if dtype == "uint8":
        grey = grey / grey.max() * 255
    if dtype == "int16":
        grey = grey / 2 - 20_000
    return to_dtype(grey, dtype)


@pytest.mark.parametrize("equalise", [False, True])
@pytest.mark.parametrize("mode", [mode for mode in RANGE_MODES if mode != "fixed"])
@pytest.mark.parametrize("kind", ["dark", "few", "even"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype: str, kind: str, mode: str, equalise: bool) -> None:
    array = draw(dtype, kind)
    fitted = IntensityNormaliser.fit(histogram(array), mode, (0.5, 99.0), equalise)
    scaled = fitted.normalise(array)
    assert scaled.dtype == np.float32
    assert scaled.shape == array.shape
    assert scaled.min() >= -1
    assert scaled.max() <= 1
    back = fitted.restore(scaled)
    assert back.dtype == array.dtype
    clipped = np.clip(array.astype(float), fitted.low, fitted.high)
    off = np.abs(back.astype(float) - clipped).max()
    # Integers: one grey level at most. Floats, and ranges of 32 bit: the resolution of float32 in
    # [-1, 1], which equalising stretches by the number of classes at most.
    resolution = (fitted.high - fitted.low) * 2**-23
    exact = dtype != "float32" and resolution < 1
    assert off <= (1 if exact else resolution * 256)
    # A brighter pixel is never darker afterwards.
    order = np.argsort(array, axis=None)
    assert (np.diff(scaled.ravel()[order]) >= 0).all()
    if exact:  # and no two grey values become one
        assert (np.diff(fitted.normalise(np.unique(clipped))) > 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_full_range_is_exact_for_every_grey_value(dtype: str) -> None:
    bottom, top = np.iinfo(dtype).min, np.iinfo(dtype).max
    grey = np.arange(bottom, top + 1).astype(dtype)
    fitted = IntensityNormaliser.fit(histogram(grey[5:9]), "full", (0, 100), False)
    assert (fitted.low, fitted.high) == (bottom, top)
    assert fitted.normalise(grey[[0, -1]]).tolist() == [-1, 1]
    linear = (grey.astype(float) - bottom) / (top - bottom) * 2 - 1
    np.testing.assert_allclose(fitted.normalise(grey), linear, atol=1e-6)
    np.testing.assert_array_equal(fitted.restore(fitted.normalise(grey)), grey)
    # Equalised over what is there, every grey value must survive too.
    curve = IntensityNormaliser.fit(histogram(draw(dtype, "dark")), "full", (0, 100), True)
    np.testing.assert_array_equal(curve.restore(curve.normalise(grey)), grey)


def test_beyond_the_range_is_clipped() -> None:
    fitted = IntensityNormaliser(100, 200, "uint16")
    assert fitted.normalise(np.array([0, 100, 150, 200, 65535], np.uint16)).tolist() == [
        -1, -1, 0, 1, 1,
    ]  # fmt: skip
    assert fitted.restore(np.array([-1, 0, 1])).tolist() == [100, 150, 200]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16]),
        st.integers(1, 300),
        elements=st.integers(0, 127),
    ),
    q=st.integers(0, 10_000),
)
def test_percentiles_are_those_of_numpy(array: np.ndarray, q: int) -> None:
    if array.dtype == np.int16:
        array = array - 60  # below and above 0
    half = array.size // 2
    counted = histogram(array[:half], array[half:]) if half else histogram(array)
    (ours,) = counted.quantiles(np.array([q / 10_000]))
    # numpy's rank in exact arithmetic: q * n / 10000 rounded up.
    rank = max(1, -(-q * array.size // 10_000))
    assert ours == np.sort(array)[rank - 1]
    if q * array.size % 10_000:  # on a step numpy's own float arithmetic may pick either side
        assert ours == np.quantile(array, q / 10_000, method="inverted_cdf")


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_extremes_of_sampled_values_are_kept_from_large_images(dtype: str) -> None:
    scale = 1 if dtype == "float32" else 10_000
    array = (np.random.default_rng(0).normal(0, scale, (400, 400))).astype(dtype)
    array[13, 17], array[311, 5] = -50 * scale, 60 * scale
    for mode in ("minmax", "full"):
        fitted = IntensityNormaliser.fit(histogram(array), mode, (0, 100), False)
        limits = (-(2.0**31), 2.0**31 - 1)
        whole = mode == "full" and dtype == "int32"
        assert (fitted.low, fitted.high) == (limits if whole else (-50 * scale, 60 * scale))
    low, high = histogram(array).quantiles(np.array([0.01, 0.99]))
    expected = np.quantile(array, [0.01, 0.99])
    np.testing.assert_allclose([low, high], expected, atol=0.1 * scale)


def stain(seed: int, bright: float, cells: int, width: float, dtype: str) -> np.ndarray:
    """Even ground at 200 with `cells` blobs of `width` px (sigma)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:300, :400]
    grey = rng.normal(200, 6, y.shape)
    for _ in range(cells):
        (r, c), peak = rng.uniform(0, 300, 2), bright * rng.uniform(0.9, 1)
        grey += peak * np.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * width**2))
    return to_dtype(grey, dtype)


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_the_cut_off_top_of_a_rare_bright_stain_is_found(dtype: str) -> None:
    # One bright cell of 2.5 px in each of eight fields: 0.02 % of the pixels are bright.
    fields = [stain(seed, 12_000, 1, 2.5, dtype) for seed in range(8)]
    values = histogram(*fields)
    fitted = IntensityNormaliser.fit(values, "percentile", (0.1, 99.99), False)
    cut = fitted.cut_off(values)
    assert cut is not None
    share, top = cut
    pixels = np.stack(fields)
    assert top == pixels.max() > 1.2 * fitted.high
    assert share == pytest.approx((pixels > fitted.high).mean())
    whole = IntensityNormaliser.fit(values, "percentile", (0.1, 100), False)
    assert (whole.high, whole.cut_off(values)) == (top, None)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_an_ordinary_stain_and_its_hot_pixels_are_not_said_to_be_cut_off(dtype: str) -> None:
    fields = [stain(seed, 3000, 30, 8.0, dtype) for seed in range(8)]
    for field in fields:
        field[7, 9:12] = 60_000  # three hot pixels each
    values = histogram(*fields)
    fitted = IntensityNormaliser.fit(values, "percentile", (0.1, 99.99), False)
    assert fitted.high < 30_000
    assert fitted.cut_off(values) is None


def test_equalising_fills_the_range_evenly() -> None:
    array = draw("uint16", "dark")
    flat = IntensityNormaliser.fit(histogram(array), "minmax", (0, 100), False).normalise(array)
    even = IntensityNormaliser.fit(histogram(array), "minmax", (0, 100), True).normalise(array)
    counts = np.histogram(even, 8, (-1, 1))[0]
    # Not exactly: a part of the straight line is mixed in.
    assert counts.min() > array.size / 8 / 2
    assert np.histogram(flat, 8, (-1, 1))[0].min() < array.size / 8 / 10


@pytest.mark.parametrize("equalise", [False, True])
def test_plain_data_round_trip(equalise: bool) -> None:
    fitted = IntensityNormaliser.fit(
        histogram(draw("uint16", "dark")), "percentile", (1, 99), equalise
    )
    assert IntensityNormaliser.from_dict(fitted.to_dict()) == fitted


@pytest.mark.parametrize("mode", ["percentile", "minmax"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_constant_channel_is_refused(dtype: str, mode: str) -> None:
    with pytest.raises(UserError, match="all training pixels are 7"):
        IntensityNormaliser.fit(histogram(np.full((4, 5), 7, dtype)), mode, (0.1, 99.9), False)


@pytest.mark.parametrize(
    ("mode", "percentiles", "match"),
    [
        ("Full", (0, 100), r"data\.range=Full.*percentile, full, minmax"),
        ("percentile", (99, 1), r"data\.percentiles=\[99, 1\]"),
        ("percentile", (-1, 99), r"data\.percentiles"),
        ("percentile", (0, 101), r"data\.percentiles"),
    ],
)
def test_wrong_settings(mode: str, percentiles: tuple[float, float], match: str) -> None:
    with pytest.raises(UserError, match=match):
        IntensityNormaliser.fit(histogram(draw("uint8", "even")), mode, percentiles, False)


def test_to_dtype_rounds_and_clips() -> None:
    assert to_dtype(np.array([-3, 0.4, 0.6, 254.6, 300]), "uint8").tolist() == [0, 0, 1, 255, 255]
    assert to_dtype(np.array([-3.25, 1e6]), "float32").tolist() == [-3.25, 1e6]
    for dtype in ("int16", "int32", "uint32"):
        limits = np.iinfo(dtype)
        for kind in (np.float32, np.float64):
            beyond = np.array([-1e12, 7.6, -0.4, 1e12], kind)
            assert to_dtype(beyond, dtype).tolist() == [limits.min, 8, 0, limits.max]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_is_no_number_is_never_cast(value: float, dtype: str) -> None:
    with pytest.raises(UserError, match="1 of 3 values are NaN or infinite"):
        to_dtype(np.array([1.0, value, 2.0]), dtype)


@pytest.mark.parametrize(
    "changed",
    [
        {"low": 9.0},
        {"high": 0.0},
        {"low": np.nan},
        {"knots": [0.0, 9.0, 3.0]},
        {"knots": [np.nan, 1.0]},
    ],
)
def test_a_stored_range_that_is_none(changed: dict[str, object]) -> None:
    stored = IntensityNormaliser(0.0, 9.0, "uint8").to_dict()
    assert IntensityNormaliser.from_dict(stored) == IntensityNormaliser(0.0, 9.0, "uint8")
    with pytest.raises(ValueError, match=r"range from|curve"):
        IntensityNormaliser.from_dict({**stored, **changed})


def test_knots_rise() -> None:
    fitted = IntensityNormaliser.fit(histogram(draw("uint8", "few")), "full", (0, 100), True)
    assert fitted.knots is not None
    assert all(a < b for a, b in pairwise(fitted.knots))


@pytest.mark.parametrize("mode", RANGE_MODES)
def test_a_fixed_range_goes_before_the_mode(mode: str) -> None:
    fitted = IntensityNormaliser.fit(
        histogram(draw("uint16", "dark")), mode, (0.5, 99.0), False, [7, 4095]
    )
    assert (fitted.low, fitted.high) == (7.0, 4095.0)


@pytest.mark.parametrize("fixed", [[5], [9, 5], [5, 5], [1, 2, 3]])
def test_a_fixed_range_is_two_grey_values(fixed: list[float]) -> None:
    with pytest.raises(UserError, match=r"data\.fixed="):
        IntensityNormaliser.fit(
            histogram(draw("uint8", "even")), "fixed", (0.5, 99.0), False, fixed
        )


def test_a_fixed_range_must_be_given() -> None:
    with pytest.raises(UserError, match=r"data\.range=fixed.*data\.fixed=\{CHANNEL"):
        IntensityNormaliser.fit(histogram(draw("uint8", "even")), "fixed", (0.5, 99.0), False)

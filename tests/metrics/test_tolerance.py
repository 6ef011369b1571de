"""Tolerance level against the definition, written as a plain loop (paper eq. 7)."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.filters import threshold_otsu

from vfn.metrics.tolerance import THRESHOLDS, error_mask, signal_tolerance, tolerance_level

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)


def by_definition(prediction, truth, data_range, beta1=1, beta2=1):
    """The curve in exact fractions; the weights are taken as the binary fractions that they are."""
    errors = [
        abs(Fraction(p) - Fraction(t)) / Fraction(data_range)
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True)
    ]
    curve = []
    for i in range(100):
        inside = [e for e in errors if e <= Fraction(i, 100)]
        intensity = sum(inside) / len(inside) if inside else Fraction(0)
        spatial = Fraction(len(errors) - len(inside), len(errors))
        curve.append(Fraction(beta1) * intensity + Fraction(beta2) * spatial)
    return curve


@st.composite
def integer_pairs(draw):
    dtype, data_range = draw(st.sampled_from([(np.uint8, 255), (np.uint16, 65535)]))
    shape = draw(SHAPES)
    # Near values too: small differences are where thresholds decide.
    truth = draw(hnp.arrays(dtype, shape))
    other = draw(hnp.arrays(dtype, shape))
    near = np.where(draw(hnp.arrays(bool, shape)), truth, truth // 2 + other // 2).astype(dtype)
    return draw(st.sampled_from([other, near])), truth, data_range


@settings(max_examples=60, deadline=None, derandomize=True)
@given(integer_pairs())
def test_integers_equal_the_definition(case):
    prediction, truth, data_range = case
    result = tolerance_level(prediction, truth, data_range)
    curve = by_definition(prediction, truth, data_range)
    np.testing.assert_allclose(result.curve, [float(x) for x in curve], rtol=0, atol=1e-12)
    assert result.value == pytest.approx(float(min(curve)), abs=1e-12)
    assert result.threshold == curve.index(min(curve)) / 100


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    SHAPES.flatmap(
        lambda shape: st.tuples(
            *[hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))] * 2
        )
    )
)
def test_floats_equal_a_loop(images):
    prediction, truth = images
    result = tolerance_level(prediction, truth, 1.0)
    error = np.abs(prediction.astype(np.float64) - truth.astype(np.float64))
    for i, threshold in enumerate(THRESHOLDS):
        inside = error <= threshold
        intensity = error[inside].mean() if inside.any() else 0.0
        assert result.intensity[i] == pytest.approx(intensity, abs=1e-12)
        assert result.spatial[i] == pytest.approx(1 - inside.mean(), abs=1e-12)
    assert result.value == result.curve.min()


def test_float_errors_on_a_threshold_count_as_inside():
    truth = np.zeros((1, 100))
    result = tolerance_level(THRESHOLDS[None], truth, 1.0)  # one pixel on every threshold
    np.testing.assert_allclose(result.spatial, 1 - np.arange(1, 101) / 100, atol=1e-12)


def test_by_hand():
    truth = np.zeros((2, 2), np.uint8)
    prediction = np.array([[0, 51], [51, 255]], np.uint8)  # E = 0, 0.2, 0.2, 1
    result = tolerance_level(prediction, truth, 255)
    assert result.curve[0] == 0.75
    assert result.curve[20] == pytest.approx(0.4 / 3 + 0.25)
    assert (result.value, result.threshold) == (pytest.approx(0.4 / 3 + 0.25), 0.2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_identical_images_need_no_tolerance(dtype):
    image = np.arange(35).reshape(5, 7).astype(dtype)
    result = tolerance_level(image, image, 100.0)
    assert (result.value, result.threshold) == (0.0, 0.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(integer_pairs(), st.sampled_from([(1, 0.25), (1, 0.0625), (2, 0.5), (0, 1), (1, 0), (3, 7)]))
def test_weights_equal_the_definition(case, betas):
    prediction, truth, data_range = case
    result = tolerance_level(prediction, truth, data_range, beta1=betas[0], beta2=betas[1])
    curve = by_definition(prediction, truth, data_range, *betas)
    np.testing.assert_allclose(result.curve, [float(x) for x in curve], rtol=0, atol=1e-12)
    assert result.value == pytest.approx(float(min(curve)), abs=1e-12)
    assert result.threshold == curve.index(min(curve)) / 100


@settings(max_examples=40, deadline=None, derandomize=True)
@given(integer_pairs(), st.floats(1, 70000))
def test_a_range_with_a_fraction_equals_the_definition(case, data_range):
    prediction, truth, _ = case
    result = tolerance_level(prediction, truth, data_range)
    curve = by_definition(prediction, truth, data_range)
    np.testing.assert_allclose(result.curve, [float(x) for x in curve], rtol=0, atol=1e-9)


def stained(seed=0, ground=200):
    """A truth of four discs on an even ground, uint8, and which pixels the discs cover."""
    rows, columns = np.ogrid[:90, :110]
    discs = np.zeros((90, 110), bool)
    for row, column in ((20, 20), (20, 80), (65, 30), (60, 85)):
        discs |= np.hypot(rows - row, columns - column) < 11
    truth = np.random.default_rng(seed).integers(ground, ground + 10, discs.shape).astype(np.uint16)
    truth[discs] += 400
    return truth, discs


def signal_by_definition(prediction, truth, ground, width):
    """The curve of the paper's discussion, a threshold at a time."""
    mean, area = truth.mean() - ground, (truth > threshold_otsu(truth)).mean()
    error = np.abs(prediction.astype(float) - truth)
    curve = []
    for i in THRESHOLDS:
        inside = error <= i * width
        intensity = error[inside].mean() if inside.any() else 0.0
        curve.append(intensity / mean + (1 - inside.mean()) / area)
    return np.array(curve)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_signal_tolerance_equals_its_definition(dtype):
    truth, _ = stained()
    prediction = (truth + np.random.default_rng(1).normal(0, 60, truth.shape)).astype(dtype)
    low, high = np.percentile(truth, (0.1, 99.9))
    result = signal_tolerance(prediction, truth.astype(dtype), 200.0, low, high)
    curve = signal_by_definition(prediction, truth, 200.0, high - low)
    np.testing.assert_allclose(result.curve, curve, rtol=1e-6)
    assert result.value == pytest.approx(curve.min())


def test_an_object_brighter_than_the_signal_is_better_left_outside():
    truth, discs = stained()
    one = discs & (np.indices(discs.shape) < 45).all(0)
    mean, area = truth.mean() - 204.5, discs.mean()
    assert mean / area == pytest.approx(400, rel=0.01)  # the brightness of the discs
    for error, outside in ((300, False), (500, True)):
        prediction = truth.copy()
        prediction[one] += error
        result = signal_tolerance(prediction, truth, 204.5, 200, 1200)
        mask = error_mask(prediction, truth, result.threshold, 1000)
        np.testing.assert_array_equal(mask, one & outside)
        costs = one.mean() * (1 / area if outside else error / mean)
        assert result.value == pytest.approx(costs, rel=0.01)


def test_predicting_the_ground_costs_the_whole_signal():
    truth, _ = stained()
    nothing = np.full_like(truth, 204)
    result = signal_tolerance(nothing, truth, 204, 200, 610)
    assert result.value == pytest.approx(1, abs=0.05)


def test_an_offset_of_the_camera_leaves_the_signal_tolerance():
    truth, _ = stained()
    prediction = (truth + np.random.default_rng(1).integers(0, 90, truth.shape)).astype(np.uint16)
    one = signal_tolerance(prediction, truth, 200, 200, 610)
    other = signal_tolerance(prediction + 5000, truth + 5000, 5200, 5200, 5610)
    np.testing.assert_allclose(one.curve, other.curve, rtol=1e-9)


def test_a_truth_without_signal_has_no_signal_tolerance():
    flat = np.full((20, 20), 7, np.uint16)
    assert signal_tolerance(flat, flat, 7, 0, 10) is None
    assert signal_tolerance(flat, flat, 7, 7, 7) is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(integer_pairs())
def test_even_weights_give_the_mae_unless_an_error_is_beyond_the_last_threshold(case):
    prediction, truth, data_range = case
    error = np.abs(prediction.astype(np.int64) - truth) / data_range
    result = tolerance_level(prediction, truth, data_range)
    if error.max() <= 0.99:
        assert result.value == pytest.approx(error.mean(), abs=1e-12)
        assert not error_mask(prediction, truth, result.threshold, data_range).any()
    else:
        assert result.value >= error.mean() - 1e-12


def test_an_uneven_weight_sets_a_planted_object_apart():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, (40, 40)).astype(np.uint8)
    prediction = truth + rng.integers(0, 10, truth.shape).astype(np.uint8)
    planted = np.zeros(truth.shape, bool)
    planted[10:15, 20:26] = True
    prediction[planted] = truth[planted] + 120
    result = tolerance_level(prediction, truth, 255, beta2=0.1)
    np.testing.assert_array_equal(error_mask(prediction, truth, result.threshold, 255), planted)
    assert result.value < tolerance_level(prediction, truth, 255).value


@settings(max_examples=60, deadline=None, derandomize=True)
@given(integer_pairs(), st.integers(0, 99))
def test_mask_equals_the_definition(case, percent):
    prediction, truth, data_range = case
    mask = error_mask(prediction, truth, percent / 100, data_range)
    assert mask.shape == truth.shape
    expected = [
        Fraction(abs(p - t), data_range) > Fraction(percent, 100)
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True)
    ]
    assert mask.ravel().tolist() == expected


def test_prediction_of_another_dtype():
    truth = np.array([[10, 200]], np.uint8)
    as_float = tolerance_level(np.array([[12.0, 190.0]], np.float32), truth, 255)
    as_wide = tolerance_level(np.array([[12, 190]], np.uint16), truth, 255)
    np.testing.assert_allclose(as_float.curve, as_wide.curve, atol=1e-12)


@pytest.mark.parametrize(("threshold", "expected"), [(0.28, True), (0.29, False), (0.3, False)])
def test_mask_is_exact_at_the_threshold(threshold, expected):
    # 0.29 * 100 is 28.999999999999996 in floating point.
    mask = error_mask(np.array([[29]], np.uint8), np.array([[0]], np.uint8), threshold, 100)
    assert mask.item() is expected


def test_mask_share_is_the_spatial_error():
    rng = np.random.default_rng(0)
    for dtype in (np.uint16, np.float32):
        a, b = rng.integers(0, 65536, (2, 21, 19)).astype(dtype)
        result = tolerance_level(a, b, 65535)
        for i in (0, 23, 57, 99):
            assert error_mask(a, b, i / 100, 65535).mean() == pytest.approx(result.spatial[i])


@pytest.mark.parametrize(
    ("shape", "data_range"), [((2, 2), 1.0), ((0, 3), 1.0), ((2, 3), 0.0), ((2, 3), float("nan"))]
)
def test_nonsense_is_refused(shape, data_range):
    with pytest.raises(ValueError, match="must"):
        tolerance_level(np.zeros(shape), np.zeros((2, 3) if shape != (0, 3) else shape), data_range)

"""Agreement of amounts against SciPy and hand-computed Bland-Altman limits."""

import math

import numpy as np
import pytest
from scipy.stats import linregress

from vfn.metrics.agreement import agree, block_intensities, integrated_intensities, share_off


def test_line_equals_scipy():
    rng = np.random.default_rng(0)
    truth = rng.gamma(3, 1e5, 80)
    prediction = 0.8 * truth + rng.normal(2e4, 3e4, 80)
    result, expected = agree(truth, prediction), linregress(truth, prediction)
    assert result.slope == pytest.approx(expected.slope, rel=1e-12)
    assert result.intercept == pytest.approx(expected.intercept, rel=1e-9)
    assert result.r == pytest.approx(expected.rvalue, rel=1e-12)
    assert (result.n, result.reason) == (80, "")


def test_limits_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1.
    result = agree(np.array([10.0, 20.0, 30.0]), np.array([11.0, 22.0, 33.0]))
    assert (result.bias, result.lower, result.upper) == pytest.approx((2, 2 - 1.96, 2 + 1.96))
    assert result.scale == 20
    assert result.percent(result.bias) == pytest.approx(10)
    assert (result.slope, result.intercept, result.r) == pytest.approx((1.1, 0, 1), abs=1e-12)


def test_gain_and_offset_show():
    truth = np.array([3.0, 5.0, 9.0, 4.0])
    gain = agree(truth, 1.5 * truth)
    assert (gain.slope, gain.intercept, gain.r) == pytest.approx((1.5, 0, 1), abs=1e-12)
    assert gain.percent(gain.bias) == pytest.approx(50)
    offset = agree(truth, truth + 7)
    assert (offset.slope, offset.bias, offset.lower) == pytest.approx((1, 7, 7))


@pytest.mark.parametrize(
    ("truth", "prediction", "nan", "reason"),
    [
        ([1, 2], [1, 2], {"slope", "intercept", "r", "bias", "lower", "upper"}, "2 objects"),
        ([], [], {"slope", "intercept", "r", "bias", "lower", "upper"}, "0 objects"),
        ([2, 2, 2], [1, 2, 3], {"slope", "intercept", "r"}, "real amounts are equal"),
        ([1, 2, 3], [2, 2, 2], {"r"}, "predicted amounts are equal"),
        ([-1, 0, 1], [1, 2, 3], set(), "percentages undefined"),
        ([1, 2, np.nan], [1, 2, 3], {"slope", "r", "bias", "lower", "upper"}, "NaN"),
    ],
)
def test_what_is_undefined_has_a_reason(truth, prediction, nan, reason):
    result = agree(np.array(truth, float), np.array(prediction, float))
    assert reason in result.reason
    for name in ("slope", "r", "bias", "lower", "upper"):
        assert math.isnan(getattr(result, name)) == (name in nan)
    if "percentages" in reason:
        assert math.isnan(result.percent(result.bias))


def test_sums_are_above_the_real_ground():
    labels = np.zeros((4, 5), np.int32)
    labels[0, :2], labels[2, 1:4] = 7, 3
    truth = np.full((4, 5), 100, np.uint8)
    truth[labels == 7], truth[labels == 3] = 110, 140
    prediction = truth + 5  # an offset is not taken off
    assert [a.tolist() for a in integrated_intensities(labels, truth, prediction)] == [
        [120, 20],
        [135, 30],
    ]
    slope = np.broadcast_to(np.arange(5) * 10.0, (4, 5))
    real, _ = integrated_intensities(labels, truth, truth, slope)
    assert real.tolist() == [3 * 140 - 10 - 20 - 30, 2 * 110 - 10]
    real, _ = integrated_intensities(labels, truth, truth, 90)
    assert real.tolist() == [150, 40]


def test_the_ground_is_dark_also_where_something_else_is_bright():
    labels = np.zeros((20, 20), np.int32)
    labels[:5, :5] = 1
    truth = np.full((20, 20), 50, np.uint16)
    truth[:5, :5], truth[10:18] = 80, 500
    assert integrated_intensities(labels, truth, truth)[0].tolist() == [25 * 30]


def test_objects_that_fill_the_field_have_a_ground_too():
    labels = np.ones((10, 10), np.int32)
    truth = np.arange(100.0).reshape(10, 10)
    (real,), _ = integrated_intensities(labels, truth, truth)
    assert real == pytest.approx(truth.sum() - 100 * np.percentile(truth, 5))


def test_no_objects():
    real, predicted = integrated_intensities(
        np.zeros((3, 3), np.int32), np.ones((3, 3)), np.ones((3, 3))
    )
    assert (real.size, predicted.size) == (0, 0)


def test_objects_off_by_more_than_a_quarter_are_counted():
    truth = np.array([100.0, 100, 100, 200, 4])
    assert share_off(truth, truth) == 0
    assert share_off(truth, 1.24 * truth) == 0
    assert share_off(truth, 0.7 * truth) == 0.8
    # The faint one may be off by a quarter of half the median: 12.5.
    assert share_off(truth, truth + np.array([0, 0, 0, 0, 12])) == 0
    assert share_off(truth, truth + np.array([26, -26, 24, -51, 13])) == 0.8
    assert math.isnan(share_off(np.empty(0), np.empty(0)))
    assert math.isnan(share_off(truth, np.full(5, np.nan)))


def test_blocks_are_sums_above_the_ground_where_there_is_signal():
    rng = np.random.default_rng(0)
    truth = rng.integers(90, 111, (150, 210)).astype(np.uint16)
    truth[10:50, 70:120] += 500
    truth[70:120, 130:190] += 900
    prediction = (2 * truth).astype(np.uint16)
    real, predicted = block_intensities(truth, prediction, 100)
    cut = truth[:128, :192].astype(float) - 100
    blocks = [cut[y : y + 64, x : x + 64].sum() for y in (0, 64) for x in (0, 64, 128)]
    shown = [b for b in blocks if b > 0.3 * np.percentile(blocks, 95)]
    assert len(shown) == 2
    np.testing.assert_allclose(real, shown)
    np.testing.assert_allclose(predicted, 2 * real + 100 * 64**2)
    assert len(block_intensities(truth[:60], prediction[:60], 100)[0]) == 0

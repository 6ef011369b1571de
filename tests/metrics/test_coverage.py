"""Coverage and the risk-coverage curve, against sorting every pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.metrics.coverage import RiskCoverage, coverage_reached, mean_width

SHAPE = (60, 80)
RANGE = 2000.0


def field(seed: int, informed: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, truth, half-width of one field; `informed` 0 draws half-widths by chance."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(500, 2000, SHAPE)
    spread = rng.lognormal(3, 1, SHAPE)
    error = rng.laplace(0, spread)
    known = np.exp(
        informed * np.log(spread)
        + (1 - informed) * np.log(rng.permutation(spread.ravel()).reshape(SHAPE))
    )
    return truth + error, truth, 2 * known


def sorted_risk(error: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Mean error of the 1, 2, ... pixels of the smallest keys."""
    ordered = error.ravel()[np.argsort(key, axis=None, kind="stable")]
    return np.cumsum(ordered) / np.arange(1, ordered.size + 1)


def test_coverage_counts_pixels_on_the_edge_as_inside() -> None:
    truth = np.array([[10, 20, 30, 40]], np.uint8)
    prediction = np.array([[12, 17, 30, 255]], np.uint8)
    assert coverage_reached(prediction, truth, np.array([[2, 2, 0, 214]], np.uint8)) == 0.5
    assert coverage_reached(prediction, truth, np.array([[2, 3, 0, 215]], np.uint8)) == 1


def test_width_is_the_whole_interval() -> None:
    assert mean_width(np.array([[100, 300]], np.uint16), RANGE) == pytest.approx(0.2)


@pytest.mark.parametrize("seed", range(3))
def test_curve_and_area_are_those_of_sorting_all_pixels(seed: int) -> None:
    fields = [field(10 * seed + i) for i in range(3)]
    collected = RiskCoverage(RANGE)
    for one in fields:
        collected.add(*one)
    prediction, truth, width = (np.stack(parts) for parts in zip(*fields, strict=True))
    error = np.abs(prediction - truth) / RANGE
    curve = collected.curve()
    at = (curve.retained * error.size).round().astype(int) - 1
    for ours, area, key in (
        (curve.risk, curve.area, width),
        (curve.oracle, curve.oracle_area, error),
    ):
        expected = sorted_risk(error, key)
        np.testing.assert_allclose(ours[4:], expected[at][4:], rtol=0.02)
        assert area == pytest.approx(expected.mean(), rel=0.01)
    assert curve.random == pytest.approx(error.mean())


def test_skill_tells_knowing_from_guessing() -> None:
    skills = []
    for informed in (0.0, 0.5, 1.0):
        collected = RiskCoverage(RANGE)
        for seed in range(4):
            collected.add(*field(seed, informed))
        skills.append(collected.curve().skill)
    assert abs(skills[0]) < 0.05
    assert skills[0] + 0.1 < skills[1] < skills[2] - 0.1


def test_half_widths_that_are_the_errors_have_skill_one() -> None:
    prediction, truth, _ = field(0)
    collected = RiskCoverage(RANGE)
    collected.add(prediction, truth, np.abs(prediction - truth))
    assert collected.curve().skill == pytest.approx(1)


def test_one_half_width_everywhere_is_chance() -> None:
    prediction, truth, width = field(0)
    collected = RiskCoverage(RANGE)
    collected.add(prediction, truth, np.full_like(width, 7))
    curve = collected.curve()
    np.testing.assert_allclose(curve.risk, curve.random)
    assert curve.skill == pytest.approx(0)


def test_a_perfect_prediction_has_nothing_to_rank() -> None:
    _, truth, width = field(0)
    collected = RiskCoverage(RANGE)
    collected.add(truth, truth, width)
    curve = collected.curve()
    assert curve.random == curve.area == 0
    assert np.isnan(curve.skill)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 65535)] * 3), min_size=1, max_size=30),
    st.sampled_from([6554.0, 65535.0]),
)
def test_invariants(pixels: list[tuple[int, int, int]], data_range: float) -> None:
    prediction, truth, width = np.array(pixels, np.uint16).T
    collected, parts = RiskCoverage(data_range), RiskCoverage(data_range)
    collected.add(prediction, truth, width)
    half = len(pixels) // 2
    for part in (slice(0, half), slice(half, None)):
        if len(prediction[part]):
            parts.add(prediction[part], truth[part], width[part])
    curve, other = collected.curve(20), parts.curve(20)
    np.testing.assert_allclose(curve.risk, other.risk)  # however the pixels are dealt out
    assert curve.random == pytest.approx(
        np.abs(prediction.astype(float) - truth).mean() / data_range
    )
    # The oracle's bins are 2.3 % wide: within one, the order of errors is not known.
    assert (curve.oracle <= curve.risk * 1.024 + 1e-5).all()
    assert (np.diff(curve.oracle) >= -1e-9 * curve.random).all()
    assert curve.oracle_area <= curve.random * (1 + 1e-9)


def test_what_has_no_meaning_is_refused() -> None:
    image = np.zeros((2, 2))
    for wrong in (np.zeros((2, 3)), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="one shape with pixels"):
            coverage_reached(image, image, wrong)
        with pytest.raises(ValueError, match="one shape with pixels"):
            RiskCoverage(1).add(image, wrong, image)
    for call in (lambda: RiskCoverage(0), lambda: mean_width(image, 0)):
        with pytest.raises(ValueError, match="data_range must be above 0"):
            call()
    with pytest.raises(ValueError, match="no field"):
        RiskCoverage(1).curve()

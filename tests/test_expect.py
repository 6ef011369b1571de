"""What a model of the control lets expect, on residuals that are known."""

import numpy as np
import pytest
from scipy import ndimage, stats

from vfn.evaluation import statistics
from vfn.evaluation.conditions import CONTROL, TESTED, TREATED, Field, summarise_conditions
from vfn.evaluation.expect import Expectation, departures
from vfn.evaluation.statistics import cliffs_delta, hedges_g, two_groups
from vfn.report.conditions_page import sentences


def field(seed: int, more: float = 0.0) -> tuple[np.ndarray, np.ndarray, float]:
    """A prediction, and a truth that errs more where it is bright; `more` is added in one corner."""
    rng = np.random.default_rng(seed)
    prediction = 1000 + 4000 * ndimage.gaussian_filter(rng.random((160, 160)), 6)
    noise = ndimage.gaussian_filter(rng.standard_normal(prediction.shape), 4) * 8
    truth = prediction + noise * (prediction - prediction.min()) / 4 + 30
    truth[:60, :60] += more
    return prediction.astype(np.float32), truth.astype(np.float32), 1.0


@pytest.fixture(scope="module")
def expected() -> Expectation:
    return Expectation.fit((field(seed) for seed in range(6)), 4000.0)


def test_control_fields_depart_by_about_one_standard_deviation(expected: Expectation) -> None:
    z = np.stack([expected.map(*field(seed)) for seed in range(20, 26)])
    assert np.median(z) == pytest.approx(0, abs=0.2)  # a steady offset is expected
    assert np.median(np.abs(z)) * 1.4826 == pytest.approx(1, abs=0.25)


def test_what_is_added_is_found_where_it_is(expected: Expectation) -> None:
    z = expected.map(*field(30, more=900))
    assert np.median(z[10:50, 10:50]) > 3
    assert abs(np.median(z[90:, 90:])) < 1
    less = expected.map(*field(30, more=-900))
    assert np.median(less[10:50, 10:50]) < -3


def test_departures_are_medians_over_objects() -> None:
    z = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    labels = np.zeros((40, 40), np.int32)
    labels[:10, :10], labels[20:, 5:30] = 2, 7
    found = departures(z, labels)
    assert found == pytest.approx([np.median(np.abs(z[labels == n])) for n in (2, 7)])
    assert len(departures(z, np.zeros((40, 40), np.int32))) == 0


def test_cliffs_delta_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, 15).astype(float), rng.integers(1, 8, 11).astype(float)
    pairs = np.sign(b[:, None] - a)
    assert cliffs_delta(a, b) == pytest.approx(pairs.mean())
    u = stats.mannwhitneyu(b, a).statistic
    assert cliffs_delta(a, b) == pytest.approx(2 * u / (len(a) * len(b)) - 1)


def test_hedges_g_by_hand() -> None:
    a, b = np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0, 5.0, 6.0])
    pooled = np.sqrt((2 * a.var(ddof=1) + 3 * b.var(ddof=1)) / 5)
    g = (1 - 3 / (4 * 7 - 9)) * (b.mean() - a.mean()) / pooled
    found, low, high = hedges_g(a, b)
    assert found == pytest.approx(g)
    assert low < g < high
    assert np.isnan(hedges_g(np.ones(3), np.ones(3))[0])


def test_the_test_is_scipys_and_few_units_have_none() -> None:
    a, b = np.arange(5.0), np.arange(3.0, 9.0)
    assert two_groups(a, b).p == pytest.approx(stats.mannwhitneyu(a, b).pvalue)
    assert np.isnan(two_groups(a[:1], b).p)
    assert two_groups([np.nan, 1.0, 2.0], b).n_control == 2
    assert np.isnan(two_groups([], b).delta)


def test_no_difference_is_seldom_called_one() -> None:
    """Of 200 draws from one distribution about 5 % come out below 0.05."""
    rng = np.random.default_rng(3)
    p = [stats.mannwhitneyu(*rng.normal(size=(2, 8))).pvalue for _ in range(200)]
    ours = [two_groups(*pair).p for pair in np.random.default_rng(3).normal(size=(20, 2, 8))]
    assert np.mean(np.array(p) < 0.05) < 0.1
    assert ours == pytest.approx(p[:20])


def test_nine_fields_of_two_wells_raise_false_alarms_and_their_wells_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing differs but wells, as much as fields do within one: fields are no independent witnesses."""
    monkeypatch.setattr(statistics, "RESAMPLES", 2)
    rng = np.random.default_rng(0)
    expected = {"er": Expectation(np.zeros(1), np.zeros(1), np.ones(1), 1.0)}
    alarms = {"": 0, "W": 0}
    for _ in range(150):
        levels = rng.normal(size=(2, 2, 1)) + rng.normal(size=(2, 2, 9))
        for name in alarms:
            fields = [
                Field(
                    condition, f"{condition}{well}{i}", name and f"{name}{well}", "er",
                    dict.fromkeys(TESTED, float(levels[group, well, i])), (), False, i,
                )
                for group, condition in enumerate((CONTROL, TREATED))
                for well in range(2)
                for i in range(9)
            ]  # fmt: skip
            entry = summarise_conditions(fields, expected)["er"]
            assert entry["unit"] == ("well" if name else "field")
            alarms[name] += entry["figures"]["departure"]["p"] < 0.05
            caution = any("Fields count as independent" in s for s in sentences("er", entry))
            assert caution == (not name)
            assert any("too few to show any" in s for s in sentences("er", entry)) == bool(name)
    assert alarms[""] > 60
    assert alarms["W"] == 0


def test_wells_are_units_only_where_both_conditions_know_them() -> None:
    values = dict.fromkeys(TESTED, 1.0)
    fields = [
        Field(condition, f"{condition}{i}", "A1" if condition == CONTROL else "", "er", values, (), False, i)
        for condition in (CONTROL, TREATED)
        for i in range(3)
    ]  # fmt: skip
    expected = {"er": Expectation(np.zeros(1), np.zeros(1), np.ones(1), 1.0)}
    entry = summarise_conditions(fields, expected)["er"]
    figures = entry["figures"]["departure"]
    assert (entry["unit"], figures["n_control"], figures["n_treated"]) == ("field", 3, 3)

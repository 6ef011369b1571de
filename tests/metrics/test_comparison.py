"""Paired statistics against SciPy, published tables and hand computation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vfn.evaluation.columns import HIGHER_IS_BETTER
from vfn.metrics.comparison import (
    MAIN,
    Comparison,
    Units,
    compare,
    correct,
    holm,
    make_units,
    units_needed,
)

# Darwin's pairs of maize, crossed and self-fertilised, heights in eighths of an inch: differences
# as in Fisher, The Design of Experiments (1935), ch. 3, where t = 2.148 with 14 degrees of freedom.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)


def units(differences, base=10.0):
    d = np.asarray(differences, float)
    a = np.full(len(d), base)
    return Units(tuple(map(str, range(len(d)))), a, a + d, 0)


def test_student_gives_fishers_figure():
    found = compare(units(DARWIN))
    assert found.difference == pytest.approx(314 / 15)
    assert found.t == pytest.approx(2.148, abs=5e-4)
    assert found.p_t == pytest.approx(0.0497, abs=5e-5)
    assert found.d_z == pytest.approx(found.t / math.sqrt(15))
    assert found.note == ""


def test_wilcoxon_equals_the_enumeration_of_all_signs():
    d = np.array([1.0, 2.0, -3.0, 4.5, 5.1, 6.2, 7.7, -0.4])
    ranks = stats.rankdata(np.abs(d))
    signs = np.array(np.meshgrid(*[[0, 1]] * len(d))).reshape(len(d), -1)
    sums = ranks @ signs
    observed = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    found = compare(units(d))
    assert found.w == observed == 5.0  # ranks 1 and 4, of -0.4 and -3
    assert found.p_wilcoxon == pytest.approx(2 * (sums <= observed).mean())


def test_wilcoxon_drops_the_units_without_a_difference():
    d = [1.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    found, without = compare(units([*d, 0.0, 0.0])), compare(units(d))
    assert found.p_wilcoxon == without.p_wilcoxon
    assert (found.n, without.n) == (9, 7)


@pytest.mark.parametrize("tests", [1, 8, 24, 31])
def test_units_needed_is_where_differences_of_one_sign_can_be_shown(tests):
    n = units_needed(tests)
    enough, few = (compare(units(np.arange(1.0, k + 1))).p_wilcoxon for k in (n, n - 1))
    assert tests * enough < 0.05 <= tests * few


def test_interval_is_students():
    d = np.random.default_rng(5).exponential(size=14)
    found = compare(units(d))
    student = stats.t.interval(0.95, 13, d.mean(), d.std(ddof=1) / math.sqrt(14))
    assert (found.low, found.high) == pytest.approx(student)
    assert found == compare(units(d))


@pytest.mark.parametrize(("kind", "low", "high"), [("normal", 0.93, 0.97), ("skewed", 0.85, 0.93)])
def test_the_interval_holds_the_true_mean_as_often_as_the_docs_say(kind, low, high):
    """Ten units, 500 samples: 2 % is twice the standard error of the share."""
    rng = np.random.default_rng(7)
    draws = rng.normal(1, 1, (500, 10)) if kind == "normal" else rng.exponential(1, (500, 10))
    held = [found.low <= 1 <= found.high for found in map(compare, map(units, draws))]
    assert low <= np.mean(held) <= high


@settings(max_examples=30, deadline=None)  # ties are enumerated, which takes its time
@given(
    st.lists(st.integers(-50, 50), min_size=3, max_size=8),
    st.integers(-1000, 1000),
)
def test_exchanging_the_runs_turns_the_sign_and_no_p_value(values, base):
    one = units(values, base)
    other = Units(one.names, one.b, one.a, 0)
    x, y = compare(one), compare(other)
    assert (x.difference, x.t, x.d_z) == pytest.approx(
        (-y.difference, -y.t, -y.d_z), nan_ok=True, abs=1e-9
    )
    assert (x.p_t, x.p_wilcoxon) == pytest.approx((y.p_t, y.p_wilcoxon), nan_ok=True)
    assert x.note == y.note
    assert bool(x.note) == math.isnan(x.p_t)
    if not math.isnan(x.low):
        assert x.low <= x.difference <= x.high


@pytest.mark.parametrize(
    ("differences", "words", "tested"),
    [
        ([], "no unit", False),
        ([0.5], "one unit only", False),
        ([0.0, 0.0, 0.0], "all differences are zero", False),
        ([0.1, 0.1, 0.1], "all differences are the same", True),  # ranks are still defined
    ],
)
def test_nothing_is_given_where_it_is_undefined(differences, words, tested):
    found = compare(units(differences))
    assert words in found.note
    assert all(map(math.isnan, (found.low, found.high, found.t, found.p_t, found.d_z)))
    assert math.isnan(found.p_wilcoxon) is not tested
    assert math.isnan(found.difference) is not bool(differences)


def test_rounding_is_no_difference():
    a = np.array([0.1 + 0.2, 35.1234567])
    assert not Units(("x", "y"), a, np.array([0.3, 35.1234567]), 0).differences.any()
    assert Units(("x",), a[1:], np.array([35.1234568]), 0).differences.all()


def test_wells_are_averaged_over_the_fields_that_both_runs_have():
    found = make_units(
        [1.0, 3.0, np.inf, 7.0, np.nan],
        [2.0, 6.0, 5.0, 9.0, 1.0],
        ["A01", "A01", "A01", "B02", "C03"],
    )
    assert found.names == ("A01", "B02")
    assert found.a.tolist() == [2.0, 7.0]
    assert found.b.tolist() == [4.0, 9.0]
    assert found.left_out == 2
    assert make_units([np.nan], [1.0], ["f"]).names == ()


def test_holm_by_hand_and_as_r_does():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.6, np.nan, 0.01]) == pytest.approx([0.6, np.nan, 0.02], nan_ok=True)
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p):
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, np.multiply(len(p), p))).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    assert adjusted[::-1] == pytest.approx(holm(p[::-1]))


def comparison(column, differences, higher=True, channel="dna"):
    found = units(differences)
    return Comparison(channel, column, "A", "B", "field", found, compare(found), higher)


def test_families_are_corrected_apart():
    d = DARWIN
    lines = correct(
        [
            comparison("psnr_signal", d),
            comparison("mae_signal", -2 * d, False),
            comparison("psnr_signal", [0.0, 0.0], channel="er"),  # no test: not in the family
            comparison("gain", d, None),
        ]
    )
    p = compare(units(d)).p_t
    assert [c.p_t_holm for c in lines] == pytest.approx([2 * p, 2 * p, math.nan, p], nan_ok=True)
    assert [c.main for c in lines] == [True, True, True, False]
    assert [c.better for c in lines] == ["B", "B", "", ""]
    assert set(MAIN) <= set(HIGHER_IS_BETTER)
    assert correct([]) == []


def test_a_difference_is_shown_only_where_rank_and_mean_agree():
    (clear,) = correct([comparison("ssim", np.arange(1.0, 13))])
    assert clear.shown
    (few,) = correct([comparison("ssim", np.arange(1.0, 6))])  # p cannot be below 0.0625
    assert not few.shown
    # Twenty small losses of equal worth, and two gains that make the mean positive.
    (torn,) = correct([comparison("ssim", [*(-1 - np.arange(20) / 100), 30.0, 40.0])])
    assert (torn.p_wilcoxon_holm < 0.05, torn.better, torn.shown) == (True, "B", False)
    (same,) = correct([comparison("ssim", np.full(12, 0.5))])  # no interval, ranks alone
    assert same.shown


@pytest.mark.parametrize(
    ("column", "base", "difference", "slight"),
    [
        ("psnr", 20.0, 0.09, True), ("psnr", 20.0, -0.11, False), ("mae", 0.1, -0.0008, True),
        ("mae", 0.1, 0.0011, False), ("gain", 1.0, 1e-5, False), ("pearson", 0.5, 0.009, True),
    ],
)  # fmt: skip
def test_slight_differences(column, base, difference, slight):
    found = units([difference, difference * 1.01], base)
    assert (
        Comparison("dna", column, "A", "B", "field", found, compare(found), True).slight is slight
    )

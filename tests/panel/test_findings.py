"""What a panel concludes, against SciPy and brute force."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vfn.errors import UserError
from vfn.panel.findings import Estimate, Grades, collect, interval, smallest_panels
from vfn.panel.plan import Row, plan

GRADES = Grades(0.9, 0.7)
STAINS = ("a", "b", "c", "d")


def test_the_interval_is_students() -> None:
    values = [3.0, 4.5, 4.0, 5.5]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = interval(values)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((4.25, low, high, 4))


def test_of_correlations_it_is_taken_on_fishers_scale() -> None:
    values = [0.8, 0.9, 0.95]
    z = np.arctanh(values)
    ends = np.tanh(stats.t.interval(0.95, 2, z.mean(), stats.sem(z)))
    found = interval(values, correlation=True)
    assert (found.low, found.high) == pytest.approx(tuple(ends))
    assert found.mean == pytest.approx(math.tanh(z.mean()))
    assert found.high < 1


def test_one_repeat_has_no_interval_and_none_no_mean() -> None:
    one = interval([0.5, None])
    assert one.mean == 0.5
    assert math.isnan(one.low)
    assert math.isnan(interval([None]).mean)


@pytest.mark.parametrize(
    ("mean", "low", "high", "n", "grade"),
    [
        (0.95, 0.92, 0.97, 3, "H"),
        (0.92, 0.85, 0.96, 3, "A-H"),
        (0.72, 0.6, 0.8, 3, "L-A"),
        (0.8, 0.1, 0.99, 3, "A?"),
        (0.8, 0.1, 0.99, 2, "A"),
        (0.9, math.nan, math.nan, 1, "H"),
        (0.2, math.nan, math.nan, 1, "L"),
        (math.nan, math.nan, math.nan, 0, "-"),
    ],
)
def test_a_grade_spans_what_the_interval_spans(
    mean: float, low: float, high: float, n: int, grade: str
) -> None:
    assert GRADES.words(Estimate(mean, low, high, n)) == grade


@pytest.mark.parametrize(("high", "average"), [(0.7, 0.9), (1.0, 0.5), (0.9, 0.0)])
def test_grades_out_of_order_are_refused(high: float, average: float) -> None:
    with pytest.raises(UserError, match="grades="):
        Grades(high, average)


def scores(r: float | None, psnr: float, linear: float) -> dict[str, dict[str, float | None]]:
    def system(pearson: float | None, value: float) -> dict[str, float | None]:
        return {"pearson": pearson, "psnr_signal": value, "ssim_signal": 0.5, "mae_signal": 0.1}

    return {
        "prediction": system(r, psnr), "linear": system(0.5, linear), "mean": system(None, 10.0)
    }  # fmt: skip


def test_repeats_are_put_together_and_compared_with_the_better_baseline() -> None:
    cells = [
        {"inputs": ["a"], "targets": {"b": scores(0.95, 25, 22), "c": scores(0.2, 9, 8)}},
        {"inputs": ["a"], "targets": {"b": scores(0.97, 27, 23), "c": scores(0.3, 8, 8)}},
    ]
    b, c = collect(cells, GRADES)
    assert (b.inputs, b.target, b.baseline, b.grade) == (("a",), "b", "linear", "H")
    assert b.gain.mean == pytest.approx(3.5)
    assert c.baseline == "mean"
    assert c.gain.mean == pytest.approx(-1.5)


QUALITY = st.dictionaries(
    st.sampled_from(
        [
            (inputs, target)
            for size in (1, 2)
            for inputs in combinations((*STAINS, "phase"), size)
            for target in STAINS
            if target not in inputs
        ]
    ),
    st.floats(-1, 1),
)


@settings(max_examples=200, deadline=None)
@given(quality=QUALITY, wanted=st.floats(0.1, 0.95))
def test_no_smaller_panel_is_enough(
    quality: dict[tuple[tuple[str, ...], str], float], wanted: float
) -> None:
    """Against trying every subset."""

    def enough(stains: tuple[str, ...]) -> bool:
        there = {*stains, "phase"}
        return all(
            any(
                name == target and set(inputs) <= there and r >= wanted
                for (inputs, name), r in quality.items()
            )
            for target in STAINS
            if target not in stains
        )

    sizes = [k for k in range(len(STAINS)) if any(enough(s) for s in combinations(STAINS, k))]
    found = smallest_panels(quality, (*STAINS, "phase"), ("phase",), wanted)
    good = [panel for panel in found if panel.enough]
    assert {panel.stains for panel in good} == (
        {s for s in combinations(STAINS, sizes[0]) if enough(s)} if sizes else set()
    )
    for panel in found:
        for target, (inputs, r) in panel.sources.items():
            assert target not in panel.stains
            if inputs:
                assert quality[inputs, target] == r


def test_every_pair_is_trained_once_a_repeat() -> None:
    cells = plan(STAINS, STAINS, 2, 3, joint=True)
    pairs = [(c.inputs, t, c.repeat) for c in cells for t in c.targets]
    assert len(pairs) == len(set(pairs)) == 3 * (4 * 3 + 6 * 2)
    alone = plan(STAINS, STAINS, 2, 3, joint=False)
    assert sorted((c.inputs, c.targets[0], c.repeat) for c in alone) == sorted(pairs)
    assert len(cells) == 3 * 10


def test_rows_replace_the_input_sets() -> None:
    rows = [Row(("a",), "b"), Row(("a",), "c"), Row(("c", "d"), "a")]
    cells = plan(STAINS, (), 2, 1, joint=False, rows=rows)
    assert [(c.inputs, c.targets) for c in cells] == [
        (("a",), ("b",)), (("a",), ("c",)), (("c", "d"), ("a",))
    ]  # fmt: skip


def test_nothing_to_predict_is_refused() -> None:
    with pytest.raises(UserError, match="no channel is left"):
        plan(("a",), ("a",), 2, 1, joint=True)

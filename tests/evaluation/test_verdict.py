"""The verdict: every criterion on both sides of its limits, spread, failed fields, nothing undefined passing."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vfn.commands.score import default_limits
from vfn.errors import UserError
from vfn.evaluation.criteria import CRITERIA, LEVELS, PURPOSES, Stain
from vfn.evaluation.limits import read_limits
from vfn.evaluation.verdict import judge

LIMITS = default_limits()
ROW = {
    "mae": 0.01, "pearson": 0.99, "pearson_ceiling": 1.0, "psnr_signal": 30.0, "gain": 1.0,
    "bias_signal": 0.0, "contrast": 1.0, "contrast_truth": 1.0, "power_ratio": 1.0, "shift_local": 0.1,
    "shading": 0.02, "bleed_through": 0.0, "hallucinated": 0.0, "missed": 0.0, "f1_50": 1.0,
    "matched_iou": 0.95, "outline_shift": 0.0, "nuclei_predicted": 50.0, "nuclei_truth": 50.0,
    "amount_off": 0.0, "amount_r": 0.99, "coverage": 0.9,
}  # fmt: skip
FIELDS = 6


def node():
    conf = Path(__file__).resolve().parents[2] / "conf" / "evaluate.yaml"
    return OmegaConf.to_container(OmegaConf.load(conf).verdict)


def stain(changes=None, fields=FIELDS, at=None, **more):
    """A perfect stain in fields of three wells; `changes` in every field, or in those numbered `at`."""
    where = range(fields) if at is None else at
    rows = [ROW | ((changes or {}) if i in where else {}) for i in range(fields)]
    given = {
        "baselines": {"linear": np.full(fields, 25.0), "mean": np.full(fields, math.nan)},
        "coverage": 0.9, "promised": True, "surviving": 1.0, **more,
    }  # fmt: skip
    names = [f"f{i}" for i in range(fields)]
    return Stain(rows, names, [f"W{i % 3}" for i in range(fields)], **given)


def found(of, key):
    return next(j for j in judge(of, LIMITS).judgements if j.key == key)


def test_a_perfect_stain_is_judged_by_everything():
    verdict = judge(stain(), LIMITS)
    assert verdict.level == "use"
    assert [j.level for j in verdict.judgements] == ["use"] * len(CRITERIA)
    assert verdict.not_judged == []
    assert set(verdict.as_dict()["criteria"].values()) == {"use"}
    assert {p.purpose: p.level for p in verdict.purposes} == dict.fromkeys(PURPOSES, "use")
    sentence = found(stain(), "pearson").sentence
    assert "r = 0.990 (6 fields of 3 wells; enough for use: at least 0.9)" in sentence


@pytest.mark.parametrize(
    ("key", "column", "values"),
    [
        ("pearson", "pearson", (0.9, 0.89, 0.75, 0.74)),
        ("psnr_gain", "psnr_signal", (26.0, 25.9, 25.0, 24.9)),
        ("gain", "gain", (1.15, 1.2, 1.4, 1.41)),
        ("gain", "gain", (0.85, 0.8, 0.7, 0.69)),
        ("offset", "bias_signal", (0.05, 0.06, 0.15, 0.16)),
        ("offset", "bias_signal", (-0.05, -0.06, -0.15, -0.16)),
        ("power_ratio", "power_ratio", (0.35, 0.34, 0.2, 0.19)),
        ("power_ratio", "power_ratio", (1.5, 1.6, 2.5, 2.6)),
        ("shift", "shift_local", (0.5, 0.6, 1.5, 1.6)),
        ("shading", "shading", (0.15, 0.16, 0.35, 0.36)),
        ("bleed_through", "bleed_through", (0.1, 0.11, 0.25, 0.26)),
        ("bleed_through", "bleed_through", (-0.1, -0.11, -0.25, -0.26)),
        ("hallucinated", "hallucinated", (0.5, 0.6, 2.5, 2.6)),  # of 50 predicted
        ("missed", "missed", (0.5, 0.6, 5.0, 5.1)),  # of 50 real
        ("f1_50", "f1_50", (0.9, 0.89, 0.75, 0.74)),
        ("matched_iou", "matched_iou", (0.8, 0.79, 0.65, 0.64)),
        ("outline_shift", "outline_shift", (0.5, 0.51, 1.5, 1.51)),
        ("amount_off", "amount_off", (0.03, 0.04, 0.25, 0.26)),
        ("amount_r", "amount_r", (0.9, 0.89, 0.7, 0.69)),
        ("coverage", "coverage", (0.86, 0.84, 0.81, 0.79)),
    ],
)
def test_limits(key, column, values):
    levels = []
    for value in values:
        judged = found(stain({column: value}), key)
        levels.append(judged.level)
        assert judge(stain({column: value}), LIMITS).level == levels[-1]  # the worst decides
        for purpose in judge(stain({column: value}), LIMITS).purposes:
            if purpose.purpose in judged.criterion.purposes:
                assert purpose.level == levels[-1]
    assert levels == ["use", "care", "care", "do not use"]


def test_a_kept_promise_is_never_punished():
    assert found(stain({"coverage": 1.0}), "coverage").level == "use"


def test_intervals_without_a_promise_are_for_care():
    judged = found(stain(promised=False), "coverage")
    assert (judged.level, "too few validation fields" in judged.sentence) == ("care", True)
    assert found(stain(promised=None), "coverage").level == "use"


@pytest.mark.parametrize(
    ("column", "low", "high", "level"),
    [
        ("gain", 0.5, 1.5, "do not use"),
        ("gain", 0.8, 1.2, "care"),
        ("bias_signal", -0.2, 0.2, "do not use"),
        ("outline_shift", -1.0, 1.0, "care"),
        ("power_ratio", 0.3, 1.7, "care"),
        ("power_ratio", 0.1, 2.9, "do not use"),
    ],
)
def test_opposite_faults_do_not_cancel(column, low, high, level):
    rows = stain()
    mixed = [row | {column: (low, high)[i % 2]} for i, row in enumerate(rows.rows)]
    assert judge(replace(rows, rows=mixed), LIMITS).level == level


@pytest.mark.parametrize(
    ("fields", "level"), [(6, "care"), (12, "care"), (49, "care"), (50, "use")]
)
def test_one_failed_field_counts(fields, level):
    spoiled = stain({"pearson": 0.1, "shift_local": 5.0}, fields, at=[0])
    if fields == 50:
        spoiled = replace(
            spoiled, rows=[r | {"pearson": max(r["pearson"], 0.1)} for r in spoiled.rows]
        )
    verdict = judge(spoiled, LIMITS)
    assert verdict.level == level
    if level == "care":
        assert any("f0 (0.100)" in j.sentence for j in verdict.judgements)


def test_a_constant_prediction_of_a_field_with_signal_has_failed():
    black = {"pearson": math.nan, "gain": 0.0, "power_ratio": math.nan, "contrast": 0.0}
    verdict = judge(stain(black, 12, at=[3]), LIMITS)
    assert verdict.level == "care"
    assert (
        "f3 (no signal in the prediction)"
        in found(stain(black, 12, at=[3]), "failed_fields").sentence
    )
    assert judge(stain(black), LIMITS).level == "do not use"


def test_a_prediction_that_is_no_number_has_failed():
    broken = dict.fromkeys(ROW, math.nan)
    assert "f1 (not finite)" in found(stain(broken, at=[1]), "failed_fields").sentence


def test_empty_fields_are_judged_by_their_ground():
    empty = {
        "contrast_truth": 0.01, "contrast": 0.01, "pearson": 0.02, "gain": 0.0, "psnr_signal": 40.0,
        "power_ratio": math.nan, "nuclei_truth": 0.0, "nuclei_predicted": 0.0, "f1_50": math.nan,
        "matched_iou": math.nan, "outline_shift": math.nan, "amount_r": math.nan, "amount_off": math.nan,
    }  # fmt: skip
    assert judge(stain(empty, 7, at=[5, 6]), LIMITS).level == "use"
    assert judge(stain(empty | {"bias_signal": 0.3}, 7, at=[5, 6]), LIMITS).level != "use"
    assert judge(stain(empty | {"contrast": 0.4}, 7, at=[5, 6]), LIMITS).level != "use"


def test_noise_of_the_truth_is_no_fault_of_the_prediction():
    noisy = {"pearson": 0.88, "pearson_ceiling": 0.9, "gain": 0.81}
    judged = found(stain(noisy), "pearson")
    assert judged.level == found(stain(noisy), "gain").level == "use"
    assert "highest possible 0.900" in judged.sentence
    # ... nor an excuse for anything
    assert found(stain({"pearson": 0.6, "pearson_ceiling": 0.2}), "pearson").level == "care"
    assert found(stain({"gain": 1.0, "pearson_ceiling": 0.9}), "gain").figure.startswith("1.00")


def test_drift_between_wells():
    wells = [{"gain": gain} for gain in (0.9, 1.0, 1.1)]
    rows = [row | wells[i % 3] for i, row in enumerate(stain().rows)]
    assert found(replace(stain(), rows=rows), "drift").figure == "0.10"
    unknown = found(replace(stain(), wells=[""] * FIELDS), "drift")
    assert (unknown.level, "not known" in unknown.sentence) == (None, True)


def test_sentences_tell_spread_interval_and_units():
    rows = [
        row | {"gain": 0.9 + 0.05 * (i % 3), "pearson": 0.95 + 0.01 * (i % 3)}
        for i, row in enumerate(stain().rows)
    ]
    assert found(replace(stain(), rows=rows), "gain").figure == "0.95 ± 0.04"
    # of the means of three wells: 0.96 +- 4.303 * 0.01 / sqrt(3)
    sentence = found(replace(stain(), rows=rows), "pearson").sentence
    assert "95 % interval 0.935 to 0.985 over wells; 6 fields of 3 wells" in sentence


def test_one_field_allows_care_at_most():
    verdict = judge(stain(fields=1), LIMITS)
    assert verdict.level == "care"
    assert "nothing is known about the variation between fields" in verdict.reasons[0]


COLUMN = {
    "psnr_gain": "psnr_signal", "offset": "bias_signal", "shift": "shift_local", "drift": "gain",
    "missed": "nuclei_truth", "hallucinated": "nuclei_predicted",
}  # fmt: skip


@pytest.mark.parametrize(
    "key", [c.key for c in CRITERIA if c.key not in ("failed_fields", "fields", "features")]
)
@pytest.mark.parametrize("how", ["absent", "undefined"])
def test_a_missing_figure_is_said(key, how):
    column = COLUMN.get(key, key)
    rows = [{k: v for k, v in ROW.items() if k != column} for _ in range(FIELDS)]
    if how == "undefined":
        rows = [row | {column: math.nan} for row in rows]
    if key == "pearson":  # else it is a constant prediction
        rows = [{k: v for k, v in row.items() if k != "gain"} for row in rows]
    verdict = judge(replace(stain(), rows=rows), LIMITS)
    judged = next(j for j in verdict.not_judged if j.key == key)
    assert (judged.level, judged.figure) == (None, "-")
    assert judged.sentence.startswith("Not judged: ")
    assert verdict.level == ("care" if key == "pearson" else "use")
    assert verdict.as_dict()["criteria"][key] is None


def test_what_a_reader_must_know_comes_first():
    verdict = judge(stain(), LIMITS, "Another scale?")
    assert verdict.reasons[0] == "Another scale?"
    assert verdict.as_dict()["reasons"] == verdict.reasons


def test_no_nuclei_and_no_baselines_are_not_judged():
    none = stain({"nuclei_truth": 0.0, "nuclei_predicted": 0.0}, baselines={})
    sentences = {j.key: j.sentence for j in judge(none, LIMITS).not_judged}
    assert {"hallucinated", "missed", "psnr_gain"} <= set(sentences)
    assert "no nucleus in the truth" in sentences["missed"]
    assert "no nucleus was predicted" in sentences["hallucinated"]


def test_a_purpose_without_figures_is_not_judged():
    keys = (
        "nuclei_truth",
        "nuclei_predicted",
        "missed",
        "hallucinated",
        "f1_50",
        "matched_iou",
        "outline_shift",
    )
    other = replace(
        stain(), rows=[{k: v for k, v in ROW.items() if k not in keys} for _ in range(FIELDS)]
    )
    count, outline, *_ = judge(other, LIMITS).purposes
    assert [(p.purpose, p.level) for p in (count, outline)] == [("count", None), ("outline", None)]
    assert "nuclei were not looked for" in count.reason


def test_nothing_known_is_no_permission():
    verdict = judge(Stain([{}] * 9, [f"f{i}" for i in range(9)]), LIMITS)
    assert verdict.level == "do not use"
    assert verdict.reasons[0].startswith("No figure could be judged")


def test_the_weightiest_reasons_come_first():
    verdict = judge(stain({"shift_local": 9.0, "gain": 1.3, "f1_50": 0.5}), LIMITS)
    assert [j.key for j in verdict.judgements[:3]] == ["f1_50", "shift", "gain"]
    assert verdict.reasons == [j.sentence for j in verdict.judgements[:2]]
    assert "9.00 px from the truth" in verdict.reasons[1]
    assert "even use with care needs at most 1.5 px" in verdict.reasons[1]


def test_figures_of_a_part_of_the_fields_say_so():
    part = stain({"power_ratio": math.nan}, at=[0, 1, 2])
    assert "3 of 6 fields" in found(part, "power_ratio").sentence


@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(ROW)), st.floats(-3, 60) | st.just(math.nan)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_the_verdict_is_never_better_than_a_judgement(changes):
    rows = [ROW | change for change in changes]
    names = [f"f{{{i}}}" for i in range(len(rows))]
    verdict = judge(Stain(rows, names, coverage=0.9), LIMITS)
    worst = max(LEVELS.index(j.level) for j in verdict.judgements if j.level)
    assert LEVELS.index(verdict.level) >= worst
    assert len(verdict.judgements) == len(CRITERIA)
    assert 1 <= len(verdict.reasons) <= 3
    assert max(LEVELS.index(p.level) for p in verdict.purposes if p.level) <= worst


def test_every_limit_of_the_config_is_read():
    limits = read_limits(node())
    assert set(limits) == set(node())
    for key, pair in node().items():
        for name in ("use", "care"):
            band = getattr(limits[key], name)
            ends = [end for end in (band.low, band.high) if math.isfinite(end)]
            value = pair[name]
            assert ends == (value if isinstance(value, list) else [value])
    stricter = read_limits(node() | {"pearson": {"use": 0.995, "care": 0.75}})
    assert judge(stain(), stricter).level == "care"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pearsn": {"use": 1, "care": 0}}, "verdict.pearsn: unknown"),
        ({"pearson": {"use": 0.9}}, "verdict.pearson.use and verdict.pearson.care"),
        ({"pearson": 0.9}, "give two limits"),
        ({"pearson": {"use": "high", "care": 0}}, "verdict.pearson.use=high: give a number"),
        ({"pearson": {"use": 0.5, "care": 0.7}}, "care must be the wider"),
        ({"shift": {"use": 2, "care": 1}}, "care must be the wider"),
        ({"gain": {"use": 1, "care": [0, 2]}}, r"verdict.gain.use=1: give \[lower,upper\]"),
        ({"gain": {"use": [2, 1], "care": [0, 2]}}, r"give \[lower,upper\]"),
        ({"gain": {"use": [1, math.nan], "care": [0, 2]}}, r"give \[lower,upper\]"),
    ],
)
def test_wrong_limits(changes, words):
    with pytest.raises(UserError, match=words):
        read_limits(node() | changes)


def test_a_missing_limit():
    rest = node()
    del rest["shift"]
    with pytest.raises(UserError, match=r"verdict\.shift: missing"):
        read_limits(rest)

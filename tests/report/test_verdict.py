"""The verdict: every criterion on both sides of its limits, nothing undefined passing in silence."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vfn.commands.score import default_limits
from vfn.errors import UserError
from vfn.report.criteria import CRITERIA, LEVELS
from vfn.report.limits import read_limits
from vfn.report.verdict import judge

LIMITS = default_limits()


def entry(mean, n=5, **more):
    return {"mean": mean, "std": None, "n": n, **more}


def node():
    conf = Path(__file__).resolve().parents[2] / "conf" / "evaluate.yaml"
    return OmegaConf.to_container(OmegaConf.load(conf).verdict)


def perfect():
    """Figures of a stain that nothing is wrong with."""
    return {
        "pearson": entry(0.99), "psnr_signal": entry(30.0),
        "baselines": {"linear": {"psnr_signal": entry(25.0)}, "mean": {"psnr_signal": entry(None)}},
        "gain": entry(1.0), "power_ratio": entry(1.0),
        "shift_rows": entry(0.1), "shift_columns": entry(-0.1),
        "hallucinated": entry(0.0), "missed": entry(0.0), "f1_50": entry(1.0),
        "nuclei_predicted": entry(50.0), "nuclei_truth": entry(50.0),
        "coverage": entry(0.9), "coverage_stated": 0.9,
    }  # fmt: skip


def test_what_a_reader_must_know_comes_first():
    verdict = judge(perfect(), LIMITS, 5, "Another scale?")
    assert verdict.reasons[0] == "Another scale?"
    assert verdict.as_dict()["reasons"] == verdict.reasons
    assert judge({}, LIMITS, 5, "Another scale?").reasons[0].startswith("Another scale? No figure")


def level(figures, key, fields=5):
    return next(j for j in judge(figures, LIMITS, fields).judgements if j.key == key).level


def test_a_perfect_stain_is_judged_by_everything():
    verdict = judge(perfect(), LIMITS, 5)
    assert verdict.level == "use"
    assert [j.level for j in verdict.judgements] == ["use"] * len(CRITERIA)
    assert verdict.not_judged == []
    assert "r = 0.990 (enough for use: at least 0.9)" in verdict.reasons[0]
    assert set(verdict.as_dict()["criteria"].values()) == {"use"}


@pytest.mark.parametrize(
    ("key", "column", "values"),
    [
        ("pearson", "pearson", (0.9, 0.89, 0.75, 0.74)),
        ("psnr_gain", "psnr_signal", (26.0, 25.9, 25.0, 24.9)),
        ("gain", "gain", (1.15, 1.2, 1.4, 1.41)),
        ("gain", "gain", (0.85, 0.8, 0.7, 0.69)),
        ("power_ratio", "power_ratio", (0.5, 0.49, 0.2, 0.19)),
        ("power_ratio", "power_ratio", (1.5, 1.6, 2.5, 2.6)),
        ("shift", "shift_rows", (-0.48, -0.6, 1.49, 1.6)),
        ("hallucinated", "hallucinated", (0.5, 0.6, 2.5, 2.6)),  # of 50 predicted
        ("missed", "missed", (0.5, 0.6, 5.0, 5.1)),  # of 50 real
        ("f1_50", "f1_50", (0.9, 0.89, 0.75, 0.74)),
        ("coverage", "coverage", (0.86, 0.84, 0.81, 0.79)),
        ("coverage", "coverage", (0.94, 0.96, 0.99, 1.01)),
    ],
)
def test_limits(key, column, values):
    found = []
    for value in values:
        figures = perfect() | {column: entry(value)}
        found.append(level(figures, key))
        assert judge(figures, LIMITS, 5).level == found[-1]  # the worst decides
    assert found == ["use", "care", "care", "do not use"]


def test_one_field_allows_care_at_most():
    verdict = judge(perfect(), LIMITS, 1)
    assert verdict.level == "care"
    assert "nothing is known about the variation between fields" in verdict.reasons[0]


@pytest.mark.parametrize("key", [c.key for c in CRITERIA if c.columns])
@pytest.mark.parametrize("how", ["absent", "undefined"])
def test_what_has_no_figure_is_said(key, how):
    figures = perfect()
    for column in next(c for c in CRITERIA if c.key == key).columns:
        if how == "absent":
            del figures[column]
        else:
            figures[column] = entry(None, 0, note="undefined in 5 of 5 fields")
    verdict = judge(figures, LIMITS, 5)
    judgement = verdict.not_judged[0]
    assert (judgement.key, judgement.level, judgement.figure) == (key, None, "-")
    assert judgement.sentence.startswith("Not judged: ")
    assert ("undefined in 5 of 5" in judgement.sentence) == (how == "undefined")
    assert verdict.level == ("care" if key == "pearson" else "use")
    assert verdict.as_dict()["criteria"][key] is None


def test_no_nuclei_and_no_baselines_are_not_judged():
    figures = perfect() | {"nuclei_truth": entry(0.0), "nuclei_predicted": entry(0.0)}
    figures["baselines"] = {"mean": {"psnr_signal": entry(None)}}
    sentences = {j.key: j.sentence for j in judge(figures, LIMITS, 5).not_judged}
    assert set(sentences) == {"hallucinated", "missed", "psnr_gain"}
    assert "no nucleus in the truth" in sentences["missed"]
    assert "no nucleus was predicted" in sentences["hallucinated"]


def test_nothing_known_is_no_permission():
    verdict = judge({"pearson": entry(None, 0), "psnr_signal": entry(None, 0)}, LIMITS, 9)
    assert verdict.level == "do not use"
    assert verdict.reasons[0].startswith("No figure could be judged")


def test_the_weightiest_reasons_come_first():
    figures = perfect() | {"shift_rows": entry(9.0), "gain": entry(1.3), "f1_50": entry(0.5)}
    verdict = judge(figures, LIMITS, 5)
    assert [j.key for j in verdict.judgements[:3]] == ["f1_50", "shift", "gain"]
    assert verdict.reasons == [j.sentence for j in verdict.judgements[:2]]
    assert "9.00 px from the truth (even use with care needs at most 1.5 px)" in verdict.reasons[1]


def test_figures_of_a_part_of_the_fields_say_so():
    verdict = judge(perfect() | {"pearson": entry(0.95, 3)}, LIMITS, 5)
    assert "in 3 of 5 fields" in verdict.reasons[0]


@given(
    st.dictionaries(
        st.sampled_from(["pearson", "gain", "power_ratio", "f1_50", "shift_rows", "missed"]),
        st.floats(-3, 60) | st.none(),
    ),
    st.integers(1, 3),
)
def test_the_verdict_is_never_better_than_a_judgement(changes, fields):
    figures = perfect() | {key: entry(value) for key, value in changes.items()}
    verdict = judge(figures, LIMITS, fields)
    worst = max(LEVELS.index(j.level) for j in verdict.judgements if j.level)
    assert LEVELS.index(verdict.level) >= worst
    assert len(verdict.judgements) == len(CRITERIA)
    assert 1 <= len(verdict.reasons) <= 3


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
    assert judge(perfect(), stricter, 5).level == "care"


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

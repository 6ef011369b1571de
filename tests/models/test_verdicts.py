"""Verdicts in a model card: one line for each stain, whatever the card says."""

from typing import Any

import pytest

from vfn.models.card import verdicts_of
from vfn.models.verdicts import FIGURES, Level, scores_of, stain_verdicts

SCORES: dict[str, Any] = {
    "fields": 12,
    "wells": 4,
    "verdict": "care",
    "reason": "Amounts are off by 20 %.",
    "purposes": {
        "count": {"title": "count nuclei", "level": "use"},
        "outline": {"title": "outline nuclei", "level": "use"},
        "amount": {"title": "amounts", "level": "do not use"},
        "texture": {"title": "texture", "level": None},
    },
    "own_limits": False,
    **dict.fromkeys(FIGURES, 1.0),
}
NEVER = "never scored on test fields; run python evaluate.py ckpt=CKPT output=DIR"


def card(scores: Any, *targets: str) -> dict[str, Any]:
    return {"task": {"targets": list(targets or ("dapi",))}, "test": scores}


def line(**changes: Any) -> str:
    (verdict,) = stain_verdicts(card({"dapi": {**SCORES, **changes}}))
    return verdict.text


def test_a_verdict_says_what_for_why_and_on_how_much() -> None:
    assert line() == (
        "dapi: use with care (fit for: count nuclei, outline nuclei; not fit for: amounts; not "
        "judged: texture). Amounts are off by 20 %. Scored on 12 fields of 4 wells."
    )
    assert line(purposes={}, verdict="use", fields=1, wells=1).startswith("dapi: use. Amounts")
    assert line(wells=0).endswith("Scored on 12 fields of unknown wells.")
    assert line(own_limits=True).endswith("4 wells, with limits other than those of vfn.")


@pytest.mark.parametrize(
    ("level", "warns"), [("use", False), ("care", False), ("do not use", True), (None, True)]
)
def test_what_must_not_be_used_or_was_never_scored_is_a_warning(
    level: Level | None, warns: bool
) -> None:
    scores = level and {"dapi": {**SCORES, "verdict": level}}
    (verdict,) = stain_verdicts(card(scores))
    assert (verdict.level, verdict.is_warning) == (level, warns)


def test_each_stain_has_its_own() -> None:
    first, second = stain_verdicts(card({"er": SCORES, "other": SCORES}, "dna", "er"))
    assert first.text == f"dna: {NEVER}"
    assert (second.channel, second.level) == ("er", "care")


def test_a_strangers_verdict_is_cut_and_cleaned() -> None:
    evil = "\x1b]0;owned\x07\n" + "y" * 10**7
    text = line(
        reason=evil,
        purposes={str(i): {"title": evil, "level": "use"} for i in range(10**4)},
    )
    assert len(text) < 2000
    assert text.isprintable()
    (verdict,) = stain_verdicts(card(None, evil))
    assert len(verdict.text) < 200
    assert verdict.text.isprintable()


@pytest.mark.parametrize(
    "scores",
    [
        5, "text", [], {"dapi": 5}, {"dapi": []}, {"dapi": {}},
        *(
            {"dapi": {**SCORES, **change}}
            for change in (
                {"verdict": None}, {"verdict": "fine"}, {"verdict": []}, {"reason": 5}, {"reason": []},
                {"fields": "x"}, {"fields": -1}, {"fields": 10**30}, {"fields": float("nan")},
                {"wells": []}, {"wells": 10**30}, {"purposes": 5}, {"purposes": {"count": 5}},
                {"purposes": {"count": {"title": 5, "level": "use"}}},
                {"purposes": {"count": {"title": "x", "level": "fine"}}},
            )
        ),
    ],
)  # fmt: skip
def test_a_verdict_of_wrong_types_is_damage(scores: Any) -> None:
    if scores:
        with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
            stain_verdicts(card(scores))
    else:
        assert stain_verdicts(card(scores))[0].level is None


def test_a_damaged_card_is_a_verdict_that_warns() -> None:
    (verdict,) = verdicts_of({"card": {"task": 5}, "version": "1"})
    assert verdict.is_warning
    assert verdict.text.startswith("its model card is damaged (")


def test_the_scores_of_a_summary() -> None:
    figures = {key: {"mean": 0.5, "n": 3} for key in FIGURES}
    verdict = {
        "level": "care",
        "reasons": ["One.", "Two."],
        "purposes": {"count": {"title": "count nuclei", "level": "use", "reason": "Three."}},
    }
    summary = {"dapi": {**figures, "verdict": verdict}}
    found = scores_of(summary, {"dapi": {"fields": 3, "wells": 2, "plates": 1}}, True)
    assert found["dapi"] == {
        "fields": 3, "wells": 2, "verdict": "care", "reason": "One.", "own_limits": True,
        "purposes": {"count": {"title": "count nuclei", "level": "use"}}, **dict.fromkeys(FIGURES, 0.5),
    }  # fmt: skip
    assert "One. Scored on 3 fields of 2 wells" in stain_verdicts(card(found))[0].text

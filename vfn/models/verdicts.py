"""Verdicts on the stains of a model, as its card keeps them and every output shows them.

`evaluate.py` judges (`vfn.evaluation.verdict`) and puts the result into the card; from then on the card
alone is asked. A stranger's card may claim anything: its texts are cut and cleaned, never obeyed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vfn.models.words import counted, plain

Level = Literal["use", "care", "do not use"]
HEADLINES: dict[Level, str] = {"use": "use", "care": "use with care", "do not use": "do not use"}
PURPOSES: dict[Level | None, str] = {
    "use": "fit for", "care": "with care", "do not use": "not fit for", None: "not judged",
}  # fmt: skip
UNSCORED = "never scored on test fields; run python evaluate.py ckpt=CKPT output=DIR"
FIGURES = ("psnr_signal", "ssim_signal", "mae_signal", "pearson", "tolerance_level")
MOST_PURPOSES, LONGEST_NAME, MOST_UNITS = 12, 80, 2**31


@dataclass(frozen=True)
class StainVerdict:
    """Verdict on one stain of a model.

    Attributes:
        channel: the stain; empty where the card is damaged.
        level: None if it was never scored.
        text: the whole verdict in one line.
    """

    channel: str
    level: Level | None
    text: str

    @property
    def is_warning(self) -> bool:
        """True if the stain must not be used, or nobody knows if it may be."""
        return self.level in (None, "do not use")


def scores_of(
    summary: Mapping[str, Any], units: Mapping[str, Mapping[str, int]], own_limits: bool
) -> dict[str, dict[str, Any]]:
    """Return the part `test` of a card.

    Args:
        summary: content of `summary.json`.
        units: channel -> fields that were scored and their wells (0 if unknown).
        own_limits: the user changed the limits of the verdict.
    """
    return {
        channel: {
            "fields": units[channel]["fields"],
            "wells": units[channel]["wells"],
            "verdict": part["verdict"]["level"],
            "reason": next(iter(part["verdict"]["reasons"]), ""),
            "purposes": {
                key: {"title": purpose["title"], "level": purpose["level"]}
                for key, purpose in part["verdict"].get("purposes", {}).items()
            },
            "own_limits": own_limits,
            **{key: part[key]["mean"] for key in FIGURES},
        }
        for channel, part in summary.items()
    }


def stain_verdicts(card: Mapping[str, Any]) -> tuple[StainVerdict, ...]:
    """Return the verdict on each target of a card.

    Raises:
        ValueError: a verdict is damaged; likewise LookupError, TypeError, AttributeError.
    """
    tested = card["test"] or {}
    return tuple(_verdict(str(target), tested.get(target)) for target in card["task"]["targets"])


def _verdict(target: str, scores: Mapping[str, Any] | None) -> StainVerdict:
    channel = plain(target, LONGEST_NAME)
    if scores is None:
        return StainVerdict(channel, None, f"{channel}: {UNSCORED}")
    level = _level(scores["verdict"])
    if level is None:
        raise ValueError(f"no verdict on {channel}")
    purposes = _purposes(scores["purposes"])
    head = f"{channel}: {HEADLINES[level]}{f' ({purposes})' if purposes else ''}"
    reason = plain(_text(scores["reason"])).rstrip(".")
    return StainVerdict(channel, level, ". ".join(filter(None, [head, reason, _units(scores)])))


def _purposes(given: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the purposes by level: "fit for: count nuclei; not fit for: compare wells"."""
    purposes = [
        (_level(one["level"]), plain(_text(one["title"]), LONGEST_NAME))
        for one in list(given.values())[:MOST_PURPOSES]
    ]
    return "; ".join(
        f"{word}: {', '.join(title for found, title in purposes if found == level)}"
        for level, word in PURPOSES.items()
        if any(found == level for found, _ in purposes)
    )


def _units(scores: Mapping[str, Any]) -> str:
    fields, wells = int(scores["fields"]), int(scores["wells"])
    if not all(0 <= number < MOST_UNITS for number in (fields, wells)):
        raise ValueError(f"{fields} fields of {wells} wells")
    where = f" of {counted(wells, 'well')}" if wells else " of unknown wells"
    limits = ", with limits other than those of vfn" if scores["own_limits"] else ""
    return f"Scored on {counted(fields, 'field')}{where}{limits}."


def _level(value: Any) -> Level | None:
    if value is not None and value not in HEADLINES:
        raise ValueError(f"verdict {plain(value, LONGEST_NAME)!r}")
    level: Level | None = value
    return level


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{plain(value, LONGEST_NAME)!r} is no text")
    return value

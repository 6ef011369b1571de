"""The report's sentences: the meaning of a channel's metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vfn.evaluation.columns import COLUMNS, HIGHER_IS_BETTER, TITLES
from vfn.evaluation.results import ChannelResult, label
from vfn.evaluation.rows import ImageScores

# Behind every p value and interval over fields.
FIELDS_AS_UNITS = "Fields count as independent here, which those of one well are not: p values may be too small and intervals too narrow. What is missing is the well of each field"
# Below this part of the full range, figures on the full range say little about the stain.
DIM = 0.25
# Columns that a comparison with a baseline goes by, the most telling first.
COMPARED = ("psnr_signal", "pearson", "ssim_signal")


def number(column: str, value: float | None) -> str:
    """A figure with the digits that it deserves; "-" where it is undefined."""
    if value is None or math.isnan(value):
        return "-"
    spec = COLUMNS[column].spec if column in COLUMNS else ".4g"
    return "∞" if math.isinf(value) else format(value, spec)


def findings(result: ChannelResult, summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know about this channel, most important first.

    Args:
        result: the channel with its rows.
        summary: its part of `summary.json`.
    """
    fields = len(result.rows)
    sentences = _size_of_error(result, summary)
    for system, rows in list(result.systems().items())[1:]:
        sentences.append(_against(system, result.rows, rows, summary))
    signal, full = result.ranges.signal, result.ranges.full
    if full.width > 0 and signal.width < DIM * full.width:
        share = 100 * signal.width / full.width
        sentences.append(
            f"The stain uses {share:.2g} % of the full range ({full}), so MAE, "
            "PSNR, SSIM and tolerance level on the full range look better than the picture is: "
            "go by the signal columns."
        )
    if fields == 1:
        sentences.append(
            "Only one field was scored: how much the figures vary from field to field is not known."
        )
    notes = [row for row in result.rows if row.note]
    if notes:
        sentences.append(
            f"{len(notes)} of {fields} fields have figures that are undefined or infinite and are "
            f"left out of the averages; first {notes[0].field}: {notes[0].note}."
        )
    return sentences


def _size_of_error(result: ChannelResult, summary: Mapping[str, Any]) -> list[str]:
    sentences = []
    error, r = summary["mae_signal"]["mean"], summary["pearson"]["mean"]
    if error is not None:
        width = result.ranges.signal.width
        sentences.append(
            f"A predicted pixel is off by {100 * error:.2g} % of the signal range on average "
            f"({error * width:.3g} of {width:.0f} grey levels)."
        )
    if r is not None:
        sentences.append(
            f"Bright and dark places agree with r = {r:.3f} (1 is perfect, 0 is unrelated)."
        )
    return sentences


def _against(
    system: str,
    model: Sequence[ImageScores],
    baseline: Sequence[ImageScores],
    summary: Mapping[str, Any],
) -> str:
    """One sentence on prediction against a baseline, naming every column where the baseline wins."""
    means = summary["baselines"][system]
    won: list[str] = []
    lost: list[str] = []
    for column in COMPARED:
        ours, theirs = summary[column]["mean"], means[column]["mean"]
        if ours is not None and theirs is not None:
            better = (ours > theirs) is HIGHER_IS_BETTER[column] and ours != theirs
            pair = (ours, theirs) if better else (theirs, ours)
            texts = (number(column, value) for value in pair)
            (won if better else lost).append(f"{TITLES[column]} {' against '.join(texts)}")
    name = f"the {label(system)}"
    if not won and not lost:
        return f"A comparison with {name} is not defined for these fields."
    if not won:
        text = f"{name[0].upper()}{name[1:]} beats the prediction: {'; '.join(lost)}."
    elif not lost:
        text = f"The prediction beats {name}: {'; '.join(won)}."
    else:
        text = (
            f"Against {name} the result is mixed. The prediction is better in {'; '.join(won)}; "
            f"{name} is better in {'; '.join(lost)}."
        )
    return text + _count(model, baseline)


def _count(model: Sequence[ImageScores], baseline: Sequence[ImageScores]) -> str:
    ours, theirs = (
        np.array([row.values["psnr_signal"] for row in rows]) for rows in (model, baseline)
    )
    defined = ~(np.isnan(ours) | np.isnan(theirs))
    if defined.sum() < 2:
        return ""
    wins = int((ours > theirs)[defined].sum())
    return f" By PSNR on the signal range the prediction wins in {wins} of {defined.sum()} fields."

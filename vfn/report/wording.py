"""The report's sentences: the meaning of a channel's metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vfn.evaluation.results import ChannelResult, label
from vfn.evaluation.rows import HIGHER_IS_BETTER, ImageScores

TITLES = {
    "mae": "MAE",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "pearson": "Pearson r",
    "tolerance_level": "Tolerance level",
    "tolerance_threshold": "at threshold",
    "mae_signal": "signal MAE",
    "psnr_signal": "signal PSNR (dB)",
    "ssim_signal": "signal SSIM",
    "mse": "MSE",
    "nrmse": "NRMSE",
    "ms_ssim": "MS-SSIM",
    "mse_signal": "signal MSE",
    "nrmse_signal": "signal NRMSE",
    "ms_ssim_signal": "signal MS-SSIM",
    "gain": "Gain",
    "offset": "Offset (grey levels)",
    "r2": "R²",
    "frc_resolution": "FRC resolution (px)",
    "power_ratio": "Power ratio",
    "shift_rows": "Shift down (px)",
    "shift_columns": "Shift right (px)",
    "shift_local": "Shift in parts (px)",
    "bias_signal": "signal bias",
    "contrast": "Contrast",
    "contrast_truth": "Contrast of the truth",
    "noise_truth": "Noise of the truth",
    "pearson_ceiling": "Highest r for this noise",
    "shading": "Shading",
    "tolerance_level_signal": "signal tolerance level",
    "tolerance_threshold_signal": "at signal threshold",
    "piqe": "PIQE",
    "brisque": "BRISQUE",
    "piqe_truth": "PIQE of the truth",
    "brisque_truth": "BRISQUE of the truth",
    "nuclei_truth": "Nuclei in the truth",
    "nuclei_predicted": "Nuclei in the prediction",
    "count_error": "Count error",
    **{
        f"{figure}_{percent}": f"{figure.upper()} at IoU 0.{percent}"
        for figure in ("f1", "ap")
        for percent in range(50, 91, 5)
    },
    "mean_ap": "Mean AP",
    "matched_iou": "IoU of matched nuclei",
    "outline_shift": "Outlines outside by (px)",
    "missed": "Missed nuclei",
    "hallucinated": "Hallucinated nuclei",
    "split": "Split nuclei",
    "merged": "Merged nuclei",
    "misoutlined": "Badly outlined nuclei",
    "amount_n": "Amount: objects",
    "amount_slope": "Amount: slope",
    "amount_r": "Amount: r",
    "amount_bias": "Amount: bias (%)",
    "amount_lower": "Amount: lower limit (%)",
    "amount_upper": "Amount: upper limit (%)",
    "amount_off": "Amount: share off by 25 %",
    "bleed_through": "Bleed-through",
    "coverage": "Coverage",
    "interval_width": "Width of the intervals",
}
SPECS = {
    "mae": ".4f",
    "psnr": ".2f",
    "ssim": ".4f",
    "pearson": ".3f",
    "tolerance_level": ".4f",
    "tolerance_threshold": ".2f",
    "mae_signal": ".4f",
    "psnr_signal": ".2f",
    "ssim_signal": ".4f",
    "mse": ".3g",
    "nrmse": ".4f",
    "ms_ssim": ".4f",
    "mse_signal": ".3g",
    "nrmse_signal": ".4f",
    "ms_ssim_signal": ".4f",
    "gain": ".3f",
    "offset": ".1f",
    "r2": ".3f",
    "frc_resolution": ".2f",
    "power_ratio": ".3g",
    "shift_rows": ".2f",
    "shift_columns": ".2f",
    "shift_local": ".2f",
    **dict.fromkeys(
        ("bias_signal", "contrast", "contrast_truth", "noise_truth", "pearson_ceiling"), ".3f"
    ),
    "shading": ".3f",
    "tolerance_level_signal": ".3f",
    "tolerance_threshold_signal": ".2f",
    **dict.fromkeys(("piqe", "brisque", "piqe_truth", "brisque_truth"), ".1f"),
    **dict.fromkeys(
        (
            "nuclei_truth",
            "nuclei_predicted",
            "missed",
            "hallucinated",
            "split",
            "merged",
            "misoutlined",
            "amount_n",
        ),
        ".1f",
    ),
    **{f"{figure}_{p}": ".3f" for figure in ("f1", "ap") for p in range(50, 91, 5)},
    **dict.fromkeys(
        (
            "count_error",
            "mean_ap",
            "matched_iou",
            "amount_slope",
            "amount_r",
            "amount_off",
            "bleed_through",
            "coverage",
            "interval_width",
        ),
        ".3f",
    ),
    "outline_shift": ".2f",
    **dict.fromkeys(("amount_bias", "amount_lower", "amount_upper"), ".1f"),
}
# Behind every p value and interval over fields.
FIELDS_AS_UNITS = "Fields count as independent here, which those of one well are not: p values may be too small and intervals too narrow. What is missing is the well of each field"
# Below this part of the full range, figures on the full range say little about the stain.
DIM = 0.25
# Columns that a comparison with a baseline goes by, the most telling first.
COMPARED = ("psnr_signal", "pearson", "ssim_signal")


def number(column: str, value: float | None) -> str:
    """A figure with the digits that it deserves; "-" where it is undefined."""
    return "-" if value is None else format(value, SPECS[column])


def findings(result: ChannelResult, summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know about this channel, most important first.

    Args:
        result: the channel with its rows.
        summary: its part of `summary.json`.
    """
    fields = len(result.rows)
    sentences = [*_size_of_error(result, summary)]
    for system, rows in list(result.systems().items())[1:]:
        sentences.append(_against(system, result.rows, rows, summary))
    signal, full = result.ranges.signal, result.ranges.full
    if full.width > 0 and signal.width < DIM * full.width:
        share = 100 * signal.width / full.width
        sentences.append(
            f"The stain uses {share:.2g} % of the full range ({full.low:g} to {full.high:g}), so MAE, "
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
        levels = error * result.ranges.signal.width
        sentences.append(
            f"A predicted pixel is off by {100 * error:.2g} % of the signal range on average "
            f"({levels:.3g} of {result.ranges.signal.width:.0f} grey levels)."
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
        if ours is None or theirs is None:
            continue
        better = ours > theirs if HIGHER_IS_BETTER[column] else ours < theirs
        winner, loser = (ours, theirs) if better else (theirs, ours)
        text = f"{TITLES[column]} {number(column, winner)} against {number(column, loser)}"
        (won if better else lost).append(text)
    name = f"the {label(system)}"
    if not won and not lost:
        return f"A comparison with {name} is not defined for these fields."
    if not won:
        return f"{name[0].upper()}{name[1:]} beats the prediction: {'; '.join(lost)}." + _count(
            model, baseline
        )
    if not lost:
        return f"The prediction beats {name}: {'; '.join(won)}." + _count(model, baseline)
    return (
        f"Against {name} the result is mixed. The prediction is better in {'; '.join(won)}; "
        f"the {label(system)} is better in {'; '.join(lost)}." + _count(model, baseline)
    )


def _count(model: Sequence[ImageScores], baseline: Sequence[ImageScores]) -> str:
    ours = np.array([row.values["psnr_signal"] for row in model])
    theirs = np.array([row.values["psnr_signal"] for row in baseline])
    defined = ~(np.isnan(ours) | np.isnan(theirs))
    if defined.sum() < 2:
        return ""
    wins = int((ours > theirs)[defined].sum())
    return f" By PSNR on the signal range the prediction wins in {wins} of {defined.sum()} fields."

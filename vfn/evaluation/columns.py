"""Columns of `metrics.csv`: titles for people, formats, and the better direction."""

from typing import NamedTuple


class Column(NamedTuple):
    """One figure; `higher` is True if higher is better, None for figures that are best at one value."""

    title: str
    spec: str
    higher: bool | None


HIGHER, LOWER = True, False
# Promised to users, in this order; others come after them.
_PROMISED = {
    "mae": Column("MAE", ".4f", LOWER),
    "psnr": Column("PSNR (dB)", ".2f", HIGHER),
    "ssim": Column("SSIM", ".4f", HIGHER),
    "pearson": Column("Pearson r", ".3f", HIGHER),
    "tolerance_level": Column("Tolerance level", ".4f", LOWER),
    "tolerance_threshold": Column("at threshold", ".2f", None),
    "mae_signal": Column("signal MAE", ".4f", LOWER),
    "psnr_signal": Column("signal PSNR (dB)", ".2f", HIGHER),
    "ssim_signal": Column("signal SSIM", ".4f", HIGHER),
}
_PIXELS = {
    **_PROMISED,
    "mse": Column("MSE", ".3g", LOWER),
    "nrmse": Column("NRMSE", ".4f", LOWER),
    "ms_ssim": Column("MS-SSIM", ".4f", HIGHER),
    "mse_signal": Column("signal MSE", ".3g", LOWER),
    "nrmse_signal": Column("signal NRMSE", ".4f", LOWER),
    "ms_ssim_signal": Column("signal MS-SSIM", ".4f", HIGHER),
    "gain": Column("Gain", ".3f", None),
    "offset": Column("Offset (grey levels)", ".1f", None),
    "r2": Column("R²", ".3f", HIGHER),
    "frc_resolution": Column("FRC resolution (px)", ".2f", LOWER),
    "power_ratio": Column("Power ratio", ".3g", None),
    "shift_rows": Column("Shift down (px)", ".2f", None),
    "shift_columns": Column("Shift right (px)", ".2f", None),
    "shift_local": Column("Shift in parts (px)", ".2f", LOWER),
    "bias_signal": Column("signal bias", ".3f", None),
    "contrast": Column("Contrast", ".3f", None),
    "contrast_truth": Column("Contrast of the truth", ".3f", None),
    "noise_truth": Column("Noise of the truth", ".3f", None),
    "pearson_ceiling": Column("Highest r for this noise", ".3f", None),
    "shading": Column("Shading", ".3f", LOWER),
    "tolerance_level_signal": Column("signal tolerance level", ".3f", LOWER),
    "tolerance_threshold_signal": Column("at signal threshold", ".2f", None),
}
COLUMNS = {
    **_PIXELS,
    "piqe": Column("PIQE", ".1f", LOWER),
    "brisque": Column("BRISQUE", ".1f", LOWER),
    "piqe_truth": Column("PIQE of the truth", ".1f", None),
    "brisque_truth": Column("BRISQUE of the truth", ".1f", None),
    "nuclei_truth": Column("Nuclei in the truth", ".1f", None),
    "nuclei_predicted": Column("Nuclei in the prediction", ".1f", None),
    "count_error": Column("Count error", ".3f", None),
    **{
        f"{figure}_{percent}": Column(f"{figure.upper()} at IoU 0.{percent}", ".3f", HIGHER)
        for figure in ("f1", "ap")
        for percent in range(50, 91, 5)
    },
    "mean_ap": Column("Mean AP", ".3f", HIGHER),
    "matched_iou": Column("IoU of matched nuclei", ".3f", HIGHER),
    "outline_shift": Column("Outlines outside by (px)", ".2f", None),
    "missed": Column("Missed nuclei", ".1f", LOWER),
    "hallucinated": Column("Hallucinated nuclei", ".1f", LOWER),
    "split": Column("Split nuclei", ".1f", LOWER),
    "merged": Column("Merged nuclei", ".1f", LOWER),
    "misoutlined": Column("Badly outlined nuclei", ".1f", LOWER),
    "amount_n": Column("Amount: objects", ".1f", None),
    "amount_slope": Column("Amount: slope", ".3f", None),
    "amount_r": Column("Amount: r", ".3f", HIGHER),
    "amount_bias": Column(
        "Amount: bias (%)", ".1f", None
    ),  # of the mean real amount, as the limits
    "amount_lower": Column("Amount: lower limit (%)", ".1f", None),
    "amount_upper": Column("Amount: upper limit (%)", ".1f", None),
    "amount_off": Column("Amount: share off by 25 %", ".3f", LOWER),
    "bleed_through": Column("Bleed-through", ".3f", None),
    "coverage": Column("Coverage", ".3f", None),
    "interval_width": Column("Width of the intervals", ".3f", LOWER),
}
PROMISED, PIXEL_COLUMNS = tuple(_PROMISED), tuple(_PIXELS)
# In units of the signal range.
SIGNAL_COLUMNS = ("bias_signal", "contrast", "contrast_truth", "noise_truth")
SIGNAL_TOLERANCE = ("tolerance_level_signal", "tolerance_threshold_signal")
# Columns of a baseline: fewer, since it serves for comparison alone.
BASELINE_COLUMNS = (*PROMISED, "gain", "r2", *SIGNAL_TOLERANCE)
# The columns of a baseline for inputs out of focus, with which the prediction competes.
REFOCUSED_COLUMNS = (*BASELINE_COLUMNS, "frc_resolution", "power_ratio")
TITLES = {name: column.title for name, column in COLUMNS.items()}
HIGHER_IS_BETTER = {n: column.higher for n, column in COLUMNS.items() if column.higher is not None}

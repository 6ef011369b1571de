"""Figures of what goes beyond pixels: amounts of stain in nuclei or cells, spectra, intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.metrics.agreement import Agreement
from vfn.metrics.coverage import RiskCoverageCurve
from vfn.metrics.spectral import Spectra
from vfn.report.figures import LIGHT, Theme, dress, new_figure

Float = NDArray[np.float64]
SHOWN_OBJECTS = 5000  # points of a scatter; of more, every k-th is drawn


def amounts(
    name: str,
    over: str,
    truth: Float,
    prediction: Float,
    agreement: Agreement,
    theme: Theme = LIGHT,
) -> Figure:
    """Integrated intensity of every object, and its difference as Bland and Altman (1986) plot it.

    Args:
        name: of the channel.
        over: what the objects are, "nuclei", "cells" or "blocks".
        truth: (n,), grey levels.
        prediction: (n,).
        agreement: of all n.
    """
    figure = new_figure(theme, (8.4, 3.8))
    scatter, difference = figure.subplots(1, 2)
    step = -(-len(truth) // SHOWN_OBJECTS)
    x, y = truth[::step], prediction[::step]
    dots = {"s": 9, "alpha": 0.5, "color": theme.lines[0], "linewidths": 0}
    scatter.scatter(x, y, **dots)
    scatter.axline((0, 0), slope=1, color=theme.ink, linewidth=1, label="equal")
    scatter.axline(
        (0, agreement.intercept), slope=agreement.slope, color=theme.lines[1], linewidth=1.4,
        linestyle="--", label=f"slope {agreement.slope:.2f}, r {agreement.r:.3f}",
    )  # fmt: skip
    difference.scatter((x + y) / 2, y - x, **dots)
    for level, style, words in (
        (agreement.bias, "-", "mean"), (agreement.lower, "--", "limits"), (agreement.upper, "--", ""),
    ):  # fmt: skip
        percent = f"{agreement.percent(level):+.1f} %"
        difference.axhline(level, color=theme.lines[1], linewidth=1.2, linestyle=style)
        difference.annotate(
            f"{words} {percent}".strip(), (1, level), (-2, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=8, color=theme.ink,
        )  # fmt: skip
    for axis in (scatter, difference):
        axis.ticklabel_format(style="sci", scilimits=(-3, 4))
        axis.xaxis.offsetText.set_color(theme.ink)
        axis.yaxis.offsetText.set_color(theme.ink)
    x_name, y_name = (f"{whose}, summed grey levels" for whose in ("truth", "prediction"))
    title = f"{name}: {len(truth)} {over}"
    dress(scatter, theme, title, x_name, y_name, legend="upper left")
    title = "difference (95 % lie within the limits)"
    dress(difference, theme, title, "mean of both", "prediction - truth")
    return figure


def spectra(name: str, fields: Sequence[Spectra], theme: Theme = LIGHT) -> Figure:
    """Fourier ring correlation and power ratio: mean over the fields, each field thin."""
    figure = new_figure(theme, (8.4, 3.4))
    shared, power = figure.subplots(1, 2)
    frequency = fields[0].frequency
    for axis, curves in (
        (shared, np.stack([f.frc for f in fields])),
        (power, np.stack([f.power_ratio_curve for f in fields])),
    ):
        for curve in curves[:50]:
            axis.plot(frequency, curve, color=theme.lines[0], alpha=0.2, linewidth=0.7)
        known = np.isfinite(curves)
        mean = np.where(known, curves, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        mean[~known.any(axis=0)] = np.nan
        axis.plot(frequency, mean, color=theme.lines[0], linewidth=1.8)
        axis.set_xlim(0, 0.5)
        axis.set_xticks([0.05, 0.1, 0.2, 0.3, 0.5], ["20", "10", "5", "3.3", "2"])
    threshold = np.mean([f.threshold for f in fields], axis=0)
    shared.plot(frequency, threshold, "--", color=theme.lines[1], linewidth=1.2, label="threshold")
    shared.set_ylim(-0.1, 1.05)
    power.axhline(1, color=theme.ink, linewidth=1)
    power.set_yscale("log")
    power.set_ylim(0.01, 10)
    size, title = "size of detail (period), px; finer to the right", "which details are right"
    dress(shared, theme, f"{name}: {title}", size, "Fourier ring correlation", legend="best")
    title = "how much detail: 1 as much, below smooths"
    dress(power, theme, title, size, "power, prediction / truth")
    return figure


def risk_coverage(name: str, curve: RiskCoverageCurve, theme: Theme = LIGHT) -> Figure:
    """Mean error of the pixels that are kept, when those of the widest intervals go first."""
    figure = new_figure(theme, (5.2, 3.4))
    axis = figure.add_subplot()
    kept = 100 * curve.retained
    axis.plot(kept, 100 * curve.risk, color=theme.lines[0], linewidth=1.8, label="by interval")
    axis.plot(kept, 100 * curve.oracle, "--", color=theme.lines[2], linewidth=1.2, label="perfect")
    axis.axhline(100 * curve.random, color=theme.lines[1], linestyle="--", label="by chance")
    axis.set_xlim(0, 100)
    axis.set_ylim(bottom=0)
    x, y = "pixels kept, the surest first, %", "mean error, % of the signal range"
    dress(axis, theme, f"{name}: error of what is kept", x, y, legend="best")
    return figure

"""`conditions.html` and its figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.report.blocks import chart
from vfn.report.figures import LIGHT, Theme, dress, new_figure
from vfn.report.html import environment, plain_text, today, versions
from vfn.report.wording import TITLES

LIMIT = 6.0  # standard deviations at the ends of the maps' colours
NAMES = {**TITLES, "bias_signal": "signal bias", "departure": "departure (SD)"}


@dataclass(frozen=True)
class Shown:
    """What is drawn of a channel.

    Attributes:
        pictures: (heading, input, truth, prediction, map) of some fields, (H, W) each.
        signal: grey values that are black and white.
        figures: condition -> figures of its fields.
        cells: condition -> departures of its cells.
        threshold: departure from which a cell departs; NaN without cells.
    """

    channel: str
    pictures: Sequence[tuple[str, Any, Any, Any, Any]]
    signal: tuple[float, float]
    figures: Mapping[str, Sequence[Mapping[str, float]]]
    cells: Mapping[str, NDArray[np.float64]]
    threshold: float

    def picture(self, theme: Theme = LIGHT) -> Figure:
        """Input, real stain, predicted stain and map of departures of each field."""
        tall = self.pictures[0][1].shape[0] / self.pictures[0][1].shape[1]
        figure = new_figure(theme, (10.4, (2.5 * tall + 0.3) * len(self.pictures) + 0.5))
        axes = figure.subplots(len(self.pictures), 4, squeeze=False)
        low, high = self.signal
        for row, (heading, first, truth, prediction, z) in zip(axes, self.pictures, strict=True):
            ends = np.percentile(first, (0.1, 99.9))
            row[0].imshow(first, cmap="gray", vmin=ends[0], vmax=ends[1])
            row[1].imshow(truth, cmap="gray", vmin=low, vmax=high)
            row[2].imshow(prediction, cmap="gray", vmin=low, vmax=high)
            drawn = row[3].imshow(z, cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT)
            titles = (
                heading,
                f"{self.channel}, real",
                "predicted by the control model",
                "departure",
            )
            for axis, title in zip(row, titles, strict=True):
                axis.set_axis_off()
                axis.set_title(title, fontsize=8, color=theme.ink, loc="left")
        bar = figure.colorbar(drawn, ax=axes[:, 3], shrink=0.7, location="right")
        bar.set_label("SD of the control; red: more than expected", fontsize=8, color=theme.ink)
        bar.ax.tick_params(labelsize=7, colors=theme.ink)
        return figure

    def distributions(self, theme: Theme = LIGHT) -> Figure:
        """Error of every field, and departure of every cell, in both conditions."""
        figure = new_figure(theme, (8.4, 3.2))
        left, right = figure.subplots(1, 2)
        for x, (condition, colour) in enumerate(zip(self.figures, theme.lines, strict=False)):
            y = [100 * f["mae_signal"] for f in self.figures[condition]]
            spread = np.linspace(-0.12, 0.12, len(y)) if len(y) > 1 else [0.0]
            left.plot(x + np.array(spread), y, "o", color=colour, markersize=4, alpha=0.8)
            left.plot([x - 0.25, x + 0.25], [np.mean(y)] * 2, color=colour, linewidth=2)
        left.set_xticks(range(len(self.figures)), list(self.figures))
        left.set_xlim(-0.6, len(self.figures) - 0.4)
        left.set_ylim(bottom=0)
        left.set_ylabel("mean error, % of signal range", fontsize=9)
        left.set_title("fields", fontsize=9)
        everything = np.concatenate(list(self.cells.values()))
        if len(everything):
            bins = np.linspace(0, float(np.quantile(everything, 0.995)) or 1.0, 40)
            for (condition, values), colour in zip(self.cells.items(), theme.lines, strict=False):
                weights = np.full(len(values), 100 / max(len(values), 1))
                right.hist(
                    values, bins, weights=weights, histtype="step", color=colour, linewidth=1.6,
                    label=f"{condition} (n = {len(values)})",
                )  # fmt: skip
            if not math.isnan(self.threshold):
                right.axvline(self.threshold, color=theme.faint, linestyle="--", linewidth=1)
            right.legend(fontsize=8, frameon=False, labelcolor=theme.ink)
        right.set_xlabel("departure of a cell, SD of the control", fontsize=9)
        right.set_ylabel("% of cells", fontsize=9)
        right.set_title("cells; dashed: 5 % of the control lie beyond", fontsize=9)
        for axis in (left, right):
            dress(axis, theme)
        return figure


def render(
    summary: Mapping[str, Any], shown: Mapping[str, Shown], provenance: Mapping[str, Any]
) -> str:
    """The page."""
    sections = []
    for channel, entry in summary["channels"].items():
        one = shown[channel]
        rows = [
            [
                NAMES[column], _text(f["control"]), _text(f["treated"]),
                _with_interval(f, "delta"), _with_interval(f, "g"),
                _text(f.get("p_holm"), "{:.2g}") if "p_holm" in f else "not tested",
            ]
            for column, f in entry["figures"].items()
        ]  # fmt: skip
        sections.append(
            {
                "channel": channel,
                "unit": entry["unit"],
                "n": [entry["figures"]["mae_signal"][k] for k in ("n_control", "n_treated")],
                "rows": rows,
                "cells": entry["cells"],
                "charts": [
                    chart(one.distributions, f"errors of {channel} in control and treated"),
                    chart(one.picture, f"{channel}: input, real, predicted, departure",
                          "The most departing treated fields, and the median control field."),
                ],
            }
        )  # fmt: skip
    said = {key: plain_text(value) for key, value in provenance.items()}
    return environment().get_template("report/conditions.html.j2").render(
        sentences=summary["sentences"], sections=sections, provenance=said, date=today(),
        versions=versions(), false_alarms=summary["false_alarms_stated"],
    )  # fmt: skip


def _text(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None else form.format(value)


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    if figures[key] is None:
        return "-"
    text = f"{figures[key]:+.2f}"
    if figures[f"{key}_low"] is None:
        return text
    return f"{text} ({figures[f'{key}_low']:+.2f} to {figures[f'{key}_high']:+.2f})"

"""Figures of a comparison of conditions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.evaluation.conditions import CONTROL, TREATED, Field
from vfn.evaluation.expect import Expectation
from vfn.evaluation.pairs import PairSource
from vfn.evaluation.ranges import ChannelRanges
from vfn.metrics.contrast import PERCENTILES
from vfn.report.figures import LIGHT, Theme, dress, dress_bar, new_figure

LIMIT = 6.0  # standard deviations at the ends of the maps' colours
SHOWN = 3  # fields with pictures, of each channel


@dataclass(frozen=True)
class Shown:
    """Data of the figures of a channel.

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
            ends = np.percentile(first, PERCENTILES)
            row[0].imshow(first, cmap="gray", vmin=ends[0], vmax=ends[1])
            row[1].imshow(truth, cmap="gray", vmin=low, vmax=high)
            row[2].imshow(prediction, cmap="gray", vmin=low, vmax=high)
            drawn = row[3].imshow(z, cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT)
            titles = (f"{self.channel}, real", "predicted by the control model", "departure")
            for axis, title in zip(row, (heading, *titles), strict=True):
                axis.set_axis_off()
                axis.set_title(title, fontsize=8, color=theme.ink, loc="left")
        bar = figure.colorbar(drawn, ax=axes[:, 3], shrink=0.7, location="right")
        dress_bar(bar, theme, "SD of the control; red: more than expected")
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
        dress(left, theme, "fields", y="mean error, % of signal range", size=9)
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
        title = "cells; dashed: 5 % of the control lie beyond"
        across, legend = "departure of a cell, SD of the control", "best" if len(everything) else ""
        dress(right, theme, title, across, "% of cells", size=9, legend=legend)
        return figure


def shown_channel(
    channel: str,
    fields: Sequence[Field],
    treated: PairSource,
    control: PairSource,
    ranges: ChannelRanges,
    expected: Expectation,
) -> Shown:
    """Collect the data of a channel's figures: the most departing treated fields, the median control field."""
    own = {
        condition: [f for f in fields if f.channel == channel and f.condition == condition]
        for condition in (CONTROL, TREATED)
    }
    most, quiet = (
        sorted(own[condition], key=lambda f: -f.figures["departure"])
        for condition in (TREATED, CONTROL)
    )
    pictures = []
    for field in [*most[:SHOWN], quiet[len(quiet) // 2]]:
        pair = (treated if field.condition == TREATED else control).pair(field.index)
        i = pair.channels.index(channel)
        truth, prediction = pair.truth[i], pair.prediction[i]
        z = expected.map(prediction, truth, pair.pixel_size)
        first = truth if pair.inputs is None else pair.inputs[0]
        pictures.append((f"{field.condition}: {field.name}", first, truth, prediction, z))
    values = {condition: [f.figures for f in some] for condition, some in own.items()}
    cells = {
        condition: np.array([c.departure for f in some for c in f.cells])
        for condition, some in own.items()
    }
    low, high = ranges.signal.low, ranges.signal.high
    return Shown(channel, pictures, (low, high), values, cells, expected.threshold)

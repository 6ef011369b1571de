"""Figures of focus: the calibration of a scale, and the worst fields of a folder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vfn.refocus.scale import FocusScale
from vfn.report.figures import LIGHT, Theme, dress, dress_bar, new_figure

WORST = 6  # fields with a map


def calibration_figure(scale: FocusScale, theme: Theme = LIGHT) -> Figure:
    """Draw estimate against truth of the held-out planes, for fields and tiles."""
    figure = new_figure(theme, (8.2, 3.8))
    axes = figure.subplots(1, 2, sharey=True)
    parts = (("fields", scale.whole), ("tiles", scale.parts))
    for axis, (name, index), colour in zip(axes, parts, theme.lines, strict=False):
        last = float(index.depths[-1])
        axis.plot([0, last], [0, last], color=theme.faint, linewidth=1)
        depths = np.unique(index.truths)
        for depth in depths:
            own = index.estimates[index.truths == depth]
            jitter = np.linspace(-0.15, 0.15, len(own))
            axis.plot(depth + jitter, own, ".", color=colour, markersize=3, alpha=0.4)
            low, middle, high = np.quantile(own, (0.05, 0.5, 0.95))
            axis.plot([depth, depth], [low, high], color=theme.ink, linewidth=1)
            axis.plot(depth, middle, "o", color=theme.ink, markersize=4)
        title = f"{name}: ± {scale.mean_error(name == 'tiles'):.2g} µm held out"
        dress(axis, theme, title, "true distance from focus, µm", size=9)
    axes[0].set_ylabel("estimated, µm", fontsize=9)
    return figure


def focus_figure(
    fields: Sequence[tuple[str, float, Any]], beyond: float, theme: Theme = LIGHT
) -> Figure:
    """Draw the distances from focus, with maps of the worst fields.

    Args:
        fields: name, |z| in um, and map (rows, columns) of each.
        beyond: um from which a field counts as blurred.
    """
    known = [field for field in fields if not np.isnan(field[1])]
    worst = sorted(known, key=lambda field: -field[1])[:WORST]
    figure = new_figure(theme, (9.6, 5.4))
    grid = figure.add_gridspec(2, 4, width_ratios=(1.5, 1, 1, 1))
    axis = figure.add_subplot(grid[:, 0])
    values = [um for _, um, _ in known]
    top = max([*values, beyond]) * 1.05
    axis.hist(values, np.linspace(0, top, 25).tolist(), color=theme.lines[0])
    axis.axvline(beyond, color=theme.lines[1], linestyle="--", linewidth=1.2)
    title = f"{sum(v > beyond for v in values)} of {len(fields)} beyond {beyond:g} µm"
    dress(axis, theme, title, "distance from focus, µm", "fields", size=9)
    drawn = None
    places = [(row, column) for row in range(2) for column in range(1, 4)]
    for (row, column), (name, um, tiles) in zip(places, worst, strict=False):
        one = figure.add_subplot(grid[row, column])
        drawn = one.imshow(np.ma.masked_invalid(tiles), cmap="viridis", vmin=0, vmax=top)
        one.set(facecolor=theme.faint, xticks=[], yticks=[])
        short = name if len(name) <= 22 else f"…{name[-21:]}"
        one.set_title(f"{short}\n{um:.1f} µm", fontsize=7, color=theme.ink)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=figure.axes[1:], shrink=0.8)
        dress_bar(bar, theme, "tiles, µm from focus (grey: nothing to see)")
    return figure

"""The panel as a heat map: `panel.png`."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vfn.panel.findings import Finding
from vfn.panel.plan import Question
from vfn.report.figures import LIGHT, Theme, new_figure


def heat_map(question: Question, findings: Sequence[Finding], theme: Theme = LIGHT) -> Figure:
    """Rows: input sets; columns: targets; r and grade in each cell, real channels hatched."""
    inputs = list(dict.fromkeys(f.inputs for f in findings))
    targets = list(dict.fromkeys(f.target for f in findings))
    targets.sort(key=question.channels.index)
    at = {(f.inputs, f.target): f for f in findings}
    names = [" + ".join(one) for one in inputs]
    left = 0.085 * max(map(len, names)) + 0.3
    width = max(left + 1.0 * len(targets) + 1.3, 6.2)  # room for the legend below
    figure = new_figure(theme, (width, 1.1 + 0.36 * len(inputs)))
    axis = figure.add_subplot()
    colours = _colours(theme)
    grades = question.grades
    for (y, one), (x, target) in product(enumerate(inputs), enumerate(targets)):
        cell = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, linewidth=0)
        axis.add_patch(cell)
        found = at.get((one, target))
        if found is None or math.isnan(found.figures["pearson"].mean):
            cell.set(fill=False, hatch="////" if target in one else None, edgecolor=theme.faint)
            continue
        r = found.figures["pearson"].mean
        # Low, average and high get a third of the colours each.
        colour = colours(np.interp(r, (0, grades.average, grades.high, 1), (0, 0.3, 0.7, 1)))
        cell.set_facecolor(colour)
        bright = float(np.dot(to_rgb(colour), (0.3, 0.59, 0.11))) > 0.55
        axis.text(
            x, y, f"{r:.2f}  {found.grade}", ha="center", va="center", fontsize=8,
            color="#111111" if bright else "#ffffff",
        )  # fmt: skip
    axis.set(xlim=(-0.5, len(targets) - 0.5), ylim=(len(inputs) - 0.5, -0.5))
    axis.set_xticks(range(len(targets)), targets, fontsize=9, color=theme.ink)
    axis.set_yticks(range(len(inputs)), names, fontsize=9, color=theme.ink)
    axis.xaxis.set_ticks_position("top")
    axis.tick_params(length=0)
    axis.set_facecolor(theme.ground)
    axis.spines[:].set_visible(False)
    axis.set_ylabel("from", fontsize=9, color=theme.ink)
    axis.set_xlabel(
        f"Pearson's r on test fields; H from {grades.high:g}, A from {grades.average:g}, L below"
        + ("; hatched: real" if any(set(f.inputs) & set(targets) for f in findings) else ""),
        fontsize=8, color=theme.ink,
    )  # fmt: skip
    figure.suptitle("which stain predicts which", fontsize=10, color=theme.ink)
    return figure


def _colours(theme: Theme) -> LinearSegmentedColormap:
    dark = (
        ("#d8dde6", "#7fb4d9", "#0b4f86") if theme is LIGHT else ("#2c3441", "#2f6f9f", "#9ad4ff")
    )
    return LinearSegmentedColormap.from_list("panel", dark)

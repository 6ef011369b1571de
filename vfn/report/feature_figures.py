"""Feature fidelity in pictures: histograms of r as the paper's figure 8, r of every feature as its S5."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.metrics.feature_fidelity import SURVIVES, FeatureResult, FeatureRow
from vfn.metrics.features import COMPARTMENTS, GROUPS
from vfn.report.figures import LIGHT, Theme, dress, dress_bar, new_figure
from vfn.system.csv_files import write_csv

HEADER = (
    "feature", "group", "compartment", "channel", "r", "low", "high", "n", "survives", "note",
    "depends_on",
)  # fmt: skip
_BINS = np.linspace(-1, 1, 41)
_OUTLINES = ("size and shape", "neighbours")  # groups that no channel's pixels enter


def write_features(path: Path, result: FeatureResult, threshold: float = SURVIVES) -> None:
    """`features.csv`: a row a feature; `survives` is empty where r is undefined."""
    write_csv(path, HEADER, [_cells(row, threshold) for row in result.rows])


def _cells(row: FeatureRow, threshold: float) -> list[str]:
    feature = row.feature
    known = math.isfinite(row.r)
    return [
        feature.name,
        feature.group,
        feature.compartment,
        "+".join(feature.channels),
        *(f"{value:.6g}" for value in (row.r, row.low, row.high)),
        str(row.n),
        ("yes" if row.r > threshold else "no") if known else "",
        row.note,
        "+".join(row.depends_on),
    ]


def histograms(
    rows: Sequence[FeatureRow], title: str, threshold: float = SURVIVES, theme: Theme = LIGHT
) -> Figure:
    """Counts of features by r, a panel for each group (down) and compartment (across).

    Args:
        rows: of a `FeatureResult`, all or those of a channel.
        title: what they are.
        threshold: r from which a feature survives, drawn as a line; the share above is written.
        theme: colours.
    """
    panels: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        own = panels.setdefault((row.feature.group, row.feature.compartment), [])
        own += [row.r] if math.isfinite(row.r) else []
    groups = sorted({group for group, _ in panels}, key=GROUPS.index)
    places = sorted({place for _, place in panels}, key=COMPARTMENTS.index)
    figure = new_figure(theme, (2.5 * max(len(places), 1) + 0.6, 1.15 * max(len(groups), 1) + 0.9))
    figure.suptitle(title, fontsize=10, color=theme.ink)
    if not groups:
        return figure
    axes = figure.subplots(len(groups), len(places), squeeze=False, sharex=True)
    for line, group in zip(axes, groups, strict=True):
        for axis, place in zip(line, places, strict=True):
            values = panels.get((group, place))
            if not values:
                axis.set_axis_off()
                continue
            axis.hist(values, _BINS, color=theme.lines[0])
            axis.axvline(threshold, color=theme.lines[1], linewidth=1)
            axis.set_xlim(-1.02, 1.02)
            dress(axis, theme)
            survive = sum(value > threshold for value in values)
            words = f"{survive} of {len(values)}\nabove {threshold:g}"
            _caption(axis, words, 0.03, 0.93, theme, va="top", fontsize=7)
    for axis, place in zip(axes[0], places, strict=True):
        _caption(axis, place, 0.5, 1.06, theme, ha="center", va="bottom")
    for line, group in zip(axes, groups, strict=True):
        words = group.replace(" ", "\n", 1)
        _caption(line[0], words, -0.3, 0.5, theme, ha="center", va="center", rotation=90)
    figure.supxlabel("Pearson's r, real against hybrid", fontsize=9, color=theme.ink)
    return figure


def matrix(
    rows: Sequence[FeatureRow], title: str, threshold: float = SURVIVES, theme: Theme = LIGHT
) -> Figure:
    """Draw r of every feature as a coloured cell: a panel for each compartment, a line for each channel.

    Across stand the features in groups, in each by name; a correlation stands in the lines of both
    its channels. Cells without r (undefined, or equal by construction) show the ground.
    """
    cells = [
        (row.feature.compartment, line, (row.feature.group, column), row.r)
        for row in rows
        for line, column in _where(row)
    ]
    places = sorted({cell[0] for cell in cells}, key=COMPARTMENTS.index)
    lines = sorted({cell[1] for cell in cells}, key=lambda line: (line == "outlines", line))
    columns = sorted({cell[2] for cell in cells}, key=lambda key: (GROUPS.index(key[0]), key[1]))
    across = {key: i for i, key in enumerate(columns)}
    height = 0.26 * len(lines) + 0.35
    figure = new_figure(theme, (10.5, max(height * len(places) + 1.5, 3.2)))
    figure.suptitle(title, fontsize=10, color=theme.ink)
    if not columns:
        return figure
    axes = figure.subplots(len(places), 1, squeeze=False, sharex=True)[:, 0]
    for axis, place in zip(axes, places, strict=True):
        picture = np.full((len(lines), len(columns)), np.nan)
        for at, line, key, r in cells:
            if at == place:
                picture[lines.index(line), across[key]] = r
        _draw_cells(axis, picture, lines, place, theme)
    start = 0
    for number, (group, names) in enumerate(Counter(group for group, _ in columns).items()):
        for axis in axes:
            axis.axvline(start - 0.5, color=theme.ink, linewidth=0.8)
        x, y = start + names / 2 - 0.5, -0.7 - 0.75 * (number % 2)
        where = axes[0].transData
        _caption(axes[0], group, x, y, theme, ha="center", va="bottom", transform=where)
        start += names
    _draw_scale(figure, axes.tolist(), threshold, theme)
    return figure


def _draw_cells(
    axis: Any, cells: NDArray[np.float64], lines: Sequence[str], place: str, theme: Theme
) -> None:
    """Draw the matrix of one compartment."""
    norm, image = Normalize(0, 1), np.ma.masked_invalid(cells)
    axis.imshow(image, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest")
    axis.set_yticks(range(len(lines)), lines)
    dress(axis, theme, y=place)
    axis.grid(visible=False)
    axis.set_xticks([])


def _draw_scale(figure: Figure, axes: list[Any], threshold: float, theme: Theme) -> None:
    """Draw the colour bar with the threshold."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colormaps["viridis"]),
        ax=axes, orientation="horizontal", shrink=0.4, aspect=40, extend="min",
    )  # fmt: skip
    bar.ax.axvline(threshold, color="white", linewidth=2)
    dress_bar(bar, theme, f"Pearson's r; line: {threshold:g}")


def _where(row: FeatureRow) -> list[tuple[str, str]]:
    """The lines of the matrix in which a feature stands, and its column in each."""
    feature = row.feature
    if feature.group in _OUTLINES:
        # Neighbours of nuclei and of cells are found in different ways and are one feature here.
        name = feature.name.removesuffix("_Expanded").removesuffix("_Adjacent")
        return [("outlines", name)]
    if len(feature.channels) == 1:
        return [(feature.channels[0], feature.name)]
    first, second = feature.channels
    return [(first, f"{second} {feature.name}"), (second, f"{first} {feature.name}")]


def _caption(axis: Any, words: str, x: float, y: float, theme: Theme, **how: Any) -> None:
    axis.text(x, y, words, color=theme.ink, **{"transform": axis.transAxes, "fontsize": 8, **how})

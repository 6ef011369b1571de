"""The figures of a channel: overview of fields, tolerance curve, scatter of intensities.

Matplotlib's object API with the Agg canvas: no window system, no global state, safe in threads.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure

from vfn.evaluation.results import MODEL, ChannelResult, label
from vfn.metrics.tolerance import THRESHOLDS
from vfn.report.images import ERROR_COLOURS, Strip
from vfn.system.files import replacing

PANEL_INCHES = 2.6
DPI = 110
_CURVE_TOP = 3.0  # of the tolerance curve; 1 is what predicting the ground everywhere costs at most


@dataclass(frozen=True)
class Theme:
    """Colours of a figure's ground and writing, and of its lines."""

    ground: str
    ink: str
    faint: str
    lines: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1c2330", "#9aa3b2", ("#0b6fb8", "#c2571a", "#5b8a3a", "#8a4fa0"))
DARK = Theme("#191e27", "#e6e9ef", "#6b7486", ("#58b4f0", "#f0965a", "#9ccc7a", "#c79be0"))


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    # An empty entry keeps the date and version out: the same run gives the same bytes.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def write_png(path: Path, figure: Figure) -> None:
    """Write the figure as a PNG file."""
    with replacing(path) as temporary:
        temporary.write_bytes(png_bytes(figure))


def png_uri(figure: Figure) -> str:
    """The figure as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()


def overview(result: ChannelResult, strips: Sequence[tuple[str, Strip]]) -> Figure:
    """Fields one below the other: inputs, truth, prediction, error.

    Args:
        result: the channel; its ranges and error scale label the colour bars.
        strips: (heading, pictures) of each field; same panels in each.
    """
    titles = [panel.title for panel in strips[0][1].panels]
    tallest = max(p.pixels.shape[0] / p.pixels.shape[1] for _, s in strips for p in s.panels)
    row_inches = PANEL_INCHES * min(tallest, 1.6) + 0.35
    size = (PANEL_INCHES * len(titles) + 0.3, row_inches * len(strips) + 1.45)
    figure = new_figure(LIGHT, size)
    grid = figure.add_gridspec(2, 1, height_ratios=(row_inches * len(strips) + 0.5, 0.95))
    pictures, bars = (figure.add_subfigure(grid[i]) for i in range(2))
    axes = pictures.subplots(len(strips), len(titles), squeeze=False)
    pictures.suptitle(result.name, fontsize=11, color=LIGHT.ink)  # also keeps the top row whole
    for row, (heading, strip) in zip(axes, strips, strict=True):
        for axis, panel in zip(row, strip.panels, strict=True):
            grey = panel.pixels.ndim == 2
            axis.imshow(panel.pixels, cmap="gray" if grey else None, vmin=0, vmax=255)
            axis.set_axis_off()
            axis.set_title(panel.title, fontsize=9, color=LIGHT.ink, loc="left")
        row[0].set_title(f"{heading}\n{titles[0]}", fontsize=9, color=LIGHT.ink, loc="left")
        if strip.bar_um:
            draw_scale_bar(row[0], strip.panels[0].pixels.shape, strip.bar_um, strip.bar_share)
    grey_axis, error_axis = bars.subplots(1, 2)
    low = result.ranges.signal.low
    ends = (low, low + result.signal_width)
    _colour_bar(bars, grey_axis, colormaps["gray"], ends, "truth and prediction (same range)")
    scale = f"± {100 * result.error_scale:g} % of the signal range"
    text = f"error: prediction - truth ({scale})"
    _colour_bar(bars, error_axis, ERROR_COLOURS, _error_ends(result), text)
    return figure


def tolerance_curve(result: ChannelResult, theme: Theme = LIGHT) -> Figure:
    """Tolerance curve in units of the signal (paper, fig. 6 and S2): mean over fields, each field thin, baselines beside."""
    figure = new_figure(theme, (5.2, 3.6))
    axis = figure.add_subplot()
    percent = 100 * THRESHOLDS
    for (system, rows), colour in zip(result.systems().items(), cycle(theme.lines), strict=False):
        tolerances = [row.tolerance for row in rows if row.tolerance is not None]
        if not tolerances:
            continue
        curves = np.stack([t.curve for t in tolerances])
        if system == MODEL:
            for curve in curves[:50]:
                axis.plot(percent, curve, color=colour, alpha=0.18, linewidth=0.7)
        mean = curves.mean(axis=0)
        style = "-" if system == MODEL else "--"
        axis.plot(percent, mean, style, color=colour, linewidth=1.8, label=label(system))
        best = int(np.argmin(mean))
        axis.plot(percent[best], mean[best], "o", color=colour, markersize=5)
    axis.set_xlim(0, 99)
    axis.set_ylim(0, _CURVE_TOP)
    title = f"{result.name}: signal tolerance level = lowest point"
    x, y = "threshold i, % of the signal range", "IE / mean + SE / area (lower is better)"
    dress(axis, theme, title, x, y, legend="best" if axis.lines else "")
    return figure


def scatter(result: ChannelResult, theme: Theme = LIGHT) -> Figure:
    """Predicted against true intensity of every pixel of all fields, as counts in squares."""
    figure = new_figure(theme, (4.8, 4.2))
    axis = figure.add_subplot()
    shown, signal = result.scatter_range, result.ranges.signal
    extent = (shown.low, shown.high, shown.low, shown.high)
    counts = np.ma.masked_equal(result.scatter.T, 0)
    picture = axis.imshow(
        counts,
        origin="lower",
        extent=extent,
        cmap=colormaps["viridis"],
        norm=LogNorm(1, max(int(result.scatter.max()), 2)),
        interpolation="nearest",
    )
    axis.axline((signal.low, signal.low), slope=1, color=theme.ink, linewidth=1)
    axis.text(
        0.84, 0.87, "equal", transform=axis.transAxes, ha="right", fontsize=8, color=theme.ink
    )
    title = f"{result.name}: {100 * result.scatter_share:.4g} % of all pixels"
    dress(axis, theme, title, "truth, grey levels", "prediction, grey levels")
    dress_bar(figure.colorbar(picture, ax=axis, shrink=0.85), theme, "pixels in a square")
    return figure


def error_bar(result: ChannelResult, theme: Theme = LIGHT) -> Figure:
    """The colour bar of the error pictures, for the page."""
    figure = new_figure(theme, (4.6, 0.75))
    text = "prediction - truth, grey levels"
    _colour_bar(figure, figure.add_subplot(), ERROR_COLOURS, _error_ends(result), text, theme)
    return figure


def _error_ends(result: ChannelResult) -> tuple[float, float]:
    limit = result.error_scale * result.signal_width
    return -limit, limit


def new_figure(theme: Theme, size: tuple[float, float]) -> Figure:
    """An empty figure of this size (inches) in the colours of the theme."""
    return Figure(figsize=size, dpi=DPI, layout="constrained", facecolor=theme.ground)


def dress(
    axis: Any,
    theme: Theme,
    title: str = "",
    x: str = "",
    y: str = "",
    *,
    size: int = 10,
    legend: str = "",
) -> None:
    """Label an axis, in the colours of the theme.

    Args:
        axis: of matplotlib.
        theme: its colours.
        title: in letters of `size`; as all texts, "" leaves what is there.
        x, y: names of the axes.
        size: of the title's letters.
        legend: its place; "" for none.
    """
    for text, put, letters in (
        (title, axis.set_title, size), (x, axis.set_xlabel, 9), (y, axis.set_ylabel, 9),
    ):  # fmt: skip
        if text:
            put(text, fontsize=letters)
    if legend:
        axis.legend(fontsize=8, frameon=False, labelcolor=theme.ink, loc=legend)
    axis.set_facecolor(theme.ground)
    axis.tick_params(colors=theme.ink, labelsize=8)
    axis.grid(color=theme.faint, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axis.spines[side].set_color(theme.faint)
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        text.set_color(theme.ink)


def dress_bar(bar: Any, theme: Theme, text: str) -> None:
    """Label a colour bar, in the colours of the theme."""
    bar.set_label(text, fontsize=8, color=theme.ink)
    bar.outline.set_edgecolor(theme.faint)
    bar.ax.tick_params(labelsize=8, colors=theme.ink, which="both")


def _colour_bar(
    figure: Any,
    axis: Any,
    colours: Colormap,
    ends: tuple[float, float],
    text: str,
    theme: Theme = LIGHT,
) -> None:
    mappable = ScalarMappable(Normalize(*ends), cmap=colours)
    dress_bar(figure.colorbar(mappable, cax=axis, orientation="horizontal"), theme, text)
    axis.set_box_aspect(0.05)


def draw_scale_bar(axis: Any, shape: Sequence[int], um: float, share: float) -> None:
    """Draw a bar of `um` micrometres, `share` of the width of a picture (H, W) in pixels."""
    height, width = shape[:2]
    left, y = 0.04 * width, 0.95 * height
    axis.plot([left, left + share * width], [y, y], color="white", linewidth=2.5)
    axis.text(left, y - 0.03 * height, f"{um:g} µm", color="white", fontsize=7, va="bottom")


def hide_axis(axis: Any) -> None:
    """Leave a picture's axis without ticks and frame, but with its label."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)

"""The figures of a channel: overview of fields, tolerance curve, scatter of intensities.

Matplotlib's object API with the Agg canvas: no window system, no global state, safe in threads.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
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

PANEL_INCHES = 2.6
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


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    # An empty entry keeps the date and version out: the same run gives the same bytes.
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


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
            _draw_scale_bar(row[0], strip)
    low = result.ranges.signal.low
    limit = result.error_scale * result.signal_width
    grey_axis, error_axis = bars.subplots(1, 2)
    _colour_bar(
        bars,
        grey_axis,
        colormaps["gray"],
        low,
        low + result.signal_width,
        "truth and prediction (same range)",
    )
    _colour_bar(
        bars,
        error_axis,
        ERROR_COLOURS,
        -limit,
        limit,
        f"error: prediction - truth (± {100 * result.error_scale:g} % of the signal range)",
    )
    return figure


def tolerance_curve(result: ChannelResult, theme: Theme = LIGHT) -> Figure:
    """Tolerance curve in units of the signal (paper, fig. 6 and S2): mean over fields, each field thin, baselines beside."""
    figure = new_figure(theme, (5.2, 3.6))
    axis = figure.add_subplot()
    percent = 100 * THRESHOLDS
    for system, colour in zip(result.systems(), _cycle(theme), strict=False):
        tolerances = [r.tolerance for r in result.systems()[system] if r.tolerance is not None]
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
    axis.set_xlabel("threshold i, % of the signal range", fontsize=9)
    axis.set_ylabel("IE / mean + SE / area (lower is better)", fontsize=9)
    axis.set_title(f"{result.name}: signal tolerance level = lowest point", fontsize=10)
    dress(axis, theme)
    if axis.lines:
        axis.legend(fontsize=8, frameon=False, labelcolor=theme.ink)
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
    axis.set_xlabel("truth, grey levels", fontsize=9)
    axis.set_ylabel("prediction, grey levels", fontsize=9)
    share = 100 * result.scatter_share
    axis.set_title(f"{result.name}: {share:.4g} % of all pixels", fontsize=10)
    dress(axis, theme)
    bar = figure.colorbar(picture, ax=axis, shrink=0.85)
    bar.set_label("pixels in a square", fontsize=8, color=theme.ink)
    bar.ax.tick_params(labelsize=8, colors=theme.ink, which="both")
    return figure


def error_bar(result: ChannelResult, theme: Theme = LIGHT) -> Figure:
    """The colour bar of the error pictures, for the page."""
    figure = new_figure(theme, (4.6, 0.75))
    limit = result.error_scale * result.signal_width
    _colour_bar(
        figure,
        figure.add_subplot(),
        ERROR_COLOURS,
        -limit,
        limit,
        "prediction - truth, grey levels",
        theme,
    )
    return figure


def new_figure(theme: Theme, size: tuple[float, float]) -> Figure:
    """An empty figure of this size (inches) in the colours of the theme."""
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def _cycle(theme: Theme) -> tuple[str, ...]:
    return theme.lines * 4


def dress(axis: Any, theme: Theme) -> None:
    """Axis, grid and words in the colours of the theme."""
    axis.set_facecolor(theme.ground)
    axis.tick_params(colors=theme.ink, labelsize=8)
    axis.grid(color=theme.faint, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axis.spines[side].set_color(theme.faint)
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        text.set_color(theme.ink)


def _colour_bar(
    figure: Any,
    axis: Any,
    colours: Colormap,
    low: float,
    high: float,
    text: str,
    theme: Theme = LIGHT,
) -> None:
    mappable = ScalarMappable(Normalize(low, high), cmap=colours)
    bar = figure.colorbar(mappable, cax=axis, orientation="horizontal")
    bar.set_label(text, fontsize=8, color=theme.ink)
    bar.outline.set_edgecolor(theme.faint)
    bar.ax.tick_params(labelsize=8, colors=theme.ink)
    bar.ax.set_box_aspect(0.05)


def _draw_scale_bar(axis: Any, strip: Strip) -> None:
    height, width = strip.panels[0].pixels.shape[:2]
    left, y = 0.04 * width, 0.95 * height
    axis.plot([left, left + strip.bar_share * width], [y, y], color="white", linewidth=2.5)
    axis.text(
        left, y - 0.03 * height, f"{strip.bar_um:g} µm", color="white", fontsize=7, va="bottom"
    )

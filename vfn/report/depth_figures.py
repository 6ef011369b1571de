"""Figures and table of a channel at every distance from focus."""

from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.evaluation.columns import HIGHER_IS_BETTER, TITLES
from vfn.evaluation.ranges import Range
from vfn.evaluation.results import MODEL, label
from vfn.report.blocks import Charts, Part, Soft, Table, chart
from vfn.report.depths import COLUMNS, REFERENCES, Depths
from vfn.report.figures import LIGHT, Theme, draw_scale_bar, dress, hide_axis, new_figure
from vfn.report.images import scale_bar
from vfn.report.wording import number

DRAWN = ("psnr_signal", "ssim_signal", "frc_resolution")
ZOOM = 96  # px


def series_figure(depths: Depths, theme: Theme = LIGHT) -> Figure:
    """Draw one field at every depth, as the paper's figure 3: input and prediction with a zoom of each, the
    Wiener filter's zoom between, and the focal plane at the right."""
    pairs, signal = depths.shown, depths.signal
    i = pairs[0].channels.index(depths.channel)
    truth = pairs[0].truth[i]
    window = _detail(truth)
    everything = (slice(None), slice(None))
    rows: list[tuple[str, Any, Any]] = [
        ("input", lambda p: p.baselines["input"][i], everything),
        ("input, zoom", lambda p: p.baselines["input"][i], window),
        ("Wiener, zoom", lambda p: p.baselines["wiener"][i], window),
        ("prediction", lambda p: p.prediction[i], everything),
        ("prediction, zoom", lambda p: p.prediction[i], window),
    ]
    if "wiener" not in pairs[0].baselines:
        del rows[2]
    tall = truth.shape[0] / truth.shape[1]
    heights = [tall if region is everything else 1.0 for _, _, region in rows]
    size = (1.45 * (len(pairs) + 1) + 0.4, 1.45 * sum(heights) + 0.7)
    figure = new_figure(theme, size)
    axes = figure.subplots(
        len(rows), len(pairs) + 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for line, (name, image, region) in zip(axes, rows, strict=True):
        for axis, pair in zip(line, pairs, strict=False):
            _show(axis, image(pair)[region], signal)
        whole = region is everything
        if whole or name == "input, zoom":
            _show(line[-1], truth[region], signal)
        line[-1].set_axis_off()
        line[0].set_ylabel(name, fontsize=8, color=theme.ink)
        for axis in line if whole else ():
            _frame(axis, window)
    for axis, pair in zip(axes[0], pairs, strict=False):
        axis.set_title(f"{pair.z:+g} µm", fontsize=9, color=theme.ink)
    axes[0][-1].set_title("truth, 0 µm", fontsize=9, color=theme.ink)
    length, share = scale_bar(truth.shape[1], pairs[0].pixel_size)
    if length:
        draw_scale_bar(axes[0][0], truth.shape, length, share)
    return figure


def _show(axis: Any, image: NDArray[Any], signal: Range) -> None:
    axis.imshow(image, cmap="gray", vmin=signal.low, vmax=signal.high, interpolation="nearest")
    hide_axis(axis)


def _frame(axis: Any, window: tuple[slice, slice]) -> None:
    top, left = (s.start for s in window)
    height, width = (s.stop - s.start for s in window)
    x = [left, left + width, left + width, left, left]
    axis.plot(x, [top, top, top + height, top + height, top], color="#f0a445", linewidth=0.8)


def _detail(truth: NDArray[Any]) -> tuple[slice, slice]:
    """The square with the most contrast."""
    side = min(ZOOM, *truth.shape)
    x = truth.astype(np.float64)
    spread = cv2.blur(x * x, (side, side)) - cv2.blur(x, (side, side)) ** 2
    half = side // 2
    inner = spread[half : truth.shape[0] - side + half + 1, half : truth.shape[1] - side + half + 1]
    row, column = np.unravel_index(int(np.argmax(inner)), inner.shape)
    return slice(int(row), int(row) + side), slice(int(column), int(column) + side)


def quality_figure(depths: Depths, theme: Theme = LIGHT) -> Figure:
    """Quality against depth, mean and spread over fields, each method a line."""
    figure = new_figure(theme, (10.5, 3.2))
    axes = figure.subplots(1, len(DRAWN))
    first = next(iter(depths.rows.values()))
    methods = [method for method in (MODEL, "wiener", "input") if method in first]
    for axis, column in zip(axes, DRAWN, strict=True):
        for method, colour in zip(methods, theme.lines, strict=False):
            _draw_method(axis, depths, method, column, colour)
        better = "higher" if HIGHER_IS_BETTER[column] else "lower"
        title, legend = f"{TITLES[column]} ({better} is better)", "best" if axis is axes[0] else ""
        dress(axis, theme, title, "distance from focus, µm", size=9, legend=legend)
    return figure


def _draw_method(axis: Any, depths: Depths, method: str, column: str, colour: str) -> None:
    """Draw one line, but none across the focus, where nothing was measured."""
    entries = {z: methods[method].get(column) for z, methods in depths.summaries.items()}
    known = [(z, e["mean"], e["std"] or 0.0) for z, e in entries.items() if e and e["n"]]
    name: str | None = label(method)
    for side in (-1, 1):
        part = np.array([point for point in known if point[0] * side > 0])
        if len(part):
            z, mean, std = part.T
            axis.plot(z, mean, "o-", color=colour, markersize=4, linewidth=1.5, label=name)
            axis.fill_between(z, mean - std, mean + std, color=colour, alpha=0.15)
            name = None  # once in the legend


def part(depths: Depths) -> Part:
    """The part of the page."""
    rows = [
        [f"{z:+g}", label(method), *(number(c, found.get(c, {}).get("mean")) for c in COLUMNS)]
        for z, methods in depths.summaries.items()
        for method, found in methods.items()
        if method in (MODEL, *REFERENCES)
    ]
    header = ["z (µm)", "", *(TITLES[column] for column in COLUMNS)]
    charts = [
        chart(
            lambda theme: quality_figure(depths, theme),
            f"quality of {depths.channel} against distance from focus",
            "Mean over fields, band: standard deviation.",
        ),
        chart(
            lambda theme: series_figure(depths, theme),
            f"{depths.channel} at every depth: input, prediction, truth",
            "The median field. One grey scale for all pictures.",
        ),
    ]
    note = (
        "Input: the plane as it is. Wiener filter: Gaussian blur and regularisation fitted on training fields for each "
        "distance, which it is told. PIQE and BRISQUE judge pictures, not focus."
    )
    title = "Refocusing, by depth"
    table = Table(header, rows, (1,), title, tall=True)
    return Part(title, [*depths.sentences(), Charts(charts, wide=True), table, Soft(note)])

"""Figures and table of a channel at every distance from focus."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.evaluation.pairs import FieldPair, PairSource
from vfn.evaluation.results import MODEL, ChannelResult, label
from vfn.evaluation.rows import HIGHER_IS_BETTER, summarise
from vfn.report.blocks import Charts, Part, Soft, Table, chart
from vfn.report.depths import COLUMNS, REFERENCES, Depths, sentences
from vfn.report.figures import LIGHT, Theme, dress, new_figure
from vfn.report.images import scale_bar
from vfn.report.wording import TITLES, number

DRAWN = ("psnr_signal", "ssim_signal", "frc_resolution")
ZOOM = 96  # px


@dataclass(frozen=True)
class Series:
    """One field at all its depths."""

    pairs: Sequence[FieldPair]  # ascending z
    channel: int
    low: float
    high: float


def series(source: PairSource, result: ChannelResult) -> Series | None:
    """The field whose mean PSNR over its depths is the median one; None without depths."""
    fields: dict[str, list[tuple[float, int, float]]] = {}
    for index, row in zip(result.indices, result.rows, strict=True):
        if row.z is not None:
            name = row.field.rpartition("_z")[0] or row.field
            fields.setdefault(name, []).append((row.z, index, row.values["psnr_signal"]))
    if not fields:
        return None
    most = max(len(planes) for planes in fields.values())
    whole = [planes for planes in fields.values() if len(planes) == most]
    whole.sort(key=lambda planes: float(np.mean([psnr for _, _, psnr in planes])))
    pairs = [source.pair(index) for _, index, _ in sorted(whole[len(whole) // 2])]
    signal = result.ranges.signal
    return Series(pairs, pairs[0].channels.index(result.name), signal.low, signal.high)


def series_figure(shown: Series, theme: Theme = LIGHT) -> Figure:
    """Draw one field at every depth, as the paper's figure 3: input and prediction with a zoom of each, the
    Wiener filter's zoom between, and the focal plane at the right."""
    pairs, i = shown.pairs, shown.channel
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
    rows = [row for row in rows if "wiener" in pairs[0].baselines or "Wiener" not in row[0]]
    tall = truth.shape[0] / truth.shape[1]
    heights = [tall if region is everything else 1.0 for _, _, region in rows]
    size = (1.45 * (len(pairs) + 1) + 0.4, 1.45 * sum(heights) + 0.7)
    figure = new_figure(theme, size)
    axes = figure.subplots(
        len(rows), len(pairs) + 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for line, (name, image, region) in zip(axes, rows, strict=True):
        for axis, pair in zip(line, pairs, strict=False):
            _show(axis, image(pair)[region], shown)
        whole = region is everything
        if whole or name == "input, zoom":
            _show(line[-1], truth[region], shown)
        line[-1].set_axis_off()
        line[0].set_ylabel(name, fontsize=8, color=theme.ink)
        if whole:
            _frame(line[-1], window)
            for axis in line[:-1]:
                _frame(axis, window)
    for axis, pair in zip(axes[0], pairs, strict=False):
        axis.set_title(f"{pair.z:+g} µm", fontsize=9, color=theme.ink)
    axes[0][-1].set_title("truth, 0 µm", fontsize=9, color=theme.ink)
    length, share = scale_bar(truth.shape[1], pairs[0].pixel_size)
    if length:
        height, width = truth.shape
        left, y = 0.05 * width, 0.93 * height
        axes[0][0].plot([left, left + share * width], [y, y], color="white", linewidth=2)
        axes[0][0].text(left, y - 0.04 * height, f"{length:g} µm", color="white", fontsize=6)
    return figure


def _show(axis: Any, image: NDArray[Any], shown: Series) -> None:
    axis.imshow(image, cmap="gray", vmin=shown.low, vmax=shown.high, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


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
    methods = [m for m in (MODEL, "wiener", "input") if m in depths.methods]
    for axis, column in zip(axes, DRAWN, strict=True):
        for method, colour in zip(methods, theme.lines, strict=False):
            known = [
                (z, entry["mean"], entry["std"] or 0.0)
                for z, own in depths.rows.items()
                if (entry := summarise(own[method]).get(column)) and entry["mean"] is not None
            ]
            for side in (-1, 1):  # no line across the focus, where nothing was measured
                part = np.array([k for k in known if k[0] * side > 0])
                if len(part):
                    z, mean, std = part.T
                    name = label(method) if side < 0 or not any(k[0] < 0 for k in known) else None
                    axis.plot(z, mean, "o-", color=colour, markersize=4, linewidth=1.5, label=name)
                    axis.fill_between(z, mean - std, mean + std, color=colour, alpha=0.15)
        axis.set_xlabel("distance from focus, µm", fontsize=9)
        better = "higher" if HIGHER_IS_BETTER[column] else "lower"
        axis.set_title(f"{TITLES[column]} ({better} is better)", fontsize=9)
        dress(axis, theme)
    axes[0].legend(fontsize=8, frameon=False, labelcolor=theme.ink)
    return figure


def part(depths: Depths, shown: Series) -> Part:
    """The part of the page."""
    rows = [
        [f"{z:+g}", label(method), *(_cell(depths, z, method, c) for c in COLUMNS)]
        for z, methods in depths.rows.items()
        for method in methods
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
            lambda theme: series_figure(shown, theme),
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
    return Part(title, [*sentences(depths), Charts(charts, wide=True), table, Soft(note)])


def _cell(depths: Depths, z: float, method: str, column: str) -> str:
    value = depths.mean(z, method, column)
    return "-" if math.isnan(value) else number(column, value)

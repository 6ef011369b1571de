"""Inline SVG figures of a comparison: a row of a forest plot, and unit against unit."""

import math

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from vfn.metrics.comparison import Comparison
from vfn.report.compare_words import cells, title

WIDTH, HEIGHT = 220, 26  # px of a row's plot
SIDE, LEFT, BOTTOM = 300, 52, 40  # px of the scatter: the square, room for the axes
FOREST = Markup(
    '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{words}"{shown}><title>{words}</title>'
    '<path class="zero" d="M{half} 0V{h}"/><path class="units" d="{dots}"/>{interval}'
    '<circle class="mean" cx="{mean}" cy="{middle}" r="4.5"/></svg>'
)
SCATTER = Markup(
    '<svg class="scatter" viewBox="{x} -6 {w} {h}" role="img" aria-label="{label}">'
    '<rect class="frame" width="{side}" height="{side}"/><path class="equal" d="M0 {side}L{side} 0"/>{ticks}'
    '<text x="{half}" y="{below}" text-anchor="middle">{a}</text>'
    '<text transform="translate({beside} {half}) rotate(-90)" text-anchor="middle">{b}</text>{dots}</svg>'
)
TICK = Markup(
    '<text x="{x}" y="{below}" text-anchor="middle">{text}</text><text x="-6" y="{y}" text-anchor="end">{text}</text>'
)
DOT = Markup('<circle cx="{}" cy="{}" r="4"><title>{}</title></circle>')


def towards_b(c: Comparison) -> np.ndarray:
    """Differences (n,), positive where the second run is better (or higher)."""
    return -c.units.differences if c.higher is False else c.units.differences


def forest(c: Comparison) -> Markup:
    """Draw units, mean and interval; right of the middle the second run is better (or higher).

    Each row has its own scale, from the largest difference of a unit.
    """
    d = towards_b(c)
    if not len(d):
        return Markup("")
    sign = -1.0 if c.higher is False else 1.0
    ends = sorted((sign * c.result.low, sign * c.result.high))
    limit = float(max(np.abs(d).max(), *np.nan_to_num(np.abs(ends)))) or 1.0
    middle, half = HEIGHT / 2, WIDTH / 2
    name, _, _, difference, interval_text, *_ = cells(c)

    def x(value: float) -> float:
        return round(half + value / limit * (half - 8), 1)

    spread = [(i * 7 % 5 - 2) * 2.6 for i in range(len(d))]  # dots beside, not upon each other
    interval = "" if math.isnan(ends[0]) else f"M{x(ends[0])} {middle}H{x(ends[1])}"
    return FOREST.format(
        w=WIDTH, h=HEIGHT, half=half, middle=middle,
        words=f"{name}: {difference} ({interval_text})",
        shown=Markup(' class="shown"') if c.shown else "",
        dots="".join(f"M{x(v)} {middle + dy:.1f}h0" for v, dy in zip(d, spread, strict=True)),
        interval=Markup('<path class="interval" d="{}"/>').format(interval) if interval else "",
        mean=x(sign * c.result.difference),
    )  # fmt: skip


def scatter(c: Comparison) -> Markup:
    """Draw the units: the first run across, the second upwards."""
    both = np.concatenate([c.units.a, c.units.b])
    low, high = float(both.min()), float(both.max())
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round((value - low) / (high - low) * SIDE, 1)

    ticks = [float(v) for v in MaxNLocator(4).tick_values(low, high) if low <= v <= high]
    return SCATTER.format(
        x=-LEFT, w=SIDE + LEFT + 8, h=SIDE + BOTTOM + 6, side=SIDE, half=SIDE / 2,
        label=f"{title(c)} of each {c.kind} in both runs", a=c.a, b=c.b,
        below=SIDE + 33, beside=12 - LEFT,
        ticks=Markup("").join(
            TICK.format(x=place(v), y=SIDE - place(v) + 4, below=SIDE + 16, text=f"{v:g}") for v in ticks
        ),
        dots=Markup("").join(
            DOT.format(place(a), SIDE - place(b), f"{name}: {a:.4g} in {c.a}, {b:.4g} in {c.b}")
            for name, a, b in zip(c.units.names, c.units.a, c.units.b, strict=True)
        ),
    )  # fmt: skip

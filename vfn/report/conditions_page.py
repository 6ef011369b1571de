"""The page of a comparison of conditions, `conditions.html`, and its figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vfn.report.blocks import (
    Bullets,
    Charts,
    Content,
    Fold,
    Page,
    Section,
    Soft,
    Table,
    Terms,
    chart,
    how_computed,
)
from vfn.report.figures import LIGHT, Theme, dress, new_figure
from vfn.report.html import today
from vfn.report.wording import TITLES

LIMIT = 6.0  # standard deviations at the ends of the maps' colours
HOW_TO_READ = (
    ("the idea", "The model learnt on control cells what the stain looks like, given the inputs. Where it errs more on treated cells than on control cells it never saw, the treatment changed the stain in a way that the inputs do not tell (Nguyen et al. 2020, sec. 4)."),
    ("what it cannot tell", "A treatment that changes inputs and stain alike is predicted along with them. A treatment, day or microscope that changes the inputs alone makes the model err, too: the input-shift alarms are counted for that."),
    ("departure", "Truth minus prediction, relative to what is usual in control fields where the prediction is as bright, smoothed over a part of a cell, in standard deviations of the control. Of a cell (or a field): the median of its absolute value over the cell."),
    ("Cliff's delta", "How often a treated unit exceeds a control one, minus the reverse: 0 is no difference, 1 all of them. In brackets a 95 % bootstrap interval, too short with few units."),
    ("Hedges' g", "The difference in standard deviations of the units, with its 95 % interval."),
    ("p", "Mann-Whitney's test over units, after Holm's correction over channels and figures. With three units on either side it cannot fall below 0.1, with four 0.029, before the correction."),
)  # fmt: skip
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
    """Return the page as text."""
    head = [Bullets(summary["sentences"]), Fold("How to read it", [Terms(HOW_TO_READ)])]
    alarms = summary["false_alarms_stated"]
    page = Page(
        "Control and treated",
        "Control and treated cells",
        [
            Soft(today()),
            Section("", head),
            *(_section(c, e, shown[c], alarms) for c, e in summary["channels"].items()),
            how_computed([], provenance, "conditions.csv, cells.csv and conditions.json"),
        ],
    )
    return page.html()


def _section(channel: str, entry: Mapping[str, Any], one: Shown, alarms: float) -> Section:
    """One channel: its table of metrics, its departing cells, its figures."""
    rows = [
        [
            NAMES[column], _text(f["control"]), _text(f["treated"]),
            _with_interval(f, "delta"), _with_interval(f, "g"),
            _text(f.get("p_holm"), "{:.2g}") if "p_holm" in f else "not tested",
        ]
        for column, f in entry["figures"].items()
    ]  # fmt: skip
    fields = entry["figures"]["mae_signal"]
    blocks: list[Content] = [
        Soft(f"{fields['n_control']} control and {fields['n_treated']} treated {entry['unit']}s."),
        Table(["", "control", "treated", "Cliff's delta", "Hedges' g", "p (Holm)"], rows),
    ]
    control, treated = entry["cells"]["control"], entry["cells"]["treated"]
    if control["n"]:
        blocks.append(
            f"Cells that depart (limit: {100 * alarms:g} % of control cells of the validation fields): {control['departing']} of "
            f"{control['n']} in control, {treated['departing']} of {treated['n']} in treated. They are listed in cells.csv, maps lie in maps/."
        )
    charts = [
        chart(one.distributions, f"errors of {channel} in control and treated"),
        chart(
            one.picture,
            f"{channel}: input, real, predicted, departure",
            "The most departing treated fields, and the median control field.",
        ),
    ]
    return Section(channel, [*blocks, Charts(charts, wide=True)])


def _text(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None else form.format(value)


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    if figures[key] is None:
        return "-"
    text = f"{figures[key]:+.2f}"
    if figures[f"{key}_low"] is None:
        return text
    return f"{text} ({figures[f'{key}_low']:+.2f} to {figures[f'{key}_high']:+.2f})"

"""The page of a comparison of conditions, `conditions.html`, and its sentences."""

import math
from collections.abc import Mapping
from typing import Any

from vfn.evaluation.columns import TITLES
from vfn.evaluation.conditions import CONTROL, TREATED
from vfn.evaluation.expect import FALSE_ALARMS
from vfn.metrics.comparison import ALPHA
from vfn.report import blocks
from vfn.report.conditions_figures import Shown
from vfn.report.html import today
from vfn.report.wording import FIELDS_AS_UNITS

HOW_TO_READ = (
    ("the idea", "The model learnt on control cells what the stain looks like, given the inputs. Where it errs more on treated cells than on control cells it never saw, the treatment changed the stain in a way that the inputs do not tell (Nguyen et al. 2020, sec. 4)."),
    ("what it cannot tell", "A treatment that changes inputs and stain alike is predicted along with them. A treatment, day or microscope that changes the inputs alone makes the model err, too: the input-shift alarms are counted for that."),
    ("departure", "Truth minus prediction, relative to what is usual in control fields where the prediction is as bright, smoothed over a part of a cell, in standard deviations of the control. Of a cell (or a field): the median of its absolute value over the cell."),
    ("Cliff's delta", "How often a treated unit exceeds a control one, minus the reverse: 0 is no difference, 1 all of them. In brackets a 95 % bootstrap interval, too short with few units."),
    ("Hedges' g", "The difference in standard deviations of the units, with its 95 % interval."),
    ("p", "Mann-Whitney's test over units, after Holm's correction over channels and figures. With three units on either side it cannot fall below 0.1, with four 0.029, before the correction."),
)  # fmt: skip
NAMES = {**TITLES, "bias_signal": "signal bias", "departure": "departure (SD)"}


def render(
    summary: Mapping[str, Any], shown: Mapping[str, Shown], provenance: Mapping[str, Any]
) -> str:
    """Return the page as text."""
    head = [
        blocks.Bullets(summary["sentences"]),
        blocks.Fold("How to read it", [blocks.Terms(HOW_TO_READ)]),
    ]
    alarms = summary["false_alarms_stated"]
    page = blocks.Page(
        "Control and treated",
        "Control and treated cells",
        [
            blocks.Soft(today()),
            blocks.Section("", head),
            *(_section(c, e, shown[c], alarms) for c, e in summary["channels"].items()),
            blocks.how_computed([], provenance, "conditions.csv, cells.csv and conditions.json"),
        ],
    )
    return page.html()


def _section(channel: str, entry: Mapping[str, Any], one: Shown, alarms: float) -> blocks.Section:
    """One channel: its table of metrics, its departing cells, its figures."""
    rows = [
        [
            NAMES[column], _text(f["control"]), _text(f["treated"]),
            _with_interval(f, "delta"), _with_interval(f, "g"),
            _text(f["p_holm"], "{:.2g}"),
        ]
        for column, f in entry["figures"].items()
    ]  # fmt: skip
    fields = entry["figures"]["mae_signal"]
    content: list[blocks.Content] = [
        blocks.Soft(
            f"{fields['n_control']} control and {fields['n_treated']} treated {entry['unit']}s."
        ),
        blocks.Table(["", "control", "treated", "Cliff's delta", "Hedges' g", "p (Holm)"], rows),
    ]
    control, treated = entry["cells"]["control"], entry["cells"]["treated"]
    if control["n"]:
        content.append(
            f"Cells that depart (limit: {100 * alarms:g} % of control cells of the validation fields): {control['departing']} of "
            f"{control['n']} in control, {treated['departing']} of {treated['n']} in treated. They are listed in cells.csv, maps lie in maps/."
        )
    charts = [
        blocks.chart(one.distributions, f"errors of {channel} in control and treated"),
        blocks.chart(
            one.picture,
            f"{channel}: input, real, predicted, departure",
            "The most departing treated fields, and the median control field.",
        ),
    ]
    return blocks.Section(channel, [*content, blocks.Charts(charts, wide=True)])


def _text(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None else form.format(value)


def _with_interval(figures: Mapping[str, Any], key: str) -> str:
    if figures[key] is None:
        return "-"
    text = f"{figures[key]:+.2f}"
    if figures[f"{key}_low"] is None:
        return text
    return f"{text} ({figures[f'{key}_low']:+.2f} to {figures[f'{key}_high']:+.2f})"


def sentences(channel: str, entry: Mapping[str, Any]) -> list[str]:
    """Return the result of a channel in sentences, the caution last."""
    control, treated = entry["cells"][CONTROL], entry["cells"][TREATED]
    said = [_compared(channel, entry)]
    if entry["unit"] == "field" and entry["figures"]["departure"]["p"] is not None:
        said.append(
            f"CAUTION: {channel}: {FIELDS_AS_UNITS}: name it by data.pattern or a manifest."
        )
    if control["n"] and treated["n"]:
        said.append(
            f"{channel}: {treated['departing']} of {treated['n']} treated cells ({treated['share']:.0%}) depart from "
            f"what the control model expects; of the control cells {control['share']:.1%} do "
            f"({FALSE_ALARMS:.0%} were meant to). Cells of one field are not independent: no test is made of them."
        )
    elif entry["threshold"] is None:
        said.append(f"{channel}: no channel shows nuclei, so there is no figure for each cell.")
    alarms, usual = (group["fields_with_input_alarms"] for group in (treated, control))
    if alarms / treated["fields"] > usual / control["fields"]:
        said.append(
            f"CAUTION: the inputs of {alarms} of {treated['fields']} treated fields lie "
            f"outside what the model was trained on ({usual} of {control['fields']} control "
            "fields): part of the error may be the model's, not the cells'."
        )
    return said


def _compared(channel: str, entry: Mapping[str, Any]) -> str:
    """The departures of both conditions, and whether a difference is shown."""
    found, mae, unit = entry["figures"]["departure"], entry["figures"]["mae_signal"], entry["unit"]
    head = (
        f"{channel}: departure from what the control model expects {found['treated']:.2g} SD in treated, "
        f"{found['control']:.2g} SD in control {unit}s (n = {found['n_treated']} and {found['n_control']}; mean error "
        f"{100 * mae['treated']:.2g} and {100 * mae['control']:.2g} % of the signal range"
    )
    if found["p"] is None:
        return f"{head}); too few {unit}s for a test."
    shown = [
        f"{NAMES[column]} (p = {p:.2g})"
        for column, one in entry["figures"].items()
        if (p := one["p_holm"]) is not None and p < ALPHA
    ]
    where = f"{'shown' if unit == 'well' else 'if fields are independent,'} in {', '.join(shown)}"
    if shown and mae["delta"] < 0 and found["delta"] < 0:
        verdict = (
            f"treated cells are predicted BETTER than control ones, {where}: look at the control"
        )
    elif shown:
        verdict = f"the treatment changes the stain beyond what the inputs tell, {where}"
    elif 2 / math.comb(found["n_control"] + found["n_treated"], found["n_control"]) < ALPHA:
        verdict = "no difference can be shown in any figure"
    else:
        verdict = f"so many {unit}s are too few to show any difference"
    g = "" if found["g"] is None else f", Hedges' g = {_with_interval(found, 'g')}"
    return f"{head}; Cliff's delta = {found['delta']:+.2f}{g}): {verdict}."

"""The page of a comparison of conditions, `conditions.html`, and its sentences."""

import math
from collections.abc import Mapping
from typing import Any

from vfn.evaluation.conditions import CONTROL, TREATED
from vfn.evaluation.expect import FALSE_ALARMS
from vfn.metrics.comparison import ALPHA
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
from vfn.report.conditions_figures import Shown
from vfn.report.html import today
from vfn.report.wording import FIELDS_AS_UNITS, TITLES

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


def sentences(channel: str, entry: Mapping[str, Any]) -> list[str]:
    """Return the result of a channel in sentences, the caution last."""
    found, unit = entry["figures"]["departure"], entry["unit"]
    mae = entry["figures"]["mae_signal"]
    control, treated = entry["cells"][CONTROL], entry["cells"][TREATED]
    said = []
    head = (
        f"{channel}: departure from what the control model expects {found['treated']:.2g} SD in treated, "
        f"{found['control']:.2g} SD in control {unit}s (n = {found['n_treated']} and {found['n_control']}; mean error "
        f"{100 * mae['treated']:.2g} and {100 * mae['control']:.2g} % of the signal range"
    )
    if found["p"] is None:
        said.append(f"{head}); too few {unit}s for a test.")
    else:
        shown = [
            f"{NAMES[column]} (p = {p:.2g})"
            for column, one in entry["figures"].items()
            if (p := one["p_holm"]) is not None and p < ALPHA
        ]
        better = mae["delta"] < 0 and found["delta"] < 0
        where = (
            f"{'shown' if unit == 'well' else 'if fields are independent,'} in {', '.join(shown)}"
        )
        verdict = (
            f"treated cells are predicted BETTER than control ones, {where}: look at the control"
            if shown and better
            else f"the treatment changes the stain beyond what the inputs tell, {where}"
            if shown
            else "no difference can be shown in any figure"
            if 2 / math.comb(found["n_control"] + found["n_treated"], found["n_control"]) < ALPHA
            else f"so many {unit}s are too few to show any difference"
        )
        g = (
            ""
            if found["g"] is None
            else f", Hedges' g = {found['g']:+.2f} ({found['g_low']:+.2f} to {found['g_high']:+.2f})"
        )
        said.append(f"{head}; Cliff's delta = {found['delta']:+.2f}{g}): {verdict}.")
        if unit == "field":
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
    share_c = control["fields_with_input_alarms"] / control["fields"]
    share_t = treated["fields_with_input_alarms"] / treated["fields"]
    if share_t > share_c:
        said.append(
            f"CAUTION: the inputs of {treated['fields_with_input_alarms']} of {treated['fields']} treated fields lie "
            f"outside what the model was trained on ({control['fields_with_input_alarms']} of {control['fields']} control "
            "fields): part of the error may be the model's, not the cells'."
        )
    return said

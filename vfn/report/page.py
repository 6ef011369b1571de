"""The report: one HTML file with everything inside, readable offline, on a phone and on paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfn.metrics.rows import Row
from vfn.report import figures
from vfn.report.html import environment, plain_text, today, versions
from vfn.report.images import Strip
from vfn.report.results import MODEL, ChannelResult, best_systems, label
from vfn.report.wording import SPECS, TITLES, findings, number

# What the tables show, the columns that a reader should go by first; metrics.csv has them all.
SHOWN_COLUMNS = (
    "mae_signal",
    "psnr_signal",
    "ssim_signal",
    "pearson",
    "mae",
    "psnr",
    "ssim",
    "tolerance_level",
    "tolerance_threshold",
)
OPEN_TABLE_ROWS = 24  # a longer table of fields starts folded


@dataclass(frozen=True)
class ShownField:
    """A field whose pictures are in the report.

    Attributes:
        row: its figures.
        why: "worst", "median", "best" or its place in the ranking.
        whole: pictures of the whole field.
        detail: pictures of its worst region at full resolution, if the whole is shown reduced.
        detail_place: (row, column) of the region's upper left pixel.
    """

    row: Row
    why: str
    whole: Strip
    detail: Strip | None = None
    detail_place: tuple[int, int] | None = None


def render(
    results: Sequence[ChannelResult],
    summary: Mapping[str, Any],
    shown: Mapping[str, Sequence[ShownField]],
    provenance: Mapping[str, Any],
) -> str:
    """The page as text.

    Args:
        results: the channels in their order.
        summary: what `summary.json` holds.
        shown: channel -> fields with pictures, worst, median, best first.
        provenance: how the images came about (command, checkpoint, data set), shown as it is.
    """
    sections = [
        _section(number_, result, summary[result.name], shown[result.name])
        for number_, result in enumerate(results)
    ]
    return (
        environment()
        .get_template("report/report.html.j2")
        .render(
            title=", ".join(result.name for result in results),
            fields=len({index for result in results for index in result.indices}),
            sections=sections,
            glance=[_glance(result, summary[result.name]) for result in results],
            columns=[(column, TITLES[column]) for column in SHOWN_COLUMNS],
            has_baselines=any(result.baselines for result in results),
            provenance={str(key): plain_text(value) for key, value in provenance.items()},
            versions=versions(),
            date=today(),
        )
    )


def _section(
    number_: int, result: ChannelResult, summary: Mapping[str, Any], shown: Sequence[ShownField]
) -> dict[str, Any]:
    full, signal = result.ranges.full, result.ranges.signal
    themes = (("light", figures.LIGHT), ("dark", figures.DARK))
    return {
        "anchor": f"stain-{number_}",
        "name": result.name,
        "findings": findings(result, summary),
        "systems": _systems(result, summary),
        "shown": shown,
        "rows": [
            (row.field, [_cell(row, column) for column in SHOWN_COLUMNS], row.note)
            for row in result.rows
        ],
        "open": len(result.rows) <= OPEN_TABLE_ROWS,
        "tolerance": {n: figures.png_uri(figures.tolerance_curve(result, t)) for n, t in themes},
        "scatter": {n: figures.png_uri(figures.scatter(result, t)) for n, t in themes},
        "error_bar": {n: figures.png_uri(figures.error_bar(result, t)) for n, t in themes},
        "error_scale": f"{100 * result.error_scale:g}",
        "full": f"{full.low:g} to {full.high:g}",
        "full_origin": result.ranges.full_origin,
        "signal": f"{signal.low:.6g} to {signal.high:.6g}",
        "count": len(result.rows),
        "pixels": f"{result.ranges.pixels:,}".replace(",", " "),
    }


def _systems(result: ChannelResult, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of averages: the prediction and its baselines, the best figures marked."""
    parts = {
        name: summary if name == MODEL else summary["baselines"][name] for name in result.systems()
    }
    means = {name: {c: part[c]["mean"] for c in SHOWN_COLUMNS} for name, part in parts.items()}
    best = best_systems(means)
    return [
        {
            "label": label(name),
            "cells": [
                {
                    "mean": number(c, part[c]["mean"]),
                    "std": number(c, part[c]["std"]) if part[c]["std"] is not None else "",
                    "note": part[c].get("note", ""),
                    "best": best.get(c) == name,
                }
                for c in SHOWN_COLUMNS
            ],
        }
        for name, part in parts.items()
    ]


def _glance(result: ChannelResult, summary: Mapping[str, Any]) -> dict[str, str]:
    """The line of a channel in the table at the top."""
    line = {
        "name": result.name,
        "psnr": number("psnr_signal", summary["psnr_signal"]["mean"]),
        "pearson": number("pearson", summary["pearson"]["mean"]),
        "rival": "",
    }
    rivals = {
        name: part["psnr_signal"]["mean"]
        for name, part in summary["baselines"].items()
        if part["psnr_signal"]["mean"] is not None
    }
    ours = summary["psnr_signal"]["mean"]
    if rivals and ours is not None:
        name = max(rivals, key=lambda key: rivals[key])
        gain = ours - rivals[name]
        verb = "above" if gain > 0 else "BELOW"
        line["rival"] = f"{abs(gain):.2f} dB {verb} the {label(name)}"
    return line


def _cell(row: Row, column: str) -> str:
    value = row.values[column]
    if math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else format(value, SPECS[column])

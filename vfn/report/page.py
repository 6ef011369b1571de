"""The report: one HTML file with everything inside, readable offline, on a phone and on paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfn.evaluation.rows import Row
from vfn.report import figures
from vfn.report.blocks import Block, Place, chart
from vfn.report.html import environment, plain_text, today, versions
from vfn.report.images import LONGEST_SIDE, MASK_THRESHOLD, Pictures
from vfn.report.results import MODEL, ChannelResult, best_systems, label
from vfn.report.verdict import Verdict
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
# Characters of all pictures together, which keeps the page below 15 MB whatever the images hold.
PICTURES_LIMIT = 10e6
OPEN_FIELDS = 3  # worst, median, best; the others open when they are chosen


@dataclass(frozen=True)
class ShownField:
    """A field whose pictures are in the report.

    Attributes:
        row: its figures.
        why: "worst", "median", "best" or its place in the ranking.
        whole: pictures of the whole field.
        detail: pictures of its worst region at full resolution, if the whole is shown reduced.
    """

    row: Row
    why: str
    whole: Pictures
    detail: Pictures | None = None


@dataclass(frozen=True)
class Mark:
    """A found place in the pictures of a shown field.

    Attributes:
        anchor: what links to it name; empty for a mark that no link leads to.
        kind: of the place.
        words: what is written beside it when a link led there.
        left: share of the picture's width, 0 to 1.
        top: share of its height.
    """

    anchor: str
    kind: str
    words: str
    left: float
    top: float


def render(
    results: Sequence[ChannelResult],
    summary: Mapping[str, Any],
    shown: Mapping[str, Sequence[ShownField]],
    verdicts: Mapping[str, Verdict],
    provenance: Mapping[str, Any],
    blocks: Mapping[str, Sequence[Block]] | None = None,
) -> str:
    """The page as text.

    Args:
        results: the channels in their order.
        summary: what `summary.json` holds.
        shown: channel -> fields with pictures, worst, median, best first.
        verdicts: channel -> whether it can be used.
        provenance: how the images came about (command, checkpoint, data set), shown as it is.
        blocks: channel -> what else was measured, shown after the curves.
    """
    sections = [
        _section(
            f"stain-{i}",
            result,
            summary[result.name],
            shown[result.name],
            verdicts[result.name],
            (blocks or {}).get(result.name, ()),
        )
        for i, result in enumerate(results)
    ]
    return (
        environment()
        .get_template("report/report.html.j2")
        .render(
            title=", ".join(result.name for result in results),
            fields=len({index for result in results for index in result.indices}),
            sections=sections,
            picture_limit=PICTURES_LIMIT / max(_count_pictures(shown), 1),
            longest_side=LONGEST_SIDE,
            mask_threshold=MASK_THRESHOLD,
            columns=[(column, TITLES[column]) for column in SHOWN_COLUMNS],
            has_baselines=any(result.baselines for result in results),
            provenance={str(key): plain_text(value) for key, value in provenance.items()},
            versions=versions(),
            date=today(),
        )
    )


def _section(
    anchor: str,
    result: ChannelResult,
    summary: Mapping[str, Any],
    shown: Sequence[ShownField],
    verdict: Verdict,
    blocks: Sequence[Block],
) -> dict[str, Any]:
    full, signal = result.ranges.full, result.ranges.signal
    anchors = {field.row.field: f"{anchor}-field-{i}" for i, field in enumerate(shown)}
    places: dict[str, list[Place]] = {}
    for block in blocks:
        for place in block.places:
            places.setdefault(place.field, []).append(place)
    return {
        "anchor": anchor,
        "name": result.name,
        "verdict": verdict,
        "glance": _glance(result, summary),
        "findings": findings(result, summary),
        "systems": _systems(result, summary),
        "shown": [
            _shown(anchors[field.row.field], field, i < OPEN_FIELDS, result, places)
            for i, field in enumerate(shown)
        ],
        "rows": [
            (row.field, anchors.get(row.field), [_cell(row, c) for c in SHOWN_COLUMNS], row.note)
            for row in (result.rows[i] for i in result.ranking())
        ],
        "blocks": [_curves(result), *blocks],
        "links": {
            place: mark_anchor(anchors[name], number_)
            for name, found in places.items()
            if name in anchors
            for number_, place in enumerate(found)
        },
        "error_bar": chart(
            lambda theme: figures.error_bar(result, theme),
            "colour bar of the error pictures: blue too dark, black equal, red too bright",
        ),
        "error_scale": f"{100 * result.error_scale:g}",
        "full": f"{full.low:g} to {full.high:g}",
        "full_origin": result.ranges.full_origin,
        "signal": f"{signal.low:.6g} to {signal.high:.6g}",
        "count": len(result.rows),
        "pixels": f"{result.ranges.pixels:,}".replace(",", " "),
    }


def _count_pictures(shown: Mapping[str, Sequence[ShownField]]) -> int:
    return sum(
        len(pictures.strip.panels)
        for fields in shown.values()
        for field in fields
        for pictures in (field.whole, field.detail)
        if pictures is not None
    )


def mark_anchor(field_anchor: str, index: int) -> str:
    """What a link to the mark of a field's place number `index` names."""
    return f"{field_anchor}-mark-{index}"


def _shown(
    anchor: str,
    field: ShownField,
    is_open: bool,
    result: ChannelResult,
    places: Mapping[str, Sequence[Place]],
) -> dict[str, Any]:
    """A shown field as the template wants it."""
    found = [
        (mark_anchor(anchor, i), place) for i, place in enumerate(places.get(field.row.field, ()))
    ]
    return {
        "anchor": anchor,
        "why": field.why,
        "row": field.row,
        "open": is_open,
        "whole": field.whole,
        "marks": [_mark(key, place, field.whole) for key, place in found],
        "detail": field.detail,
        "detail_marks": [
            _mark("", place, field.detail)
            for _, place in found
            if field.detail is not None
            and 0 <= place.row - field.detail.top < field.detail.height
            and 0 <= place.column - field.detail.left < field.detail.width
        ],
        "beyond": f"Green: {100 * field.whole.beyond:.2f} % of the pixels are off by more than "
        f"{100 * MASK_THRESHOLD:g} % of the signal range, "
        f"{MASK_THRESHOLD * result.signal_width:.4g} grey levels.",
    }


def _mark(anchor: str, place: Place, pictures: Pictures) -> Mark:
    return Mark(
        anchor,
        place.kind,
        ", ".join(filter(None, [place.kind, place.words])),
        (place.column + 0.5 - pictures.left) / pictures.width,
        (place.row + 0.5 - pictures.top) / pictures.height,
    )


def _curves(result: ChannelResult) -> Block:
    return Block(
        "Curves",
        charts=(
            chart(
                lambda theme: figures.tolerance_curve(result, theme),
                f"tolerance curve of {result.name}",
                "Sum of the intensity error of the pixels within the threshold (IE) and the share "
                "of pixels beyond it (SE). The dot is the lowest point of the mean curve; thin "
                "lines are single fields. Both axes are logarithmic above their first step.",
            ),
            chart(
                lambda theme: figures.scatter(result, theme),
                f"predicted against true intensity of {result.name}",
                "Every pixel of every field. On the line the prediction equals the truth; below it "
                "the prediction is too dark, above too bright.",
            ),
        ),
    )


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

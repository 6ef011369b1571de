"""The section of one stain in the report of an evaluation: fields with pictures, averages, curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from vfn.evaluation.results import MODEL, ChannelResult, best_systems, label
from vfn.evaluation.rows import ImageScores
from vfn.report import figures
from vfn.report.blocks import (
    Bullets,
    Charts,
    Content,
    Fold,
    Key,
    Mark,
    Part,
    Place,
    Places,
    Section,
    Slider,
    Soft,
    Styled,
    Table,
    chart,
    link,
)
from vfn.report.images import MASK_THRESHOLD, Pictures
from vfn.report.wording import SPECS, TITLES, findings, number

# Columns of the tables, the most telling first; metrics.csv has all.
SHOWN_COLUMNS = (
    "mae_signal", "psnr_signal", "ssim_signal", "pearson", "mae", "psnr", "ssim", "tolerance_level",
    "tolerance_threshold",
)  # fmt: skip
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

    row: ImageScores
    why: str
    whole: Pictures
    detail: Pictures | None = None


def stain_section(
    anchor: str,
    result: ChannelResult,
    summary: Mapping[str, Any],
    shown: Sequence[ShownField],
    parts: Sequence[Part],
    limit: float,
) -> Section:
    """Return the section; `limit` is the number of characters of each picture."""
    anchors = {field.row.field: f"{anchor}-field-{i}" for i, field in enumerate(shown)}
    marks: dict[str, list[tuple[str, Place]]] = {}  # field -> its places with their anchors
    for place in (
        p for part in parts for b in part.blocks if isinstance(b, Places) for p in b.places
    ):
        own = marks.setdefault(place.field, [])
        own.append((f"{anchors.get(place.field)}-mark-{len(own)}", place))
    links = {place: key for name in anchors for key, place in marks.get(name, ())}
    linked = [
        replace(
            part,
            blocks=[replace(b, links=links) if isinstance(b, Places) else b for b in part.blocks],
        )
        for part in parts
    ]
    key = chart(
        lambda theme: figures.error_bar(result, theme),
        "colour bar of the error pictures: blue too dark, black equal, red too bright",
    )
    fields: list[Content] = [
        Soft(_choice(len(result.rows), len(shown))),
        _chooser(result, anchors),
        Soft(
            "Move the line to change from the truth to the prediction: drag it in the picture, or use the slider and the arrow keys. "
            f"Both have the same display range, {signal_range(result)}; inputs each their own. Error: prediction minus truth, the same scale "
            f"in all fields, ± {100 * result.error_scale:g} % of the signal range:"
        ),
        Key(key),
        *(
            _field(
                anchors[field.row.field],
                field,
                i < OPEN_FIELDS,
                result,
                marks.get(field.row.field, ()),
                limit,
            )
            for i, field in enumerate(shown)
        ),
    ]
    count = len(result.rows)
    said = Part("What the figures say", [Bullets(findings(result, summary))])
    averages = Part(
        f"Averages over {count} field{'' if count == 1 else 's'}", _averages(result, summary)
    )
    return Section(
        result.name, [Part("Fields", fields), said, averages, _curves(result), *linked], anchor
    )  # fmt: skip


def _choice(count: int, shown: int) -> str:
    if count == 1:
        return "The only field."
    text = f"All {count} fields, the worst first, by PSNR on the signal range."
    if shown < count:
        return f"{text} {shown} of {count} fields have pictures below: choose one by its name."
    return f"{text} Choose one by its name."


def _chooser(result: ChannelResult, anchors: Mapping[str, str]) -> Table:
    rows = [result.rows[i] for i in result.ranking()]
    return Table(
        ["field", *(TITLES[c] for c in SHOWN_COLUMNS), "note"],
        [
            [
                link(anchors[row.field], row.field) if row.field in anchors else row.field,
                *(_cell(row, c) for c in SHOWN_COLUMNS),
                row.remarks,
            ]
            for row in rows
        ],
        (len(SHOWN_COLUMNS) + 1,),
        f"fields of {result.name}",
        "chooser",
        tall=True,
    )


def _cell(row: ImageScores, column: str) -> str:
    value = row.values[column]
    if math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else format(value, SPECS[column])


def _field(
    anchor: str,
    field: ShownField,
    is_open: bool,
    result: ChannelResult,
    places: Sequence[tuple[str, Place]],
    limit: float,
) -> Fold:
    """The pictures of a field, with the places that were found in it."""
    values, name, whole, detail = field.row.values, field.row.field, field.whole, field.detail
    title = Markup(
        '<span class="tag">{}</span> <strong>{}</strong> <span class="soft">PSNR signal {:.2f} dB, SSIM signal {:.3f}, r {:.3f}</span>'
    ).format(field.why, name, *(values[c] for c in ("psnr_signal", "ssim_signal", "pearson")))
    note = (
        f"Green: {100 * whole.beyond:.2f} % of the pixels are off by more than {100 * MASK_THRESHOLD:g} % of the signal range, "
        f"{MASK_THRESHOLD * result.signal_width:.4g} grey levels."
    )
    marks = [_mark(key, place, whole) for key, place in places]
    blocks: list[Content] = [
        Slider(f"{anchor}-whole", whole, name, "whole field", marks, note, limit)
    ]
    if detail is not None:
        inside = [
            _mark("", place, detail)
            for _, place in places
            if 0 <= place.row - detail.top < detail.height
            and 0 <= place.column - detail.left < detail.width
        ]
        blocks += [
            Soft(
                f"Full resolution, where the error is largest ({detail.width} x {detail.height} pixels from row {detail.top}, "
                f"column {detail.left}):"
            ),
            Slider(f"{anchor}-detail", detail, name, "detail", inside, "", limit),
        ]
    return Fold(title, blocks, is_open, anchor=anchor, css="field")


def _mark(anchor: str, place: Place, pictures: Pictures) -> Mark:
    return Mark(
        anchor,
        place.kind,
        ", ".join(filter(None, [place.kind, place.words])),
        (place.column + 0.5 - pictures.left) / pictures.width,
        (place.row + 0.5 - pictures.top) / pictures.height,
    )


def _averages(result: ChannelResult, summary: Mapping[str, Any]) -> list[Content]:
    """The prediction and its baselines, the best figures marked."""
    systems = {
        name: summary if name == MODEL else summary["baselines"][name] for name in result.systems()
    }
    best = best_systems({n: {c: s[c]["mean"] for c in SHOWN_COLUMNS} for n, s in systems.items()})

    def cell(name: str, column: str) -> Styled:
        entry, wins = systems[name][column], best.get(column) == name
        text = Markup("{}{}{}").format(
            number(column, entry["mean"]), " ★" if wins else "", "†" if "note" in entry else ""
        )
        if entry["std"] is not None:
            text += Markup("<br><small>± {}</small>").format(number(column, entry["std"]))
        return Styled(text, "best" if wins else "", entry.get("note", ""))

    rows: list[list[str | Styled]] = [
        [label(n), *(cell(n, c) for c in SHOWN_COLUMNS)] for n in systems
    ]
    note = "Mean, ± standard deviation between fields."
    if len(systems) > 1:
        note += " ★ best of its column."
    if any("note" in systems[name][c] for name in systems for c in SHOWN_COLUMNS):
        note += " † some fields are undefined or infinite and left out."
    note += f" Full range {full_range(result)}, signal range {signal_range(result)}."
    return [Table(["", *(TITLES[c] for c in SHOWN_COLUMNS)], rows), Soft(note)]


def _curves(result: ChannelResult) -> Part:
    tolerance = chart(
        lambda theme: figures.tolerance_curve(result, theme),
        f"tolerance curve of {result.name}",
        "Intensity error of the pixels within the threshold (IE), over the mean signal of the truth, and "
        "share of the pixels beyond it (SE), over the share that its signal covers. The dot is the lowest point of "
        "the mean curve; thin lines are single fields.",
    )
    scatter = chart(
        lambda theme: figures.scatter(result, theme),
        f"predicted against true intensity of {result.name}",
        "Every pixel of every field. On the line the prediction equals the truth; below it "
        "the prediction is too dark, above too bright.",
    )
    return Part("Curves", [Charts([tolerance, scatter])])


def full_range(result: ChannelResult) -> str:
    """Return the full range as text."""
    return f"{result.ranges.full.low:g} to {result.ranges.full.high:g}"


def signal_range(result: ChannelResult) -> str:
    """Return the signal range as text."""
    return f"{result.ranges.signal.low:.6g} to {result.ranges.signal.high:.6g}"

"""The section of one stain in the report of an evaluation: fields with pictures, averages, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vfn.evaluation.columns import TITLES
from vfn.evaluation.results import MODEL, ChannelResult, best_systems, in_order, label
from vfn.evaluation.rows import ImageScores
from vfn.models.words import counted
from vfn.report import blocks, figures
from vfn.report.images import MASK_THRESHOLD, Pictures
from vfn.report.wording import findings, number

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
    parts: Sequence[blocks.Part],
    limit: float,
) -> blocks.Section:
    """Return the section; `limit` is the number of characters of each picture."""
    anchors = {field.row.field: f"{anchor}-field-{i}" for i, field in enumerate(shown)}
    marks: dict[str, dict[blocks.Place, str]] = {name: {} for name in anchors}
    for part in parts:
        for places in (block for block in part.blocks if isinstance(block, blocks.Places)):
            for place in places.places:
                if (own := marks.get(place.field)) is not None:
                    own.setdefault(place, f"{anchors[place.field]}-mark-{len(own)}")
            places.links.update(own for of_field in marks.values() for own in of_field.items())
    key = blocks.chart(
        lambda theme: figures.error_bar(result, theme),
        "colour bar of the error pictures: blue too dark, black equal, red too bright",
    )
    fields: list[blocks.Content] = [
        blocks.Soft(_choice(len(result.rows), len(shown))),
        _chooser(result, anchors),
        blocks.Soft(
            "Move the line to change from the truth to the prediction: drag it in the picture, or use the slider and the arrow keys. "
            f"Both have the same display range, {result.ranges.signal}; inputs each their own. Error: prediction minus truth, the same scale "
            f"in all fields, ± {100 * result.error_scale:g} % of the signal range:"
        ),
        blocks.Key(key),
    ]
    for i, field in enumerate(shown):
        name = field.row.field
        fields.append(_field(anchors[name], field, i < OPEN_FIELDS, result, marks[name], limit))
    said = blocks.Part("What the figures say", [blocks.Bullets(findings(result, summary))])
    averages = blocks.Part(
        f"Averages over {counted(len(result.rows), 'field')}", _averages(result, summary)
    )
    return blocks.Section(
        result.name, [blocks.Part("Fields", fields), said, averages, _curves(result), *parts], anchor
    )  # fmt: skip


def _choice(count: int, shown: int) -> str:
    if count == 1:
        return "The only field."
    text = f"All {count} fields, the worst first, by PSNR on the signal range."
    some = f"{shown} of {count} fields have pictures below: choose" if shown < count else "Choose"
    return f"{text} {some} one by its name."


def _chooser(result: ChannelResult, anchors: Mapping[str, str]) -> blocks.Table:
    rows = [result.rows[i] for i in result.ranking()]
    return blocks.Table(
        ["field", *(TITLES[c] for c in SHOWN_COLUMNS), "note"],
        [
            [
                blocks.link(anchors[row.field], row.field) if row.field in anchors else row.field,
                *(number(c, row.values[c]) for c in SHOWN_COLUMNS),
                row.remarks,
            ]
            for row in rows
        ],
        (len(SHOWN_COLUMNS) + 1,),
        f"fields of {result.name}",
        "chooser",
        tall=True,
    )


def _field(
    anchor: str,
    field: ShownField,
    is_open: bool,
    result: ChannelResult,
    places: Mapping[blocks.Place, str],
    limit: float,
) -> blocks.Fold:
    """The pictures of a field, with the places that were found in it."""
    values, name, whole, detail = field.row.values, field.row.field, field.whole, field.detail
    title = Markup(
        '<span class="tag">{}</span> <strong>{}</strong> <span class="soft">PSNR signal {:.2f} dB, SSIM signal {:.3f}, r {:.3f}</span>'
    ).format(field.why, name, *(values[c] for c in ("psnr_signal", "ssim_signal", "pearson")))
    note = (
        f"Green: {100 * whole.beyond:.2f} % of the pixels are off by more than {100 * MASK_THRESHOLD:g} % of the signal range, "
        f"{MASK_THRESHOLD * result.signal_width:.4g} grey levels."
    )
    content: list[blocks.Content] = [
        blocks.Slider(f"{anchor}-whole", whole, name, "whole field", places, note, limit)
    ]
    if detail is not None:
        inside = {
            place: ""
            for place in places
            if 0 <= place.row - detail.top < detail.height
            and 0 <= place.column - detail.left < detail.width
        }
        content += [
            blocks.Soft(
                f"Full resolution, where the error is largest ({detail.width} x {detail.height} pixels from row {detail.top}, "
                f"column {detail.left}):"
            ),
            blocks.Slider(f"{anchor}-detail", detail, name, "detail", inside, "", limit),
        ]
    return blocks.Fold(title, content, is_open, anchor=anchor, css="field")


def _mean_cell(column: str, entry: Mapping[str, Any], wins: bool) -> blocks.Styled:
    text = Markup("{}{}{}").format(
        number(column, entry["mean"]), " ★" if wins else "", "†" if "note" in entry else ""
    )
    if entry["std"] is not None:
        text += Markup("<br><small>± {}</small>").format(number(column, entry["std"]))
    return blocks.Styled(text, "best" if wins else "", entry.get("note", ""))


def _averages(result: ChannelResult, summary: Mapping[str, Any]) -> list[blocks.Content]:
    """The prediction and its baselines, the best figures marked."""
    systems = {MODEL: summary, **in_order(summary["baselines"])}
    best = best_systems({n: {c: s[c]["mean"] for c in SHOWN_COLUMNS} for n, s in systems.items()})
    rows: list[list[str | blocks.Styled]] = [
        [label(n), *(_mean_cell(c, own[c], best.get(c) == n) for c in SHOWN_COLUMNS)]
        for n, own in systems.items()
    ]
    note = "Mean, ± standard deviation between fields."
    if len(systems) > 1:
        note += " ★ best of its column."
    if any("note" in own[c] for own in systems.values() for c in SHOWN_COLUMNS):
        note += " † some fields are undefined or infinite and left out."
    note += f" Full range {result.ranges.full}, signal range {result.ranges.signal}."
    return [blocks.Table(["", *(TITLES[c] for c in SHOWN_COLUMNS)], rows), blocks.Soft(note)]


def _curves(result: ChannelResult) -> blocks.Part:
    tolerance = blocks.chart(
        lambda theme: figures.tolerance_curve(result, theme),
        f"tolerance curve of {result.name}",
        "Intensity error of the pixels within the threshold (IE), over the mean signal of the truth, and "
        "share of the pixels beyond it (SE), over the share that its signal covers. The dot is the lowest point of "
        "the mean curve; thin lines are single fields.",
    )
    scatter = blocks.chart(
        lambda theme: figures.scatter(result, theme),
        f"predicted against true intensity of {result.name}",
        "Every pixel of every field. On the line the prediction equals the truth; below it "
        "the prediction is too dark, above too bright.",
    )
    return blocks.Part("Curves", [blocks.Charts([tolerance, scatter])])

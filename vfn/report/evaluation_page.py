"""The report of an evaluation: `report.html`."""

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
    Page,
    Part,
    Place,
    Places,
    Section,
    Slider,
    Soft,
    Styled,
    Table,
    Terms,
    chart,
    how_computed,
    level_mark,
    link,
)
from vfn.report.html import today
from vfn.report.images import LONGEST_SIDE, MASK_THRESHOLD, Pictures
from vfn.report.verdict import Verdict
from vfn.report.wording import SPECS, TITLES, findings, number

# Columns of the tables, the most telling first; metrics.csv has all.
SHOWN_COLUMNS = (
    "mae_signal", "psnr_signal", "ssim_signal", "pearson", "mae", "psnr", "ssim", "tolerance_level",
    "tolerance_threshold",
)  # fmt: skip
# Characters of all pictures together, which keeps the page below 15 MB whatever the images hold.
PICTURES_LIMIT = 10e6
OPEN_FIELDS = 3  # worst, median, best; the others open when they are chosen
CSS = {"use": "use", "care": "care", "do not use": "not"}
HOW_TO_READ = (
    ("PSNR, MAE, SSIM", "How close the predicted pixels are to the real ones. PSNR in decibels (6 dB more means half the error), MAE the mean absolute error as a fraction of the intensity range (0 is perfect), SSIM the likeness of local structure (1 is perfect)."),
    ("full and signal range", Markup("The <em>signal</em> columns refer to the range that the real stain uses (0.1 to 99.9 percentile of its pixels): the range that you look at. The other MAE, PSNR, SSIM and tolerance level refer to all values that the file can hold, as published figures do; a dim stain scores high there whatever is predicted.")),
    ("Pearson r", "Whether bright and dark places agree, whatever the brightness (1 is perfect, 0 unrelated)."),
    ("tolerance level", "How much error has to be forgiven: the mean error of the pixels within a threshold plus the share of pixels beyond it, at the threshold where the sum is lowest (0 is perfect)."),
)  # fmt: skip
BASELINES = (
    "baselines",
    "What costs nothing: one grey value everywhere (the mean of the training target), and the weighted sum of the input images that fits the training pixels best. A prediction that does not beat the second has learned little but how the stains bleed into each other.",
)
PICTURE_TERMS = (
    ("error picture", Markup("Prediction minus truth: black where they agree, <b>red where the prediction is too bright</b> (signal invented), <b>blue where it is too dark</b> (signal lost).")),
    ("green pixels", Markup("The prediction with every pixel in <b>green</b> that is off by more than {:g} % of the signal range, too bright or too dark.").format(100 * MASK_THRESHOLD)),
)  # fmt: skip
METHODS = (
    ("figures", "For each field, then averaged over fields. Predictions are compared as they are: neither brightness nor contrast is fitted to the truth first."),
    ("SSIM", "Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, mean over the interior, of the pixel values as they are."),
    ("tolerance level", "Nguyen et al. 2020, eq. 7, both weights 1, thresholds 0 to 99 % of the full range in steps of 1 %."),
    ("pictures", f"Reduced to {LONGEST_SIDE} pixels and compressed for this page; every figure comes from the images as they are."),
)  # fmt: skip
LIMITS_NOTE = Markup(
    "The worst criterion decides, and what was not judged counts neither way. The limits are our choice, not a law: they stand in the config and change with the command, as in <code>python evaluate.py ... verdict.pearson.use=0.95</code>."
)


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


def render(
    results: Sequence[ChannelResult],
    summary: Mapping[str, Any],
    shown: Mapping[str, Sequence[ShownField]],
    verdicts: Mapping[str, Verdict],
    provenance: Mapping[str, Any],
    parts: Mapping[str, Sequence[Part]] | None = None,
) -> str:
    """Return the page as text.

    Args:
        results: the channels in their order.
        summary: the content of `summary.json`.
        shown: channel -> fields with pictures, worst, median, best first.
        verdicts: channel -> whether it can be used.
        provenance: how the images came about (command, checkpoint, data set), shown as it is.
        parts: channel -> further measurements, shown after the curves.
    """
    title = ", ".join(result.name for result in results)
    fields = len({index for result in results for index in result.indices})
    anchors = {result.name: f"stain-{i}" for i, result in enumerate(results)}
    limit = PICTURES_LIMIT / max(_count_pictures(shown), 1)
    these = "This stain was" if len(results) == 1 else "These stains were"
    page = Page(
        f"Virtual stain report: {title}",
        "Virtual stain report",
        [
            Soft(f"{title} · {fields} field{'' if fields == 1 else 's'} · {today()}"),
            f"{these} predicted by a computer. Here the prediction is compared, as it is, with the real stain of the same cells: how far can it be believed?",
            *(_verdict(anchors[r.name], r.name, verdicts[r.name]) for r in results),
            _glance(results, summary, anchors),
            *(
                _stain(anchors[r.name], r, summary[r.name], shown[r.name], (parts or {}).get(r.name, ()), limit)
                for r in results
            ),
            how_computed([*map(_origin, results), *METHODS], provenance, "metrics.csv, objects.csv, baselines.csv and summary.json"),
        ],
    )  # fmt: skip
    return page.html()


def _count_pictures(shown: Mapping[str, Sequence[ShownField]]) -> int:
    return sum(
        len(pictures.strip.panels)
        for fields in shown.values()
        for field in fields
        for pictures in (field.whole, field.detail)
        if pictures is not None
    )


def _verdict(anchor: str, name: str, verdict: Verdict) -> Section:
    open_ = "; ".join(j.title for j in verdict.not_judged)
    criteria = Table(
        ["level", "criterion", "figure", "for use", "for care", "in words"],
        [
            [level_mark(j.level), j.title, j.figure, j.wanted_use, j.wanted_care, j.sentence]
            for j in verdict.judgements
        ],
        words=(0, 1, 3, 4, 5), label=f"criteria of {name}", css="criteria",
    )  # fmt: skip
    return Section(
        link(anchor, name) + " " + level_mark(verdict.level),
        [
            Bullets(verdict.reasons),
            *([Soft(f"Not judged, so not known to be good: {open_}.")] if open_ else []),
            Fold("All criteria", [criteria, Soft(LIMITS_NOTE)], printed=True),
        ],
        f"{anchor}-verdict",
        f"verdict {CSS[verdict.level]}",
    )


def _glance(
    results: Sequence[ChannelResult], summary: Mapping[str, Any], anchors: Mapping[str, str]
) -> Section:
    """The table of all channels at the top, and how to read the figures."""
    compared = any(result.baselines for result in results)
    header = ["stain", "Pearson r", "PSNR, signal range (dB)", "PSNR against the best baseline"]
    rows = [
        [
            link(anchors[r.name], r.name),
            number("pearson", summary[r.name]["pearson"]["mean"]),
            number("psnr_signal", summary[r.name]["psnr_signal"]["mean"]),
            _against_best(summary[r.name]) or "-",
        ][: 4 if compared else 3]
        for r in results
    ]
    terms = [*HOW_TO_READ, *([BASELINES] if compared else []), *PICTURE_TERMS]
    table = Table(header[: 4 if compared else 3], rows, words=(3,))
    return Section("", [table, Fold("How to read the figures", [Terms(terms)])])


def _against_best(summary: Mapping[str, Any]) -> str:
    """PSNR against the best baseline in words; empty where there is none."""
    psnr = {
        name: part["psnr_signal"]["mean"]
        for name, part in summary["baselines"].items()
        if part["psnr_signal"]["mean"] is not None
    }
    ours = summary["psnr_signal"]["mean"]
    if not psnr or ours is None:
        return ""
    name = max(psnr, key=lambda key: psnr[key])
    gain = ours - psnr[name]
    return f"{abs(gain):.2f} dB {'above' if gain > 0 else 'BELOW'} the {label(name)}"


def _stain(
    anchor: str,
    result: ChannelResult,
    summary: Mapping[str, Any],
    shown: Sequence[ShownField],
    parts: Sequence[Part],
    limit: float,
) -> Section:
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
            f"Both have the same display range, {_signal(result)}; inputs each their own. Error: prediction minus truth, the same scale "
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
                row.note,
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
    note += f" Full range {_full(result)}, signal range {_signal(result)}."
    return [Table(["", *(TITLES[c] for c in SHOWN_COLUMNS)], rows), Soft(note)]


def _curves(result: ChannelResult) -> Part:
    tolerance = chart(
        lambda theme: figures.tolerance_curve(result, theme),
        f"tolerance curve of {result.name}",
        "Sum of the intensity error of the pixels within the threshold (IE) and the share "
        "of pixels beyond it (SE). The dot is the lowest point of the mean curve; thin "
        "lines are single fields. Both axes are logarithmic above their first step.",
    )
    scatter = chart(
        lambda theme: figures.scatter(result, theme),
        f"predicted against true intensity of {result.name}",
        "Every pixel of every field. On the line the prediction equals the truth; below it "
        "the prediction is too dark, above too bright.",
    )
    return Part("Curves", [Charts([tolerance, scatter])])


def _full(result: ChannelResult) -> str:
    return f"{result.ranges.full.low:g} to {result.ranges.full.high:g}"


def _signal(result: ChannelResult) -> str:
    return f"{result.ranges.signal.low:.6g} to {result.ranges.signal.high:.6g}"


def _origin(result: ChannelResult) -> tuple[str, str]:
    """The fields and ranges of a channel, for the last section."""
    pixels = f"{result.ranges.pixels:,}".replace(",", " ")
    return result.name, (
        f"{len(result.rows)} fields, {pixels} pixels. Full range {_full(result)} ({result.ranges.full_origin}); signal range "
        f"{_signal(result)} (0.1 to 99.9 percentile of all true pixels, not clipped)."
    )

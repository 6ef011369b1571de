"""The report of an evaluation: `report.html`."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vfn.evaluation.criteria import LEVELS
from vfn.evaluation.results import ChannelResult, label
from vfn.evaluation.verdict import Verdict
from vfn.models.words import counted
from vfn.report import blocks
from vfn.report.html import today
from vfn.report.images import LONGEST_SIDE, MASK_THRESHOLD
from vfn.report.stain_section import ShownField, stain_section
from vfn.report.wording import number

# Characters of all pictures together, which keeps the page below 15 MB whatever the images hold.
PICTURES_LIMIT = 10e6
CSS = {"use": "use", "care": "care", "do not use": "not"}
HOW_TO_READ = (
    ("PSNR, MAE, SSIM", "How close the predicted pixels are to the real ones. PSNR in decibels (6 dB more means half the error), MAE the mean absolute error as a fraction of the intensity range (0 is perfect), SSIM the likeness of local structure (1 is perfect)."),
    ("full and signal range", Markup("The <em>signal</em> columns refer to the range that the real stain uses (0.1 to 99.9 percentile of its pixels): the range that you look at. The other MAE, PSNR, SSIM and tolerance level refer to all values that the file can hold, as published figures do; a dim stain scores high there whatever is predicted.")),
    ("Pearson r", "Whether bright and dark places agree, whatever the brightness (1 is perfect, 0 unrelated)."),
    ("tolerance level", "How much error has to be forgiven: the mean error of the pixels within a threshold plus the share of pixels beyond it, at the threshold where the sum is lowest (0 is perfect)."),
)  # fmt: skip
BASELINES = (
    "baselines",
    "What costs nothing: one grey value everywhere (the mean or the median of the training target), the weighted sum of the input images that fits the training pixels best (linear map), and the same over 7 x 7 pixels (linear filter). A prediction that does not beat the last two has learned little but how the stains bleed into each other.",
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
    "The worst criterion decides; one that was not judged counts neither way. ± is the standard deviation between fields, which must lie within the limits, too. A field fails beyond the limit for care. The limits are our choice, not a law: they stand in the config and change with the command, as in <code>python evaluate.py ... verdict.pearson.use=0.95</code>."
)


def render(
    results: Sequence[ChannelResult],
    summary: Mapping[str, Any],
    shown: Mapping[str, Sequence[ShownField]],
    verdicts: Mapping[str, Verdict],
    provenance: Mapping[str, Any],
    parts: Mapping[str, Sequence[blocks.Part]] | None = None,
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
    fields = counted(len({index for result in results for index in result.indices}), "field")
    anchors = {result.name: f"stain-{i}" for i, result in enumerate(results)}
    limit = PICTURES_LIMIT / max(_count_pictures(shown), 1)
    these = "This stain was" if len(results) == 1 else "These stains were"
    page = blocks.Page(
        f"Virtual stain report: {title}",
        "Virtual stain report",
        [
            blocks.Soft(f"{title} · {fields} · {today()}"),
            f"{these} predicted by a computer. Here the prediction is compared, as it is, with the real stain of the same cells: how far can it be believed?",
            *(_verdict(anchors[r.name], r.name, verdicts[r.name]) for r in results),
            _glance(results, summary, anchors),
            *(
                stain_section(anchors[r.name], r, summary[r.name], shown[r.name], (parts or {}).get(r.name, ()), limit)
                for r in results
            ),
            blocks.how_computed([*map(_origin, results), *METHODS], provenance, "metrics.csv, objects.csv, baselines.csv and summary.json"),
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


def _verdict(anchor: str, name: str, verdict: Verdict) -> blocks.Section:
    open_ = "; ".join(j.title for j in verdict.not_judged)
    worst_first = sorted(verdict.purposes, key=lambda p: -LEVELS.index(p.level) if p.level else 1)
    purposes = blocks.Table(
        ["level", "to", "because"],
        [[blocks.level_mark(p.level), p.title, p.reason] for p in worst_first],
        words=(0, 1, 2), label=f"purposes of {name}", css="purposes",
    )  # fmt: skip
    criteria = blocks.Table(
        ["level", "criterion", "figure", "for use", "for care", "in words"],
        [
            [blocks.level_mark(j.level), j.title, j.figure, j.wanted_use, j.wanted_care, j.sentence]
            for j in verdict.judgements
        ],
        words=(0, 1, 3, 4, 5), label=f"criteria of {name}", css="criteria",
    )  # fmt: skip
    return blocks.Section(
        blocks.link(anchor, name) + " " + blocks.level_mark(verdict.level),
        [
            blocks.Bullets([verdict.remark])
            if verdict.remark
            else blocks.Soft(
                "May it be used? It depends on what for; the worst decides for the stain as a whole."
            ),
            purposes,
            *([blocks.Soft(f"Not judged, so not known to be good: {open_}.")] if open_ else []),
            blocks.Fold("All criteria", [criteria, blocks.Soft(LIMITS_NOTE)], printed=True),
        ],
        f"{anchor}-verdict",
        f"verdict {CSS[verdict.level]}",
    )


def _glance(
    results: Sequence[ChannelResult], summary: Mapping[str, Any], anchors: Mapping[str, str]
) -> blocks.Section:
    """The table of all channels at the top, and how to read the figures."""
    compared = any(result.baselines for result in results)
    header = ["stain", "Pearson r", "PSNR, signal range (dB)", "PSNR against the best baseline"]
    rows = [
        [
            blocks.link(anchors[r.name], r.name),
            number("pearson", summary[r.name]["pearson"]["mean"]),
            number("psnr_signal", summary[r.name]["psnr_signal"]["mean"]),
            _against_best(summary[r.name]) or "-",
        ][: 4 if compared else 3]
        for r in results
    ]
    terms = [*HOW_TO_READ, *([BASELINES] if compared else []), *PICTURE_TERMS]
    table = blocks.Table(header[: 4 if compared else 3], rows, words=(3,))
    return blocks.Section(
        "", [table, blocks.Fold("How to read the figures", [blocks.Terms(terms)])]
    )


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


def _origin(result: ChannelResult) -> tuple[str, str]:
    """The fields and ranges of a channel, for the last section."""
    pixels = f"{result.ranges.pixels:,}".replace(",", " ")
    return result.name, (
        f"{len(result.rows)} fields, {pixels} pixels. Full range {result.ranges.full} ({result.ranges.full_origin}); signal range "
        f"{result.ranges.signal} (0.1 to 99.9 percentile of all true pixels, not clipped)."
    )

"""Measurements beyond pixels (nuclei, amounts, detail, intervals, features), as parts of the page."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vfn.evaluation.results import ChannelResult
from vfn.metrics.agreement import BLOCK
from vfn.metrics.feature_fidelity import SURVIVES, FeatureResult, survivors
from vfn.metrics.matching import THRESHOLDS
from vfn.report import feature_figures, trust_figures
from vfn.report.blocks import Charts, Part, Place, Places, Soft, Table, chart
from vfn.report.wording import number

SHOWN_SURVIVORS = 40
ALIKE = (0.8, 1.25)  # power ratios that are called equal
OTHER_FAULTS = {
    "split": "one real nucleus, several predicted",
    "merged": "several real nuclei, one predicted",
    "misoutlined": "there, but overlaps by less than half (IoU)",
}


def parts(
    result: ChannelResult,
    summary: Mapping[str, Any],
    features: FeatureResult | None = None,
    threshold: float = SURVIVES,
) -> list[Part]:
    """The parts of one channel; those that were not measured left out.

    Args:
        result: the channel.
        summary: its part of `summary.json`.
        features: of all channels.
        threshold: r from which a feature survives.
    """
    return [
        *_nuclei(result, summary),
        *_amounts(result),
        *_spectra(result, summary),
        *_quality(summary),
        *_intervals(result, summary),
        *(_features(result.name, features, threshold) if features else []),
    ]


def _text(summary: Mapping[str, Any], column: str) -> str:
    return number(column, summary[column]["mean"])


def _nuclei(result: ChannelResult, summary: Mapping[str, Any]) -> list[Part]:
    if result.found is None:
        return []
    counts: Counter[str] = Counter(fault.kind for _, fault in result.found)
    real, predicted = (
        np.nansum([row.values[column] for row in result.rows])
        for column in ("nuclei_truth", "nuclei_predicted")
    )
    sentence = (
        f"{real:.0f} nuclei are in the real fields, {predicted:.0f} in the predicted ones, found by the same "
        f"procedure in both. {counts['missed']} real ones are missing, {counts['hallucinated']} predicted ones "
        "do not exist. All that went wrong stand in objects.csv with their places."
    )
    percent = [round(100 * threshold) for threshold in THRESHOLDS]
    rows = [[f.upper(), *(_text(summary, f"{f}_{p}") for p in percent)] for f in ("f1", "ap")]
    header = ["IoU at least", *(f"0.{p:02d}" for p in percent)]
    table = Table(header, rows, label="Nuclei", tall=True)
    places = [
        Place(
            name, fault.kind, fault.row, fault.column,
            f"{fault.area} px, grey value {fault.truth:.0f} in truth, {fault.prediction:.0f} predicted",
        )
        for name, fault in result.found
        if fault.kind in ("missed", "hallucinated")
    ]  # fmt: skip
    others = [f"{counts[k]} {k} ({words})" for k, words in OTHER_FAULTS.items() if counts[k]]
    note = (
        "A nucleus is missed or hallucinated if less than a fifth of it lies on nuclei of the other image. "
        + (f"Besides: {', '.join(others)}. " if others else "")
        + "F1 = 2 TP / (2 TP + FP + FN), AP = TP / (TP + FP + FN), for each field, then averaged."
    )
    listed = [Places("Nuclei", places)] if places else []
    return [Part("Nuclei", [sentence, table, *listed, Soft(note)])]


def _amounts(result: ChannelResult) -> list[Part]:
    if not result.over:
        return []
    truth, prediction = result.amounts()
    agreement = result.agreement()
    if agreement.reason:
        return [Part("Amount of stain", [f"Not judged: {agreement.reason}."])]
    bias, low, high = (
        _signed(agreement.percent(v)) for v in (agreement.bias, agreement.lower, agreement.upper)
    )
    blocks = result.over == "blocks"
    objects = f"blocks of {BLOCK}x{BLOCK} px" if blocks else result.over
    sentence = (
        f"Summed over each of {agreement.n} {objects} of the real fields, the predicted amount of stain differs "
        f"from the real one by {bias} % on average; for 95 % of the {result.over} "
        f"by {low} % to {high} % (of the mean amount). Slope {agreement.slope:.2f}, r = {agreement.r:.3f}."
    )
    drawn = chart(
        lambda theme: trust_figures.amounts(
            result.name, result.over, truth, prediction, agreement, theme
        ),
        f"predicted against real amount of {result.name} in {result.over}, and their difference",
    )
    note = (
        "No channel of these fields shows nuclei: blocks with signal stand for cells. Grey values above the real ground"
        if blocks
        else "Grey values above the real ground, over the real objects in both images"
    ) + " (Bland and Altman 1986)."
    return [Part("Amount of stain", [sentence, Charts([drawn]), Soft(note)])]


def _signed(percent: float) -> str:
    text = f"{percent:+.1f}"
    return text if text.strip("+-0.") else "0.0"


def _spectra(result: ChannelResult, summary: Mapping[str, Any]) -> list[Part]:
    fields = [row.spectra for row in result.rows if row.spectra is not None]
    if not fields:
        return []
    sentences = []
    resolution, ratio = (summary[c]["mean"] for c in ("frc_resolution", "power_ratio"))
    if resolution is not None:
        sentences.append(
            f"Prediction and truth share details down to {resolution:.1f} px (2 px would be all)."
        )
    if ratio is not None:
        what = "it smooths" if ratio < ALIKE[0] else "it adds texture or noise"
        if ALIKE[0] <= ratio <= ALIKE[1]:
            what = "about as much"
        sentences.append(
            f"In the finer half of what stands above the camera's noise, the prediction has {ratio:.2g} times the "
            f"power of the truth: {what}."
        )
    drawn = chart(
        lambda theme: trust_figures.spectra(result.name, fields, theme),
        f"Fourier ring correlation and power ratio of {result.name}",
    )
    note = "Left: agreement by size of detail, 1 is perfect. Right: amount of detail whether right or not."
    return [Part("Detail", [*sentences, Charts([drawn]), Soft(note)])]


def _quality(summary: Mapping[str, Any]) -> list[Part]:
    if "piqe" not in summary:
        return []
    rows = [
        [who, *(_text(summary, f"{score}{suffix}") for score in ("piqe", "brisque"))]
        for who, suffix in (("prediction", ""), ("truth", "_truth"))
    ]
    note = (
        "Scores of a picture by itself, made for photographs (lower is better). A difference from the truth is a "
        "sign of another texture, smoother or grainier. They tell neither focus nor whether a cell is real."
    )
    table = Table(["", "PIQE", "BRISQUE"], rows, label="Look of the picture", tall=True)
    return [Part("Look of the picture", [table, Soft(note)])]


NO_PROMISE = ", without a guarantee, since too few validation fields or wells calibrated them"


def _intervals(result: ChannelResult, summary: Mapping[str, Any]) -> list[Part]:
    if result.risk is None or result.coverage is None or "coverage" not in summary:
        return []
    curve = result.risk.curve()
    reached = [row.values["coverage"] for row in result.rows if "coverage" in row.values]
    made, but = ("are made", NO_PROMISE) if result.promised is False else ("promise", "")
    skill = f"ranking by interval goes {100 * curve.skill:.0f} % of the way from chance to a perfect ranking."
    if math.isnan(curve.skill):
        skill = "all errors are alike, so there is nothing to rank."
    sentences = [
        f"The intervals {made} to hold {100 * result.coverage:g} % of the real pixels{but}; they hold "
        f"{100 * summary['coverage']['mean']:.1f} % on average, {100 * min(reached):.1f} % in the worst field. They "
        f"are {100 * summary['interval_width']['mean']:.2g} % of the signal range wide on average.",
        f"Where the interval is wide the prediction should be wrong more often: {skill}",
    ]
    drawn = chart(
        lambda theme: trust_figures.risk_coverage(result.name, curve, theme),
        f"mean error of the surest pixels of {result.name}, by how many are kept",
    )
    return [Part("Uncertainty", [*sentences, Charts([drawn])])]


def _features(channel: str, result: FeatureResult, threshold: float) -> list[Part]:
    rows = result.of_channel(channel)
    if not rows:
        return []
    surviving = survivors(rows, threshold)
    known = sum(math.isfinite(row.r) for row in rows)
    sentence = (
        f"{len(surviving)} of {known} CellProfiler measurements that the predicted {channel} enters keep r above "
        f"{threshold:g} against the real stain. The surest {min(len(surviving), SHOWN_SURVIVORS)} are listed, all "
        "stand in features.csv."
    )
    table = Table(
        ["measurement", "of", "group", "channel", "r", "95 % from", "to", "n"],
        [
            [
                row.feature.name, row.feature.compartment, row.feature.group,
                " + ".join(row.feature.channels), f"{row.r:.3f}", f"{row.low:.3f}",
                f"{row.high:.3f}", str(row.n),
            ]
            for row in surviving[:SHOWN_SURVIVORS]
        ],
        words=(0, 1, 2, 3), label="Which read-outs survive", tall=True,
    )  # fmt: skip
    charts = [
        chart(
            lambda theme: feature_figures.histograms(rows, channel, threshold, theme),
            f"correlation of measurements of {channel}, by group and compartment",
        ),
        chart(
            lambda theme: feature_figures.matrix(rows, channel, theme=theme),
            f"correlation of every measurement of {channel}",
        ),
    ]
    note = Soft(" ".join(result.notes()))
    return [Part("Which read-outs survive", [sentence, Charts(charts), table, note])]


def found_rows(results: Sequence[ChannelResult]) -> list[list[str]]:
    """Lines of `objects.csv`: nuclei that went wrong."""
    return [
        [
            name, result.name, fault.kind, f"{fault.row:.1f}", f"{fault.column:.1f}", str(fault.area),
            f"{fault.truth:.6g}", f"{fault.prediction:.6g}", str(fault.touches_border).lower(),
        ]
        for result in results
        for name, fault in result.found or ()
    ]  # fmt: skip


OBJECTS_HEADER = (
    "field", "channel", "kind", "row", "column", "area", "truth", "prediction", "touches_border",
)  # fmt: skip

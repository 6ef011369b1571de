"""The results of an evaluation as files (tables, figures, `report.html`) and on the terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vfn.evaluation.criteria import Stain
from vfn.evaluation.limits import Limits
from vfn.evaluation.pairs import PairSource
from vfn.evaluation.results import ChannelResult, shown_rows
from vfn.evaluation.verdict import Verdict, judge
from vfn.metrics.feature_fidelity import FeatureResult
from vfn.report import depth_figures, depths, figures, refocus_gain, tables
from vfn.report.blocks import Part
from vfn.report.console import channel_table, make_console
from vfn.report.evaluation_page import render
from vfn.report.images import Strip, make_pictures, worst_region
from vfn.report.parts import OBJECTS_HEADER, found_rows, parts
from vfn.report.refocus_gain import RefocusGain
from vfn.report.stain_section import ShownField
from vfn.system.csv_files import write_csv
from vfn.system.files import make_folder, write_text
from vfn.system.progress import progress

# Fields with pictures: at most so many of a channel, and of all channels together, which keeps the
# page below 10 MB.
SHOWN_FIELDS = 12
SHOWN_IN_ALL = 24
DETAILED_FIELDS = 3  # worst, median and best also at full resolution


@dataclass(frozen=True)
class ChannelReport:
    """All that is reported of one channel.

    Attributes:
        result: its metrics by field.
        summary: its part of `summary.json`.
        verdict: whether it can be used.
        parts: further measurements for the page.
        gain: what refocusing the inputs changed, where some were refocused.
        by_depth: metrics by distance from focus, where inputs lie out of focus.
    """

    result: ChannelResult
    summary: dict[str, Any]
    verdict: Verdict
    parts: list[Part]
    gain: RefocusGain | None
    by_depth: depths.Depths | None

    @classmethod
    def of(
        cls,
        source: PairSource,
        result: ChannelResult,
        features: FeatureResult | None,
        survives: float,
        limits: Mapping[str, Limits],
    ) -> "ChannelReport":
        """Summarise and judge the results of a channel."""
        summary = result.summary()
        if features is not None:
            own = replace(features, rows=features.of_channel(result.name))
            summary["features"] = own.summary(survives)
        verdict = judge(Stain.of(result, summary), limits, result.remark())
        summary["verdict"] = verdict.as_dict()
        shown = parts(result, summary, features, survives)
        gain = RefocusGain.of(result)
        if gain is not None:
            summary["refocus"] = gain.summary()
            shown.insert(0, gain.part())
        by_depth = depths.Depths.of(source, result)
        if by_depth is not None:
            summary["depths"] = by_depth.summary()
            shown.insert(0, depth_figures.part(by_depth))
        return cls(result, summary, verdict, shown, gain, by_depth)

    def sentences(self) -> list[str]:
        """The verdict and what is known of focus, for the terminal."""
        name = self.result.name
        said = [f"verdict on {name}: {self.verdict.level}. {' '.join(self.verdict.reasons)}"]
        judged = [p for p in self.verdict.purposes if p.level is not None]
        said += [f"  {p.level:>10}: {p.title}" for p in judged]
        if self.gain is not None:
            said.append(self.gain.sentence())
        return said + (self.by_depth.sentences() if self.by_depth is not None else [])

    def figures(self, shown: Sequence[ShownField]) -> dict[str, Figure]:
        """The figures of `figures/`, by the end of their names."""
        strips: list[tuple[str, Strip]] = [
            (f"{field.why}: {field.row.field}", field.whole.strip)
            for field in shown[:DETAILED_FIELDS]
        ]
        drawn = {
            "overview": figures.overview(self.result, strips),
            "tolerance": figures.tolerance_curve(self.result),
            "scatter": figures.scatter(self.result),
        }
        if self.by_depth is not None:
            drawn["depths"] = depth_figures.series_figure(self.by_depth)
            drawn["quality"] = depth_figures.quality_figure(self.by_depth)
        return drawn


def write_evaluation(
    output: Path,
    source: PairSource,
    reports: Sequence[ChannelReport],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write tables, figures and the page, each whole or not at all.

    Args:
        output: an existing folder.
        source: fields that are shown are read again.
        reports: of the channels, in their order.
        provenance: how the predictions came about; shown on the page.

    Returns:
        The content of `summary.json`.
    """
    results = [report.result for report in reports]
    summary = {report.result.name: report.summary for report in reports}
    shown = _pictures(source, results)
    tables.write_metrics(output / "metrics.csv", results)
    tables.write_baselines(output / "baselines.csv", results)
    write_csv(output / "objects.csv", OBJECTS_HEADER, found_rows(results))
    tables.write_summary(output / "summary.json", summary)
    gains = [line for report in reports if report.gain for line in report.gain.lines()]
    if gains:
        write_csv(output / "refocus_gain.csv", refocus_gain.HEADER, gains)
    by_depth = [line for report in reports if report.by_depth for line in report.by_depth.lines()]
    if by_depth:
        write_csv(output / "depths.csv", depths.HEADER, by_depth)
    folder = make_folder(output / "figures")
    for slug, report in zip(file_names(summary), reports, strict=True):
        for kind, figure in report.figures(shown[report.result.name]).items():
            figures.write_png(folder / f"{slug}_{kind}.png", figure)
    verdicts = {report.result.name: report.verdict for report in reports}
    shown_parts = {report.result.name: report.parts for report in reports}
    page = render(results, summary, shown, verdicts, provenance, shown_parts)
    write_text(output / "report.html", page)
    return summary


def print_evaluation(output: Path, reports: Sequence[ChannelReport]) -> None:
    """Print a table and the verdict of each channel, and where the page is."""
    console = make_console()
    for report in reports:
        console.print(channel_table(report.result.name, report.summary))
        for sentence in report.sentences():
            console.print(sentence, markup=False)
    console.print(f"report: {output / 'report.html'}", soft_wrap=True, markup=False)


def _pictures(source: PairSource, results: Sequence[ChannelResult]) -> dict[str, list[ShownField]]:
    """Pictures of the chosen fields; each field is read once, however many channels show it."""
    limit = max(3, min(SHOWN_FIELDS, SHOWN_IN_ALL // len(results)))
    wanted: dict[int, list[tuple[ChannelResult, int, int, str]]] = {}
    for result in results:
        for place, (row, why) in enumerate(shown_rows(result.ranking(), limit)):
            wanted.setdefault(result.indices[row], []).append((result, place, row, why))
    placed: dict[str, dict[int, ShownField]] = {result.name: {} for result in results}
    for index in progress(sorted(wanted), len(wanted), "pictures"):
        pair = source.pair(index)
        for result, place, row, why in wanted[index]:
            region = worst_region(pair, result.name) if place < DETAILED_FIELDS else None
            placed[result.name][place] = ShownField(
                result.rows[row],
                why,
                make_pictures(pair, result),
                make_pictures(pair, result, region) if region else None,
            )
    return {name: [fields[place] for place in sorted(fields)] for name, fields in placed.items()}


def file_names(channels: Iterable[str]) -> list[str]:
    """Channel names fit for file names; different channels never share one."""
    names: list[str] = []
    for channel in channels:
        base = re.sub(r"[^\w.+-]+", "_", channel).strip("._") or "channel"
        name, copy = base, 2
        while name.casefold() in {known.casefold() for known in names}:
            name, copy = f"{base}_{copy}", copy + 1
        names.append(name)
    return names

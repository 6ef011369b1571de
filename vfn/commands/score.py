"""Scoring of predicted stains: from pairs of images to tables, figures and a report.

The source is read a field at a time: once for the intensity ranges (twice with float images), once
for the figures, and again for the few fields that the report shows.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vfn.data.cache import in_parallel
from vfn.errors import UserError
from vfn.evaluation.features import compare_features
from vfn.evaluation.pairs import FieldPair, FolderPairs, PairSource
from vfn.evaluation.ranges import ChannelRanges, channel_ranges
from vfn.evaluation.stain import Measured, Nuclei, measure
from vfn.metrics.feature_fidelity import SURVIVES
from vfn.metrics.features import ObjectChannels, object_channels, require_cp_measure
from vfn.report import depths, figures, refocus_gain, tables
from vfn.report.blocks import Part
from vfn.report.console import channel_table, make_console
from vfn.report.evaluation_page import ShownField, render
from vfn.report.feature_figures import write_features
from vfn.report.images import Strip, detail_pictures, field_pictures, worst_region
from vfn.report.parts import OBJECTS_HEADER, found_rows, parts
from vfn.report.results import ChannelResult, shown_rows
from vfn.report.verdict import Limits, default_limits, judge
from vfn.system.csv_files import write_csv
from vfn.system.files import make_folder, replacing, write_text
from vfn.system.progress import progress

__all__ = ["FieldPair", "FolderPairs", "PairSource", "score"]

# Fields with pictures: at most so many of a channel, and of all channels together, which keeps the
# page below 10 MB.
SHOWN_FIELDS = 12
SHOWN_IN_ALL = 24
DETAILED_FIELDS = 3  # worst, median and best also at full resolution


@dataclass(frozen=True)
class Settings:
    """What is asked of predicted stains beyond their pixels.

    Attributes:
        limits: of the verdict; None for those that `conf/evaluate.yaml` ships.
        nuclei: in which channels nuclei are looked for.
        features: measure CellProfiler's features over objects that are found in these channels, of
            nuclei and of cell bodies, None for the usual names; None altogether measures none.
        survives: r from which a feature is said to survive.
    """

    limits: Mapping[str, Limits] | None = None
    nuclei: Nuclei = field(default_factory=Nuclei)
    features: tuple[str | None, str | None] | None = None
    survives: float = SURVIVES


def score(
    source: PairSource,
    output: Path,
    provenance: Mapping[str, Any],
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Score every field of the source and write what was found.

    Writes to `output`: `metrics.csv`, `baselines.csv`, `objects.csv`, `summary.json`, `report.html` and
    `figures/<channel>_oversample.png`, `_tolerance.png`, `_scatter.png`, each whole or not at all; with
    features `features.csv`.
    Prints a table for each channel and the path of the report.

    Args:
        source: the pairs; none of them is kept in memory.
        output: folder to write to, made if it is missing.
        provenance: how the predictions came about (command, checkpoint, data set); shown in the
            report.
        settings: what is asked of the stains; None for what `conf/evaluate.yaml` ships.

    Returns:
        What `summary.json` holds: channel -> column -> mean, std, n; `range_full`, `range_signal`,
        `baselines`, `verdict`.

    Raises:
        UserError: no field, images that cannot be compared, an output that cannot be written.
    """
    if not len(source):
        raise UserError("no field to score; check the folders and the split that was asked for")
    make_folder(output)
    settings = settings or Settings()
    if settings.features is not None:
        require_cp_measure()  # before the images are read
    ranges = channel_ranges(source)
    found_in = _object_channels(source, ranges, settings)
    results = list(_score_fields(source, ranges, settings.nuclei).values())
    summary = {result.name: result.summary() for result in results}
    features = compare_features(source, found_in) if found_in else None
    if features is not None:
        for name, part in summary.items():
            own = replace(features, rows=features.of_channel(name))
            part["features"] = own.summary(settings.survives)
        write_features(output / "features.csv", features, settings.survives)
    limits = settings.limits or default_limits()
    verdicts = {
        r.name: judge(summary[r.name], limits, len(r.rows), r.other_scale()) for r in results
    }
    for name, verdict in verdicts.items():
        summary[name]["verdict"] = verdict.as_dict()
    shown = _pictures(source, results)
    gains = {r.name: gain for r in results if (gain := refocus_gain.RefocusGain.of(r)) is not None}
    shown_parts = {r.name: parts(r, summary[r.name], features, settings.survives) for r in results}
    for name, gain in gains.items():
        summary[name]["refocus"] = gain.summary()
        shown_parts[name].insert(0, gain.part())
    drawn = _depths(source, results, summary, shown_parts)
    tables.write_metrics(output / "metrics.csv", results)
    tables.write_baselines(output / "baselines.csv", results)
    write_csv(output / "objects.csv", OBJECTS_HEADER, found_rows(results))
    tables.write_summary(output / "summary.json", summary)
    if gains:
        lines = [line for gain in gains.values() for line in gain.lines()]
        write_csv(output / "refocus_gain.csv", refocus_gain.HEADER, lines)
    if drawn:
        lines = [line for one in drawn.values() for line in one.table.lines()]
        write_csv(output / "depths.csv", depths.HEADER, lines)
    _write_figures(make_folder(output / "figures"), results, shown, drawn)
    write_text(
        output / "report.html", render(results, summary, shown, verdicts, provenance, shown_parts)
    )
    console = make_console()
    for name, part in summary.items():
        console.print(channel_table(name, part))
        reasons = " ".join(verdicts[name].reasons)
        console.print(f"verdict on {name}: {verdicts[name].level}. {reasons}", markup=False)
        if name in gains:
            console.print(gains[name].sentence(), markup=False)
        if name in drawn:
            for sentence in depths.sentences(drawn[name].table):
                console.print(sentence, markup=False)
    console.print(f"report: {output / 'report.html'}", soft_wrap=True, markup=False)
    return summary


def _object_channels(
    source: PairSource, channels: Iterable[str], settings: Settings
) -> ObjectChannels | None:
    """Where the objects are found whose features are measured, if that was asked for."""
    if settings.features is None:
        return None
    inputs = source.pair(0).input_channels
    return object_channels([*inputs, *channels], tuple(channels), *settings.features)


def _score_fields(
    source: PairSource, ranges: Mapping[str, ChannelRanges], nuclei: Nuclei
) -> dict[str, ChannelResult]:
    results = {name: ChannelResult(name, own) for name, own in ranges.items()}

    def pairs() -> Iterator[FieldPair]:  # taken by one thread: a network may make them
        for index in range(len(source)):
            pair = source.pair(index)
            _check_pair(pair)
            yield pair

    def work(pair: FieldPair) -> tuple[FieldPair, tuple[Measured, ...]]:
        return pair, measure(pair, ranges, nuclei)

    scored = in_parallel(work, pairs(), "scoring", len(source), ahead=1)
    for index, (pair, measured) in enumerate(scored):
        for i, one in enumerate(measured):
            results[pair.channels[i]].add(index, pair, i, one)
    return results


def _check_pair(pair: FieldPair) -> None:
    images = {"prediction": pair.prediction, **pair.baselines}
    for what, image in images.items():
        if image.shape != pair.truth.shape:
            raise UserError(
                f"{pair.field}: {what} has shape {image.shape} but the truth {pair.truth.shape} "
                "(channels, height, width); score images of one size"
            )


@dataclass(frozen=True)
class _Refocused:
    """A channel whose inputs lie out of focus."""

    table: depths.Depths
    series: depths.Series


def _depths(
    source: PairSource,
    results: Sequence[ChannelResult],
    summary: dict[str, Any],
    parts: dict[str, list[Part]],
) -> dict[str, _Refocused]:
    """What is known by depth, where inputs lie out of focus; goes into `summary` and `parts` too."""
    found = {}
    for result in results:
        by_depth, series = depths.Depths.of(result), depths.series(source, result)
        if by_depth is None or series is None or "input" not in result.baselines:
            continue
        found[result.name] = _Refocused(by_depth, series)
        summary[result.name]["depths"] = by_depth.summary()
        parts[result.name].insert(0, depths.part(by_depth, series))
    return found


def _pictures(source: PairSource, results: Sequence[ChannelResult]) -> dict[str, list[ShownField]]:
    """Pictures of the chosen fields; each field is read once, whatever number of channels show it."""
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
                field_pictures(pair, result),
                detail_pictures(pair, result, region) if region else None,
            )
    return {name: [fields[place] for place in sorted(fields)] for name, fields in placed.items()}


def _write_figures(
    folder: Path,
    results: Sequence[ChannelResult],
    shown: Mapping[str, Sequence[ShownField]],
    by_depth: Mapping[str, "_Refocused"],
) -> None:
    for slug, result in zip(file_names(r.name for r in results), results, strict=True):
        strips: list[tuple[str, Strip]] = [
            (f"{field.why}: {field.row.field}", field.whole.strip)
            for field in shown[result.name][:DETAILED_FIELDS]
        ]
        drawn = {
            "overview": figures.overview(result, strips),
            "tolerance": figures.tolerance_curve(result),
            "scatter": figures.scatter(result),
        }
        if result.name in by_depth:
            one = by_depth[result.name]
            drawn["depths"] = depths.series_figure(one.series)
            drawn["quality"] = depths.quality_figure(one.table)
        for kind, figure in drawn.items():
            with replacing(folder / f"{slug}_{kind}.png") as temporary:
                temporary.write_bytes(figures.png_bytes(figure))


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

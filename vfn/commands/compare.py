"""`evaluate.py compare=[A,B]`: evaluations of two or more runs, compared on the same fields."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from vfn.errors import UserError
from vfn.evaluation.stain import COLUMNS, HIGHER_IS_BETTER
from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison
from vfn.report import compare_page, tables
from vfn.report.compare_words import run_pairs, verdict
from vfn.report.console import compare_table, make_console
from vfn.report.html import versions
from vfn.system.csv_files import read_csv, write_csv
from vfn.system.files import make_folder, write_text

log = logging.getLogger(__name__)

READS = ("unit",)
UNITS = ("auto", "field", "well")
WORDS = ("field", "channel", "plate", "well", "site", "z", "note")  # columns that are no figures
RANGES = ("range_full", "range_signal")
NAMED = 3  # fields that a message names
CSV_HEADER = (
    "channel", "column", "a", "b", "unit", "n", "left_out", "mean_a", "mean_b", "difference", "low",
    "high", "better", "shown", "slight", "t", "p_t", "p_t_holm", "w", "p_wilcoxon", "p_wilcoxon_holm", "d_z",
    "family", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """An evaluation as its folder holds it.

    Attributes:
        name: for tables and sentences.
        folder: that holds metrics.csv.
        columns: the figures of metrics.csv, in their order.
        figures: channel -> field -> column -> figure, NaN where undefined.
        wells: field -> plate and well, where they are known.
        ranges: channel -> "range_full" and "range_signal" -> (low, high), as summary.json has them;
            empty without one.
    """

    name: str
    folder: Path
    columns: tuple[str, ...]
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    wells: Mapping[str, str]
    ranges: Mapping[str, Mapping[str, tuple[float, float]]]


def compare_evaluations(
    config: DictConfig, output: Path, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the evaluations that the key `compare` lists."""
    given = config.compare if isinstance(config.compare, ListConfig) else [config.compare]
    return compare([Path(str(run)) for run in given], output, str(config.unit), provenance)


def compare(
    paths: Sequence[Path], output: Path, unit: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare every pair of the runs, in the order given, and write what was found.

    Writes to `output`: `compare.csv` (a row a channel, column and pair), `compare.json`,
    `compare.html`, each whole or not at all. Prints a table and a verdict for each channel and pair.

    Args:
        paths: folders of evaluations, or of runs with an `evaluation` inside; two or more.
        output: folder to write to, made if it is missing.
        unit: "field", "well" (the fields of a well are averaged first), or "auto": wells where both
            runs' tables name one for every field.
        provenance: how it was called; shown on the page.

    Returns:
        What `compare.json` holds.

    Raises:
        UserError: fewer than two runs, the same one twice, folders without an evaluation, nothing
            in common, truths that differ, wells that are asked for and unknown.
    """
    if unit not in UNITS:
        raise UserError(f"unit={unit}: unknown; choose one of {', '.join(UNITS)}")
    runs = read_runs(paths)
    make_folder(output)
    comparisons, notes = compare_runs(runs, unit)
    for note in notes:
        log.info("%s", note)
    found = _as_json(runs, comparisons, notes, unit, provenance)
    write_csv(output / "compare.csv", CSV_HEADER, [_cells(c) for c in comparisons])
    tables.write_summary(output / "compare.json", found)
    page = compare_page.render([run.name for run in runs], comparisons, notes, found)
    write_text(output / "compare.html", page)
    console = make_console()
    for pair in run_pairs(comparisons):
        console.print(compare_table(pair))
        log.info("%s\n", verdict(pair).text)
    log.info("report: %s", output / "compare.html")
    return found


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The evaluations in these folders, named by the last part of their paths that tells them apart.

    Raises:
        UserError: see `compare`.
    """
    if len(paths) < 2:
        given = f"compare=[{paths[0]}]" if paths else "compare=[]"
        raise UserError(
            f"{given}: one run has nothing to be compared with; give two: compare=[A,B]"
        )
    folders = [_evaluation(path) for path in paths]
    for one, other in combinations(range(len(folders)), 2):
        if folders[one].samefile(folders[other]):
            raise UserError(
                f"compare: {paths[one]} and {paths[other]} are the same evaluation; give different runs"
            )
    names = run_names([folder.resolve() for folder in folders])
    return [_read_run(name, folder) for name, folder in zip(names, folders, strict=True)]


def _evaluation(path: Path) -> Path:
    """`path` or its `evaluation`, whichever holds the metrics.csv of an evaluation."""
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise UserError(f"compare: {path} is {what}; give the output folders of evaluate.py")
    reason = "no metrics.csv in it"
    for folder in (path, path / "evaluation"):
        table = folder / "metrics.csv"
        if table.is_file():
            if read_csv(table).header[:2] == ["field", "channel"]:
                return folder
            reason = "its metrics.csv is none of evaluate.py (a training's is of epochs)"
    raise UserError(
        f"compare: {path}: {reason}; score the run first: python evaluate.py ckpt=CKPT "
        f"output={path / 'evaluation'}"
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: the last part of the paths that differs, more of them if need be.

    Args:
        folders: different, absolute.
    """
    parts = [folder.parts for folder in folders]
    while len({p[-1] for p in parts}) == 1:  # "evaluation" in all of them
        parts = [p[:-1] for p in parts]
    count = 1
    while len({p[-count:] for p in parts}) < len(parts):
        count += 1
    return ["/".join(p[-count:]) for p in parts]


def _read_run(name: str, folder: Path) -> Run:
    table = folder / "metrics.csv"
    header, records = read_csv(table)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    wells: dict[str, str] = {}
    columns = tuple(
        c for c in header
        if c in COLUMNS or (c not in WORDS and all(_number(r[c]) is not None for r in records))
    )  # fmt: skip
    for record in records:
        field, channel = record["field"], record["channel"]
        values = {column: _number(record[column]) for column in columns}
        bad = next((column for column, value in values.items() if value is None), None)
        if bad is not None:
            raise UserError(
                f"{table}: field {field}, {channel}, {bad}: {record[bad]!r} is no number; "
                "run evaluate.py again"
            )
        fields = figures.setdefault(channel, {})
        if field in fields:
            raise UserError(
                f"{table}: {channel} of field {field} stands there twice; run evaluate.py again"
            )
        fields[field] = {column: value for column, value in values.items() if value is not None}
        if record.get("well"):
            wells[field] = f"{record.get('plate', '')} {record['well']}".strip()
    if not figures:
        raise UserError(f"{table}: no field in it; run evaluate.py again")
    return Run(name, folder, columns, figures, wells, _ranges(folder / "summary.json"))


def _number(text: str) -> float | None:
    """The number that a cell holds, NaN if it is empty, None if it is something else."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return None


def _ranges(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        return {
            channel: {key: (float(part[key][0]), float(part[key][1])) for key in RANGES}
            for channel, part in summary.items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise UserError(f"{path}: is no summary of evaluate.py; run evaluate.py again") from exc


class _Notes:
    """What has to be said, once, with all that it is true of."""

    def __init__(self) -> None:
        self.about: dict[str, list[str]] = {}

    def add(self, subject: str, text: str) -> None:
        subjects = self.about.setdefault(text, [])
        if subject not in subjects:
            subjects.append(subject)

    def sentences(self) -> list[str]:
        return [f"{', '.join(subjects)}: {text}" for text, subjects in self.about.items()]


def compare_runs(runs: Sequence[Run], unit: str) -> tuple[list[Comparison], list[str]]:
    """Compare every pair of runs in every channel and figure that both have.

    Args:
        runs: two or more.
        unit: see `compare`.

    Returns:
        Comparisons, channel by channel, pair by pair, the figures in the order of metrics.csv; and
        what was left out and why, in sentences.

    Raises:
        UserError: a pair without a field and channel in common; see `compare`.
    """
    notes = _Notes()
    comparisons: list[Comparison] = []
    for a, b in combinations(runs, 2):
        channels = [c for c in a.figures if c in b.figures]
        _check_common(a, b, channels)
        for one, other in ((a, b), (b, a)):
            for channel in (c for c in one.figures if c not in other.figures):
                notes.add(channel, f"in {one.name} but not in {other.name}, left out of this pair")
        kind = _kind(a, b, channels, unit)
        same = [c for c in channels if not _differ(a, b, c, "range_full")]
        if not same:
            raise UserError(
                f"compare: {a.name} and {b.name} were scored against different truths (full range of "
                f"{channels[0]}: {_span(a, channels[0])} and {_span(b, channels[0])}); "
                "evaluate both on the same images"
            )
        for channel in channels:
            if channel in same:
                comparisons += _compare_channel(a, b, channel, kind, notes)
            else:
                text = f"the truths of {a.name} and {b.name} differ in their full range, left out"
                notes.add(channel, text)
    order = {channel: i for i, channel in enumerate(c for run in runs for c in run.figures)}
    comparisons.sort(key=lambda c: order[c.channel])  # stable: pairs and columns keep their order
    return comparison.correct(comparisons), notes.sentences()


def _common(a: Run, b: Run, channel: str) -> list[str]:
    return [field for field in a.figures[channel] if field in b.figures[channel]]


def _check_common(a: Run, b: Run, channels: Sequence[str]) -> None:
    if not channels:
        raise UserError(
            f"compare: {a.name} has the channels {', '.join(a.figures)}, {b.name} "
            f"{', '.join(b.figures)}: none in common; compare runs of the same stain"
        )
    if not any(_common(a, b, c) for c in channels):
        first, second = (next(iter(run.figures[channels[0]])) for run in (a, b))
        raise UserError(
            f"compare: no field is in both {a.name} (first {first}) and {b.name} (first {second}); "
            "evaluate both on the same images"
        )


def _kind(a: Run, b: Run, channels: Iterable[str], unit: str) -> str:
    """ "well" where each common field has one, or "field"."""
    fields = dict.fromkeys(f for c in channels for f in _common(a, b, c))
    if unit == "field":
        return "field"
    unknown = [f for f in fields if f not in a.wells and f not in b.wells]
    if unknown and unit == "well":
        raise UserError(
            f"unit=well: the well of {len(unknown)} of {len(fields)} fields (first {unknown[0]}) is "
            "not known in metrics.csv; say unit=field"
        )
    moved = [f for f in fields if f in a.wells and f in b.wells and a.wells[f] != b.wells[f]]
    if moved and not unknown:
        f = moved[0]
        raise UserError(
            f"compare: field {f} is in well {a.wells[f]} in {a.name} but {b.wells[f]} in {b.name}; "
            "evaluate both on the same images, or say unit=field"
        )
    return "field" if unknown else "well"


def _differ(a: Run, b: Run, channel: str, key: str) -> bool:
    """Whether both ranges are known and are not the same."""
    if channel not in a.ranges or channel not in b.ranges:
        return False
    pairs = zip(a.ranges[channel][key], b.ranges[channel][key], strict=True)
    return not all(math.isclose(x, y, rel_tol=1e-6) for x, y in pairs)


def _span(run: Run, channel: str, key: str = "range_full") -> str:
    return "{:g} to {:g}".format(*run.ranges[channel][key])


def _compare_channel(a: Run, b: Run, channel: str, kind: str, notes: _Notes) -> list[Comparison]:
    fields = _common(a, b, channel)
    if not fields:
        notes.add(channel, f"no field is in both {a.name} and {b.name}, left out of this pair")
        return []
    columns = [c for c in a.columns if c in b.columns]
    _note_what_is_missing(a, b, channel, fields, notes)
    if _differ(a, b, channel, "range_signal"):
        notes.add(
            channel,
            f"signal ranges differ ({_span(a, channel, 'range_signal')} in {a.name}, "
            f"{_span(b, channel, 'range_signal')} in {b.name}), so that their figures on the signal "
            "range cannot be compared and are left out; evaluate both on the same set of images",
        )
        columns = [c for c in columns if not c.endswith("_signal")]
    wells = {**b.wells, **a.wells}
    labels = [wells[f] for f in fields] if kind == "well" else fields
    result = []
    for column in columns:
        first, second = ([run.figures[channel][f][column] for f in fields] for run in (a, b))
        units = comparison.make_units(first, second, labels)
        if units.left_out:
            notes.add(
                f"{channel} {column}",
                f"infinite or undefined in {units.left_out} of {len(fields)} fields in {a.name} or "
                f"{b.name}: these fields are left out of both runs",
            )
        found = comparison.compare(units)
        higher = HIGHER_IS_BETTER.get(column)
        result.append(Comparison(channel, column, a.name, b.name, kind, units, found, higher))
    if len(fields) == 1:
        notes.add(channel, f"one field only in {a.name} and {b.name}: no statistics, figures alone")
    return result


def _note_what_is_missing(
    a: Run, b: Run, channel: str, fields: Sequence[str], notes: _Notes
) -> None:
    for one, other in ((a, b), (b, a)):
        alone = [f for f in one.figures[channel] if f not in other.figures[channel]]
        if alone:
            more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
            notes.add(
                channel,
                f"{len(alone)} field(s) in {one.name} but not in {other.name}, left out "
                f"({', '.join(alone[:NAMED])}{more}); {len(fields)} in both",
            )
        extra = [c for c in one.columns if c not in other.columns]
        if extra:
            notes.add(", ".join(extra), f"in {one.name} but not in {other.name}, left out")
        if channel not in one.ranges:
            notes.add(
                one.name,
                "summary.json says nothing of the intensity ranges: whether the runs were scored "
                "against the same truth was not checked",
            )


def _record(c: Comparison) -> dict[str, Any]:
    """A comparison by the names of `CSV_HEADER`."""
    r = c.result
    return {
        "channel": c.channel, "column": c.column, "a": c.a, "b": c.b, "unit": c.kind, "n": r.n,
        "left_out": c.units.left_out, "mean_a": r.mean_a, "mean_b": r.mean_b,
        "difference": r.difference, "low": r.low, "high": r.high, "better": c.better,
        "shown": c.shown, "slight": c.slight, "t": r.t, "p_t": r.p_t, "p_t_holm": c.p_t_holm, "w": r.w,
        "p_wilcoxon": r.p_wilcoxon, "p_wilcoxon_holm": c.p_wilcoxon_holm, "d_z": r.d_z,
        "family": "main" if c.main else "other", "note": r.note,
    }  # fmt: skip


def _cells(c: Comparison) -> list[str]:
    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.9g}" if isinstance(value, float) else str(value)

    return [text(value) for value in _record(c).values()]


def _as_json(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
    unit: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    def strict(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "runs": {run.name: str(run.folder) for run in runs},
        "settings": {
            "unit": unit,
            "interval": comparison.LEVEL,
            "resamples": comparison.RESAMPLES,
            "seed": comparison.SEED,
            "alpha": comparison.ALPHA,
            "slight": comparison.SLIGHT,
            "slight_share": comparison.SLIGHT_SHARE,
            "main_columns": list(comparison.MAIN),
            "tests_in_main_family": comparison.tests(comparisons, main=True),
            "tests_in_other_family": comparison.tests(comparisons, main=False),
        },
        "provenance": dict(provenance),
        "versions": f"{versions()}, scipy {version('scipy')}",
        "notes": list(notes),
        "verdicts": [asdict(verdict(pair)) for pair in run_pairs(comparisons)],
        "comparisons": [{k: strict(v) for k, v in _record(c).items()} for c in comparisons],
    }

"""`evaluate.py compare=[A,B]`: evaluations of two or more runs, compared on the same fields."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from vfn.errors import UserError, check_choice
from vfn.evaluation.run_comparison import compare_runs
from vfn.evaluation.runs import Run, read_runs
from vfn.metrics import comparison
from vfn.metrics.comparison import Comparison
from vfn.report import compare_page, tables
from vfn.report.compare_words import run_pairs, verdict
from vfn.report.console import compare_table, make_console
from vfn.report.html import versions
from vfn.system.csv_files import write_csv
from vfn.system.files import make_folder, write_text

log = logging.getLogger(__name__)
READS = ("unit",)
UNITS = ("auto", "field", "well")


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
    check_choice("unit", unit, UNITS)
    runs = read_runs(paths)
    make_folder(output)
    comparisons, notes = compare_runs(runs, unit)
    if not comparisons:
        raise UserError(f"compare: the runs have no figure in common: {'; '.join(notes)}")
    for note in notes:
        log.info("%s", note)
    found = _as_json(runs, comparisons, notes, unit, provenance)
    records = [_record(c) for c in comparisons]
    write_csv(
        output / "compare.csv", list(records[0]), [[_cell(v) for v in r.values()] for r in records]
    )
    tables.write_summary(output / "compare.json", found)
    write_text(output / "compare.html", compare_page.render(comparisons, found))
    console = make_console()
    for pair in run_pairs(comparisons):
        console.print(compare_table(pair))
        log.info("%s\n", verdict(pair).text)
    log.info("report: %s", output / "compare.html")
    return found


def _record(c: Comparison) -> dict[str, Any]:
    """Return a comparison by the columns of `compare.csv`."""
    r = c.result
    return {
        "channel": c.channel, "column": c.column, "a": c.a, "b": c.b, "unit": c.kind, "n": r.n,
        "left_out": c.units.left_out, "mean_a": r.mean_a, "mean_b": r.mean_b,
        "difference": r.difference, "low": r.low, "high": r.high, "better": c.better,
        "shown": c.shown, "slight": c.slight, "t": r.t, "p_t": r.p_t, "p_t_holm": c.p_t_holm, "w": r.w,
        "p_wilcoxon": r.p_wilcoxon, "p_wilcoxon_holm": c.p_wilcoxon_holm, "d_z": r.d_z,
        "family": "main" if c.main else "other", "note": r.note,
    }  # fmt: skip


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


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

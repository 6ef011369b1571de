"""`metrics.csv`, `baselines.csv` and `summary.json`, each written whole or not at all."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vfn.evaluation.columns import BASELINE_COLUMNS, COLUMNS
from vfn.evaluation.results import ChannelResult
from vfn.evaluation.rows import ImageScores
from vfn.system.csv_files import write_csv
from vfn.system.files import write_text

METRICS_HEADER = ("field", "channel", *COLUMNS, "z", "well", "note")
BASELINES_HEADER = ("field", "channel", "baseline", *BASELINE_COLUMNS, "z", "note")


def write_metrics(path: Path, results: Iterable[ChannelResult]) -> None:
    """One row per field and channel, fields in the order in which they were scored."""
    rows = [(i, row) for r in results for i, row in zip(r.indices, r.rows, strict=True)]
    rows.sort(key=lambda pair: pair[0])  # stable: channels keep their order within a field
    lines = [
        [row.field, row.channel, *_numbers(row, COLUMNS), _depth(row), row.well, row.remarks]
        for _, row in rows
    ]
    write_csv(path, METRICS_HEADER, lines)


def write_baselines(path: Path, results: Iterable[ChannelResult]) -> None:
    """One row per field, channel and baseline; the header alone where there are none."""
    lines = [
        [row.field, row.channel, name, *_numbers(row, BASELINE_COLUMNS), _depth(row), row.note]
        for result in results
        for name, rows in result.baselines.items()
        for row in rows
    ]
    write_csv(path, BASELINES_HEADER, lines)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """The summary as strict JSON (undefined is null, never NaN)."""
    write_text(path, json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _numbers(row: ImageScores, columns: Iterable[str]) -> list[str]:
    """Figures of a row; empty where nothing was measured, "nan" where it is undefined."""
    # 9 significant digits: more than any image carries, and still readable.
    return [f"{row.values[c]:.9g}" if c in row.values else "" for c in columns]


def _depth(row: ImageScores) -> str:
    return "" if row.z is None else f"{row.z:g}"

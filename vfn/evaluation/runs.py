"""Evaluations that are there, read from their folders."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vfn.errors import UserError
from vfn.evaluation.columns import COLUMNS
from vfn.system.csv_files import read_csv

WORDS = ("field", "channel", "plate", "well", "site", "z", "note")  # columns that are no figures
RANGES = ("range_full", "range_signal")


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
        values = figures.setdefault(channel, {}).setdefault(field, {})
        if values:
            raise UserError(
                f"{table}: {channel} of field {field} stands there twice; run evaluate.py again"
            )
        for column in columns:
            if (value := _number(record[column])) is None:
                raise UserError(
                    f"{table}: field {field}, {channel}, {column}: {record[column]!r} is no number; "
                    "run evaluate.py again"
                )
            values[column] = value
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

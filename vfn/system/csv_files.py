"""Reading and writing of this project's CSV files.

The writer prefixes a name that looks like a formula with an apostrophe, as spreadsheets mark text; the
reader removes it. Numbers stay numbers.
"""

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vfn.errors import UserError
from vfn.system.files import write_text

# What Excel, LibreOffice and Google Sheets take as a formula, full-width forms included.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_MARKED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan)")
Row = dict[str, str]
log = logging.getLogger(__name__)


class Table(NamedTuple):
    """The column names of a CSV file, and its rows by column."""

    header: list[str]
    rows: list[Row]


def as_text(cell: object) -> object:
    """Return `cell`, marked as text if a spreadsheet would run it as a formula.

    >>> as_text("=1+1"), as_text("-4"), as_text("dapi")
    ("'=1+1", '-4', 'dapi')
    """
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def as_name(cell: str) -> str:
    """Invert `as_text`.

    >>> as_name("'=1+1"), as_name("'dapi'")
    ('=1+1', "'dapi'")
    """
    return cell[1:] if _MARKED.match(cell) else cell


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically."""
    buffer, written = io.StringIO(newline=""), []
    writer = csv.writer(buffer, lineterminator="\r\n")  # else a lone \r within a name is not quoted
    for line in (header, *lines):
        writer.writerow([as_text(cell) for cell in line])
        written.append(buffer.getvalue().removesuffix("\r\n"))
        buffer.seek(0)
        buffer.truncate()
    write_text(path, "\n".join([*written, ""]))


def read_csv(path: Path, is_whole: Callable[[Row], bool] = bool) -> Table:
    """Read a CSV file that `write_csv` wrote.

    Truncated rows, as an interrupted copy leaves them, are skipped with a warning: the last cell may be
    part of a number.

    Args:
        is_whole: returns False for rows with impossible cells, which are skipped as well.

    Raises:
        UserError: the file cannot be read as a CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            text = file.read()
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except (OSError, csv.Error) as exc:
        raise UserError(f"{path}: cannot be read as a CSV ({exc}); remove or restore it") from exc
    header, *rows = [[as_name(cell) for cell in line] for line in lines] or [[]]
    ended = rows if text.endswith("\n") else rows[:-1]
    filled = [dict(zip(header, row, strict=True)) for row in ended if len(row) == len(header)]
    kept = [row for row in filled if is_whole(row)]
    if len(kept) < len(rows):
        log.warning(
            "%s: %d of %d rows are cut short or damaged and left out",
            path, len(rows) - len(kept), len(rows),
        )  # fmt: skip
    return Table(header, kept)


def read_epochs(path: Path) -> list[Row]:
    """Read the `metrics.csv` of a training, one row per epoch.

    Raises:
        UserError: see `read_csv`.
    """
    return read_csv(path, _is_epoch).rows


def _is_epoch(row: Row) -> bool:
    """Return True if all cells are numbers or empty and the epoch is present."""
    numbers = all(not cell or _NUMBER.fullmatch(cell) for cell in row.values())
    return numbers and row.get("epoch", "").isdecimal()

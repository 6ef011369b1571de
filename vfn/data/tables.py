"""Tables that users give, as spreadsheets save them."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from vfn.errors import UserError
from vfn.system.csv_files import as_name

SEPARATORS = ",;\t"
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, Excel's "Unicode text"
SHOWN = 200  # letters of a header in a message: the file may be anything
Row = dict[str, str]


def read_table(table: Path, key: str, columns: Sequence[str]) -> list[tuple[int, Row]]:
    """Read the rows of a CSV that the setting `key` names.

    Cells are separated by commas, semicolons or tabs. Blanks around cells, the case of the header and
    empty lines do not count. UTF-16 is told by its byte order mark.

    Args:
        columns: that the table needs; it may have more.

    Returns:
        For each row the number of its line, and its cells by column; columns are in lower case.

    Raises:
        UserError: not readable, one of `columns` is missing or there twice, a row with too many cells.
    """
    try:
        data = table.read_bytes()
        # Names of files need not be UTF-8: they stand there byte for byte, as `write_text` writes them.
        marked = data.startswith(BYTE_ORDER_MARKS)
        text = data.decode(*(("utf-16",) if marked else ("utf-8-sig", "surrogateescape")))
        read = [list(_lines(text, separator)) for separator in SEPARATORS]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise UserError(f"{key}={table}: cannot be read as a CSV ({exc})") from exc
    (_, header), *lines = max(read, key=lambda lines: len({*columns} & {*lines[0][1]}))
    _check_header(table, key, header, columns)
    return [(line, _row(table, line, header, cells)) for line, cells in lines]


def _lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of the header, in lower case, and of each line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    stripped = ([cell.strip() for cell in cells] for cells in reader)
    filled = ((reader.line_num, cells) for cells in stripped if any(cells))
    number, header = next(filled, (1, []))
    yield number, [name.casefold() for name in header]
    yield from filled


def _check_header(table: Path, key: str, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in header]
    if missing:
        there = ", ".join(header)[:SHOWN] or "nothing"
        raise UserError(
            f"{key}={table}: lacks the column {', '.join(missing)}; its first line has {there}, it needs "
            f"{', '.join(columns)}, separated by commas, semicolons or tabs"
        )
    twice = next((column for column in header if column and header.count(column) > 1), None)
    if twice:
        raise UserError(f"{key}={table}: has the column {twice} twice; leave one of them out")


def _row(table: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    if any(cells[len(header) :]):
        raise UserError(
            f"{table}: line {line} has {len(cells)} cells, the header {len(header)}; put quotes around "
            "a cell that holds a separator"
        )
    names = [as_name(cell) for cell in cells] + [""] * (len(header) - len(cells))
    return dict(zip(header, names, strict=False))

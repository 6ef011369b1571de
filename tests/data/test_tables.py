from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfn.data.tables import read_table
from vfn.errors import UserError

ROWS = [(2, {"field": "a b", "path": "x/1.tif"}), (3, {"field": "c", "path": "2.tif"})]


def saved(tmp_path: Path, data: str | bytes) -> Path:
    table = tmp_path / "t.csv"
    table.write_bytes(data if isinstance(data, bytes) else data.encode())
    return table


@pytest.mark.parametrize(
    "data",
    [
        "field,path\na b,x/1.tif\nc,2.tif\n",
        "field;path\na b;x/1.tif\nc;2.tif\n",
        "field\tpath\na b\tx/1.tif\nc\t2.tif",
        "Field , PATH\r\na b , x/1.tif\r\n c,2.tif \r\n",
        '\ufefffield, path\n"a b", "x/1.tif"\nc,2.tif\n',
        "field;path;;\na b;x/1.tif;;\nc;2.tif;;\n",
        "field\tpath\na b\tx/1.tif\nc\t2.tif\n".encode("utf-16"),
        b"\xfe\xff" + "field;path\na b;x/1.tif\nc;2.tif\n".encode("utf-16-be"),
        "field,path\ra b,x/1.tif\rc,2.tif\r",
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path: Path, data: str | bytes) -> None:
    rows = read_table(saved(tmp_path, data), "data.manifest", ["field", "path"])
    assert [(n, {k: v for k, v in row.items() if k}) for n, row in rows] == ROWS


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    text = 'field;path\n;;\n\n"a;\nb";1.tif\nc;2.tif\nd\n'
    rows = read_table(saved(tmp_path, text), "data.exclude", ["field"])
    assert rows == [
        (5, {"field": "a;\nb", "path": "1.tif"}),
        (6, {"field": "c", "path": "2.tif"}),
        (7, {"field": "d", "path": ""}),
    ]


def test_names_that_are_not_utf8_stay_as_they_are(tmp_path: Path) -> None:
    ((_, row),) = read_table(saved(tmp_path, b"field\ngr\xfc\x1cn\n"), "data.exclude", ["field"])
    assert row["field"].encode(errors="surrogateescape") == b"gr\xfc\x1cn"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("name;path\n", ["lacks the column field", "has name, path", "needs field, path"]),
        ("", ["lacks the column field, path", "has nothing"]),
        ("Field,field,path\n", ["column field twice"]),
        ("field,path\na,b,c.tif\n", ["line 2 has 3 cells, the header 2", "quotes"]),
        (b"\xff\xfe\x00", ["data.manifest=", "cannot be read as a CSV"]),
        ("field,path\n" + "a" * 200_000, ["cannot be read as a CSV"]),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, data: str | bytes, words: Sequence[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_table(saved(tmp_path, data), "data.manifest", ["field", "path"])
    assert all(word in str(caught.value) for word in [*words, "t.csv"])


cells = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8
)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    gap=st.sampled_from(["", " "]),
)
def test_every_way_of_saving_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    separator: str,
    encoding: str,
    gap: str,
) -> None:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in rows]
    lines = [f"{separator}{gap}".join(row) for row in [["Field", "Path"], *quoted]]
    table = tmp_path_factory.mktemp("t") / "t.csv"
    table.write_bytes("\n".join(lines).encode(encoding))
    read = read_table(table, "data.manifest", ["field", "path"])
    assert [(row["field"], row["path"]) for _, row in read] == rows

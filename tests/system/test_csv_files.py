"""CSV files of ours: names are no formulas and come back, half a row is never taken as a value."""

import csv
import logging
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vfn.app import models
from vfn.errors import UserError
from vfn.evaluation.runs import read_runs
from vfn.system.csv_files import as_name, as_text, read_csv, read_epochs, write_csv
from vfn.training.sweep_table import validation_errors

BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_name_does_not_become_a_formula(tmp_path: Path, beginning: str) -> None:
    name = f"{beginning}cmd|' /C calc'!A0"
    write_csv(tmp_path / "a.csv", ["field", name], [[name, "1"]])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, row = csv.reader(file)
    assert header == ["field", f"'{name}"]
    assert row == [f"'{name}", "1"]
    assert read_csv(tmp_path / "a.csv") == (["field", name], [{"field": name, name: "1"}])


@pytest.mark.parametrize("number", ["-4", "+3.5", "-1.5e-07", "-inf", "-nan", "-.5", -4, -0.25])
def test_numbers_stay_numbers(number: object) -> None:
    assert as_text(number) is number


@pytest.mark.parametrize("text", ["-1_000", "-1-1", "+1=1", "-", "-1 ", "-e5", "-1e"])
def test_what_only_begins_like_a_number_is_text(text: str) -> None:
    assert as_text(text) == f"'{text}"


@example("'=x")
@example("''-4")
@given(st.text(st.sampled_from("'=+-@\t1e.a"), max_size=6) | st.text())
def test_every_name_comes_back(name: str) -> None:
    written = as_text(name)
    assert isinstance(written, str)
    assert as_name(written) == name


def cut(tmp_path: Path, text: str) -> Path:
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8", newline="")
    return tmp_path / "metrics.csv"


@pytest.mark.parametrize("rest", ["", "2", "2,0.", "2,0.031", '2,"0', "2,0.03,"])
def test_a_row_that_was_cut_short_is_left_out(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever the file ends within the row: its last cell may be the beginning of 0.0314."""
    path = cut(tmp_path, f"epoch,val/mae\n0,0.5\n1,0.25\n{rest}")
    with caplog.at_level(logging.WARNING):
        rows = read_csv(path).rows
    assert rows == [{"epoch": "0", "val/mae": "0.5"}, {"epoch": "1", "val/mae": "0.25"}]
    said = [f"{path}: 1 of 3 rows are cut short or damaged and left out"] if rest else []
    assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.parametrize(
    "damage", ["1", "1,0.25,7", "\0\0\0", "1,\0\0", "one,0.25", "1,0x1", ",0.25"]
)
def test_a_damaged_row_within_is_left_out(tmp_path: Path, damage: str) -> None:
    path = cut(tmp_path, f"epoch,val/mae\n0,0.5\n{damage}\n2,\n")
    rows = read_epochs(path)
    assert rows == [{"epoch": "0", "val/mae": "0.5"}, {"epoch": "2", "val/mae": ""}]


def test_no_reader_takes_half_a_row_as_a_value(tmp_path: Path) -> None:
    cut(tmp_path, "epoch,val/mae,val/psnr\n0,0.5,12.5\n1,0.25,18\n2,0.03")
    assert validation_errors(tmp_path) == {0: 0.5, 1: 0.25}
    figures = models._figures(tmp_path)
    assert (figures["epochs"], figures["val_mae"], figures["val_psnr"]) == (2, 0.25, 18.0)
    whole = "field,channel,mae\nf0,dna,0.5\nf1,dna,0.25\n"
    for name, rest in (("a", ""), ("b", "f2,dna,0.1")):
        (tmp_path / name).mkdir()
        cut(tmp_path / name, whole + rest)
    assert read_runs([tmp_path / "b", tmp_path / "a"])[0].figures == {
        "dna": {"f0": {"mae": 0.5}, "f1": {"mae": 0.25}}
    }


@pytest.mark.parametrize("text", ["", "epoch", "epoch,val/mae\n"])
def test_a_table_without_rows(tmp_path: Path, text: str) -> None:
    assert read_csv(cut(tmp_path, text)).rows == []


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: cannot be read as a CSV"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"metrics\.csv: cannot be read as a CSV"):
        read_csv(cut(tmp_path, f"a\n{'x' * 200_000}\n"))

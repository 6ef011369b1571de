"""Comparison of evaluations: what is read, what is left out and said, what is refused, the command."""

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.cli import run
from vfn.commands.compare import compare
from vfn.errors import UserError
from vfn.evaluation.columns import PROMISED as COLUMNS
from vfn.evaluation.run_comparison import compare_runs
from vfn.evaluation.runs import read_runs, run_names

RANGES = {"range_full": [0, 65535], "range_signal": [100, 900]}
FIELDS = [f"f{i:02d}" for i in range(12)]


def write_run(
    folder,
    gain=0.0,
    fields=FIELDS,
    channels=("dna",),
    wells=None,
    ranges=RANGES,
    cells=None,
    extra=None,
    seed=0,
):
    """An evaluation whose PSNR is the field's number plus `gain` and a little noise.

    `cells`: (field, column) -> text of the cell; `extra`: further column -> number.
    """
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed).normal(0, 0.01, (len(channels), 100))
    header = ["field", "channel", *COLUMNS, *(extra or {}), *(["plate", "well"] if wells else [])]
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*header, "note"])
        for i, field in enumerate(fields):
            for j, channel in enumerate(channels):
                better = int(field[1:]) + gain + noise[j, i]
                values = {
                    c: 20 + better if c.startswith("psnr") else 0.5 + better / 100 for c in COLUMNS
                }
                for column in ("mae", "mae_signal", "tolerance_level"):
                    values[column] = 1 - values[column]
                values["tolerance_threshold"] = 0.1
                values |= extra or {}
                row = [(cells or {}).get((field, c), f"{v:.9g}") for c, v in values.items()]
                place = ["P1", wells.get(field, "")] if wells else []
                writer.writerow([field, channel, *row, *place, ""])
    if ranges:
        (folder / "summary.json").write_text(json.dumps(dict.fromkeys(channels, ranges)))
    return folder


# Errors without a difference beside run "a".
SAME_MAE = {
    (f, c): f"{0.5 - int(f[1:]) / 100:g}"
    for f in FIELDS
    for c in ("mae", "mae_signal", "tolerance_level")
}


def compared(*folders, unit="auto"):
    comparisons, notes = compare_runs(read_runs(folders), unit)
    return {(c.channel, c.a, c.b, c.column): c for c in comparisons}, notes


def two(tmp_path, first=None, second=None, unit="auto"):
    """Comparisons of run b with run a by (channel, column), and the notes."""
    a = write_run(tmp_path / "a", **(first or {}))
    b = write_run(tmp_path / "b", **({"gain": 1.0, "seed": 1} | (second or {})))
    found, notes = compared(a, b, unit=unit)
    return {(channel, column): c for (channel, _, _, column), c in found.items()}, notes


def test_the_better_run_is_told_in_every_direction(tmp_path):
    found, notes = two(tmp_path)
    psnr, mae, threshold = (found["dna", c] for c in ("psnr_signal", "mae", "tolerance_threshold"))
    assert psnr.result.difference == pytest.approx(1.0, abs=0.02)
    assert mae.result.difference == pytest.approx(-0.01, abs=0.001)
    assert (psnr.better, mae.better, threshold.better) == ("b", "b", "")
    assert psnr.shown
    assert mae.shown
    assert psnr.result.low < psnr.result.difference < psnr.result.high
    assert (psnr.kind, psnr.result.n) == ("field", 12)
    # Eight main figures of one channel and pair: the first of eight equal p-values is taken 8 times.
    assert psnr.p_wilcoxon_holm == pytest.approx(8 * 2.0**-11)
    assert "all differences are zero" in threshold.result.note
    assert notes == []


def test_fields_of_a_well_count_once(tmp_path):
    wells = {f: f"A{int(f[1:]) // 3}" for f in FIELDS}
    found, _ = two(tmp_path, {"wells": wells}, {"wells": wells})
    line = found["dna", "psnr"]
    assert (line.kind, line.units.names) == ("well", ("P1 A0", "P1 A1", "P1 A2", "P1 A3"))
    assert line.units.a == pytest.approx([21, 24, 27, 30], abs=0.05)
    assert not line.shown  # four wells cannot
    by_field, _ = compared(tmp_path / "a", tmp_path / "b", unit="field")
    assert by_field["dna", "a", "b", "psnr"].result.n == 12


def test_wells_that_one_run_knows_are_enough_and_holes_are_not(tmp_path):
    wells = dict.fromkeys(FIELDS, "A1") | {"f05": "A2"}
    write_run(tmp_path / "none")
    write_run(tmp_path / "all", wells=wells)
    write_run(tmp_path / "some", wells=dict.fromkeys(FIELDS[:5], "A1"))
    kinds = {
        other: {c.kind for c in compared(tmp_path / "none", tmp_path / other)[0].values()}
        for other in ("all", "some")
    }
    assert kinds == {"all": {"well"}, "some": {"field"}}
    with pytest.raises(UserError, match=r"unit=well: the well of 7 of 12 fields \(first f05\)"):
        compared(tmp_path / "none", tmp_path / "some", unit="well")
    write_run(tmp_path / "moved", wells=wells | {"f05": "B9"})
    with pytest.raises(UserError, match="f05 is in well P1 A2 in all but P1 B9 in moved"):
        compared(tmp_path / "all", tmp_path / "moved")


def test_what_is_left_out_is_said(tmp_path):
    cells = {("f03", "psnr"): "inf", ("f04", "psnr"): "nan", ("f04", "ssim"): ""}
    found, notes = two(
        tmp_path,
        {"cells": cells, "channels": ("dna", "er"), "extra": {"gain": 1.0}},
        {"fields": [*FIELDS[2:], "f20"], "cells": {("f05", "psnr"): "inf"}},
    )
    assert found["dna", "psnr"].units.left_out == 3
    assert found["dna", "psnr"].result.n == 7
    assert found["dna", "ssim"].result.n == 9
    text = "\n".join(notes)
    assert "dna psnr: infinite or undefined in 3 of 10 fields in a or b" in text
    assert "dna ssim: infinite or undefined in 1 of 10 fields" in text
    assert "dna: 2 field(s) in a but not in b, left out (f00, f01); 10 in both" in text
    assert "dna: 1 field(s) in b but not in a, left out (f20); 10 in both" in text
    assert "er: in a but not in b" in text
    assert "gain: in a but not in b" in text
    assert ("dna", "gain") not in found


def test_signal_figures_are_left_out_where_their_ranges_differ(tmp_path):
    other = RANGES | {"range_signal": [100, 950]}
    found, notes = two(tmp_path, second={"ranges": other})
    assert {column for _, column in found} == {c for c in COLUMNS if not c.endswith("_signal")}
    assert "dna: signal ranges differ (100 to 900 in a, 100 to 950 in b)" in notes[0]


def test_ranges_that_nobody_knows_are_said(tmp_path):
    found, notes = two(tmp_path, second={"ranges": None})
    assert ("dna", "psnr_signal") in found
    assert "b: summary.json says nothing of the intensity ranges" in notes[0]


def test_a_channel_with_another_truth_is_left_out(tmp_path):
    a = write_run(tmp_path / "a", channels=("dna", "er"))
    b = write_run(tmp_path / "b", channels=("dna", "er"))
    ranges = {"dna": RANGES, "er": RANGES | {"range_full": [0, 255]}}
    (b / "summary.json").write_text(json.dumps(ranges))
    found, notes = compared(a, b)
    assert {channel for channel, *_ in found} == {"dna"}
    assert "er: the truths of a and b differ in their full range" in notes[0]


def test_one_field_gives_figures_without_statistics(tmp_path):
    found, notes = two(tmp_path, {"fields": ["f01"]}, {"fields": ["f01"]})
    line = found["dna", "psnr_signal"]
    assert line.result.difference == pytest.approx(1.0, abs=0.05)
    assert math.isnan(line.result.p_t)
    assert math.isnan(line.result.low)
    assert "one field only" in notes[0]


def test_further_columns_of_numbers_are_compared_and_words_are_not(tmp_path):
    extra = {"gain": 1.25, "grade": "good"}
    formatted = {(f, "grade"): "good" for f in FIELDS}
    options = {"extra": extra | {"grade": 0.0}, "cells": formatted}
    found, _ = two(tmp_path, options, options)
    assert ("dna", "gain") in found
    assert ("dna", "grade") not in found
    assert not found["dna", "gain"].main


def test_names_tell_the_runs_apart():
    def names(*paths):
        return run_names([Path(path) for path in paths])

    assert names("/o/A/evaluation", "/o/B/evaluation") == ["A", "B"]
    assert names("/o/A", "/o/B") == ["A", "B"]
    assert names("/o/A/x", "/p/A/x", "/o/B/x") == ["o/A", "p/A", "o/B"]
    assert names("/one/A/evaluation", "/two/A/evaluation") == ["one", "two"]
    assert names("/o/A/evaluation", "/o/B/scored") == ["evaluation", "scored"]


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda a, b: [a], "compare=[A,B]"),
        (lambda a, b: [], "compare=[A,B]"),
        (lambda a, b: [a, a.parent / "gone"], "gone is no such folder"),
        (lambda a, b: [a, b / "metrics.csv"], "is a file"),
        (lambda a, b: [a, a / ".." / "a"], "the same evaluation"),
    ],
)
def test_runs_that_are_none(tmp_path, prepare, says):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    with pytest.raises(UserError) as caught:
        read_runs(prepare(a, b))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch,loss\n0,1\n", "its metrics.csv is none of evaluate.py"),
        ("", "its metrics.csv is none of evaluate.py"),
        (None, "no metrics.csv in it"),
        ("field,channel,mae\n", "no field in it"),
        ("field,channel,mae\nf01,dna\n", "no field in it"),
        ("field,channel,mae\nf01,dna,much\n", "field f01, dna, mae: 'much' is no number"),
        (
            "field,channel,mae\nf01,dna,1\nf01,dna,1\n",
            "metrics.csv: dna of field f01 stands there twice",
        ),
        ("field,channel,mae\nf01,er,1\n", "a has the channels dna, b er: none in common"),
        ("field,channel,mae\nx,dna,1\n", "no field is in both a (first f00) and b (first x)"),
    ],
)
def test_tables_that_cannot_be_compared(tmp_path, text, says):
    a = write_run(tmp_path / "a")
    b = tmp_path / "b"
    b.mkdir()
    if text is not None:
        (b / "metrics.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        compared(a, b)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["not json", "[]", '{"dna": {"range_full": [0]}}', "{"])
def test_a_summary_that_is_none(tmp_path, text):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (b / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json: is no summary of evaluate\.py"):
        read_runs([a, b])


def test_other_truths_are_refused(tmp_path):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", ranges=RANGES | {"range_full": [0, 255]})
    with pytest.raises(UserError, match=r"different truths .*0 to 65535 and 0 to 255"):
        compared(a, b)
    with pytest.raises(UserError, match="unit=pixel: unknown"):
        compare([a, b], tmp_path / "out", "pixel", {})


class Page(HTMLParser):
    """Counts what matters and collects addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.text.append(data)


def outcomes(found):
    return {(v["channel"], v["a"], v["b"]): (v["outcome"], v["better"]) for v in found["verdicts"]}


def test_verdicts(tmp_path, capsys):
    channels = ("dna", "er")
    for name, gain, seed in (("low", 0.0, 0), ("high", 1.0, 1), ("even", 0.0, 2)):
        write_run(tmp_path / name / "evaluation", gain, seed=seed, channels=channels)
    paths = [tmp_path / name for name in ("low", "high", "even")]
    found = compare(paths, tmp_path / "out", "auto", {"command": "evaluate.py <compare>"})
    for channel in channels:
        assert outcomes(found)[channel, "low", "high"] == ("shown", "high")
        assert outcomes(found)[channel, "high", "even"] == ("shown", "high")
        assert outcomes(found)[channel, "low", "even"] == ("not shown", "")
    text = found["verdicts"][0]["text"]
    assert text.startswith("high predicts dna better than low: signal PSNR +1 dB (95 % CI ")
    assert "12 fields, Wilcoxon p = 0.02" in text  # 48 tests: 2^-11 x 48 = 0.0234
    assert found["settings"]["tests_in_main_family"] == 2 * 8 * 3
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == found
    with (tmp_path / "out" / "compare.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(found["comparisons"]) == 2 * len(COLUMNS) * 3
    first = next(r for r in rows if r["column"] == "psnr_signal")
    assert (first["channel"], first["a"], first["b"], first["n"]) == ("dna", "low", "high", "12")
    assert (first["better"], first["shown"], first["family"]) == ("high", "yes", "main")
    assert float(first["low"]) < float(first["difference"]) < float(first["high"])
    html = (tmp_path / "out" / "compare.html").read_text()
    page = Page(html)
    assert page.tags.count("circle") >= 6 * 12
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search("https?:", html)
    assert "evaluate.py <compare>" in "".join(page.text)
    assert text in "".join(page.text)


@pytest.mark.parametrize(
    ("first", "second", "outcome", "words"),
    [
        ({}, {"gain": 0.0, "seed": 0}, "equal", "equal in every figure"),
        ({"fields": ["f01"]}, {"fields": ["f01"]}, "no statistics", "no statistics"),
        ({"fields": FIELDS[:5]}, {"fields": FIELDS[:5]}, "not shown", "at least 9 are needed"),
        (
            {},
            {"gain": 0.05, "cells": SAME_MAE},
            "slight",
            "too little to matter: signal PSNR +0.05",
        ),
        (
            {},
            {"cells": {(f, "pearson"): f"0.1{f[1:]}" for f in FIELDS}},
            "mixed",
            "a is better in Pearson r",
        ),
        (
            {},
            {"cells": {(f, c): "nan" for f in FIELDS for c in ("psnr_signal", "ssim_signal")}},
            "shown",
            "b predicts dna better than a: signal MAE −0.01",
        ),
    ],
)
def test_verdict_of_each_kind(tmp_path, first, second, outcome, words):
    a = write_run(tmp_path / "a", **first)
    b = write_run(tmp_path / "b", **({"gain": 1.0, "seed": 1} | second))
    found = compare([a, b], tmp_path / "out", "auto", {})
    (verdict,) = found["verdicts"]
    assert verdict["outcome"] == outcome
    assert words in verdict["text"]
    assert "nan" not in verdict["text"]
    assert "NaN" not in (tmp_path / "out" / "compare.json").read_text()
    assert verdict["text"] in "".join(Page((tmp_path / "out" / "compare.html").read_text()).text)


def test_command(tmp_path):
    wells = {f: f"A{f[1:]}" for f in FIELDS}
    write_run(tmp_path / "outputs" / "A [old]" / "evaluation", wells=wells)
    write_run(tmp_path / "outputs" / "B", gain=1.0, seed=1, wells=wells)
    result = run(
        "evaluate.py", "compare=['outputs/A [old]',outputs/B]", "output=out", cwd=tmp_path
    ).ok()
    assert "predicts dna better than" in result.out
    assert "12 wells" in result.out
    assert "out/compare.html" in result.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "compare.csv", "compare.html", "compare.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["compare=[A,B]", "ckpt=x.ckpt"], ("ckpt and compare",)),
        (["compare=[A,B]", "pred=A", "truth=B"], ("pred and truth and compare",)),
        (["compare=A"], ("compare=[A]", "compare=[A,B]")),
        (["compare=[A,B]", "unit=pixel"], ("unit=pixel", "well")),
    ],
)
def test_command_refuses(tmp_path, overrides, says):
    write_run(tmp_path / "A")
    write_run(tmp_path / "B")
    run("evaluate.py", *overrides, "output=out", cwd=tmp_path).refused(*says)
    assert not (tmp_path / "out").exists()

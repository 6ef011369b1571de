"""How far a stain can be trusted, through the real command line: faults that are planted are found."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from tests.cli import run

SIDE = 128
PLACES = [(24, 30), (30, 90), (66, 60), (100, 24), (98, 100)]  # rows and columns of the nuclei
FIELDS = ("A01_s1", "A01_s2", "B02_s1", "B02_s2")


def nuclei(places: list[tuple[int, int]], seed: int) -> np.ndarray:
    """Discs of 16 px with a soft edge on a noisy ground, uint16."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for row, column in places:
        image[(rows - row) ** 2 + (columns - column) ** 2 <= 64] = 2000
    noise = np.random.default_rng(seed).normal(0, 15, image.shape)
    return (300 + gaussian_filter(image, 1.2) + noise).round().astype(np.uint16)


def save(folder: Path, places: dict[str, list[tuple[int, int]]], first_seed: int) -> None:
    folder.mkdir(parents=True)
    for seed, (field, where) in enumerate(places.items(), first_seed):
        tifffile.imwrite(folder / f"{field}.tif", nuclei(where, seed))


def evaluate(folder: Path, output: str, *overrides: str) -> dict[str, Any]:
    """Score `pred` against `truth`: the summary of the only channel."""
    run("evaluate.py", "pred=pred", "truth=truth", f"output={output}", *overrides, cwd=folder).ok()
    (part,) = json.loads((folder / output / "summary.json").read_text()).values()
    return part


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions that are good, but for a nucleus lost in one field and one invented in another."""
    root = tmp_path_factory.mktemp("trust")
    save(root / "truth", dict.fromkeys(FIELDS, PLACES), 0)
    wrong = {"A01_s2": PLACES[1:], "B02_s1": [*PLACES, (64, 104)]}
    save(root / "pred", {field: wrong.get(field, PLACES) for field in FIELDS}, 100)
    return root


def test_a_lost_and_an_invented_nucleus_are_named_with_their_places(folder: Path) -> None:
    part = evaluate(folder, "named", "channels=[dapi]")
    found = {line["kind"]: line for line in lines(folder / "named" / "objects.csv")}
    assert set(found) == {"missed", "hallucinated"}
    for kind, field, place in (
        ("missed", "A01_s2", PLACES[0]),
        ("hallucinated", "B02_s1", (64, 104)),
    ):
        assert found[kind]["field"] == field
        assert (float(found[kind]["row"]), float(found[kind]["column"])) == pytest.approx(
            place, abs=1
        )
    assert part["missed"]["mean"] == part["hallucinated"]["mean"] == 0.25
    assert part["nuclei_truth"]["mean"] == 5
    reasons = " ".join(part["verdict"]["reasons"])
    assert "5.0 % of the real nuclei are missing" in reasons
    page = (folder / "named" / "report.html").read_text()
    assert "Use with care" in page
    assert "1 real ones are missing" in page


def test_limits_of_the_verdict_are_the_users(folder: Path) -> None:
    strict = evaluate(
        folder, "strict", "channels=[dapi]", "verdict.missed.care=0.04", "verdict.missed.use=0"
    )
    assert strict["verdict"]["level"] == "do not use"


def test_nuclei_are_looked_for_where_they_are_said_to_be(folder: Path) -> None:
    unnamed = evaluate(folder, "unnamed")
    assert "nuclei_truth" not in unnamed
    named = evaluate(folder, "said", "channels=[ch5]", "nuclei=[ch5]")
    assert named["nuclei_truth"]["mean"] == 5


def test_amounts_of_another_stain_are_summed_over_cells(folder: Path, tmp_path: Path) -> None:
    for seed, field in enumerate(FIELDS):
        dapi = nuclei(PLACES, seed)
        above = gaussian_filter(dapi - 300.0, 4) * np.linspace(0.4, 1.6, SIDE)
        er = (700 + above).clip(0).round().astype(np.uint16)
        for name, image in (("dapi", dapi), ("er", er)):
            path = tmp_path / "truth" / f"{field}_{name}.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, image)
        bright = (700 + 1.3 * (er.astype(float) - 700)).round().astype(np.uint16)
        (tmp_path / "pred").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "pred" / f"{field}.tif", bright)
    part = evaluate(tmp_path, "out", "channels=[er]", "inputs=[dapi]")
    assert part["gain"]["mean"] == pytest.approx(1.3, abs=0.01)
    assert part["amounts"]["over"] == "cells"
    assert part["amounts"]["n"] == len(FIELDS) * len(PLACES)
    assert part["amounts"]["slope"] == pytest.approx(1.3, abs=0.05)
    assert part["amounts"]["bias_percent"] == pytest.approx(30, abs=5)


def test_wells_are_the_units_of_a_comparison(folder: Path) -> None:
    wells = r"wells='^(?P<well>[A-P]\d\d)'"
    for name in ("first", "second"):
        evaluate(folder, name, "channels=[dapi]", wells)
    assert [line["well"] for line in lines(folder / "first" / "metrics.csv")] == [
        "A01",
        "A01",
        "B02",
        "B02",
    ]
    run("evaluate.py", "compare=[first,second]", "output=compared", cwd=folder).ok()
    table = lines(folder / "compared" / "compare.csv")
    assert {line["unit"] for line in table} == {"well"}
    assert {line["n"] for line in table if line["column"] == "psnr"} == {"2"}


def test_features_of_real_and_predicted_channels(folder: Path) -> None:
    part = evaluate(folder, "features", "channels=[dapi]", "features=true", "survives=0.5")
    table = lines(folder / "features" / "features.csv")
    assert {line["compartment"] for line in table} == {"nuclei"}
    assert {"intensity", "texture"} <= {line["group"] for line in table}
    kept = sum(line["survives"] == "yes" for line in table)
    assert part["features"]["survive"] == kept
    assert part["features"]["level"] == "objects"
    assert "Which read-outs survive" in (folder / "features" / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("wells='[A-P'",), ("wells=[A-P", "regular expression")),
        (("wells='^[A-P]'",), ("wells=^[A-P]", "(?P<well>")),
        (("wells='(?P<well>x9)'",), ("x9", "A01_s1")),
        (("survives=1.5",), ("survives=1.5", "0 to 1")),
        (("verdict.pearson.care=0.95",), ("verdict.pearson", "0.95")),
        (("verdict.gain.use=1",), ("verdict.gain", "1")),
        (("features=true",), ("nuclei", "c0")),
        (("inputs=[rna]",), ("rna",)),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(
    folder: Path, overrides: tuple[str, ...], says: tuple[str, ...]
) -> None:
    given = ("pred=pred", "truth=truth", "output=refused", *overrides)
    result = run("evaluate.py", *given, cwd=folder)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert all(word in line for word in says), line

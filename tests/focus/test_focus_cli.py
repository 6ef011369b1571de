"""`python -m vfn.focus` as users call it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.cli import run
from tests.test_refocus_cli import TINY
from vfn.data.simulated import write_fields

SMALL = ["data=simulated", "data.fields=4", "data.height=160", "data.width=200"]


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale, and fields of which one lies out of focus."""
    root = tmp_path_factory.mktemp("focus")
    run("vfn.focus", *SMALL, "task=refocus", "output=scale", cwd=root).ok()
    write_fields(root / "images", [50, 51, 52], ["actin"], (160, 200))
    write_fields(root / "images", [53], ["actin"], (160, 200), z=(9.0,))
    return root


def test_a_scale_is_made_without_a_network(folder: Path) -> None:
    table = lines(folder / "scale" / "calibration.csv")
    assert {(line["of"], float(line["depth"])) for line in table} == {
        (of, float(depth)) for of in ("fields", "tiles") for depth in (0, 4, 6, 8, 10)
    }
    assert (folder / "scale" / "calibration.png").stat().st_size > 5000


def test_the_blurred_field_is_found(folder: Path) -> None:
    keys = ["scale=scale/focus.json", "input=images", "task=refocus"]
    result = run("vfn.focus", *keys, "output=scores", cwd=folder).ok()
    assert "1 of 4 field(s) lie more than 3 um from focus" in result.out
    table = {line["field"]: line for line in lines(folder / "scores" / "focus.csv")}
    assert [name for name, line in table.items() if line["blurred"] == "true"] == ["sim0053"]
    assert float(table["sim0053"]["um"]) == pytest.approx(9, abs=1.5)
    assert float(table["sim0053"]["tiles_blurred"]) > 0.9
    assert float(table["sim0050"]["variance_of_laplacian"]) > float(
        table["sim0053"]["variance_of_laplacian"]
    )
    tiles = lines(folder / "scores" / "tiles.csv")
    assert {line["field"] for line in tiles} == set(table)
    assert (folder / "scores" / "focus.png").stat().st_size > 5000


def test_a_refocusing_model_carries_the_scale(folder: Path) -> None:
    run("train.py", *SMALL, "task=refocus", *TINY, "run=af", cwd=folder).ok()
    keys = ["ckpt=outputs/af/checkpoints/best.ckpt", "input=images"]
    result = run("vfn.focus", *keys, "output=by_model", cwd=folder).ok()
    assert "1 of 4 field(s)" in result.out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["input=images"], ["ckpt=CKPT", "scale=DIR/focus.json"]),
        (["scale=none.json", "input=images"], ["scale=none.json", "cannot be read"]),
        (["scale=scale/calibration.csv", "input=images"], ["scale=", "cannot be read"]),
        (["scale=scale/focus.json"], ["input"]),
        (["scale=scale/focus.json", "input=nowhere"], ["input=nowhere", "does not exist"]),
        (["scale=scale/focus.json", "input=images", "beyond=0"], ["beyond=0"]),
        (["task=dna", *SMALL], ["task.input_z", "task=refocus"]),
    ],
)
def test_what_cannot_be_scored_is_refused(folder: Path, keys: list[str], words: list[str]) -> None:
    run("vfn.focus", *keys, "output=bad", cwd=folder).refused(*words)
    assert not (folder / "bad").exists()


def test_an_output_is_needed(tmp_path: Path) -> None:
    run("vfn.focus", "input=images", cwd=tmp_path).refused("output")


@pytest.mark.parametrize("anchor", ["true", "false"])
def test_too_small_an_image_is_refused(folder: Path, tmp_path: Path, anchor: str) -> None:
    write_fields(tmp_path / "small", [1], ["actin"], (60, 200))
    keys = [f"scale={folder / 'scale' / 'focus.json'}", "input=small", f"anchor={anchor}"]
    run("vfn.focus", *keys, "output=out", cwd=tmp_path).refused("sim0001", "60x200", "64 pixels")


def test_an_empty_field_is_called_neither_sharp_nor_blurred(folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(200, 5, (160, 200)).astype(np.uint16)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "e_actin.tif", noise)
    keys = [f"scale={folder / 'scale' / 'focus.json'}", "input=images"]
    result = run("vfn.focus", *keys, "output=out", cwd=tmp_path).ok()
    (line,) = lines(tmp_path / "out" / "focus.csv")
    assert (line["um"], line["blurred"]) == ("", "")
    assert "1 show nothing" in result.out
    run("vfn.focus", *keys, "anchor=true", "output=b", cwd=tmp_path).refused("no field shows")

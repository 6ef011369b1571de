"""Panels through the real command line, on tiny simulated cells."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli import run
from vfn.models.checkpoint import load_checkpoint

TINY = [
    "data=simulated", "data.fields=5", "data.height=96", "data.width=96", "data.patch_size=32",
    "data.batch_size=2", "model.generator.width=4", "model.generator.depth=3", "steps=2",
    "repeats=2", "trainer.accelerator=cpu",
]  # fmt: skip
CHANNELS = "channels=[phase,dapi,actin]"


def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "panel.json").read_text())


def figures(folder: Path) -> list[list[str]]:
    """What panel.csv says, but for the times."""
    with (folder / "panel.csv").open(newline="") as stream:
        return [row[:-1] for row in csv.reader(stream)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished panel, `P`."""
    root = tmp_path_factory.mktemp("panel")
    run("vfn.panel", *TINY, CHANNELS, "keep=best", "output=P", cwd=root).ok()
    return root


def test_every_pair_is_there(whole: Path) -> None:
    pairs = found(whole / "P")["pairs"]
    assert {(*pair["inputs"], "->", pair["target"]) for pair in pairs} == {
        ("phase", "->", "dapi"), ("phase", "->", "actin"), ("dapi", "->", "actin"),
        ("actin", "->", "dapi"), ("phase", "dapi", "->", "actin"), ("phase", "actin", "->", "dapi"),
    }  # fmt: skip
    assert all(pair["pearson"]["n"] == 2 for pair in pairs)
    page = (whole / "P" / "panel.html").read_text()
    assert "The smallest panel" in page
    assert (whole / "P" / "panel.png").stat().st_size > 5000
    # Transmitted light is never predicted and costs nothing.
    assert all("phase" not in panel["stains"] for panel in found(whole / "P")["panels"])
    rows = figures(whole / "P")
    assert rows[0][:4] == ["inputs", "target", "repeat", "system"]
    systems = {"prediction", "mean", "median", "linear", "filter"}
    assert {row[3] for row in rows[1:]} == systems
    assert len(rows) == 1 + 6 * 2 * len(systems)


def test_the_best_models_are_kept(whole: Path) -> None:
    models = sorted((whole / "P" / "models").glob("*.ckpt"))
    assert len(models) == 5 * 2
    tasks = [load_checkpoint(path).task for path in models]
    assert {task.inputs for task in tasks} >= {("phase",), ("phase", "dapi")}


def test_what_is_trained_is_not_trained_again(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "P", tmp_path / "P")
    cells = tmp_path / "P" / "cells"
    before = {path.name: path.read_text() for path in cells.glob("*.json")}
    lost, *kept = sorted(before)
    (cells / lost).unlink()
    (cells / lost.removesuffix(".json")).mkdir()  # as a training leaves it that was cut off
    (cells / lost.removesuffix(".json") / "half").write_text("")
    result = run("vfn.panel", *TINY, CHANNELS, "keep=best", "output=P", cwd=tmp_path).ok()
    assert "9 of 10 trainings are there already" in result.out
    assert {name: (cells / name).read_text() for name in kept} == {n: before[n] for n in kept}
    assert not (cells / lost.removesuffix(".json")).exists()
    assert figures(tmp_path / "P") == figures(whole / "P")


def test_a_sweep_gives_what_one_process_gives(whole: Path, tmp_path: Path) -> None:
    sweep = ["-m", "part=0,1", "parts=2"]
    result = run("vfn.panel", *sweep, *TINY, CHANNELS, "output=P", cwd=tmp_path).ok()
    assert "part 0 of 2 is trained" in result.out
    assert "part 1 of 2 is trained" in result.out
    assert not (tmp_path / "P" / "panel.json").exists()
    result = run("vfn.panel", *TINY, CHANNELS, "output=P", cwd=tmp_path).ok()
    assert "10 of 10 trainings are there already" in result.out
    assert [path.name for path in tmp_path.iterdir()] == ["P"]
    assert figures(tmp_path / "P") == figures(whole / "P")


def test_other_settings_are_trained_anew(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "P", tmp_path / "P")
    few = ["channels=[dapi,actin]", "inputs_up_to=1", "repeats=1", "steps=3"]
    result = run("vfn.panel", *TINY, *few, "output=P", cwd=tmp_path).ok()
    assert "there already" not in result.out
    assert len(found(tmp_path / "P")["pairs"]) == 2


@pytest.mark.parametrize(
    ("preset", "rows"), [("paper_mda", 4), ("paper_cps", 9)], ids=["mda", "cps"]
)
def test_the_papers_table_stands_beside_ours(tmp_path: Path, preset: str, rows: int) -> None:
    """14 input-target pairs with the refocusing model, which has a set of its own."""
    run("vfn.panel", f"panel={preset}", *TINY, "repeats=1", "output=P", cwd=tmp_path).ok()
    pairs = found(tmp_path / "P")["pairs"]
    assert len(pairs) == rows
    assert all(pair["paper"]["grade"] for pair in pairs)
    assert found(tmp_path / "P")["panels"] == []
    assert "Fluo-Fluo" in (tmp_path / "P" / "panel.html").read_text()


def test_a_refocusing_model_on_other_channels(tmp_path: Path) -> None:
    tiny = [o for o in TINY if not o.startswith(("steps", "repeats"))]
    run(
        "train.py", *tiny, "task=refocus", "task.input_z=[-8,8]", "loss=mae", "logger=csv",
        "data.patches_per_epoch=4", "trainer.max_epochs=1", "run=af", cwd=tmp_path,
    ).ok()  # fmt: skip
    ckpt = "refocus=outputs/af/checkpoints/best.ckpt"
    few = ["channels=[dapi,actin]", "inputs_up_to=1", "repeats=1"]
    result = run("vfn.panel", *TINY, *few, ckpt, "output=P", cwd=tmp_path).ok()
    (dapi,) = found(tmp_path / "P")["refocus"]  # actin is the model's own
    assert dapi["channel"] == "dapi"
    assert dapi["planes"] == 2
    assert 0 < dapi["blurred"]["pearson"] < 1
    assert "dapi, which it never saw" in result.out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["output=null"], ["output", "output=DIR"]),
        (["inputs_up_to=0"], ["inputs_up_to=0"]),
        (["repeats=0"], ["repeats=0"]),
        (["wanted=2"], ["wanted=2", "between 0 and 1"]),
        (["grades.high=0.5"], ["grades", "average < high"]),
        (["keep=all"], ["keep=all", "none or best"]),
        (["part=3", "parts=2"], ["part=3", "parts - 1"]),
        (["channels=[dapi,nope]"], ["nope", "no channel of data=simulated"]),
        (["channels=[dapi]"], ["two channels"]),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, keys: list[str], words: list[str]) -> None:
    run("vfn.panel", *TINY, CHANNELS, "output=P", *keys, cwd=tmp_path).refused(*words)
    assert not list(tmp_path.rglob("*.json"))


def test_a_folder_must_name_its_channels(tmp_path: Path) -> None:
    run("vfn.panel", "data=folder", "data.root=.", "output=P", cwd=tmp_path).refused(
        "channels", "data.channels"
    )

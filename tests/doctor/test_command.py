"""`python -m vfn.doctor` as users run it."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.cli import finish, run, start
from vfn.data.simulated import Specimen
from vfn.doctor.tables import EXCLUDE_HEADER, HEADER

SMALL = ["data.fields=5", "data.height=120", "data.width=150"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six fields; one is damaged, one is a copy."""
    root = tmp_path_factory.mktemp("images, with a comma")
    for number in range(6):
        specimen = Specimen(number, (160, 200))
        for channel in ("phase", "dapi"):
            image = specimen.render(channel, 0.0, "uint16")
            tifffile.imwrite(root / f"n{number}_{channel}.tif", image, compression="lzw")
    for channel in ("phase", "dapi"):
        (root / f"z9_{channel}.tif").write_bytes((root / f"n2_{channel}.tif").read_bytes())
    broken = root / "n4_dapi.tif"
    broken.write_bytes(broken.read_bytes()[:-2000])
    return root


def test_defaults_are_ready(tmp_path: Path) -> None:
    result = finish(start("vfn.doctor", *SMALL, f"output={tmp_path}", cwd=tmp_path))
    assert result.ok().out.splitlines() == ["ready", f"report: {tmp_path / 'doctor.html'}"]
    assert len(table(tmp_path / "doctor.csv")) == 10
    assert (tmp_path / "exclude.csv").read_text().strip() == ",".join(EXCLUDE_HEADER)


def test_files_of_a_look(images: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in images.iterdir()}
    # All that train.py takes is taken.
    result = run(
        "vfn.doctor", "data=folder", f"data.root='{images}'", "task.inputs=[phase]",
        "task.targets=[dapi]", "model=unet", "loss=mae", "trainer=cpu", "logger=csv", "run=x",
        "model.generator.width=8", "seed=3", "data.split=field", f"output={tmp_path}", cwd=tmp_path,
    ).ok()  # fmt: skip
    lines = result.out.splitlines()
    assert lines[0] == "look at 3 fields"
    assert lines[-1] == f"fields to leave out: data.exclude={tmp_path / 'exclude.csv'}"
    assert {p: p.stat().st_mtime_ns for p in images.iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"doctor.csv", "doctor.html", "exclude.csv"}

    rows = table(tmp_path / "doctor.csv")
    assert tuple(rows[0]) == HEADER
    assert [(r["field"], r["channel"]) for r in rows[:2]] == [("n0", "phase"), ("n0", "dapi")]
    assert len(rows) == 14
    (damaged,) = [r for r in rows if r["status"] == "unreadable"]
    assert (damaged["field"], damaged["channel"], damaged["severity"]) == ("n4", "dapi", "look")
    assert "truncated" in damaged["findings"]
    (sound,) = [r for r in rows if r["field"] == "n0" and r["channel"] == "dapi"]
    image = tifffile.imread(images / "n0_dapi.tif")
    assert (float(sound["min"]), float(sound["max"])) == (image.min(), image.max())
    assert (sound["height"], sound["width"], sound["dtype"]) == ("160", "200", "uint16")
    assert sound["part"] in ("train", "val", "test")

    left_out = table(tmp_path / "exclude.csv")
    assert [(r["field"], r["channel"]) for r in left_out] == [("n4", ""), ("z9", "")]
    assert all(r["reason"] for r in left_out)
    # Without them the set is ready.
    again = run(
        "vfn.doctor", "data=folder", f"data.root='{images}'", "task.inputs=[phase]",
        "task.targets=[dapi]", f"data.exclude={tmp_path / 'exclude.csv'}",
        f"output={tmp_path / 'again'}", cwd=tmp_path,
    ).ok()  # fmt: skip
    assert again.out.startswith("ready\n")


def test_the_page_stands_alone_and_says_what_to_do(images: Path, tmp_path: Path) -> None:
    run(
        "vfn.doctor", "data=folder", f"data.root='{images}'", "task.inputs=[phase]",
        "task.targets=[dapi]", f"output={tmp_path}", cwd=tmp_path,
    ).ok()  # fmt: skip
    page = (tmp_path / "doctor.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<h1>Look at 3 fields</h1>" in page
    assert f"data.exclude={tmp_path}/exclude.csv" in page
    assert page.count("data:image/webp") >= 5
    assert "python -m vfn.doctor data=folder" in page
    assert page.index("Look at 3 fields") < page.index("Next") < page.index("Channels")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([], ["output"]),
        (["output=out", "data=folder"], ["data.root"]),
        (["output=out", "data=folder", "data.root=nowhere"], ["nowhere", "no such folder"]),
        (["output=out", "task.inputs=[]"], ["task.inputs"]),
        (["output=out", "data.fields=0"], ["data.fields=0"]),
        (["output=out", "data.fields=some"], ["data.fields"]),
        (["output=out", "data.feilds=3"], ["data.feilds"]),
        (["output=out", "task=er_from_nothing"], ["task=er_from_nothing"]),
        (["output=taken/out", *SMALL], ["taken"]),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, overrides: list[str], parts: list[str]) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    run("vfn.doctor", *overrides, cwd=tmp_path).refused(*parts)
    assert not (tmp_path / "out").exists()


def test_a_bad_verdict_stops_scripts(tmp_path: Path) -> None:
    for number in range(4):
        for channel in ("phase", "dapi"):
            image = np.full((64, 64), 100 + number, np.uint16)
            tifffile.imwrite(tmp_path / f"n{number}_{channel}.tif", image)
    out = tmp_path / "out"
    result = run(
        "vfn.doctor", "data=folder", f"data.root={tmp_path}", "task.inputs=[phase]",
        "task.targets=[dapi]", f"output={out}", cwd=tmp_path,
    )  # fmt: skip
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith("do not train: ")
    assert "<h1>Do not train</h1>" in (out / "doctor.html").read_text(encoding="utf-8")

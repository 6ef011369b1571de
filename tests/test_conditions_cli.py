"""Control against treated cells through the real command line, on simulated cells of known treatment."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from tests.cli import Result, run

TINY = [
    "logger=csv", "model=unet", "model.generator.width=16", "model.generator.depth=4",
    "model.generator.max_width=64", "model.adam.lr_generator=4e-3", "data.patch_size=64",
    "data.batch_size=8", "data.patches_per_epoch=4000", "data.val_patches=4", "trainer.max_epochs=1",
    "trainer.accelerator=cpu", "trainer.precision=32-true",
]  # fmt: skip
DATA = ["data=simulated", "data.fields=24", "data.height=200", "data.width=200"]
CKPT = "ckpt=outputs/control/checkpoints/best.ckpt"


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of untreated cells: mitochondria and nuclei from RNA, Golgi and actin."""
    root = tmp_path_factory.mktemp("conditions")
    task = ["task.inputs=[golgi_actin,rna]", "task.targets=[mito,dna]", "data.test_fraction=0.34"]
    run("train.py", *DATA, *task, *TINY, "run=control", cwd=root).ok()
    return root


def compare(folder: Path, output: str, *keys: str) -> Result:
    return run("evaluate.py", CKPT, *keys, f"output={output}", cwd=folder)


def test_a_treated_stain_departs_and_the_other_does_not(folder: Path) -> None:
    keys = ["data2.first_seed=200", "data2.fields=6", "data2.treatment=mito_collapse"]
    result = compare(folder, "treated", *keys).ok()
    out = folder / "treated"
    found = json.loads((out / "conditions.json").read_text())["channels"]
    mito, dna = (found[c]["figures"]["bias_signal"] for c in ("mito", "dna"))
    assert mito["delta"] > 0.8  # there is less stain than predicted
    assert mito["p_holm"] < 0.05
    assert dna["p_holm"] > 0.05
    cells = found["mito"]["cells"]
    assert cells["treated"]["share"] > 3 * cells["control"]["share"]
    assert "mito: departure" in result.out
    assert "beyond what the inputs tell" in result.out
    table = lines(out / "conditions.csv")
    assert {line["condition"] for line in table} == {"control", "treated"}
    assert len(table) == (8 + 6) * 2
    assert len(lines(out / "cells.csv")) == sum(int(line["cells"]) for line in table)
    assert len(list((out / "maps").glob("treated_*.ome.tif"))) == 6
    z = tifffile.imread(out / "maps" / "treated_sim0200.ome.tif")
    assert z.dtype == np.float32
    assert z.shape == (2, 200, 200)
    assert "Control and treated cells" in (out / "conditions.html").read_text()


def test_untreated_cells_show_no_difference(folder: Path) -> None:
    compare(folder, "same", "data2.first_seed=300", "data2.fields=6").ok()
    found = json.loads((folder / "same" / "conditions.json").read_text())["channels"]
    assert all(
        entry["figures"][c]["p_holm"] > 0.05
        for entry in found.values()
        for c in ("mae_signal", "bias_signal", "pearson", "departure")
    )


def test_departing_cells_are_those_that_were_treated(folder: Path) -> None:
    """Of cells half of which are treated, the map knows which."""
    from vfn.data.simulated import Specimen

    keys = ["data2.first_seed=400", "data2.fields=4", "data2.treatment=mito_collapse"]
    compare(folder, "half", *keys, "data2.treated=0.5").ok()
    yes, no = [], []
    for line in lines(folder / "half" / "cells.csv"):
        if line["condition"] != "treated" or line["channel"] != "mito":
            continue
        seed = int(line["field"].removeprefix("sim"))
        specimen = Specimen(seed, (200, 200), treatment="mito_collapse", treated=0.5)
        place = round(float(line["row"])), round(float(line["column"]))
        (yes if specimen.treated_cells()[place] else no).append(float(line["departure"]))
    assert min(len(yes), len(no)) >= 8
    auc = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
    assert auc > 0.7


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["data2.match=sim"], ["data2", "trained on", "data2.root"]),
        (["data2.first_seed=200", "data2.match='('"], ["data2.match", "regular expression"]),
        (["data2.first_seed=200", "data2.match=zzz"], ["data2.match=zzz", "matches none"]),
        (["match=sim"], ["match=sim", "data2"]),
        (["data2.first_seed=200", "match=zzz"], ["match=zzz", "matches none"]),
        (["data2=7"], ["data2=7", "data2.root"]),
        (["data2.first_seed=200", "data2.treatment=heat"], ["treatment=heat", "mito_collapse"]),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    folder: Path, keys: list[str], words: list[str]
) -> None:
    compare(folder, "bad", *keys).refused(*words)


def test_two_conditions_in_one_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in [f"ctrl{i}" for i in range(8)] + [f"drug{i}" for i in range(3)]:
        image = rng.integers(0, 3000, (64, 64)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "images" / f"{name}_a.tif", image)
        tifffile.imwrite(tmp_path / "images" / f"{name}_b.tif", image // 2)
    names = [f"drug{i}" for i in range(3)] + ["ctrl6", "ctrl7"]
    data = ["data=folder", "data.root=images", f"data.test_fields=[{','.join(names)}]"]
    tiny = [o for o in TINY if "patches_per_epoch" not in o]
    run(
        "train.py", *data, "task.inputs=[a]", "task.targets=[b]", *tiny,
        "data.patches_per_epoch=8", "run=control", cwd=tmp_path,
    ).ok()  # fmt: skip
    recipe = torch.load(tmp_path / CKPT.removeprefix("ckpt="), weights_only=True)
    assert recipe
    compare(tmp_path, "out", "match=ctrl", "data2.match=drug").ok()
    table = lines(tmp_path / "out" / "conditions.csv")
    assert {(line["condition"], line["field"][:4]) for line in table} == {
        ("control", "ctrl"),
        ("treated", "drug"),
    }
    assert all(line["cells"] == "0" for line in table)  # no channel of nuclei

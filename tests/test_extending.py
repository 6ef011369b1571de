"""docs/extending.md, word for word: a task, a data set, a loss and a network of one's own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.cli import ROOT, clean_environment, run
from tests.conftest import make_image, write
from tests.test_cli import SIMULATED, read_csv

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"`((?:conf|my_package)/[\w/]+\.(?:yaml|py))`[^`]*```\w+\n(.*?)```", PAGE, re.S)
)
NET = "my_package.nets.Flat"
SMALL = [
    "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=1",
    "trainer=cpu", "logger=csv",
]  # fmt: skip


def test_what_the_page_says_works(tmp_path: Path) -> None:
    assert set(FILES) == {
        "conf/task/tubulin.yaml", "conf/data/opera.yaml", "conf/loss/sharp.yaml", "my_package/losses.py",
        "my_package/nets.py",
    }  # fmt: skip
    for name in ("vfn", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "predict.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for seed, (well, channel) in enumerate((w, c) for w in range(1, 5) for c in (2, 3, 4, 5)):
        path = tmp_path / "images" / f"r01c0{well}f01p01-ch{channel}sk1fk1fl1.tiff"
        write(path, make_image(seed, "uint16"))
    chosen = [
        "data=opera", "data.root=images", "task=tubulin", "loss=sharp", "loss.terms={my_package.losses.edges: 0.5}",
        "model=own", f"model.generator._target_={NET}", "+model.generator.width=8", "run=r", *SMALL,
    ]  # fmt: skip
    refused = command(tmp_path, "train.py", *chosen, "data.channels={rna: ch1}", code=2)
    assert "add it by +data.channels.rna=VALUE" in refused
    command(tmp_path, "train.py", *chosen)
    folder = tmp_path / "outputs" / "r"
    (row,) = read_csv(folder / "metrics.csv")
    assert float(row["train/edges"]) > 0
    assert float(row["train/ms_ssim"]) > 0
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["model"]["generator"] == {"_target_": NET, "width": 8}
    assert stored["task"]["inputs"] == ["dna", "er"]
    best = "ckpt=outputs/r/checkpoints/best.ckpt"
    refused = command(tmp_path, "predict.py", best, "input=images", "output=p", code=2)
    assert f"trust={NET}" in refused
    command(tmp_path, "predict.py", best, "input=images", "output=p", f"trust={NET}")
    assert len(list((tmp_path / "p").glob("*.ome.tif"))) == 4


def command(folder: Path, script: str, *words: str, code: int = 0) -> str:
    """What a process of its own, whose vfn is the copy in `folder`, says on stderr."""
    result = subprocess.run(
        [sys.executable, script, *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **clean_environment(), "PYTHONPATH": ""},
    )  # fmt: skip
    assert result.returncode == code, result.stdout + result.stderr
    return result.stderr


def test_terms_that_are_none(tmp_path: Path) -> None:
    train = ("train.py", *SIMULATED, *SMALL)
    run(*train, "loss.terms={edgy.sharp: 1}", cwd=tmp_path).refused(
        "loss.terms=edgy.sharp", "imported"
    )
    run(*train, "loss.terms={math.pi: 1}", cwd=tmp_path).refused("math.pi", "no function")
    run(*train, "loss.terms=[edges]", cwd=tmp_path).refused("{NAME: WEIGHT}")
    run(*train, "model=own", cwd=tmp_path).refused("model.generator._target_")
    run(*train, "model.generator.name=sync", cwd=tmp_path).refused("model.generator.name=sync")
    run(*train, "model.generator.name=../x", cwd=tmp_path).refused("convnext_unet")

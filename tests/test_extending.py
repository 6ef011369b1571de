"""docs/extending.md, word for word: configs and code of one's own, the package untouched."""

import re
from pathlib import Path

import pytest
import yaml

from tests.cli import ROOT, finish, run, start
from tests.conftest import make_image, write
from tests.test_cli import SIMULATED, read_csv

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(
    re.findall(r"`((?:conf|my_package)/[\w/]+\.(?:yaml|py))`[^`]*```\w+\n(.*?)```", PAGE, re.S)
)
NET = "my_package.nets.Flat"
CONF = ["--config-dir", "conf"]
SMALL = [
    "data.patch_size=64", "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=1",
    "trainer=cpu",
]  # fmt: skip
BEST = "ckpt=outputs/flat/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, images, and a model that the page's experiment trained."""
    folder = tmp_path_factory.mktemp("project")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    for seed, (well, channel) in enumerate((w, c) for w in range(1, 5) for c in (2, 3, 4, 5)):
        path = folder / "images" / f"r01c0{well}f01p01-ch{channel}sk1fk1fl1.tiff"
        write(path, make_image(seed, "uint16"))
    train = ["train", *CONF, "experiment=flat_edges", "data.root=images", "run=flat", *SMALL]
    trained = finish(start("vfn", *train, cwd=folder))  # a process of its own, as users start it
    assert trained.code == 0, trained.out + trained.err
    return folder


def vfn(folder: Path, *words: str, code: int = 0) -> str:
    """Run a command in `folder`; return its output."""
    result = run("vfn", *words, cwd=folder)
    assert result.code == code, result.out + result.err
    return result.out + result.err


def test_the_page_shows_every_group() -> None:
    assert set(FILES) == {
        "conf/task/tubulin.yaml", "conf/data/opera.yaml", "conf/data/phenix.yaml", "my_package/data.py", "conf/loss/sharp.yaml", "conf/model/flat.yaml",
        "conf/augment/rotate.yaml", "conf/callbacks/gradient_norm.yaml", "conf/logger/lines.yaml",
        "conf/experiment/flat_edges.yaml", "my_package/losses.py", "my_package/nets.py", "my_package/callbacks.py",
    }  # fmt: skip


def test_every_choice_of_the_experiment_is_trained_with(project: Path) -> None:
    folder = project / "outputs" / "flat"
    (row,) = read_csv(folder / "metrics.csv")
    assert float(row["train/edges"]) > 0
    assert float(row["train/ms_ssim"]) > 0
    assert float(row["grad_norm"]) > 0
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["model"]["generator"] == {"_target_": NET, "width": 8}
    assert stored["task"]["inputs"] == ["dna", "er"]
    assert stored["data"]["channels"]["tubulin"] == "ch4"
    assert stored["augment"]["transforms"][0]["limit"] == 180
    assert list((project / "lines").rglob("metrics.csv"))


def test_a_class_of_ones_own_is_named_again(project: Path) -> None:
    predict = ("predict", BEST, "input=images", "output=p")
    assert f"trust={NET}" in vfn(project, *predict, code=2)
    vfn(project, *predict, f"trust={NET}")
    assert len(list((project / "p").glob("*.ome.tif"))) == 4
    more = [*CONF, "resume=outputs/flat", "trainer.max_epochs=2"]
    assert f"{NET}" in vfn(project, "train", *more, code=2)
    vfn(project, "train", *more, "experiment=flat_edges")
    assert len(read_csv(project / "outputs" / "flat" / "metrics.csv")) == 2


def test_a_data_set_of_ones_own(project: Path) -> None:
    train = (
        "train",
        *CONF,
        "data=phenix",
        "data.root=images",
        "task=tubulin",
        "logger=csv",
        "loss=mae",
    )
    said = vfn(project, *train, "run=p", "model.generator.width=4", *SMALL)
    assert "1 train, 1 val, 1 test" in said  # the fourth column is left out
    refused = vfn(project, *train, "run=q", "+data.colums=2", code=2)
    assert "data.colums=2" in refused
    assert "columns" in refused
    evaluate = ("evaluate", "ckpt=outputs/p/checkpoints/best.ckpt", "output=scores")
    assert "trust=my_package.data.Opera" in vfn(project, *evaluate, code=2)
    vfn(project, *evaluate, "trust=my_package.data.Opera")
    assert len(read_csv(project / "scores" / "metrics.csv")) == 1


def test_a_misspelt_choice_or_key_of_ones_own_is_refused(project: Path) -> None:
    train = ("train", *CONF, "data=opera", "data.root=images", "task=tubulin", "run=r")
    assert "did you mean sharp?" in vfn(project, *train, "loss=shrp", code=2)
    assert "did you mean data.split?" in vfn(project, *train, "data.splt=well", code=2)
    refused = vfn(project, *train, "data.channels={rna: ch1}", code=2)
    assert "add it by +data.channels.rna=VALUE" in refused
    assert not (project / "outputs" / "r").exists()


def test_terms_that_are_none(tmp_path: Path) -> None:
    train = ("train.py", *SIMULATED, *SMALL, "logger=csv")
    run(*train, "loss.terms={edgy.sharp: 1}", cwd=tmp_path).refused(
        "loss.terms=edgy.sharp", "imported"
    )
    run(*train, "loss.terms={math.pi: 1}", cwd=tmp_path).refused("math.pi", "no function")
    run(*train, "loss.terms=[edges]", cwd=tmp_path).refused("{NAME: WEIGHT}")
    run(*train, "model=own", cwd=tmp_path).refused("model.generator._target_")
    run(*train, "model.generator.name=sync", cwd=tmp_path).refused("model.generator.name=sync")
    run(*train, "model.generator.name=../x", cwd=tmp_path).refused("convnext_unet")


def test_a_data_set_that_a_checkpoint_names_is_imported_only_if_trusted(tmp_path: Path) -> None:
    (tmp_path / "own_set.py").write_text(
        "from vfn.data.sets import Simulated\n\n\nopen('imported', 'a').close()\n\n\nclass Mine(Simulated): ...\n"
    )
    run("train.py", *SIMULATED, *SMALL, "data._target_=own_set.Mine", "run=r", cwd=tmp_path).ok()
    (tmp_path / "imported").unlink()
    words = ("evaluate.py", "ckpt=outputs/r/checkpoints/best.ckpt", "output=e")
    run(*words, cwd=tmp_path).refused("own_set.Mine", "add trust=own_set.Mine")
    again = ("train.py", "resume=outputs/r", "trainer.max_epochs=2")
    run(*again, cwd=tmp_path).refused("config.yaml", "add trust=own_set.Mine")
    assert not (tmp_path / "imported").exists()
    run(*words, "trust=own_set.Mine", cwd=tmp_path).ok()
    assert (tmp_path / "imported").exists()

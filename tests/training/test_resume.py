"""What a resumed run may change, and what is looked at before anything is written."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tests.cli import run
from vfn.cli.help import CONF
from vfn.errors import UserError
from vfn.training.resume import check_fields, check_networks, check_whole, merged

FOLDER = Path("outputs/m")
BEGUN = [
    "data=folder",
    "task=custom",
    "task.inputs=[rna]",
    "task.targets=[dna]",
    "model=best",
    "logger=csv",
]


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = HydraConfig.instance().cfg
    yield
    HydraConfig.instance().cfg = before


def composed(*words: str) -> DictConfig:
    config = compose("train", overrides=list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    OmegaConf.set_struct(config, False)
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def goes_on(*words: str, root: str | None = None) -> DictConfig:
    before = composed(*BEGUN, "run=m", f"data.root={root or 'null'}")
    return merged(before, composed("resume=outputs/m", *words), FOLDER)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("task.inputs=[dna]", "task.inputs=['dna']: the run in outputs/m has ['rna']"),
        ("data.split_seed=5", "data.split_seed=5: the run in outputs/m has 0"),
        ("data.split=spatial", "data.split=spatial: the run in outputs/m has auto"),
        ("data.val_fraction=0.5", "data.val_fraction=0.5"),
        ("data.test_fields=[a]", "data.test_fields=['a']"),
        ("data.exclude=a.csv", "data.exclude=a.csv: the run in outputs/m has None"),
        ("data.pattern=x", "data.pattern=x"),
        ("data.range=full", "data.range=full"),
        ("data.patch_size=128", "data.patch_size=128"),
        ("model.generator.width=16", "model.generator.width=16: the run in outputs/m has 32"),
        ("seed=1", "seed=1"),
        ("data=simulated", "data"),
        ("init=other.ckpt", "init=other.ckpt: the run in outputs/m goes on from its own weights"),
    ],
)
def test_what_belongs_to_the_run_stays(word: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        goes_on(word)
    assert str(caught.value).startswith(says)
    assert "init=" in str(caught.value)


def test_what_may_change() -> None:
    after = goes_on(
        "trainer=gpu", "trainer.max_epochs=7", "model.adam.lr_generator=1e-5", "loss.mae=2.0",
        "logger=tensorboard", "data.num_workers=3", "model.ema=0.9", "card.note=x",
    )  # fmt: skip
    assert (after.trainer.name, after.trainer.max_epochs) == ("gpu", 7)
    assert (after.model.adam.lr_generator, after.loss.mae, after.model.ema) == (1e-5, 2.0, 0.9)
    assert (after.data.num_workers, after.logger.name) == (3, "tensorboard")
    assert (after.resume, after.init, after.run) == ("outputs/m", None, "m")


def test_the_same_command_goes_on() -> None:
    assert goes_on(*BEGUN, "run=other").task.inputs == ["rna"]


def test_images_that_were_moved(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    moved = goes_on("data.root=new", root=str(tmp_path / "gone"))
    assert moved.data.root == "new"
    with pytest.raises(UserError, match=r"^data\.root=new: the run in outputs/m has .*here"):
        goes_on("data.root=new", root=str(tmp_path / "here"))


def test_a_config_that_lacks_something() -> None:
    config = composed(*BEGUN)
    check_whole(config, Path("config.yaml"))
    del config.trainer["max_epochs"]
    with pytest.raises(UserError, match=r"^config\.yaml: lacks trainer\.max_epochs"):
        check_whole(config, Path("config.yaml"))
    with pytest.raises(UserError, match="lacks seed"):
        check_whole(OmegaConf.create({}), Path("config.yaml"))


def test_another_network() -> None:
    generator, discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
    state = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    state |= {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    check_networks({"state_dict": state}, generator, discriminator, FOLDER)
    for other in ((nn.Linear(2, 4), discriminator), (nn.Linear(2, 3, bias=False), discriminator)):
        with pytest.raises(UserError, match="another generator"):
            check_networks({"state_dict": state}, *other, FOLDER)
    with pytest.raises(UserError, match="another discriminator"):
        check_networks({"state_dict": state}, generator, None, FOLDER)


def test_other_images() -> None:
    recipe: dict[str, Any] = {
        "split": {
            "train": [("a", None), ("b", [[0, 4], [0, 5]])],
            "val": [],
            "test": [("c", None)],
        },
        "task": {"inputs": ["rna"], "targets": ["dna"]},
        "inputs": [{"low": 1.0, "high": 9.0}],
        "targets": [{"low": 0.0, "high": 5.0}],
    }
    same = copy.deepcopy(recipe)
    same["split"]["train"] = [["b", ((0, 4), (0, 5))], ["a", None]]
    check_fields(recipe, same, FOLDER)
    other = copy.deepcopy(recipe)
    other["split"]["train"][0], other["split"]["test"][0] = ("c", None), ("a", None)
    with pytest.raises(UserError, match=r"the train fields are not those of the run \(first a\)"):
        check_fields(recipe, other, FOLDER)
    other = copy.deepcopy(recipe)
    other["targets"][0]["high"] = 6.0
    with pytest.raises(UserError, match="dna has grey values 0 to 6, the run has 0 to 5"):
        check_fields(recipe, other, FOLDER)


SMALL = [
    "data=simulated", "model=unet", "data.fields=4", "data.height=70", "data.width=91", "data.patch_size=64",
    "data.batch_size=2", "data.patches_per_epoch=4", "model.generator.width=4",
    "model.generator.max_width=8", "loss=mae", "logger=csv", "trainer=cpu", "trainer.precision=32-true",
    "run=r",
]  # fmt: skip


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    said = run("train.py", *SMALL, "trainer.max_epochs=1", cwd=tmp_path).ok().out
    assert "trainer.max_epochs=1 is reached; for more epochs give resume=outputs/r" in said
    folder = tmp_path / "outputs" / "r"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    width = run("train.py", "resume=outputs/r", "model.generator.width=8", cwd=tmp_path)
    width.refused("model.generator.width=8: the run in outputs/r has 4")
    other = run("train.py", "resume=outputs/r", "run=other", cwd=tmp_path)
    other.refused("run=other: resume=outputs/r goes on in that folder")
    stored = folder / "config.yaml"
    for text, says in (
        (before[stored].replace(b"  width: 4", b"  width: 8", 1), "another generator"),
        (before[stored].replace(b"run: r", b"run: ${oc.env:HOME}"), "holds a reference"),
        (before[stored] + b"wings: 2\n", "config.yaml: wings: no such setting"),
    ):
        stored.write_bytes(text)
        run("train.py", "resume=outputs/r", "trainer.max_epochs=2", cwd=tmp_path).refused(says)
        assert stored.read_bytes() == text
    stored.write_bytes(before[stored])
    assert {
        p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "log.txt"
    } == {path: content for path, content in before.items() if path.name != "log.txt"}
    more = ("resume=outputs/r", "trainer.max_epochs=2", "model.adam.lr_generator=3e-5")
    run("train.py", *more, cwd=tmp_path).ok()
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 3e-5
    assert "lr_generator: 3.0e-05" in stored.read_text()


def test_a_diverged_training_is_refused(tmp_path: Path) -> None:
    failed = run(
        "train.py", *SMALL, "model.adam.lr_generator=1e30", "trainer.max_epochs=3", cwd=tmp_path
    )
    line = failed.refused("diverged", "not finite", "model.adam.lr_generator=1e+30", "run=NAME")
    assert "lr_discriminator" not in line  # there is none
    assert not (tmp_path / "outputs" / "r" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["data.batch_size=1"],
            "give data.batch_size=2, data.patch_size=128 or model.generator.depth=5",
        ),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp: unknown; choose one of auto, ddp"),
        (["trainer.devices=0"], "trainer.devices=0"),
    ],
)
def test_what_cannot_be_trained(words: list[str], says: str, tmp_path: Path) -> None:
    run("train.py", *SMALL, *words, cwd=tmp_path).refused(says)
    assert not (tmp_path / "outputs" / "r" / "config.yaml").exists()

"""A setting that no code reads is refused, however it came into the config."""

import re
from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tests.cli import run
from vfn.cli.groups import with_default_model
from vfn.cli.help import CONF, check_words
from vfn.cli.settings import check_settings, idle
from vfn.commands.evaluate import evaluate
from vfn.data.config import DataConfig
from vfn.data.samples import Task
from vfn.data.sets import make_data
from vfn.errors import UserError
from vfn.export.command import export
from vfn.focus.command import focus

COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def check(command: str, *words: str) -> None:
    check_settings(compose(command, overrides=list(words)), command)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_are_settings(command: str) -> None:
    check(command)
    for word in ("+nonsense.key=1", "++x=1", "+experiments=foo"):
        with pytest.raises(UserError, match=r"^\w+(\.key)?: no such setting"):
            check(command, word)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["+trainer.gradient_clip=1"], "did you mean trainer.gradient_clip_val?"),
        (["+trainer.logger=true"], "trainer.logger: is a group of its own; give logger=CHOICE"),
        (["+trainer.max_epoch=2"], "did you mean trainer.max_epochs?"),
        (["+callbacks.x=1"], "callbacks.x: no such setting"),
        (["+data.fields=3", "data=folder"], "data.fields: no such setting; it is one of data=simulated"),
        (["+data.na=0.5", "data=u2os_cps"], "it is one of data=defocused"),
        (["+sweep.trials=3"], "sweep.trials: no such setting; it is one of sweep=optuna"),
        (["+logger.project=x", "logger=csv"], "it is one of logger=wandb"),
        (["+task.output=x", "task=custom"], "task.output: no such setting"),
        (["+card.licenze=x"], "did you mean card.licence?"),
        (["trainer.max_epochs=many"], "trainer.max_epochs=many: give a whole number, as 100 is"),
        (["model.generator.width=wide"], "model.generator.width=wide: give a whole number"),
        (["loss.mae=nan"], "loss.mae=nan: give a finite number"),
        (["loss.mae=true"], "loss.mae=True: give a finite number"),
        (["data.augment=3"], "data.augment=3: give true or false"),
        (["model.generator=5"], "model.generator=5: give a table of settings"),
        (["data.root={a: 1}"], "data.root={'a': 1}: give one value"),
    ],
)  # fmt: skip
def test_refused(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        check("train", *words)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["+data.channels.dna=d0", "data=folder"]),  # tables that are null by default
        ("train", ["data.fixed={dna: [0, 9]}"]),
        ("train", ["+loss.terms.edges=0.5"]),
        ("train", ["+model.generator.wings=2"]),  # options of somebody's network: it checks them
        ("train", ["sweep=optuna", "sweep.space={loss.mae: [1, 2]}"]),
        ("train", ["data.batch_size=${oc.env:NOT_SET}"]),
        ("train", ["trainer.devices=[0,1]"]),
        ("train", ["trainer.fast_dev_run=3", "trainer.limit_val_batches=0.5", "seed=null"]),
        ("evaluate", ["+data.first_seed=500"]),  # of the checkpoint's data set, which is not known here
        ("evaluate", ["data2=treated"]),
        ("calibrate", ["+data.first_seed=500"]),
        ("doctor", ["freeze=encoder", "card.note=x"]),  # train.py's
    ],
)  # fmt: skip
def test_taken(command: str, words: list[str]) -> None:
    check(command, *words)


def test_keys_of_a_config_that_was_written_by_hand() -> None:
    config = OmegaConf.create({"data": {"name": "folder", "z_nought": 1}, "seed": 0})
    with pytest.raises(UserError, match=r"data\.z_nought: no such setting"):
        check_settings(config, "train")


@pytest.mark.parametrize("word", ["~trainer.max_time", "~data", "~seed=0"])
def test_nothing_is_taken_out(word: str) -> None:
    with pytest.raises(UserError, match=f"^{word.split('=')[0]}: a setting cannot be taken out"):
        check_words([word], "train")
    check_words(["~hydra.sweeper.x"], "train")


def test_settings_without_effect_are_told() -> None:
    typed = [
        "loss.r1",
        "model.discriminator.width",
        "loss.tolerance_beta2",
        "loss.mae",
        "data.refocus",
    ]
    assert idle(compose("train", overrides=["loss=mae"]), typed) == [
        "loss.r1: has no effect, since loss.adversarial is 0.0",
        "model.discriminator.width: has no effect, since loss.adversarial is 0.0",
        "loss.tolerance_beta2: has no effect, since loss.tolerance is 0.0",
    ]
    assert idle(compose("train", overrides=["loss=tolerance"]), typed) == []


def test_a_data_set_takes_its_own_keys_alone() -> None:
    task = Task("t", ("phase",), ("dapi",))
    sound = DataConfig.from_dict({"name": "simulated", "fields": 4, "treated": 0.5})
    assert make_data(task, sound).config.extra == {"fields": 4, "treated": 0.5}
    for name in ("folder", "simulated"):
        with pytest.raises(UserError, match=rf"data\.na=1\.0: data={name} has no such setting"):
            make_data(task, DataConfig.from_dict({"name": name, "na": 1.0}))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pred=a", "truth=b", "data.root=c"], "data.root: is read with ckpt=... alone"),
        (["pred=a", "truth=b", "tile=64"], "tile: is read with ckpt=... alone"),
        (["ckpt=a", "channels=[dna]"], "channels: is read with pred=... alone"),
        (["ckpt=a", "unit=well"], "unit: is read with compare=... alone"),
        (["export", "ckpt=a", "license=MIT"], "license: is read with format=bioimage alone"),
        (
            ["focus", "ckpt=a", "input=b", "data.root=c"],
            "data.root: is read without input=... alone",
        ),
    ],
)
def test_what_another_form_reads_is_refused(words: list[str], says: str) -> None:
    before = HydraConfig.instance().cfg
    named = {"export": export, "focus": focus}
    work = named.get(words[0], evaluate)
    command, words = (words[0], words[1:]) if words[0] in named else ("evaluate", words)
    config = compose(command, overrides=[*words, "output=o"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        with pytest.raises(UserError, match=f"^{re.escape(says)}"):
            work(config)
    finally:
        HydraConfig.instance().cfg = before


def test_one_line_and_nothing_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    refused = run("train.py", "+trainer.limit_batches=2", "run=r", cwd=tmp_path)
    refused.refused("trainer.limit_batches: no such setting")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ([], False),
        (["data=folder"], False),
        (["data=u2os_cps", "task=er"], True),
        (["data=mda_mb_231,u2os_af", "-m"], True),
        (["data=u2os_cps", "model=recommended"], False),
        (["data=u2os_cps", "experiment=mine"], False),
        (["data=u2os_cps", "resume=outputs/r"], False),
        (["data=u2os_cps", "resume=auto"], True),
    ],
)
def test_the_papers_network_for_the_papers_data(words: list[str], added: bool) -> None:
    assert with_default_model(words) == [*words, *(["model=virfluonet"] if added else [])]


def test_data_sets_of_different_defaults() -> None:
    with pytest.raises(UserError, match=r"data=folder,u2os_cps: u2os_cps is trained with"):
        with_default_model(["-m", "data=folder,u2os_cps"])


def test_the_name_of_the_recommended_model_in_earlier_versions() -> None:
    default, best = (compose("train", overrides=words) for words in ([], ["model=best"]))
    assert (default.model.name, best.model.name) == ("recommended", "best")
    assert {**default.model, "name": ""} == {**best.model, "name": ""}
    assert default.loss == best.loss
    assert default.loss.name == "mae"

"""The groups `callbacks` and `logger`: what is built of them, and what a run folder keeps."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from vfn.cli.groups import spelled
from vfn.cli.help import CONF, choices, groups_of
from vfn.cli.settings import check_settings
from vfn.errors import UserError
from vfn.training.callbacks import Checkpoints, EpochTable, ModelCard, Samples
from vfn.training.instantiators import instantiate_callbacks, instantiate_loggers, leave_out_shipped

LIGHTNING = "lightning.pytorch.callbacks"


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def stored(*words: str) -> DictConfig:
    """The config of a run folder, read back."""
    config = compose("train", overrides=spelled(words, "train"))
    check_settings(config, "train")
    leave_out_shipped(config)
    config.run, config.data.root = "r", None
    return OmegaConf.create(OmegaConf.to_yaml(config, resolve=True))


def test_a_run_folder_names_no_class_of_ours() -> None:
    config = stored("callbacks=early_stopping", "callbacks.early_stopping.patience=3")
    assert config.callbacks == {"early_stopping": {"patience": 3}}
    assert config.logger == {"name": "wandb", "project": "vfn", "group": None}
    assert "callbacks" not in stored()
    check_settings(config, "train")
    leave_out_shipped(config)
    assert config.callbacks == {"early_stopping": {"patience": 3}}


def test_callbacks_follow_the_settings_that_they_refer_to() -> None:
    config = stored("+callbacks.early=early_stopping", "+callbacks.lr_monitor.log_momentum=true",
                    "callbacks=lr_monitor")  # fmt: skip
    config.trainer.sample_every_n_epochs, config.monitor = 7, "val/psnr"  # as a resumed run may
    made = {type(c): c for c in instantiate_callbacks(config, progress_bar=False)}
    assert made[Samples].every_n_epochs == 7  # type: ignore[attr-defined]
    assert made[Checkpoints].mode == "max"  # type: ignore[attr-defined]
    assert made[EarlyStopping].patience == 10  # type: ignore[attr-defined]
    assert made[LearningRateMonitor].log_momentum  # type: ignore[attr-defined]
    assert not any(issubclass(kind, ProgressBar) for kind in made)


def test_nothing_but_what_a_run_folder_promises() -> None:
    for word in ("callbacks=none", "callbacks=null"):
        kinds = {type(c) for c in instantiate_callbacks(stored(word), progress_bar=True)}
        assert {ModelCard, EpochTable, Checkpoints} <= kinds
        assert Samples not in kinds
    assert Samples in {type(c) for c in instantiate_callbacks(OmegaConf.create(stored()), True)}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["callbacks.epoch_table=null"], "callbacks.epoch_table: writes what a run folder promises"),
        (["callbacks.checkpoints._target_=lightning.Callback", "++callbacks.checkpoints={_target_: lightning.Callback}"], "callbacks.checkpoints"),
        ([f"+callbacks.x._target_={LIGHTNING}.NoSuch"], "callbacks.x"),
        ([f"+callbacks.x._target_={LIGHTNING}.EarlyStopping"], "monitor"),
        (["+callbacks.samples.often=1"], "often"),
        (["+callbacks.x._target_=collections.OrderedDict"], "callbacks.x: OrderedDict is no callback"),
        ([f"+callbacks.x._target_={LIGHTNING}.EMAWeightAveraging"], "give model.ema=0.999"),
    ],
)  # fmt: skip
def test_callbacks_that_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        instantiate_callbacks(stored(*words), progress_bar=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (["logger=csv"], []),
        (["logger=null"], []),
        (["logger=tensorboard"], [TensorBoardLogger]),
        (["logger=many"], [WandbLogger, TensorBoardLogger]),
        (["logger=[tensorboard,wandb]"], [TensorBoardLogger, WandbLogger]),
        (["logger=csv", "+logger.tb=tensorboard"], [TensorBoardLogger]),
        (["+logger.tb=tensorboard"], [WandbLogger, TensorBoardLogger]),
    ],
)
def test_loggers(words: list[str], kinds: list[type], tmp_path: Path) -> None:
    config = stored(*words)
    check_settings(config, "train")
    made = instantiate_loggers(config, tmp_path)
    assert sorted(type(logger).__name__ for logger in made) == sorted(k.__name__ for k in kinds)
    assert all(Path(str(logger.save_dir)).is_relative_to(tmp_path) for logger in made)
    assert not list(tmp_path.iterdir())  # nothing is written before the training starts


def test_run_folders_of_an_earlier_version_have_the_name_alone(tmp_path: Path) -> None:
    before = {"name": "wandb", "project": "mine", "group": "g"}
    tags = {key: {"name": key} for key in ("data", "task", "model")}
    (logger,) = instantiate_loggers(OmegaConf.create({"logger": before, **tags}), tmp_path)
    assert isinstance(logger, WandbLogger)
    assert logger.name == "mine"  # Lightning's word for the project
    assert instantiate_loggers(OmegaConf.create({"logger": {"name": "csv"}}), tmp_path) == []


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", NotInstalled())
    with pytest.raises(UserError, match=r"^logger\.mlflow: .*pip install mlflow"):
        instantiate_loggers(stored("logger=mlflow"), tmp_path)


class NotInstalled:
    """Lightning's answer for a package that is not there."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "Module not found: mlflow. Try running `pip install mlflow`"


def test_spelling() -> None:
    words = ["logger=null", "callbacks=null", "experiment=null", "+experiment=af", "+debug=fdr",
             "+callbacks.early=early_stopping", "+callbacks.x=1", "+loss.terms.edges=1"]  # fmt: skip
    assert spelled(words, "train") == [
        "logger=csv", "callbacks=none", "experiment=af", "debug=fdr",
        "+callbacks@callbacks.early=early_stopping", "+callbacks.x=1", "+loss.terms.edges=1",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"^data=null: choose one of .*simulated"):
        spelled(["data=null"], "train")


# The paper's Table 1, and the tables of docs/results.md.
ROWS = {
    "phc_fluo_1": ("mda_mb_231", "dapi_from_phase"),
    "phc_fluo_actin": ("mda_mb_231", "actin_from_phase"),
    "phc_fluo_2": ("mda_mb_231", "vinculin_from_phase"),
    "fluo_fluo_1": ("mda_mb_231", "vinculin_from_actin"),
    "af": ("u2os_af", "refocus"),
    "fluo_fluo_2": ("u2os_cps", "dna"),
    "fluo_fluo_3": ("u2os_cps", "mito"),
    "fluo_fluo_4": ("u2os_cps", "er"),
    "fluo_fluo_mito": ("u2os_cps", "dna_from_mito"),
    "fluo_fluo_golgi_actin": ("u2os_cps", "dna_from_golgi_actin"),
    "fluo_fluo_rna": ("u2os_cps", "dna_from_rna"),
    "results_jump": ("folder", "er"),
    "results_daoy": ("folder", "er"),
    "results_deepcell": ("folder", "custom"),
}


def test_every_experiment_is_a_row_of_a_table() -> None:
    assert {*ROWS, "paper", "results"} == {*choices("experiment")}


@pytest.mark.parametrize("name", ROWS)
def test_experiments(name: str) -> None:
    config = compose("train", overrides=[f"experiment={name}"])
    check_settings(config, "train")
    assert (config.data.name, config.task.name) == ROWS[name]
    assert (config.loss.name, config.loss.mae, config.loss.adversarial) == (
        "virfluonet",
        0.99,
        0.01,
    )
    paper = not name.startswith("results")
    assert config.trainer.max_time == ("00:12:00:00" if paper else "00:00:05:00")
    assert config.model.generator.width == (64 if paper else 32)
    assert compose("train", overrides=[f"experiment={name}", "loss=mae"]).loss.adversarial == 0


def test_the_doctor_takes_the_same_groups() -> None:
    assert groups_of("doctor").keys() == groups_of("train").keys()

"""What a W&B dashboard has to show: the offline run files of a sweep and of a search, read back."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
import yaml

from tests import wandb_file
from tests.cli import run
from vfn.models.checkpoint import load_checkpoint
from vfn.training.callbacks import EpochTable

RUN = [
    "data=simulated", "model=virfluonet", "data.fields=4", "data.height=70", "data.width=91", "data.patch_size=64",
    "data.batch_size=2", "data.patches_per_epoch=4", "trainer.max_epochs=2", "trainer=cpu",
    "model.generator.width=4", "model.generator.max_width=8", "model.discriminator.width=4",
    "trainer.log_every_n_steps=1", "trainer.sample_every_n_epochs=1", "logger=wandb",
]  # fmt: skip

NARROW = "sweep.space={model.generator.depth: [6]}"  # RUN has the width


@pytest.fixture(scope="module", autouse=True)
def trained(
    tmp_path_factory: pytest.TempPathFactory, workers: ThreadPoolExecutor
) -> dict[str, Future[Path]]:
    """The folder of each command, at work side by side: W&B waits more than it works."""

    def one(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("wandb")
        env = {"HOME": str(folder), "WANDB_API_KEY": ""}
        run("train.py", *overrides, *RUN, "run=s", cwd=folder, env=env).ok()
        return folder / "outputs" / "s"

    return {
        "sweep": workers.submit(one, "-m", "loss.adversarial=0,0.01"),
        "single": workers.submit(one, "logger.group=mine"),
        "search": workers.submit(one, "sweep=optuna", "sweep.trials=1", NARROW),
    }


@pytest.fixture(scope="module")
def sweep(trained: dict[str, Future[Path]]) -> Path:
    return trained["sweep"].result()


def test_the_runs_of_a_sweep_are_one_group(sweep: Path) -> None:
    runs = [
        wandb_file.read(sweep / f"{n}") for n in ("0_loss.adversarial=0", "1_loss.adversarial=0.01")
    ]
    assert [r.name for r in runs] == ["0_loss.adversarial=0", "1_loss.adversarial=0.01"]
    assert {r.group for r in runs} == {"s"}
    assert runs[0].tags == ["simulated", "dapi_from_phase", "virfluonet", "sweep"]
    assert [r.config["loss"]["adversarial"] for r in runs] == [0, 0.01]


def test_a_run_has_its_whole_config_and_size(sweep: Path) -> None:
    folder = sweep / "1_loss.adversarial=0.01"
    config = dict(wandb_file.read(folder).config)
    parameters = config.pop("parameters")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    assert config == yaml.safe_load((folder / "config.yaml").read_text())
    generator = load_checkpoint(folder / "checkpoints" / "best.ckpt").generator
    assert parameters["generator"] == sum(p.numel() for p in generator.parameters())
    assert parameters["discriminator"] > 0
    assert (
        wandb_file.read(sweep / "0_loss.adversarial=0").config["parameters"]["discriminator"] == 0
    )


def test_the_history_has_losses_scores_speed_and_pictures(sweep: Path) -> None:
    folder = sweep / "1_loss.adversarial=0.01"
    kept = wandb_file.read(folder)
    logged = {key for row in kept.history for key in row}
    assert {
        "epoch", "trainer/global_step", "val/mae", "val/psnr", "images_per_s", "lr/g", "lr/d",
        "train/loss_g_step", "train/loss_g_epoch", "train/loss_d_epoch", "train/mae_epoch",
    } <= logged  # fmt: skip
    assert "gpu_memory_gib" not in logged
    scores = [row["val/mae"] for row in kept.history if "val/mae" in row]
    assert len(scores) == 2
    assert kept.summary["val/mae"] == {"min": min(scores)}
    pictures = [row["samples.filenames"] for row in kept.history if "samples.filenames" in row]
    assert len(pictures) == 2
    (files,) = folder.glob("wandb/offline-run-*/files")
    for (name,), epoch in zip(pictures, (0, 1), strict=True):
        ours = cv2.imread(str(folder / "samples" / f"epoch_{epoch:04d}.png"))
        assert (cv2.imread(str(files / name)) == ours).all()


def test_a_single_run_is_in_the_group_that_was_given(trained: dict[str, Future[Path]]) -> None:
    kept = wandb_file.read(trained["single"].result())
    assert kept.group == "mine"
    assert "sweep" not in kept.tags


def test_the_trials_of_a_search_are_one_group(trained: dict[str, Future[Path]]) -> None:
    kept = wandb_file.read(trained["search"].result() / "trial_000")
    assert kept.group == "s"
    assert kept.tags[-1] == "sweep"
    assert kept.name == "trial_000"


def test_gpu_memory_is_a_column_where_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 3 * 2**29)
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
    trainer = SimpleNamespace(
        is_global_zero=True, callback_metrics={"train/mae": 0.5}, optimizers=[optimizer], loggers=[],
        current_epoch=0, global_step=1, default_root_dir=str(tmp_path),
    )  # fmt: skip
    table = EpochTable()
    table.images, table.seconds = 4, 1.0
    table.on_train_epoch_end(trainer, SimpleNamespace(device=torch.device("cuda"), steps=1))  # type: ignore[arg-type]
    header, row = (tmp_path / "metrics.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["gpu_memory_gib"] == "1.5"

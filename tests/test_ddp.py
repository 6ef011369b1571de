"""Two processes train the model that one trains with the doubled batch (CPU, gloo)."""

import csv
from pathlib import Path

import pytest
import torch

from tests.cli import finish, run, start

RUN = [
    "data=simulated", "data.fields=4", "data.height=64", "data.width=96", "data.patch_size=32",
    "data.patches_per_epoch=16", "data.val_patches=6", "model.generator.width=4",
    "model.generator.depth=3", "model.generator.max_width=8", "model.discriminator.width=4",
    "loss.adversarial=0.1", "model.adam.lr_generator=1e-3", "model.adam.lr_discriminator=1e-3", "logger=csv", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "trainer.max_epochs=2",
]  # fmt: skip
TOLERANCE = 1e-4  # of weights that move by 1e-2; other orders of sums left them 4e-6 apart


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ddp")
    two = start(
        "train.py", *RUN, "run=two", "data.batch_size=2", "trainer=ddp", "trainer.devices=2",
        "trainer.sync_batchnorm=true", cwd=folder,
    )  # fmt: skip
    run("train.py", *RUN, "run=one", "data.batch_size=4", cwd=folder).ok()
    run(
        "train.py", *RUN, "run=half", "data.batch_size=2", "data.patches_per_epoch=8", cwd=folder
    ).ok()
    result = finish(two)
    assert result.code == 0, result.out + result.err
    return {name: folder / "outputs" / name for name in ("one", "two", "half")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Greatest difference, generator and discriminator apart."""
    assert one.keys() == other.keys()
    found = {"generator": 0.0, "discriminator": 0.0}
    for key, value in one.items():
        part = key.split(".")[0]
        difference = float((value.float() - other[key].float()).abs().max())
        found[part] = max(found[part], difference)
    return found


def test_both_networks_are_those_of_one_process(runs: dict[str, Path]) -> None:
    one, two, half = (weights(runs[name]) for name in ("one", "two", "half"))
    same, other = farthest(one, two), farthest(one, half)
    for part in ("generator", "discriminator"):
        assert same[part] < TOLERANCE, (part, same)
        assert other[part] > 100 * TOLERANCE, (part, other)  # half the patches show


def test_figures_are_reduced_and_written_once(runs: dict[str, Path]) -> None:
    one, two = rows(runs["one"]), rows(runs["two"])
    assert [row["epoch"] for row in two] == ["0", "1"]
    for ours, theirs in zip(two, one, strict=True):
        assert ours["batches"] == theirs["batches"]
        for column in ("train/mae", "train/loss_d", "train/loss_g", "val/mae", "val/mse"):
            assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=2e-3), column

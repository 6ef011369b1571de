"""The module in Lightning's own ways: load_from_checkpoint, trainer.validate, test and predict."""

import math
from pathlib import Path

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

from tests.cli import run
from tests.test_cli import SIMULATED, TINY, read_csv
from vfn.cli.entry import trainable_task
from vfn.data.base import StainData
from vfn.models.checkpoint import load_checkpoint
from vfn.models.gan import VirtualStain
from vfn.training.build import stain_data

FIGURES = ("mae", "mse", "psnr", "ssim", "pearson", "psnr_full", "ssim_full")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; its best.ckpt is of its only epoch."""
    folder = tmp_path_factory.mktemp("run")
    keys = ["loss.adversarial=0.01", "model.ema=0.5", "trainer.precision=32-true", "logger=csv"]
    run("train.py", *SIMULATED, *TINY, *keys, "run=m", cwd=folder).ok()
    return folder / "outputs" / "m"


def make(trained: Path) -> tuple[StainData, L.Trainer]:
    config = OmegaConf.load(trained / "config.yaml")
    data = stain_data(config, trainable_task(config.task))  # type: ignore[arg-type]
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return data, L.Trainer(accelerator="cpu", use_distributed_sampler=False, **silent)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_checkpoint_is_a_module_again(trained: Path, name: str) -> None:
    path = trained / "checkpoints" / name
    module = VirtualStain.load_from_checkpoint(path)
    assert module.discriminator is not None
    assert module.objective.adversarial == 0.01
    assert module.training
    x = torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(x), load_checkpoint(path).generator(x))


def test_test_validate_and_predict(trained: Path) -> None:
    module = VirtualStain.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    data, trainer = make(trained)
    (found,) = trainer.validate(module, datamodule=data, verbose=False)
    (row,) = read_csv(trained / "metrics.csv")
    # The figures of the training's own epoch, whose weights best.ckpt holds.
    assert {f"val/{name}" for name in FIGURES} == set(found)
    for name, value in found.items():
        assert value == pytest.approx(float(row[name]), rel=1e-4), name
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    assert set(tested) == {f"test/{name}" for name in FIGURES}
    predicted = trainer.predict(module, datamodule=data)
    assert predicted is not None
    error, pixels = 0.0, 0
    for raw, stain in zip(data.predict_dataloader(), predicted, strict=True):
        batch = data.normaliser(raw)
        error += float((stain - batch.target).abs()[batch.valid].sum())  # type: ignore[operator]
        pixels += int(batch.valid.sum())
    assert tested["test/mae"] == pytest.approx(error / pixels, rel=1e-5)
    assert tested["test/psnr"] == pytest.approx(10 * math.log10(4 / tested["test/mse"]), rel=1e-6)
    covered = {corner[0].name for corner in data.test_dataloader().dataset.corners}  # type: ignore[attr-defined]
    assert covered == {sample.name for sample in data.split.test}

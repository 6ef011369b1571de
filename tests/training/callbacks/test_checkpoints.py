"""Which weights become best.ckpt."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vfn.errors import UserError
from vfn.training.callbacks import Checkpoints
from vfn.training.callbacks.checkpoints import mode_of


class Saver(SimpleNamespace):
    """A trainer that notes the epochs whose weights are saved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            default_root_dir=str(folder),
            current_epoch=0,
            callback_metrics={},
            saved=[],
            sanity_checking=False,
        )

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        assert path == Path(self.default_root_dir) / "checkpoints" / "best.ckpt"
        assert weights_only
        self.saved.append(self.current_epoch)


def validated(callback: Checkpoints, folder: Path, name: str, scores: list[float]) -> list[int]:
    trainer: Any = Saver(folder)
    for trainer.current_epoch, score in enumerate(scores):
        trainer.callback_metrics = {name: score}
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    return trainer.saved


def test_the_metric_tells_what_is_better(tmp_path: Path) -> None:
    scores = [2.0, 1.0, 3.0, 3.0]
    assert validated(Checkpoints(), tmp_path, "val/mae", scores) == [0, 1]
    assert validated(Checkpoints("val/psnr"), tmp_path, "val/psnr", scores) == [0, 2]
    assert validated(Checkpoints("val/dice", "max"), tmp_path, "val/dice", scores) == [0, 2]
    # A first score is kept even if it is NaN, and any other is better.
    assert validated(Checkpoints("val/ssim"), tmp_path, "val/ssim", [math.nan, -1, -2]) == [0, 1]


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/mae", "min"), ("val/mse", "min"), ("val/psnr", "max"), ("val/ssim_signal", "max"),
        ("val/pearson", "max"),
    ],
)  # fmt: skip
def test_modes(monitor: str, mode: str) -> None:
    assert mode_of(monitor) == mode


@pytest.mark.parametrize("monitor", ["val/maelstrom", "train/mae", "mae", "val/dice"])
def test_no_such_metric(monitor: str) -> None:
    with pytest.raises(UserError, match=rf"^monitor={monitor}: give one of val/mae, "):
        Checkpoints(monitor)


def test_a_metric_that_the_validation_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^monitor=val/psnr: the validation has val/mae$"):
        validated(Checkpoints("val/psnr"), tmp_path, "val/mae", [1.0])
    with pytest.raises(UserError, match=r"mode=best: unknown; choose min or max"):
        Checkpoints(mode="best")


def test_a_resumed_run_must_beat_its_score_unless_the_metric_is_another(tmp_path: Path) -> None:
    before = Checkpoints()
    validated(before, tmp_path, "val/mae", [1.0])
    same, other, old = Checkpoints(), Checkpoints("val/mse"), Checkpoints()
    same.load_state_dict(before.state_dict())
    other.load_state_dict(before.state_dict())
    old.load_state_dict({"best": 1.0, "best_epoch": 0})  # of an earlier version
    assert validated(same, tmp_path, "val/mae", [1.5, 0.5]) == [1]
    assert validated(old, tmp_path, "val/mae", [1.5, 0.5]) == [1]
    assert validated(other, tmp_path, "val/mse", [1.5, 2.0]) == [0]

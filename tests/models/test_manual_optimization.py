"""Accumulated, clipped and float16 gradients of two networks against those of one plain batch."""

import warnings
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vfn.data.batch import Batch
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.models.losses import LossWeights
from vfn.models.manual_optimization import SharedScaler
from vfn.models.nets.discriminator import Discriminator

OBJECTIVE = LossWeights(1.0, 0.5, 0.3, "sum", feature_matching=0.2, r1=0.1, r1_every=2)
SIZE = 8


class Judge(Discriminator):
    """A discriminator without batch norm: the gradients of two halves add up to those of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, SIZE)

    def judge(self, condition: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = torch.tanh(self.first(torch.cat([condition, image], 1)))
        return self.second(features).flatten(1), [features]


def make_generator() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1))


def fitted(batches: list[Batch], plugin: Any = None, **options: Any) -> VirtualStain:
    """The module after one epoch, its last gradients still there."""
    module = VirtualStain(
        make_generator(), Judge(), OBJECTIVE, AdamSettings(1e-3, 1e-3), {}, ema=0.5
    )  # type: ignore[arg-type]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, plugins=plugin, **options,
    )  # fmt: skip
    module.take_over(trainer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*num_workers.*|.*logging interval.*|.*val_dataloader.*")
        trainer.fit(module, DataLoader(batches, batch_size=None, shuffle=False))  # type: ignore[arg-type]
    return module


def images(count: int, size: int) -> list[Batch]:
    """`count` batches; of whatever size, they hold the same images."""
    draw = torch.Generator().manual_seed(1)
    inputs, targets = (
        (torch.rand(count * size, channels, SIZE, SIZE, generator=draw) * 2 - 1).split(size)
        for channels in (2, 1)
    )
    valid = torch.ones(size, 1, SIZE, SIZE, dtype=torch.bool)
    return [Batch(x, y, valid) for x, y in zip(inputs, targets, strict=True)]


def assert_close(one: VirtualStain, other: VirtualStain, **tolerance: float) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=name, **tolerance)  # type: ignore[arg-type]


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def test_two_halves_are_the_whole() -> None:
    whole = fitted(images(4, 4))
    halves = fitted(images(8, 2), accumulate_grad_batches=2)
    assert (whole.steps, whole.updates, halves.steps, halves.updates) == (4, 4, 8, 4)
    assert_close(halves, whole, rtol=1e-4, atol=1e-6)
    assert halves.trainer.global_step == 8  # of two optimisers


def test_what_is_left_at_the_end_of_an_epoch_is_stepped_on() -> None:
    module = fitted(images(5, 2), accumulate_grad_batches=3)
    assert (module.steps, module.updates, module.waiting) == (5, 2, 0)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_both_networks_are_clipped(algorithm: str) -> None:
    free = fitted(images(1, 2))
    clipped = fitted(images(1, 2), gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
    for name in ("generator", "discriminator"):
        before, after = gradients(getattr(free, name)), gradients(getattr(clipped, name))
        if algorithm == "norm":
            torch.testing.assert_close(after, 0.01 * before / before.norm(), rtol=1e-3, atol=1e-7)
        else:
            torch.testing.assert_close(after, before.clamp(-0.01, 0.01), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}])
def test_float16_learns_what_float32_learns(options: dict[str, Any]) -> None:
    plugin = SharedScaler("cpu")
    full, half = fitted(images(4, 2), **options), fitted(images(4, 2), plugin, **options)
    for name in ("generator", "discriminator"):
        found, wanted = (gradients(getattr(module, name)) for module in (half, full))
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))
    assert half.loss_scale == 2.0**16
    assert half.generator(images(1, 2)[0].input).dtype == torch.float32


def test_an_overflow_in_float16_skips_both_steps_and_halves_the_scale() -> None:
    plugin = SharedScaler("cpu")
    plugin.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    module = fitted(images(1, 2), plugin)
    for one, other in zip(
        module.generator.parameters(), make_generator().parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert module.loss_scale == 2.0**59

"""The training step: who moves when, and what the losses are."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vfn.data.batch import Batch
from vfn.models.gan import AdamSettings, VirtualStain
from vfn.models.losses import LossWeights, discriminator_term, ms_ssim_loss, soft_tolerance
from vfn.models.nets import make_discriminator, make_generator

SIZE = 32
State = dict[str, Tensor]


def make_module(objective: LossWeights | None = None, **adam: float) -> VirtualStain:
    """A module that runs without a Trainer, and keeps what it logs in `logged`."""
    objective = objective or LossWeights()
    torch.manual_seed(0)
    generator = make_generator(
        {"name": "unet", "width": 4, "max_width": 8, "depth": 3}, in_channels=2, out_channels=1
    )
    discriminator = (
        make_discriminator({"name": "conditional", "width": 4}, 3, SIZE)
        if objective.adversarial
        else None
    )
    module = VirtualStain(generator, discriminator, objective, AdamSettings(**adam), {})
    optimisers = module.configure_optimizers()
    module.manual_backward = lambda loss, **options: loss.backward(**options)  # type: ignore[method-assign]
    module.optimizers = lambda: optimisers if len(optimisers) > 1 else optimisers[0]  # type: ignore
    module.logged = {}  # type: ignore[assignment]
    module.log_dict = lambda values, **_: module.logged.update(  # type: ignore
        {name.removesuffix("_step"): value for name, value in values.items()}
    )
    return module.train()


def make_batch(valid_rows: int = SIZE, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    valid = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    valid[:, :, :valid_rows] = True
    return Batch(
        torch.rand(2, 2, SIZE, SIZE, generator=draw) * 2 - 1,
        torch.rand(2, 1, SIZE, SIZE, generator=draw) * 2 - 1,
        valid,
    )


def state(net: nn.Module | None) -> State:
    assert net is not None
    return copy.deepcopy(net.state_dict())


def same(one: State, other: State) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_generator_step_leaves_the_discriminator_alone() -> None:
    module, batch = make_module(), make_batch()
    fake = module(batch.input)
    g, d = module.optimizers()  # type: ignore[misc]
    _, feedback = module.discriminator_step(d, batch, fake)
    before_g, before_d = state(module.generator), state(module.discriminator)
    assert module.discriminator is not None
    gradients = [p.grad.clone() for p in module.discriminator.parameters() if p.grad is not None]
    module.generator_step(g, batch, fake, fake, feedback)
    assert same(before_d, state(module.discriminator))
    assert not same(before_g, state(module.generator))
    for parameter, gradient in zip(module.discriminator.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient), "G's gradients would move D"  # type: ignore


def test_discriminator_step_leaves_the_generator_alone() -> None:
    module, batch = make_module(), make_batch()
    fake = module(batch.input).detach()
    before_g, before_d = state(module.generator), state(module.discriminator)
    module.discriminator_step(module.optimizers()[1], batch, fake)  # type: ignore[index]
    assert same(before_g, state(module.generator))
    assert not same(before_d, state(module.discriminator))
    assert all(parameter.grad is None for parameter in module.generator.parameters())


def test_training_step_gives_the_discriminator_no_way_to_the_generator() -> None:
    """With G's optimiser asleep only D moves; G's running statistics are its forward pass's."""
    module, batch = make_module(lr_generator=0.0), make_batch()
    before = dict(module.generator.named_parameters())
    before = {name: value.detach().clone() for name, value in before.items()}
    before_d = state(module.discriminator)
    module.training_step(batch, 0)
    for name, value in module.generator.named_parameters():
        assert torch.equal(value, before[name]), name
    assert not same(before_d, state(module.discriminator))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_of_one_step_by_hand(reduction: str) -> None:
    objective = LossWeights(0.7, 0.2, 0.05, reduction, discriminator=0.5)
    module, batch = make_module(objective), make_batch(valid_rows=20)
    generator = copy.deepcopy(module.generator)
    discriminator: Any = copy.deepcopy(module.discriminator)
    bce = nn.BCEWithLogitsLoss()

    module.training_step(batch, 0)
    logged: dict[str, Tensor] = module.logged  # type: ignore[assignment]

    fake = generator(batch.input)
    seen = torch.cat([fake[:, :, :20], batch.target[:, :, 20:]], dim=2)
    real_logits = discriminator(batch.input, batch.target)
    fake_logits = discriminator(batch.input, seen.detach())
    loss_d = 0.5 * (bce(real_logits, torch.ones(2, 1)) + bce(fake_logits, torch.zeros(2, 1)))
    torch.testing.assert_close(logged["train/loss_d"], loss_d.detach())
    torch.testing.assert_close(logged["train/d_real"], real_logits.sigmoid().mean().detach())
    torch.testing.assert_close(logged["train/d_fake"], fake_logits.sigmoid().mean().detach())

    adversarial = -torch.log(torch.sigmoid(discriminator(batch.input, seen))).mean()
    mae = (fake - batch.target)[:, :, :20].abs().mean()
    weights = torch.cat([p.flatten() for p in generator.parameters()]).abs()
    l1 = weights.mean() if reduction == "mean" else weights.sum()
    loss_g = 0.7 * mae + 0.2 * adversarial + 0.05 * l1
    for name, value in {
        "mae": mae, "adversarial": adversarial, "weight_l1": l1, "loss_g": loss_g,
    }.items():  # fmt: skip
        torch.testing.assert_close(logged[f"train/{name}"], value.detach(), rtol=1e-4, atol=1e-5)

    # Both move from where they were when the batch came.
    pairs = [(discriminator, loss_d, module.discriminator), (generator, loss_g, module.generator)]
    gradients = [torch.autograd.grad(loss, list(net.parameters())) for net, loss, _ in pairs]
    for (net, _, ours), found in zip(pairs, gradients, strict=True):
        for parameter, gradient in zip(net.parameters(), found, strict=True):
            parameter.grad = gradient
        torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)).step()
        moved = dict(ours.named_parameters())  # type: ignore[union-attr]
        for name, value in net.named_parameters():
            torch.testing.assert_close(moved[name], value, rtol=1e-4, atol=2e-5)


def test_the_tolerance_level_is_a_term_of_the_generators_loss() -> None:
    objective = LossWeights(
        0.3, 0.0, 0.0, tolerance=2.0,
        tolerance_temperature=0.05, tolerance_beta1=1.5, tolerance_beta2=0.2,
    )  # fmt: skip
    module, batch = make_module(objective), make_batch(valid_rows=20)
    fake = module(batch.input).detach()
    module.training_step(batch, 0)
    logged: dict[str, Tensor] = module.logged  # type: ignore[assignment]
    tolerance = soft_tolerance(fake, batch.target, batch.valid, 0.05, 1.5, 0.2)
    torch.testing.assert_close(logged["train/tolerance"], tolerance)
    torch.testing.assert_close(
        logged["train/loss_g"], 0.3 * logged["train/mae"] + 2 * logged["train/tolerance"]
    )


def test_the_tolerance_level_alone_trains_the_generator() -> None:
    module, batch = make_module(LossWeights(0.0, 0.0, 0.0, tolerance=1.0)), make_batch()
    before = state(module.generator)
    module.training_step(batch, 0)
    assert not same(before, state(module.generator))


def test_masked_pixels_give_no_gradient() -> None:
    module, batch = make_module(), make_batch(valid_rows=20)
    fake = module(batch.input).detach().requires_grad_()
    seen = torch.where(batch.valid, fake, batch.target)
    module.generator_step(module.optimizers()[0], batch, fake, seen)  # type: ignore[index]
    assert fake.grad is not None
    assert fake.grad[:, :, :20].abs().sum() > 0
    assert not fake.grad[:, :, 20:].any()


def test_what_is_predicted_beyond_the_edge_does_not_matter() -> None:
    losses = []
    for rubbish in (0.0, 0.9):
        module, batch = make_module(), make_batch(valid_rows=20)
        fake = module(batch.input).detach()
        fake[:, :, 20:] = rubbish
        module.forward = lambda _, fake=fake: fake.requires_grad_()  # type: ignore
        module.training_step(batch, 0)
        losses.append(dict(module.logged))  # type: ignore[arg-type]
    assert losses[0] == losses[1]


def test_without_adversary_there_is_one_optimiser() -> None:
    module = make_module(LossWeights(1.0, 0.0, 0.0))
    assert len(module.configure_optimizers()) == 1
    module.training_step(make_batch(), 0)
    logged: dict[str, Tensor] = module.logged  # type: ignore[assignment]
    assert logged.keys() == {"train/loss_g", "train/mae"}
    assert logged["train/loss_g"] == logged["train/mae"]


def test_optimisers_are_the_papers() -> None:
    for optimiser in make_module().configure_optimizers():
        assert isinstance(optimiser, torch.optim.Adam)
        assert optimiser.param_groups[0]["lr"] == 2e-4
        assert optimiser.param_groups[0]["betas"] == (0.5, 0.999)


def test_validation_counts_valid_pixels_alone() -> None:
    module, batch = make_module(), make_batch(valid_rows=5)
    module.eval()
    with torch.no_grad():
        module.validation_step(batch, 0)
        module.on_validation_epoch_end()
        error = (module(batch.input) - batch.target)[:, :, :5]
    logged: dict[str, Tensor] = module.logged  # type: ignore[assignment]
    torch.testing.assert_close(logged["val/mae"], error.abs().mean())
    torch.testing.assert_close(logged["val/mse"], error.square().mean())


def test_channels_last_changes_nothing_but_the_memory() -> None:
    module = make_module()
    other = VirtualStain(
        copy.deepcopy(module.generator), None, LossWeights(), AdamSettings(), {}, channels_last=True
    )
    assert other.generator.down[0][1].weight.is_contiguous(memory_format=torch.channels_last)
    batch = make_batch()
    torch.testing.assert_close(
        module.eval()(batch.input), other.eval()(batch.input), rtol=1e-4, atol=1e-5
    )


def test_structure_and_features_are_terms_of_the_generators_loss() -> None:
    objective = LossWeights(
        0.5, 0.1, 0.0, adversarial_kind="hinge", feature_matching=2.0, ms_ssim=0.3
    )
    module, batch = make_module(objective, lr_discriminator=0.0), make_batch(valid_rows=28)
    fake = module(batch.input).detach()
    seen = torch.where(batch.valid, fake, batch.target)
    discriminator: Any = module.discriminator
    logits, features = discriminator.judge(batch.input, seen)
    _, real = discriminator.judge(batch.input, batch.target)
    matching = torch.stack([(f - r).abs().mean() for f, r in zip(features, real, strict=True)])
    assert len(features) == 3
    module.training_step(batch, 0)
    logged: dict[str, Tensor] = module.logged  # type: ignore[assignment]
    structure = ms_ssim_loss(fake, batch.target, batch.valid)
    for name, value in {
        "feature_matching": matching.mean(), "ms_ssim": structure, "adversarial": -logits.mean(),
        "loss_g": 0.5 * logged["train/mae"] - 0.1 * logits.mean()
        + 2 * matching.mean() + 0.3 * structure,
    }.items():  # fmt: skip
        torch.testing.assert_close(logged[f"train/{name}"], value.detach())
    assert all(p.grad is None or p.requires_grad for p in discriminator.parameters())


@pytest.mark.parametrize("name", ["conditional", "patchgan"])
def test_the_gradient_penalty_comes_every_few_steps(name: str) -> None:
    objective = LossWeights(r1=0.5, r1_every=3)
    module, batch = make_module(objective), make_batch()
    module.discriminator = make_discriminator({"name": name, "width": 4}, 3, SIZE)
    optimisers = module.configure_optimizers()
    module.optimizers = lambda: optimisers  # type: ignore
    present = []
    for _ in range(5):
        module.logged.clear()  # type: ignore[operator]
        before, fake = copy.deepcopy(module.discriminator), module(batch.input).detach()
        module.training_step(batch, 0)
        logged: dict[str, Tensor] = module.logged  # type: ignore[assignment]
        present.append("train/r1" in logged)
        real, made = (before(batch.input, image) for image in (batch.target, fake))
        bce = discriminator_term("bce", real, made)
        extra = 1.5 * logged["train/r1"] if present[-1] else torch.tensor(0.0)
        torch.testing.assert_close(logged["train/loss_d"], (bce + extra).detach())
    assert present == [True, False, False, True, False]
    assert not batch.target.requires_grad

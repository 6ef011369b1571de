"""The terms of the objective against their plain formulas."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vfn.errors import UserError
from vfn.metrics.tolerance import tolerance_level
from vfn.models.losses import (
    PIECE,
    LossWeights,
    add_weight_l1,
    discriminator_term,
    feature_matching,
    generator_term,
    gradient_penalty,
    masked_mae,
    soft_tolerance,
)

LOGITS = torch.tensor([[-3.0, 0.0], [0.7, 5.0]], dtype=torch.float64)


def test_mae_without_a_mask_is_the_mean_absolute_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64) * 2 - 1
    everywhere = torch.ones_like(one, dtype=torch.bool)
    torch.testing.assert_close(masked_mae(one, other, everywhere), nn.L1Loss()(one, other))


def test_mae_does_not_fold_dark_onto_bright() -> None:
    dark, bright = torch.full((1, 1, 2, 2), -1.0), torch.ones(1, 1, 2, 2)
    assert masked_mae(dark, bright, bright.bool()) == 2


def test_mae_leaves_masked_pixels_out() -> None:
    prediction = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[1.0, 3.0], [500.0, -70.0]]]])
    valid = torch.tensor([[[[True, True], [False, False]]]])
    loss = masked_mae(prediction, target, valid)
    assert loss == 2
    loss.backward()
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad, torch.tensor([[[[-0.5, -0.5], [0.0, 0.0]]]]))


def test_mae_of_nothing_is_zero() -> None:
    nothing = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    assert masked_mae(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), nothing) == 0


def test_adversarial_term_is_minus_log_d() -> None:
    expected = -torch.log(torch.sigmoid(LOGITS)).mean()
    torch.testing.assert_close(generator_term("bce", LOGITS), expected)


def test_discriminator_loss_is_binary_cross_entropy() -> None:
    bce, fake = nn.BCEWithLogitsLoss(), LOGITS.flip(0) - 1
    expected = bce(LOGITS, torch.ones_like(LOGITS)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_term("bce", LOGITS, fake), expected)


@pytest.mark.parametrize(
    "loss", [partial(generator_term, "bce"), lambda x: discriminator_term("bce", x, -x)]
)
def test_hopeless_logits_keep_finite_losses_and_gradients(loss: object) -> None:
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    value: Tensor = loss(logits)  # type: ignore[operator]
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 10.0), ("mean", 2.0)])
def test_weight_l1(reduction: str, expected: float) -> None:
    """Value, and the gradient that autograd would give; on top of what the backward pass left."""
    values = [torch.tensor([[-1.0, 2.0]]), torch.tensor([-3.0, 0.0, 4.0])]
    parameters = [v.clone().requires_grad_() for v in values]
    parameters[0].grad = torch.ones(1, 2)
    assert add_weight_l1(parameters, 0.5, reduction) == expected
    total = torch.cat([v.flatten() for v in values]).requires_grad_()
    norm = total.abs().sum() if reduction == "sum" else total.abs().mean()
    (gradient,) = torch.autograd.grad(0.5 * norm, total)
    torch.testing.assert_close(parameters[0].grad, 1 + gradient[None, :2])
    torch.testing.assert_close(parameters[1].grad, gradient[2:])


def test_weight_l1_in_pieces_reaches_every_weight() -> None:
    """Weights of several pieces, in a layout of which only memory's order is a line."""
    weight = torch.randn(40, 33, 11, 11, generator=torch.Generator().manual_seed(0))
    assert weight.numel() > PIECE
    for layout in (torch.contiguous_format, torch.channels_last):
        p = weight.contiguous(memory_format=layout).requires_grad_()
        for gradient in (weight.contiguous(memory_format=layout), weight.clone()):
            p.grad = 2 * gradient
            norm = add_weight_l1([p], 0.5, "sum")
            torch.testing.assert_close(norm, weight.abs().sum())
            torch.testing.assert_close(p.grad, 2 * weight + 0.5 * weight.sign())


def test_objective_has_the_papers_weights() -> None:
    paper = LossWeights()
    assert (paper.mae, paper.adversarial, paper.weight_l1) == (0.99, 0.01, 0.001)


def test_objective_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match=r"weight_l1_reduction=median.*mean or sum"):
        LossWeights(weight_l1_reduction="median")
    with pytest.raises(UserError, match=r"loss.adversarial=-0.1"):
        LossWeights(adversarial=-0.1)
    with pytest.raises(UserError, match=r"loss.tolerance=-1"):
        LossWeights(tolerance=-1)
    with pytest.raises(UserError, match=r"loss.tolerance_beta2=-0.5"):
        LossWeights(tolerance_beta2=-0.5)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match=rf"loss.tolerance_temperature={temperature}"):
            LossWeights(tolerance_temperature=temperature)


def exact_tolerance(
    prediction: Tensor, target: Tensor, valid: Tensor, beta1: float, beta2: float
) -> float:
    """Mean of the metric over the patches and channels that hold a valid pixel."""
    values = [
        tolerance_level(p[v].numpy(), t[v].numpy(), 2.0, beta1=beta1, beta2=beta2).value
        for image in zip(prediction, target, valid, strict=True)
        for p, t, v in zip(*image, strict=True)
        if v.any()
    ]
    return float(np.mean(values)) if values else 0.0


def images(seed: int, share: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction and target, (2, 2, 6, 7), with small errors and large ones, and a mask."""
    draw = torch.Generator().manual_seed(seed)
    target, other, noise, large, seen = torch.rand(
        5, 2, 2, 6, 7, generator=draw, dtype=torch.float64
    )
    target, other = target * 2 - 1, other * 2 - 1
    near = (target + 0.2 * (noise - 0.5)).clamp(-1, 1)
    return torch.where(large < 0.2, other, near), target, seen < share


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    share=st.sampled_from([0.0, 0.05, 0.7, 1.0]),
    beta1=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    beta2=st.sampled_from([0.0, 0.03, 0.1, 0.3, 1.0]),
)
def test_tolerance_rises_to_the_exact_one_as_the_temperature_falls(
    seed: int, share: float, beta1: float, beta2: float
) -> None:
    prediction, target, valid = images(seed, share)
    exact = exact_tolerance(prediction, target, valid, beta1, beta2)
    values = [
        float(soft_tolerance(prediction, target, valid, temperature, beta1, beta2))
        for temperature in (0.3, 0.1, 0.01, 1e-10)
    ]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(exact, abs=1e-6)


def test_tolerance_of_errors_on_a_threshold_is_exact() -> None:
    """Errors that equal a threshold lie inside it, also where an image needs no tolerance."""
    target = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    prediction = torch.tensor([[[[0.5, 0.5, 0.5, 1.5]]]], dtype=torch.float64)
    valid = torch.ones_like(target, dtype=torch.bool)
    assert soft_tolerance(target, target, valid, 0.1) == 0
    # E = 1/4 three times, and 3/4: i = 0.25 leaves the last out, by r = 1/2.
    value = soft_tolerance(prediction, target, valid, 0.25, 1.0, 0.4)
    assert float(value) == pytest.approx(0.25 + 0.4 * (0.5 / 0.75) / 4)


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_tolerance_with_even_weights_is_the_mae(share: float) -> None:
    """No pixel below an error of 0.99 is worth leaving out: the reason for another beta2."""
    prediction, target, valid = images(3, share)
    prediction = target + 0.5 * (prediction - target)
    expected = [
        (p - t)[v].abs().mean() / 2
        for image in zip(prediction, target, valid, strict=True)
        for p, t, v in zip(*image, strict=True)
    ]
    torch.testing.assert_close(
        soft_tolerance(prediction, target, valid, 0.1), torch.stack(expected).mean()
    )


def test_tolerance_leaves_masked_pixels_and_empty_images_out() -> None:
    prediction, target, valid = images(1, 0.5)
    valid[0, 1] = False
    expected = soft_tolerance(prediction, target, valid, 0.1, 1.0, 0.1)
    rubbish = torch.where(valid, prediction, -target.sign()).requires_grad_()
    loss = soft_tolerance(rubbish, target, valid, 0.1, 1.0, 0.1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert rubbish.grad is not None
    assert not rubbish.grad[~valid].any()
    parts = [
        soft_tolerance(prediction[b, c][None, None], target[b, c][None, None],
                       valid[b, c][None, None], 0.1, 1.0, 0.1)
        for b, c in ((0, 0), (1, 0), (1, 1))
    ]  # fmt: skip
    torch.testing.assert_close(expected, torch.stack(parts).mean())


def test_tolerance_of_nothing_is_zero_and_has_a_gradient_of_zero() -> None:
    prediction = torch.ones(1, 1, 2, 2, requires_grad=True)
    loss = soft_tolerance(prediction, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).bool(), 0.1)
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_tolerance_gradient_is_that_of_finite_differences() -> None:
    prediction, target, valid = images(2, 0.8)
    for beta2 in (0.1, 0.3, 1.0):
        assert torch.autograd.gradcheck(
            lambda p, beta2=beta2: soft_tolerance(p, target, valid, 0.1, 1.0, beta2),
            prediction.clone().requires_grad_(),
            eps=1e-7,
        )


@pytest.mark.parametrize("temperature", [0.02, 0.1])
@pytest.mark.parametrize("beta2", [0.1, 0.3, 1.0])
def test_tolerance_pulls_every_wrong_pixel_towards_the_truth(
    temperature: float, beta2: float
) -> None:
    """From just wrong to wrong by the whole range; in float32, as in training."""
    prediction = torch.linspace(-0.98, 1, 991).reshape(1, 1, 1, -1)
    prediction = torch.cat([prediction, torch.full((1, 1, 1, 9000), -0.99)], -1).requires_grad_()
    target = -torch.ones_like(prediction)
    soft_tolerance(prediction, target, target.bool(), temperature, 1.0, beta2).backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad > 0).all()
    worst, median = prediction.grad[..., 990], prediction.grad[..., -1]
    assert worst > 1e-3 * median, "the tail is too thin to learn from"


@pytest.mark.parametrize(
    ("kind", "d", "g"),
    [
        (
            "hinge",
            lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
            lambda f: -f.mean(),
        ),
        (
            "lsgan",
            lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
            lambda f: ((f - 1) ** 2).mean() / 2,
        ),
        (
            "bce",
            lambda r, f: np.log(1 + np.exp(-r)).mean() + np.log(1 + np.exp(f)).mean(),
            lambda f: np.log(1 + np.exp(-f)).mean(),
        ),
    ],
)
def test_kinds_of_adversary(kind: str, d: Callable[..., float], g: Callable[..., float]) -> None:
    fake = LOGITS.flip(0) - 1
    assert float(discriminator_term(kind, LOGITS, fake)) == pytest.approx(
        d(LOGITS.numpy(), fake.numpy())
    )
    assert float(generator_term(kind, fake)) == pytest.approx(g(fake.numpy()))


def test_feature_matching_is_the_mean_over_layers() -> None:
    fake = [torch.zeros(2, 3), torch.ones(2, 5, 4, 4)]
    real = [torch.full((2, 3), 0.5), torch.full((2, 5, 4, 4), -2.0)]
    assert feature_matching(fake, real) == (0.5 + 3.0) / 2


def test_gradient_penalty_of_a_known_slope() -> None:
    """D(x) = sum(a x^2) / 2 has the gradient a x."""
    image = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty((slope * image**2).sum((1, 2, 3))[:, None] / 2, image)
    gradient = (slope * image).detach().numpy()
    assert float(penalty.detach()) == pytest.approx(
        (gradient**2).sum((1, 2, 3)).mean() / 2, rel=1e-5
    )
    penalty.backward()  # a gradient of a gradient
    assert slope.grad is not None
    expected = (slope * image**2).detach().mean(0, keepdim=True)
    torch.testing.assert_close(slope.grad, expected, rtol=1e-5, atol=1e-6)


def test_terms_of_a_discriminator_need_one() -> None:
    with pytest.raises(UserError, match=r"adversarial_kind=wgan.*hinge"):
        LossWeights(adversarial_kind="wgan")
    with pytest.raises(UserError, match=r"loss.r1=1.*no discriminator"):
        LossWeights(adversarial=0.0, r1=1.0)
    with pytest.raises(UserError, match=r"loss.feature_matching=1.*no discriminator"):
        LossWeights(adversarial=0.0, feature_matching=1.0)
    with pytest.raises(UserError, match=r"loss.r1_every=0"):
        LossWeights(r1_every=0)

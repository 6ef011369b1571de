"""The terms of the objective against their plain formulas."""

import pytest
import torch
from torch import Tensor, nn

from vfn.errors import UserError
from vfn.losses import (
    Objective,
    discriminator_bce,
    generator_adversarial,
    masked_mae,
    weight_l1,
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
    torch.testing.assert_close(generator_adversarial(LOGITS), expected)


def test_discriminator_loss_is_binary_cross_entropy() -> None:
    bce, fake = nn.BCEWithLogitsLoss(), LOGITS.flip(0) - 1
    expected = bce(LOGITS, torch.ones_like(LOGITS)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_bce(LOGITS, fake), expected)


@pytest.mark.parametrize("loss", [generator_adversarial, lambda x: discriminator_bce(x, -x)])
def test_hopeless_logits_keep_finite_losses_and_gradients(loss: object) -> None:
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    value: Tensor = loss(logits)  # type: ignore[operator]
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 10.0), ("mean", 2.0)])
def test_weight_l1(reduction: str, expected: float) -> None:
    parameters = [torch.tensor([[-1.0, 2.0]]), torch.tensor([-3.0, 0.0, 4.0])]
    assert weight_l1(iter(parameters), reduction) == expected


def test_objective_has_the_papers_weights() -> None:
    paper = Objective()
    assert (paper.mae, paper.adversarial, paper.weight_l1) == (0.99, 0.01, 0.001)


def test_objective_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match=r"weight_l1_reduction=median.*mean or sum"):
        Objective(weight_l1_reduction="median")
    with pytest.raises(UserError, match=r"loss.adversarial=-0.1"):
        Objective(adversarial=-0.1)

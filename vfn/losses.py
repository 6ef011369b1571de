"""The objective (paper, sec. 2.4, eq. 2 to 6): pure terms, and how they are weighted."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.errors import UserError


def masked_mae(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error over the valid pixels (eq. 4), in the units of the arguments.

    The equation as printed takes the absolute values of both images first, which is the same for
    intensities; in [-1, 1] it would fold dark onto bright, so the plain difference is meant.

    Args:
        prediction, target: (B, C, H, W).
        valid: (B, C, H, W) bool. With no valid pixel the error is 0.
    """
    error = (prediction - target).abs() * valid
    return error.sum() / valid.sum().clamp(min=1)


def generator_adversarial(logits: Tensor) -> Tensor:
    """-log D(I, G(I)) (eq. 5), mean over the batch: sigmoid and logarithm in one, from logits."""
    return F.softplus(-logits).mean()


def discriminator_bce(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(I, truth) - log(1 - D(I, G(I))) (eq. 2, which D maximises), from logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def weight_l1(parameters: Iterable[Tensor], reduction: str) -> Tensor:
    """L1 norm of the generator's weights (eq. 6).

    The paper leaves open whether it is a sum or a mean. A sum over tens of millions of weights
    would swamp the MAE at the paper's factor of 0.001, so "mean" is the default.
    """
    parameters = list(parameters)
    total = torch.stack([p.abs().sum(dtype=torch.float32) for p in parameters]).sum()
    return total / sum(p.numel() for p in parameters) if reduction == "mean" else total


@dataclass(frozen=True)
class Objective:
    """Weights of eq. 3.

    Attributes:
        mae, adversarial, weight_l1: lambda 1 to 3; the paper's 0.99, 0.01, 0.001. With
            `adversarial` 0 there is no discriminator.
        weight_l1_reduction: "mean" or "sum".
        discriminator: factor of D's loss; pix2pix halves it.
    """

    mae: float = 0.99
    adversarial: float = 0.01
    weight_l1: float = 0.001
    weight_l1_reduction: str = "mean"
    discriminator: float = 1.0

    def __post_init__(self) -> None:
        if self.weight_l1_reduction not in ("mean", "sum"):
            raise UserError(
                f"loss.weight_l1_reduction={self.weight_l1_reduction}: choose mean or sum"
            )
        for key in ("mae", "adversarial", "weight_l1", "discriminator"):
            if getattr(self, key) < 0:
                raise UserError(f"loss.{key}={getattr(self, key)}: a weight is 0 or more")

"""MS-SSIM as a loss, against torchmetrics and the figure that is reported."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from vfn.metrics import fidelity
from vfn.models.losses import ms_ssim_loss


def images(side: int, seed: int = 0, mix: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, target (2, 2, side, side) in [-1, 1], and a mask of ones."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 2, 2, 8, 8, generator=draw)
    target, other = torch.nn.functional.interpolate(
        coarse.flatten(0, 1), (side, side), mode="bicubic"
    ).view(2, 2, 2, side, side)
    target, other = (2 * t.clamp(0, 1) - 1 for t in (target, other))
    prediction = (1 - mix) * target + mix * other
    return prediction, target, torch.ones_like(target, dtype=torch.bool)


@pytest.mark.parametrize("mix", [0.0, 0.2, 0.5])
def test_five_scales_are_torchmetrics(mix: float) -> None:
    prediction, target, valid = images(192, mix=mix)
    expected = [
        multiscale_structural_similarity_index_measure(
            p[None, None] + 1, t[None, None] + 1, data_range=2.0
        )
        for p, t in zip(prediction.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]
    value = 1 - ms_ssim_loss(prediction, target, valid)
    # It counts windows that reach beyond the border, too.
    assert float(value) == pytest.approx(float(torch.stack(expected).mean()), abs=0.01)
    ours = fidelity.figures(prediction + 1, target + 1, 2.0, ["ms_ssim"])["ms_ssim"].mean()
    assert float(value) == pytest.approx(float(ours), abs=1e-4)


def test_a_patch_of_one_scale_is_ssim() -> None:
    prediction, target, valid = images(20, mix=0.3)
    expected = [
        structural_similarity(
            p.numpy() + 1, t.numpy() + 1, data_range=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for p, t in zip(prediction.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]  # fmt: skip
    assert float(1 - ms_ssim_loss(prediction, target, valid)) == pytest.approx(
        np.mean(expected), abs=1e-4
    )


def test_pixels_without_truth_do_not_count() -> None:
    prediction, target, valid = images(64)
    valid[:, :, 44:] = False
    value, spoiled = ms_ssim_loss(prediction, target, valid), prediction.clone()
    spoiled[:, :, 44:] = torch.rand(2, 2, 20, 64)
    torch.testing.assert_close(ms_ssim_loss(spoiled, target, valid), value)
    assert value > 0.01
    # Nor does a channel that has none.
    valid[:, 1] = False
    one = ms_ssim_loss(prediction[:, :1], target[:, :1], valid[:, :1])
    torch.testing.assert_close(ms_ssim_loss(prediction, target, valid), one)


def test_nothing_to_compare_is_zero_and_has_a_gradient() -> None:
    prediction, target, valid = images(64)
    prediction.requires_grad_()
    value = ms_ssim_loss(prediction, target, valid & False)
    value.backward()
    assert value == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


@pytest.mark.parametrize("sign", [-1.0, 0.0, 0.1])
def test_gradients_are_finite_and_lead_on(sign: float) -> None:
    """From the reverse of the target, from a flat prediction, from a faint one."""
    _, target, valid = images(64)
    x = (target * sign - 0.1).requires_grad_()
    before = ms_ssim_loss(x, target, valid)
    before.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if sign >= 0:
        assert ms_ssim_loss(x.detach() - 20 * x.grad, target, valid) < before

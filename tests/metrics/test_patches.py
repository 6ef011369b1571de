"""Figures of patches against scikit-image, SciPy and hand computation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from skimage.metrics import structural_similarity
from torch import Tensor

from vfn.data.intensity import IntensityNormaliser
from vfn.metrics.patches import FullRange, full_range_metrics, patch_metrics


def images(count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, target (count, 2, 24, 24) in [-1, 1], all valid."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 2, 24, 24, generator=draw) * 2 - 1
    prediction = (target + 0.3 * torch.randn(target.shape, generator=draw)).clamp(-1, 1)
    return prediction, target, torch.ones_like(target, dtype=torch.bool)


def test_whole_patches_by_other_libraries() -> None:
    prediction, target, valid = images()
    metrics = patch_metrics("val/")
    for part in (slice(0, 2), slice(2, 3)):
        metrics.update(prediction[part], target[part], valid[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    error = (prediction - target).numpy()
    assert found["val/mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert found["val/mse"] == pytest.approx(np.square(error).mean(), rel=1e-6)
    assert found["val/psnr"] == pytest.approx(
        10 * math.log10(4 / np.square(error).mean()), rel=1e-6
    )
    pairs = list(zip(prediction.flatten(0, 1).numpy(), target.flatten(0, 1).numpy(), strict=True))
    ssims = [
        structural_similarity(
            t + 1,
            p + 1,
            data_range=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for p, t in pairs
    ]
    assert found["val/ssim"] == pytest.approx(np.mean(ssims), abs=1e-5)
    rs = [pearsonr(p.ravel(), t.ravel()).statistic for p, t in pairs]
    assert found["val/pearson"] == pytest.approx(np.mean(rs), abs=1e-6)


@pytest.mark.parametrize("make", [patch_metrics, full_range_metrics])
def test_padding_and_absent_targets_do_not_count(make) -> None:  # type: ignore[no-untyped-def]
    prediction, target, valid = images()
    valid[0, :, 14:] = False
    valid[1, 0] = False
    found = make("val/")
    found.update(prediction, target, valid)
    spoiled = make("val/")
    spoiled.update(torch.where(valid, prediction, 0.7), torch.where(valid, target, -0.9), valid)
    for name, value in found.compute().items():
        torch.testing.assert_close(spoiled.compute()[name], value)
    everything = make("val/")
    everything.update(prediction, target, torch.ones_like(valid))
    assert all(everything.compute()[name] != value for name, value in found.compute().items())


def test_figures_start_anew_and_have_no_value_without_pixels() -> None:
    metrics = patch_metrics("val/")
    prediction, target, valid = images()
    metrics.update(prediction, target, valid)
    metrics.reset()
    metrics.update(*images(seed=1))
    alone = patch_metrics("val/")
    alone.update(*images(seed=1))
    assert metrics.compute() == alone.compute()
    metrics.reset()
    metrics.update(prediction, target, valid & False)
    assert all(value.isnan() for value in metrics.compute().values())
    # Nor has a constant image a correlation, or a patch below the window SSIM.
    metrics.reset()
    metrics.update(target[..., :8, :8], torch.zeros(3, 2, 8, 8), valid[..., :8, :8])
    found = metrics.compute()
    assert found["val/ssim"].isnan()
    assert found["val/pearson"].isnan()
    assert found["val/mae"] > 0


def test_processes_add_up() -> None:
    prediction, target, valid = images(4)
    parts, whole = [patch_metrics("") for _ in range(2)], patch_metrics("")
    parts[0].update(prediction[:3], target[:3], valid[:3])
    parts[1].update(prediction[3:], target[3:], valid[3:])
    whole.update(prediction, target, valid)
    for name, metric in whole.items():
        merged = parts[0][name]
        for state, reduce in metric._reductions.items():  # what torchmetrics does between them
            setattr(
                merged, state, reduce(torch.stack([getattr(part[name], state) for part in parts]))
            )
        torch.testing.assert_close(merged.compute(), metric.compute(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("knots", [None, (100.0, 150.0, 4000.0)])
def test_the_full_range_is_that_of_the_dtype(knots: tuple[float, ...] | None) -> None:
    fitted = IntensityNormaliser(100.0, 4000.0, "uint16", knots)
    image = torch.linspace(-1, 1, 50).reshape(1, 1, 5, 10)
    share = FullRange([fitted])(image)
    np.testing.assert_allclose(share[0, 0], fitted.grey(image[0, 0].numpy()) / 65535, rtol=1e-5)

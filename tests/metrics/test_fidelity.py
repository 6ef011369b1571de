"""Pixel metrics against scikit-image, SciPy and hand computation."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr
from skimage.metrics import (
    mean_squared_error,
    peak_signal_noise_ratio,
    structural_similarity,
)

from vfn.metrics import fidelity

RNG_SHAPE = [(11, 11), (33, 47), (64, 51), (120, 121)]


def smooth(shape, seed, width=2.0):
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)


def noisy_pair(kind, shape):
    """(prediction, truth, data_range) of one dtype."""
    noise = np.random.default_rng(7).normal(size=shape)
    if kind == "uint8":
        truth = (smooth(shape, 0) * 200 + 128).clip(0, 255).astype(np.uint8)
        return (truth + noise * 6).clip(0, 255).astype(np.uint8), truth, 255.0
    if kind == "uint16":
        truth = np.random.default_rng(1).integers(0, 65536, shape).astype(np.uint16)
        return gaussian_filter(truth, 0.7), truth, 65535.0
    if kind == "dim16":  # a stain that uses 0.5 % of its range, on its signal range
        truth = (smooth(shape, 2) * 400 + 500).clip(0).astype(np.uint16)
        return (truth + noise * 5).clip(0).astype(np.uint16), truth, 310.0
    if kind == "bright16":  # little contrast on a bright ground: E[x^2] - E[x]^2 cancels
        truth = (smooth(shape, 3) * 400 + 60000).astype(np.uint16)
        return (truth + noise * 5).astype(np.uint16), truth, 150.0
    truth = smooth(shape, 4).astype(np.float32)
    return (truth + 0.05 * noise).astype(np.float32), truth, 1.3


def tensors(*images, dtype=torch.float64):
    return [torch.from_numpy(image.astype(np.float64)).to(dtype) for image in images]


def skimage_ssim(prediction, truth, data_range):
    return structural_similarity(
        truth.astype(np.float64),
        prediction.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
    )


@pytest.mark.parametrize("shape", RNG_SHAPE)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "dim16", "bright16", "float32"])
def test_float64_equals_scikit_image_and_scipy(kind, shape):
    prediction, truth, data_range = noisy_pair(kind, shape)
    p, t = tensors(prediction, truth)
    a, b = prediction.astype(np.float64), truth.astype(np.float64)
    assert fidelity.mae(p, t, data_range).item() == pytest.approx(
        np.abs(a - b).mean() / data_range, abs=1e-12
    )
    assert fidelity.mse(p, t, data_range).item() == pytest.approx(
        mean_squared_error(b, a) / data_range**2, abs=1e-12
    )
    assert fidelity.psnr(p, t, data_range).item() == pytest.approx(
        peak_signal_noise_ratio(b, a, data_range=data_range), abs=1e-9
    )
    assert fidelity.ssim(p, t, data_range).item() == pytest.approx(
        skimage_ssim(prediction, truth, data_range), abs=1e-8
    )
    assert fidelity.pearson(p, t).item() == pytest.approx(
        pearsonr(a.ravel(), b.ravel()).statistic, abs=1e-10
    )


@pytest.mark.parametrize("kind", ["uint8", "uint16", "dim16", "bright16", "float32"])
def test_float32_stays_within_a_hundred_thousandth(kind):
    prediction, truth, data_range = noisy_pair(kind, (120, 121))
    p, t = tensors(prediction, truth, dtype=torch.float32)
    assert fidelity.ssim(p, t, data_range).item() == pytest.approx(
        skimage_ssim(prediction, truth, data_range), abs=1e-5
    )
    assert fidelity.psnr(p, t, data_range).item() == pytest.approx(
        peak_signal_noise_ratio(
            truth.astype(float), prediction.astype(float), data_range=data_range
        ),
        abs=1e-4,
    )


def test_by_hand():
    p = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    t = torch.tensor([[0.0, 0.0], [4.0, 3.0]], dtype=torch.float64)
    assert fidelity.mae(p, t, 10.0).item() == pytest.approx(3 / 4 / 10)
    assert fidelity.mse(p, t, 10.0).item() == pytest.approx(5 / 4 / 100)
    assert fidelity.psnr(p, t, 10.0).item() == pytest.approx(10 * math.log10(80))


def test_a_batch_is_scored_as_its_images_are():
    p = torch.rand(3, 2, 20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.rand(3, 2, 20, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for metric in (fidelity.mae, fidelity.psnr, fidelity.ssim):
        whole = metric(p, t, 1.5)
        assert whole.shape == (3, 2)
        torch.testing.assert_close(whole[2, 1], metric(p[2, 1], t[2, 1], 1.5))
    assert fidelity.pearson(p, t).shape == (3, 2)


def test_the_range_may_differ_by_image():
    p, t = torch.rand(2, 2, 15, 15, generator=torch.Generator().manual_seed(0)).unbind()
    widths = torch.tensor([1.0, 4.0])
    both = fidelity.ssim(p, t, widths)
    torch.testing.assert_close(both[1], fidelity.ssim(p[1], t[1], 4.0))
    torch.testing.assert_close(fidelity.mae(p, t, widths)[1], fidelity.mae(p[1], t[1], 4.0))


def test_identical_images():
    image = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    assert fidelity.mae(image, image, 1.0).item() == 0
    assert fidelity.psnr(image, image, 1.0).item() == math.inf
    assert fidelity.ssim(image, image, 1.0).item() == pytest.approx(1.0, abs=1e-6)
    assert fidelity.pearson(image, image).item() == pytest.approx(1.0, abs=1e-6)


def test_psnr_and_ssim_fall_as_noise_grows():
    truth = torch.from_numpy(smooth((64, 64), 0))
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 64)))
    scores = [
        (fidelity.psnr(truth + s * noise, truth, 1.0), fidelity.ssim(truth + s * noise, truth, 1.0))
        for s in (0.01, 0.03, 0.1, 0.3)
    ]
    assert scores == sorted(scores, reverse=True)


def test_a_wrong_gain_is_not_forgiven():
    truth = torch.from_numpy(smooth((64, 64), 0) + 3)
    assert fidelity.psnr(1.3 * truth, truth, 1.0) < fidelity.psnr(1.05 * truth, truth, 1.0)
    assert fidelity.pearson(1.3 * truth, truth).item() == pytest.approx(1.0)


@pytest.mark.parametrize("constant", ["prediction", "truth"])
def test_undefined_is_nan(constant):
    image, flat = torch.rand(12, 12), torch.full((12, 12), 0.1)
    pair = (flat, image) if constant == "prediction" else (image, flat)
    assert fidelity.pearson(*pair).isnan()
    assert fidelity.ssim(image[:10], image[:10], 1.0).isnan()
    for metric in (fidelity.mae, fidelity.mse, fidelity.psnr, fidelity.ssim):
        assert metric(flat, image, 0.0).isnan()


def test_gradients_flow_through_ssim():
    p = torch.rand(1, 1, 16, 16, requires_grad=True)
    fidelity.ssim(p, torch.rand(1, 1, 16, 16), 1.0).sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        fidelity.mae(torch.zeros(2, 3), torch.zeros(3, 2), 1.0)


def test_module_averages_fields_and_skips_the_undefined():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 2, 20, 20, generator=generator)
    prediction = (truth + 0.1 * torch.rand(4, 2, 20, 20, generator=generator)).clamp(0, 1)
    prediction[3] = truth[3]  # infinite PSNR
    metric = fidelity.Fidelity(["dapi", "er"], data_range=1.0)
    metric.update(prediction[:3], truth[:3])
    metric.update(prediction[3:], truth[3:])
    values = metric.compute()
    assert set(values) == {f"{m}/{c}" for m in metric.names for c in ("dapi", "er")}
    expected = fidelity.psnr(prediction[:3, 1], truth[:3, 1], 1.0).mean()
    torch.testing.assert_close(values["psnr/er"], expected)
    torch.testing.assert_close(
        values["mae/dapi"], fidelity.mae(prediction[:, 0], truth[:, 0], 1.0).mean()
    )


def test_module_refuses_another_number_of_channels():
    with pytest.raises(ValueError, match="dapi"):
        fidelity.Fidelity(["dapi"]).update(torch.zeros(1, 2, 12, 12), torch.zeros(1, 2, 12, 12))

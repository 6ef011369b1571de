"""Pixel metrics against scikit-image, SciPy, torchmetrics and hand computation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import linregress, pearsonr
from skimage.metrics import (
    mean_squared_error,
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from vfn.metrics import fidelity, structure


def figure(name):
    """(prediction, truth, range) -> the figure alone."""
    return lambda p, t, width=1.0: fidelity.figures(p, t, width, [name])[name]


mae, mse, nrmse, psnr, pearson, ssim, ms_ssim = map(
    figure, ("mae", "mse", "nrmse", "psnr", "pearson", "ssim", "ms_ssim")
)
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
    assert mae(p, t, data_range).item() == pytest.approx(
        np.abs(a - b).mean() / data_range, abs=1e-12
    )
    assert mse(p, t, data_range).item() == pytest.approx(
        mean_squared_error(b, a) / data_range**2, abs=1e-12
    )
    assert psnr(p, t, data_range).item() == pytest.approx(
        peak_signal_noise_ratio(b, a, data_range=data_range), abs=1e-9
    )
    assert ssim(p, t, data_range).item() == pytest.approx(
        skimage_ssim(prediction, truth, data_range), abs=1e-8
    )
    assert pearson(p, t).item() == pytest.approx(
        pearsonr(a.ravel(), b.ravel()).statistic, abs=1e-10
    )


@pytest.mark.parametrize("kind", ["uint8", "uint16", "dim16", "bright16", "float32"])
def test_float32_stays_within_a_hundred_thousandth(kind):
    prediction, truth, data_range = noisy_pair(kind, (120, 121))
    p, t = tensors(prediction, truth, dtype=torch.float32)
    assert ssim(p, t, data_range).item() == pytest.approx(
        skimage_ssim(prediction, truth, data_range), abs=1e-5
    )
    assert psnr(p, t, data_range).item() == pytest.approx(
        peak_signal_noise_ratio(
            truth.astype(float), prediction.astype(float), data_range=data_range
        ),
        abs=1e-4,
    )


def test_by_hand():
    p = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    t = torch.tensor([[0.0, 0.0], [4.0, 3.0]], dtype=torch.float64)
    assert mae(p, t, 10.0).item() == pytest.approx(3 / 4 / 10)
    assert mse(p, t, 10.0).item() == pytest.approx(5 / 4 / 100)
    assert psnr(p, t, 10.0).item() == pytest.approx(10 * math.log10(80))


def ms_ssim_by_scikit_image(prediction, truth, data_range):
    """Wang et al. 2003 by a plain loop: scikit-image's SSIM map over the map of its luminance factor."""
    weights, product = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333), 1.0
    for scale, weight in enumerate(weights):
        _, whole = structural_similarity(
            truth, prediction, data_range=data_range, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        p, t = (gaussian_filter(image, 1.5, truncate=3.5) for image in (prediction, truth))
        c1 = (0.01 * data_range) ** 2
        luminance = (2 * p * t + c1) / (p**2 + t**2 + c1)
        factor = whole if scale == 4 else whole / luminance
        product *= factor[5:-5, 5:-5].mean() ** weight
        height, width = (n // 2 * 2 for n in truth.shape)
        prediction, truth = (
            image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
            for image in (prediction, truth)
        )
    return product


@pytest.mark.parametrize("shape", [(176, 176), (191, 230)])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "dim16", "bright16", "float32"])
def test_ms_ssim_equals_a_plain_loop(kind, shape):
    prediction, truth, data_range = noisy_pair(kind, shape)
    p, t = tensors(prediction, truth)
    ours = ms_ssim(p, t, data_range).item()
    plain = ms_ssim_by_scikit_image(
        prediction.astype(np.float64), truth.astype(np.float64), data_range
    )
    assert ours == pytest.approx(plain, abs=1e-8)
    assert ms_ssim(p.float(), t.float(), data_range).item() == pytest.approx(plain, abs=1e-5)


def test_ms_ssim_is_near_that_of_torchmetrics():
    # which takes the mean of the coarsest scale over mirrored borders too
    prediction, truth, data_range = noisy_pair("float32", (352, 340))
    p, t = tensors(prediction, truth)
    theirs = multiscale_structural_similarity_index_measure(
        p[None, None], t[None, None], data_range=data_range, normalize="relu"
    )
    assert theirs.item() < 0.99
    assert ms_ssim(p, t, data_range).item() == pytest.approx(theirs.item(), abs=5e-4)


def test_ms_ssim_of_swapped_light_and_dark_is_zero():
    image = torch.from_numpy(smooth((180, 180), 0))
    assert ms_ssim(-image, image, 0.5).item() == 0


@pytest.mark.parametrize("kind", ["uint8", "uint16", "dim16", "bright16", "float32"])
def test_line_equals_scipy(kind):
    prediction, truth, _ = noisy_pair(kind, (61, 47))
    line = linregress(truth.ravel().astype(np.float64), prediction.ravel().astype(np.float64))
    found = fidelity.linear_fit(*tensors(prediction, truth))
    assert found.gain.item() == pytest.approx(line.slope, rel=1e-9)
    assert found.offset.item() == pytest.approx(line.intercept, rel=1e-9)
    assert found.r2.item() == pytest.approx(line.rvalue**2, rel=1e-9)
    single = fidelity.linear_fit(*tensors(prediction, truth, dtype=torch.float32))
    assert single.gain.item() == pytest.approx(line.slope, abs=1e-4)


def test_nrmse_equals_scikit_image():
    prediction, truth, _ = noisy_pair("float32", (40, 50))
    p, t = tensors(prediction, truth)
    assert nrmse(p, t, float(np.ptp(truth))).item() == pytest.approx(
        normalized_root_mse(
            truth.astype(np.float64), prediction.astype(np.float64), normalization="min-max"
        )
    )


def test_filter_on_the_cpu_is_the_filter_elsewhere():
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 31, 24)))
    fast = structure._gaussians(image)[0]
    slow = structure._gaussians(image.requires_grad_())[0]  # with gradients OpenCV is no choice
    assert slow.requires_grad
    torch.testing.assert_close(fast, slow.detach())


@pytest.mark.parametrize("side", [20, 178])
def test_a_batch_is_scored_as_its_images_are(side):
    p = torch.rand(3, 2, side, 177, generator=torch.Generator().manual_seed(0)).double()
    t = torch.rand(3, 2, side, 177, generator=torch.Generator().manual_seed(1)).double()
    whole = fidelity.figures(p, t, 1.5)
    assert tuple(whole) == fidelity.NAMES
    for name, value in whole.items():
        assert value.shape == (3, 2), name
        one = fidelity.figures(p[2, 1], t[2, 1], 1.5, [name])[name]
        torch.testing.assert_close(value[2, 1], one, equal_nan=True)


def test_the_range_may_differ_by_image():
    p, t = torch.rand(2, 2, 15, 15, generator=torch.Generator().manual_seed(0)).unbind()
    widths = torch.tensor([1.0, 4.0])
    both = ssim(p, t, widths)
    torch.testing.assert_close(both[1], ssim(p[1], t[1], 4.0))
    torch.testing.assert_close(mae(p, t, widths)[1], mae(p[1], t[1], 4.0))
    one = fidelity.figures(p[0], t[0], widths, ("psnr", "ssim", "pearson"))  # two ranges, one image
    torch.testing.assert_close(one["ssim"][1], ssim(p[0], t[0], 4.0))
    assert (one["psnr"].shape, one["pearson"].shape) == ((2,), ())


def test_identical_images():
    image = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    assert mae(image, image, 1.0).item() == 0
    assert psnr(image, image, 1.0).item() == math.inf
    assert ssim(image, image, 1.0).item() == pytest.approx(1.0, abs=1e-6)
    assert pearson(image, image).item() == pytest.approx(1.0, abs=1e-6)
    line = fidelity.linear_fit(image, image)
    assert [value.item() for value in (line.gain, line.offset, line.r2)] == pytest.approx(
        [1, 0, 1], abs=1e-6
    )
    large = torch.rand(180, 180, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(large, large, 1.0).item() == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 0.2), st.floats(1.5, 5.0), st.integers(11, 60))
def test_noise_lowers_every_figure(seed, little, factor, side):
    truth = torch.from_numpy(smooth((side, 40), seed, 1.0))
    noise = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(side, 40)))
    names = ("mae", "nrmse", "psnr", "ssim", "r2")
    fine = fidelity.figures(truth + little * noise, truth, 1.0, names)
    rough = fidelity.figures(truth + factor * little * noise, truth, 1.0, names)
    assert rough["mae"] > fine["mae"]
    assert rough["nrmse"] > fine["nrmse"]
    for name in ("psnr", "ssim", "r2"):
        assert rough[name] < fine[name]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 5.0), st.floats(-3, 3))
def test_gain_and_offset_are_found_and_not_forgiven(seed, gain, offset):
    truth = torch.from_numpy(smooth((30, 41), seed) + 3)
    line = fidelity.linear_fit(gain * truth + offset, truth)
    assert line.gain.item() == pytest.approx(gain)
    assert line.offset.item() == pytest.approx(offset, abs=1e-6)
    assert line.r2.item() == pytest.approx(1)
    if abs(gain - 1) > 0.05:
        assert psnr(gain * truth, truth, 1.0) < psnr(1.01 * truth, truth, 1.0)


def test_psnr_and_ssim_fall_as_noise_grows():
    truth = torch.from_numpy(smooth((64, 64), 0))
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 64)))
    scores = [
        (psnr(truth + s * noise, truth, 1.0), ssim(truth + s * noise, truth, 1.0))
        for s in (0.01, 0.03, 0.1, 0.3)
    ]
    assert scores == sorted(scores, reverse=True)


def test_a_wrong_gain_is_not_forgiven():
    truth = torch.from_numpy(smooth((64, 64), 0) + 3)
    assert psnr(1.3 * truth, truth, 1.0) < psnr(1.05 * truth, truth, 1.0)
    assert pearson(1.3 * truth, truth).item() == pytest.approx(1.0)


@pytest.mark.parametrize("constant", ["prediction", "truth"])
def test_undefined_is_nan(constant):
    image, flat = torch.rand(12, 12), torch.full((12, 12), 0.1)
    pair = (flat, image) if constant == "prediction" else (image, flat)
    assert pearson(*pair).isnan()
    assert ssim(image[:10], image[:10], 1.0).isnan()
    assert ms_ssim(torch.rand(175, 300), torch.rand(175, 300), 1.0).isnan()
    line = fidelity.linear_fit(*pair)
    assert line.r2.isnan()
    assert line.gain.isnan() == line.offset.isnan() == (constant == "truth")
    for metric in (mae, mse, nrmse, psnr, ssim):
        assert metric(flat, image, 0.0).isnan()


@pytest.mark.parametrize("metric", [ssim, ms_ssim, mse])
def test_gradients_flow(metric):
    p = torch.rand(1, 1, 176, 176, requires_grad=True)
    metric(p, torch.rand(1, 1, 176, 176), 1.0).sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        mae(torch.zeros(2, 3), torch.zeros(3, 2), 1.0)

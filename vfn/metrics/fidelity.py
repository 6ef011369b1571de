"""Pixel fidelity: MAE, MSE, PSNR, SSIM and Pearson's r of a predicted stain against the real one.

The functions are pure. They take tensors (..., H, W) on any device, reduce over H and W alone and
give (...), so a batch of fields and channels is scored in one call. Nothing is rescaled: a wrong
gain costs what it costs. `data_range` is the width of the intensity range that the figures refer
to; it is always stated by the caller and never guessed from the images.

Undefined values are NaN (SSIM of an image below 11x11, Pearson of a constant image, a range of
zero) and the PSNR of identical images is infinite; saying so is the caller's part.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

# Wang et al. 2004, with the window radius that scikit-image derives: int(3.5 * sigma + 0.5) = 5.
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_WINDOW = 2 * SSIM_RADIUS + 1
SSIM_K1 = 0.01
SSIM_K2 = 0.03


def mae(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Mean absolute error in units of `data_range` (0 is best): (..., H, W) -> (...)."""
    _check_shapes(prediction, truth)
    return _divide((prediction - truth).abs().mean(dim=(-2, -1)), data_range)


def mse(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Mean squared error in units of `data_range` squared (0 is best): (..., H, W) -> (...)."""
    _check_shapes(prediction, truth)
    return _divide(
        _divide((prediction - truth).square().mean(dim=(-2, -1)), data_range), data_range
    )


def psnr(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(range^2 / MSE): (..., H, W) -> (...).

    Infinite for identical images.
    """
    return -10.0 * torch.log10(mse(prediction, truth, data_range))


def pearson(prediction: Tensor, truth: Tensor) -> Tensor:
    """Pearson's correlation of the pixels, -1 to 1: (..., H, W) -> (...). NaN if one is constant."""
    _check_shapes(prediction, truth)
    constant = _is_constant(prediction) | _is_constant(truth)
    p = prediction - prediction.mean(dim=(-2, -1), keepdim=True)
    t = truth - truth.mean(dim=(-2, -1), keepdim=True)
    covariance = (p * t).sum(dim=(-2, -1))
    # Two roots, not the root of a product, which can leave the range of float32 for 16-bit images.
    norm = p.square().sum(dim=(-2, -1)).sqrt() * t.square().sum(dim=(-2, -1)).sqrt()
    return torch.where(constant, torch.nan, covariance / norm).clamp(-1.0, 1.0)


class SsimMoments(NamedTuple):
    """Local moments under the Gaussian window, (..., H - 10, W - 10) each: all that SSIM needs."""

    mean_prediction: Tensor
    mean_truth: Tensor
    variance_sum: Tensor  # of prediction and truth together
    covariance: Tensor


def ssim_moments(prediction: Tensor, truth: Tensor) -> SsimMoments:
    """Local means, variances and covariance (population, not sample): the costly part of SSIM.

    They do not depend on the intensity range, so one computation serves any number of ranges.
    """
    _check_shapes(prediction, truth)
    # Variances do not change with an offset, but E[x^2] - E[x]^2 loses its digits on a bright
    # background: take the offset away first and give it back to the means.
    offset = truth.mean(dim=(-2, -1), keepdim=True)
    p, t = prediction - offset, truth - offset
    mean_p, mean_t = _gaussian(p), _gaussian(t)
    variance_sum = _gaussian(p * p + t * t) - mean_p.square() - mean_t.square()
    covariance = _gaussian(p * t) - mean_p * mean_t
    return SsimMoments(mean_p + offset, mean_t + offset, variance_sum, covariance)


def ssim_from_moments(moments: SsimMoments, data_range: float | Tensor) -> Tensor:
    """Mean SSIM over the interior for one intensity range: moments of (..., H, W) -> (...)."""
    width = torch.as_tensor(data_range, dtype=moments.covariance.dtype).to(
        moments.covariance.device
    )[..., None, None]
    c1, c2 = (SSIM_K1 * width) ** 2, (SSIM_K2 * width) ** 2
    mean_p, mean_t, variance_sum, covariance = moments
    numerator = (2 * mean_p * mean_t + c1) * (2 * covariance + c2)
    denominator = (mean_p.square() + mean_t.square() + c1) * (variance_sum + c2)
    value = (numerator / denominator).mean(dim=(-2, -1))
    return torch.where(width[..., 0, 0] > 0, value, torch.nan)


def ssim(prediction: Tensor, truth: Tensor, data_range: float | Tensor) -> Tensor:
    """Structural similarity, up to 1 (best): (..., H, W) -> (...). NaN below 11x11 pixels.

    Wang et al. 2004, IEEE TIP 13(4): Gaussian window of sigma 1.5 and 11x11 pixels, K1 = 0.01,
    K2 = 0.03, mean over the pixels whose whole window lies in the image. The same as
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=data_range)`.
    """
    _check_shapes(prediction, truth)
    if min(truth.shape[-2:]) < SSIM_WINDOW:
        return torch.full(truth.shape[:-2], torch.nan, dtype=truth.dtype, device=truth.device)
    return ssim_from_moments(ssim_moments(prediction, truth), data_range)


class Fidelity(Metric):
    """MAE, PSNR, SSIM and Pearson of each channel, computed by field, then averaged over fields.

    `update` takes prediction and truth (B, C, H, W) with C = len(channels); `compute` gives a flat
    dictionary ready for a logger: `mae/dapi`, `psnr/dapi`, `ssim/dapi`, `pearson/dapi`, ...
    Undefined and infinite values of single fields are left out of the average; with none left, the
    average is NaN.

    Args:
        channels: names of the C target channels.
        data_range: intensity range of the tensors that `update` gets (2 for images in [-1, 1]).
    """

    higher_is_better = None
    full_state_update = False
    names = ("mae", "psnr", "ssim", "pearson")

    total: Tensor
    count: Tensor

    def __init__(self, channels: Sequence[str], data_range: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = tuple(channels)
        self.data_range = data_range
        shape = (len(self.names), len(self.channels))
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of fields, (B, C, H, W) each; half precision is scored in float32."""
        if prediction.ndim != 4 or prediction.shape[1] != len(self.channels):
            raise ValueError(
                f"expected (B, {len(self.channels)}, H, W) for channels {self.channels}, "
                f"got {tuple(prediction.shape)}"
            )
        p, t = prediction.detach().float(), truth.detach().float()
        values = torch.stack(  # (metric, B, C)
            [
                mae(p, t, self.data_range),
                psnr(p, t, self.data_range),
                ssim(p, t, self.data_range),
                pearson(p, t),
            ]
        )
        finite = values.isfinite()
        self.total += torch.where(finite, values, 0.0).sum(dim=1)
        self.count += finite.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Averages over all fields so far, keyed `metric/channel`."""
        average = (self.total / self.count).float()  # 0 / 0 is NaN: nothing to average
        return {
            f"{name}/{channel}": average[i, j]
            for i, name in enumerate(self.names)
            for j, channel in enumerate(self.channels)
        }


def _check_shapes(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape or truth.ndim < 2:
        raise ValueError(
            "prediction and truth must have one shape (..., H, W), got "
            f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
        )


def _divide(value: Tensor, data_range: float | Tensor) -> Tensor:
    """`value / data_range`, NaN where the range is zero: there is no scale to measure on."""
    width = torch.as_tensor(data_range, dtype=value.dtype).to(value.device)
    return torch.where(width > 0, value / width, torch.nan)


def _is_constant(image: Tensor) -> Tensor:
    # Exact, unlike a variance of zero, which rounding spoils.
    return image.amax(dim=(-2, -1)) == image.amin(dim=(-2, -1))


def _gaussian(image: Tensor) -> Tensor:
    """Separable Gaussian window, whole windows only: (..., H, W) -> (..., H - 10, W - 10).

    Sums of shifted views: on the CPU they take a tenth of the time of two conv2d with one channel.
    """
    taps = torch.arange(SSIM_RADIUS + 1, dtype=torch.float64) - SSIM_RADIUS
    half = torch.exp(-0.5 * (taps / SSIM_SIGMA) ** 2)  # outermost tap first, centre last
    weights = (half / (2 * half.sum() - half[-1])).tolist()
    for dim in (-2, -1):
        length = image.shape[dim] - 2 * SSIM_RADIUS
        result = image.narrow(dim, SSIM_RADIUS, length) * weights[SSIM_RADIUS]
        for k in range(SSIM_RADIUS):
            pair = image.narrow(dim, k, length) + image.narrow(dim, 2 * SSIM_RADIUS - k, length)
            result = result.add_(pair, alpha=weights[k])
        image = result
    return image

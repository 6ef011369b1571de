"""SSIM and MS-SSIM: maps, means over images, and means over the windows that hold valid pixels alone.

Wang et al. 2004 (IEEE TIP 13(4)) and Wang, Simoncelli and Bovik 2003 (Asilomar). The figures that are
reported and the training loss share these functions.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Wang et al. 2004, with the window radius that scikit-image derives: int(3.5 * sigma + 0.5) = 5.
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_WINDOW = 2 * SSIM_RADIUS + 1
SSIM_K1 = 0.01
SSIM_K2 = 0.03
# Wang et al. 2003, from the finest to the coarsest scale.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SIDE = SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # the coarsest scale holds one window
STRIP = 1 << 17  # pixels that are filtered at a time on a CPU


def multiscale(
    prediction: Tensor,
    truth: Tensor,
    width: Tensor,
    weights: Sequence[float],
    valid: Tensor | None = None,
    floor: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return SSIM at full size, MS-SSIM, and whether each scale has a window that counts.

    The mean contrast-structure terms of the finer scales and the mean SSIM of the coarsest are multiplied,
    each to the power of its weight.

    Args:
        prediction, truth: (..., H, W), 11 pixels or more at the coarsest scale.
        width: of the intensity range; it broadcasts against (...).
        weights: of the scales, from the finest on; one weight of 1 gives SSIM.
        valid: (..., H, W) bool; windows that hold an invalid pixel do not count. None: all count.
        floor: smallest mean of a scale: at 0 the power's slope is infinite, below it there is none.

    Returns:
        Three of shape (...).
    """
    seen = None if valid is None else valid.to(prediction.dtype)
    for scale, weight in enumerate(weights):
        if scale:
            prediction, truth = _halve(prediction), _halve(truth)
            seen = None if seen is None else _halve(seen)
        if seen is None:
            ssim, contrast = _means(prediction, truth, width)
            counted = torch.ones_like(ssim, dtype=torch.bool)
        else:
            ssim, contrast, counted = _valid_means(prediction, truth, width, seen)
        factor = (ssim if scale == len(weights) - 1 else contrast).clamp(min=floor) ** weight
        if scale == 0:
            fine, product, counts = ssim, factor, counted
        else:
            product, counts = product * factor, counts & counted
    return fine, product, counts


def _valid_means(
    prediction: Tensor, truth: Tensor, width: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Means as of `_means` over the windows that `seen` (1 where valid) fills, and whether there are any."""
    whole = 1 - seen.flatten(0, -3)
    whole = F.max_pool2d(F.max_pool2d(whole, (SSIM_WINDOW, 1), 1), (1, SSIM_WINDOW), 1) <= 0
    whole = whole.to(seen.dtype).view(*seen.shape[:-2], *whole.shape[-2:])
    luminance, contrast = _factors(prediction, truth, width)
    number = whole.sum(dim=(-2, -1))
    ssim, contrast = (
        (each * whole).sum(dim=(-2, -1)) / number.clamp(min=1)
        for each in (luminance * contrast, contrast)
    )
    return ssim, contrast, number > 0


def _means(prediction: Tensor, truth: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the interior of SSIM and of its contrast-structure factor; NaN for a width of 0."""
    # Variances do not change with an offset, but E[x^2] - E[x]^2 loses its digits on a bright
    # background: take the offset away first and give it back to the means.
    offset = truth.mean(dim=(-2, -1), keepdim=True)
    height = truth.shape[-2] - 2 * SSIM_RADIUS
    pixels = height * (truth.shape[-1] - 2 * SSIM_RADIUS)
    # Strips of rows stay in the cache of a CPU; fetching fresh memory costs more than the arithmetic.
    whole = truth.device.type != "cpu" or truth.requires_grad or prediction.requires_grad
    step = height if whole else max(1, STRIP * truth.shape[-2] // truth.numel())
    sums = []
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height) + 2 * SSIM_RADIUS)
        luminance, contrast = _factors(
            prediction[..., rows, :] - offset, truth[..., rows, :] - offset, width, offset
        )
        sums.append(torch.stack([(contrast * luminance).sum((-2, -1)), contrast.sum((-2, -1))]))
    defined = width > 0
    similarity, contrast = torch.where(defined, torch.stack(sums).sum(dim=0) / pixels, torch.nan)
    return similarity, contrast


def _factors(
    p: Tensor, t: Tensor, width: Tensor, offset: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure of each window: (..., H, W) -> (..., H - 10, W - 10).

    Args:
        offset: what was subtracted from both images.
    """
    c1, c2 = ((k * width[..., None, None]) ** 2 for k in (SSIM_K1, SSIM_K2))
    with torch.autocast(p.device.type, enabled=False):  # differences of squares
        # In place where autograd allows it.
        mean_p, mean_t, squares, cross = _gaussians(p, t, (p * p).addcmul_(t, t), p * t)
    variances = squares.sub_((mean_p * mean_p).addcmul_(mean_t, mean_t))
    covariance = cross.addcmul_(mean_p, mean_t, value=-1).mul_(2)
    mean_p, mean_t = mean_p + offset, mean_t + offset
    product = (mean_p * mean_t).mul_(2)
    power = (mean_p * mean_p).addcmul_(mean_t, mean_t)
    return (product + c1) / (power + c1), (covariance + c2) / (variances + c2)


def _halve(image: Tensor) -> Tensor:
    """Means of 2x2 pixels; a last odd row or column is dropped."""
    height, width = (n // 2 * 2 for n in image.shape[-2:])
    rows = image[..., 0:height:2, :width] + image[..., 1:height:2, :width]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def _gaussians(*images: Tensor) -> list[Tensor]:
    """Blur each by the separable window, whole windows only: (..., H, W) -> (..., H - 10, W - 10).

    By OpenCV on a CPU where no gradient is asked for; else by two products with banded matrices, which take a
    tenth of the time of convolutions of one channel.
    """
    taps = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-0.5 * (taps / SSIM_SIGMA) ** 2)
    window /= window.sum()
    if images[0].device.type == "cpu" and not any(image.requires_grad for image in images):
        return [_gaussian_opencv(image, window.numpy()) for image in images]
    rows, columns = (_bands(window, size, images[0]) for size in images[0].shape[-2:])
    return [rows @ image @ columns.T for image in images]


def _gaussian_opencv(image: Tensor, weights: np.ndarray) -> Tensor:
    planes = image.reshape(-1, *image.shape[-2:]).numpy()
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    smooth = [cv2.sepFilter2D(plane, -1, weights, weights)[inside, inside] for plane in planes]
    stack = smooth[0] if len(smooth) == 1 else np.stack(smooth)
    return torch.from_numpy(stack).reshape(*image.shape[:-2], *smooth[0].shape)


def _bands(window: Tensor, size: int, like: Tensor) -> Tensor:
    """(size - 10, size): each row is the window at another place."""
    rows = F.pad(window.to(like), (0, size - SSIM_WINDOW)).expand(size - SSIM_WINDOW + 1, -1)
    turns = torch.arange(len(rows), device=like.device)
    columns = torch.arange(size, device=like.device)
    return rows.gather(1, (columns - turns[:, None]) % size)

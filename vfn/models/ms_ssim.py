"""MS-SSIM as a training target: differentiable, and blind to pixels without truth.

Wang, Simoncelli and Bovik 2003 (multi-scale structural similarity), with the Gaussian window and the
constants of Wang et al. 2004. `vfn.metrics.fidelity` has the figure that is reported.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.metrics.fidelity import MS_SSIM_WEIGHTS, SSIM_WINDOW

SIGMA = 1.5  # px, of the window
C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the range of [-1, 1] is 2
# Of a scale's contrast-structure: at 0 the power's slope is infinite, below it there is none.
FLOOR = 1e-3


def ms_ssim_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - MS-SSIM, mean over the patches and channels that have a valid window at every scale.

    Windows that hold an invalid pixel do not count. Patches too small for all five scales (176
    pixels) have those that fit, with the scales' weights rescaled to a sum of 1.

    Args:
        prediction, target: (B, C, H, W) in [-1, 1], float32, 11 pixels or more (a patch has 16); both moved to [0, 2], since a mean
            below 0 would mean nothing to the luminance factor.
        valid: (B, C, H, W) bool.

    Returns:
        In [0, 1]; 0 where nothing counts. A structure that is the reverse of the target's is no
        worse than none: the MAE beside it has to turn it round.
    """
    x, y, seen = prediction + 1, target + 1, valid.to(prediction.dtype)
    scales = sum(min(x.shape[-2:]) >> k >= SSIM_WINDOW for k in range(len(MS_SSIM_WEIGHTS)))
    weights = [w / sum(MS_SSIM_WEIGHTS[:scales]) for w in MS_SSIM_WEIGHTS[:scales]]
    # To ask a GPU would make the host wait for it.
    everywhere = valid.device.type == "cpu" and bool(valid.all())
    product = x.new_ones(x.shape[:2])
    counts = torch.ones_like(product, dtype=torch.bool)
    for scale, weight in enumerate(weights):
        if scale:
            x, y, seen = (F.avg_pool2d(t, 2) for t in (x, y, seen))
        luminance, contrast = _factors(x, y)
        whole = torch.ones_like(contrast) if everywhere else _whole(seen)
        factor = luminance * contrast if scale == scales - 1 else contrast
        number = whole.sum((-2, -1))
        mean = (factor * whole).sum((-2, -1)) / number.clamp(min=1)
        product = product * mean.clamp(min=FLOOR) ** weight
        counts = counts & (number > 0)
    return ((1 - product) * counts).sum() / counts.sum().clamp(min=1)


def _whole(seen: Tensor) -> Tensor:
    """1 for each window whose pixels are all seen, else 0: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    gaps = F.max_pool2d(1 - seen, (SSIM_WINDOW, 1), 1)
    return (F.max_pool2d(gaps, (1, SSIM_WINDOW), 1) <= 0).to(seen.dtype)


def _factors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure of each window: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    maps = torch.stack([x, y, x * x + y * y, x * y])
    with torch.autocast(x.device.type, enabled=False):  # differences of squares
        mx, my, squares, xy = _windows(x.shape[-2], x) @ maps @ _windows(x.shape[-1], x).T
    means = mx * mx + my * my
    luminance = (2 * mx * my + C1) / (means + C1)
    contrast = (2 * (xy - mx * my) + C2) / (squares - means + C2)
    return luminance, contrast


def _windows(size: int, like: Tensor) -> Tensor:
    """(size - 10, size): each row is the Gaussian at another place.

    As a product of matrices the blur and its gradient take a tenth of the time of convolutions of
    one channel, on CPUs.
    """
    steps = torch.arange(SSIM_WINDOW, dtype=like.dtype, device=like.device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (steps / SIGMA) ** 2)
    rows = F.pad(window / window.sum(), (0, size - SSIM_WINDOW)).expand(size - SSIM_WINDOW + 1, -1)
    turns = torch.arange(len(rows), device=like.device)
    columns = torch.arange(size, device=like.device)
    return rows.gather(1, (columns - turns[:, None]) % size)

"""A U-Net of today's parts, for the same task as the paper's: see `ConvNeXtUNet`."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vfn.models.nets.generator import Generator

WIDE = 128  # channels from which a depthwise block costs less than two full convolutions (two CPU cores, bf16)
KERNEL = 7  # of the depthwise convolution (ConvNeXt's)
EXPANSION = 2  # of its 1x1 convolutions; ConvNeXt has 4, which costs twice the time


class ConvNeXtUNet(Generator):
    """U-Net of residual blocks, from strided convolutions and resize-convolutions.

    Against the paper's generator (`UNetGenerator`): residual blocks at every size, ConvNeXt's (Liu et
    al. 2022, fig. 4: depthwise convolution, norm, 1x1 expansion, 1x1) where they are the cheaper
    ones; norms over the channels of each pixel alone, so that a prediction depends neither on the
    batch nor on what else is on the tile; nearest-neighbour resizing and convolutions in place of
    transposed ones, which leave a checkerboard (Odena et al. 2016); features of the inputs at full
    size beside the last layers; the encoder's features are added, not concatenated, which takes a
    quarter of the time away. No layer is dilated: these fail in bf16 on CPUs.

    Args:
        in_channels, out_channels: Ci, Ct.
        width: channels at half the size, doubled with each halving up to `max_width`; half as many
            at full size.
        depth: halvings of the image.
        blocks: residual blocks at each size, on the way down and on the way up.
        start, residual: see `Generator`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        max_width: int = 256,
        depth: int = 5,
        blocks: int = 1,
        start: str = "level",
        residual: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, 2**depth, start, residual)
        widths = [min(width * 2**level, max_width) for level in range(depth)]
        full = max(width // 2, 1)
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 4, 2, 1), *_blocks(widths[0], blocks)
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(fine, coarse, 2, 2), *_blocks(coarse, blocks))
            for fine, coarse in pairwise(widths)
        )
        pairs = list(pairwise(widths))[::-1]
        # 1x1 and resizing commute; before it the 1x1 costs a quarter.
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.Sequential(*_blocks(fine, blocks)) for fine, _ in pairs)
        self.widen = nn.Conv2d(widths[0], full, 1)
        self.full = nn.Conv2d(in_channels, full, 3, 1, 1)
        self.fuse = nn.Conv2d(full, full, 3, 1, 1)
        self.last = nn.Conv2d(full, out_channels, 3, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self._prepare_start()

    def encoder(self) -> tuple[nn.Module, ...]:
        """All that works before the first resizing."""
        return (self.first, self.down, self.full)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ci, H, W) in [-1, 1] -> (B, Ct, H, W) in [-1, 1], float32; H, W multiples of `stride`."""
        inputs = x
        x, skips = self._encoded(x)
        for narrow, block in zip(self.narrow, self.up, strict=True):
            x = block(_doubled(narrow(x)) + skips.pop())
        x = _doubled(self.widen(x)) + self.full(inputs)
        return self._in_range(F.relu(self.fuse(F.relu(x))), inputs)


class _Convolutions(nn.Module):
    """x + Conv(ReLU(Conv(x))), the second starting at 0 in place of a norm (Zhang et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, 1, 1)
        self.two = nn.Conv2d(width, width, 3, 1, 1)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return x + self.two(F.relu(self.one(x)))


class _ConvNeXt(nn.Module):
    """x + 1x1(GELU(1x1(norm(depthwise(x))))), the last starting at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, KERNEL, 1, KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Conv2d(width, EXPANSION * width, 1)
        self.contract = nn.Conv2d(EXPANSION * width, width, 1)
        nn.init.zeros_(self.contract.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.contract(F.gelu(self.expand(y)))


def _blocks(width: int, count: int) -> list[nn.Module]:
    kind = _ConvNeXt if width >= WIDE else _Convolutions
    return [kind(width) for _ in range(count)]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")

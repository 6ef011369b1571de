"""The generator: the paper's customised U-Net, and pix2pix's, which differs in its numbers alone."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vfn.models.nets.cpu import DownConv, OutputConv, UpConv, dense_gradient
from vfn.models.nets.generator import LEAK, Generator, init_weights


def _down(cin: int, cout: int, kernel_size: int, norm: bool) -> nn.Sequential:
    """LeakyReLU-Conv(s2)-BN: (B, cin, H, W) -> (B, cout, H / 2, W / 2)."""
    conv = DownConv(cin, cout, kernel_size, bias=not norm)
    return nn.Sequential(nn.LeakyReLU(LEAK), conv, *([nn.BatchNorm2d(cout)] if norm else []))


def _up(cin: int, cout: int, kernel_size: int, dropout: float) -> nn.Sequential:
    """ReLU-ConvTranspose(s2)-BN: (B, cin, H, W) -> (B, cout, 2 H, 2 W)."""
    conv = UpConv(cin, cout, kernel_size, bias=False)
    rest = [nn.Dropout(dropout)] if dropout else []
    # In place: what was concatenated is for this layer alone.
    return nn.Sequential(nn.ReLU(inplace=True), conv, nn.BatchNorm2d(cout), *rest)


class UNetGenerator(Generator):
    """U-Net of strided convolutions (paper, sec. 2.4, fig. 2).

    Conv(s2); then LeakyReLU-Conv(s2)-BN down to the bottleneck; ReLU-ConvTranspose(s2)-BN up, each
    step concatenated with the encoder's features of its size; ReLU-ConvTranspose(s2)-Tanh at the
    end. The paper gives the kernel (3) and the stride (2). Depth and widths are ours: `depth` 6
    sees about 250 pixels around, `width` channels at half resolution double up to `max_width`.

    pix2pix (Isola et al. 2017, appendix 6.1) is the same with kernel 4, depth 8, no norm at the
    bottleneck and dropout in the first three decoder steps.

    Args:
        in_channels, out_channels: Ci, Ct.
        kernel_size: 3 or 4.
        depth: halvings of the image.
        dropout: probability in the first three decoder steps.
        bottleneck_norm: BN at the smallest size.
        residual: of `Generator`, added before the tanh: for refocusing, where input and target are the
            same stain.
        start: of `Generator`; with "linear" the tanh gives way to a clamp.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        max_width: int = 512,
        depth: int = 6,
        kernel_size: int = 3,
        dropout: float = 0.0,
        bottleneck_norm: bool = True,
        residual: bool = False,
        start: str = "level",
    ) -> None:
        super().__init__(in_channels, out_channels, 2**depth, start, residual)
        widths = [min(width * 2**level, max_width) for level in range(depth)]
        self.first = DownConv(in_channels, widths[0], kernel_size)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in enumerate(pairwise(widths), start=2):
            norm = bottleneck_norm or level < depth
            self.down.append(_down(fine, coarse, kernel_size, norm))
        for step, (coarse, fine) in enumerate(pairwise(reversed(widths))):
            # All but the bottleneck come with the encoder's features of their size.
            seen = 2 * coarse if step else coarse
            self.up.append(_up(seen, fine, kernel_size, dropout if step < 3 else 0.0))
        self.last = OutputConv(widths[0] * (2 if depth > 1 else 1), out_channels, kernel_size)
        self.apply(init_weights)
        self._prepare_start()

    def encoder(self) -> tuple[nn.Module, ...]:
        """Return the way down."""
        return (self.first, self.down)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ci, H, W) in [-1, 1] -> (B, Ct, H, W) in [-1, 1], float32; H, W multiples of `stride`."""
        inputs = x
        x, skips = self._encoded(x)
        for block in self.up:
            x = torch.cat([dense_gradient(block(x)), skips.pop()], dim=1)
        return self._in_range(F.relu(x, inplace=True), inputs)

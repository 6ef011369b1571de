"""The generator: the paper's customised U-Net, and pix2pix's, which differs in its numbers alone."""

import torch
from torch import Tensor, nn

EDGE = 0.995  # of [-1, 1]; a residual network takes its inputs for no more extreme than this
LEAK = 0.2  # slope of LeakyReLU; not given in the paper, pix2pix's value


class UNetGenerator(nn.Module):
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
        residual: the network learns what to add to its inputs (before the tanh), so that it starts as
            the identity: for refocusing, where input and target are the same stain.
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
    ) -> None:
        super().__init__()
        self.frozen = False
        self.residual = residual
        self.stride = 2**depth
        widths = [min(width * 2**level, max_width) for level in range(depth)]
        self.first = nn.Conv2d(in_channels, widths[0], kernel_size, 2, 1)
        self.down = nn.ModuleList()
        for level in range(1, depth):
            norm = bottleneck_norm or level < depth - 1
            layers: list[nn.Module] = [
                nn.LeakyReLU(LEAK),
                nn.Conv2d(widths[level - 1], widths[level], kernel_size, 2, 1, bias=not norm),
            ]
            if norm:
                layers.append(nn.BatchNorm2d(widths[level]))
            self.down.append(nn.Sequential(*layers))
        self.up = nn.ModuleList()
        skip = 0  # the bottleneck has none
        for step, level in enumerate(range(depth - 1, 0, -1)):
            layers = [
                nn.ReLU(),
                self._transposed(widths[level] + skip, widths[level - 1], kernel_size, bias=False),
                nn.BatchNorm2d(widths[level - 1]),
            ]
            if dropout and step < 3:
                layers.append(nn.Dropout(dropout))
            self.up.append(nn.Sequential(*layers))
            skip = widths[level - 1]
        self.last = self._transposed(widths[0] + skip, out_channels, kernel_size, bias=True)
        self.apply(init_weights)
        if residual:
            nn.init.zeros_(self.last.weight)

    @staticmethod
    def _transposed(cin: int, cout: int, kernel_size: int, bias: bool) -> nn.ConvTranspose2d:
        # An odd kernel needs one row of output padding to double the size exactly.
        return nn.ConvTranspose2d(cin, cout, kernel_size, 2, 1, kernel_size % 2, bias=bias)

    @torch.no_grad()
    def start_at(self, level: Tensor) -> None:
        """Let the untrained network predict `level` (Ct,), in (-1, 1), everywhere.

        Fluorescence is dark nearly everywhere, about -0.95; from 0, Adam would spend its first
        thousands of steps on moving one bias there.
        """
        assert self.last.bias is not None
        if self.residual:  # it starts as its input
            return
        self.last.bias.copy_(torch.atanh(level))

    def freeze_encoder(self) -> None:
        """Keep the weights and batch statistics of the encoder as they are, whatever is trained."""
        self.frozen = True
        for part in (self.first, self.down):
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "UNetGenerator":
        """As of any module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            for part in (self.first, self.down):
                part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ci, H, W) in [-1, 1] -> (B, Ct, H, W) in [-1, 1], float32; H, W multiples of `stride`."""
        start = x
        x = self.first(x)
        skips = [x]
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = torch.cat([block(x), skips.pop()], dim=1)
        # Under autocast bf16 would leave 8 bits of grey: the last layer runs in float32.
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.last(torch.relu(x.float()))
            if self.residual:
                y = y + torch.atanh(start.float().clamp(-EDGE, EDGE))
            return torch.tanh(y)


def init_weights(layer: nn.Module) -> None:
    """Normal(0, 0.02) for convolutions, Normal(1, 0.02) for BN scales (pix2pix, DCGAN)."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)

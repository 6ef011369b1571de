"""Conditional discriminators: they see the generator's input beside the prediction or the truth.

Their batch norms keep no running statistics: a discriminator is never used in evaluation, and so
nothing of it moves in the generator's step.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from vfn.errors import UserError
from vfn.models.nets.cpu import dense_gradient
from vfn.models.nets.generator import LEAK, init_weights


class Discriminator(nn.Module):
    """Base of both: a sequence of layers from both images to logits."""

    def layers(self) -> tuple[nn.Module, ...]:
        """First to last."""
        raise NotImplementedError

    def judge(self, condition: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the features behind each LeakyReLU, which feature matching compares.

        Args:
            condition, image: (B, Ci, h, w) and (B, Ct, h, w), both in [-1, 1].
        """
        x = torch.cat([condition, image], dim=1)
        seen = []
        for layer in self.layers():
            x = layer(dense_gradient(x) if isinstance(layer, nn.Flatten) else x)
            if isinstance(layer, nn.LeakyReLU):
                seen.append(x)
        return x, seen

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """(B, Ci, h, w) and (B, Ct, h, w), both in [-1, 1] -> logits (B, 1) or (B, 1, h', w')."""
        return self.judge(condition, image)[0]


class ConditionalDiscriminator(Discriminator):
    """The paper's (sec. 2.4, fig. 2): Conv(k5, s2)-BN, three Conv(k5, s2)-BN-LeakyReLU, one fully
    connected layer; its sigmoid is in the loss, which works on logits.

    Args:
        in_channels: Ci + Ct.
        patch_size: side of the patches; the fully connected layer ties the network to it.
        width: channels of the first layer (ours; not given), doubled by each block.
    """

    KERNEL = 5

    def __init__(self, in_channels: int, patch_size: int, width: int = 64) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = self._conv(in_channels, widths[0])
        for before, after in pairwise(widths):
            layers += [*self._conv(before, after), nn.LeakyReLU(LEAK)]
        side = -(-patch_size // 2 ** len(widths))
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1] * side * side, 1)
        self.apply(init_weights)

    def _conv(self, cin: int, cout: int) -> list[nn.Module]:
        return [
            nn.Conv2d(cin, cout, self.KERNEL, 2, self.KERNEL // 2, bias=False),
            nn.BatchNorm2d(cout, track_running_stats=False),
        ]

    def layers(self) -> tuple[nn.Module, ...]:
        """Convolutions, then one score of the whole patch."""
        return (*self.features, nn.Flatten(1), self.score)


class PatchGAN(Discriminator):
    """pix2pix's (Isola et al. 2017, appendix 6.2): a score for each overlapping 70x70 patch.

    Args:
        in_channels: Ci + Ct.
        patch_size: side of the patches.
        width: channels of the first layer.

    Raises:
        UserError: patches below 32 pixels, of which its layers leave nothing.
    """

    def __init__(self, in_channels: int, patch_size: int, width: int = 64) -> None:
        super().__init__()
        if patch_size < 32:
            raise UserError(f"data.patch_size={patch_size}: the PatchGAN needs 32 pixels or more")
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(LEAK)]
        for level, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if level < 2 else 1
            layers += [
                nn.Conv2d(before, after, 4, stride, 1, bias=False),
                nn.BatchNorm2d(after, track_running_stats=False),
                nn.LeakyReLU(LEAK),
            ]
        self.score = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(init_weights)

    def layers(self) -> tuple[nn.Module, ...]:
        """All of them are convolutions."""
        return tuple(self.score)

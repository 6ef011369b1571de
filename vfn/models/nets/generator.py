"""Base of all generators: how the untrained network starts, what is frozen, the output's range."""

import torch
from torch import Tensor, nn

from vfn.errors import UserError, check_choice
from vfn.models.nets.cpu import OutputConv

EDGE = 0.995  # of [-1, 1]; a residual network takes its inputs for no more extreme than this
LEAK = 0.2  # slope of LeakyReLU; not given in the paper, pix2pix's value
STARTS = ("level", "linear")
AUTO = "auto"  # a config's word for whichever of them suits the data


class Generator(nn.Module):
    """Base of all generators: (B, Ci, H, W) in [-1, 1] -> (B, Ct, H, W) in [-1, 1], float32.

    A network builds its layers, `first` and `down` to the smallest size and up to `last`, whose name tells `init=CKPT` which weights other
    targets cannot share, and then calls `_prepare_start`.

    Args:
        in_channels, out_channels: Ci, Ct.
        stride: H and W must be multiples of it.
        start: "level": the untrained network predicts the mean of each target. "linear": it
            predicts the best linear map of the inputs, the baseline that it must beat, and learns
            the rest; the map is a 1x1 convolution beside the network, trained with it.
        residual: the network learns what to add to its inputs, so that it starts as the identity.

    Raises:
        UserError: an unknown start; two ways to start at once; residual with other targets than
            inputs.
    """

    first: nn.Module
    down: nn.ModuleList
    last: nn.Conv2d | nn.ConvTranspose2d

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, start: str, residual: bool
    ) -> None:
        super().__init__()
        check_choice("model.generator.start", start, STARTS, f", or {AUTO}")
        if residual and start == "linear":
            raise UserError(
                "model.generator.start=linear, residual=true: either the linear map of the inputs or "
                "the inputs themselves; set one of them back"
            )
        if residual and in_channels != out_channels:
            raise UserError(
                "model.generator.residual=true: adds to the inputs, so it takes as many targets as "
                f"inputs; here are {in_channels} and {out_channels}"
            )
        self.stride, self.start, self.residual = stride, start, residual
        self.frozen = False
        self.linear = nn.Conv2d(in_channels, out_channels, 1) if start == "linear" else None

    def encoder(self) -> tuple[nn.Module, ...]:
        """The layers that `freeze_encoder` keeps."""
        raise NotImplementedError

    def _prepare_start(self) -> None:
        """Start at zero what is learnt on top of the inputs or of their linear map."""
        if self.residual or self.linear is not None:
            nn.init.zeros_(self.last.weight)
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)

    @torch.no_grad()
    def start_at(self, level: Tensor, linear: tuple[Tensor, Tensor] | None = None) -> None:
        """Let the untrained network predict `linear`, or `level` everywhere where it is None.

        Fluorescence is dark nearly everywhere, about -0.95; from 0, Adam would spend its first
        thousands of steps on moving one bias there.

        Args:
            level: (Ct,) in (-1, 1).
            linear: of images in [-1, 1], weight (Ct, Ci) and bias (Ct,); taken with start="linear"
                alone.
        """
        if self.residual:  # it starts as its input
            return
        assert self.last.bias is not None
        if self.linear is None:
            self.last.bias.copy_(torch.atanh(level))
            return
        assert self.linear.bias is not None
        if linear is None:
            self.linear.bias.copy_(level)
        else:
            weight, bias = linear
            self.linear.weight.copy_(weight[:, :, None, None])
            self.linear.bias.copy_(bias)

    def _encoded(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The features of the smallest size, and those of every larger one for the way up."""
        features = [self.first(x)]
        for block in self.down:
            features.append(block(features[-1]))
        return features.pop(), features

    def _in_range(self, features: Tensor, inputs: Tensor) -> Tensor:
        """The last layer: (B, C, H', W') and (B, Ci, H, W) -> (B, Ct, H, W) in [-1, 1], float32.

        Under autocast bf16 would leave 8 bits of grey: this runs in float32. A tanh ends the
        paper's network; on top of a linear map it would bend what is straight and all but stop
        learning where it is dark, so that sum is clamped instead.
        """
        with torch.autocast(inputs.device.type, enabled=False):
            # `OutputConv` makes float32 of its own.
            y = self.last(features if isinstance(self.last, OutputConv) else features.float())
            if self.linear is not None:
                return clamp_straight(y + self.linear(inputs.float()))
            if self.residual:
                y = y + torch.atanh(inputs.float().clamp(-EDGE, EDGE))
            return torch.tanh(y)

    def freeze_encoder(self) -> None:
        """Keep the weights and batch statistics of the encoder as they are, whatever is trained."""
        self.frozen = True
        for part in self.encoder():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Generator":
        """Set the mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            for part in self.encoder():
                part.eval()
        return self


def clamp_straight(x: Tensor) -> Tensor:
    """`x` clamped to [-1, 1], with the gradient of `x` itself.

    A plain clamp gives a pixel beyond the range no gradient: it could never come back in.
    """
    return x.clamp(-1, 1).detach() + (x - x.detach())


def init_weights(layer: nn.Module) -> None:
    """Normal(0, 0.02) for convolutions, Normal(1, 0.02) for BN scales (pix2pix, DCGAN)."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)

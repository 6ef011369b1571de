"""The U-Net's layers as a CPU does them fastest; what they compute is that of torch's own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP_PIXELS = 8192  # of `OutputConv`: with 128 channels 4 MB
FEW_PIXELS = 512  # of a batch of small images, up to which `_Strided` is the faster one


class DownConv(nn.Conv2d):
    """Convolution of stride 2."""

    def __init__(self, cin: int, cout: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(cin, cout, kernel_size, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2)."""
        if self.bias is None and _pays(x, x.shape[2] * x.shape[3] // 4):
            return _strided(x, self)
        return super().forward(x)


class UpConv(nn.ConvTranspose2d):
    """Transposed convolution of stride 2, to exactly twice the size."""

    def __init__(self, cin: int, cout: int, kernel_size: int, bias: bool = True) -> None:
        # An odd kernel needs one row of output padding for that.
        super().__init__(cin, cout, kernel_size, 2, 1, kernel_size % 2, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W)."""
        if self.bias is None and _pays(x, x.shape[2] * x.shape[3]):
            return _strided(x, self)
        return super().forward(x, output_size)


class OutputConv(UpConv):
    """`UpConv` to few channels, in float32 from features of any dtype.

    A CPU does it at a twentieth of a convolution's usual rate. Here it is a product of matrices, then an
    addition of shifted images, strip by strip of rows, so that the features need no copy in float32 but
    of a strip that fits the cache. Gradients come from the convolution that it is the transpose of,
    in the dtype of the features.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W), channels_last best -> (B, C', 2 H, 2 W), float32; not for autocast."""
        if x.device.type != "cpu" or _traced():
            return super().forward(x.float(), output_size)
        y: Tensor = _ToPixels.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias[:, None, None]


class _ToPixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _in_strips(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient, taps = gradient.to(x.dtype), weight.to(x.dtype)
        # The weights' gradient is that of the convolution whose output would be x.
        _, of_weight, _ = torch.ops.aten.convolution_backward(
            x, gradient, taps, None, (2, 2), (1, 1), (1, 1), False, (0, 0), 1,
            (False, True, False),
        )  # fmt: skip
        return F.conv2d(gradient, taps, stride=2, padding=1), of_weight.to(weight.dtype)


def _in_strips(x: Tensor, weight: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    _, out, kernel, _ = weight.shape
    taps = weight.reshape(channels, -1).T.reshape(-1, channels, 1, 1)  # (C' k k, C, 1, 1)
    taps = taps.contiguous(memory_format=torch.channels_last)
    y = x.new_empty(count, out, 2 * height, 2 * width, dtype=torch.float32)
    rows = max(4, STRIP_PIXELS // width)
    for field, image in zip(y, x.permute(0, 2, 3, 1), strict=True):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, end = max(top - 1, 0), min(bottom + 1, height)  # what reaches into the strip
            strip = image[first:end].float().permute(2, 0, 1)
            doubled = F.fold(
                F.conv2d(strip, taps).flatten(1), (2 * (end - first), 2 * width), kernel,
                padding=1, stride=2,
            )  # fmt: skip
            skip = 2 * (top - first)
            field[:, 2 * top : 2 * bottom] = doubled[:, skip : skip + 2 * (bottom - top)]
    return y


def _traced() -> bool:
    return torch.compiler.is_exporting() or torch.compiler.is_compiling()


def _pays(x: Tensor, pixels: int) -> bool:
    """Return whether the smaller image of a training step is one for `_Strided`."""
    if _traced() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    return len(x) * pixels <= FEW_PIXELS


def _strided(x: Tensor, layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    dtype = x.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    transposed, padding = isinstance(layer, nn.ConvTranspose2d), layer.output_padding
    y: Tensor = _Strided.apply(x.to(dtype), layer.weight, transposed, padding)  # type: ignore[no-untyped-call]
    return y


class _Strided(torch.autograd.Function):
    """Convolution of stride 2 and padding 1, or its transpose, whose weights get their gradient by one
    product of matrices: of images of few pixels torch's way takes two to four times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, transposed: bool, output_padding: tuple[int, int]
    ) -> Tensor:
        ctx.rest = (None, (2, 2), (1, 1), (1, 1), transposed, output_padding, 1)
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight.to(x.dtype), *ctx.rest)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight.to(x.dtype), *ctx.rest, (True, False, False)
            )
        if ctx.needs_input_grad[1]:
            transposed = ctx.rest[4]
            small, large = (x, gradient) if transposed else (gradient, x)
            of_weight = _weight_gradient(small, large, weight.shape[2]).to(weight.dtype)
        return of_x, of_weight, None, None


def _weight_gradient(small: Tensor, large: Tensor, kernel: int) -> Tensor:
    """(B, C, h, w) and (B, C', 2 h, 2 w) -> (C, C', k, k), channels_last: each pixel of `small` times
    what the kernel sees of `large` there, summed over the pixels.
    """
    seen = F.pad(large.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    seen = seen.unfold(1, kernel, 2).unfold(2, kernel, 2).permute(0, 1, 2, 4, 5, 3)
    pixels = small.permute(0, 2, 3, 1).reshape(-1, small.shape[1])
    product = pixels.T @ seen.reshape(len(pixels), -1)
    return product.view(-1, kernel, kernel, large.shape[1]).permute(0, 3, 1, 2)


def dense_gradient(x: Tensor) -> Tensor:
    """`x`; its gradient is copied into memory of its own, in the layout of `x`.

    The backward pass of batch norm falls to a path twenty times as slow where it is given a slice of the
    gradient of a concatenation (torch 2.13, 4x64x128x128: 69 ms in place of 2), that of an
    activation where the layouts differ, as behind `flatten`.
    """
    if x.requires_grad:
        last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        x.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient.contiguous(memory_format=layout)
        )
    return x

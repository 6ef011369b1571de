"""Batches of patches, in grey values as on disk and normalised for networks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.data.intensity import IntensityNormaliser

# Dtypes in which grey values travel to the network, which computes in float32.
BATCHED = {
    "uint8": torch.uint8, "uint16": torch.uint16, "int16": torch.int16, "float32": torch.float32,
}  # fmt: skip


class Batch(NamedTuple):
    """Patches.

    Attributes:
        input: (B, Ci, h, w) float32 in [-1, 1].
        target: (B, Ct, h, w) float32 in [-1, 1].
        valid: (B, Ct, h, w) bool; False where a patch is larger than its field and was padded, and
            all over a target that the field lacks.
    """

    input: Tensor
    target: Tensor
    valid: Tensor


class RawBatch(NamedTuple):
    """Patches in grey values.

    Attributes:
        planes: (B, Ci + Ct, h, w), inputs first; one of `BATCHED`.
        valid: (B, Ct, h, w) bool, as in `Batch`; None where all is valid: each tensor that a worker
            process hands over costs as much as its pixels do.
        jitter: (2, B, Ci) float32, gain and offset of the normalised inputs; None for none.
    """

    planes: Tensor
    valid: Tensor | None = None
    jitter: Tensor | None = None


class Normaliser:
    """Normalise batches from grey values to [-1, 1]; works on any device.

    Args:
        inputs, targets: normalisers of the channels.
    """

    def __init__(
        self, inputs: Sequence[IntensityNormaliser], targets: Sequence[IntensityNormaliser]
    ) -> None:
        self.inputs = len(inputs)
        self.maps = [*inputs, *targets]
        self.low = torch.tensor([m.low for m in self.maps]).reshape(-1, 1, 1)
        self.scale = torch.tensor([2 / (m.high - m.low) for m in self.maps]).reshape(-1, 1, 1)

    def __call__(self, raw: RawBatch) -> Batch:
        """Return the values of `IntensityNormaliser.normalise`, in float32, for a whole batch."""
        grey = raw.planes.to(torch.float32)
        x = ((grey - self.low.to(grey.device)) * self.scale.to(grey.device) - 1).clamp_(-1, 1)
        for channel, fitted in enumerate(self.maps):
            if fitted.knots is not None:
                x[:, channel] = _interpolate(grey[:, channel], fitted.knots)
        inputs, target = x[:, : self.inputs], x[:, self.inputs :]
        if raw.jitter is not None:
            gain, offset = raw.jitter[..., None, None]
            inputs = (inputs * gain + offset).clamp_(-1, 1)
        valid = torch.ones_like(target, dtype=torch.bool) if raw.valid is None else raw.valid
        return Batch(inputs, target, valid)


def _interpolate(grey: Tensor, knots: Sequence[float]) -> Tensor:
    """Return the position of grey values on the equalising curve, in [-1, 1]; `np.interp` in torch."""
    at = torch.tensor(knots, dtype=torch.float32, device=grey.device)
    right = torch.searchsorted(at, grey.contiguous()).clamp_(1, len(at) - 1)
    low, high = at[right - 1], at[right]
    share = ((grey - low) / (high - low).clamp(min=1e-12)).clamp_(0, 1)
    return (right - 1 + share) * (2 / (len(at) - 1)) - 1

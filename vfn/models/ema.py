"""Exponential moving average of a network's weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vfn.errors import UserError

GENERATOR, AVERAGED = "generator.", "averaged."  # what names in a state dict begin with


def checked_decay(decay: float) -> float:
    """`decay`, if it is one, or 0.

    Raises:
        UserError: it is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"model.ema={decay}: give 0 (off) or a share below 1, such as 0.999")
    return decay


class EMA(nn.Module):
    """A copy of a network whose weights trail behind it: w <- d * w + (1 - d) * new.

    The decay rises with the number of updates n, d = min(decay, (1 + n) / (10 + n)), as in
    TensorFlow's ExponentialMovingAverage, so that a short training is not held back by weights
    that it has long left. Buffers (running statistics of batch norm) are those of the network.

    Args:
        net: what is averaged; it is copied as it is.
        decay: in (0, 1).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.net = copy.deepcopy(net).requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the weights that `net` has now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_([*self.net.parameters()], [*net.parameters()], 1 - decay)
        for mine, theirs in zip(self.net.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    def get_extra_state(self) -> Tensor:
        """The number of updates: not a buffer, which a GPU would have to be asked for at each step."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        self.updates = int(state)


def ema_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose generator is the averaged one, if it holds an average."""
    prefix = f"{AVERAGED}net."
    averaged = {
        GENERATOR + k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
    }
    rest = {k: v for k, v in state.items() if not k.startswith(AVERAGED)}
    return {**rest, **averaged}

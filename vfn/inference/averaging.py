"""Average predictions over the turns and flips of a tile (test-time averaging)."""

from collections.abc import Callable

import torch
from torch import Tensor

AVERAGES = {"none": 1, "d4": 8}  # values of `tta`, and how many predictions each averages
FLIPS = (False, True)


def averaged(network: Callable[[Tensor], Tensor], at_once: int) -> Callable[[Tensor], Tensor]:
    """Return the mean of `network` over the eight turns and flips of its input.

    Args:
        network: (B, C, h, w) -> (B, Ct, h, w), for h and w exchanged as well.
        at_once: pixels that may go through at once; at least one turn of a whole batch does.
    """

    def mean(tiles: Tensor) -> Tensor:
        parts = []
        for quarters in (0, 2), (1, 3):  # images of one shape
            turns = [(k, flip) for k in quarters for flip in FLIPS]
            step = max(1, at_once // (tiles[:, 0].numel()))
            for start in range(0, len(turns), step):
                group = turns[start : start + step]
                made = network(torch.cat([_turned(tiles, *turn) for turn in group]))
                pieces = made.float().chunk(len(group))
                parts += [_turned_back(y, *turn) for y, turn in zip(pieces, group, strict=True)]
        return torch.stack(parts).mean(0)

    return mean


def _turned(image: Tensor, quarters: int, flip: bool) -> Tensor:
    turned = torch.rot90(image, quarters, (-2, -1))
    return turned.flip(-1) if flip else turned


def _turned_back(image: Tensor, quarters: int, flip: bool) -> Tensor:
    return torch.rot90(image.flip(-1) if flip else image, -quarters, (-2, -1))

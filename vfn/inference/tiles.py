"""Whole fields from overlapping tiles, blended with alpha weights (paper, sec. 2.3)."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of tiles that cover `length`, neighbours sharing `overlap` pixels or more.

    The tiles are spread evenly, the last one ends at the edge. A length up to `tile` needs one.
    """
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blend_weights(starts: list[int], tile: int, length: int, overlap: int) -> np.ndarray:
    """Alpha of each tile along one axis: (tiles, tile) float32; at every pixel they add up to one.

    A ramp over the overlap; flat to the edges of the field, where no neighbour takes over.
    """
    ramp = np.minimum(np.arange(tile) + 1, np.arange(tile, 0, -1)) / (overlap + 1)
    alpha = np.tile(np.minimum(ramp, 1.0), (len(starts), 1))
    middle = tile // 2
    alpha[0, :middle] = 1.0
    alpha[-1, middle:] = 1.0
    total = np.zeros(max(length, tile))
    for start, row in zip(starts, alpha, strict=True):
        total[start : start + tile] += row
    for start, row in zip(starts, alpha, strict=True):
        row /= total[start : start + tile]
    return alpha.astype(np.float32)


def predict_tiled(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    tile: int,
    overlap: int,
    stride: int,
    batch_size: int,
) -> Tensor:
    """Apply `predict` to a field of any size.

    Args:
        predict: (B, Ci, h, w) -> (B, Ct, h, w) for h and w that are multiples of `stride`.
        image: (Ci, H, W), from 1x1 up.
        tile: side of the tiles (px), rounded up to a multiple of `stride`; shorter along an axis
            that is shorter than it.
        overlap: pixels that neighbours share, below `tile`.
        batch_size: tiles that go through at once.

    Returns:
        (Ct, H, W) float32 on the CPU.
    """
    height, width = image.shape[-2:]
    sides = [min(_up(tile, stride), _up(length, stride)) for length in (height, width)]
    overlap = min(overlap, min(sides) - 1)
    padded = _pad(image, max(height, sides[0]), max(width, sides[1]))
    axes = [
        (starts := tile_starts(length, side, overlap), blend_weights(starts, side, length, overlap))
        for length, side in zip((height, width), sides, strict=True)
    ]
    out: Tensor | None = None
    for places in _batches(len(axes[0][0]), len(axes[1][0]), batch_size):
        corners = [(axes[0][0][i], axes[1][0][j]) for i, j in places]
        tiles = [padded[:, y : y + sides[0], x : x + sides[1]] for y, x in corners]
        predicted = predict(torch.stack(tiles)).float().cpu()
        if out is None:
            out = torch.zeros(predicted.shape[1], *padded.shape[-2:])
        for (i, j), (y, x), one in zip(places, corners, predicted, strict=True):
            alpha = np.outer(axes[0][1][i], axes[1][1][j])
            out[:, y : y + sides[0], x : x + sides[1]] += one * torch.from_numpy(alpha)
    assert out is not None
    return out[:, :height, :width].contiguous()


def _up(length: int, stride: int) -> int:
    return -(-length // stride) * stride


def _pad(image: Tensor, height: int, width: int) -> Tensor:
    """Mirror the field at its lower and right edge; NumPy's mirror may repeat, torch's may not."""
    margin = [(0, 0), (0, height - image.shape[-2]), (0, width - image.shape[-1])]
    if not any(after for _, after in margin):
        return image
    return torch.from_numpy(np.pad(image.numpy(), margin, mode="symmetric"))


def _batches(rows: int, columns: int, size: int) -> Iterator[list[tuple[int, int]]]:
    places = [(i, j) for i in range(rows) for j in range(columns)]
    for start in range(0, len(places), size):
        yield places[start : start + size]

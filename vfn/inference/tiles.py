"""Whole fields from overlapping tiles, blended with alpha weights (paper, sec. 2.3).

Fields stream through: what is held of one is a row of tiles, whatever its size.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.inference.workers import in_workers


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


@dataclass
class Source:
    """A field to predict, read band by band.

    Attributes:
        shape: (H, W), from 1x1 up.
        rows: (start, stop) -> (Ci, stop - start, W) float32, those rows of the field as the network
            takes them; asked for from top to bottom, tiles' overlaps twice.
        owner: whatever the one who asks knows the field by.
    """

    shape: tuple[int, int]
    rows: Callable[[int, int], Tensor]
    owner: object = None


class Band(NamedTuple):
    """Finished rows of one field.

    Attributes:
        source: the field.
        top: first row.
        values: (Ct, h, W) float32 on the CPU.
    """

    source: Source
    top: int
    values: Tensor


class _Field:
    """One field on its way: where its tiles lie, and the rows that wait for the tiles below them."""

    def __init__(self, source: Source, tile: int, overlap: int, stride: int) -> None:
        self.source = source
        self.sides = tuple(min(_up(tile, stride), _up(length, stride)) for length in source.shape)
        overlap = min(overlap, min(self.sides) - 1)
        self.starts, self.weights = [], []
        for length, side in zip(source.shape, self.sides, strict=True):
            starts = tile_starts(length, side, overlap)
            self.starts.append(starts)
            self.weights.append(torch.from_numpy(blend_weights(starts, side, length, overlap)))
        self.sums: Tensor | None = None

    def tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """(row, column, (Ci, h, w)) of each tile, from top to bottom and left to right."""
        height, width = self.source.shape
        for i, top in enumerate(self.starts[0]):
            band = self.source.rows(top, min(top + self.sides[0], height))
            band = _pad(band, self.sides[0], max(width, self.sides[1]))
            for j, left in enumerate(self.starts[1]):
                yield i, j, band[:, :, left : left + self.sides[1]]

    def add(self, i: int, j: int, predicted: Tensor) -> Band | None:
        """Blend a tile in; the rows that no tile below will touch, once a row of tiles is whole."""
        height, width = self.source.shape
        tops, lefts = self.starts
        if self.sums is None:
            self.sums = predicted.new_zeros(
                predicted.shape[0], self.sides[0], max(width, self.sides[1])
            )
        alpha = self.weights[0][i][:, None] * self.weights[1][j]
        self.sums[:, :, lefts[j] : lefts[j] + self.sides[1]] += predicted * alpha
        if j < len(lefts) - 1:
            return None
        stop = tops[i + 1] if i < len(tops) - 1 else height
        done = stop - tops[i]
        finished = self.sums[:, :done, :width]
        waiting = self.sums[:, done:]
        self.sums = torch.cat([waiting, torch.zeros_like(self.sums[:, :done])], 1)
        return Band(self.source, tops[i], finished)


class _Tile(NamedTuple):
    """A tile of `field` in row i and column j of its tiles: (Ci, h, w)."""

    field: _Field
    i: int
    j: int
    cut: Tensor


def predict_bands(
    predict: Callable[[Tensor], Tensor],
    sources: Iterable[Source],
    tile: int,
    overlap: int,
    stride: int,
    batch_size: int,
    lanes: int = 1,
) -> Iterator[Band]:
    """Apply `predict` to fields of any size, holding a row of tiles of each at a time.

    A batch takes its tiles from several fields where one has too few, so that plates of small
    fields fill a GPU too.

    Args:
        predict: (B, Ci, h, w) -> (B, Ct, h, w) for h and w that are multiples of `stride`.
        sources: taken one by one, when there is room in a batch.
        tile: side of the tiles (px), rounded up to a multiple of `stride`; shorter along an axis
            that is shorter than it.
        overlap: pixels that neighbours share, below `tile`.
        batch_size: tiles that go through at once.
        lanes: batches at a time, see `in_workers`.

    Yields:
        The rows of each field from top to bottom without gap, the fields in their order.
    """

    def batches() -> Iterator[list[_Tile]]:
        tiles: list[_Tile] = []
        for source in sources:
            field = _Field(source, tile, overlap, stride)
            for i, j, cut in field.tiles():
                if tiles and tiles[0].cut.shape != cut.shape:  # fields of another size
                    yield tiles
                    tiles = []
                tiles.append(_Tile(field, i, j, cut))
                if len(tiles) == batch_size:
                    yield tiles
                    tiles = []
        if tiles:
            yield tiles

    def computed(batch: Tensor) -> Tensor:
        return predict(batch).float().cpu()

    stacked = ((tiles, torch.stack([one.cut for one in tiles])) for tiles in batches())
    for tiles, predicted in in_workers(computed, stacked, lanes):
        for one, values in zip(tiles, predicted, strict=True):
            if band := one.field.add(one.i, one.j, values):
                yield band


def _up(length: int, stride: int) -> int:
    return -(-length // stride) * stride


def _pad(image: Tensor, height: int, width: int) -> Tensor:
    """Mirror the field at its lower and right edge; NumPy's mirror may repeat, torch's may not."""
    margin = [(0, 0), (0, height - image.shape[-2]), (0, width - image.shape[-1])]
    if not any(after for _, after in margin):
        return image
    return torch.from_numpy(np.pad(image.numpy(), margin, mode="symmetric"))

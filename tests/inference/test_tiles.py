from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfn.inference.tiles import Source, blend_weights, predict_bands, tile_starts

sides = st.integers(1, 200)


def predict_tiled(predict, image, tile, overlap, stride, batch_size):
    """`predict_bands` of one field (Ci, H, W) in memory: (Ct, H, W)."""
    source = Source(tuple(image.shape[-2:]), lambda start, stop: image[:, start:stop])
    bands = predict_bands(predict, [source], tile, overlap, stride, batch_size)
    return torch.cat([band.values for band in bands], 1)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[int, int, int]:
    """(length, tile, overlap)"""
    tile = draw(st.integers(1, 90))
    return draw(st.integers(1, 400)), tile, draw(st.integers(0, tile - 1))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tilings())
@example((257, 256, 128))
@example((400, 2, 1))
def test_tiles_cover_every_pixel_and_overlap(tiling: tuple[int, int, int]) -> None:
    length, tile, overlap = tiling
    starts = tile_starts(length, tile, overlap)
    covered = {x for start in starts for x in range(start, start + tile)}
    assert set(range(length)) <= covered
    assert starts[0] == 0
    if length > tile:
        assert starts[-1] + tile == length  # none reaches over the edge
        assert all(overlap <= a + tile - b < tile for a, b in pairwise(starts))
    else:
        assert starts == [0]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tilings())
@example((5, 4, 3))
def test_weights_add_up_to_one(tiling: tuple[int, int, int]) -> None:
    length, tile, overlap = tiling
    starts = tile_starts(length, tile, overlap)
    weights = blend_weights(starts, tile, length, overlap)
    assert weights.shape == (len(starts), tile)
    assert (weights >= 0).all()
    total = np.zeros(max(length, tile))
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_tiles_fade_into_each_other() -> None:
    starts = tile_starts(24, 16, 8)
    first, second = blend_weights(starts, 16, 24, 8)
    np.testing.assert_allclose(first[:8], 1, atol=1e-6)
    np.testing.assert_allclose(second[8:], 1, atol=1e-6)
    np.testing.assert_allclose(first[8:], np.arange(8, 0, -1) / 9, atol=1e-6)


class Shift:
    """Predicts `x + c`, and looks at what it is given."""

    def __init__(self, stride: int, batch_size: int) -> None:
        self.stride, self.batch_size = stride, batch_size
        self.shapes: list[torch.Size] = []

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        assert tiles.shape[0] <= self.batch_size
        assert tiles.shape[2] % self.stride == tiles.shape[3] % self.stride == 0
        self.shapes.append(tiles.shape)
        return torch.cat([tiles + 0.25, tiles[:, :1] - 1], dim=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    height=sides, width=sides, channels=st.integers(1, 3), tile=st.integers(1, 100),
    stride=st.sampled_from([1, 2, 3, 8, 16, 64]), share=st.floats(0, 0.5),
    batch_size=st.integers(1, 9),
)  # fmt: skip
@example(1, 1, 1, 256, 64, 0.25, 4)
@example(1, 200, 1, 16, 16, 0.5, 1)
@example(200, 3, 2, 1, 1, 0.5, 9)
def test_a_shift_comes_back_exactly(
    height: int, width: int, channels: int, tile: int, stride: int, share: float, batch_size: int
) -> None:
    count = (1 + height // max(1, tile // 2)) * (1 + width // max(1, tile // 2))
    if count > 500:  # tiles of a pixel: the same, only slower
        tile = 16
    image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(height))
    predict = Shift(stride, batch_size)
    got = predict_tiled(predict, image, tile, int(share * tile), stride, batch_size)
    assert got.dtype == torch.float32
    assert got.shape == (channels + 1, height, width)
    torch.testing.assert_close(got[:channels], image + 0.25, atol=1e-5, rtol=0)
    torch.testing.assert_close(got[channels], image[0] - 1, atol=1e-5, rtol=0)
    assert len({shape[1:] for shape in predict.shapes}) == 1  # one tile size: one kernel choice


@pytest.mark.parametrize("shape", [(1, 1), (3, 150), (97, 2), (63, 65)])
def test_padding_mirrors_the_field(shape: tuple[int, int]) -> None:
    image = torch.arange(float(shape[0] * shape[1])).reshape(1, *shape)
    seen: set[float] = set()

    def predict(tiles: torch.Tensor) -> torch.Tensor:
        seen.update(tiles.ravel().tolist())
        return tiles

    predict_tiled(predict, image, 64, 16, 16, 4)
    assert seen == set(image.ravel().tolist())  # no zeros, no invented grey


def test_half_precision_predictions_are_blended_in_float32() -> None:
    image = torch.linspace(-1, 1, 90).repeat(1, 70, 1)
    got = predict_tiled(lambda t: t.bfloat16(), image, 32, 16, 16, 4)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, image, atol=2**-8, rtol=0)


def test_the_field_may_be_a_sample() -> None:
    wide = torch.rand(2, 50, 80, generator=torch.Generator().manual_seed(0))
    image = wide[:, ::2, 3:70:2]
    got = predict_tiled(lambda t: t, image, 16, 4, 8, 3)
    torch.testing.assert_close(got, image, atol=1e-5, rtol=0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=5),
    tile=st.integers(8, 48), share=st.floats(0, 0.5), batch_size=st.integers(1, 7),
    lanes=st.integers(1, 3),
)  # fmt: skip
def test_fields_share_batches_and_come_out_as_alone(
    shapes: list[tuple[int, int]], tile: int, share: float, batch_size: int, lanes: int
) -> None:
    """Bands of each field follow each other without gap, the fields in their order; what a field
    becomes does not depend on its neighbours in the batch."""
    generator = torch.Generator().manual_seed(len(shapes))
    images = [torch.rand(2, *shape, generator=generator) for shape in shapes]
    sizes: list[int] = []
    asked: list[int] = []  # rows that were asked for at once

    def predict(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tiles))
        return tiles.cumsum(-1)

    def source(image: torch.Tensor) -> Source:
        def rows(start: int, stop: int) -> torch.Tensor:
            asked.append(stop - start)
            return image[:, start:stop]

        return Source(tuple(image.shape[1:]), rows)  # type: ignore[arg-type]

    sources = [source(image) for image in images]
    overlap = int(share * tile)
    bands = list(predict_bands(predict, sources, tile, overlap, 8, batch_size, lanes))
    order = [sources.index(band.source) for band in bands]
    assert order == sorted(order)
    assert max(asked) <= tile + 7  # never the whole of a field that is larger
    for i, image in enumerate(images):
        mine = [band for band, owner in zip(bands, order, strict=True) if owner == i]
        tops = [band.top for band in mine]
        heights = [band.values.shape[1] for band in mine]
        assert tops == [sum(heights[:n]) for n in range(len(mine))]
        alone = predict_tiled(predict, image, tile, overlap, 8, 1)
        torch.testing.assert_close(torch.cat([band.values for band in mine], 1), alone)


def test_tiles_of_several_small_fields_fill_a_batch() -> None:
    sizes: list[int] = []

    def predict(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tiles))
        return tiles

    images = [torch.rand(1, 16, 16) for _ in range(6)]
    sources = [Source((16, 16), lambda a, b, image=image: image[:, a:b]) for image in images]  # type: ignore[misc]
    assert len(list(predict_bands(predict, sources, 16, 0, 8, 4))) == 6
    assert sizes == [4, 2]

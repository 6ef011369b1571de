from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planes import make_sample
from vfn.data.batch import Normaliser, RawBatch
from vfn.data.cache import ImageCache
from vfn.data.intensity import IntensityNormaliser
from vfn.data.loading import PatchLoader, as_it_is
from vfn.data.patches import Augmentation, GridPatches, PatchReader, RandomPatches
from vfn.data.samples import Sample


def make_samples(shapes: Sequence[tuple[int, int]], targets: int = 1) -> list[Sample]:
    """Every pixel of the set has its own grey value; targets are the input plus 1, 2, ..."""
    samples, at = [], 0
    for n, (height, width) in enumerate(shapes):
        grey = np.arange(at, at + height * width, dtype=np.uint16).reshape(height, width) * 4
        at += height * width
        samples.append(
            make_sample(str(n), [grey], [grey + np.uint16(c + 1) for c in range(targets)])
        )
    return samples


def make_reader(size: int, targets: int = 1) -> PatchReader:
    return PatchReader(ImageCache(), [None] * (targets + 1), 1, size, np.dtype(np.uint16))


def make_data(
    shapes: Sequence[tuple[int, int]], size: int = 16, augment: bool = True, seed: int = 5
) -> RandomPatches:
    return RandomPatches(
        make_samples(shapes), shapes, make_reader(size), Augmentation(augment), seed
    )


def first_input(batch: RawBatch) -> np.ndarray:
    """(B, h, w) grey values of the first channel."""
    return batch.planes[:, 0].numpy().astype(int)


def targets(batch: RawBatch) -> np.ndarray:
    return batch.planes[:, 1:].numpy().astype(int)


def valid(batch: RawBatch) -> torch.Tensor:
    """(B, Ct, h, w), also where the batch is valid throughout and says so by None."""
    return (
        torch.ones_like(batch.planes[:, 1:], dtype=torch.bool)
        if batch.valid is None
        else batch.valid
    )


def equal(a: RawBatch, b: RawBatch) -> bool:
    return torch.equal(a.planes, b.planes) and torch.equal(valid(a), valid(b))


SHAPES = [(40, 50), (16, 16), (30, 90)]


def test_an_index_is_always_the_same_patch() -> None:
    one, other = make_data(SHAPES), make_data(SHAPES)
    torch.manual_seed(0)
    np.random.seed(0)  # global seeds must not matter
    first = [one[i] for i in range(12)]
    torch.manual_seed(1)
    np.random.seed(1)
    backwards = [other[i] for i in reversed(range(12))][::-1]
    assert all(equal(a, b) for a, b in zip(first, backwards, strict=True))
    assert not all(equal(a, b) for a, b in pairwise(first))
    reseeded = make_data(SHAPES, seed=6)
    assert not all(equal(first[i], reseeded[i]) for i in range(12))


@pytest.mark.parametrize("augment", [False, True])
def test_inputs_and_targets_stay_registered(augment: bool) -> None:
    shapes = [(40, 50), (30, 90)]
    data = RandomPatches(
        make_samples(shapes, 3), shapes, make_reader(16, 3), Augmentation(augment), 0
    )
    for index in range(40):
        batch = data[index]
        assert batch.planes.dtype == torch.uint16
        assert batch.planes.shape == (1, 4, 16, 16)
        assert batch.valid is batch.jitter is None
        for c in range(3):
            np.testing.assert_array_equal(targets(batch)[:, c], first_input(batch) + c + 1)


def test_augmentation_is_each_of_the_eight_symmetries() -> None:
    (sample,) = make_samples([(16, 16)])
    field = sample.inputs[0].read().astype(int)
    known = [np.rot90(a, k) for a in (field, field[:, ::-1]) for k in range(4)]
    data, seen = make_data([(16, 16)]), []
    for index in range(80):
        which = [i for i, one in enumerate(known) if (one == first_input(data[index])[0]).all()]
        assert len(which) == 1
        seen += which
    assert set(seen) == set(range(8))


def test_patches_lie_within_the_sample() -> None:
    (sample,) = make_samples([(60, 70)])
    sample = replace(sample, region=(slice(10, 40), slice(20, 61)))
    inside = set(sample.inputs[0].read()[10:40, 20:61].ravel().tolist())
    data = RandomPatches([sample], [(30, 41)], make_reader(16), Augmentation(), 0)
    seen: set[int] = set()
    for index in range(300):
        seen |= set(first_input(data[index]).ravel().tolist())
    assert seen <= inside
    assert len(seen) > 0.95 * len(inside)  # up to the corners, which are rarely drawn
    grid = GridPatches([sample], [(30, 41)], make_reader(16), 100)
    every = [first_input(grid[i]).ravel() for i in range(len(grid))]
    assert set(np.concatenate(every).tolist()) == inside


def test_large_fields_are_drawn_more_often() -> None:
    shapes = [(16, 16), (64, 64)]
    data = make_data(shapes, augment=False)
    small = sum(int(first_input(data[i]).max() < 16 * 16 * 4) for i in range(300))
    assert 3 < small < 40  # 300 / 17 expected


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (40, 5), (15, 16)])
@pytest.mark.parametrize("augment", [False, True])
def test_fields_smaller_than_a_patch_are_padded_and_masked(
    shape: tuple[int, int], augment: bool
) -> None:
    size = 16
    data = make_data([shape], size, augment)
    covered = min(shape[0], size), min(shape[1], size)
    for index in range(8):
        batch = data[index]
        assert batch.planes.shape == (1, 2, size, size)
        assert int(valid(batch).sum()) == covered[0] * covered[1]
        # What is valid is the field, each pixel once; what is not is its mirror image.
        real = first_input(batch)[valid(batch)[:, 0].numpy()]
        assert len(set(real.tolist())) == real.size
        assert set(first_input(batch).ravel().tolist()) == set(real.tolist())
        np.testing.assert_array_equal(targets(batch)[:, 0], first_input(batch) + 1)
    if not augment and max(shape) <= size:
        assert valid(data[0])[0, 0, : shape[0], : shape[1]].all()
        field = make_samples([shape])[0].inputs[0].read()
        np.testing.assert_array_equal(first_input(data[0])[0, : shape[0], : shape[1]], field)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3),
    size=st.integers(4, 24),
)
def test_the_grid_covers_every_pixel(shapes: list[tuple[int, int]], size: int) -> None:
    samples = make_samples(shapes)
    data = GridPatches(samples, shapes, make_reader(size), 10_000)
    seen: set[int] = set()
    for i in range(len(data)):
        batch = data[i]
        seen |= set(first_input(batch)[valid(batch)[:, 0].numpy()].tolist())
    assert seen == {int(v) for sample in samples for v in sample.inputs[0].read().ravel()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(1, 12), at_most=st.integers(1, 80))
def test_the_grid_holds_at_most_so_many_spread_over_the_samples(count: int, at_most: int) -> None:
    shapes = [(16, 64)] * count
    data = GridPatches(make_samples(shapes), shapes, make_reader(16), at_most)
    assert len(data) == min(at_most, 4 * count)
    assert len(set(map(repr, data.corners))) == len(data)
    held = {sample.name for sample, _, _ in data.corners}
    assert len(held) == min(count, at_most)


# --- the loader ---


def make_loader(batches: int = 5, **options: object) -> PatchLoader:
    options = {"batch_size": 3, "collate_fn": as_it_is, **options}
    return PatchLoader(make_data(SHAPES), batches, **options)  # type: ignore[arg-type]


def test_workers_do_not_change_the_batches() -> None:
    alone = make_loader(4)
    helped = make_loader(4, num_workers=2, persistent_workers=True)
    for _ in range(2):  # epochs
        ours, theirs = list(alone), list(helped)
        assert len(ours) == len(theirs) == len(alone) == 4
        assert all(equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert helped.state_dict() == alone.state_dict() == {"drawn": 8, "begun": 4}


def test_epochs_differ() -> None:
    loader = make_loader()
    first, second = list(loader), list(loader)
    assert not any(equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 2, 5, 7, 10])
def test_resume_gives_the_batches_that_are_left(stop: int, workers: int) -> None:
    whole = make_loader()
    every = [*whole, *whole, *whole]
    broken = make_loader(num_workers=workers)
    drawn: list[RawBatch] = []
    while len(drawn) < stop:
        for batch in broken:
            drawn.append(batch)
            if len(drawn) == stop:
                break
    state = broken.state_dict()
    assert state["drawn"] == stop
    resumed = make_loader(num_workers=workers)
    iterator = iter(resumed)  # Lightning restores the state after it asked for the iterator
    resumed.load_state_dict(state)
    rest = list(iterator)
    assert len(rest) == 5 - stop % 5
    both = [*drawn, *rest]
    assert all(equal(a, b) for a, b in zip(both, every[: len(both)], strict=True))
    following = list(resumed)
    assert all(equal(a, b) for a, b in zip(following, every[len(both) :], strict=False))
    assert len(following) == 5


def test_part_of_an_epoch() -> None:
    """As Lightning takes it: it stops after so many batches, and asks for the next epoch."""

    def taken(loader: PatchLoader, count: int) -> list[RawBatch]:
        return [batch for _, batch in zip(range(count), loader, strict=False)]

    every = list(make_loader(20))
    limited = make_loader(4, limit=3)
    assert len(limited) == 4  # Lightning takes its share of all
    for start in (0, 3, 6):
        assert_equal(taken(limited, 3), every[start : start + 3])
    # After two batches of the fourth epoch, without the limit: two more of four.
    assert limited.state_dict() == {"drawn": 9, "begun": 6}
    resumed = make_loader(4)
    resumed.load_state_dict({"drawn": 11, "begun": 9})
    assert_equal(list(resumed), every[11:13])
    assert make_loader(4, limit=0.5).taken == make_loader(4, limit=2).taken == 2
    again = make_loader(4, limit=2, repeat=True)
    assert_equal([*taken(again, 2), *taken(again, 2)], [*every[:2], *every[:2]])
    again.load_state_dict({"drawn": 5, "begun": 4})
    assert_equal(taken(again, 1), every[1:2])


def assert_equal(ours: list[RawBatch], theirs: list[RawBatch]) -> None:
    assert all(equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_no_patch_and_leave_none_out(world: int) -> None:
    indices: list[list[int]] = []
    for rank in range(world):
        loader = make_loader(4, rank=rank, world=world)
        epoch = list(loader.sampler)
        loader.drawn = 4
        indices.append([*epoch, *loader.sampler])
    flat = sorted(i for row in indices for i in row)
    assert flat == list(range(2 * 4 * 3 * world))


def test_ranks_together_are_one_larger_batch() -> None:
    two = [make_loader(3, rank=rank, world=2) for rank in range(2)]
    one = make_loader(3, batch_size=6)
    for left, right, whole in zip(*two, one, strict=True):
        woven = torch.stack([left.planes, right.planes], dim=1).flatten(0, 1)
        assert torch.equal(woven, whole.planes)


def test_a_missing_target_is_never_valid() -> None:
    samples = make_samples([(40, 40), (40, 40)], 2)
    samples[1] = replace(samples[1], targets=(samples[1].targets[0], None))
    data = RandomPatches(samples, [(40, 40)] * 2, make_reader(16, 2), Augmentation(), 0)
    batch = data.__getitems__(range(40))
    second = (first_input(batch) >= 40 * 40 * 4).all(axis=(1, 2))  # patches of the second field
    assert 0 < second.sum() < 40
    np.testing.assert_array_equal(valid(batch)[:, 1].numpy().all(axis=(1, 2)), ~second)
    np.testing.assert_array_equal(valid(batch)[:, 1].numpy().any(axis=(1, 2)), ~second)
    assert valid(batch)[:, 0].all()


# --- on the device: from grey values to [-1, 1] ---

CURVE = tuple(float(v) for v in np.sort(np.random.default_rng(3).uniform(0, 65535, 257)))
MAPS = [
    IntensityNormaliser(0.0, 65535.0, "uint16"),
    IntensityNormaliser(113.0, 4012.5, "uint16"),
    IntensityNormaliser(CURVE[0], CURVE[-1], "uint16", CURVE),
]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_batch_is_normalised_as_each_channel_is(dtype: str) -> None:
    rng = np.random.default_rng(1)
    grey = rng.uniform(0, 255 if dtype == "uint8" else 65535, (2, 3, 9, 11)).astype(dtype)
    batch = Normaliser(MAPS[:1], MAPS[1:])(RawBatch(torch.from_numpy(grey)))
    assert batch.valid.shape == batch.target.shape
    assert batch.valid.dtype == torch.bool
    assert batch.valid.all()
    assert batch.input.dtype == batch.target.dtype == torch.float32
    got = torch.cat([batch.input, batch.target], dim=1).numpy()
    for channel, fitted in enumerate(MAPS):
        expected = fitted.normalise(grey[:, channel])
        # A straight line is the same arithmetic; the curve is float32 here and float64 there.
        tolerance = 0 if fitted.knots is None else 2e-5
        np.testing.assert_allclose(got[:, channel], expected, rtol=0, atol=tolerance)


def test_jitter_changes_the_inputs_alone_and_keeps_their_range() -> None:
    shapes = [(40, 40)]
    samples, reader = make_samples(shapes), make_reader(16)
    plain = RandomPatches(samples, shapes, reader, Augmentation(False), 3)
    jittered = RandomPatches(samples, shapes, reader, Augmentation(False, 0.3), 3)
    normalise = Normaliser([IntensityNormaliser(0.0, 6400.0, "uint16")], MAPS[:1])
    before, after = normalise(plain[7]), normalise(jittered[7])
    assert torch.equal(before.target, after.target)
    assert torch.equal(before.valid, after.valid)
    assert not torch.equal(before.input, after.input)
    assert float(after.input.abs().max()) <= 1
    # One gain and one offset: away from the limits the change is a straight line.
    x, y = before.input.flatten().double(), after.input.flatten().double()
    inside = y.abs() < 1
    slope, offset = np.polyfit(x[inside].numpy(), y[inside].numpy(), 1)
    np.testing.assert_allclose(y[inside], slope * x[inside] + offset, atol=1e-6)
    assert 0.7 <= slope <= 1.3
    assert abs(offset) <= 0.3
    assert torch.equal(after.input, normalise(jittered[7]).input)  # the same whoever asks

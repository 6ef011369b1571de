"""Full and signal ranges equal NumPy on the pooled pixels."""

import numpy as np
import pytest

from vfn.data.images import DTYPES
from vfn.errors import UserError
from vfn.evaluation.pairs import FieldPair
from vfn.evaluation.ranges import channel_ranges


class Truths:
    """A source of truths alone."""

    def __init__(self, *images, channels=("a",)):
        self.images = [np.asarray(image).reshape(len(channels), -1, 1) for image in images]
        self.channels = channels

    def __len__(self):
        return len(self.images)

    def truth(self, index):
        return self.channels, self.images[index]

    def pair(self, index):
        return FieldPair(f"field{index}", self.channels, self.images[index], self.images[index])


def sample(dtype, size, seed):
    values = np.random.default_rng(seed).normal(300, 80, size)
    if dtype == np.float32:
        return ((values - 300) / 50).astype(np.float32)  # negative and positive
    if dtype in (np.int16, np.int32):
        return ((values - 300) * (100 if dtype == np.int16 else 1e6)).astype(dtype)
    if dtype == np.uint32:
        return (values * 7e6).astype(dtype)  # beyond 2^31
    return values.clip(0, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.dtype(name).type for name in DTYPES])
@pytest.mark.parametrize("sizes", [(1,), (3, 7), (1001, 400, 77)])
def test_signal_range_is_numpys_percentile_of_the_pool(dtype, sizes):
    images = [sample(dtype, size, seed) for seed, size in enumerate(sizes)]
    found = channel_ranges(Truths(*images))["a"]
    pool = np.concatenate(images).astype(np.float64)
    expected = np.percentile(pool, (0.1, 99.9))
    np.testing.assert_allclose((found.signal.low, found.signal.high), expected, rtol=1e-14)
    full = {
        "uint8": (0, 255),
        "uint16": (0, 65535),
        "int16": (-32768, 32767),
        "uint32": (0, 2**32 - 1),
        "int32": (-(2**31), 2**31 - 1),
    }.get(np.dtype(dtype).name, (pool.min(), pool.max()))
    assert (found.full.low, found.full.high) == full
    assert (found.fields, found.pixels) == (len(sizes), sum(sizes))


def test_channels_have_ranges_of_their_own():
    image = np.stack([np.arange(100), 7 * np.arange(100)]).astype(np.uint16)
    found = channel_ranges(Truths(image, channels=("a", "b")))
    assert found["b"].signal.width == pytest.approx(7 * found["a"].signal.width)


def test_zeros_of_both_signs_are_one_value():
    found = channel_ranges(Truths(np.array([-0.0, 0.0, -0.0, 0.0], np.float32)))["a"]
    assert (found.signal.width, found.full.width) == (0.0, 0.0)


def test_a_dtype_that_changes_is_refused():
    with pytest.raises(UserError, match=r"uint8 in field0 but uint16 in field1"):
        channel_ranges(Truths(np.zeros(3, np.uint8), np.zeros(3, np.uint16)))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UserError, match=r"field0.*int64"):
        channel_ranges(Truths(np.zeros(3, np.int64)))

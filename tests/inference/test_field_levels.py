"""Inputs that are standardised field by field, and test-time averaging."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tests.inference.test_predictor import grey, make_checkpoint, make_predictor
from vfn.data.input_shift import field_statistics
from vfn.data.intensity import FieldLevel, IntensityNormaliser
from vfn.errors import UserError
from vfn.models.checkpoint import Checkpoint


def per_field(dtype: str = "uint16", pointwise: bool = False) -> Checkpoint:
    """Return a model whose input is standardised; `pointwise` predicts each pixel from itself."""
    checkpoint = make_checkpoint(dtypes=(dtype, "float32"))
    fitted = IntensityNormaliser(-2.0, 2.5, dtype, per_field=True)
    generator = torch.nn.Identity() if pointwise else checkpoint.generator
    return replace(checkpoint, inputs=(fitted,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(16, 48),
    st.floats(0, 0.5),
    st.integers(0, 99),
)
def test_whole_and_tiled_predictions_see_the_same_level(
    shape: tuple[int, int], tile: int, overlap: float, seed: int
) -> None:
    # A ramp: tiles that took their own levels would differ by more than its whole height.
    field = (grey(seed, shape) + 100 * np.arange(shape[0])[:, None]).astype(np.uint16)
    checkpoint = per_field(pointwise=True)
    whole, tiled = (
        make_predictor(checkpoint, tile=side, overlap=overlap).predict([field])
        for side in (128, tile)
    )
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)
    middle, spread = FieldLevel.measure(field)
    expected = np.clip((field - middle) / spread, -2, 2.5)
    scaled = (whole[0] / 2.5 * 2 - 1 + 1) / 2 * 4.5 - 2  # the target's range is 0 to 2.5
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-4)


def test_gain_and_offset_of_a_field_change_nothing() -> None:
    field = grey(3, (40, 50), "float32")
    predictor = make_predictor(per_field("float32"))
    np.testing.assert_allclose(
        predictor.predict([7 * field + 300]), predictor.predict([field]), rtol=0, atol=1e-3
    )


def test_a_brighter_lamp_changes_no_statistic_of_the_alarm() -> None:
    field = gaussian_filter(np.random.default_rng(0).normal(100, 90, (80, 90)), 2).astype(
        np.float32
    )
    before = field_statistics(field, FieldLevel.measure(field))
    after = field_statistics(3 * field + 50, FieldLevel.measure(3 * field + 50))
    for name in ("background", "mean", "bright", "contrast", "noise"):
        assert after[name] == pytest.approx(before[name], rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("array", [np.zeros((5, 6), np.uint8), np.full((1, 1), 7.5, np.float32)])
def test_a_field_of_one_grey_value_has_a_level(array: np.ndarray) -> None:
    level = FieldLevel.measure(array)
    np.testing.assert_array_equal(level.standardised(array), np.zeros(array.shape, np.float32))


def test_a_rare_bright_cell_does_not_move_the_level() -> None:
    field = np.random.default_rng(1).normal(500, 20, (100, 100)).astype(np.float32)
    before = FieldLevel.measure(field)
    field[:10, :10] = 5000
    after = FieldLevel.measure(field)
    np.testing.assert_allclose(after, before, rtol=0.12)


# --- test-time averaging ---


@pytest.mark.parametrize("batch_size", [1, 8])
def test_averaged_predictions_turn_with_the_field(batch_size: int) -> None:
    predictor = make_predictor(
        make_checkpoint(dtypes=("uint16", "float32")), tta="d4", tile=64, batch_size=batch_size
    )
    field = grey(0, (32, 48))
    stain = predictor.predict([field])[0]
    turned = predictor.predict([np.ascontiguousarray(np.rot90(field))])[0]
    flipped = predictor.predict([np.ascontiguousarray(field[:, ::-1])])[0]
    np.testing.assert_allclose(np.rot90(stain), turned, rtol=0, atol=1e-5)
    np.testing.assert_allclose(stain[:, ::-1], flipped, rtol=0, atol=1e-5)


def test_the_average_is_the_mean_of_eight_predictions() -> None:
    checkpoint = make_checkpoint(dtypes=("uint16", "float32"))
    field = grey(1, (32, 32))
    once, mean = make_predictor(checkpoint), make_predictor(checkpoint, tta="d4")
    parts = []
    for k in range(4):
        for flip in (False, True):
            turned = np.rot90(field, k)
            turned = turned[:, ::-1] if flip else turned
            made = once.predict([np.ascontiguousarray(turned)])[0]
            parts.append(np.rot90(made[:, ::-1] if flip else made, -k))
    np.testing.assert_allclose(mean.predict([field])[0], np.mean(parts, 0), rtol=0, atol=1e-5)
    assert once.identity != mean.identity


def test_unknown_averages_and_intervals_of_averages_are_refused() -> None:
    with pytest.raises(UserError, match="tta=d8: unknown; choose one of none, d4"):
        make_predictor(make_checkpoint(), tta="d8")
    with pytest.raises(UserError, match="calibrated on single predictions; give uncertainty=null"):
        make_predictor(make_checkpoint(), tta="d4", uncertainty=0.9)

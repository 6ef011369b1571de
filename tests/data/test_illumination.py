import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from vfn.data.illumination import FLOOR, GRID, FlatField, MeanImage
from vfn.errors import UserError

SHAPE = (130, 174)
OFFSET = 100.0


def light(shape: tuple[int, int] = SHAPE, loss: float = 0.2) -> np.ndarray:
    """A lamp off centre, mean 1."""
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])
    flat = 1 - loss * ((y - 0.2) ** 2 + (x + 0.1) ** 2)
    return flat / flat.mean()


def cells(seed: int, flat: np.ndarray) -> np.ndarray:
    """Bright cells on a dim ground, as a camera sees them."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.standard_normal(flat.shape), 3)
    bright = 1500 * (noise / noise.std() > 1.2) + 150
    return np.rint(OFFSET + rng.poisson(bright * flat)).astype(np.uint16)


def grey(seed: int, flat: np.ndarray) -> np.ndarray:
    """Transmitted light: cells both brighter and darker than the ground."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(flat.shape), 2)
    return np.rint(12000 * flat * (1 + 0.06 * noise / noise.std())).astype(np.uint16)


def fit(fields: list[np.ndarray]) -> FlatField:
    mean = MeanImage()
    for field in fields:
        mean.add(field)
    return FlatField.fit(mean)


def error(field: FlatField, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((field.surface / truth - 1) ** 2)))


@pytest.mark.parametrize(("draw", "count", "most"), [
    (grey, 3, 0.01), (grey, 30, 0.005), (cells, 10, 0.08), (cells, 100, 0.03),
])  # fmt: skip
def test_finds_a_known_falloff(draw, count: int, most: float) -> None:
    truth = light()
    fitted = fit([draw(seed, truth) for seed in range(count)])
    assert error(fitted, truth) < most
    assert most < np.std(truth)  # what a flat surface would be off by
    assert fitted.falloff == pytest.approx(1 - truth.min() / truth.max(), abs=0.2)


@pytest.mark.parametrize("draw", [grey, cells])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_even_light_leaves_no_ghosts_of_cells(draw, count: int) -> None:
    even = np.ones(SHAPE)
    off, plain = [], []
    for trial in range(8):
        fields = [draw(1000 * trial + seed, even) for seed in range(count)]
        off.append(error(fit(fields), even))
        mean = gaussian_filter(np.mean(fields, 0), 20) - fit(fields).dark
        plain.append(np.std(mean / mean.mean()))
    assert np.mean(off) < 0.06
    assert np.mean(off) < 0.7 * np.mean(plain)  # a wide blur of the average, as is usual


def test_correcting_makes_an_unseen_field_even() -> None:
    truth = light(loss=0.3)
    fitted = fit([cells(seed, truth) for seed in range(60)])
    raw, even = cells(99, truth), cells(99, np.ones(SHAPE))
    corrected = fitted.correct(raw)
    assert corrected.dtype == np.float32
    wrong = [np.abs(gaussian_filter(a.astype(float) - even, 9)).mean() for a in (raw, corrected)]
    assert wrong[1] < 0.5 * wrong[0]
    assert corrected.mean() == pytest.approx(raw.mean(), rel=0.03)


def test_dark_is_the_ground_of_stains_and_nothing_in_transmitted_light() -> None:
    assert fit([cells(seed, light()) for seed in range(5)]).dark == pytest.approx(OFFSET, abs=100)
    assert fit([grey(seed, light()) for seed in range(5)]).dark == 0


def test_a_clump_and_a_field_stop_do_not_bend_the_surface() -> None:
    truth = light()
    fields = [grey(seed, truth) for seed in range(6)]
    fields[2][60:80, 90:110] = 65535
    for field in fields:
        field[:10, :10] = 300
    assert error(fit(fields), truth) < 0.02


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    count=st.integers(1, 4),
    seed=st.integers(0, 999),
    top=st.sampled_from([1, 30, 65535]),
)
def test_any_fields_give_a_positive_surface_of_mean_one_that_can_be_undone(
    shape: tuple[int, int], count: int, seed: int, top: int
) -> None:
    rng = np.random.default_rng(seed)
    fields = [(top * rng.random(shape) ** 4).astype(np.uint16) for _ in range(count)]
    fitted = fit(fields)
    assert max(fitted.grid.shape) <= GRID
    assert fitted.surface.shape == shape
    assert fitted.surface.min() > FLOOR / 3
    assert fitted.grid.mean() == pytest.approx(1, abs=1e-5)
    back = fitted.restore(fitted.correct(fields[0]))
    np.testing.assert_allclose(back, fields[0], rtol=1e-5, atol=1e-3 * max(1, fitted.dark))


def test_one_field_cannot_tell_lamp_from_cells() -> None:
    fitted = fit([cells(0, light())])
    assert (fitted.surface == 1).all()
    assert fitted.falloff == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_fields(dtype: str, value: int) -> None:
    fields = [np.full(SHAPE, value, dtype)] * 3
    fitted = fit(fields)
    np.testing.assert_allclose(fitted.surface, 1, atol=1e-5)
    np.testing.assert_allclose(fitted.correct(fields[0]), value, atol=1e-2)


def test_a_region_is_the_part_of_the_whole() -> None:
    fitted = fit([cells(seed, light()) for seed in range(5)])
    field, region = cells(7, light()), (slice(20, 84), slice(100, 164))
    assert (fitted.correct(field[region], region) == fitted.correct(field)[region]).all()
    assert (fitted.restore(field[region], region) == fitted.restore(field)[region]).all()


def test_sizes_that_do_not_fit() -> None:
    fitted = fit([cells(seed, light()) for seed in range(2)])
    with pytest.raises(UserError, match=r"60x70 .*130x174.*data.illumination=false"):
        fitted.correct(np.zeros((60, 70), np.uint16))
    with pytest.raises(UserError, match="part of the field is 64x64"):
        fitted.restore(np.zeros((64, 64), np.float32), (slice(100, 164), slice(0, 64)))
    mean = MeanImage()
    mean.add(np.zeros((8, 9)))
    with pytest.raises(UserError, match=r"8x9 pixels, another 9x9"):
        mean.add(np.zeros((9, 9)))
    with pytest.raises(UserError, match="no training field"):
        FlatField.fit(MeanImage())


def test_plain_data_round_trip() -> None:
    fitted = fit([cells(seed, light()) for seed in range(5)])
    again = FlatField.from_dict(json.loads(json.dumps(fitted.to_dict())))
    field = cells(9, light())
    assert (again.correct(field) == fitted.correct(field)).all()
    assert again.shape == fitted.shape

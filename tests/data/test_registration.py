"""Shifts between channels: planted ones are found, in transmitted light too; doubt is no verdict."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import fourier_shift, gaussian_filter, laplace
from skimage.registration import phase_cross_correlation

from vfn.data import registration
from vfn.data.registration import REACH, SURE, Shift, features, measure_shift
from vfn.data.simulated import simulate_field

ImageSource = npt.NDArray[np.float32]
SIZE = (256, 288)
BORDER = 20  # drawn around, so that planes can be cut out shifted


def nuclei(seed: int) -> ImageSource:
    """Soft-edged blobs of different brightness, 0 to about 1, with a border to cut off."""
    rng = np.random.default_rng(seed)
    height, width = (n + 2 * BORDER for n in SIZE)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width), np.float32)
    for cy, cx in rng.uniform(0, (height, width), (130, 2)):
        a, b, turn = *rng.uniform(4, 9, 2), rng.uniform(0, np.pi)
        u = (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn)
        v = (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn)
        blob = rng.uniform(0.4, 1) / (1 + np.exp((np.hypot(u / a, v / b) - 1) * min(a, b)))
        image = np.maximum(image, blob)
    return image


def phase_like(image: ImageSource, seed: int) -> ImageSource:
    """What phase contrast makes of it: dark bodies, bright rings, other structure, uneven light."""
    rng = np.random.default_rng(1000 + seed)
    body = np.sqrt(gaussian_filter(image, 1.0))
    other = gaussian_filter(rng.standard_normal(image.shape), 2)
    light = np.linspace(0.7, 1.2, image.shape[1], dtype=np.float32)
    shown = 1 - 0.3 * body - 2 * laplace(gaussian_filter(image, 2.5)) + 0.3 * other
    return np.asarray(light * (shown + 0.03 * rng.standard_normal(image.shape)), np.float32)


def noisy(image: ImageSource, seed: int, sigma: float = 0.03) -> ImageSource:
    noise = np.random.default_rng(2000 + seed).standard_normal(image.shape)
    return np.asarray(image + sigma * noise, np.float32)


def cut(image: ImageSource, dy: float = 0, dx: float = 0) -> ImageSource:
    """The plane in which everything lies (dy, dx) farther down and right."""
    if dy % 1 or dx % 1:
        wave = np.fft.ifft2(fourier_shift(np.fft.fft2(image), (dy, dx))).real
        return np.asarray(wave[BORDER:-BORDER, BORDER:-BORDER], np.float32)
    top, left = BORDER - int(dy), BORDER - int(dx)
    return image[top : top + SIZE[0], left : left + SIZE[1]]


def measure(reference: npt.NDArray, moving: npt.NDArray) -> Shift:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return measure_shift(features(reference), features(moving))


def error(found: Shift, dy: float, dx: float) -> float:
    return float(np.hypot(found.dy - dy, found.dx - dx))


STAIN = nuclei(0)
LIGHT = phase_like(STAIN, 0)


def test_planes_alike_are_placed_to_a_few_hundredths() -> None:
    truth = features(noisy(cut(STAIN), 1))
    assert error(measure_shift(truth, truth, alike=True), 0, 0) < 1e-3
    for dy, dx in ((2, 0), (0, -2), (-3, 5)):
        found = measure_shift(truth, features(noisy(cut(STAIN, dy, dx), 2)), alike=True)
        assert found.sure
        assert error(found, dy, dx) < 0.05


def test_the_sign_is_that_of_the_docstring() -> None:
    found = measure(noisy(cut(STAIN), 1), noisy(cut(STAIN, 5, -3), 2))
    assert found.sure
    assert error(found, 5, -3) < 0.1
    reference, moving = cut(STAIN), cut(STAIN, 5, -3)
    assert moving[100 + 5, 80 - 3] == reference[100, 80]


@pytest.mark.parametrize(
    ("dy", "dx"), [(0, 0), (1, 0), (3, -3), (-10, 6), (0.5, 0.25), (-2.3, 4.7)]
)
def test_planted_shifts_are_found_in_stains_and_in_transmitted_light(dy: float, dx: float) -> None:
    moving = noisy(cut(STAIN, dy, dx), 2)
    other_stain = noisy(np.sqrt(np.maximum(cut(STAIN), 0)) ** 3, 1)
    for reference, close in ((other_stain, 0.1), (cut(LIGHT), 0.5)):
        found = measure(reference, moving)
        assert found.sure
        assert error(found, dy, dx) < close


def test_plain_correlation_would_fail_where_this_does_not() -> None:
    reference, moving = cut(LIGHT), cut(STAIN, 3, -3)
    naive = -np.array(phase_cross_correlation(reference, moving, normalization=None)[0])
    assert np.hypot(*(naive - (3, -3))) > 3
    assert error(measure(reference, moving), 3, -3) < 0.4


def test_it_agrees_with_scikit_image_where_that_works() -> None:
    reference, moving = noisy(cut(STAIN), 1), noisy(cut(STAIN, 1.4, -2.6), 2)
    theirs = -phase_cross_correlation(reference, moving, upsample_factor=20, normalization=None)[0]
    assert error(measure(reference, moving), *theirs) < 0.3
    assert error(measure(reference, moving), 1.4, -2.6) < 0.1


@given(dy=st.integers(-8, 8), dx=st.integers(-8, 8), seed=st.integers(0, 3))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_swapping_the_planes_turns_the_shift_round(dy: int, dx: int, seed: int) -> None:
    reference, moving = features(cut(LIGHT)), features(noisy(cut(STAIN, dy, dx), seed))
    there, back = measure_shift(reference, moving), measure_shift(moving, reference)
    assert there.sure
    assert error(there, -back.dy, -back.dx) < 0.2
    assert abs(there.confidence - back.confidence) < 0.2


def test_grey_scale_contrast_and_dtype_do_not_matter() -> None:
    reference, moving = cut(LIGHT), noisy(cut(STAIN, 2, -4), 3)
    plain = measure(reference, moving)
    wide = np.rint((moving - moving.min()) * 9000 + 300).astype(np.uint16)
    narrow = np.rint((reference - reference.min()) * 90).astype(np.uint8)
    assert error(measure(narrow, wide), plain.dy, plain.dx) < 0.05
    assert error(measure(-reference, moving), plain.dy, plain.dx) < 0.3
    assert wide.min() >= 300  # inputs are left as they were


def test_unrelated_planes_give_no_verdict() -> None:
    stains = [features(noisy(cut(nuclei(seed)), seed)) for seed in range(1, 6)]
    lights = [features(cut(phase_like(nuclei(seed), seed))) for seed in range(11, 15)]
    verdicts = [measure_shift(a, b).sure for a in lights for b in stains]
    verdicts += [measure_shift(a, b).sure for a in stains for b in stains if a is not b]
    assert len(verdicts) == 40
    assert not any(verdicts)


def test_a_shift_beyond_reach_gives_no_verdict() -> None:
    assert not measure(cut(STAIN, 0, -12), cut(STAIN, 0, 12)).sure
    assert not measure(cut(STAIN, 0, -8), cut(STAIN, 0, REACH + 1 - 8)).sure
    near = measure(cut(STAIN, 0, -7), cut(STAIN, 0, 8))
    assert near.sure
    assert error(near, 0, REACH - 1) < 0.2


def test_a_pattern_that_repeats_gives_no_verdict() -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    grid = (np.cos(2 * np.pi * y / 10) + np.cos(2 * np.pi * x / 10)).astype(np.float32)
    assert not measure(noisy(grid, 1), noisy(np.roll(grid, 3, 1), 2)).sure


def test_noise_gives_no_verdict() -> None:
    flat = np.full(SIZE, 100, np.float32)
    assert not any(measure(noisy(flat, 2 * s, 5), noisy(flat, 2 * s + 1, 5)).sure for s in range(6))


def test_grey_values_that_lie_beside_their_structure_are_not_believed() -> None:
    """Relief: bright on one side, dark on the other. Either the edges win, or nobody does."""
    for seed in range(3):
        body = gaussian_filter(nuclei(seed), 1.0)
        relief = noisy(10 * (np.roll(body, 2, 0) - np.roll(body, -2, 0)), seed, 0.2)
        found = measure(cut(relief), noisy(cut(nuclei(seed)), 9))
        assert not found.sure or error(found, 0, 0) < 1


@pytest.mark.parametrize(
    ("edges", "grey", "mixed", "sure"),
    [
        (None, (2, 3, 0.1, 0.9), None, False),  # grey to grey alone
        ((2, 3, 0.3, 0.9), (2.2, 3.1, 0.1, 0.9), None, True),
        ((2, 3, 0.3, 0.9), (4.5, 3.1, 0.1, 0.9), None, False),  # they disagree
        ((2, 3, 0.1, 0.9), (2.2, 3.1, 0.1, 0.9), (8, -1, 1.1, 0.6), True),  # one is outvoted
        ((2, 3, 0.1, 0.9), (2.2, 3.1, 0.1, 0.9), (8, -1, 0.1, 0.9), False),
        ((2, 3, 0.3, 0.4), None, None, False),  # no clear peak
        ((2, 3, 2.0, 0.9), None, None, False),  # its place is not known
    ],
)
def test_relations_are_averaged_and_their_disagreement_is_doubt(
    monkeypatch: pytest.MonkeyPatch,
    edges: tuple[float, ...] | None,
    grey: tuple[float, ...] | None,
    mixed: tuple[float, ...] | None,
    sure: bool,
) -> None:
    told = {(0, 0): edges, (1, 1): grey, (1, 0): mixed}

    def relate(_a: object, _b: object, a: int, b: int, _either: bool) -> object:
        peak = told.get((a, b))
        return registration._Peak(*peak) if peak else None

    monkeypatch.setattr(registration, "_relate", relate)
    found = measure(cut(STAIN), cut(STAIN))
    assert found.sure == sure
    assert not sure or error(found, 2, 3) < 0.3


def unusable() -> dict[str, npt.NDArray]:
    saturated = noisy(cut(STAIN), 1, 0.01)
    saturated[saturated > np.median(saturated) - 0.001] = 1
    hot = np.zeros(SIZE, np.float32)
    hot[101, 77] = 1
    return {
        "zero": np.zeros(SIZE, np.uint16),
        "constant": np.full(SIZE, 1000, np.uint16),
        "white": np.full(SIZE, 255, np.uint8),
        "mostly saturated": saturated,
        "one hot pixel": hot,
        "constant float": np.full(SIZE, 0.1, np.float32),
    }


@pytest.mark.parametrize("kind", unusable())
def test_planes_that_show_nothing_have_confidence_zero(kind: str) -> None:
    useless, useful = unusable()[kind], cut(STAIN)
    for pair in ((useless, useful), (useful, useless), (useless, useless)):
        found = measure(*pair)
        assert found == Shift(0.0, 0.0, 0.0)
        assert not found.sure


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 900), (31, 31), (20, 300), (40, 60), (67, 68), (900, 5)]
)
def test_planes_that_are_too_small_have_confidence_zero(size: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).random(size).astype(np.float32)
    assert measure(plane, plane).confidence == 0


@given(height=st.integers(68, 460), width=st.integers(68, 460), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_size_works_and_a_plane_lies_on_itself(height: int, width: int, seed: int) -> None:
    noise = np.random.default_rng(seed).random((height, width))
    plane = gaussian_filter(noise, 2).astype(np.float32)
    found = measure(plane, plane)
    assert error(found, 0, 0) < 0.01
    assert 0 <= found.confidence <= 1
    assert found.sure or min(height, width) < 150


def test_large_planes_are_measured_in_their_own_pixels() -> None:
    big = np.kron(STAIN, np.ones((5, 5), np.float32))
    a, b = big[50:-50, 50:-50], big[50 - 6 : -50 - 6, 50 + 9 : -50 + 9]
    found = measure(noisy(a, 1), noisy(b, 2))
    assert max(a.shape) > 1024
    assert found.sure
    assert error(found, 6, -9) < 0.3


def test_planes_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different size: \(256, 288\) and \(256, 287\)"):
        measure(cut(STAIN), cut(STAIN)[:, :-1])


def test_threads_give_the_same_as_one_after_the_other() -> None:
    planes = [cut(LIGHT)] + [noisy(cut(STAIN, n, -n), n) for n in range(7)]

    def work(n: int) -> Shift:
        return measure_shift(features(planes[0]), features(planes[n]))

    alone = [work(n) for n in range(1, 8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(1, 8)))
    for one, same in zip(
        alone, together, strict=True
    ):  # OpenCV divides its sums by its free threads
        assert error(one, same.dy, same.dx) < 1e-4
        assert one.confidence == pytest.approx(same.confidence, abs=1e-4)


def test_sure_begins_at_the_constant() -> None:
    assert Shift(1.0, 2.0, SURE).sure
    assert not Shift(1.0, 2.0, SURE - 1e-6).sure


@pytest.mark.parametrize("stain", ["dapi", "actin", "er"])
def test_simulated_fields_are_registered_and_a_planted_shift_is_found(stain: str) -> None:
    phase, fluorescence = simulate_field(5, (540, 716), ("phase", stain))
    reference = features(phase[10:-10, 10:-10])
    still = measure_shift(reference, features(fluorescence[10:-10, 10:-10]))
    moved = measure_shift(reference, features(fluorescence[7:-13, 10:-10]))
    assert still.sure
    assert moved.sure
    assert error(still, 0, 0) < 0.5
    assert error(moved, still.dy + 3, still.dx) < 0.2

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tests.planes import make_sample
from vfn.data import linear_filter
from vfn.data.cache import ImageCache
from vfn.data.illumination import FlatField
from vfn.data.linear_filter import RIDGE, TAPS, LinearFilter
from vfn.data.samples import Sample
from vfn.data.statistics import Baselines, survey


def fitted(train: Sequence[Sample], others: Sequence[Sample] = ()) -> Baselines:
    channels = len(train[0].inputs) + len(train[0].targets)
    return survey(train, others, ImageCache(), [None] * channels).baselines


def kernels(train: Sequence[Sample]) -> np.ndarray:
    found = fitted(train).filter
    assert found is not None
    return found.kernels


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, shape).astype(np.uint16)


def test_weights_are_ridge_regression_of_all_pixels_of_small_fields() -> None:
    """Against `numpy.linalg.lstsq` with the penalty as extra rows, and windows cut one by one."""
    a, b, truth = noise(3, 23, 31)
    sample = make_sample("f", [a, b], [truth])
    rows = []
    for y in range(23):
        for x in range(31):
            square = [
                np.pad(image, 3, mode="reflect")[y : y + 7, x : x + 7].ravel() for image in (a, b)
            ]
            rows.append(np.concatenate(square))
    x = np.array(rows, float)
    centred, count = x - x.mean(0), len(x)
    variance = centred.var(0).reshape(2, -1).mean(1).repeat(TAPS**2)
    system = np.vstack([centred, np.diag(np.sqrt(RIDGE * variance * count))])
    answer = np.concatenate([truth.ravel() - truth.mean(), np.zeros(x.shape[1])])
    weights = np.linalg.lstsq(system, answer, rcond=None)[0]
    found = fitted([sample]).filter
    assert found is not None
    np.testing.assert_allclose(found.kernels[0].ravel(), weights, rtol=1e-6, atol=1e-9)
    assert found.offset[0] == pytest.approx(truth.mean() - weights @ x.mean(0))
    np.testing.assert_allclose(found.predict([a, b])[0].ravel(), x @ weights + found.offset[0])


@pytest.mark.parametrize("kind", ["itself", "blurred", "moved"])
def test_what_a_filter_of_7x7_does_is_explained(kind: str) -> None:
    kernel = np.zeros((7, 7))
    if kind == "blurred":
        kernel[1:6, 1:6] = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    else:
        kernel[(3, 3) if kind == "itself" else (1, 5)] = 1
    images = noise(4, 60, 50)
    truths = [ndimage.correlate(i.astype(float), kernel, mode="mirror") + 50 for i in images]
    samples = [
        make_sample(str(i), [image], [truth.astype(np.float32)])
        for i, (image, truth) in enumerate(zip(images, truths, strict=True))
    ]
    found = fitted(samples[:3]).predict([images[3]], ["float32"])
    assert np.abs(found["filter"][0] - truths[3]).max() < 1e-3 * truths[3].std()
    if kind != "itself":  # the map of single pixels cannot
        assert np.abs(found["linear"][0] - truths[3]).std() > 0.3 * truths[3].std()


def test_many_pixels_are_sampled_by_a_fixed_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(3, 80, 80)
    samples = [
        make_sample(str(i), [image], [ndimage.uniform_filter(image, 3)])
        for i, image in enumerate(images)
    ]
    whole = kernels(samples)
    monkeypatch.setattr(linear_filter, "WINDOWS", 4500)
    sampled = kernels(samples)
    np.testing.assert_array_equal(sampled, kernels(samples))
    assert not np.array_equal(sampled, whole)
    np.testing.assert_allclose(sampled, whole, atol=5e-3)


def test_only_training_pixels_count_and_fields_without_a_target_leave_it_alone() -> None:
    a, b, c = (
        make_sample(str(i), [noise(30, 30, seed=i)], [noise(30, 30, seed=10 + i)]) for i in range(3)
    )
    alone, beside = fitted([a]), fitted([a], [b, c])
    assert alone.to_dict() == beside.to_dict()
    assert alone.to_dict() != fitted([a, b]).to_dict()
    twice = [
        replace(a, targets=a.targets * 2),
        replace(b, targets=(None, *b.targets)),
    ]
    both = [replace(sample, targets=sample.targets * 2) for sample in (a, b)]
    found = kernels(twice)
    np.testing.assert_allclose(found[0], kernels([a])[0], rtol=1e-9)
    np.testing.assert_array_equal(found[1], kernels(both)[1])


def test_an_empty_input_and_tiny_fields_have_a_filter() -> None:
    empty = make_sample("e", [np.zeros((2, 1), np.uint8)], [np.array([[3], [9]], np.uint8)])
    found = fitted([empty]).predict([np.zeros((2, 1), np.uint8)], ["uint8"])
    assert found["filter"].tolist() == found["mean"].tolist() == [[[6], [6]]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_median_is_of_the_training_target_on_disk(dtype: str) -> None:
    images = [noise(9, 11, seed=i) // 17 for i in range(3)]
    samples = [make_sample(str(i), [m], [m.astype(dtype)]) for i, m in enumerate(images)]
    expected = np.quantile(
        np.stack(images[:2]), 0.5, method="inverted_cdf" if "u" in dtype else "linear"
    )
    flat = FlatField(0.0, np.full((4, 4), 3.0, np.float32), (9, 11))
    for flats in ([None, None], [None, flat]):
        found = survey(samples[:2], samples[2:], ImageCache(), flats).baselines
        # Of float images the extremes count twice.
        assert found.median[0] == pytest.approx(expected, abs=0 if "u" in dtype else 1)
        assert (found.predict([images[2]], [dtype])["median"] == found.median[0]).all()


def test_stored_baselines_come_back() -> None:
    a = make_sample("a", [noise(20, 20)], [noise(20, 20, seed=1)])
    found = fitted([a])
    plain = found.to_dict()
    image = noise(20, 20, seed=2)
    for name, array in Baselines.from_dict(plain).predict([image], ["uint16"]).items():
        np.testing.assert_array_equal(array, found.predict([image], ["uint16"])[name])
    with pytest.raises(ValueError, match="linear filter"):
        LinearFilter.from_dict({**found.filter.to_dict(), "offset": [1.0, 2.0]}, (1, 1))

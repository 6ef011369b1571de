import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.planes import make_sample
from vfn.data import statistics
from vfn.data.cache import ImageCache
from vfn.data.discovery.fields import FilePlane
from vfn.data.illumination import FlatField, MeanImage
from vfn.data.image_statistics import measured, unpacked
from vfn.data.input_shift import field_statistics
from vfn.data.intensity import Histogram
from vfn.data.linear_filter import LinearFilter
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample
from vfn.data.statistics import Baselines, DatasetStatistics, mean_images, survey
from vfn.errors import UserError


def look(train: Sequence[Sample], others: Sequence[Sample] = ()) -> DatasetStatistics:
    channels = len(train[0].inputs) + len(train[0].targets)
    return survey(train, others, ImageCache(), [None] * channels)


def random_samples(count: int, dtypes: Sequence[str], inputs: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        shape = (11 + i, 17)  # fields may differ in size, channels of one field may not
        base = rng.uniform(0, 100, shape)
        arrays = [
            (base * (c + 1) / 2 + rng.uniform(0, 100, shape)).astype(dtype)
            for c, dtype in enumerate(dtypes)
        ]
        samples.append(make_sample(f"f{i}", arrays[:inputs], arrays[inputs:]))
    return samples


def pixels(samples: Sequence[Sample], part: str) -> np.ndarray:
    """(channels, N) float64 of all samples."""

    def of(sample: Sample) -> list[np.ndarray]:
        arrays = present(read_sample(sample, ImageCache()))
        count = len(sample.inputs)
        return arrays[:count] if part == "inputs" else arrays[count:]

    rows = [[array.ravel().astype(float) for array in of(sample)] for sample in samples]
    return np.concatenate([np.stack(row) for row in rows], axis=1)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("dtypes", "inputs"),
    [(["uint8"] * 2, 1), (["uint16"] * 3, 2), (["uint8", "float32", "uint16", "uint16"], 2)],
)
def test_baselines_and_histograms_are_of_the_training_pixels(
    dtypes: list[str], inputs: int, cut: bool
) -> None:
    samples = random_samples(6, dtypes, inputs)
    if cut:
        samples = [
            Sample(v.name, v.field, v.inputs, v.targets, (slice(2, 9), slice(0, 5)))
            for v in samples
        ]
    train, others = samples[:4], samples[4:]
    found = look(train, others)
    x, y = pixels(train, "inputs"), pixels(train, "targets")
    design = np.vstack([x, np.ones(x.shape[1])])
    truth = np.linalg.lstsq(design.T, y.T, rcond=None)[0].T
    np.testing.assert_allclose(found.baselines.weights, truth[:, :-1], rtol=1e-8)
    np.testing.assert_allclose(found.baselines.offset, truth[:, -1], rtol=1e-8)
    np.testing.assert_allclose(found.baselines.mean, y.mean(1), rtol=1e-12)
    errors = y - truth @ design
    np.testing.assert_allclose(found.explained, 1 - errors.var(1) / y.var(1), rtol=1e-6)
    for histogram, row, dtype in zip(found.histograms, [*x, *y], dtypes, strict=True):
        assert histogram.dtype == np.dtype(dtype)
        assert histogram.quantiles(np.array([0.0, 1.0])).tolist() == [row.min(), row.max()]
        if histogram.dtype.kind == "u":
            expected = np.bincount(row.astype(int), minlength=len(histogram.counts))
            np.testing.assert_array_equal(histogram.counts, expected)
    assert found.pixel_size == 0.65


def test_the_same_input_twice_still_gives_a_map() -> None:
    (sample,) = random_samples(1, ["uint16", "uint16"], 1)
    twice = Sample("t", "t", sample.inputs * 2, sample.targets)
    one = look([sample]).baselines
    two = look([twice]).baselines
    assert two.weights.sum() == pytest.approx(one.weights.sum())
    assert two.offset == pytest.approx(one.offset)


def test_baseline_predictions() -> None:
    fitted = Baselines(
        np.array([[2.0, 0.0], [0.0, 100.0]]), np.array([1.0, 0.4]), np.array([7.4, 9.0]),
        np.array([6.0, 8.6]), LinearFilter(np.zeros((2, 2, 7, 7)), np.array([4.0, 5.0])),
    )  # fmt: skip
    inputs = [np.array([[1, 2, 3]], np.uint8), np.array([[0, 1, 60000]], np.uint16)]
    both = fitted.predict(inputs, ["uint16", "uint16"])
    assert both["linear"].tolist() == [[[3, 5, 7]], [[0, 100, 65535]]]
    assert both["mean"].tolist() == [[[7, 7, 7]], [[9, 9, 9]]]
    assert both["median"].tolist() == [[[6, 6, 6]], [[9, 9, 9]]]
    assert both["filter"].tolist() == [[[4, 4, 4]], [[5, 5, 5]]]
    assert both["linear"].dtype == both["mean"].dtype == np.uint16
    again = Baselines.from_dict(fitted.to_dict())
    np.testing.assert_array_equal(again.weights, fitted.weights)
    np.testing.assert_array_equal(again.offset, fitted.offset)
    np.testing.assert_array_equal(again.mean, fitted.mean)


@pytest.mark.parametrize("where", ["train", "others"])
def test_a_dtype_that_differs_between_fields_is_refused(where: str) -> None:
    train = random_samples(2, ["uint8", "uint16"], 1)
    odd = make_sample("odd", [np.zeros((3, 3), np.uint16)], [np.zeros((3, 3), np.uint16)])
    others = [odd] if where == "others" else []
    train += [odd] if where == "train" else []
    with pytest.raises(UserError, match="odd/input0: is uint16, but f0/input0 is uint8"):
        look(train, others)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 12)])
def test_sizes_that_differ_within_a_field_are_refused(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    other = (3, 4) if shape != (3, 4) else (3, 5)
    arrays = [rng.integers(0, 9, s).astype(np.uint8) for s in (other, shape)]
    with pytest.raises(UserError) as caught:
        look([make_sample("f", arrays[:1], arrays[1:])])
    for word in ("field f", f"{other[0]}x{other[1]}", f"{shape[0]}x{shape[1]}", "f/target0"):
        assert word in str(caught.value)


def test_a_damaged_file_stops_the_survey(tmp_path: Path) -> None:
    for i in range(40):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.arange(12, dtype=np.uint8).reshape(3, 4))
    samples = [
        Sample(
            str(i), str(i), (FilePlane(tmp_path / f"{i}.tif"),), (FilePlane(tmp_path / f"{i}.tif"),)
        )
        for i in range(40)
    ]
    bad = tmp_path / "23.tif"
    bad.write_bytes(bad.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"23\.tif: is truncated"):
        look(samples[:30], samples[30:])
    with pytest.raises(UserError, match=r"23\.tif"):  # test images are looked at as well
        look(samples[:20], samples[20:])


def test_a_target_is_measured_over_the_fields_that_have_it() -> None:
    """Partial labels: a missing target leaves the others, and its own figures, as they are."""
    samples = random_samples(5, ["uint16"] * 3, 1)
    lacking = [
        Sample(v.name, v.field, v.inputs, (v.targets[0], None if i < 2 else v.targets[1]))
        for i, v in enumerate(samples)
    ]
    found, whole = look(lacking), look(samples)
    few = look(samples[2:])
    assert found.fields == (5, 3)
    np.testing.assert_array_equal(found.baselines.weights[0], whole.baselines.weights[0])
    np.testing.assert_array_equal(found.baselines.weights[1], few.baselines.weights[1])
    np.testing.assert_array_equal(
        found.baselines.mean, [whole.baselines.mean[0], few.baselines.mean[1]]
    )
    for ours, theirs in zip(
        found.histograms, (*whole.histograms[:2], few.histograms[2]), strict=True
    ):
        np.testing.assert_array_equal(ours.counts, theirs.counts)


def test_mean_images_are_those_of_whole_fields() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 60000, (20, 30)).astype(np.uint16) for _ in range(4)]
    samples = [make_sample("a", arrays[:1], arrays[1:2]), make_sample("b", arrays[2:3], [None])]
    cut = [
        Sample(v.name, v.field, v.inputs, v.targets, (slice(3, 9), slice(0, 5))) for v in samples
    ]
    means = mean_images(cut, ImageCache(), 2)
    expected = [MeanImage(), MeanImage()]
    for mean, array in zip(
        expected[:1] * 2 + expected[1:], (arrays[0], *arrays[2:3], arrays[1]), strict=True
    ):
        mean.add(array)
    ours, theirs = ([FlatField.fit(m).to_dict() for m in each] for each in (means, expected))
    assert ours == theirs


IMAGES = st.sampled_from(["uint8", "int8", "uint16", "int16"]).flatmap(
    lambda dtype: arrays(dtype, st.tuples(st.integers(1, 40), st.integers(1, 40)))
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(IMAGES)
def test_statistics_of_the_index_are_those_of_the_pixels(image: np.ndarray) -> None:
    found, histogram = unpacked(measured(image)), Histogram(image.dtype)
    assert found.shift == field_statistics(image)
    assert found.lowest == image.min()
    assert found.lowest + len(found.counts) - 1 == image.max()
    histogram.merge(found.lowest, found.counts)
    values = image.astype(int) - np.iinfo(image.dtype).min
    np.testing.assert_array_equal(
        histogram.counts, np.bincount(values.ravel(), minlength=len(histogram.counts))
    )
    assert histogram.mean() == image.mean(dtype=np.float64)


def same_statistics(ours: DatasetStatistics, truth: DatasetStatistics) -> None:
    """Bit for bit."""
    assert ours.baselines.to_dict() == truth.baselines.to_dict()
    for one, other in zip(ours.histograms, truth.histograms, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)
        for some, others in zip(one.samples, other.samples, strict=True):
            np.testing.assert_array_equal(some, others)
    assert [e.to_dict() for e in ours.envelopes] == [e.to_dict() for e in truth.envelopes]
    assert (ours.explained, ours.fitted, ours.fields) == (
        truth.explained,
        truth.fitted,
        truth.fields,
    )


@pytest.mark.parametrize("fitted", [2, 200])
@pytest.mark.parametrize(
    "dtypes", [["uint8", "uint16"], ["uint16", "uint8", "float32"], ["float32", "uint16", "int16"]]
)
def test_a_data_set_in_the_store_has_the_statistics_of_its_pixels(
    dtypes: list[str], fitted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the second start, with partial labels and a region."""
    monkeypatch.setattr(statistics, "FITTED", fitted)
    samples = random_samples(8, dtypes, 1)
    samples[1] = dataclasses.replace(samples[1], region=(slice(2, 9), slice(0, 5)))
    if len(dtypes) > 2:
        samples[2] = dataclasses.replace(samples[2], targets=(samples[2].targets[0], None))
    train, others = samples[:6], samples[6:]
    truth = look(train, others)
    for _ in range(2):
        store = ImageCache(tmp_path / "store")
        store.prepare(plane for sample in samples for plane in sample.planes)
        same_statistics(survey(train, others, store, [None] * len(dtypes)), truth)


def test_a_start_reads_no_more_pixels_than_linear_baselines_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "FITTED", 3)
    read: list[str] = []
    monkeypatch.setattr(
        statistics, "read_sample", lambda s, store: read.append(s.name) or read_sample(s, store)
    )
    samples = random_samples(12, ["uint16", "uint8"], 1)
    store = ImageCache(tmp_path / "store")
    store.prepare(plane for sample in samples for plane in sample.planes)
    found = survey(samples[:9], samples[9:], store, [None] * 2)
    assert found.fitted == len(read) == len(set(read) & {s.name for s in samples[:9]}) == 3
    y = pixels(samples[:9], "targets")
    assert found.baselines.mean == y.mean()
    sampled = [sample for sample in samples[:9] if sample.name in read]
    x, y = pixels(sampled, "inputs"), pixels(sampled, "targets")
    truth = np.linalg.lstsq(np.vstack([x, np.ones(x.shape[1])]).T, y[0], rcond=None)[0]
    np.testing.assert_allclose(found.baselines.weights[0], truth[:1], rtol=1e-8)


def test_every_target_is_among_what_linear_baselines_are_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "FITTED", 2)
    samples = random_samples(9, ["uint8"] * 3, 1)
    rare = [
        s if i == 4 else dataclasses.replace(s, targets=(s.targets[0], None))
        for i, s in enumerate(samples)
    ]
    found = look(rare)
    assert found.fitted in (2, 3)
    assert found.fields == (9, 1)
    x, y = pixels(samples[4:5], "inputs"), pixels(samples[4:5], "targets")
    truth = np.linalg.lstsq(np.vstack([x, np.ones(x.shape[1])]).T, y[1], rcond=None)[0]
    np.testing.assert_allclose(found.baselines.weights[1], truth[:1], rtol=1e-8)


def test_statistics_that_changed_on_the_disk_are_not_used(tmp_path: Path) -> None:
    samples = random_samples(3, ["uint8", "uint16"], 1)
    planes = [plane for sample in samples for plane in sample.planes]
    truth = look(samples[:2], samples[2:])
    store = ImageCache(tmp_path)
    store.prepare(planes)
    (shard,) = tmp_path.glob("*.planes")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1  # statistics end the shard
    shard.write_bytes(data)
    again = ImageCache(tmp_path)
    again.prepare(planes)
    assert again.statistics(planes[-1]) is None
    same_statistics(survey(samples[:2], samples[2:], again, [None] * 2), truth)

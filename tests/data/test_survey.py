from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vfn.data.discovery import FilePlane, Plane
from vfn.data.survey import LinearMap, PlaneCache, read_in_parallel, survey
from vfn.data.views import View
from vfn.errors import UserError


@dataclass(frozen=True)
class Memory:
    """A plane in memory that counts how often it is decoded."""

    name: str
    array: np.ndarray = field(compare=False)
    reads: list[int] = field(default_factory=list, compare=False)
    pixel_size: float | None = 0.65

    def read(self) -> np.ndarray:
        self.reads.append(1)
        return self.array

    def __str__(self) -> str:
        return self.name


def make_view(
    name: str, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], **rest: object
) -> View:
    planes: list[tuple[Plane, ...]] = [
        tuple(Memory(f"{name}/{kind}{i}", a) for i, a in enumerate(arrays))
        for kind, arrays in (("input", inputs), ("target", targets))
    ]
    return View(name, name, *planes, **rest)  # type: ignore[arg-type]


def random_views(count: int, dtypes: Sequence[str], inputs: int, seed: int = 0) -> list[View]:
    rng = np.random.default_rng(seed)
    views = []
    for i in range(count):
        shape = (11 + i, 17)  # fields may differ in size, channels of one field may not
        base = rng.uniform(0, 100, shape)
        arrays = [
            (base * (c + 1) / 2 + rng.uniform(0, 100, shape)).astype(dtype)
            for c, dtype in enumerate(dtypes)
        ]
        views.append(make_view(f"f{i}", arrays[:inputs], arrays[inputs:]))
    return views


def pixels(views: Sequence[View], part: str) -> np.ndarray:
    """(channels, N) float64 of all views."""
    rows = [
        [view.crop(plane.read()).ravel().astype(float) for plane in getattr(view, part)]
        for view in views
    ]
    return np.concatenate([np.stack(row) for row in rows], axis=1)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("dtypes", "inputs"),
    [(["uint8"] * 2, 1), (["uint16"] * 3, 2), (["uint8", "float32", "uint16", "uint16"], 2)],
)
def test_baselines_and_histograms_are_of_the_training_pixels(
    dtypes: list[str], inputs: int, cut: bool
) -> None:
    views = random_views(6, dtypes, inputs)
    if cut:
        views = [
            View(v.name, v.field, v.inputs, v.targets, (slice(2, 9), slice(0, 5))) for v in views
        ]
    train, others = views[:4], views[4:]
    found = survey(train, others, PlaneCache(1))
    x, y = pixels(train, "inputs"), pixels(train, "targets")
    design = np.vstack([x, np.ones(x.shape[1])])
    truth = np.linalg.lstsq(design.T, y.T, rcond=None)[0].T
    np.testing.assert_allclose(found.baselines.weights, truth[:, :-1], rtol=1e-8)
    np.testing.assert_allclose(found.baselines.offset, truth[:, -1], rtol=1e-8)
    np.testing.assert_allclose(found.baselines.mean, y.mean(1), rtol=1e-12)
    for histogram, row, dtype in zip(found.histograms, [*x, *y], dtypes, strict=True):
        assert histogram.dtype == np.dtype(dtype)
        assert histogram.quantiles(np.array([0.0, 1.0])).tolist() == [row.min(), row.max()]
        if histogram.dtype.kind == "u":
            expected = np.bincount(row.astype(int), minlength=len(histogram.counts))
            np.testing.assert_array_equal(histogram.counts, expected)
    assert found.pixel_size == 0.65


def test_the_same_input_twice_still_gives_a_map() -> None:
    (view,) = random_views(1, ["uint16", "uint16"], 1)
    twice = View("t", "t", view.inputs * 2, view.targets)
    one = survey([view], [], PlaneCache(1)).baselines
    two = survey([twice], [], PlaneCache(1)).baselines
    assert two.weights.sum() == pytest.approx(one.weights.sum())
    assert two.offset == pytest.approx(one.offset)


def test_baseline_predictions() -> None:
    fitted = LinearMap(
        np.array([[2.0, 0.0], [0.0, 100.0]]), np.array([1.0, 0.4]), np.array([7.4, 9.0])
    )
    inputs = [np.array([[1, 2, 3]], np.uint8), np.array([[0, 1, 60000]], np.uint16)]
    both = fitted.predict(inputs, ["uint16", "uint16"])
    assert both["linear"].tolist() == [[[3, 5, 7]], [[0, 100, 65535]]]
    assert both["mean"].tolist() == [[[7, 7, 7]], [[9, 9, 9]]]
    assert both["linear"].dtype == both["mean"].dtype == np.uint16
    again = LinearMap.from_dict(fitted.to_dict())
    np.testing.assert_array_equal(again.weights, fitted.weights)
    np.testing.assert_array_equal(again.offset, fitted.offset)
    np.testing.assert_array_equal(again.mean, fitted.mean)


@pytest.mark.parametrize("where", ["train", "others"])
def test_a_dtype_that_differs_between_fields_is_refused(where: str) -> None:
    train = random_views(2, ["uint8", "uint16"], 1)
    odd = make_view("odd", [np.zeros((3, 3), np.uint16)], [np.zeros((3, 3), np.uint16)])
    others = [odd] if where == "others" else []
    train += [odd] if where == "train" else []
    with pytest.raises(UserError, match="odd/input0: is uint16, but f0/input0 is uint8"):
        survey(train, others, PlaneCache(1))


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 12)])
def test_sizes_that_differ_within_a_field_are_refused(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    other = (3, 4) if shape != (3, 4) else (3, 5)
    arrays = [rng.integers(0, 9, s).astype(np.uint8) for s in (other, shape)]
    with pytest.raises(UserError) as caught:
        survey([make_view("f", arrays[:1], arrays[1:])], [], PlaneCache(1))
    for word in ("field f", f"{other[0]}x{other[1]}", f"{shape[0]}x{shape[1]}", "f/target0"):
        assert word in str(caught.value)


def test_a_damaged_file_stops_the_survey(tmp_path: Path) -> None:
    for i in range(40):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.arange(12, dtype=np.uint8).reshape(3, 4))
    views = [
        View(
            str(i), str(i), (FilePlane(tmp_path / f"{i}.tif"),), (FilePlane(tmp_path / f"{i}.tif"),)
        )
        for i in range(40)
    ]
    bad = tmp_path / "23.tif"
    bad.write_bytes(bad.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"23\.tif: is truncated"):
        survey(views[:30], views[30:], PlaneCache(1))
    with pytest.raises(UserError, match=r"23\.tif"):  # test images are looked at as well
        survey(views[:20], views[20:], PlaneCache(1))


def test_views_come_in_order_with_their_planes() -> None:
    views = random_views(30, ["uint8", "uint16", "float32"], 2)
    seen = list(read_in_parallel(views, PlaneCache(1), "test"))
    assert [view.name for view, _ in seen] == [view.name for view in views]
    for view, arrays in seen:
        for plane, array in zip(view.inputs + view.targets, arrays, strict=True):
            assert array is plane.read()


def test_leaving_early_stops_the_threads() -> None:
    views = random_views(200, ["uint8", "uint8"], 1)
    items = read_in_parallel(views, PlaneCache(1), "test")
    next(items)
    items.close()
    assert not views[-1].inputs[0].reads  # type: ignore[attr-defined]


def test_cache_decodes_what_fits_once() -> None:
    plane = Memory("a", np.zeros((16, 16), np.uint8))
    cache = PlaneCache(1)
    for _ in range(3):
        assert cache.read(plane) is plane.array
    assert len(plane.reads) == 1


def test_cache_never_holds_more_than_its_bound() -> None:
    planes = [Memory(str(i), np.zeros((64, 64), np.uint8)) for i in range(10)]
    cache = PlaneCache(3.5 * 64 * 64 / 2**30)
    for _ in range(2):
        for plane in planes:
            cache.read(plane)
    assert [len(plane.reads) for plane in planes] == [1] * 3 + [2] * 7
    empty = PlaneCache(0)
    empty.read(planes[0])
    empty.read(planes[0])
    assert len(planes[0].reads) == 3


def test_planes_of_one_file_are_not_mixed_up(tmp_path: Path) -> None:
    stack = np.stack([np.full((3, 4), i, np.uint8) for i in range(3)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    cache = PlaneCache(1)
    for _ in range(2):
        assert [cache.read(FilePlane(tmp_path / "a.tif", i))[0, 0] for i in range(3)] == [0, 1, 2]

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.planes import make_sample
from vfn.data import shifts as module
from vfn.data.cache import ImageCache
from vfn.data.pixels import present, read_sample
from vfn.data.shifts import Shifts

STORE = ImageCache()


@dataclass(frozen=True)
class Known:
    dy: float
    dx: float
    sure: bool


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Measures by what the images' first pixels say: (dy, dx, sure) of the target."""
    asked: list[tuple[int, int]] = []

    def measure(reference: np.ndarray, moving: np.ndarray) -> Known:
        asked.append((int(reference[0, 0]), int(moving[0, 0])))
        return Known(float(moving[0, 0]), float(moving[0, 1]), bool(moving[0, 2]))

    monkeypatch.setattr(module, "features", lambda plane: plane)
    monkeypatch.setattr(module, "measure_shift", measure)
    return asked


def sample(name: str, *shifts: tuple[int, int, bool] | None) -> Any:
    targets: list[np.ndarray | None] = []
    for given in shifts:
        array = np.zeros((20, 30), np.uint16)
        if given is not None:
            array[0, :3] = given
        targets.append(None if given is None else array)
    return make_sample(name, [np.full((20, 30), 7, np.uint16)], targets)


def test_a_sample_without_a_sure_shift_takes_the_usual_one(measured: list[tuple[int, int]]) -> None:
    samples = [
        sample("a", (2, 1, True), (0, 0, True)),
        sample("b", (9, 9, False), None),  # a flat peak, and a missing target
        sample("c", (4, 1, True), (0, 2, True)),
        sample("d", (3, 1, True), (0, 0, True)),
    ]
    found = Shifts().measured(samples, STORE)
    assert found.usual == ((3.0, 1.0), (0.0, 0.0))
    assert found.by_sample["b"] == (None, None)
    assert [found.apply(v, STORE).offsets[0] for v in samples] == [(2, 1), (3, 1), (4, 1), (3, 1)]
    assert present(read_sample(found.apply(samples[0], STORE), STORE))[1].shape == (18, 29)
    assert "(sure in 3 of 4 samples)" in found.summary(["x", "y"])


def test_known_shifts_are_not_measured_again(measured: list[tuple[int, int]]) -> None:
    first = Shifts().measured([sample("a", (2, 1, True))], STORE)
    measured.clear()
    known = Shifts.from_dict(first.to_dict())
    assert known == first
    both = known.measured([sample("a", (9, 9, True)), sample("b", (5, 5, True))], STORE)
    assert measured == [(7, 5)]
    assert both.by_sample == {"a": ((2.0, 1.0),), "b": ((5.0, 5.0),)}
    assert both.usual == first.usual  # of the training


def test_nothing_sure_moves_nothing(measured: list[tuple[int, int]]) -> None:
    only = sample("a", (5, 5, False))
    found = Shifts().measured([only], STORE)
    assert found.apply(only, STORE).offsets == ((0.0, 0.0),)
    assert len(present(read_sample(found.apply(only, STORE), STORE))[1]) == 20

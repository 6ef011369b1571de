"""Planes and samples in memory, for tests that need no files."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vfn.data.samples import Sample


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

    @property
    def key(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


def make_sample(
    name: str,
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray | None],
    **rest: object,
) -> Sample:
    """A sample of arrays; None is a target that the field lacks."""
    return Sample(
        name,
        name,
        tuple(Memory(f"{name}/input{i}", a) for i, a in enumerate(inputs)),
        tuple(None if a is None else Memory(f"{name}/target{i}", a) for i, a in enumerate(targets)),
        **rest,  # type: ignore[arg-type]
    )

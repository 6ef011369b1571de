"""Which predictions share an image file: those of all time points of a movie."""

from collections.abc import Sequence
from dataclasses import dataclass

from vfn.data.samples import Sample


@dataclass(frozen=True, eq=False)  # each is itself
class Target:
    """An image file that is to be written.

    Attributes:
        name: of the file, without its suffix.
        samples: whose predictions it holds: one, or the time points of a movie in their order.
    """

    name: str
    samples: tuple[Sample, ...]

    @property
    def times(self) -> int | None:
        """How many time points it holds; None of a field alone."""
        return len(self.samples) if len(self.samples) > 1 else None

    @property
    def time_step(self) -> float | None:
        """Seconds from one time point to the next, if known."""
        time = self.samples[0].time
        return time.step if time else None


def targets_of(samples: Sequence[Sample]) -> list[Target]:
    """The files for `samples`: one for each, and one for all time points that came in one file."""
    movies: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.movie:
            movies.setdefault(sample.movie, []).append(sample)
    targets = []
    for sample in samples:
        frames = movies.get(sample.movie, [sample])
        if len(frames) == 1:
            targets.append(Target(sample.name, (sample,)))
        elif sample is frames[0]:
            targets.append(Target(sample.movie, tuple(frames)))
    return targets

"""Which predictions share an image file: those of all time points of a movie."""

from collections.abc import Sequence
from dataclasses import dataclass

from vfn.data.views import View


@dataclass(frozen=True, eq=False)  # each is itself
class Target:
    """An image file that is to be written.

    Attributes:
        name: of the file, without its suffix.
        views: whose predictions it holds: one, or the time points of a movie in their order.
    """

    name: str
    views: tuple[View, ...]

    @property
    def times(self) -> int | None:
        """How many time points it holds; None of a field alone."""
        return len(self.views) if len(self.views) > 1 else None

    @property
    def time_step(self) -> float | None:
        """Seconds from one time point to the next, if known."""
        time = self.views[0].time
        return time.step if time else None


def targets_of(views: Sequence[View]) -> list[Target]:
    """The files for `views`: one for each, and one for all time points that came in one file."""
    movies: dict[str, list[View]] = {}
    for view in views:
        if view.movie:
            movies.setdefault(view.movie, []).append(view)
    targets = []
    for view in views:
        frames = movies.get(view.movie, [view])
        if len(frames) == 1:
            targets.append(Target(view.name, (view,)))
        elif view is frames[0]:
            targets.append(Target(view.movie, tuple(frames)))
    return targets

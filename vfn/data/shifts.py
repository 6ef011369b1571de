"""`data.register`: measured shifts between the first input and each target, kept by view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vfn.data.pixels import registered
from vfn.data.registration import features, measure_shift
from vfn.data.store import PlaneStore, in_parallel
from vfn.data.views import View

Offset = tuple[float, float]  # dy, dx (px)


@dataclass(frozen=True)
class Shifts:
    """Where targets lie against the first input.

    Attributes:
        by_view: name of a view -> (dy, dx) of each target; None where nothing sure could be measured,
            or the target is missing.
        usual: median over the views of each target; stands in where a view has no sure shift of
            its own, since what shifts channels (filters, cameras) mostly shifts them alike.
    """

    by_view: Mapping[str, tuple[Offset | None, ...]] = field(default_factory=dict)
    usual: tuple[Offset, ...] = ()

    def measured(self, views: Sequence[View], store: PlaneStore) -> "Shifts":
        """With the shifts of `views`: those that are known, and the others measured."""
        new = [view for view in views if view.name not in self.by_view]
        found = in_parallel(lambda view: _measure(view, store), new, "measuring shifts", len(new))
        by_view = {**self.by_view, **dict(zip([v.name for v in new], found, strict=True))}
        if self.usual or not views:
            return Shifts(by_view, self.usual)
        return Shifts(by_view, tuple(_median(s) for s in zip(*by_view.values(), strict=True)))

    def apply(self, view: View, store: PlaneStore) -> View:
        """`view` with its targets moved onto the first input."""
        height, width = store.peek(view.inputs[0]).shape
        own = self.by_view[view.name]
        offsets = [one or usual for one, usual in zip(own, self.usual, strict=True)]
        return registered(view, (height, width), offsets)

    def summary(self, targets: Sequence[str]) -> str:
        """What was corrected, in words."""
        parts = []
        for i, (target, (dy, dx)) in enumerate(zip(targets, self.usual, strict=True)):
            sure = sum(offsets[i] is not None for offsets in self.by_view.values())
            parts.append(
                f"{target} by ({dy:.1f}, {dx:.1f}) px as a rule (sure in {sure} of {len(self.by_view)} views)"
            )
        return "shifts corrected: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        by_view = {name: [o and list(o) for o in own] for name, own in self.by_view.items()}
        return {"by_view": by_view, "usual": [list(offset) for offset in self.usual]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Shifts":
        """The inverse of `to_dict`."""
        by_view = {
            name: tuple(None if o is None else (float(o[0]), float(o[1])) for o in own)
            for name, own in data["by_view"].items()
        }
        return cls(by_view, tuple((float(dy), float(dx)) for dy, dx in data["usual"]))


def _measure(view: View, store: PlaneStore) -> tuple[Offset | None, ...]:
    reference = features(store.read(view.inputs[0]))
    found: list[Offset | None] = []
    for plane in view.targets:
        shift = None if plane is None else measure_shift(reference, features(store.read(plane)))
        found.append((shift.dy, shift.dx) if shift is not None and shift.sure else None)
    return tuple(found)


def _median(offsets: Sequence[Offset | None]) -> Offset:
    sure = np.array([offset for offset in offsets if offset is not None])
    if not len(sure):
        return 0.0, 0.0
    dy, dx = np.median(sure, axis=0)
    return float(dy), float(dx)

"""`data.register`: measured shifts between the first input and each target, kept by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vfn.data.cache import ImageCache, in_parallel
from vfn.data.pixels import registered
from vfn.data.registration import features, measure_shift
from vfn.data.samples import Sample

Offset = tuple[float, float]  # dy, dx (px)


@dataclass(frozen=True)
class Shifts:
    """Places of the targets against the first input.

    Attributes:
        by_sample: name of a sample -> (dy, dx) of each target; None where nothing sure could be measured,
            or the target is missing.
        usual: median over the samples of each target; stands in where a sample has no sure shift of
            its own, since what shifts channels (filters, cameras) mostly shifts them alike.
    """

    by_sample: Mapping[str, tuple[Offset | None, ...]] = field(default_factory=dict)
    usual: tuple[Offset, ...] = ()

    def measured(self, samples: Sequence[Sample], store: ImageCache) -> "Shifts":
        """With the shifts of `samples`: those that are known, and the others measured."""
        new = [sample for sample in samples if sample.name not in self.by_sample]
        found = in_parallel(
            lambda sample: _measure(sample, store), new, "measuring shifts", len(new)
        )
        by_sample = {**self.by_sample, **dict(zip([v.name for v in new], found, strict=True))}
        if self.usual or not samples:
            return Shifts(by_sample, self.usual)
        return Shifts(by_sample, tuple(_median(s) for s in zip(*by_sample.values(), strict=True)))

    def apply(self, sample: Sample, store: ImageCache) -> Sample:
        """`sample` with its targets moved onto the first input."""
        height, width = store.peek(sample.inputs[0]).shape
        own = self.by_sample[sample.name]
        offsets = [one or usual for one, usual in zip(own, self.usual, strict=True)]
        return registered(sample, (height, width), offsets)

    def summary(self, targets: Sequence[str]) -> str:
        """Describe what was corrected."""
        parts = []
        for i, (target, (dy, dx)) in enumerate(zip(targets, self.usual, strict=True)):
            sure = sum(offsets[i] is not None for offsets in self.by_sample.values())
            parts.append(
                f"{target} by ({dy:.1f}, {dx:.1f}) px as a rule (sure in {sure} of {len(self.by_sample)} samples)"
            )
        return "shifts corrected: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint; `by_view` is the name that stored recipes have."""
        by_sample = {name: [o and list(o) for o in own] for name, own in self.by_sample.items()}
        return {"by_view": by_sample, "usual": [list(offset) for offset in self.usual]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Shifts":
        """The inverse of `to_dict`."""
        by_sample = {
            name: tuple(None if o is None else (float(o[0]), float(o[1])) for o in own)
            for name, own in data["by_view"].items()
        }
        return cls(by_sample, tuple((float(dy), float(dx)) for dy, dx in data["usual"]))


def _measure(sample: Sample, store: ImageCache) -> tuple[Offset | None, ...]:
    reference = features(store.read(sample.inputs[0]))
    found: list[Offset | None] = []
    for plane in sample.targets:
        shift = None if plane is None else measure_shift(reference, features(store.read(plane)))
        found.append((shift.dy, shift.dx) if shift is not None and shift.sure else None)
    return tuple(found)


def _median(offsets: Sequence[Offset | None]) -> Offset:
    sure = np.array([offset for offset in offsets if offset is not None])
    if not len(sure):
        return 0.0, 0.0
    dy, dx = np.median(sure, axis=0)
    return float(dy), float(dx)

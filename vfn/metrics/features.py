"""CellProfiler's features of the objects of a field, as cp-measure (an extra) computes them."""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfn.errors import UserError
from vfn.metrics.objects import is_nuclear

Array = NDArray[Any]
_Measured = tuple[str, tuple[str, ...], Mapping[str, Any]]  # group, channels, values by name

GROUPS = (
    "intensity",
    "texture",
    "granularity",
    "radial distribution",
    "size and shape",
    "correlation",
    "neighbours",
)
COMPARTMENTS = ("nuclei", "cells", "cytoplasm")
BODY_WORDS = ("rna", "er", "agp", "actin", "golgi", "mito")  # the best to see whole cells in first

# cp-measure's functions by group. Costes' thresholds are left out: they take longer than all others.
_PIXELS = {
    "intensity": "intensity",
    "texture": "texture",
    "granularity": "granularity",
    "radial_distribution": "radial distribution",
    "radial_zernikes": "radial distribution",
}
_SHAPE = ("sizeshape", "zernike", "feret")
_PAIRS = ("pearson", "manders_fold", "rwc")
# Places in the field, angles and numbers of objects, whose means over objects say nothing; moments
# that are never defined.
_NO_FEATURES = (
    "NormalizedMoment_0_0", "NormalizedMoment_0_1", "NormalizedMoment_1_0",
    "Location_", "Center_", "BoundingBoxM", "Orientation", "RadialDistribution_ZernikePhase_",
    "Neighbors_FirstClosestObjectNumber", "Neighbors_SecondClosestObjectNumber",
)  # fmt: skip
_NEIGHBOURS = {"nuclei": "Expand until adjacent", "cells": "Adjacent"}


@dataclass(frozen=True)
class Feature:
    """One measurement.

    Attributes:
        name: cp-measure's name of it.
        group: one of `GROUPS`.
        compartment: one of `COMPARTMENTS`.
        channels: whose pixels are measured, two for a correlation; for size, shape and neighbours
            the channels in which the objects are found.
    """

    name: str
    group: str
    compartment: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class ObjectChannels:
    """The channels in which objects are found: nuclei in `nuclear`, cells about them in `body`."""

    nuclear: str
    body: str | None = None

    def of(self, compartment: str) -> tuple[str, ...]:
        """The channels that the outlines of a compartment depend on."""
        if compartment == "nuclei" or self.body is None:
            return (self.nuclear,)
        return (self.nuclear, self.body)


def object_channels(
    channels: Iterable[str],
    predicted: Collection[str] = (),
    nuclear: str | None = None,
    body: str | None = None,
) -> ObjectChannels:
    """Choose the channels to segment in: those given, else by usual names, real channels first for cells.

    Raises:
        UserError: a channel that is not there, no channel of nuclei.
    """
    names = list(dict.fromkeys(channels))
    for given in (nuclear, body):
        if given is not None and given not in names:
            raise UserError(f"no channel {given} among {','.join(names)}; name one of these")
    nuclear = nuclear or next(filter(is_nuclear, names), None)
    if nuclear is None:
        raise UserError(
            f"features need a channel of nuclei, none of {','.join(names)} is known as one; "
            "say which it is, or add the real one to the inputs"
        )
    ranks = {
        name: (name in predicted, BODY_WORDS.index(word))
        for name in names
        if name != nuclear
        for word in sorted(_words(name).intersection(BODY_WORDS), key=BODY_WORDS.index)[:1]
    }
    return ObjectChannels(nuclear, body or min(ranks, key=ranks.__getitem__, default=None))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.casefold()))


def measure(
    images: Mapping[str, Array],
    labels: Mapping[str, Array],
    origin: ObjectChannels,
    involving: Mapping[str, Collection[str]] | None = None,
) -> dict[Feature, Array]:
    """Measure the objects of one field.

    Args:
        images: channel -> (H, W), on a scale where stains lie in [0, 1]; more is allowed.
        labels: compartment -> (H, W), objects numbered from 1, background 0.
        origin: where the objects were found.
        involving: compartment -> channels, of which each feature measured must involve one; size,
            shape and neighbours are then left out. A compartment that is missing is measured whole.

    Returns:
        Values (N,) for the N objects of the compartment, in the order of their numbers; NaN where
        undefined. Compartments without objects give nothing.

    Raises:
        UserError: cp-measure is not installed.
    """
    found: dict[Feature, Array] = {}
    pixels = {name: np.asarray(image, np.float64) for name, image in images.items()}
    for compartment, numbered in labels.items():
        objects = _consecutive(numbered)
        if not objects.max(initial=0):
            continue
        wanted = (involving or {}).get(compartment)
        with warnings.catch_warnings():
            # Undefined values come back as NaN and are counted; NumPy need not say so as well.
            warnings.simplefilter("ignore", RuntimeWarning)
            for group, channels, values in _values(objects, compartment, origin, pixels, wanted):
                found.update(
                    (Feature(name, group, compartment, channels), np.asarray(value, np.float64))
                    for name, value in values.items()
                    if not name.startswith(_NO_FEATURES)
                )
    return found


def _values(
    objects: Array,
    compartment: str,
    origin: ObjectChannels,
    pixels: Mapping[str, Array],
    wanted: Collection[str] | None,
) -> Iterator[_Measured]:
    """Measure outlines, single channels and pairs of channels; only what involves those that are wanted."""
    core, correlation, neighbours = _functions()
    channels = origin.of(compartment)
    if wanted is None:
        for name in _SHAPE:
            yield "size and shape", channels, core[name](objects, None)
        if compartment in _NEIGHBOURS and objects.max() > 1:
            values = neighbours(objects, objects, _NEIGHBOURS[compartment])
            yield "neighbours", channels, values
    for channel, image in pixels.items():
        if wanted is None or channel in wanted:
            for name, group in _PIXELS.items():
                scaled = image.clip(0, 1) if name == "texture" else image
                yield group, (channel,), core[name](objects, scaled)
    for pair in combinations(pixels, 2):
        if wanted is None or not set(wanted).isdisjoint(pair):
            for name in _PAIRS:
                values = correlation[name](*(pixels[c] for c in pair), objects)
                yield "correlation", pair, values


def _functions() -> tuple[Mapping[str, Callable], Mapping[str, Callable], Callable]:
    """Load cp-measure's functions, which want objects numbered without gaps: of a channel, of two, of neighbours.

    The accelerator holds for the whole process.
    """
    require_cp_measure()
    import cp_measure
    from cp_measure import bulk

    cp_measure.set_accelerator("numba")
    return (
        bulk.get_core_measurements(sanitize=False),
        bulk.get_correlation_measurements(sanitize=False),
        bulk.get_multimask_measurements()["neighbors"],
    )


def require_cp_measure() -> None:
    """Check that the extra is there, before any work.

    Raises:
        UserError: it is not.
    """
    missing = [name for name in ("cp_measure", "numba") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"features need {missing[0].replace('_', '-')}, which is not installed: "
            'pip install "cp-measure[numba]"'
        )


def _consecutive(labels: Array) -> Array:
    """Objects numbered 1 to N without gaps, in the same order."""
    numbers, inverse = np.unique(labels, return_inverse=True)
    first = 0 if numbers[0] == 0 else 1
    return (inverse.reshape(labels.shape) + first).astype(np.int32)

"""Choose which inputs are normalised field by field (`data.input_range`).

A stain's intensity is information, so all its fields share one range. The level of transmitted light is the
lamp's: it differs from field to field and says nothing of the cells.
"""

import logging
import re
from collections.abc import Sequence

import numpy as np

from vfn.data.cache import ImageCache
from vfn.data.config import FITTED_RANGES, DataConfig
from vfn.data.discovery.layout import split_plane
from vfn.data.intensity import subsample
from vfn.data.pixels import present, read_sample
from vfn.data.samples import Sample, Task

log = logging.getLogger(__name__)
LOOKED_AT = 8  # training fields
TRANSMITTED = (
    "phase", "phasecontrast", "phc", "brightfield", "bright", "bf", "dic", "nomarski", "transmitted",
    "transmission", "trans",
)  # fmt: skip
# The ground of transmitted light is bright (1st percentile over median) and lies in the middle of the grey
# values (of the 1st to 99th percentile): cells are darker and brighter. `python bench/input_range.py` lists
# both for real channels.
GROUND, MIDDLE = 0.7, 0.35


def inputs_per_field(
    task: Task, config: DataConfig, train: Sequence[Sample], store: ImageCache
) -> list[bool]:
    """Return for each input whether its fields are standardised one by one."""
    if config.input_range == "field":
        return [True] * len(task.inputs)
    if config.input_range == "dataset" or config.range not in FITTED_RANGES:
        return [False] * len(task.inputs)
    samples = train[:: -(-len(train) // LOOKED_AT)]
    fields = [present(read_sample(s, store)[: len(task.inputs)]) for s in samples]
    chosen = []
    for channel, images in zip(task.inputs, zip(*fields, strict=True), strict=True):
        chosen.append(channel not in (config.fixed or ()) and is_transmitted(channel, images))
        if chosen[-1]:
            log.info(
                "%s looks like transmitted light: each field is normalised by its own level "
                "(data.input_range=dataset: one range for all)", channel,
            )  # fmt: skip
    return chosen


def is_transmitted(channel: str, images: Sequence[np.ndarray]) -> bool:
    """Tell transmitted light from a stain by the channel's name, and by its look where the name is none."""
    words = re.split(r"[^a-z]+", split_plane(channel)[0].lower())
    ground, middle = np.median([look(image) for image in images], axis=0)
    named = any(word in TRANSMITTED for word in words)
    return bool(named or (ground > GROUND and middle > MIDDLE))


def look(image: np.ndarray) -> tuple[float, float]:
    """Return the 1st percentile over the median, and where the median lies from the 1st to the 99th, in [0, 1]."""
    low, middle, high = (float(v) for v in np.percentile(subsample(image), (1, 50, 99)))
    return low / middle if middle > 0 else 0.0, (middle - low) / (high - low) if high > low else 0.0

"""The scale of focus of a data set that has defocus series."""

import logging
from collections.abc import Iterator, Sequence

from vfn.data.cache import ImageCache
from vfn.data.discovery.layout import split_plane
from vfn.data.pixels import present, read_sample, sample_shape
from vfn.data.samples import Sample, Task
from vfn.errors import UserError
from vfn.refocus.measures import MIN_SIDE
from vfn.refocus.scale import FocusSample, FocusScale

log = logging.getLogger(__name__)
FIELDS = 60  # of more, some are taken: the scale has few numbers to learn


def calibrate_on_samples(
    samples: Sequence[Sample], task: Task, store: ImageCache, fields: int = FIELDS
) -> FocusScale | None:
    """The scale of the task's first input, from up to `fields` fields.

    Where the input is a target, too (refocusing), its focal plane is part of the series.

    Returns:
        None, with a warning, where the images are too small or show too little for a scale.
    """
    names = list(dict.fromkeys(sample.field for sample in samples))
    step = max(1.0, len(names) / fields)
    taken = {names[int(i * step)] for i in range(min(len(names), fields))}
    chosen = [sample for sample in samples if sample.field in taken]
    if min(sample_shape(chosen[0], store)) < MIN_SIDE:
        log.warning("focus: fields of less than %d pixels a side get no scale of focus", MIN_SIDE)
        return None
    try:
        return FocusScale.fit(_samples(chosen, task, store), chosen[0].inputs[0].pixel_size)
    except UserError as exc:
        log.warning("%s", exc)
        return None


def _samples(samples: Sequence[Sample], task: Task, store: ImageCache) -> Iterator[FocusSample]:
    channel, plane = split_plane(task.inputs[0])
    focal = task.targets.index(channel) if channel in task.targets else None
    # A spatial split has several samples of one field, never of one region.
    seen: set[object] = set()
    for sample in samples:
        arrays = read_sample(sample, store)
        z = sample.z if plane is None else plane
        yield FocusSample(sample.field, z, present(arrays[:1])[0])
        if focal is None:
            continue
        truth = arrays[len(sample.inputs) + focal]
        place = (sample.field, str(sample.region))
        if truth is not None and place not in seen:
            seen.add(place)
            yield FocusSample(sample.field, 0.0, truth)

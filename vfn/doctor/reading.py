"""The one pass over the images: every plane of every field is decoded once, by all cores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vfn.data.cache import in_parallel
from vfn.data.discovery.fields import Field
from vfn.data.discovery.layout import split_plane
from vfn.data.registration import Features, Shift, features, measure_shift
from vfn.data.samples import Sample, Task, make_samples
from vfn.doctor.measure import PlaneStats, measure
from vfn.errors import UserError

Key = tuple[str, float]  # channel, z in um


@dataclass(frozen=True)
class FieldStats:
    """Statistics of a field, kept after its images were read.

    Attributes:
        entry: the field.
        inputs, targets: keys of the planes that the task asks for, whether they are there or not.
        planes: of those that could be read.
        errors: why the others could not be, one line each; planes without a file are in neither.
        shifts: of each target against the first input; missing where one of the two is.
        samples: what training makes of the field; empty with `refused`, the reason.
    """

    entry: Field
    inputs: tuple[Key, ...]
    targets: tuple[Key, ...]
    planes: Mapping[Key, PlaneStats]
    errors: Mapping[Key, str]
    shifts: Mapping[Key, Shift]
    samples: tuple[Sample, ...]
    refused: str

    @property
    def name(self) -> str:
        """Name of the field."""
        return self.entry.name

    @property
    def reference(self) -> Key:
        """The input nearest to focus, which targets are registered to."""
        return min(self.inputs, key=_from_focus)

    @property
    def keys(self) -> tuple[Key, ...]:
        """All planes that the task asks for, each once."""
        return tuple(dict.fromkeys(self.inputs + self.targets))


def _from_focus(key: Key) -> float:
    return abs(key[1])


def _wanted(entry: Field, task: Task) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
    """Return the keys of the input and of the target planes that `task` asks of a field.

    Inputs lie at `task.input_z` or at the planes that they name, else at the focal plane (or the
    only one that there is); targets in focus.
    """
    depths = {z for _, z in entry.planes}
    focal = 0.0 if 0.0 in depths or len(task.depths) > 1 else min(depths, default=0.0)
    named = [split_plane(channel) for channel in task.inputs]
    inputs = [(c, z if own is None else own) for z in task.input_z or (focal,) for c, own in named]
    return tuple(dict.fromkeys(inputs)), tuple((c, 0.0) for c in task.targets)


def read_field(entry: Field, task: Task) -> FieldStats:
    """Read and measure one field. Images that cannot be read are named, not raised."""
    inputs, targets = _wanted(entry, task)
    planes: dict[Key, PlaneStats] = {}
    errors: dict[Key, str] = {}
    landmarks: dict[Key, Features] = {}
    reference = min(inputs, key=_from_focus)
    for key in dict.fromkeys(inputs + targets):
        if key not in entry.planes:
            continue
        try:
            pixels = entry.planes[key].read()
        except UserError as exc:
            errors[key] = str(exc)
            continue
        planes[key] = measure(pixels, outline=key == reference)
        if key == reference or key in targets:
            landmarks[key] = features(pixels)
    comparable = [
        key for key in targets
        if key != reference and {key, reference} <= planes.keys()
        and planes[key].shape == planes[reference].shape
    ]  # fmt: skip
    shifts = {k: measure_shift(landmarks[reference], landmarks[k]) for k in comparable}
    samples: tuple[Sample, ...] = ()
    refused = ""
    try:
        samples = tuple(make_samples([entry], task))
    except UserError as exc:
        refused = str(exc)
    return FieldStats(entry, inputs, targets, planes, errors, shifts, samples, refused)


def read_fields(fields: Sequence[Field], task: Task) -> Iterator[FieldStats]:
    """`read_field` of each, in order, by as many threads as there are cores."""
    return in_parallel(
        lambda entry: read_field(entry, task), fields, "looking at fields", len(fields)
    )

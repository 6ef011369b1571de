"""One field of ground truth and prediction, and the protocol of a source of such fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
# Channels that predict.py writes beside a stain: half-widths of its intervals, coverage in percent.
HALFWIDTH = re.compile(r"(.+)_halfwidth(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class FieldPair:
    """One field of view: ground truth and prediction on the truth's intensity scale.

    Attributes:
        field: name of the field.
        channels: names of the C target channels.
        truth: (C, H, W), one of `vfn.data.images.DTYPES`.
        prediction: (C, H, W), any of these dtypes; compared as it is, never rescaled.
        inputs: (Ci, H, W), what the model saw; only shown.
        input_channels: names of the Ci inputs.
        baselines: simpler predictions of the same field by name ("mean", "linear", "median", "filter"), (C, H, W) each.
        pixel_size: micrometres a pixel, if known.
        halfwidth: (C, H, W) float32, half the width of the prediction's interval in its grey levels;
            NaN for a channel without; None if no channel has one.
        coverage: share of the truth that these intervals were made to cover, in (0, 1).
        well: name of the well that the field lies in, if known.
        z: um of the inputs from the focal plane; None where the task has one plane a field.
        unrefocused: (C, H, W), the same model's prediction from the blurred inputs as they are, where they
            were refocused; else None.
        promised: for each channel, whether `coverage` is guaranteed; None if that is not known.
        alarms: input -> in words how it lies outside what the model was trained on; empty where none does.
    """

    field: str
    channels: tuple[str, ...]
    truth: Array
    prediction: Array
    inputs: Array | None = None
    input_channels: tuple[str, ...] = ()
    baselines: Mapping[str, Array] = dataclass_field(default_factory=dict)
    pixel_size: float | None = None
    halfwidth: Array | None = None
    coverage: float | None = None
    well: str | None = None
    z: float | None = None
    unrefocused: Array | None = None
    alarms: Mapping[str, Sequence[str]] = dataclass_field(default_factory=dict)
    promised: tuple[bool, ...] | None = None

    @property
    def named_inputs(self) -> list[tuple[str, Array]]:
        """Each named input: its channel and image (H, W)."""
        inputs = () if self.inputs is None else self.inputs
        return list(zip(self.input_channels, inputs, strict=True)) if self.input_channels else []

    @property
    def named_truth(self) -> list[tuple[str, Array]]:
        """Each target: its channel and truth (H, W)."""
        return list(zip(self.channels, self.truth, strict=True))

    @property
    def real(self) -> dict[str, Array]:
        """Channel -> real image (H, W): named inputs, then targets."""
        return dict([*self.named_inputs, *self.named_truth])


class PairSource(Protocol):
    """Fields by number, read when asked for, so that memory stays flat in their number."""

    def __len__(self) -> int: ...

    def truth(self, index: int) -> tuple[tuple[str, ...], Array]:
        """Channel names and truth (C, H, W) of one field."""
        ...

    def pair(self, index: int) -> FieldPair:
        """Everything about one field."""
        ...

"""Fit the intensity normalisers of all channels."""

from collections.abc import Sequence

from vfn.data.config import DataConfig
from vfn.data.intensity import Histogram, IntensityNormaliser
from vfn.data.samples import Task
from vfn.errors import UserError


def fit_normalisers(
    task: Task, histograms: Sequence[Histogram], config: DataConfig
) -> tuple[list[IntensityNormaliser], list[IntensityNormaliser]]:
    """Return the normalisers of inputs and targets.

    Args:
        histograms: grey values of the training pixels, inputs first.

    Raises:
        UserError: a constant channel; targets of several dtypes.
    """
    low, high = config.percentiles
    fixed, fitted = config.fixed or {}, []
    for channel, histogram in zip(task.inputs + task.targets, histograms, strict=True):
        try:
            fitted.append(
                IntensityNormaliser.fit(
                    histogram, config.range, (low, high), config.equalise, fixed.get(channel)
                )
            )
        except UserError as exc:
            raise UserError(f"channel {channel}: {exc}") from exc
    inputs, targets = fitted[: len(task.inputs)], fitted[len(task.inputs) :]
    kinds = {m.dtype for m in targets}
    if len(kinds) > 1:  # one predicted image has one dtype
        raise UserError(
            f"targets {', '.join(task.targets)} are {' and '.join(sorted(kinds))}; "
            "save them in one dtype, or train a model for each"
        )
    return inputs, targets

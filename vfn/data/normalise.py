"""Fit the intensity normalisers of all channels."""

from collections.abc import Sequence
from dataclasses import replace

from vfn.data.config import DataConfig
from vfn.data.intensity import IntensityNormaliser
from vfn.data.samples import Task
from vfn.data.statistics import DatasetStatistics
from vfn.errors import UserError


def fit_normalisers(
    task: Task, measured: DatasetStatistics, per_field: Sequence[bool], config: DataConfig
) -> tuple[list[IntensityNormaliser], list[IntensityNormaliser]]:
    """Return the normalisers of inputs and targets.

    Args:
        per_field: of each input, whether its fields are standardised.

    Raises:
        UserError: a constant channel; targets of several dtypes.
    """
    low, high = config.percentiles
    fixed, fitted = config.fixed or {}, []
    channels = task.inputs + task.targets
    for channel, histogram in zip(channels, measured.histograms, strict=True):
        try:
            fitted.append(
                IntensityNormaliser.fit(
                    histogram, config.range, (low, high), config.equalise, fixed.get(channel)
                )
            )
        except UserError as exc:
            raise UserError(f"channel {channel}: {exc}") from exc
    inputs, targets = fitted[: len(task.inputs)], fitted[len(task.inputs) :]
    inputs = [
        replace(one, dtype=dtype, per_field=alone)
        for one, dtype, alone in zip(inputs, measured.dtypes, per_field, strict=False)
    ]
    kinds = {m.dtype for m in targets}
    if len(kinds) > 1:  # one predicted image has one dtype
        raise UserError(
            f"targets {', '.join(task.targets)} are {' and '.join(sorted(kinds))}; "
            "save them in one dtype, or train a model for each"
        )
    return inputs, targets

"""Facts that other programs need to use the bare network."""

from collections.abc import Iterable
from typing import Any

from vfn import __version__
from vfn.data.intensity import IntensityNormaliser
from vfn.models.checkpoint import Checkpoint
from vfn.models.nets import stride_of


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what must be known to use the bare network, as plain data.

    The network maps [-1, 1] to [-1, 1]; `inputs` and `targets` give, by channel in their order, the
    map between that and grey values: see `vfn.data.intensity.IntensityNormaliser`.
    """
    task = checkpoint.task

    def channels(names: Iterable[str], maps: Iterable[IntensityNormaliser]) -> list[dict[str, Any]]:
        return [{"channel": n, **fitted.to_dict()} for n, fitted in zip(names, maps, strict=True)]

    return {
        "version": __version__,
        "model": checkpoint.identity,
        "stride": stride_of(checkpoint.generator),
        "inputs": channels(task.inputs, checkpoint.inputs),
        "targets": channels(task.targets, checkpoint.targets),
        "verdicts": [verdict.text for verdict in checkpoint.verdicts],
        "illumination_corrected": any(flat is not None for flat in checkpoint.flats),
    }

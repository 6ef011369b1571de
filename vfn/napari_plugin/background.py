"""Work of the widget in a background thread: loading a model, and predicting."""

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vfn


def predicting(
    model: vfn.Model, arrays: Sequence[Any], pixel_size: float | None, coverage: float | None
) -> Generator[int, None, tuple[np.ndarray, list[str]]]:
    """Predict field after field.

    Args:
        arrays: the inputs in the model's order, (..., H, W), maybe lazy; each position along the
            leading axes is a field.
        pixel_size: micrometres, or None.
        coverage: of the intervals, or None.

    Yields:
        The number of fields done.

    Returns:
        The channels of `model.channels`, (C, ..., H, W), and the warnings.

    Raises:
        UserError: see `vfn.Model.predict`; inputs of several sizes.
    """
    shapes = {name: array.shape for name, array in zip(model.inputs, arrays, strict=True)}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise vfn.UserError(f"the layers differ in size: {told}; choose layers of one field")
    leading = arrays[0].shape[:-2]
    predicted, warnings = [], []
    for done, place in enumerate(np.ndindex(leading), 1):
        field = np.stack([np.asarray(array[place]) for array in arrays])
        predicted.append(model.predict(field, "CYX", pixel_size, uncertainty=coverage))
        where = f"slice {', '.join(map(str, place))}: " if place else ""
        warnings += [where + found for found in model.check(field, "CYX", pixel_size)]
        yield done
    stack = np.stack(predicted, 1)  # (C, N, H, W)
    return stack.reshape(len(stack), *leading, *stack.shape[2:]), warnings


@dataclass(frozen=True)
class Failure:
    """Failure of background work. Not the exception itself, which the worker would raise."""

    error: Exception


def loading(path: Path) -> Generator[int, None, vfn.Model]:
    """Load a model."""
    yield 0
    return vfn.load(path)


def caught(work: Generator[Any, None, Any], gone: threading.Event) -> Generator[Any, None, Any]:
    """Run `work` until `gone`; return a failure, since napari would show a traceback."""
    try:
        while not gone.is_set():
            yield next(work)
    except StopIteration as end:
        return end.value
    except Exception as exc:  # noqa: BLE001  # the widget tells it
        return Failure(exc)

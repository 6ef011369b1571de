"""The generator as a program: ONNX, and what torch.export makes of it."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as shapes

from vfn.data.formats import need
from vfn.models.nets import stride_of
from vfn.system.files import replacing

INPUT, OUTPUT = "input", "output"  # names of the two tensors
FACTS = "vfn"  # key of the metadata of an ONNX model, and FACTS.json in a .pt2
ONNX_PACKAGES = "onnx onnxscript"


def need_all(what: Path | str, packages: str) -> list[Any]:
    """Import `packages`, named as pip names them, which here is as Python does; see `need`."""
    return [need(module, what, packages) for module in packages.split()]


def _bare(generator: nn.Module, inputs: int) -> tuple[nn.Module, torch.Tensor]:
    """A copy on the CPU in float32, evaluation mode, default layout; and an example to trace it by.

    No size of the example is 1, down to the bottleneck: a 1 would be traced as a constant.
    """
    bare = copy.deepcopy(generator).cpu().float().eval().requires_grad_(False)
    bare = bare.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    stride = stride_of(bare)
    return bare, torch.zeros(2, inputs, 2 * stride, 3 * stride)


def write_onnx(path: Path, generator: nn.Module, inputs: int, about: dict[str, Any]) -> int:
    """Write `path`: (batch, Ci, height, width) -> (batch, Ct, height, width), float32 in [-1, 1].

    Batch, height and width are free; height and width are multiples of the generator's stride.

    Args:
        inputs: number of input channels.
        about: plain data, kept in the file's metadata.

    Returns:
        The version of ONNX's operators.

    Raises:
        UserError: a package is missing.
    """
    need_all(path, ONNX_PACKAGES)
    bare, example = _bare(generator, inputs)
    free = {0: "batch", 2: "height", 3: "width"}
    with _quiet():
        program = torch.onnx.export(
            bare, (example,), dynamo=True, verbose=False, input_names=[INPUT],
            output_names=[OUTPUT], dynamic_shapes=(free,),
        )  # fmt: skip
    assert program is not None
    (output,) = program.model.graph.outputs
    # Tracing calls the sides 64*((height-1)//64)+64 and the like: for multiples of 64, the same.
    output.shape = type(output.shape)(  # type: ignore[misc]
        [free.get(axis, size) for axis, size in enumerate(output.shape or ())]
    )
    program.model.metadata_props[FACTS] = json.dumps(about)
    with replacing(path) as temporary:
        program.save(temporary)
    return int(program.model.opset_imports[""])


def write_torch(path: Path, generator: nn.Module, inputs: int, about: dict[str, Any]) -> None:
    """Write `path`, for `torch.export.load`; shapes and `about` as in `write_onnx`."""
    bare, example = _bare(generator, inputs)
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    free = {0: batch, 2: stride_of(bare) * rows, 3: stride_of(bare) * columns}
    # Else an image of one stride, whose bottleneck is 1 pixel, would be refused.
    with _quiet(), shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(bare, (example,), dynamic_shapes=(free,))
        with replacing(path) as temporary:
            torch.export.save(program, temporary, extra_files={f"{FACTS}.json": json.dumps(about)})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's words on torchvision, which nothing here uses, and on its own renamings."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)

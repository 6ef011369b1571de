"""Backends that run the generator: torch, ONNX Runtime or OpenVINO. The last two run on the CPU."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vfn.errors import UserError, check_choice
from vfn.inference.programs import INPUT, ONNX_PACKAGES, need_all, write_onnx
from vfn.models.precision import pick_device, pick_precision

BACKENDS = ("torch", "onnx", "openvino")
Network = Callable[[torch.Tensor], torch.Tensor]  # (B, Ci, H, W) -> (B, Ct, H, W), float32


def pick_arithmetic(backend: str, device: str, precision: str) -> tuple[torch.device, str]:
    """The device and the precision ("bf16" or "float32") that `backend` computes with.

    Raises:
        UserError: unknown backend; a device or a precision that it does not have here.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "torch":
        picked = pick_device(device)
        return picked, pick_precision(precision, picked)
    cpu = torch.device("cpu")
    if device != "auto" and pick_device(device) != cpu:
        raise UserError(f"device={device}: backend={backend} runs on the CPU; say device=cpu")
    if backend == "onnx":
        if precision == "bf16":
            raise UserError(
                "precision=bf16: backend=onnx computes in float32; say precision=float32, "
                "or backend=openvino"
            )
        pick_precision(precision, cpu)  # refuses what is no precision
        return cpu, "float32"
    return cpu, pick_precision(precision, cpu)


def make_network(generator: nn.Module, inputs: int, backend: str, precision: str) -> Network:
    """The generator as `backend` ("onnx" or "openvino") runs it, with as many threads as torch.

    Its ONNX model is made anew, in a folder that goes away.

    Raises:
        UserError: a package is missing; OpenVINO has no bf16 on this CPU.
    """
    module = {"onnx": "onnxruntime", "openvino": "openvino"}[backend]
    *_, runtime = need_all(f"backend={backend}", f"{ONNX_PACKAGES} {module}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        write_onnx(path, generator, inputs, {})
        return (_onnx if backend == "onnx" else _openvino)(runtime, path, precision)


def _onnx(runtime: Any, path: Path, _: str) -> Network:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def network(tiles: torch.Tensor) -> torch.Tensor:
        (predicted,) = session.run(None, {INPUT: tiles.contiguous().numpy()})
        return torch.from_numpy(predicted)

    return network


def _openvino(runtime: Any, path: Path, precision: str) -> Network:
    hint = {"float32": runtime.Type.f32, "bf16": runtime.Type.bf16}[precision]
    core = runtime.Core()
    # Without a hint OpenVINO takes bf16 where the CPU has it.
    compiled = core.compile_model(
        core.read_model(path), "CPU",
        {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()},
    )  # fmt: skip
    if compiled.get_property("INFERENCE_PRECISION_HINT") != hint:
        raise UserError(
            "precision=bf16: OpenVINO does not compute in it on this CPU; say precision=float32"
        )

    def network(tiles: torch.Tensor) -> torch.Tensor:
        # A copy: OpenVINO's own memory is written again by the next call.
        return torch.from_numpy(compiled(tiles.contiguous().numpy())[0].copy())

    return network

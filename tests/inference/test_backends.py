"""Every backend gives torch's stain."""

import sys

import numpy as np
import openvino
import pytest
import torch

from tests.inference.test_predictor import grey, make_checkpoint
from tests.models.test_intervals import calibrated
from vfn.errors import UserError
from vfn.inference import backends
from vfn.inference.backends import make_network, pick_arithmetic
from vfn.inference.predictor import Predictor
from vfn.models.checkpoint import Checkpoint
from vfn.models.nets import make_generator

OTHERS = ["onnx", "openvino"]
LIMIT = 1e-4  # of [-1, 1], float32


def on(checkpoint: Checkpoint, backend: str, **options: object) -> Predictor:
    return Predictor(checkpoint, "cpu", "float32", 32, backend=backend, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def generator() -> torch.nn.Module:
    """The default depth, statistics and weights that are not those of the start."""
    torch.manual_seed(1)
    made = make_generator({"name": "unet", "width": 8, "max_width": 32, "depth": 6}, 2, 3)
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.01, 0.1)
    return made.eval()


@pytest.mark.parametrize("backend", OTHERS)
def test_the_network_is_torchs_at_every_size(backend: str, generator: torch.nn.Module) -> None:
    network = make_network(generator, 2, backend, "float32")
    for shape in [(1, 2, 64, 64), (3, 2, 64, 192), (2, 2, 128, 64), (1, 2, 64, 64)]:
        x = torch.rand(shape) * 2 - 1
        with torch.inference_mode():
            expected = generator(x)
        assert expected.std() > 0.01
        found = network(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("backend", OTHERS)
def test_what_was_predicted_stays(backend: str, generator: torch.nn.Module) -> None:
    """The memory of a result is not that of the next."""
    network = make_network(generator, 2, backend, "float32")
    first = network(torch.full((1, 2, 64, 64), -1.0))
    kept = first.clone()
    network(torch.full((1, 2, 64, 64), 1.0))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_grey_values_are_torchs(backend: str, dtype: str) -> None:
    checkpoint = make_checkpoint(["a", "b"], ["x", "y"], dtypes=("uint16", dtype))
    inputs = [grey(0), grey(1)]
    expected = on(checkpoint, "torch").predict(inputs)
    found = on(checkpoint, backend).predict(inputs)
    assert found.dtype == expected.dtype
    limit = 2.5 * LIMIT if dtype == "float32" else 1  # a whole grey value where it rounds apart
    assert np.abs(found.astype(float) - expected).max() <= limit


@pytest.mark.parametrize("backend", OTHERS)
def test_a_residual_network_is_torchs(backend: str) -> None:
    torch.manual_seed(0)
    spec = {"name": "unet", "width": 4, "depth": 2, "kernel_size": 4, "residual": True}
    made = make_generator(spec, 2, 2).eval()
    torch.nn.init.normal_(made.last.weight, 0, 0.5)
    x = torch.rand(2, 2, 12, 20) * 2.2 - 1.1
    with torch.inference_mode():
        expected = made(x)
    found = make_network(made, 2, backend, "float32")(x)
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("backend", OTHERS)
def test_intervals_are_torchs(backend: str) -> None:
    """The error model stays in torch and sees the backend's stain."""
    checkpoint = calibrated(make_checkpoint())
    expected = on(checkpoint, "torch", uncertainty=0.9).predict([grey(0)])
    found = on(checkpoint, backend, uncertainty=0.9).predict([grey(0)])
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= 1
    assert (found[1] > 0).any()


@pytest.mark.parametrize("backend", OTHERS)
def test_the_identity_names_the_backend(backend: str) -> None:
    checkpoint = make_checkpoint()
    assert f"{backend} float32" in on(checkpoint, backend).identity
    assert "torch float32" in on(checkpoint, "torch").identity


def test_openvino_in_bf16_is_near() -> None:
    checkpoint = make_checkpoint(["a", "b"])
    inputs = [grey(0), grey(1)]
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="OpenVINO does not compute in it on this CPU"):
            Predictor(checkpoint, "cpu", "bf16", 32, backend="openvino")
        return
    near = Predictor(checkpoint, "cpu", "bf16", 32, backend="openvino").predict(inputs)
    expected = on(checkpoint, "torch").predict(inputs)
    assert np.abs(near.astype(float) - expected).max() <= 0.02 * 4000  # of the range


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("tensorrt", "auto", "auto"), "backend=tensorrt: unknown; choose one of torch, onnx"),
        (("onnx", "auto", "bf16"), "precision=bf16: backend=onnx computes in float32"),
        (("onnx", "auto", "half"), "precision=half: unknown"),
        (("openvino", "gpu", "auto"), "device=gpu: unknown"),
    ],
)
def test_what_a_backend_does_not_have_is_refused(given: tuple[str, str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        pick_arithmetic(*given)


def test_a_gpu_is_refused_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "pick_device", torch.device)
    with pytest.raises(UserError, match="device=cuda: backend=onnx runs on the CPU"):
        pick_arithmetic("onnx", "cuda", "auto")


def test_onnx_is_float32_of_itself() -> None:
    assert pick_arithmetic("onnx", "auto", "auto") == (torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("backend", "module"),
    [("onnx", "onnxruntime"), ("openvino", "openvino"), ("onnx", "onnxscript")],
)
def test_a_missing_package_is_named(
    backend: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install .*{module}"):
        on(make_checkpoint(), backend)

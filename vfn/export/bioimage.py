"""A package of the BioImage Model Zoo (model description 0.5): grey values in, grey values out."""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vfn import __version__
from vfn.data.formats import need
from vfn.data.intensity import IntensityNormaliser, to_dtype
from vfn.errors import UserError
from vfn.export.facts import facts
from vfn.inference.programs import INPUT, ONNX_PACKAGES, OUTPUT, need_all, write_onnx
from vfn.models.card import card_of, markdown
from vfn.models.checkpoint import Checkpoint
from vfn.models.nets import stride_of
from vfn.system.files import replacing

PACKAGES = f"{ONNX_PACKAGES} onnxruntime bioimageio.core"
PAPER = {
    "text": "Nguyen et al. Virtual organelle self-coding for fluorescence imaging via adversarial "
    "learning. J. Biomed. Opt. 25(9), 096009 (2020)",
    "doi": "10.1117/1.JBO.25.9.096009",
}
# Of a test output: other hardware, same model. The zoo takes no tolerance above 1 % of the brightest
# pixel, which may be less than the grey value that rounding apart makes: few pixels may do so.
TOLERANCE = 1e-4  # of [-1, 1]
LARGEST = 0.01  # of the brightest pixel
APART = 5000  # pixels in a million, the most that the zoo takes


@dataclass(frozen=True)
class Label:
    """Name, authors and licence of a package.

    Attributes:
        name: 5 to 128 letters, digits, blanks, `_+-()`; None names the channels.
        description: None says what is predicted from what.
        authors: one or more.
        license: of the weights, by its SPDX name.
        pixel_size: um a pixel of the training images; None where it is not known.
    """

    name: str | None = None
    description: str | None = None
    authors: Sequence[str] = ("Unknown",)
    license: str = "CC-BY-4.0"
    pixel_size: float | None = None


def write_bioimage(folder: Path, checkpoint: Checkpoint, label: Label) -> Path:
    """Write `folder`/NAME.zip, tested by bioimageio.core as the zoo tests it.

    The package holds ONNX weights, an input and the output that torch makes of it.

    Returns:
        The file.

    Raises:
        UserError: a package is missing; the map to grey values is no line; the label breaks a rule
            of the zoo.
    """
    *_, core = need_all("format=bioimage", PACKAGES)
    spec = need("bioimageio.spec", "format=bioimage", PACKAGES)  # comes with it
    _check_lines(checkpoint)
    task = checkpoint.task
    channels = f"{' + '.join(task.inputs)} to {' + '.join(task.targets)}"
    name = label.name or re.sub(r"[^\w+() -]", " ", channels, flags=re.ASCII)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_+()-]+', '_', name)}.zip"
    with tempfile.TemporaryDirectory() as work:
        place = Path(work)
        opset = write_onnx(
            place / "weights.onnx", checkpoint.generator, len(checkpoint.inputs), facts(checkpoint)
        )
        image, stain = _example(checkpoint)
        np.save(place / "test_input.npy", image)
        np.save(place / "test_output.npy", stain)
        (place / "README.md").write_text(_documentation(checkpoint, name), encoding="utf-8")
        about = _description(checkpoint, label, name, opset, stain)
        about["format_version"] = spec.model.v0_5.ModelDescr.implemented_format_version
        source = place / "bioimageio.yaml"
        source.write_text(json.dumps(about), encoding="utf-8")  # JSON is YAML, too
        described = spec.load_description(source)
        if isinstance(described, spec.InvalidDescr):
            errors = [e for detail in described.validation_summary.details for e in detail.errors]
            said = "; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in errors)
            raise UserError(f"format=bioimage: {said}".replace("\n", " "))
        with replacing(path) as temporary:
            spec.save_bioimageio_package(described, output_path=temporary)
            summary = core.test_model(temporary)
            if summary.status != "passed":  # ours to repair, not the user's
                raise RuntimeError(f"{path}: fails the zoo's test: {summary.format()}")
    return path


def _check_lines(checkpoint: Checkpoint) -> None:
    """Refuse a model whose normalisation is more than linear with clipping."""
    channels = (*checkpoint.task.inputs, *checkpoint.task.targets)
    maps = (*checkpoint.inputs, *checkpoint.targets)
    for channel, fitted, flat in zip(channels, maps, checkpoint.flats, strict=True):
        done = "is equalised by a curve (data.equalise)" if fitted.knots is not None else ""
        done = "has its illumination corrected (data.illumination)" if flat is not None else done
        done = "is normalised field by field (data.input_range)" if fitted.per_field else done
        if done:
            raise UserError(
                f"format=bioimage: channel {channel} {done}, and a package can only state a linear "
                "map; say format=onnx and prepare the images as docs/export.md says"
            )


def _kind(maps: Sequence[IntensityNormaliser]) -> str:
    """Return the common dtype of channels, or float32 where they differ."""
    kinds = {fitted.dtype for fitted in maps}
    return kinds.pop() if len(kinds) == 1 else "float32"


def _example(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Return a synthetic field (1, Ci, H, W) over the full range of each channel, and its stain (1, Ct, H, W)."""
    stride = stride_of(checkpoint.generator)
    rng = np.random.default_rng(0)
    images = []
    for fitted in checkpoint.inputs:
        noise = rng.random((2 * stride, 3 * stride))
        smooth = cv2.GaussianBlur(noise, (0, 0), 2)
        share = (smooth - smooth.min()) / np.ptp(smooth)
        images.append(to_dtype(fitted.low + share * (fitted.high - fitted.low), fitted.dtype))
    x = np.stack([m.normalise(a) for m, a in zip(checkpoint.inputs, images, strict=True)])
    generator = checkpoint.generator.cpu().float()
    with torch.inference_mode():
        y = generator(torch.from_numpy(x)[None])[0].numpy()
    stain = np.stack([m.restore(a) for m, a in zip(checkpoint.targets, y, strict=True)])
    return np.stack(images).astype(_kind(checkpoint.inputs))[None], stain[None]


def _scale(gains: Sequence[float], offsets: Sequence[float]) -> dict[str, Any]:
    """Describe x * gain + offset per channel."""
    kwargs = {"axis": "channel", "gain": list(gains), "offset": list(offsets)}
    return {"id": "scale_linear", "kwargs": kwargs}


def _preparation(maps: Sequence[IntensityNormaliser]) -> list[dict[str, Any]]:
    """Describe `IntensityNormaliser.normalise` for the zoo."""
    gains = [2 / (fitted.high - fitted.low) for fitted in maps]
    offsets = [-1 - fitted.low * gain for fitted, gain in zip(maps, gains, strict=True)]
    as_float = _cast("float32")
    clip = {"id": "clip", "kwargs": {"min": -1.0, "max": 1.0}}
    # A gain may make float64 of float32, which the network does not take: hence the second one.
    return [as_float, _scale(gains, offsets), clip, as_float]


def _cast(dtype: str) -> dict[str, Any]:
    return {"id": "ensure_dtype", "kwargs": {"dtype": dtype}}


def _restoration(maps: Sequence[IntensityNormaliser]) -> list[dict[str, Any]]:
    """Describe `IntensityNormaliser.restore` for the zoo."""
    kind = np.dtype(_kind(maps))
    gains = [(fitted.high - fitted.low) / 2 for fitted in maps]
    offsets = [(fitted.high + fitted.low) / 2 for fitted in maps]
    if kind.kind == "f":
        return [_scale(gains, offsets)]
    # The zoo's cast cuts off what is behind the point: half a grey value more makes it round, above 0.
    limits, whole = np.iinfo(kind), np.dtype(f"u{kind.itemsize}")
    span = np.float32(limits.max - limits.min)
    if kind.itemsize > 2:
        span = np.nextafter(span, np.float32(0))  # which float32 rounds up, out of the dtype
    clip = {"id": "clip", "kwargs": {"min": 0.0, "max": float(span)}}
    positive = [_scale(gains, [o + 0.5 - limits.min for o in offsets]), clip, _cast(whole.name)]
    if kind == whole:
        return positive
    shift = _scale([1.0] * len(maps), [float(limits.min)] * len(maps))
    return [*positive, _cast("float64"), shift, _cast(kind.name)]


def _tensor(
    name: str,
    channels: Sequence[str],
    maps: Sequence[IntensityNormaliser],
    pixel_size: float | None,
    stride: int = 0,
) -> dict[str, Any]:
    """Describe a tensor: axes batch, channel, y and x, dtype and test.

    Args:
        stride: of the sizes that an input may have; 0 for an output, as large as the input.
    """
    scale = {} if pixel_size is None else {"unit": "micrometer", "scale": pixel_size}
    axes: list[dict[str, Any]] = [
        {"type": "batch"},
        {"type": "channel", "channel_names": list(channels)},
    ]
    for axis in "yx":
        like = {"tensor_id": INPUT, "axis_id": axis}
        size = {"min": stride, "step": stride} if stride else like
        axes.append({"type": "space", "id": axis, "size": size, **scale})
    test = {"source": f"test_{name}.npy"}
    return {"id": name, "axes": axes, "data": {"type": _kind(maps)}, "test_tensor": test}


def _tolerance(targets: Sequence[IntensityNormaliser], stain: np.ndarray) -> dict[str, Any]:
    """Return the tolerance of the test output on other machines, in grey values."""
    step = TOLERANCE * max((fitted.high - fitted.low) / 2 for fitted in targets)
    whole = 1.0 if stain.dtype.kind in "ui" else 0.0
    return {
        "relative_tolerance": 0.0,
        "absolute_tolerance": min(whole + step, LARGEST * float(np.abs(stain).max())),
        "mismatched_elements_per_million": APART,
    }


def _description(
    checkpoint: Checkpoint, label: Label, name: str, opset: int, stain: np.ndarray
) -> dict[str, Any]:
    """Return the content of bioimageio.yaml.

    Args:
        opset: of the weights.
        stain: the test output.
    """
    task, size = checkpoint.task, label.pixel_size
    said = f"Predicts {', '.join(task.targets)} from {', '.join(task.inputs)} of the same field of view."
    return {
        "type": "model",
        "name": name,
        "description": label.description or said,
        "authors": [{"name": author} for author in label.authors],
        "license": label.license,
        "cite": [PAPER],
        "tags": ["virtual-staining", "fluorescence-light-microscopy", "2d", "unet", "pix2pix"],
        "version": __version__,
        "documentation": {"source": "README.md"},
        "inputs": [
            {
                "description": "grey values as the microscope gave them",
                **_tensor(
                    INPUT, task.inputs, checkpoint.inputs, size, stride_of(checkpoint.generator)
                ),
                "preprocessing": _preparation(checkpoint.inputs),
            }
        ],
        "outputs": [
            {
                "description": "predicted stains, grey values on the scale of the real ones",
                **_tensor(OUTPUT, task.targets, checkpoint.targets, size),
                "postprocessing": _restoration(checkpoint.targets),
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": opset}},
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [_tolerance(checkpoint.targets, stain)],
                "model_parameter_count": sum(p.numel() for p in checkpoint.generator.parameters()),
            }
        },
    }


def _documentation(checkpoint: Checkpoint, name: str) -> str:
    """Return the README.md of the package: the model card and the requirements on images."""
    title, card = markdown(card_of(checkpoint.recipe)).split("\n", 1)
    return f"""# {name}

{title.removeprefix("# ")}, by vfn {__version__}, model {checkpoint.identity}: a U-Net generator
trained after VirFluoNet (Nguyen et al. 2020).

## Use

Give images of the same kind as in training: microscope, exposure, bit depth, pixel size. Grey values
beyond the ranges below are clipped. Height and width are multiples of {stride_of(checkpoint.generator)}; larger
fields are predicted in tiles that overlap.
{card}
## Validation

Score predictions against real stains of your own, by field: `python evaluate.py pred=DIR truth=DIR
output=DIR` of vfn gives MAE, PSNR, SSIM, Pearson's r, and nuclei that are missing or invented.
"""

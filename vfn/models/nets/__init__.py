"""The networks, made by name: a checkpoint names a network, it never brings code."""

import copy
from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vfn.errors import UserError
from vfn.models.nets.convnext_unet import ConvNeXtUNet
from vfn.models.nets.discriminator import ConditionalDiscriminator, Discriminator, PatchGAN
from vfn.models.nets.generator import Generator
from vfn.models.nets.unet import UNetGenerator

G = TypeVar("G", bound=nn.Module)
# Of what decides how much memory a network takes: far more than any machine could train.
LARGEST = {"width": 2048, "max_width": 8192, "depth": 12, "blocks": 64, "kernel_size": 31}
GENERATORS: dict[str, type[Generator]] = {
    "unet": UNetGenerator,
    "convnext_unet": ConvNeXtUNet,
}
DISCRIMINATORS: dict[str, type[Discriminator]] = {
    "conditional": ConditionalDiscriminator,
    "patchgan": PatchGAN,
}


def _of_module(name: str, other: type[nn.Module]) -> type[nn.Module] | None:
    """The network of the module `vfn/models/nets/NAME.py`: its only class over the base that `other` has.

    Of this package alone: a checkpoint that names a network brings no code.
    """
    if not (name.isidentifier() and (Path(__file__).parent / f"{name}.py").is_file()):
        return None
    base = Generator if issubclass(other, Generator) else Discriminator
    module = import_module(f"vfn.models.nets.{name}")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    ]
    mine = [value for value in own if value.__module__ == module.__name__]
    return mine[0] if len(mine) == 1 else None


def _make(
    kind: str, table: Mapping[str, type[nn.Module]], spec: Mapping[str, Any], **sizes: int
) -> Any:
    options = dict(spec)
    name = options.pop("name", None)
    made = table.get(str(name)) or _of_module(str(name), next(iter(table.values())))
    if made is None:
        raise UserError(f"model.{kind}.name={name}: unknown; choose one of {', '.join(table)}")
    try:
        for key, value in options.items():
            if key in LARGEST and not 1 <= value <= LARGEST[key]:
                raise UserError(f"model.{kind}.{key}={value}: give 1 to {LARGEST[key]}")
        return made(**sizes, **options)
    except (TypeError, ValueError) as exc:
        raise UserError(f"model.{kind}: {exc}; see conf/model for the keys of {name}") from exc


def make_generator(spec: Mapping[str, Any], in_channels: int, out_channels: int) -> Generator:
    """The generator that `spec` names (`name` and its options).

    Raises:
        UserError: unknown name or option; see `Generator`.
    """
    generator: Generator = _make(
        "generator", GENERATORS, spec, in_channels=in_channels, out_channels=out_channels
    )
    return generator


def with_weights(make: Callable[[], G], weights: Mapping[str, torch.Tensor]) -> G:
    """The network that `make` makes, with `weights`.

    It is made without memory first: whatever sizes a stranger's file names, no more is taken than its
    weights need.

    Raises:
        RuntimeError: the weights do not fit it.
    """
    with torch.device("meta"):
        wanted = make().state_dict()
    for name, tensor in wanted.items():
        given = weights.get(name)
        if not isinstance(given, torch.Tensor) or given.shape != tensor.shape:
            raise RuntimeError(f"{name} does not fit")
    module = make()
    module.load_state_dict(weights)
    return module


def make_discriminator(spec: Mapping[str, Any], in_channels: int, patch_size: int) -> Discriminator:
    """The discriminator that `spec` names.

    Raises:
        UserError: unknown name or option.
    """
    discriminator: Discriminator = _make(
        "discriminator", DISCRIMINATORS, spec, in_channels=in_channels, patch_size=patch_size
    )
    return discriminator


def fold_norms(generator: G) -> G:
    """A copy in evaluation mode whose batch norms are part of the convolutions before them.

    In evaluation a batch norm multiplies and shifts each channel by constants: the same function,
    without its passes over the features.
    """
    folded = copy.deepcopy(generator).eval()
    for parent in list(folded.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        for i, (layer, norm) in enumerate(pairwise(list(parent))):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(
                layer, nn.Conv2d | nn.ConvTranspose2d
            ):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                parent[i] = fuse_conv_bn_eval(layer, norm, transpose=transposed)
                parent[i + 1] = nn.Identity()
    return folded


__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "Discriminator",
    "Generator",
    "fold_norms",
    "make_discriminator",
    "make_generator",
    "with_weights",
]

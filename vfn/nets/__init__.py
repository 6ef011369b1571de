"""The networks, made by name: a checkpoint names a network, it never brings code."""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vfn.errors import UserError
from vfn.nets.convnext_unet import ConvNeXtUNet
from vfn.nets.discriminator import ConditionalDiscriminator, Discriminator, PatchGAN
from vfn.nets.generator import Generator
from vfn.nets.unet import UNetGenerator

G = TypeVar("G", bound=nn.Module)
GENERATORS: dict[str, type[Generator]] = {
    "unet": UNetGenerator,
    "convnext_unet": ConvNeXtUNet,
}
DISCRIMINATORS: dict[str, type[Discriminator]] = {
    "conditional": ConditionalDiscriminator,
    "patchgan": PatchGAN,
}


def _make(
    kind: str, table: Mapping[str, type[nn.Module]], spec: Mapping[str, Any], **sizes: int
) -> Any:
    options = dict(spec)
    name = options.pop("name", None)
    if name not in table:
        raise UserError(f"model.{kind}.name={name}: unknown; choose one of {', '.join(table)}")
    try:
        return table[name](**sizes, **options)
    except TypeError as exc:
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
]

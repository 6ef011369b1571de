"""The networks, made by name; a user's own by the dotted path of its class (`_target_`)."""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vfn.errors import UserError
from vfn.models.nets.convnext_unet import ConvNeXtUNet
from vfn.models.nets.discriminator import ConditionalDiscriminator, PatchGAN
from vfn.models.nets.unet import UNetGenerator
from vfn.system.dotted import TARGET, build

G = TypeVar("G", bound=nn.Module)
# Limits of the options that decide how much memory a network takes: far more than any machine could train.
LARGEST = {"width": 2048, "max_width": 8192, "depth": 12, "blocks": 64, "kernel_size": 31}
GENERATORS = {"unet": UNetGenerator, "convnext_unet": ConvNeXtUNet}
DISCRIMINATORS = {"conditional": ConditionalDiscriminator, "patchgan": PatchGAN}
# The dotted paths that a checkpoint may name without being trusted.
OURS: dict[str, type[nn.Module]] = {
    f"{net.__module__}.{net.__qualname__}": net
    for net in (*GENERATORS.values(), *DISCRIMINATORS.values())
}


def is_own(spec: Mapping[str, Any]) -> bool:
    """Return whether `spec` names a network that is not part of vfn."""
    return spec.get(TARGET) is not None and spec[TARGET] not in OURS


def name_of(spec: Mapping[str, Any]) -> str:
    """Return the name, or the dotted path, of the network that `spec` describes."""
    return str(spec.get(TARGET) or spec["name"])


def _make(
    kind: str, table: Mapping[str, type[nn.Module]], spec: Mapping[str, Any], **sizes: int
) -> nn.Module:
    options = dict(spec)
    name, target = options.pop("name", None), options.pop(TARGET, None)
    if is_own(spec):
        network = build({TARGET: target, **options}, f"model.{kind}", **sizes)
        if not isinstance(network, nn.Module):
            raise UserError(
                f"model.{kind}.{TARGET}={target}: makes a {type(network).__name__}, not a torch.nn.Module"
            )
        return network
    made = table.get(str(name)) if target is None else OURS[target]
    if made not in table.values():
        raise UserError(
            f"model.{kind}.name={name}: unknown; choose one of {', '.join(table)}, or name a class of your own "
            f"by model.{kind}.{TARGET}=my_package.MyNet"
        )
    try:
        for key, value in options.items():
            if key in LARGEST and not 1 <= value <= LARGEST[key]:
                raise UserError(f"model.{kind}.{key}={value}: give 1 to {LARGEST[key]}")
        return made(**sizes, **options)  # type: ignore[misc]
    except (TypeError, ValueError) as exc:
        raise UserError(f"model.{kind}: {exc}; see conf/model for the keys of {name}") from exc


def make_generator(spec: Mapping[str, Any], in_channels: int, out_channels: int) -> nn.Module:
    """Build the generator that `spec` describes: `name` or `_target_`, and its options.

    One of ours is a `Generator`; any other module maps (B, Ci, h, w) to (B, Ct, h, w), and what it has of
    the attributes of `Generator` is used.

    Raises:
        UserError: unknown name or option; see `Generator`.
    """
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    return _make("generator", GENERATORS, spec, **sizes)


def stride_of(generator: nn.Module) -> int:
    """Return the number that height and width of its inputs must be multiples of."""
    stride = getattr(generator, "stride", 1)
    return stride if isinstance(stride, int) else 1  # that of a convolution is a tuple


def with_weights(
    make: Callable[[], G], weights: Mapping[str, torch.Tensor], sketch: bool = True
) -> G:
    """Make a network and load `weights` into it.

    Args:
        sketch: make it without memory first, so that whatever sizes a stranger's file names, no more is
            taken than its weights need. Networks of others may not bear that.

    Raises:
        RuntimeError: the weights do not fit it.
    """
    if sketch:
        with torch.device("meta"):
            wanted = make().state_dict()
        for name, tensor in wanted.items():
            given = weights.get(name)
            if not isinstance(given, torch.Tensor) or given.shape != tensor.shape:
                raise RuntimeError(f"{name} does not fit")
    module = make()
    module.load_state_dict(weights)
    return module


def make_discriminator(spec: Mapping[str, Any], in_channels: int, patch_size: int) -> nn.Module:
    """Build the discriminator that `spec` describes.

    One of ours is a `Discriminator`; any other module maps condition and image to logits.

    Raises:
        UserError: unknown name or option.
    """
    sizes = {"in_channels": in_channels, "patch_size": patch_size}
    return _make("discriminator", DISCRIMINATORS, spec, **sizes)


def fold_norms(generator: G) -> G:
    """Return a copy in evaluation mode whose batch norms are part of the convolutions before them.

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
                parent[i] = fuse_conv_bn_eval(layer, norm, isinstance(layer, nn.ConvTranspose2d))
                parent[i + 1] = nn.Identity()
    return folded

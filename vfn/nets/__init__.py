"""The networks, made by name: a checkpoint names a network, it never brings code."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vfn.errors import UserError
from vfn.nets.discriminator import ConditionalDiscriminator, PatchGAN
from vfn.nets.generator import UNetGenerator

GENERATORS: dict[str, type[UNetGenerator]] = {"unet": UNetGenerator}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
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


def make_generator(spec: Mapping[str, Any], in_channels: int, out_channels: int) -> UNetGenerator:
    """The generator that `spec` names (`name` and its options).

    Raises:
        UserError: unknown name or option; residual with other targets than inputs.
    """
    if spec.get("residual") and in_channels != out_channels:
        raise UserError(
            f"model.generator.residual=true: adds to the inputs, so it takes as many targets as inputs; "
            f"here are {in_channels} and {out_channels}"
        )
    generator: UNetGenerator = _make(
        "generator", GENERATORS, spec, in_channels=in_channels, out_channels=out_channels
    )
    return generator


def make_discriminator(spec: Mapping[str, Any], in_channels: int, patch_size: int) -> nn.Module:
    """The discriminator that `spec` names.

    Raises:
        UserError: unknown name or option.
    """
    discriminator: nn.Module = _make(
        "discriminator", DISCRIMINATORS, spec, in_channels=in_channels, patch_size=patch_size
    )
    return discriminator


__all__ = ["DISCRIMINATORS", "GENERATORS", "UNetGenerator", "make_discriminator", "make_generator"]

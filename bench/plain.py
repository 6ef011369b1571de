"""The networks as a plain script would have them: torch's own layers, whatever `vfn.models.nets.cpu` does faster."""

from torch import nn

from vfn.models.nets.cpu import DownConv, UpConv


def plain_layers(network: nn.Module) -> nn.Module:
    """`network`, changed in place; what it computes and how it is stored stays as it is."""
    for layer in network.modules():
        if isinstance(layer, DownConv):
            layer.__class__ = nn.Conv2d
        elif isinstance(layer, UpConv):
            layer.__class__ = nn.ConvTranspose2d
    return network

"""The networks as a plain script would have them: torch's own layers, whatever `vfn.nets.cpu` does faster."""

from torch import nn

from vfn.nets.cpu import Doubling, Halving


def plain_layers(network: nn.Module) -> nn.Module:
    """`network`, changed in place; what it computes and how it is stored stays as it is."""
    for layer in network.modules():
        if isinstance(layer, Halving):
            layer.__class__ = nn.Conv2d
        elif isinstance(layer, Doubling):
            layer.__class__ = nn.ConvTranspose2d
    return network

"""The networks of the translation methods, as their options say."""

from typing import Any

from torch import nn

from img2img.core.referee import regularised
from img2img.errors import choose
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.layers import init_weights


def build_generator(config: Any, in_channels: int, out_channels: int) -> nn.Module:
    network = choose("generator", config.generator, GENERATORS)(
        in_channels,
        out_channels,
        width=config.width,
        norm=config.norm,
        padding=config.padding,
        dropout=config.dropout,
        upsample=config.upsample,
    )
    init_weights(network)
    return network


def build_discriminator(config: Any, in_channels: int) -> nn.Module:
    network = choose("discriminator", config.discriminator, DISCRIMINATORS)(
        in_channels, width=config.d_width, norm=config.norm
    )
    init_weights(network)
    return regularised(network, config.spectral)

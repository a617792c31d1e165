"""The networks of the translation methods, built from their options."""

from typing import Any

from torch import nn

from img2img.core.referee import regularised
from img2img.errors import choose
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.layers import init_weights


def build_generator(config: Any, in_channels: int, out_channels: int) -> nn.Module:
    return init_weights(
        choose("generator", config.generator, GENERATORS)(
            in_channels,
            out_channels,
            width=config.width,
            norm=config.norm,
            padding=config.padding,
            dropout=config.dropout,
            upsample=config.upsample,
        )
    )


def build_discriminator(config: Any, in_channels: int) -> nn.Module:
    network = choose("discriminator", config.discriminator, DISCRIMINATORS)(
        in_channels, width=config.d_width, norm=config.norm
    )
    return regularised(init_weights(network), config.spectral, config.weight_norm, config.d_dropout)


def deepest_unet(size: int) -> str:
    """Return the deepest U-Net up to unet_256 whose multiple divides `size`; resnet_9 where there is none."""
    depth = next((m for m in (256, 128, 64, 32, 16) if size % m == 0), None)
    return f"unet_{depth}" if depth else "resnet_9"


def published_resnet(size: int) -> str:
    """Return the ResNet that CycleGAN (appendix 7.2) chooses for images of `size` pixels."""
    return "resnet_9" if size >= 256 else "resnet_6"

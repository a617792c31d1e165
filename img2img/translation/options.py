"""The options that the translation methods share: each declared once, with the text that explains it everywhere."""

from typing import Annotated, Any

from torch import nn

from img2img.core.referee import regularised
from img2img.errors import choose
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.layers import init_weights

Generator = Annotated[str, f"Generator: auto (by --size), {', '.join(GENERATORS)}."]
Discriminator = Annotated[str, f"Discriminator, by its receptive field in pixels: {', '.join(DISCRIMINATORS)}."]
Width = Annotated[int, "Channels of the generators' first layer."]
DWidth = Annotated[int, "Channels of the discriminators' first layer."]
Norm = Annotated[str, "Norm in all networks: instance, batch or none."]
Padding = Annotated[str, "Border in a ResNet's blocks: reflect (auto), replicate or zero. A U-Net has zero."]
Dropout = Annotated[float, "Share of features dropped in the generator while training."]
Upsample = Annotated[str, "deconv, as published, or resize: resize and convolve, which draws no checkerboard."]
LearningRate = Annotated[float, "Adam's learning rate."]
Beta1 = Annotated[float, "Adam's beta 1."]
Decay = Annotated[float, "Share of the run, at its end, over which the learning rate falls linearly towards zero."]


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

"""Networks by name. To add one, write its file and add one entry here."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from img2img.networks.began import BEGANEncoder, BEGANGenerator
from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.layers import init_weights
from img2img.networks.mlp import MLPDiscriminator, MLPGenerator
from img2img.networks.patchgan import PatchGAN, PixelGAN
from img2img.networks.resnet import ResNet
from img2img.networks.unet import UNet
from img2img.plugins import Table

# The number is the number of residual blocks, or the smallest image side that the U-Net accepts.
GENERATORS: Table[Callable[..., nn.Module]] = Table(
    "generators",
    {
        "resnet_3": partial(ResNet, blocks=3),
        "resnet_6": partial(ResNet, blocks=6),
        "resnet_9": partial(ResNet, blocks=9),
        "unet_16": partial(UNet, depth=4),
        "unet_32": partial(UNet, depth=5),
        "unet_64": partial(UNet, depth=6),
        "unet_128": partial(UNet, depth=7),
        "unet_256": partial(UNet, depth=8),
        "unet_512": partial(UNet, depth=9),
    },
)

# The number is the receptive field in pixels: patch_70 is the papers', patch_286 covers the whole image at 256 px.
DISCRIMINATORS: Table[Callable[..., nn.Module]] = Table(
    "discriminators",
    {
        "pixel": PixelGAN,
        "patch_16": partial(PatchGAN, layers=1),
        "patch_34": partial(PatchGAN, layers=2),
        "patch_70": partial(PatchGAN, layers=3),
        "patch_142": partial(PatchGAN, layers=4),
        "patch_286": partial(PatchGAN, layers=5),
    },
)


class FromNoise(NamedTuple):
    """Builders of a generator `g(latent, channels, size, options)`, and of a discriminator `d(channels, size, options,
    outputs)` with one output or more for each image.
    """

    g: Callable[..., nn.Module]
    d: Callable[..., nn.Module]


FROM_NOISE = Table(
    "networks",
    {
        "mlp": FromNoise(
            lambda latent, channels, size, o: MLPGenerator(latent, channels, size, o.width, o.depth),
            lambda channels, size, o, outputs=1: MLPDiscriminator(channels, size, o.d_width, o.depth, outputs),
        ),
        "dcgan": FromNoise(
            lambda latent, channels, size, o: init_weights(DCGANGenerator(latent, channels, size, o.width, o.norm)),
            lambda channels, size, o, outputs=1: init_weights(
                DCGANDiscriminator(channels, size, o.d_width, o.d_norm, outputs)
            ),
        ),
        "began": FromNoise(
            lambda latent, channels, size, o: BEGANGenerator(latent, channels, size, o.width),
            lambda channels, size, o, outputs=1: BEGANEncoder(channels, size, o.d_width, outputs),
        ),
    },
)

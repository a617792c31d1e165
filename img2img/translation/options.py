"""The options of the translation methods, each with its paper's defaults; imports nothing heavy, so that help is
quick.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.options import BETA, CHANNELS, RATE, WEIGHT, Adversarial, Decay, Objective
from img2img.options.declared import Choice, Within

GENERATORS = Choice(("auto",), "img2img.networks.GENERATORS")
DISCRIMINATORS = Choice(table="img2img.networks.DISCRIMINATORS")

Generator = Annotated[str, f"Generator: auto (by --size), {', '.join(GENERATORS.names[1:])}.", GENERATORS]
Discriminator = Annotated[str, f"Discriminator, by its receptive field in pixels: {DISCRIMINATORS}.", DISCRIMINATORS]
Width = Annotated[int, "Channels of the generators' first layer.", CHANNELS]
DWidth = Annotated[int, "Channels of the discriminators' first layer.", CHANNELS]
Norm = Annotated[str, "Norm in all networks: instance, batch or none.", Choice(("instance", "batch", "none"))]
Padding = Annotated[
    str,
    "Border in a ResNet's blocks: reflect (auto), replicate or zero. A U-Net has zero.",
    Choice(("auto", "reflect", "replicate", "zero")),
]
Dropout = Annotated[float, "Share of features dropped in the generator while training.", Within(0, 1)]
Upsample = Annotated[
    str,
    "deconv, as published, or resize: resize and convolve, which draws no checkerboard.",
    Choice(("deconv", "resize")),
]
LearningRate = Annotated[float, "Adam's learning rate.", RATE]
Beta1 = Annotated[float, "Adam's beta 1.", BETA]


@dataclass(frozen=True)
class CycleGANConfig(Adversarial):
    """CycleGAN's options, with the defaults of section 4 and appendix 7."""

    layout: ClassVar[str] = "unpaired"
    unused: ClassVar[tuple[str, ...]] = ("ab", "direction")  # for pairs

    generator: Generator = "auto"
    discriminator: Discriminator = "patch_70"
    width: Width = 64
    d_width: DWidth = 64
    norm: Norm = "instance"
    padding: Padding = "auto"
    dropout: Dropout = 0.0
    upsample: Upsample = "deconv"
    objective: Objective = "lsgan"
    lambda_cycle: Annotated[float, "Weight of the cycle loss.", WEIGHT] = 10.0
    lambda_identity: Annotated[float, "Weight of the identity loss, as a share of --lambda-cycle.", WEIGHT] = 0.5
    pool: Annotated[int, "Generated images kept to be shown to the discriminators again.", Within(0, 10**6)] = 50
    lr: LearningRate = 2e-4
    beta1: Beta1 = 0.5
    decay: Decay = 0.5


@dataclass(frozen=True)
class Pix2PixConfig(Adversarial):
    """pix2pix's options, with the defaults of section 3.3 and appendix 6."""

    layout: ClassVar[str] = "pairs"

    generator: Generator = "auto"
    discriminator: Discriminator = "patch_70"
    width: Width = 64
    d_width: DWidth = 64
    norm: Norm = "batch"
    padding: Padding = "auto"
    dropout: Dropout = 0.5
    upsample: Upsample = "deconv"
    lambda_l1: Annotated[float, "Weight of the L1 distance to the target.", WEIGHT] = 100.0
    lr: LearningRate = 2e-4
    beta1: Beta1 = 0.5
    decay: Decay = 0.5

"""The options that translation methods share; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.core.options import BETA, CHANNELS, RATE, WEIGHT, Adversarial, Decay
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


LambdaCycle = Annotated[float, "Weight of the cycle loss.", WEIGHT]


@dataclass(frozen=True)
class TranslationConfig(Adversarial):
    """The options of the methods that translate images of A into images of B; each paper has its own defaults."""

    needs: ClassVar[Needs] = Needs(("a", "b"))

    generator: Generator = "auto"
    discriminator: Discriminator = "patch_70"
    width: Width = 64
    d_width: DWidth = 64
    norm: Norm = "instance"
    padding: Padding = "auto"
    dropout: Dropout = 0.0
    upsample: Upsample = "deconv"
    lr: LearningRate = 2e-4
    beta1: Beta1 = 0.5
    decay: Decay = 0.5

"""The options that translation methods share; imports nothing heavy, to keep help fast."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.core.options import BETA, CHANNELS, RATE, WEIGHT, Adversarial, Decay
from img2img.options.declared import Choice, Within

GENERATORS = Choice(("auto",), "img2img.networks.GENERATORS")
DISCRIMINATORS = Choice(table="img2img.networks.DISCRIMINATORS")

Generator = Annotated[str, f"Generator: auto (chosen by --size), {', '.join(GENERATORS.names[1:])}.", GENERATORS]
Discriminator = Annotated[
    str, f"Discriminator, named by its receptive field in pixels: {DISCRIMINATORS}.", DISCRIMINATORS
]
Width = Annotated[int, "Channels of the generators' first layer.", CHANNELS]
DWidth = Annotated[int, "Channels of the discriminators' first layer.", CHANNELS]
Norm = Annotated[str, "Normalization in all networks: instance, batch or none.", Choice(("instance", "batch", "none"))]
Padding = Annotated[
    str,
    "Padding in a ResNet's blocks: reflect (auto), replicate or zero. A U-Net always pads with zeros.",
    Choice(("auto", "reflect", "replicate", "zero")),
]
Dropout = Annotated[float, "Dropout rate in the generator during training.", Within(0, 1)]
Upsample = Annotated[
    str,
    "deconv, as published, or resize: resize and convolve, which avoids checkerboard artifacts.",
    Choice(("deconv", "resize")),
]
LearningRate = Annotated[float, "Adam's learning rate.", RATE]
Beta1 = Annotated[float, "Adam's beta 1.", BETA]


LambdaCycle = Annotated[float, "Weight of the cycle loss.", WEIGHT]


@dataclass(frozen=True)
class TranslationConfig(Adversarial):
    """The options of methods that translate between two domains, A and B; each paper sets its own defaults."""

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

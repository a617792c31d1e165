"""The options that translation methods share; imports nothing heavy, to keep help fast."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.core.options import BETA, CHANNELS, RATE, WEIGHT, Adversarial, Decay
from img2img.options.declared import Choice, Within

GENERATORS = Choice(("auto",), "img2img.networks.GENERATORS", group="generators")
DISCRIMINATORS = Choice(table="img2img.networks.DISCRIMINATORS", group="discriminators")

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


PERCEPTUAL = Choice(table="img2img.translation.features.DISTANCES")
LambdaCycle = Annotated[float, "Weight of the cycle loss.", WEIGHT]
DISTANCES = Choice(table="img2img.translation.two_domains.DISTANCES")
Distance = Annotated[str, "Distance in the cycle and identity losses: l1 (absolute) or l2 (squared).", DISTANCES]


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

    def idle(self) -> Iterator[tuple[str, str]]:
        from img2img.translation.build import ignored

        yield from super().idle()
        yield from ignored(self)


@dataclass(frozen=True)
class ComparingConfig(TranslationConfig):
    """The options of methods that compare two images, and may do so by their features as well."""

    lambda_feature: Annotated[
        float, "Weight of feature matching in the discriminators (Wang et al. 2018, Salimans et al. 2016).", WEIGHT
    ] = 0.0
    lambda_perceptual: Annotated[
        float, "Weight of a distance in the features of a classifier (Johnson et al. 2016).", WEIGHT
    ] = 0.0
    perceptual: Annotated[
        str, "That distance: vgg16 (squared, at relu3_3) or lpips (with VGG16; Zhang et al. 2018).", PERCEPTUAL
    ] = "vgg16"
    perceptual_weights: Annotated[
        str | None, "File of torchvision's VGG16 weights; by default the one in torch's cache."
    ] = None

    def idle(self) -> Iterator[tuple[str, str]]:
        yield from super().idle()
        if not self.lambda_perceptual:
            yield from ((name, "runs with --lambda-perceptual") for name in ("perceptual", "perceptual_weights"))


@dataclass(frozen=True)
class TwoDomainsConfig(ComparingConfig):
    """The options of methods that translate both ways and compare what goes there and back."""

    lambda_cycle: LambdaCycle = 10.0
    distance: Distance = "l1"

"""What a method, a network or an objective outside this package is written with: the names that plug-ins may rely on.

`docs/extending.md` explains them with an example, and says what a new version may change.
"""

from img2img.core.method import (
    CLASS,
    Batch,
    Image,
    Label,
    Method,
    Noise,
    Scalars,
    Use,
    Vector,
    adam,
)
from img2img.core.needs import Facts, Needs
from img2img.core.objectives import Objective
from img2img.core.options import Adversarial, Objective as ObjectiveName
from img2img.core.referee import Referee, learning_rates, measured
from img2img.networks import FromNoise
from img2img.networks.layers import init_weights
from img2img.options.declared import Choice, Options, Within
from img2img.translation.build import (
    build_discriminator,
    build_generator,
    deepest_unet,
    published_resnet,
)
from img2img.translation.options import TranslationConfig

__all__ = [
    "CLASS",
    "Adversarial",
    "Batch",
    "Choice",
    "Facts",
    "FromNoise",
    "Image",
    "Label",
    "Method",
    "Needs",
    "Noise",
    "Objective",
    "ObjectiveName",
    "Options",
    "Referee",
    "Scalars",
    "TranslationConfig",
    "Use",
    "Vector",
    "Within",
    "adam",
    "build_discriminator",
    "build_generator",
    "deepest_unet",
    "init_weights",
    "learning_rates",
    "measured",
    "published_resnet",
]

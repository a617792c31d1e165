"""The options of the adversarial game and of the methods that draw from noise; imports nothing heavy, so that help is
quick.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.options.declared import Choice, Options, Within

OBJECTIVES = Choice(table="img2img.core.objectives.OBJECTIVES")
PENALTIES = Choice(table="img2img.core.penalties.PENALTIES")
TRANSFORMS = Choice(("none",), "img2img.core.diffaugment.TRANSFORMS", complete=False)  # some of them, with commas
NETWORKS = Choice(("mlp", "dcgan"))
NOISES = Choice(table="img2img.core.noise.NOISES")

RATE = Within(0, 1000)
WEIGHT = Within(0, 10**9)  # of a term of a loss
CHANNELS = Within(1, 2**14)
BETA = Within(0, 1, below=True)

Objective = Annotated[str, f"Adversarial objective: {OBJECTIVES}.", OBJECTIVES]
Penalty = Annotated[
    str,
    f"Penalty on the discriminator's slope: auto (gp where the objective needs one), none, {PENALTIES}.",
    Choice(("auto", "none"), PENALTIES.table),
]
LambdaGP = Annotated[float, "Weight of the penalty.", WEIGHT]
Spectral = Annotated[bool, "Spectral norm in the discriminators (Miyato et al. 2018)."]


@dataclass(frozen=True)
class Adversarial(Options):
    """The options of the adversarial game, the same for every method. The tricks are off unless a paper uses them."""

    layout: ClassVar[str]  # what the method learns from: see `Method`

    objective: Objective = "nonsaturating"
    penalty: Penalty = "auto"
    lambda_gp: LambdaGP = 10.0
    spectral: Spectral = False
    smooth: Annotated[
        float, "One-sided label smoothing: 1 minus what D aims at for real images; 0: none.", Within(0, 1, below=True)
    ] = 0.0
    instance_noise: Annotated[
        float,
        "Standard deviation of noise on real and generated images, falling to 0 over the run; 0: none.",
        Within(0, 1000),
    ] = 0.0
    diffaugment: Annotated[
        str,
        f"Transforms of all that D sees, for small data: none, or some of {','.join(TRANSFORMS.names[1:])}.",
        TRANSFORMS,
    ] = "none"
    d_lr: Annotated[float, "The discriminators' learning rate.", Within(0, 1000, special=(0, "that of --lr"))] = 0.0

    def idle(self) -> Iterator[tuple[str, str]]:
        from img2img.core.objectives import OBJECTIVES

        if self.penalty == "none" or (self.penalty == "auto" and not OBJECTIVES[self.objective].penalised):
            yield "lambda_gp", "runs with a --penalty"


ImageSize = Annotated[int, "Side of the generated images in pixels.", Within(1, 2**16, special=(0, "that of --size"))]
Network = Annotated[str, f"Networks: {NETWORKS}.", NETWORKS]
Latent = Annotated[int, "Length of the noise.", Within(1, 2**16)]
Noise = Annotated[str, f"Distribution of the noise: {NOISES}.", NOISES]
Width = Annotated[int, "Generator: channels of dcgan's last map, or units of mlp's hidden layers.", CHANNELS]
DWidth = Annotated[int, "Discriminator: channels of dcgan's first map, or units of mlp's hidden layers.", CHANNELS]
Depth = Annotated[int, "Hidden layers of mlp's networks.", Within(1, 100)]
Norm = Annotated[str, "Norm in dcgan's generator: batch or none.", Choice(("batch", "none"))]
DNorm = Annotated[str, "Norm in dcgan's discriminator: batch, instance or none.", Choice(("batch", "instance", "none"))]
NCritic = Annotated[int, "Moves of the discriminator per move of the generator.", Within(1, 10**4)]
LearningRate = Annotated[float, "Learning rate.", RATE]
Beta1 = Annotated[float, "Adam's beta 1.", BETA]
Beta2 = Annotated[float, "Adam's beta 2.", BETA]
Decay = Annotated[
    float, "Share of the run, at its end, over which the learning rate falls linearly towards zero.", Within(0, 1)
]


@dataclass(frozen=True)
class UnconditionalConfig(Adversarial):
    """The options of the unconditional methods; each paper has its own defaults."""

    layout: ClassVar[str] = "images"
    # the size is that of the data; and no images are held out to be scored
    unused: ClassVar[tuple[str, ...]] = ("image_size", "metrics", "select", "patience", "validate_every")

    image_size: ImageSize = 0
    network: Network = "dcgan"
    latent: Latent = 100
    noise: Noise = "normal"
    width: Width = 64
    d_width: DWidth = 64
    depth: Depth = 2
    norm: Norm = "batch"
    d_norm: DNorm = "batch"
    n_critic: NCritic = 1
    lr: LearningRate = 2e-4
    beta1: Beta1 = 0.5
    beta2: Beta2 = 0.999
    decay: Decay = 0.0

    def idle(self) -> Iterator[tuple[str, str]]:
        yield from super().idle()
        if self.network == "mlp":
            yield from (("norm", "--network dcgan"), ("d_norm", "--network dcgan"))
        else:
            yield "depth", "--network mlp"


@dataclass(frozen=True)
class GANConfig(UnconditionalConfig):
    """The options of the first GAN."""

    network: Network = "mlp"
    noise: Noise = "uniform"
    width: Width = 1200
    d_width: DWidth = 1200


@dataclass(frozen=True)
class DCGANConfig(UnconditionalConfig):
    """DCGAN's options, with the defaults of section 4 and half its width."""

    noise: Noise = "uniform"


WARM_STEPS, WARM_MOVES, AGAIN = 25, 100, 500  # of the WGAN authors' code


@dataclass(frozen=True)
class WGANConfig(UnconditionalConfig):
    """WGAN's options, with the defaults of Algorithm 1; RMSprop has no betas."""

    unused: ClassVar[tuple[str, ...]] = (*UnconditionalConfig.unused, "beta1", "beta2")

    objective: Objective = "wasserstein"
    penalty: Penalty = "none"
    weight_clip: Annotated[
        float, "The critic's weights are cut to plus or minus this.", Within(0, 10**6, above=True)
    ] = 0.01
    warm_up: Annotated[
        bool, f"As in the authors' code, {WARM_MOVES} critic moves in the first {WARM_STEPS} steps and every {AGAIN}th."
    ] = False
    n_critic: NCritic = 5
    lr: LearningRate = 5e-5


@dataclass(frozen=True)
class WGANGPConfig(UnconditionalConfig):
    """WGAN-GP's options, with the defaults of Algorithm 1; the penalty is the objective's."""

    objective: Objective = "wasserstein"
    d_norm: DNorm = "none"
    n_critic: NCritic = 5
    lr: LearningRate = 1e-4
    beta1: Beta1 = 0.0
    beta2: Beta2 = 0.9

"""The options of the adversarial game and of methods that generate from noise; imports nothing heavy, for fast help."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.options.declared import Choice, Options, Within

OBJECTIVES = Choice(table="img2img.core.objectives.OBJECTIVES", group="objectives")
PENALTIES = Choice(table="img2img.core.penalties.PENALTIES")
TRANSFORMS = Choice(("none",), "img2img.core.diffaugment.TRANSFORMS", complete=False)  # several, comma-separated
NETWORKS = Choice(table="img2img.networks.FROM_NOISE", group="networks")
NOISES = Choice(table="img2img.core.method.NOISES")

RATE = Within(0, 1000)
WEIGHT = Within(0, 10**9)  # of a term of a loss
CHANNELS = Within(1, 2**14)
BETA = Within(0, 1, below=True)

Objective = Annotated[str, f"Adversarial objective: {OBJECTIVES}.", OBJECTIVES]
Penalty = Annotated[
    str,
    f"Penalty on the discriminator's gradient: auto (gp if the objective needs one), none, {PENALTIES}.",
    Choice(("auto", "none"), PENALTIES.table),
]
LambdaGP = Annotated[float, "Weight of the penalty.", WEIGHT]
Spectral = Annotated[bool, "Spectral normalization in the discriminators (Miyato et al. 2018)."]
WeightNorm = Annotated[bool, "Weight normalization in the discriminators (Salimans and Kingma 2016)."]
DDropout = Annotated[
    float, "Dropout rate after each activation of the discriminators; 0 disables it.", Within(0, 1, below=True)
]
DLearningRate = Annotated[float, "Learning rate of the discriminators.", Within(0, 1000, special=(0, "that of --lr"))]


@dataclass(frozen=True)
class Adversarial(Options):
    """The options of the adversarial game, shared by all methods. The tricks are off unless a paper uses them."""

    needs: ClassVar[Needs]  # what a training batch holds

    objective: Objective = "nonsaturating"
    penalty: Penalty = "auto"
    lambda_gp: LambdaGP = 10.0
    spectral: Spectral = False
    weight_norm: WeightNorm = False
    d_dropout: DDropout = 0.0
    smooth: Annotated[
        float,
        "One-sided label smoothing: D aims at 1 minus this for real images; 0 disables it.",
        Within(0, 1, below=True),
    ] = 0.0
    instance_noise: Annotated[
        float,
        "Standard deviation of noise added to real and generated images, decaying to 0 over the run; 0 disables it.",
        Within(0, 1000),
    ] = 0.0
    diffaugment: Annotated[
        str,
        f"Augmentations of everything D sees, for small data sets: none, or any of {','.join(TRANSFORMS.names[1:])}.",
        TRANSFORMS,
    ] = "none"
    d_lr: DLearningRate = 0.0

    def idle(self) -> Iterator[tuple[str, str]]:
        from img2img.core.objectives import OBJECTIVES

        if self.penalty == "none" or (self.penalty == "auto" and not OBJECTIVES[self.objective].penalised):
            yield "lambda_gp", "runs with a --penalty"


Network = Annotated[str, f"Networks: {NETWORKS}.", NETWORKS]
Latent = Annotated[int, "Length of the noise vector.", Within(1, 2**16)]
Noise = Annotated[str, f"Distribution of the noise: {NOISES}.", NOISES]
Width = Annotated[
    int, "Generator: channels of the last feature map (dcgan, began), or units per hidden layer (mlp).", CHANNELS
]
DWidth = Annotated[
    int, "Discriminator: channels of the first feature map (dcgan, began), or units per hidden layer (mlp).", CHANNELS
]
Depth = Annotated[int, "Number of hidden layers of the mlp networks.", Within(1, 100)]
Norm = Annotated[str, "Normalization in dcgan's generator: batch or none.", Choice(("batch", "none"))]
DNorm = Annotated[
    str, "Normalization in dcgan's discriminator: batch, instance or none.", Choice(("batch", "instance", "none"))
]
NCritic = Annotated[int, "Discriminator steps per generator step.", Within(1, 10**4)]
LearningRate = Annotated[float, "Learning rate.", RATE]
Beta1 = Annotated[float, "Adam's beta 1.", BETA]
Beta2 = Annotated[float, "Adam's beta 2.", BETA]
Pack = Annotated[
    int,
    "Images that the discriminator judges together, all real or all generated (Lin et al. 2018); 1 is the plain game.",
    Within(1, 64),
]
Clamp = Annotated[
    float, "Weight of Jacobian clamping in the generator's loss (Odena et al. 2018); 0 disables it.", WEIGHT
]
ClampLow = Annotated[float, "Least length of the generator's answer to a step of noise of length 1.", WEIGHT]
ClampHigh = Annotated[float, "Greatest length of the generator's answer to a step of noise of length 1.", WEIGHT]
Decay = Annotated[
    float, "Final fraction of the run over which the learning rate decays linearly to zero.", Within(0, 1)
]


@dataclass(frozen=True)
class NetworksConfig(Adversarial):
    """The options of networks between noise and images, and of their training; each paper sets its own defaults."""

    needs: ClassVar[Needs] = Needs()

    network: Network = "dcgan"
    latent: Latent = 100
    noise: Noise = "normal"
    width: Width = 64
    d_width: DWidth = 64
    depth: Depth = 2
    norm: Norm = "batch"
    d_norm: DNorm = "batch"
    lr: LearningRate = 2e-4
    beta1: Beta1 = 0.5
    beta2: Beta2 = 0.999
    decay: Decay = 0.0

    def idle(self) -> Iterator[tuple[str, str]]:
        yield from super().idle()
        if self.network != "dcgan":
            yield from (("norm", "--network dcgan"), ("d_norm", "--network dcgan"))
        if self.network != "mlp":
            yield "depth", "--network mlp"


@dataclass(frozen=True)
class GameConfig(NetworksConfig):
    """The options of a game of one generator against one discriminator."""

    n_critic: NCritic = 1
    clamp: Clamp = 0.0
    clamp_low: ClampLow = 1.0
    clamp_high: ClampHigh = 20.0

    def idle(self) -> Iterator[tuple[str, str]]:
        yield from super().idle()
        if not self.clamp:
            yield from (("clamp_low", "runs with a --clamp"), ("clamp_high", "runs with a --clamp"))


@dataclass(frozen=True)
class NoiseConfig(GameConfig):
    """The options of a game whose discriminator can judge several images as one."""

    pack: Pack = 1


ResidualWidth = Annotated[int, "Generator: channels of the last feature map.", CHANNELS]
ResidualDWidth = Annotated[int, "Discriminator: channels of the first feature map.", CHANNELS]
Attention = Annotated[
    int,
    "Attention is on the largest map of at most this side in pixels, and at most half that of the image.",
    Within(8, 256, special=(0, "none")),
]


@dataclass(frozen=True)
class ResidualConfig(GameConfig):
    """The options of residual networks under a class, with the defaults of SAGAN."""

    needs: ClassVar[Needs] = Needs(labels=True)
    unused: ClassVar[tuple[str, ...]] = ("network", "depth", "norm", "d_norm", "weight_norm")

    objective: Objective = "hinge"
    spectral: Annotated[bool, "Spectral normalization in both networks (Miyato et al. 2018)."] = True
    width: ResidualWidth = 64
    d_width: ResidualDWidth = 64
    attention: Attention = 32
    d_norm: DNorm = "none"
    lr: LearningRate = 1e-4
    d_lr: DLearningRate = 4e-4
    beta1: Beta1 = 0.0
    beta2: Beta2 = 0.9

"""The options of the adversarial game and of the methods that draw from noise; imports nothing heavy, so that help is
quick.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from img2img.core.needs import Needs
from img2img.options.declared import Choice, Options, Within

OBJECTIVES = Choice(table="img2img.core.objectives.OBJECTIVES")
PENALTIES = Choice(table="img2img.core.penalties.PENALTIES")
TRANSFORMS = Choice(("none",), "img2img.core.diffaugment.TRANSFORMS", complete=False)  # some of them, with commas
NETWORKS = Choice(table="img2img.networks.FROM_NOISE")
NOISES = Choice(table="img2img.core.method.NOISES")

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

    needs: ClassVar[Needs]  # what a training batch holds

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
class NoiseConfig(Adversarial):
    """The options of the methods that draw images from noise; each paper has its own defaults."""

    needs: ClassVar[Needs] = Needs()

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

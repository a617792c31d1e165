"""The models of the equalizer: what each consists of, and how its network is trained by default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from img2img.core.needs import Facts
from img2img.errors import choose
from img2img.methods import CONFIGS, METHODS
from img2img.options.declared import Option, Within, option, options_in
from img2img.training.config import TrainConfig

if TYPE_CHECKING:
    from img2img.core.method import Method

# A CPU does these in minutes. `patch` is the side of the training patches in pixels. A training batch holds at least
# one patch of each batch, so where there are many, `batch_size` is their number.
COMMON: dict[str, Any] = {
    "workers": 0,
    "precision": "fp32",
    "compile": "off",
    "log_every": 20,
    "sample_every": 500,
    "save_every": 500,
}
FROM_DATA = {"reference", "seed", "device", "epochs"}  # known from the data, or arguments of the equalizer
UNUSED = {"metrics", "select", "patience", "validate_every"}  # no patches are held out
PATCH = Annotated[int, "Side of the training patches in pixels.", Within(1, 2**14)]


@dataclass(frozen=True)
class Network:
    """An adversarial network that equalizes.

    Attributes:
        name: its name in saved equalizers, and that of the method that trains it.
        condition: the batch that the generator is conditioned on: that of the image ("source"), towards one target
            fixed in training, or any target ("target"). None for a plain translation between two batches.
        defaults: options of its training.
    """

    name: str
    condition: Literal["source", "target"] | None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> "type[Method]":
        """The method that trains it."""
        return METHODS[self.name]

    @property
    def is_translation(self) -> bool:
        """Tell whether it is trained on two domains, `a` towards `b`, instead of on images labelled by batch."""
        return self.condition is None

    def options(self) -> dict[str, Option]:
        """Return the options of its training, by name."""
        known = {"patch": option("patch", PATCH), **options_in(CONFIGS[self.name]), **options_in(TrainConfig)}
        return {name: one for name, one in known.items() if name not in FROM_DATA | UNUSED}

    def with_defaults(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the defaults with `options` in their place, checked; a `batch_size` of 0 keeps the default."""
        known, chosen = self.options(), {**COMMON, **self.defaults}
        for name, value in (options or {}).items():
            checked = choose(f"option of {self.name}", name, known).convert(value)
            if (name, checked) != ("batch_size", 0):
                chosen[name] = checked
        return chosen

    def config(self, options: Mapping[str, Any], target: str) -> Any:
        """Return the method's config, for moving to the batch called `target`."""
        return self.method.Config(**chosen_for(self.method.Config, {"reference": target, **options}))

    def facts(self, channels: int, names: Sequence[str], patch: int = 0) -> Facts:
        """Return what the data of the batches `names` say: the batches are the classes."""
        domains = ("a", "b") if self.is_translation else ("image",)
        return Facts(patch, dict.fromkeys(domains, channels), tuple(names))


def chosen_for(group: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that are fields of a dataclass."""
    return {f.name: options[f.name] for f in fields(group) if f.name in options}


LOCAL = Network("local", "source", {"steps": 800, "batch_size": 12, "patch": 48, "ema": 0.99})
STARGAN = Network(
    "stargan",
    "target",
    {"steps": 200, "batch_size": 8, "patch": 64, "ema": 0.99}
    | {"width": 16, "blocks": 3, "d_width": 16, "d_layers": 4},
)
CYCLEGAN = Network(
    "cyclegan",
    None,
    {"steps": 600, "batch_size": 4, "patch": 64, "ema": 0.99}
    | {"generator": "resnet_3", "width": 16, "norm": "none", "upsample": "resize"}
    | {"discriminator": "patch_34", "d_width": 16},
)


class Model(NamedTuple):
    """The steps of a model: it may even out the illumination, applies curves or moves stains, and may end in a network.

    A network that `starts_at_tone` is given the result of the curves; others are given the images as they are.
    """

    with_field: bool = False
    with_stains: bool = False
    network: Network | None = None
    starts_at_tone: bool = True


MODELS: dict[str, Model] = {
    "tone": Model(),
    "tone+field": Model(with_field=True),
    "stain": Model(with_stains=True),
    "local": Model(network=LOCAL),
    "local+field": Model(with_field=True, network=LOCAL),
    "stargan": Model(network=STARGAN, starts_at_tone=False),
    "cyclegan": Model(network=CYCLEGAN, starts_at_tone=False),
}
NETWORKS: dict[str, Network] = {model.network.name: model.network for model in MODELS.values() if model.network}


def network(name: str) -> Network:
    """Return a network by its name.

    Raises:
        ConfigError: if there is none; with the nearest name.
    """
    return choose("adversarial model", name, NETWORKS)

"""Methods by name. To add one: its file, and one entry here; or a package of its own (docs/extending.md)."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from img2img.options.outline import declared
from img2img.plugins import Table

if TYPE_CHECKING:
    from img2img.core.method import Method

# Name -> module and class; the class's options are the dataclass of its name with "Config" behind it.
PLACES = Table(
    "methods",
    {
        "cyclegan": ("img2img.translation.cyclegan", "CycleGAN"),
        "pix2pix": ("img2img.translation.pix2pix", "Pix2Pix"),
        "discogan": ("img2img.translation.discogan", "DiscoGAN"),
        "dualgan": ("img2img.translation.dualgan", "DualGAN"),
        "cut": ("img2img.translation.cut", "CUT"),
        "fastcut": ("img2img.translation.cut", "FastCUT"),
        "bicyclegan": ("img2img.translation.bicyclegan", "BicycleGAN"),
        "icgan": ("img2img.translation.icgan", "IcGAN"),
        "stargan": ("img2img.translation.stargan", "StarGAN"),
        "local": ("img2img.translation.local", "Local"),
        "gan": ("img2img.core.gan", "GAN"),
        "dcgan": ("img2img.core.dcgan", "DCGAN"),
        "wgan": ("img2img.core.wgan", "WGAN"),
        "wgan_gp": ("img2img.core.wgan_gp", "WGANGP"),
        "cgan": ("img2img.zoo.cgan", "CGAN"),
        "ebgan": ("img2img.zoo.ebgan", "EBGAN"),
        "began": ("img2img.zoo.began", "BEGAN"),
        "unrolled": ("img2img.zoo.unrolled", "Unrolled"),
        "lapgan": ("img2img.zoo.lapgan", "LAPGAN"),
        "progan": ("img2img.zoo.progan", "ProGAN"),
        "acgan": ("img2img.zoo.acgan", "ACGAN"),
        "infogan": ("img2img.zoo.infogan", "InfoGAN"),
        "semigan": ("img2img.zoo.semigan", "SemiGAN"),
        "sagan": ("img2img.zoo.sagan", "SAGAN"),
        "biggan": ("img2img.zoo.biggan", "BigGAN"),
        "stackgan": ("img2img.zoo.stackgan", "StackGAN"),
    },
    read=lambda entry: (entry.module, entry.attr),
)


class _Lazy(Mapping[str, Any]):
    """A table over `PLACES` whose values are found when asked for, by module and class."""

    def __init__(self, find: Callable[[str, str], Any]) -> None:
        self.find = find

    def __getitem__(self, name: str) -> Any:
        with PLACES.guarded(name):
            return self.find(*PLACES[name])

    def __contains__(self, name: object) -> bool:
        return name in PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


def _class(module: str, title: str) -> Any:
    from img2img.core.method import Method

    found = getattr(import_module(module), title)
    if not (isinstance(found, type) and issubclass(found, Method) and hasattr(found, "Config")):
        raise TypeError(f"{module}:{title} is not a class derived from Method, with its Config")
    return found


# The classes, of which importing one takes seconds; and the dataclasses of their options, read without the networks.
METHODS: Mapping[str, "type[Method]"] = _Lazy(_class)
CONFIGS: Mapping[str, Any] = _Lazy(lambda module, title: declared(module, f"{title}Config"))

"""Methods by name. To add one: its file, and one entry here."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from img2img.options.outline import declared

if TYPE_CHECKING:
    from img2img.core.method import Method

# Name -> module and class; the class's options are the dataclass of its name with "Config" behind it.
PLACES = {
    "cyclegan": ("img2img.translation.cyclegan", "CycleGAN"),
    "pix2pix": ("img2img.translation.pix2pix", "Pix2Pix"),
    "discogan": ("img2img.translation.discogan", "DiscoGAN"),
    "stargan": ("img2img.translation.stargan", "StarGAN"),
    "local": ("img2img.translation.local", "Local"),
    "gan": ("img2img.core.gan", "GAN"),
    "dcgan": ("img2img.core.dcgan", "DCGAN"),
    "wgan": ("img2img.core.wgan", "WGAN"),
    "wgan_gp": ("img2img.core.wgan_gp", "WGANGP"),
    "cgan": ("img2img.zoo.cgan", "CGAN"),
}


class _Lazy(Mapping[str, Any]):
    """A table over `PLACES` whose values are looked up when asked for."""

    def __contains__(self, name: object) -> bool:
        return name in PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


class _Methods(_Lazy):
    """The classes; importing one takes seconds."""

    def __getitem__(self, name: str) -> "type[Method]":
        module, title = PLACES[name]
        found: Any = getattr(import_module(module), title)
        return found  # type: ignore[no-any-return]


class _Configs(_Lazy):
    """The dataclasses of their options, read without importing the networks."""

    def __getitem__(self, name: str) -> Any:
        module, title = PLACES[name]
        return declared(module, f"{title}Config")


METHODS: Mapping[str, "type[Method]"] = _Methods()
CONFIGS: Mapping[str, Any] = _Configs()

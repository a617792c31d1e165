"""Methods by name. To add one: its file, its options, and one entry in each table here."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from img2img.core.options import Adversarial, DCGANConfig, GANConfig, WGANConfig, WGANGPConfig
from img2img.translation.options import CycleGANConfig, Pix2PixConfig

if TYPE_CHECKING:
    from img2img.core.method import Method

PLACES = {
    "cyclegan": ("img2img.translation.cyclegan", "CycleGAN"),
    "pix2pix": ("img2img.translation.pix2pix", "Pix2Pix"),
    "gan": ("img2img.core.gan", "GAN"),
    "dcgan": ("img2img.core.dcgan", "DCGAN"),
    "wgan": ("img2img.core.wgan", "WGAN"),
    "wgan_gp": ("img2img.core.wgan_gp", "WGANGP"),
}
CONFIGS: dict[str, type[Adversarial]] = {
    "cyclegan": CycleGANConfig,
    "pix2pix": Pix2PixConfig,
    "gan": GANConfig,
    "dcgan": DCGANConfig,
    "wgan": WGANConfig,
    "wgan_gp": WGANGPConfig,
}


class _Methods(Mapping[str, "type[Method]"]):
    """The classes, each imported when it is asked for, as that takes seconds."""

    def __getitem__(self, name: str) -> "type[Method]":
        module, title = PLACES[name]
        found: Any = getattr(import_module(module), title)
        return found  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


METHODS = _Methods()

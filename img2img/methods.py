"""Methods by name. To add one: its file, and one entry here."""

from img2img.core.dcgan import DCGAN
from img2img.core.game import Method
from img2img.core.gan import GAN
from img2img.core.wgan import WGAN
from img2img.core.wgan_gp import WGANGP
from img2img.translation.cyclegan import CycleGAN
from img2img.translation.pix2pix import Pix2Pix

METHODS: dict[str, type[Method]] = {
    "cyclegan": CycleGAN,
    "pix2pix": Pix2Pix,
    "gan": GAN,
    "dcgan": DCGAN,
    "wgan": WGAN,
    "wgan_gp": WGANGP,
}

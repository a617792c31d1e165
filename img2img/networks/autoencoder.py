"""A discriminator that codes an image and draws it again from the code."""

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """A discriminator from images (N, C, H, W) to reconstructions of the same shape and codes (N, length).

    Args:
        encoder: maps images to codes.
        decoder: maps codes to images.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code: Tensor = self.encoder(x)
        return self.decoder(code), code

"""The history of generated images of Shrivastava et al. 2017 (section 2.3), as CycleGAN uses it."""

from typing import Any

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """A pool that shows the discriminator old fakes among new ones, so that it does not forget them.

    While the pool fills, each image is stored and passed on. Once it is full, each image is swapped for a stored one
    with probability 1/2. It is a module, so that its images are in the state dict and a resumed run has the same past.

    Args:
        size: number of images kept; 0 passes everything on.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return as many images (N, C, H, W) as are given, new or old, without gradient."""
        images = images.detach()
        if self.size == 0:
            return images
        shown = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                shown.append(image)
            elif torch.rand(()) < 0.5:
                i = int(torch.randint(self.size, ()))
                shown.append(self.images[i])
                self.images[i] = image.clone()
            else:
                shown.append(image)
        return torch.stack(shown)

    def get_extra_state(self) -> Any:
        return torch.stack(self.images) if self.images else torch.empty(0)

    def set_extra_state(self, state: Any) -> None:
        device = next((image.device for image in self.images), state.device)
        self.images = [image.clone() for image in state.to(device)[: self.size]]

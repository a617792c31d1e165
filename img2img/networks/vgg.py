"""The features of VGG16 (Simonyan and Zisserman 2015), a classifier of ImageNet, from weights on this machine."""

from pathlib import Path

import torch
from torch import Tensor, nn

from img2img.networks.layers import maps_at
from img2img.runtime.weights import find_weights, misfit, read_weights

RELUS = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29}  # the last of each resolution


class VGG16(nn.Module):
    """Images (N, 3 or 1, H, W) in [-1, 1] to the maps of `RELUS` up to `last`, by name. Frozen.

    Height and width are halved before each resolution but the first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, last: str = "relu5_3") -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        self.names = list(RELUS)[: list(RELUS).index(last) + 1]
        self.layers = make_layers(cfgs["D"])[: RELUS[last] + 1]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = ((x + 1) / 2 - self.mean) / self.std  # one channel becomes three equal ones
        return dict(zip(self.names, maps_at(self.layers, x, [RELUS[name] for name in self.names]), strict=True))


def open_vgg16(file: str | None, option: str, last: str = "relu5_3") -> VGG16:
    """Open VGG16 with torchvision's weights, from `file` or torch's cache.

    Raises:
        ModelFileError: if they are not on this machine, or belong to another network.
    """
    from torchvision.models import VGG16_Weights

    path = find_weights("VGG16", file, VGG16_Weights.DEFAULT.url, option)
    weights, network = read_weights(path), VGG16(last)
    try:
        network.layers.load_state_dict({name: weights[f"features.{name}"] for name in network.layers.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise misfit(path, "torchvision's vgg16") from error
    return network


def open_lpips_weights() -> list[Tensor]:
    """Return the weights (1, C, 1, 1) that LPIPS 0.1 gives the channels of each map, from the package lpips."""
    import lpips

    state = read_weights(Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth")
    return [state[f"lin{k}.model.1.weight"] for k in range(len(RELUS))]

"""A small network of features for data outside the domain of ImageNet, fitted to the real images; any channels.

Convolutions with fixed random filters, as Naeem et al. 2020 recommend for such images. The features
are the mean and the deviation of each channel of each layer, which hold textures, and the means of the last layer in
the four quarters of the image, which hold its layout. All are standardised over the real images, so values compare
models on one data set and have no meaning beyond it.

An autoencoder of this kind, trained on the real images for up to a minute, was less sensitive: on photographs and
microscopy it took stronger noise and blur to tell degraded images from clean ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.metrics.drift import Moments
from img2img.metrics.network import ENCODER, Network
from img2img.metrics.resampling import own_randomness

WIDTHS = (16, 32, 32, 32, 32)
LARGEST = 256  # px; larger images are downscaled to this
SLOPE = 0.2
NOTE = "the features are fitted to these real images, so values have no absolute meaning: compare within one table"


class Encoder(nn.Module):
    """Stride-2 convolutions of images whose channels have the given mean and deviation, (C,) each."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        widths = (len(mean), *WIDTHS)
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False) for i in range(len(WIDTHS))
        )
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.get_parameter("weight"), SLOPE)
        self.register_buffer("mean", mean.float().reshape(1, -1, 1, 1))
        self.register_buffer("std", std.float().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, D)."""
        x = (_downscaled(x) - self.mean) / self.std
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features += [x.mean((2, 3)), x.std((2, 3), correction=0)]
        return torch.cat([*features, F.adaptive_avg_pool2d(x, 2).flatten(1)], 1)


def open_encoder(real: Moments, device: torch.device) -> Network:
    """Build the encoder for images of these moments; its features are not standardised yet."""
    mean, std = real.mean_and_std()
    with own_randomness():
        network = Encoder(2 * mean - 1, (2 * std).clamp_min(1e-4))
    network.requires_grad_(False).eval().to(device)
    return Network(f"[{ENCODER}]", lambda x: (network(x), None), note=NOTE)


def standardised(network: Network, real: Tensor) -> tuple[Network, Tensor]:
    """Return the network with features of mean 0 and deviation 1 over `real` (N, D), and `real` so standardised."""
    mean, std = real.double().mean(0), real.double().std(0, correction=0)
    # A feature that hardly varies over the real images must not outweigh all others when it varies elsewhere.
    std = std.clamp_min(max(1e-3 * float(std.max()), 1e-6))

    def extract(images: Tensor) -> tuple[Tensor, None]:
        return ((network.extract(images)[0].cpu().double() - mean) / std).float(), None

    return network._replace(extract=extract), ((real.double() - mean) / std).float()


def _downscaled(x: Tensor) -> Tensor:
    """Downscale images to at most `LARGEST`, bilinear with antialiasing; smaller ones are unchanged."""
    factor = LARGEST / max(x.shape[-2:])
    if factor >= 1:
        return x
    height, width = (max(1, round(side * factor)) for side in x.shape[-2:])
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)

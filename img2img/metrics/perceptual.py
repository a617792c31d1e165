"""LPIPS (Zhang et al. 2018): distance in the features of an ImageNet classifier, weighted by human judgements.

The linear weights, version 0.1, come with the `lpips` package; the backbone's weights are torchvision's.
"""

import warnings

import torch
from torch import Tensor, nn

from img2img.errors import ConfigError, choose
from img2img.metrics.options import MetricOptions
from img2img.metrics.paired import refuse_smaller
from img2img.metrics.resampling import own_randomness
from img2img.runtime.weights import find_weights, misfit, read_weights

BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
LEAST = 32  # px, of which the strides of the backbones leave one


def lpips(x: Tensor, y: Tensor, network: nn.Module) -> Tensor:
    """Return the distances (N,) of images (N, 3, H, W) in [-1, 1] by a network of `open_lpips`; lower is better.

    Raises:
        DataError: if a side is shorter than `LEAST`.
    """
    refuse_smaller("lpips", x, LEAST, "Use ssim.")
    distances: Tensor = network(x.float(), y.float())
    return distances.flatten()


def open_lpips(options: MetricOptions, channels: int) -> nn.Module:
    """Open the network `options.lpips_net`.

    Raises:
        ConfigError: if there is no such backbone, or the images are not RGB.
        ModelFileError: if the backbone's weights are not on this machine, or belong to another network.
    """
    backbone = choose("backbone of LPIPS", options.lpips_net, BACKBONES)
    if channels != 3:
        raise ConfigError(f"lpips is defined for RGB, and the images have {channels} channels. Use ssim.")
    import torchvision

    url = torchvision.models.get_model_weights(backbone).DEFAULT.url
    path = find_weights(f"lpips[{options.lpips_net}]", options.lpips_weights, url, "--lpips-weights", ", or use ssim")
    weights = read_weights(path)
    network = _without_backbone(options.lpips_net)
    # torchvision numbers the layers, features.3.weight; the package keeps the numbers, in slices: slice2.3.weight.
    slices: nn.Module = network.get_submodule("net")
    names = {name: f"features.{name.partition('.')[2]}" for name in slices.state_dict()}
    try:
        slices.load_state_dict({name: weights[key] for name, key in names.items()})
    except (KeyError, RuntimeError) as error:
        raise misfit(path, f"torchvision's {backbone}") from error
    return network.eval()


def _without_backbone(net: str) -> nn.Module:
    """Return LPIPS with a backbone of random weights; the package would download trained ones."""
    import lpips as package

    with own_randomness(), torch.no_grad(), warnings.catch_warnings():
        for message in ("The parameter 'pretrained' is deprecated", "Arguments other than a weight enum"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        network: nn.Module = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    return network.requires_grad_(False)

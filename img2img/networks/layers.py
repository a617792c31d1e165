"""Layers that the networks share: convolutions, padding, upsampling, initialisation."""

import copy
from collections.abc import Callable, Collection
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from img2img.networks.convolutions import convolve, transpose
from img2img.networks.norms import BatchNorm

Network = TypeVar("Network", bound=nn.Module)


class ReflectPad(nn.Module):
    """Padding that mirrors `padding` pixels at each border, without repeating the border pixel.

    PyTorch's own layer has no deterministic backward pass on CUDA; if deterministic gradients are requested, the same
    border is assembled from flipped slices.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        p = self.padding
        if not (torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled()):
            with torch.autocast(x.device.type, enabled=False):  # on a CPU autocast would copy the map to fp32
                return F.pad(x, (p, p, p, p), mode="reflect")
        for dim in (2, 3):
            n = x.shape[dim]
            head, tail = x.narrow(dim, 1, p).flip(dim), x.narrow(dim, n - 1 - p, p).flip(dim)
            x = torch.cat([head, x, tail], dim)
        return x


PADDINGS: dict[str, Callable[[int], nn.Module]] = {
    "reflect": ReflectPad,
    "replicate": nn.ReplicationPad2d,
    "zero": nn.ZeroPad2d,
}


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with square kernels, in the way that is fastest on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu:
            return super().forward(x)
        return convolve(x, self.weight, self.bias, self.stride[0], int(self.padding[0]))


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with square kernels, in the way that is fastest on a CPU."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not x.is_cpu:
            return super().forward(x, output_size)
        return transpose(x, self.weight, self.bias, self.stride[0], int(self.padding[0]), self.output_padding[0])


def each(network: nn.Module, *images: Tensor) -> list[Tensor]:
    """Apply `network` to each of `images` (N, C, H, W), in a single pass if equivalent, i.e. if no norm mixes images.
    A single pass reads the weights once instead of twice, and launches half as many kernels.
    """
    if len({x.shape for x in images}) > 1 or any(isinstance(layer, BatchNorm) for layer in network.modules()):
        return [network(x) for x in images]
    return list(network(torch.cat(images)).split(len(images[0])))


def maps_at(layers: nn.Sequential, x: Tensor, places: Collection[int]) -> list[Tensor]:
    """Return the maps that the layers numbered `places` give for `x`; layers behind the last of them do not run."""
    maps = []
    for i, layer in enumerate(list(layers)[: max(places) + 1]):
        x = layer(x)
        if i in places:
            maps.append(x)
    return maps


def traceable(network: nn.Module) -> nn.Module:
    """Return a copy whose convolutions do not choose an algorithm by map size: a trace would fix one choice. Weights
    under a norm of their own, such as spectral norm, are those of this moment.
    """
    network = copy.deepcopy(network)
    for layer in list(network.modules()):
        if is_parametrized(layer, "weight"):  # removing it would change the class, which is that of the original
            weight, layer.__class__ = layer.weight, type(layer).__base__  # type: ignore[assignment]
            del layer.parametrizations
            layer.weight = nn.Parameter(weight.detach().clone())  # type: ignore[operator]
        for plain in (nn.Conv2d, nn.ConvTranspose2d):
            if isinstance(layer, plain):
                layer.__class__ = plain
    return network


def _deconv(c_in: int, c_out: int, kernel: int, bias: bool) -> nn.Module:
    return ConvTranspose2d(c_in, c_out, kernel, stride=2, padding=1, output_padding=kernel % 2, bias=bias)


def _resize(c_in: int, c_out: int, _kernel: int, bias: bool) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), ReflectPad(1), Conv2d(c_in, c_out, 3, bias=bias))


# Double the height and width. "deconv" is the papers'; "resize" (Odena et al. 2016) cannot produce a checkerboard.
UPSAMPLINGS: dict[str, Callable[[int, int, int, bool], nn.Module]] = {"deconv": _deconv, "resize": _resize}


def init_weights(network: Network, std: float = 0.02) -> Network:
    """Draw convolution weights from N(0, std²) and norm gains from N(1, std²), set biases to zero (DCGAN, section 3),
    and return the network.
    """
    for module in network.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            continue  # no memory allocated yet: weights are about to be loaded
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            nn.init.normal_(module.weight, 1.0, std)
            nn.init.zeros_(module.bias)
    return network


class ConditionalConv(nn.Conv2d):
    """A convolution with one bias per experimental batch: all that one-hot planes concatenated to its input would add
    to the output, if the border is mirrored.
    """

    def __init__(self, batches: int, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, bias=False)
        self.biases = nn.Parameter(torch.randn(batches, out_channels) / 10)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + self.biases[batch][:, :, None, None]

    def bind(self, batch: int) -> nn.Conv2d:
        """Return the plain convolution of one batch."""
        shape = self.in_channels, self.out_channels, self.kernel_size
        conv: nn.Conv2d = skip_init(nn.Conv2d, *shape)  # type: ignore[no-untyped-call]
        conv.load_state_dict({"weight": self.weight, "bias": self.biases[batch]})
        return conv


def he_init(network: nn.Module) -> None:
    """Initialise as in He et al. 2015, which preserves the scale of activations without norms."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

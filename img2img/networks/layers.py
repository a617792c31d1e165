"""Layers that the networks share: norms that keep the memory layout, padding, upsampling, initialisation."""

import copy
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from img2img.errors import choose
from img2img.runtime.device import several_processes

Network = TypeVar("Network", bound=nn.Module)


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per image and channel, without learned parameters (Ulyanov et al. 2016).

    Computed as a group norm with one channel per group: mathematically equal to `nn.InstanceNorm2d`, but with kernels
    for channels_last, and it accepts 1x1 maps (which become zero). Statistics are computed in fp32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.channels)  # unlike F.group_norm, accepts a single pixel


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes. Its gradient is such a sum too, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return cast(Tensor, _SumOverProcesses.apply(gradient))


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) as pix2pix uses it: with the current statistics, at test time as well.

    Training normalises over the batch, and over all processes if there are several. Evaluation normalises each image
    separately, which is exactly the published "train mode with batch size 1", and makes the output independent of the
    batch that an image is in. Running averages are therefore not kept.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return torch.group_norm(x, self.channels, self.weight, self.bias, self.eps)
        if several_processes():
            return self._across_processes(x)[0]
        if x.numel() == x.shape[1]:  # one value per channel: batch_norm refuses it; the limit is the bias
            return self.bias.to(x.dtype).view(1, -1, 1, 1).expand_as(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def _across_processes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise over the batches of all processes; return `x` normalised, and the mean and variance (C)."""
        x32 = x.float()
        var, mean = torch.var_mean(x32, (0, 2, 3), correction=0)
        total: Tensor = _SumOverProcesses.apply(torch.stack([mean, var + mean**2]))
        mean, square = (total / dist.get_world_size()).unbind()
        var = (square - mean**2).clamp_min(0)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(1, -1, 1, 1), x32, scale.view(1, -1, 1, 1)).to(x.dtype), mean, var


class RunningBatchNorm(BatchNorm):
    """Batch norm with running averages for inference, as a generator from noise needs: a single sample must not be
    normalised by its own statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if several_processes():
            out, mean, var = self._across_processes(x)
        elif x.numel() == x.shape[1]:  # one value per channel
            out, mean, var = super().forward(x), x.float().flatten(), torch.zeros_like(self.running_var)
        else:  # batch_norm returns its moments; its variance is the unbiased estimate, converted back below
            mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
            out = F.batch_norm(x, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            var = var * (1 - x.shape[1] / x.numel())
        self._average(mean, var)
        return out

    @torch.no_grad()
    def _average(self, mean: Tensor, var: Tensor) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": InstanceNorm,
    "batch": BatchNorm,
    "none": lambda channels: nn.Identity(),
}


def norm_layer(name: str) -> tuple[Callable[[int], nn.Module], bool]:
    """Return the norm called `name`, and whether the convolution before it has a bias.

    A norm with its own shift makes that bias redundant. The published networks, whose parameter counts we match,
    drop it for "batch" and for "none", and keep it before the instance norm.

    Raises:
        ConfigError: if the norm is unknown.
    """
    return choose("--norm", name, NORMS), name == "instance"


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


# Up to this many kernel positions in a batch, and proportionally more in layers of more than 128 channels, a CPU runs a
# matrix product faster than its convolution kernels, which spend their time reordering the weights (512 channels, 4x4,
# bf16, with gradients: 2 ms instead of 10 ms).
MATMUL_PIXELS = 64


def _as_product(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, positions: int) -> bool:
    narrow = min(layer.in_channels, layer.out_channels)
    return x.is_cpu and x.shape[0] * positions <= MATMUL_PIXELS * max(1, narrow / 128)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, computed as one matrix product if batch and map are small and the device is a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        (k, _), (s, _), p = self.kernel_size, self.stride, int(self.padding[0])
        h, w = ((n + 2 * p - k) // s + 1 for n in x.shape[2:])
        if not _as_product(self, x, h * w):
            return super().forward(x)
        rows = F.unfold(x, k, padding=p, stride=s).transpose(1, 2).flatten(0, 1)  # (N * h * w, c_in * k * k)
        out = (rows @ self.weight.flatten(1).t()).view(x.shape[0], h, w, -1).permute(0, 3, 1, 2)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, computed as one matrix product if batch and map are small and the device is a CPU."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        (k, _), (s, _), p, extra = self.kernel_size, self.stride, int(self.padding[0]), self.output_padding[0]
        h, w = ((n - 1) * s - 2 * p + k + extra for n in x.shape[2:])
        if not _as_product(self, x, x.shape[2] * x.shape[3]):
            return super().forward(x, output_size)
        rows = x.flatten(2).transpose(1, 2).flatten(0, 1)  # (N * pixels of x, c_in)
        patches = (rows @ self.weight.flatten(1)).view(x.shape[0], -1, self.out_channels * k * k)
        out = F.fold(patches.transpose(1, 2), (h, w), k, padding=p, stride=s)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1)


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

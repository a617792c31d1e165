"""The standard layout: the tensor names of the generators in the published pix2pix and CycleGAN code.

Both layouts list the same layers in the same order. A ResNet is one sequence with the same numbers in both, except
inside its residual blocks. A U-Net is nested in the standard layout, where each block contains the next smaller one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from img2img.errors import quote
from img2img.networks import GENERATORS
from img2img.networks.resnet import ResidualBlock, ResNet
from img2img.networks.unet import UNet

Weights = Mapping[str, Tensor]

# Indices of convolution, norm, convolution, norm in a residual block: ours, and theirs by (padding modules, dropout).
BODY = (1, 2, 6, 7)
CONV_BLOCK = {
    (True, False): (1, 2, 5, 6),
    (True, True): (1, 2, 6, 7),
    (False, False): (0, 1, 3, 4),
    (False, True): (0, 1, 4, 5),
}

# Our layer of `down[level]` or `up[level]` -> its index in their block of that level.
OUTERMOST = {"down.{}.0": 0, "up.{}.1": 3}
MIDDLE = {"down.{}.1": 1, "down.{}.2": 2, "up.{}.1": 5, "up.{}.2": 6}
INNERMOST = {"down.{}.1": 1, "up.{}.1": 3, "up.{}.2": 4}


def _resnet_layers(network: ResNet) -> dict[str, str]:
    bodies: dict[int, Any] = {i: x.body for i, x in enumerate(network.layers) if isinstance(x, ResidualBlock)}
    layers = {f"layers.{i}": f"model.{i}" for i in range(len(network.layers)) if i not in bodies}
    for i, body in bodies.items():
        block = CONV_BLOCK[not isinstance(body[0], nn.ZeroPad2d), body[4].p > 0]
        layers |= {
            f"layers.{i}.body.{ours}": f"model.{i}.conv_block.{theirs}"
            for ours, theirs in zip(BODY, block, strict=True)
        }
    return layers


def _unet_layers(network: UNet) -> dict[str, str]:
    depth, prefix = len(network.down), "model.model"
    layers: dict[str, str] = {}
    for level in range(depth):
        block = OUTERMOST if level == 0 else INNERMOST if level == depth - 1 else MIDDLE
        layers |= {ours.format(level): f"{prefix}.{theirs}" for ours, theirs in block.items()}
        prefix += ".1.model" if level == 0 else ".3.model"
    return layers


LAYERS: dict[type[nn.Module], Callable[[Any], dict[str, str]]] = {ResNet: _resnet_layers, UNet: _unet_layers}


def standard_names(network: nn.Module) -> dict[str, str]:
    """Return the standard name of every tensor of `network`, by our name.

    Raises:
        ValueError: with a clause that states the reason, if the published code has no equivalent network.
    """
    if type(network) not in LAYERS:
        raise ValueError(f"the published code has no {type(network).__name__}")
    layers, names = LAYERS[type(network)](network), {}
    for name in network.state_dict():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            raise ValueError("the published code does not upsample by resizing")
        names[name] = f"{layers[layer]}.{kind}"
    return names


def infer(weights: Weights) -> tuple[dict[str, Any], int, int]:
    """Infer the architecture from `weights`: the options of the method's config, and the input and output channels.

    Zero padding and dropout can be told from the indices of a residual block's layers. Other paddings cannot be told
    apart, and the dropout of a U-Net cannot be told at all.

    Raises:
        ValueError: with the end of a sentence whose subject is the file, if the generator is not one of ours.
    """
    for pattern, action in KINDS.items():
        if any(re.match(pattern, name) for name in weights):
            if isinstance(action, str):
                raise ValueError(action)
            try:
                return action(weights)
            except KeyError as missing:
                raise ValueError(f"lacks {missing.args[0]}, which every standard generator of its kind has") from None
    odd = [name for name in weights if not re.fullmatch(r"model\.\d+\.(weight|bias)", name)] or list(weights)
    raise ValueError(f"uses unknown tensor names ({', '.join(map(quote, odd[:3]))}, ...)")


def _infer_resnet(weights: Weights) -> tuple[dict[str, Any], int, int]:
    blocks = {int(match[1]) for name in weights if (match := re.match(r"model\.(\d+)\.conv_block\.", name))}
    if min(blocks) != 10:
        raise ValueError(f"has its first residual block at model.{min(blocks)}, where the standard one is at model.10")
    kernels = {
        int(name.split(".")[3])
        for name, x in weights.items()
        if re.fullmatch(r"model\.10\.conv_block\.\d+\.weight", name) and x.ndim == 4
    }
    known = {frozenset(indices[::2]): choices for choices, indices in CONV_BLOCK.items()}
    if frozenset(kernels) not in known:
        raise ValueError(f"has residual blocks with convolutions at {sorted(kernels)}, which no standard block has")
    padded, dropout = known[frozenset(kernels)]
    width, in_channels, *_ = _kernel(weights, "model.1.weight")
    out_channels = _kernel(weights, f"model.{17 + len(blocks)}.weight")[0]
    options = {
        "generator": _generator(f"resnet_{len(blocks)}", f"a ResNet of {len(blocks)} blocks"),
        "width": width,
        "norm": _norm(weights, "model.1.bias"),
        "padding": "reflect" if padded else "zero",
        "dropout": 0.5 if dropout else 0.0,
    }
    return options, in_channels, out_channels


def _infer_unet(weights: Weights) -> tuple[dict[str, Any], int, int]:
    depth = 1 + sum(name.endswith(".model.1.weight") for name in weights)
    width, in_channels, *_ = _kernel(weights, "model.model.0.weight")
    out_channels = _kernel(weights, "model.model.3.weight")[1]
    options = {
        "generator": _generator(f"unet_{2**depth}", f"a U-Net of {depth} levels"),
        "width": width,
        "norm": _norm(weights, "model.model.0.bias"),
    }
    return options, in_channels, out_channels


def _kernel(weights: Weights, name: str) -> tuple[int, ...]:
    shape = tuple(weights[name].shape)
    if len(shape) != 4:
        raise ValueError(f"has {name} with the shape {shape}, which is not that of a convolution")
    return shape


def _norm(weights: Weights, first_bias: str) -> str:
    """Infer the norm: only a batch norm has weights, and only an instance norm follows a convolution with a bias."""
    if any(name.endswith(".weight") and x.ndim == 1 for name, x in weights.items()):
        if first_bias in weights:
            raise ValueError(
                "has norms with learned gains after convolutions with biases, as InstanceNorm2d(affine=True) "
                "creates, which img2img does not support"
            )
        return "batch"
    return "instance" if first_bias in weights else "none"


def _generator(name: str, words: str) -> str:
    if name not in GENERATORS:
        raise ValueError(f"contains {words}; img2img has {', '.join(GENERATORS)}")
    return name


DISCRIMINATOR = "is a discriminator, which cannot translate; import the generator, whose file has net_G in its name"

# The kind of a file by the first pattern that one of its tensor names starts with: a reason to refuse it, or a function
# that infers the architecture.
KINDS: dict[str, str | Callable[[Weights], tuple[dict[str, Any], int, int]]] = {
    r".*\.(weight_orig$|parametrizations\.)": "was trained with spectral norm, which img2img cannot import; save it "
    "after torch.nn.utils.remove_spectral_norm or parametrize.remove_parametrizations, which leave plain weights",
    r".*\.filt$": "has the blur filters of CUT's networks, which img2img does not support",
    r"model\.model\.": _infer_unet,
    r"model\.\d+\.conv_block\.": _infer_resnet,
    r"net\.\d": DISCRIMINATOR,
    r"model\.0\.weight": DISCRIMINATOR,
}


def fit(weights: Weights, network: nn.Module) -> dict[str, Tensor]:
    """Return `weights` under the names of `network`, which may be on the meta device.

    Raises:
        ValueError: with a clause that states the reason, unless names and shapes match one to one.
    """
    names, shapes = standard_names(network), {name: x.shape for name, x in network.state_dict().items()}
    if missing := [name for name in names.values() if name not in weights]:
        raise ValueError(f"it lacks {missing[0]}")
    if extra := weights.keys() - names.values():
        raise ValueError(f"it has an additional {min(extra)}")
    for ours, theirs in names.items():
        if weights[theirs].shape != shapes[ours]:
            actual, expected = (tuple(shape) for shape in (weights[theirs].shape, shapes[ours]))
            raise ValueError(f"its {theirs} has the shape {actual} instead of {expected}")
    return {ours: weights[theirs] for ours, theirs in names.items()}

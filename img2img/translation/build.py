"""The networks of the translation methods, built from their options."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from img2img.core.referee import regularised
from img2img.errors import ConfigError, choose
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.networks.layers import init_weights

# What a builder of networks may be asked for by name, beside the numbers of channels: argument -> option.
OF_G = {name: name for name in ("width", "norm", "padding", "dropout", "upsample")}
OF_D = {"width": "d_width", "norm": "norm"}


def build_generator(config: Any, in_channels: int, out_channels: int) -> nn.Module:
    """Return the generator that the options name; its weights are initialised unless it comes from elsewhere."""
    build = choose("generator", config.generator, GENERATORS)
    network = build(in_channels, out_channels, **_arguments(build, OF_G, config))
    if config.generator in GENERATORS.own:
        return init_weights(network)
    _check("generator", config.generator, network)
    if not hasattr(network, "multiple"):
        setattr(network, "multiple", 1)  # noqa: B010  # any size
    return network


def build_discriminator(config: Any, in_channels: int) -> nn.Module:
    """Return the discriminator that the options name; its weights are initialised unless it comes from elsewhere."""
    build = choose("discriminator", config.discriminator, DISCRIMINATORS)
    network = build(in_channels, **_arguments(build, OF_D, config))
    if config.discriminator in DISCRIMINATORS.own:
        init_weights(network)
    else:
        _check("discriminator", config.discriminator, network)
    return regularised(network, config.spectral, config.weight_norm, config.d_dropout)


def ignored(config: Any) -> Iterator[tuple[str, str]]:
    """Yield the options that networks from elsewhere have no argument for, and what each is for."""
    for kind, table, names in (("generator", GENERATORS, OF_G), ("discriminator", DISCRIMINATORS, OF_D)):
        if (name := getattr(config, kind, "auto")) in ("auto", *table.own):
            continue
        taken = _arguments(table[name], names, config)
        for argument, option in names.items():
            if argument not in taken and option != "norm":  # the rest of a method takes it as well
                yield option, f"a --{kind} that has an argument {argument}"


def _arguments(build: Callable[..., nn.Module], names: dict[str, str], config: Any) -> dict[str, Any]:
    """Return the options that a builder has arguments for."""
    parameters = inspect.signature(build).parameters.values()
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    wanted = {p.name for p in parameters}
    return {argument: getattr(config, option) for argument, option in names.items() if free or argument in wanted}


def _check(kind: str, name: str, network: Any) -> None:
    if not isinstance(network, nn.Module):
        raise ConfigError(f"The {kind} '{name}' made a {type(network).__name__}, and not a torch.nn.Module.")


def deepest_unet(size: int) -> str:
    """Return the deepest U-Net up to unet_256 whose multiple divides `size`; resnet_9 where there is none."""
    depth = next((m for m in (256, 128, 64, 32, 16) if size % m == 0), None)
    return f"unet_{depth}" if depth else "resnet_9"


def published_resnet(size: int) -> str:
    """Return the ResNet that CycleGAN (appendix 7.2) chooses for images of `size` pixels."""
    return "resnet_9" if size >= 256 else "resnet_6"

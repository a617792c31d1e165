"""The sizes of images that the networks of a method take, and advice on others."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from img2img.core.method import CLASS, Image, Method, Use
from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.runtime.device import Runtime
from img2img.training.config import TrainConfig

SMALLEST_HALF = 64  # pixels below which no smaller --size is advised


def refuse_wrong_size(method: Method, size: int, option: str = "--size") -> None:
    """Refuse a size that the networks of a translation cannot take; those that draw are built for it."""
    if not any(use.source and use.output != CLASS for use in method.uses.values()):
        return
    smallest, multiple = _smallest(method), _multiple(method.uses)
    chosen = getattr(method.config, "generator", "this method")
    if size % multiple:
        nearest = max(round(size / multiple), math.ceil(smallest / multiple), 1) * multiple
        other = ""
        if hasattr(method.config, "generator"):
            usual = method.resolve(replace(method.config, generator="auto"), Facts(size))
            if size >= smallest and size % _multiple_of(method, usual) == 0:
                other = f", or --generator {usual.generator}"
        raise ConfigError(
            f"{option} {size} does not suit {chosen}, which needs multiples of {multiple}. "
            f"Use {option} {nearest}{other}."
        )
    if size < smallest:
        least, other = math.ceil(smallest / multiple) * multiple, ""
        if hasattr(method.config, "discriminator"):
            with torch.device("meta"):
                smaller = {name: getattr(build(1), "min_size", 1) for name, build in DISCRIMINATORS.own.items()}
            fitting = max((name for name in smaller if smaller[name] <= size), key=smaller.__getitem__)
            other = f", or --discriminator {fitting}"
        judge = getattr(method.config, "discriminator", "of this method")
        raise ConfigError(
            f"The discriminator {judge} needs images of at least {smallest} px, not {size}. "
            f"Use {option} {least}{other}."
        )


@torch.no_grad()
def refuse_wrong_output(method: Method, size: int) -> None:
    """Refuse networks from outside this package whose results have another shape than the images of their domain.

    Raises:
        ConfigError: naming both shapes.
    """
    name = getattr(method.config, "generator", "auto")
    if name in ("auto", *GENERATORS.own):
        return
    for title, use in method.uses.items():
        if [type(x) for x in use.inputs] != [Image]:
            continue
        given, wanted = ((1, method.facts.channels[domain], size, size) for domain in (use.source, use.output))
        was_training = use.network.training
        got = use.network.eval()(torch.zeros(given))
        use.network.train(was_training)
        shape = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
        if shape != wanted:
            raise ConfigError(
                f"The generator '{name}' turns images {given} into {shape}; for {title} it must return {wanted}: as "
                "many channels as it is told, in the height and width of its input."
            )


def _smallest(method: Method) -> int:
    """Return the side of the smallest images that all networks take."""
    return max(getattr(network, "min_size", 1) for network in method.networks().values())


def _multiple(uses: Mapping[str, Use]) -> int:
    """Return the number that the sides of images must divide by for these networks."""
    return math.lcm(*(int(getattr(use.network, "multiple", 1)) for use in uses.values()))


def _multiple_of(method: Method, config: Any) -> int:
    with torch.device("meta"):
        return _multiple(method.build(config, method.facts))


def shorten(built: Method, config: Any, size: int, train_config: TrainConfig, runtime: Runtime) -> str:
    """Return advice on how to shorten a long run; `config` is that of the method before it was fitted to `size`."""
    ways, half = [], size // 2
    with contextlib.suppress(ConfigError):
        fits = half >= max(SMALLEST_HALF, _smallest(built)) and getattr(config, "network", "") != "mlp"
        if fits and half % _multiple_of(built, built.resolve(config, Facts(half))) == 0:
            ways.append(f"--size {half} takes about a quarter of the time")
    name = "steps" if train_config.steps else "epochs"
    if length := getattr(train_config, name) // 2:
        ways.append(f"--{name} {length} takes half of it")
    where = {"cpu": "on this CPU", "cuda": "on this GPU"}.get(runtime.device.type, "here")
    return f"{where}; {', '.join(ways)}." if ways else ""

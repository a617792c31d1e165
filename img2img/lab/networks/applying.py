"""A trained network on whole images: bound to a source and a target batch, padded, and run in tiles."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from img2img.data.picture import Array
from img2img.errors import ConfigError
from img2img.lab.networks import models
from img2img.model.lazy import Memory, Span
from img2img.model.tiling import in_tiles
from img2img.runtime.device import pick_device


def build_generator(model: str, options: Mapping[str, Any] | None, channels: int, batches: int) -> nn.Module:
    """Return the generator that `train_generator` returns for the same options, before its weights are loaded."""
    network = models.network(model)
    names = [str(batch) for batch in range(batches)]
    config = network.config(network.with_defaults(options), names[0])
    use, *_ = network.method.build(config, network.facts(channels, names)).values()
    return use.network.eval()


def bind(model: str, generator: nn.Module, source: int, target: int) -> nn.Module:
    """Return the network from images (N, C, H, W) of batch `source` to batch `target`; identity if they are the same.

    Raises:
        ConfigError: if the model was trained towards another target.
    """
    condition = models.network(model).condition
    trained: Any = generator
    if condition == "source" and target != int(trained.reference):
        raise ConfigError(f"This model moves to batch {int(trained.reference)}, not {target}. Train another one.")
    if source == target:
        return nn.Identity()
    bound: nn.Module = generator if condition is None else trained.bind(source if condition == "source" else target)
    return bound.eval()


@torch.no_grad()
def apply(network: nn.Module, image: Array, tile: int = 1024, device: str = "cpu") -> Array:
    """Run a bound network on a float32 image (C, H, W) of any size, in tiles if it is larger than `tile` pixels.

    The range that the equalizer was fitted to fills [-1, 1]; nothing is clipped. Tiles agree with the whole image up to
    rounding. Borders are mirrored up to the network's `multiple`.
    """
    if isinstance(network, nn.Identity):
        return image.copy()
    place = pick_device(device)
    network.to(place)
    height, width = image.shape[1:]
    multiple: Any = network.multiple
    padded = np.pad(image, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="reflect")
    x = torch.from_numpy(padded)[None]

    def read(rows: Span, columns: Span) -> Tensor:
        return x[:, :, slice(*rows), slice(*columns)].to(place)

    whole = max(x.shape[2:]) <= tile
    out = network(x.to(place)) if whole else in_tiles(network, tuple(x.shape), read, Memory(tile, int(2e9), place))
    moved: Array = out[0, :, :height, :width].cpu().contiguous().numpy()
    return moved

"""A trained network on whole images: bound to a source and a target batch, padded, and run in tiles.

Images here are float32 (C, H, W), scaled so that the range the equalizer was fitted to fills [-1, 1]; nothing is
clipped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.data.images import Array
from img2img.errors import ConfigError
from img2img.lab.networks import models
from img2img.model.lazy import Memory, Span
from img2img.model.tiling import in_tiles
from img2img.runtime.device import pick_device


def build_generator(
    model: str, options: Mapping[str, Any] | None, channels: int, batches: int, target: int = 0
) -> nn.Module:
    """Return the generator that `train_generator` returns for the same options, before its weights are loaded."""
    network = models.network(model)
    names = [str(batch) for batch in range(batches)]
    config = network.config(network.with_defaults(options), names[target])
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
def apply(network: nn.Module, image: Array | Tensor, tile: int = 1024, device: str | torch.device = "cpu") -> Any:
    """Run a bound network on an image (C, H, W) of any size, in tiles if it is larger than `tile` pixels.

    Tiles agree with the whole image up to rounding. Borders are mirrored up to the network's `multiple`.

    Returns:
        An array for an array, a tensor on the CPU for a tensor; float32 (C, H, W).
    """
    as_tensor = isinstance(image, Tensor)
    x: Tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image, np.float32))
    place = pick_device(device) if isinstance(device, str) else device
    unchanged = isinstance(network, nn.Identity)
    out = x.float().clone() if unchanged else _run(network.to(place), x.float(), tile, place).cpu().contiguous()
    return out if as_tensor else out.numpy()


def _run(network: nn.Module, image: Tensor, tile: int, device: torch.device) -> Tensor:
    _, height, width = image.shape
    multiple: Any = network.multiple
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        mode = "reflect" if bottom < height and right < width else "replicate"
        image = F.pad(image[None], (0, right, 0, bottom), mode=mode)[0]
    if max(image.shape[1:]) <= tile:
        out: Tensor = network(image[None].to(device))[0]
    else:

        def read(rows: Span, columns: Span) -> Tensor:
            return image[None, :, slice(*rows), slice(*columns)].to(device)

        out = in_tiles(network, (1, *image.shape), read, Memory(tile, int(2e9), device))[0]
    return out[:, :height, :width]

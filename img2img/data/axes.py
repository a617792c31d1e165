"""Images passed as arrays, tensors or lists where the command line takes folders, with channels on any axis."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from img2img.data.folders import readable
from img2img.data.picture import MAX_LAST, Array, Header
from img2img.data.raster import from_pil
from img2img.errors import ConfigError, DataError


def arrays_of(
    images: dict[str, Any], channel_axis: int | None, pages: str = "images"
) -> dict[str, list[Header | Array]]:
    """Convert images passed as arguments, by the name of the argument; see `images_in`.

    Raises:
        ConfigError: if `channel_axis` is given without any images.
    """
    if channel_axis is not None and not images:
        raise ConfigError("channel_axis is for arrays; the channel axis of a file is known from its format.")
    return {name: images_in(name, argument, channel_axis, pages) for name, argument in images.items()}


def images_in(title: str, images: Any, channel_axis: int | None = None, pages: str = "images") -> list[Header | Array]:
    """Return images as headers of files and arrays (H, W) or (H, W, C).

    Args:
        title: their name in error messages.
        images: an array (N, H, W) or (N, H, W, C), a tensor (N, H, W) or (N, C, H, W), or a list of arrays, tensors
            (C, H, W), PIL images and paths of files; a torch Dataset of such items is read whole.
        channel_axis: the axis of the channels, in an array or tensor of all images or in each item of a list; by
            default last in arrays and third from last in tensors.
        pages: of files, see `folders.readable`.

    Raises:
        DataError: if they are none of these, or an array appears to have its channels first and no axis is given.
    """
    whole = images if isinstance(images, np.ndarray | torch.Tensor) else None
    if whole is not None and whole.ndim in (3, 4):
        if whole.ndim == 3 and channel_axis is not None:
            raise DataError(f"{title} has the shape {tuple(whole.shape)}, which is (N, H, W): it has no channel axis.")
        return list(_channels_last(title, whole, channel_axis, 4))
    if whole is not None or isinstance(images, str | Path | Image.Image):
        kind = f"an array of shape {tuple(whole.shape)}" if whole is not None else type(images).__name__
        raise DataError(f"{title} must be a folder, an array (N, H, W[, C]) or a list of images, not {kind}.")
    try:  # a map-style torch Dataset has a length, and may give an item for any number
        by_number = hasattr(images, "__getitem__") and hasattr(images, "__len__") and not hasattr(images, "__iter__")
        items = [images[i] for i in range(len(images))] if by_number else list(images)
    except TypeError:
        raise DataError(f"{title} must be a folder or images, not {type(images).__name__}.") from None
    return [_image(f"{title}[{i}]", image, channel_axis, pages) for i, image in enumerate(items)]


def _image(title: str, image: Any, channel_axis: int | None, pages: str) -> Header | Array:
    if isinstance(image, str | Path):
        return readable(Path(image), pages)
    if isinstance(image, Image.Image):
        return from_pil(image).array
    return _channels_last(title, image, channel_axis, 3)


def _channels_last(title: str, image: Any, channel_axis: int | None, ndim: int) -> Array:
    tensor = isinstance(image, torch.Tensor)
    if isinstance(image, tuple):
        raise DataError(f"{title} is a tuple; give the images alone, e.g. [image for image, label in dataset].")
    array = as_array(image)
    if array.ndim != ndim:
        return array
    axis = channel_axis if channel_axis is not None else -3 if tensor else -1
    if not -ndim <= axis < ndim:
        raise DataError(f"channel_axis={axis} is not an axis of {title}, whose shape is {array.shape}.")
    if channel_axis is None and not tensor:
        refuse_channels_first(array, title)
    return np.moveaxis(array, axis, -1)


def as_array(image: Any) -> Array:
    """Return an array or tensor as an array.

    Raises:
        DataError: if it is a tensor of a type that arrays do not support.
    """
    if isinstance(image, torch.Tensor):
        try:
            image = image.detach().cpu().numpy()
        except TypeError as error:
            raise DataError(f"A tensor of {image.dtype} cannot be used; convert it: tensor.float().") from error
    return np.asarray(image)


def refuse_channels_first(array: Array, title: str) -> None:
    """Raise DataError if an array (H, W, C) or (N, H, W, C) appears to have its channels first."""
    if array.shape[-1] > MAX_LAST and array.shape[-1] >= min(array.shape[-3:-1]) > 0:
        first = array.ndim - 3
        raise DataError(
            f"{title} has the shape {array.shape}, which looks like channels first; give channel_axis={first}, "
            "or channel_axis=-1 if the channels are last."
        )

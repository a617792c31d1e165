"""Conversion of the images that callers pass to a list of arrays (H, W, C), and of the results back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from img2img.data.axes import as_array, refuse_channels_first
from img2img.data.holes import fill, holes_of, in_words, put_back
from img2img.data.images import read_image
from img2img.data.picture import Array
from img2img.data.raster import from_pil, to_pil
from img2img.data.scale import Scale
from img2img.errors import DataError, counted

Pages = list[Array]
Unpacked = tuple[Pages, Callable[[Pages], Any]]  # the images, and a function that converts their results back

LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601


def unpack(image: Any, channel_axis: int | None = None, pages: str = "images") -> Unpacked:
    """Convert an array, tensor, PIL image or path to a list of arrays (H, W, C).

    Args:
        image: an array (H, W), (H, W, C) or (N, H, W, C); a tensor (H, W), (C, H, W) or (N, C, H, W); a PIL image;
            or the path of a file, whose result is an array.
        channel_axis: the axis of the channels: by default last in arrays and third from last in tensors, but any axis
            may be given for either. Two dimensions are always one grey image.
        pages: what the pages of a file are, one of `data.options.PAGES`.

    Returns:
        The images, and a function that converts a list of their results back to the type and axes of `image`.

    Raises:
        DataError: if it is none of these.
    """
    if isinstance(image, str | Path):
        return unpack(read_image(Path(image), pages).array, -1)
    if isinstance(image, Image.Image):
        picture = from_pil(image)
        return [picture.array], lambda results: to_pil(replace(picture, array=results[0]))
    if isinstance(image, Tensor):
        device = image.device
        inner, pack = unpack(as_array(image), -3 if channel_axis is None else channel_axis)
        return inner, lambda results: torch.from_numpy(np.ascontiguousarray(pack(results))).to(device)
    if not isinstance(image, np.ndarray):
        raise DataError(f"An image must be an array, a tensor, a PIL image or a path, not {type(image).__name__}.")
    if image.ndim == 2:
        return [image[..., None]], lambda results: results[0][..., 0] if results[0].shape[2] == 1 else results[0]
    axis = -1 if channel_axis is None else channel_axis
    if image.ndim not in (3, 4) or not -image.ndim <= axis < image.ndim:
        raise DataError(
            f"An image must be (H, W), (H, W, C) or (N, H, W, C); this array has the shape {image.shape} and "
            f"channel_axis {axis}."
        )
    if channel_axis is None:
        refuse_channels_first(image, "An image")
    last = np.moveaxis(image, axis, -1)
    if image.ndim == 3:
        return [last], lambda results: np.moveaxis(results[0], -1, axis)
    return list(last), lambda results: np.moveaxis(np.stack(results), -1, axis) if results else image.copy()


def fit(array: Array, scale: Scale, wanted: int, policy: str, nan: str = "error") -> Unpacked:
    """Convert `array` (H, W, C) to images that a model takes.

    Args:
        array: the image.
        scale: of the model's input, with its type of values.
        wanted: the number of its channels.
        policy: what to do about other numbers of channels, one of `model.options.CHANNELS`.
        nan: what to do about NaN and infinities, one of `model.options.NAN`.

    Raises:
        DataError: if the image is of another kind, and the policy gives no way.
    """
    if 0 in array.shape:
        raise DataError(f"This image has no pixels: {array.shape}.")
    if str(array.dtype) != scale.dtype:
        raise DataError(
            f"It has {array.dtype} values, and this model was trained on {scale.dtype}; what they stand for differs. "
            "Convert the images the way the training images were."
        )
    if (holes := holes_of(array)) is not None:
        if nan == "error":
            raise DataError(
                f"It has {in_words(array, holes)}; repair it, or use --nan mask to translate the rest of it."
            )
        pages, pack = fit(fill(array, holes), scale, wanted, policy)
        return pages, lambda results: put_back(pack(results), array, holes)
    if array.dtype.kind == "f":
        ends = scale.encode(np.array([[[array.min()], [array.max()]]]))
        if not torch.isfinite(ends).all():
            raise DataError("It holds values that are too large for the model.")
    channels = array.shape[2]
    if channels == wanted:
        return [array], lambda results: results[0]
    convertible = {channels, wanted} == {1, 3}
    if policy == "convert" and convertible:
        to_model, from_model = (_to_colour, _to_grey) if wanted == 3 else (_to_grey, _to_colour)
        return [to_model(array)], lambda results: from_model(results[0])
    if policy == "each" and wanted == 1:
        return list(np.split(array, channels, axis=2)), lambda results: np.concatenate(results, 2)
    hint = ""
    if convertible:
        hint += f" Use --channels convert to make it {'colour' if wanted == 3 else 'grey'}."
    if wanted == 1:
        hint += " Use --channels each to translate each channel separately."
    count = counted(channels, "channel", "channels")
    raise DataError(f"It has {count}, but this model takes {wanted}.{hint or ' Convert it first.'}")


def _to_colour(array: Array) -> Array:
    return array if array.shape[2] != 1 else np.repeat(array, 3, axis=2)


def _to_grey(array: Array) -> Array:
    if array.shape[2] != 3:
        return array
    grey: Array = array @ LUMA[:, None]
    return (np.rint(grey) if array.dtype.kind in "ui" else grey).astype(array.dtype)


def by_page(pages: Sequence[Unpacked]) -> Unpacked:
    """Combine several unpacked images into one list of pages."""
    flat = [page for inner, _ in pages for page in inner]

    def pack(results: Pages) -> Pages:
        remaining = iter(results)
        return [pack_one([next(remaining) for _ in inner]) for inner, pack_one in pages]

    return flat, pack


def pad(array: Array, size: tuple[int, int]) -> Array:
    """Mirror the right and lower border of `array`, which keeps it on the network's grid."""
    if array.shape[:2] == size:
        return array
    down, right = size[0] - array.shape[0], size[1] - array.shape[1]
    return np.pad(array, ((0, down), (0, right), (0, 0)), mode="reflect")


def crop(padded: Tensor, array: Array) -> Tensor:
    """Undo `pad` of `array`."""
    return padded[:, : array.shape[0], : array.shape[1]]

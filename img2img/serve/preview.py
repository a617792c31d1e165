"""Pictures of files that browsers cannot show: 16 bits, floats, many channels, pages. The numbers stay as they are."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from img2img.data.images import read_image, resize
from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError

SIDE = 1600  # of a picture
SHOWN = 99.5  # per cent of the values are inside the contrast that is chosen by itself
SAMPLED = 2**20  # values that it is chosen from
MOST = 3  # channels in one picture


def draw(path: Path, pages: str, pixels: int, values: dict[str, str]) -> tuple[bytes, dict[str, Any]]:
    """Return a PNG of an image file, and what is shown in it.

    Args:
        path: the file.
        pages: whether its pages are "images" or "channels".
        pixels: the most that it may have.
        values: `page`, the number of a page; `show`, up to three channels such as 0,2; `low` and `high`, the values
            that are black and white, one for all channels shown or one each; the rest by themselves.

    Raises:
        ConfigError: if a value does not fit the image.
        DataError: if the file cannot be read.
    """
    array = read_image(path, pages, pixels).array
    stack = array if array.ndim == 4 else array[None]
    page = _numbers("page", values.get("page"), int, 1) or [0]
    if not 0 <= page[0] < len(stack):
        raise ConfigError(f"page takes a number from 0 to {len(stack) - 1}, not {page[0]}.")
    image = stack[page[0]]
    count = image.shape[2]
    shown = _numbers("show", values.get("show"), int, MOST) or list(range(count if count in (1, 3) else 1))
    if wrong := [c for c in shown if not 0 <= c < count]:
        raise ConfigError(f"show takes channels from 0 to {count - 1}, not {wrong[0]}.")
    planes = image[..., shown]
    low, high = _contrast(planes)
    low = _each("low", values.get("low"), len(shown)) or low
    high = _each("high", values.get("high"), len(shown)) or high
    height, width = planes.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    step = max(1, max(height, width) // (2 * SIDE))  # so that large images take little memory
    small = planes[::step, ::step].astype(np.float32)
    if scale < 1:
        small = resize(small, max(1, round(height * scale)), max(1, round(width * scale)))
    spread = np.maximum(np.array(high, np.float64) - np.array(low, np.float64), 1e-12)
    levels = np.nan_to_num((small.astype(np.float64) - np.array(low)) / spread * 255, nan=0.0, posinf=255, neginf=0)
    grey = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if grey.shape[2] == 2:  # red and green
        grey = np.concatenate([grey, np.zeros_like(grey[..., :1])], 2)
    buffer = io.BytesIO()
    Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey).save(buffer, "PNG", compress_level=1)
    facts = {"width": width, "height": height, "channels": count, "pages": len(stack), "dtype": str(array.dtype)}
    return buffer.getvalue(), facts | {"page": page[0], "show": shown, "low": low, "high": high}


def _contrast(planes: Array) -> tuple[list[float], list[float]]:
    """Return what is black and white in each channel: the ends of 8 bits, or percentiles."""
    count = planes.shape[2]
    if planes.dtype == np.uint8:
        return [0.0] * count, [255.0] * count
    flat = planes.reshape(-1, count)
    flat = flat[:: max(1, len(flat) // SAMPLED)].astype(np.float64)
    if not np.isfinite(flat).any():
        raise DataError("It holds no number that can be shown.")
    flat = np.where(np.isfinite(flat), flat, np.nan)
    ends = np.nan_to_num(np.nanpercentile(flat, [100 - SHOWN, SHOWN], axis=0))
    return [float(x) for x in ends[0]], [float(x) for x in ends[1]]


def _each(name: str, text: str | None, count: int) -> list[float]:
    numbers = _numbers(name, text, float, count)
    return numbers * count if len(numbers) == 1 else numbers


def _numbers(name: str, text: str | None, kind: Any, most: int) -> list[Any]:
    """Return the numbers of a text such as 0,2.

    Raises:
        ConfigError: if they are none, or too many.
    """
    if not text:
        return []
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > most or not np.isfinite(numbers).all():
        raise ConfigError(f"{name} takes {'a number' if most == 1 else f'up to {most} numbers, such as 0,1'}.")
    return numbers

"""Sheets of images for visual inspection."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def displayable(image: Tensor) -> Image.Image:
    """Convert (C, H, W) in [-1, 1] to a viewable RGB image: of more than three channels the first three, of two the
    first.
    """
    channels = 3 if len(image) >= 3 else 1
    pixels = ((image[:channels].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    array = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(array if channels == 3 else array[..., 0]).convert("RGB")


def draw_grid(columns: Mapping[str, Tensor], wide: int | None = None) -> Image.Image:
    """Draw a sheet with one row per image and one titled column per entry.

    A single entry without a title is laid out `wide` images wide, by default as a square.
    """
    pictures = {title: [displayable(x) for x in images] for title, images in columns.items()}
    if list(pictures) == [""]:
        images = pictures.pop("")
        wide = wide or max(1, round(len(images) ** 0.5))
        pictures = {" " * c: images[c::wide] for c in range(wide)}
    rows = max(map(len, pictures.values()))
    width = max(picture.width for column in pictures.values() for picture in column)
    height = max(picture.height for column in pictures.values() for picture in column)
    gap, head, font = 4, 22 if any(title.strip() for title in pictures) else 4, ImageFont.load_default(13)
    titles = [title.strip().replace("→", "to") for title in pictures]
    width = max(width, *(math.ceil(font.getlength(title)) for title in titles))
    sheet = Image.new("RGB", (len(pictures) * (width + gap) + gap, head + rows * (height + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for c, (title, column) in enumerate(zip(titles, pictures.values(), strict=True)):
        x = gap + c * (width + gap)
        pen.text((x + width / 2, head / 2), title, fill="black", font=font, anchor="mm")
        for r, picture in enumerate(column):
            sheet.paste(picture, (x + (width - picture.width) // 2, head + r * (height + gap)))
    return sheet

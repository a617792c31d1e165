"""Sheets of images for people to look at."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def displayable(image: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1] as a picture for people: grey or RGB; of more channels the first three, of two the first."""
    channels = 3 if len(image) >= 3 else 1
    pixels = ((image[:channels].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    array = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(array if channels == 3 else array[..., 0]).convert("RGB")


def draw_grid(columns: Mapping[str, Tensor], wide: int | None = None) -> Image.Image:
    """A row per image and a titled column per entry; a single entry without a title is laid out `wide` images wide, by
    default as a square.
    """
    pictures = {title: [displayable(x) for x in images] for title, images in columns.items()}
    if list(pictures) == [""]:
        every = pictures.pop("")
        wide = wide or max(1, round(len(every) ** 0.5))
        pictures = {" " * c: every[c::wide] for c in range(wide)}
    rows = max(map(len, pictures.values()))
    side = max(picture.width for column in pictures.values() for picture in column)
    high = max(picture.height for column in pictures.values() for picture in column)
    gap, head, font = 4, 22 if any(title.strip() for title in pictures) else 4, ImageFont.load_default(13)
    titles = [title.strip().replace("→", "to") for title in pictures]
    side = max(side, *(math.ceil(font.getlength(title)) for title in titles))
    sheet = Image.new("RGB", (len(pictures) * (side + gap) + gap, head + rows * (high + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for c, (title, column) in enumerate(zip(titles, pictures.values(), strict=True)):
        x = gap + c * (side + gap)
        pen.text((x + side / 2, head / 2), title, fill="black", font=font, anchor="mm")
        for r, picture in enumerate(column):
            sheet.paste(picture, (x + (side - picture.width) // 2, head + r * (high + gap)))
    return sheet

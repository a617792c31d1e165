"""The parts of reports: an HTML page that needs no other file, and sheets of images."""

import base64
from collections.abc import Mapping
from html import escape

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ max-width: 100%; height: auto }} figure {{ margin: 1rem 0 }} figcaption {{ color: #666 }}
table {{ border-collapse: collapse }} td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }}
pre {{ background: #f4f4f4; padding: .8rem; overflow-x: auto }}
{style}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, body: str, style: str = "") -> str:
    """The page; `body` and `style` are HTML and CSS, `title` is text."""
    return PAGE.format(title=escape(title), body=body, style=style)


def captioned(png: bytes, caption: str) -> str:
    """A picture, in the page itself, and its caption."""
    data, words = base64.b64encode(png).decode(), escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


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
    gap, head = 4, 22 if any(title.strip() for title in pictures) else 4
    sheet = Image.new("RGB", (len(pictures) * (side + gap) + gap, head + rows * (high + gap)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for c, (title, column) in enumerate(pictures.items()):
        x = gap + c * (side + gap)
        pen.text((x + side / 2, head / 2), title.strip().replace("→", "to"), fill="black", font=font, anchor="mm")
        for r, picture in enumerate(column):
            sheet.paste(picture, (x, head + r * (high + gap)))
    return sheet

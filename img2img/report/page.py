"""The HTML page of a report, which needs no other file, and its parts."""

import base64
import io
from html import escape

from PIL import Image

from img2img.report.style import STYLE

LARGEST_PNG = 300_000  # bytes of a picture that is embedded unchanged
LONGEST_SIDE = 1600  # pixels of one that is reduced
JPEG_QUALITY = 85
ENLARGED, MOST_TIMES = 900, 4  # pixels that small pictures are enlarged to, without smoothing, and how often

# The policy makes a page with untrusted names safe to open: it shows its own content, and runs and loads nothing.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="generator" content="img2img">
<link rel="icon" href="data:,">
<title>{title}</title><style>
{style}
</style></head><body><main>{body}
</main></body></html>
"""


def is_page(content: bytes) -> bool:
    """Tell whether a file holds a page of img2img, also of a version that did not mark it."""
    marks = (b'name="generator" content="img2img"', b"content=\"default-src 'none'; img-src data:")
    return content.startswith(b"<!doctype html>") and any(mark in content[:600] for mark in marks)


def page(title: str, body: str, style: str = "", heading: bool = True) -> str:
    """Return a page from HTML `body`, with the CSS `style` beyond that of all pages.

    The text `title` is also its heading if `heading` is set.
    """
    top = f"<h1>{escape(title)}</h1>\n" if heading else ""
    text = PAGE.format(title=escape(title), body=top + body, style=STYLE + style)
    return text.encode(errors="backslashreplace").decode()  # file names need not be valid text


def captioned(picture: bytes, caption: str, alt: str | None = None) -> str:
    """Return a figure with an embedded PNG or JPEG; `alt` describes the picture, by default the caption."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    with Image.open(io.BytesIO(picture)) as image:
        times = max(1, min(MOST_TIMES, ENLARGED // image.width))
        size = f'width="{image.width * times}" height="{image.height * times}"' + ' class="pixels"' * (times > 1)
    words = escape(caption if alt is None else alt)
    source = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    return f'<figure><img alt="{words}" {size} src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'


def lightened(picture: bytes) -> bytes:
    """Return the picture unchanged, or if it is large, as a smaller JPEG to look at."""
    if len(picture) <= LARGEST_PNG:
        return picture
    with Image.open(io.BytesIO(picture)) as image:
        small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="jpeg", quality=JPEG_QUALITY)
    return buffer.getvalue()

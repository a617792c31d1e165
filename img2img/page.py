"""The parts of a report: an HTML page that needs no other file."""

import base64
from html import escape

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

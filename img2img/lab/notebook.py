"""A fitted equalizer as a notebook shows it."""

from html import escape

from img2img.lab.fitted import Fitted
from img2img.runtime.markup import in_cell, table


def with_batches(page: str, fitted: Fitted | None) -> str:
    """Return HTML followed by the table of batches: their images, and whether they are moved to the target."""
    if fitted is None:
        return page
    lines = []
    for number, (name, images) in enumerate(fitted.n_images.items()):
        unchanged = fitted.generator is None and fitted.correction.is_identity(number)
        fate = "the target" if name == fitted.target else "unchanged" if unchanged else f"moved to {fitted.target}"
        lines.append([escape(name), str(images), escape(fate)])
    return page + in_cell("Batches", table(lines, ["batch", "images fitted", "result"]))

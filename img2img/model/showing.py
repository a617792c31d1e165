"""A model as a notebook shows it."""

import sys
from html import escape

from img2img.methods import METHODS
from img2img.model.file import Direction, ModelCard
from img2img.runtime.markup import facts, in_cell, table


def card_in_cell(title: str, card: ModelCard, direction: str, **others: object) -> str:
    """Return a table of what a model is and does as HTML.

    Args:
        title: the kind of model.
        card: the header of its file.
        direction: the direction that calls without one take, which is bold.
        others: further entries below.
    """
    sizes = {name: sum(p.numel() for p in use.network.parameters()) for name, use in card.build().items()}
    lines = []
    for name, spec in card.directions.items():
        shown = f"<strong>{escape(name)}</strong>" if name == direction and len(card.directions) > 1 else escape(name)
        lines.append([shown, *map(escape, _ways(spec)), f"{sizes[name]:,}"])
    known = {
        "paper": paper(card.method),
        "from": card.source,
        "classes": ", ".join(card.classes),
        "vectors": f"of {card.vector} numbers" if card.vector else "",
        "trained at": f"{card.size} px" if card.size else "",
        "steps": f"{card.step:,}" if not card.source else "",
    }
    directions = table(lines, ["direction", "takes", "gives", "parameters"], "Directions")
    return in_cell(f"{title}: {card.method}", directions, facts(known | others))


def paper(method: str) -> str:
    """Return the citation of a method's paper, with which its file begins; "" if Python dropped docstrings."""
    text = sys.modules[METHODS[method].__module__].__doc__ or ""
    return " ".join(text.split("\n\n")[0].split())


def _ways(spec: Direction) -> tuple[str, str]:
    """Return what goes in and what comes out, in words."""
    gives = f"{spec.out_channels} × {spec.scale_out}"
    if not spec.takes_images:
        return f"noise of {spec.in_channels}" + (", a class" if spec.labelled else ""), gives
    return f"{spec.in_channels} × {spec.scale_in}" + (", a class" if spec.labelled else ""), gives

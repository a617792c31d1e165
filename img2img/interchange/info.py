"""A description of a model file from its header."""

import json
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from img2img.data.scale import Scale
from img2img.errors import quote
from img2img.model.file import read_card
from img2img.model.model import model_file


def model_info(path: str | Path) -> dict[str, Any]:
    """Return the header of a model file, or of a run folder's model, with parameter counts; JSON-serialisable.

    Loads no weights.

    Raises:
        ModelFileError: if there is no readable model.
    """
    file = model_file(path)
    card = read_card(file)
    parameters = dict.fromkeys(card.uses, 0)
    with safe_open(file, framework="pt") as tensors:
        for name in list(tensors.keys()):
            parameters[name.partition(".")[0]] += prod(tensors.get_slice(name).get_shape())
    directions = {name: asdict(spec) | {"parameters": parameters[name]} for name, spec in card.directions.items()}
    facts = asdict(card) | {"directions": directions, "classes": list(card.classes)}
    return {"file": str(file), "bytes": file.stat().st_size, **facts}


def print_info(info: dict[str, Any], as_json: bool = False) -> None:
    """Print the result of `model_info` as a table, or as JSON."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if as_json:
        print(json.dumps(info, indent=2))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows(info):
        table.add_row(*(Text(quote(cell)) for cell in row))
    Console(highlight=False).print(table)


def rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Format the result of `model_info` as labels and texts, for a table."""
    origin = "" if not info["source"] else ", as stated at the import" if info["size"] else "not known"
    size = f"{info['size']} px" if info["size"] else ""
    entries = [("file", f"{info['file']}, {info['bytes'] / 1e6:.1f} MB"), ("method", info["method"])]
    for name, spec in info["directions"].items():
        source = f"{spec['in_channels']}" if spec["takes_images"] else f"noise of {spec['in_channels']}"
        entries += [
            (name, f"{source} to {spec['out_channels']} channels, {spec['parameters']:,} parameters"),
            *([("  pixels in", str(Scale(**spec["scale_in"])))] if spec["takes_images"] else []),
            ("  pixels out", str(Scale(**spec["scale_out"]))),
        ]
    entries += [
        *([("classes", ", ".join(info["classes"]))] if info["classes"] else []),
        *([("vectors", f"of {info['vector']} numbers")] if info["vector"] else []),
        ("training size", size + origin),
        ("steps", "not known" if info["source"] else f"{info['step']:,}"),
        ("options", ", ".join(f"{name} {value}" for name, value in info["config"].items())),
        *(
            [("plug-ins", ", ".join(f"{option} of {x}" for option, x in info["plugins"].items()))]
            if info["plugins"]
            else []
        ),
        ("written by", f"img2img {info['version']}"),
        ("from", info["source"] or "a training run of img2img"),
    ]
    if info["source"] and (unknown := _unknown_options(info["config"])):
        entries.append(("not in such files", unknown))
    return entries


def _unknown_options(config: dict[str, Any]) -> str:
    """Return a description of the options that the tensors of an imported network do not reveal."""
    if config["generator"].startswith("unet"):
        return "whether it was trained with dropout"
    if config["padding"] == "reflect":
        return (
            "whether its blocks mirror at the border (reflect, assumed here) or replicate: --padding of img2img import"
        )
    return ""

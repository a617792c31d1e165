"""What a model file says of itself."""

import json
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from img2img.data.picture import shown
from img2img.data.scale import Scale
from img2img.model.file import read_card
from img2img.model.model import model_file


def model_info(path: str | Path) -> dict[str, Any]:
    """The header of a model file or of a run folder's model, with counts; json-serialisable. Loads no weights.

    Raises:
        ModelFileError: if there is no readable model.
    """
    file = model_file(path)
    card = read_card(file)
    parameters = dict.fromkeys(card.directions, 0)
    with safe_open(file, framework="pt") as tensors:
        for name in list(tensors.keys()):
            parameters[name.partition(".")[0]] += prod(tensors.get_slice(name).get_shape())
    directions = {name: asdict(spec) | {"parameters": parameters[name]} for name, spec in card.directions.items()}
    facts = asdict(card) | {"classes": list(card.classes), "directions": directions}
    return {"file": str(file), "bytes": file.stat().st_size, **facts}


def print_info(info: dict[str, Any], as_json: bool = False) -> None:
    """Prints `model_info` as a table, or as json."""
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
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console(highlight=False).print(table)


def rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    """`model_info` in words, for a table."""

    def pixels(scale: dict[str, Any]) -> str:
        return f"{Scale(**scale).dtype} {scale['low']:g} to {scale['high']:g}"

    stated = "" if not info["source"] else ", as stated at the import" if info["size"] else "not known"
    found = [("file", f"{info['file']}, {info['bytes'] / 1e6:.1f} MB"), ("method", info["method"])]
    for name, spec in info["directions"].items():
        source = f"{spec['in_channels']}" if spec["takes_images"] else f"noise of {spec['in_channels']}"
        found += [
            (name, f"{source} to {spec['out_channels']} channels, {spec['parameters']:,} parameters"),
            *([("  pixels in", pixels(spec["scale_in"]))] if spec["takes_images"] else []),
            ("  pixels out", pixels(spec["scale_out"])),
        ]
    found += [
        *([("classes", ", ".join(info["classes"]))] if info["classes"] else []),
        ("size trained at", f"{info['size']} px" * bool(info["size"]) + stated),
        ("steps", "not known" if info["source"] else f"{info['step']:,}"),
        ("options", ", ".join(f"{name} {value}" for name, value in info["config"].items())),
        ("written by", f"img2img {info['version']}"),
        ("from", info["source"] or "a training of img2img"),
    ]
    if info["source"] and (hidden := _hidden(info["config"])):
        found.append(("not in such files", hidden))
    return found


def _hidden(config: dict[str, Any]) -> str:
    """What the tensors of an imported network leave open."""
    if config["generator"].startswith("unet"):
        return "whether it was trained with dropout"
    if config["padding"] == "reflect":
        return (
            "whether its blocks mirror at the border (reflect, as taken here) or replicate: --padding of img2img import"
        )
    return ""

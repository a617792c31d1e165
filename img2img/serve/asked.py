"""What a request may ask for: options of `translate` and `sample`, as parameters of a request and of its schema."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Annotated, Any

from img2img.data.images import FORMATS
from img2img.errors import choose
from img2img.model.options import FolderOptions, LoadOptions, SampleOptions, TranslateOptions
from img2img.options.declared import Choice, Option, Within, option, options_in

MOST_DRAWN = 1000
WRITTEN = tuple(suffix[1:] for suffix, known in FORMATS.items() if known.kind != "zarr")  # OME-Zarr is a folder
ModelName = Annotated[str | None, "Name of the model; by default the first that fits."]
Drawn = Annotated[int, "Number of images; several come as a zip.", Within(1, MOST_DRAWN)]


def _chosen(group: type, *names: str) -> dict[str, Option]:
    return {name: options_in(group)[name] for name in names}


MODEL = {"model": option("model", ModelName, None)}
LOADED = _chosen(LoadOptions, "direction", "label")
COMPUTED = _chosen(TranslateOptions, "ensemble", "channels", "nan")
WRITING = _chosen(FolderOptions, "format", "quality", "pages", "seed")
DRAWING = _chosen(SampleOptions, "label", "truncation", "seed", "batch_size", "format")
TRANSLATE = MODEL | LOADED | COMPUTED | WRITING
SAMPLE = MODEL | {"n": option("n", Drawn, 1)} | DRAWING


@dataclass(frozen=True)
class Translation:
    """A translation as it is asked for; images that ask for the same share batches."""

    model: str
    direction: str | None
    label: str | None
    options: TranslateOptions
    files: FolderOptions


@dataclass(frozen=True)
class Drawing:
    """Images to draw from noise."""

    model: str
    n: int
    options: SampleOptions


def parsed(values: Mapping[str, str], known: Mapping[str, Option]) -> dict[str, Any]:
    """Return the parameters of a request that were given, each in its own type.

    Raises:
        ConfigError: if one is unknown, or its value does not fit.
    """
    found = {}
    for name, value in values.items():
        choose("parameter", name, known)
        found[name] = replace(known[name], flag=name).convert(value if value != "" else None)
    if found.get("format") not in (None, "auto"):
        found["format"] = choose("format", found["format"].lower().removeprefix("."), WRITTEN)
    return found


def pick_known(asked: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """Return those of `asked` that are in `known`."""
    return {name: asked[name] for name in known if asked.get(name) is not None}


def schema_of(known: Option) -> dict[str, Any]:
    """Return the JSON schema of an option."""
    limit = known.limit
    schema: dict[str, Any] = {"type": {int: "integer", float: "number", bool: "boolean"}.get(known.kind, "string")}
    if isinstance(limit, Choice) and limit.complete:
        schema["enum"] = list(limit.names)
    if isinstance(limit, Within):
        low = min(limit.low, limit.special[0]) if limit.special else limit.low
        schema |= {"exclusiveMinimum" if limit.above and not limit.special else "minimum": low}
        schema |= {"exclusiveMaximum" if limit.below else "maximum": limit.high}
    if known.default is not None and known.default is not MISSING:
        schema["default"] = known.default
    return schema

"""What the OpenAPI schema says of the paths that take files, beside what FastAPI finds out itself."""

from collections.abc import Mapping
from typing import Any

from img2img.options.declared import Option
from img2img.serve.asked import SAMPLE, TRANSLATE, schema_of

Responses = dict[int | str, dict[str, Any]]  # by status
BINARY = {"type": "string", "format": "binary"}
FILE_NAME = {
    "name": "name",
    "in": "query",
    "description": "Name of a file that is sent as the body; its suffix decides the format of the result.",
    "schema": {"type": "string"},
    "example": "a.tif",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "example": {"error": "It has 1 channel, but this model takes 3. Use --channels convert to make it colour."},
}
STATUSES = {
    400: "The request cannot be read.",
    401: "The token is missing or wrong.",
    403: "A page of another server asked.",
    404: "There is none of that name.",
    413: "The file is too large, in bytes or pixels.",
    415: "The file is of another kind.",
    421: "The name of the host is another.",
    422: "The image or a parameter does not fit the model.",
    429: "The queue is full; try again after Retry-After seconds.",
    500: "A bug of the server.",
    504: "The time was up.",
    507: "The memory or the disk of the server is full.",
}
HEADERS = {
    "Img2img-Outside": {
        "description": "Share of the values that are outside the range of the training data.",
        "schema": {"type": "number"},
    },
    "Img2img-Notes": {
        "description": "Sentences to know about the result, a JSON list in ASCII.",
        "schema": {"type": "string"},
    },
}
EXAMPLES = {"model": "h2z", "direction": "a2b", "format": "tif", "seed": 1, "n": 4}
PREVIEW = {
    "page": ("Number of the page.", {"type": "integer", "minimum": 0}, 0),
    "show": ("Channels, up to three.", {"type": "string"}, "0,2,1"),
    "low": ("Values shown as black: one, or one for each channel shown.", {"type": "string"}, "100"),
    "high": ("Values shown as white.", {"type": "string"}, "4000"),
    "pages": ("What pages are, images or channels.", {"type": "string", "enum": ["images", "channels"]}, "images"),
}


def _parameters(known: Mapping[str, Option]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "description": option.text, "schema": schema_of(option)}
        | ({"example": EXAMPLES[name]} if name in EXAMPLES else {})
        for name, option in known.items()
    ]


def _body(known: Mapping[str, Option]) -> dict[str, Any]:
    parts = {name: schema_of(option) | {"description": option.text} for name, option in known.items()}
    form = {"type": "object", "required": ["file"], "properties": {"file": BINARY, **parts}}
    return {
        "required": True,
        "description": "The bytes of an image, or a form with the part file; parameters may be parts too.",
        "content": {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": BINARY}},
    }


def responses(description: str, *kinds: str, headers: Mapping[str, Any] | None = None) -> Responses:
    """Return the answers of a path: a file of one of several media types, or an error."""
    good: dict[str, Any] = {"description": description, "content": {kind: {"schema": BINARY} for kind in kinds}}
    if headers:
        good["headers"] = dict(headers)
    errors: Responses = {
        status: {"description": text, "content": {"application/json": {"schema": ERROR}}}
        for status, text in STATUSES.items()
    }
    return {200: good, **errors}


TRANSLATING = {"parameters": [*_parameters(TRANSLATE), FILE_NAME], "requestBody": _body(TRANSLATE)}
SAMPLING = {"parameters": _parameters(SAMPLE)}
WATCHING = {
    "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "h2z"}]
}
PREVIEWING = {
    "parameters": [
        *(
            {"name": name, "in": "query", "description": text, "schema": kind, "example": example}
            for name, (text, kind, example) in PREVIEW.items()
        ),
        FILE_NAME,
    ],
    "requestBody": _body({}),
}

"""JSON that somebody else may have written: headers of models, and the files of a run or an equalizer. It is compared
once, where it comes in, with the types that the rest of the program relies on.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from img2img.errors import ModelFileError

LARGEST = 2**26  # bytes of a file: a record is text that a person could read
Record = TypeVar("Record")


def from_json(kind: type[Record], text: str | bytes, where: str) -> Record:
    """Return `text` as a `kind`, a dataclass whose fields, limits and own checks all hold.

    Args:
        kind: the dataclass.
        text: JSON; keys that `kind` does not have are passed over.
        where: what the text is, to begin a sentence with.

    Raises:
        ModelFileError: naming the first value that does not fit.
    """
    from pydantic import ValidationError  # only now: help and version do not need it

    try:
        return _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type, no-any-return]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"{part}: " for part in first["loc"]).encode("ascii", "backslashreplace").decode()
        reason = first["msg"].removeprefix("Value error, ")
        text = f"{where} is damaged, or was not written by img2img: {place[:200]}{reason}"
        raise ModelFileError(text.rstrip(".") + ".") from None


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_text(path: Path) -> bytes:
    """Return the content of a file that should hold a record.

    Raises:
        ModelFileError: if it is missing, cannot be read, is no regular file, or is far too large.
    """
    try:
        if not path.is_file():
            raise ModelFileError(f"There is no file {path}.")
        if path.stat().st_size > LARGEST:
            raise ModelFileError(f"{path} has more than {LARGEST // 2**20} MB; it was not written by img2img.")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error


def read_record(kind: type[Any], path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, with all its keys, once it is known to be a `kind`.

    Raises:
        ModelFileError: if it cannot be read, or is something else.
    """
    text = read_text(path)
    from_json(kind, text, str(path))
    record: dict[str, Any] = json.loads(text)
    return record

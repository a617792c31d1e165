"""JSON that somebody else may have written: headers of models, and the files of a run or an equalizer. It is validated
once, where it is read, against the types that the rest of the program relies on.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from img2img.errors import ModelFileError

MAX_BYTES = 2**26  # of a file: a record is text that a person could read
Record = TypeVar("Record")


def from_json(kind: type[Record], text: str | bytes, where: str) -> Record:
    """Parse JSON as a `kind`: a dataclass whose types, limits and own checks are all enforced.

    Args:
        text: JSON; keys that `kind` does not have are ignored.
        where: the source of the text, as the subject of an error sentence.

    Raises:
        ModelFileError: naming the first invalid value.
    """
    from pydantic import ValidationError  # imported late: help and version do not need it

    try:
        return _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type, no-any-return]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"{part}: " for part in first["loc"]).encode("ascii", "backslashreplace").decode()
        reason = first["msg"].removeprefix("Value error, ")
        sentence = f"{where} is damaged, or was not written by img2img: {place[:200]}{reason}"
        raise ModelFileError(sentence.rstrip(".") + ".") from None


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_text(path: Path) -> bytes:
    """Read the content of a file that should hold a record.

    Raises:
        ModelFileError: if it is missing, unreadable, not a regular file, or far too large.
    """
    try:
        if not path.is_file():
            raise ModelFileError(f"There is no file {path}.")
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError(f"{path} is larger than {MAX_BYTES // 2**20} MB, so img2img did not write it.")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error


def read_record(kind: type[Any], path: Path) -> dict[str, Any]:
    """Read the JSON object in a file, with all its keys, after validating it as a `kind`.

    Raises:
        ModelFileError: if it cannot be read, or is anything else.
    """
    text = read_text(path)
    from_json(kind, text, str(path))
    record: dict[str, Any] = json.loads(text)
    return record

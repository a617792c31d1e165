"""What clients send: one file, streamed into a private folder under a name of ours, and parameters."""

import asyncio
import re
import secrets
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from img2img.data.images import CONTENT, FORMATS, READ_ONLY, read_header
from img2img.data.picture import Header
from img2img.errors import DataError, TooLargeError, quote
from img2img.serve.line import remove_file

CHUNK = 2**20
FIELDS = 32  # parameters of a request
FIELD_BYTES = 4096
ACCEPTED = {*FORMATS, *READ_ONLY} - {".zarr"}
LONGEST = 200  # characters of a name
FORM = 2**16  # bytes that a form may have beside its file


class RefusedError(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """A file that was received.

    Attributes:
        path: where it is.
        name: the name that the client gave it, without folders.
        values: the parameters of the request, as texts.
    """

    path: Path
    name: str
    values: dict[str, str]


class Limited:
    """The body of a request, up to a number of bytes."""

    def __init__(self, receive: Receive, limit: float) -> None:
        self.receive, self.limit, self.left = receive, limit, limit

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise too_large(self.limit)
        return message


def too_large(limit: float) -> RefusedError:
    """Return the refusal of a file of more than `limit` bytes."""
    return RefusedError(413, f"The file has more than {limit / 1e6:g} MB, the limit of this server.")


async def receive(request: Request, folder: Path, limit: float) -> Upload:
    """Write the file of a request, which is its body or the part `file` of a form, into `folder`.

    Raises:
        RefusedError: if there is none, or it has more than `limit` bytes.
    """
    values = dict(request.query_params)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    allowed = limit + (FORM if is_form else 0)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > allowed:
        raise too_large(limit)
    request = Request(request.scope, Limited(request.receive, allowed))
    path = folder / secrets.token_hex(16)
    try:
        name = values.pop("name", "")
        if is_form:
            name = await _from_form(request, path, values, limit) or name
        else:
            with path.open("wb") as file:
                async for chunk in request.stream():
                    await asyncio.to_thread(file.write, chunk)
        name = PurePosixPath(name.replace("\\", "/")).name[-LONGEST:]
        suffix = await asyncio.to_thread(_suffix, path, name)
        renamed = path.rename(path.with_suffix(suffix))
        return Upload(renamed, name or f"image{suffix}", values)
    except BaseException:
        remove_file(path)
        raise


async def _from_form(request: Request, path: Path, values: dict[str, str], limit: float) -> str:
    """Write the part `file` of a form to `path`, add its other parts to `values`, and return the name of the file."""
    try:
        form = await request.form(max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    except HTTPException as error:
        raise RefusedError(400, f"The form cannot be read: {error.detail}") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RefusedError(
                400, "The form has no part called file with a file in it; curl -F file=@a.png makes one."
            )
        if (file.size or 0) > limit:
            raise too_large(limit)
        with path.open("wb") as target:
            while chunk := await file.read(CHUNK):
                await asyncio.to_thread(target.write, chunk)
        values |= {name: value for name, value in form.items() if isinstance(value, str)}
        return file.filename or ""
    finally:
        await form.close()


def _suffix(path: Path, name: str) -> str:
    """Return the suffix of a file, which decides the format of its result: that of its name, or of its content.

    Raises:
        RefusedError: if it is of no kind that is read.
    """
    suffix = PurePosixPath(name).suffix
    if suffix.lower() in ACCEPTED:
        return suffix
    with path.open("rb") as file:
        start = file.read(64)
    kind = next((kind for first, (kind, _) in CONTENT.items() if re.match(first, start, re.DOTALL)), None)
    if kind is None or suffix:
        listed = ", ".join(sorted(s[1:] for s in ACCEPTED))
        raise RefusedError(415, f"Files are taken as {listed}; this one is {'of another kind' if start else 'empty'}.")
    return f".{kind.lower()}"


def header_of(upload: Upload, pages: str, megapixels: float) -> Header:
    """Return the header of an uploaded file.

    Raises:
        RefusedError: if it is no image, or has too many pixels.
    """
    try:
        return read_header(upload.path, pages, int(megapixels * 1e6))
    except TooLargeError:
        raise RefusedError(
            413, f"{quote(upload.name)} has more than {megapixels:g} megapixels, the limit of this server."
        ) from None
    except DataError as error:
        raise RefusedError(422, words(str(error), upload)) from None


def words(text: str, upload: Upload) -> str:
    """Return a sentence with the name of the client's in place of ours."""
    return text.replace(str(upload.path), quote(upload.name))

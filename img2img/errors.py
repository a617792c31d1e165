"""What can go wrong through no fault of the code: every error here is one sentence a user can act on."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, overload

Entry = TypeVar("Entry")

MAX_LISTED = 5  # names that an error lists
DISTRIBUTION = "img2img-gan"  # the name to install it by; `img2img` on PyPI is another project


def install_hint(what: str, package: str, extra: str) -> str:
    """Return the sentence that names the package `what` needs and the extra of this project that installs it."""
    return f"{what} needs {package}. Install it with: {pip_install(extra=extra)}."


def pip_install(*packages: str, extra: str = "") -> str:
    """Return the command that installs packages, or an extra of this project."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {' '.join(packages)}"


def printable(text: str) -> str:
    """Return the text on one line, with control sequences and unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


STORED = re.compile(r"((?!file:|local:)[A-Za-z][A-Za-z0-9+.-]+:)/(?=[^/])")  # the beginning of a URL as a path


def quote(path: Path | str) -> str:
    """Return a path, or other text of unknown origin, on one line: as it is if printable, else quoted and escaped."""
    text = _url(path) if isinstance(path, Path) else path
    return text if text.isprintable() else ascii(text)


def is_url(path: Path) -> bool:
    """Return whether a path stands for a URL: s3://bucket/x as a path has one slash less."""
    return STORED.match(path.as_posix()) is not None


def _url(path: Path) -> str:
    return STORED.sub(r"\1//", path.as_posix(), 1) if is_url(path) else str(path)


class Img2ImgError(Exception):
    """Base of all errors a user can cause. The command line prints it as one line and exits with 2.

    The message is always a single printable line, whatever characters a name in it contains, so that a terminal
    prints it and does not obey it.

    Attributes:
        said: whether another process on this machine prints it.
    """

    said = False

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(Img2ImgError):
    """An option that does not exist, does not fit the others, or does not fit the data."""


class DataError(Img2ImgError):
    """Images that are missing, unreadable, or do not fit together."""


class TooLargeError(DataError):
    """An image of more pixels than the limit allows.

    Attributes:
        values: number of its values, of all pixels and channels.
    """

    def __init__(self, message: str, values: int) -> None:
        super().__init__(message)
        self.values = values


class NoImagesError(DataError):
    """A folder that contains no images."""


class StoreError(DataError):
    """A failure of an object store or a server: of one object in it, or of the whole.

    Attributes:
        absent: whether there is no such object.
    """

    def __init__(self, message: str, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


class InputError(DataError, ValueError):
    """An array, or its description, that does not fit: shape, channels, values, names."""


class InputTypeError(DataError, TypeError):
    """An array whose type or range of values differs from that of the fitted data."""


class UnknownBatchError(InputError):
    """A batch that was not present when the equalizer was fitted."""


class ConfoundedDesignError(InputError):
    """Batches that differ in content, so that equalizing them would remove that difference."""


class ModelFileError(Img2ImgError):
    """A file that is not a model, is damaged, or was written by another program."""


class TrainingError(Img2ImgError):
    """A run that cannot continue: the loss is not finite, or the disk or the memory is full."""


class Interrupted(Img2ImgError):
    """A run stopped by a signal, saved, and ready to be resumed.

    Attributes:
        signal: the number of the signal that stopped it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def first_line(error: BaseException) -> str:
    """Return the first line of the message of any exception; its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(items: Iterable[str]) -> str:
    """Return at most five of the items in a list, and the number of the others."""
    names = list(items)
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def counted(n: int, one: str, several: str) -> str:
    """Return the count with its noun: "1 image is" or "2 images are", from `one` "image is", `several` "images are"."""
    return f"{n} {one if n == 1 else several}"


@overload
def choose(kind: str, name: str, known: Mapping[str, Entry], context: str = "") -> Entry: ...
@overload
def choose(kind: str, name: str, known: Sequence[str], context: str = "") -> str: ...
def choose(kind: str, name: str, known: Mapping[str, Entry] | Sequence[str], context: str = "") -> Entry | str:
    """Look up `name` in a table, or check it against a list of names.

    Args:
        kind: the kind of name, for the error: "metric", or "--norm" for the value of an option.
        name: the name to look up.
        known: a table, whose entry is returned, or names, of which `name` itself is returned.
        context: where the name was given, for the error, such as " for sampling".

    Raises:
        ConfigError: if the name is unknown; the message suggests the nearest name and lists them all.
    """
    table = known if isinstance(known, Mapping) else {entry: entry for entry in known}
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"Unknown {kind} '{name}'{context}.{hint} Choose from: {', '.join(table)}.")

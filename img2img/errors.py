"""What can go wrong through no fault of the code: every error here is one sentence a user can act on."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")

DISTRIBUTION = "img2img-gan"  # the name to install it by; `img2img` on PyPI is another project


def install_hint(what: str, package: str, extra: str) -> str:
    """Return the sentence that says which package `what` needs, and the extra of this project that brings it."""
    return f"{what} needs {package}. Install it with: pip install '{DISTRIBUTION}[{extra}]'."


def printable(text: str) -> str:
    """Return the text on one line, with what a terminal would obey or cannot show written out as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Img2ImgError(Exception):
    """Base of all errors a user can cause. The command line prints it as one line and exits with 2.

    Whatever characters a name in it has, a message is one line that a terminal prints and does not obey.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(Img2ImgError):
    """An option that does not exist, does not fit the others, or does not fit the data."""


class DataError(Img2ImgError):
    """Images that are missing, unreadable, or do not fit together."""


class InputError(DataError, ValueError):
    """An array, or its description, that does not fit: shape, channels, values, names."""


class InputTypeError(DataError, TypeError):
    """An array of another type, or range of values, than what was fitted."""


class UnknownBatchError(InputError):
    """A batch that was not there when the equalizer was fitted."""


class ConfoundedDesignError(InputError):
    """Batches that differ in what they hold, so that equalizing them would remove it."""


class ModelFileError(Img2ImgError):
    """A file that is not a model, is damaged, or was written by something else."""


class TrainingError(Img2ImgError):
    """A run that cannot go on: the loss is not finite, the disk or the memory is full."""


class Interrupted(Img2ImgError):
    """A run stopped by a signal, saved, and ready to be resumed.

    Attributes:
        signal: the number of the signal that stopped it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def counted(n: int, one: str, several: str) -> str:
    """Return "1 image is" or "2 images are", of `one` "image is" and `several` "images are"."""
    return f"{n} {one if n == 1 else several}"


def choose(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Look `name` up in `table`; an unknown name is answered with the nearest one and the whole list.

    Raises:
        ConfigError: if `name` is not in the table.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"There is no {kind} '{name}'.{hint} Choose from: {', '.join(table)}.")

"""Retrying reads that a drive, above all a network drive, fails to serve at first."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from img2img.errors import DataError

WAITS = (0.1, 0.5, 2.0)  # seconds before each further attempt
PERMANENT = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}

Result = TypeVar("Result")


def is_transient(error: DataError) -> bool:
    """Return whether the system failed to deliver the bytes, as opposed to the bytes not being an image."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno is not None and cause.errno not in PERMANENT


def read_with_retries(read: Callable[[int], Result], i: int) -> Result:
    """Return `read(i)`, retried for a few seconds while the system fails to deliver the bytes."""
    for wait in WAITS:
        try:
            return read(i)
        except DataError as error:
            if not is_transient(error):
                raise
        time.sleep(wait)
    return read(i)

"""Reading once more what a drive, a network's above all, does not give at the first time of asking."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from img2img.errors import DataError

WAITS = (0.1, 0.5, 2.0)  # seconds before each further attempt
LASTING = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}

Read = TypeVar("Read")


def is_transient(error: DataError) -> bool:
    """Whether the system failed to give the bytes, rather than that the bytes are no image."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno is not None and cause.errno not in LASTING


def read_with_retries(read: Callable[[int], Read], i: int) -> Read:
    """`read(i)`, tried again for a few seconds while the system does not give the bytes."""
    for wait in WAITS:
        try:
            return read(i)
        except DataError as error:
            if not is_transient(error):
                raise
        time.sleep(wait)
    return read(i)

"""Output that may fail: a reader that has quit, a closed terminal or a full disk is no reason to stop the work."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console


class Forgiving:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, RuntimeError):  # broken pipe or full disk; closed; reentered by a signal
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, RuntimeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_quiet = False


def stderr_console(quiet: bool = False) -> Console:
    """Return the console on which a run reports to its user."""
    return Console(file=Forgiving(sys.stderr), quiet=quiet or _quiet, highlight=False)  # type: ignore[arg-type]


@contextmanager
def quietly() -> Iterator[None]:
    """Show no progress within the block."""
    global _quiet
    _quiet, before = True, _quiet
    try:
        yield
    finally:
        _quiet = before


@contextmanager
def forgiving_output() -> Iterator[None]:
    """Drop output that fails, within the block and at exit, so that it does not decide the exit code."""
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        # None means that the stream is closed, as by >&-
        setattr(sys, name, Forgiving(Path(os.devnull).open("w") if stream is None else stream))  # noqa: SIM115
    try:
        yield
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)
            if stream is not None:
                _drop_unwritable(stream)


def _drop_unwritable(stream: Any) -> None:
    """Redirect a stream that cannot be flushed to the null device: Python flushes at exit, and exits with 120 if that
    fails.
    """
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)

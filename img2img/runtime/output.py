"""Output that may fail: a reader that has gone, a closed terminal or a full disk is no reason to end the work."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console


class Forgiving:
    """A text stream that loses what cannot be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, RuntimeError):  # gone or full; closed; entered again by a signal
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, RuntimeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def stderr_console(quiet: bool = False) -> Console:
    """What a run tells its user on."""
    return Console(file=Forgiving(sys.stderr), quiet=quiet, highlight=False)  # type: ignore[arg-type]


@contextmanager
def forgiving_output() -> Iterator[None]:
    """Within the block, output that fails is lost; afterwards too, so that it does not decide the exit code."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        # None: closed, as by >&-
        setattr(sys, name, Forgiving(Path(os.devnull).open("w") if stream is None else stream))  # noqa: SIM115
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
            if stream is not None:
                _drop_unwritable(stream)


def _drop_unwritable(stream: Any) -> None:
    """Python flushes at its end, and exits with 120 where that fails."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)

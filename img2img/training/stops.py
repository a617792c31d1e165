"""Stop signals of a run: SIGINT, SIGTERM and SIGHUP let the current step finish; a second Ctrl-C does not."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
ONE_PRESS = 1.0  # seconds: torchrun forwards a Ctrl-C to processes that have already received it from the terminal


class Stops:
    """A context manager that receives the stop signals.

    Attributes:
        received: the numbers of the signals received, in order.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.received: list[int] = []
        self._pressed = 0.0
        self._waiting = False

    def __enter__(self) -> "Stops":
        self._previous: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # outside the main thread the handlers stay unchanged
            for number in SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: Any) -> None:
        first, now = not self._pressed, time.monotonic()
        again = number == signal.SIGINT and not first and now - self._pressed > ONE_PRESS
        self.received.append(number)
        if number == signal.SIGINT and first:
            self._pressed = now
        if self._waiting or again:
            raise KeyboardInterrupt
        if number == signal.SIGINT and first:
            self.say("stopping after this step; press Ctrl-C again to stop now")

    @contextlib.contextmanager
    def waiting(self, enabled: bool = True) -> Iterator[None]:
        """Let a signal raise KeyboardInterrupt at once, within a block in which no step is in progress."""
        self._waiting = enabled
        try:
            if enabled and self.received:
                raise KeyboardInterrupt
            yield
        finally:
            self._waiting = False

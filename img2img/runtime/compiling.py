"""Whether to compile networks: tried where much work is left, kept where that is faster."""

import contextlib
import math
import statistics
from collections.abc import Callable, Generator, Iterator
from typing import Any

from img2img.runtime.device import Runtime

WORTH = 3600.0  # seconds that are still to come: compiling takes one or two minutes
FASTER = 1.05  # what is not faster by this when compiled is not kept so
ROUNDS = 3, 50  # at least and at most so many pieces of work of each kind; two seconds of them are enough
WARM_UP = 2  # pieces that are not timed: they choose kernels, or compile

Failed = Callable[[Exception], None]
Switch = Callable[[bool], None]


class Compiling:
    """Compiles networks from the first piece of work on, or not at all, or where that turns out to be faster.

    Undecided, a job of which more than `WORTH` seconds are left after its first pieces tries it: compiled and other
    pieces take turns, so that a machine that others use as well slows both, and the medians decide.

    Attributes:
        decided: whether networks are compiled; None while that is open.
    """

    def __init__(self, decided: bool | None, turn_on: Callable[[Failed], Switch], runtime: Runtime) -> None:
        """
        Args:
            decided: whether to compile; None finds out.
            turn_on: compiles, and returns what turns it off and on again. It gets what is to be told of failures.
            runtime: the device, and the other processes, which decide alike.
        """
        self.decided, self.turn_on, self.runtime = decided, turn_on, runtime
        self.say: Callable[[str], Any] = print
        self._broken = False
        self._trial = self._try()

    def begin(self, say: Callable[[str], Any]) -> None:
        self.say = say
        if self.decided:
            self.turn_on(self._failed)
        elif self.decided is None:
            next(self._trial)

    @contextlib.contextmanager
    def step(self, work: float, left: float) -> Iterator[None]:
        """Around each piece, which does `work`; so much is `left` after it, in the same unit."""
        if self.decided is not None:
            yield
            return
        begin = self.runtime.now()
        yield
        with contextlib.suppress(StopIteration):
            self._trial.send(((self.runtime.now() - begin) / work, left))

    def _try(self) -> Generator[None, tuple[float, float], None]:
        """Receives the seconds of each piece per work, and the work that is left, until it has decided."""
        for _ in range(WARM_UP):
            yield
        seconds, left = yield
        seconds = self._agreed(seconds)
        if seconds * left < WORTH:
            self.decided = False
            return
        self.say("Compiling the networks to see whether that is faster")
        compiled = self.turn_on(self._failed)
        for _ in range(WARM_UP):
            yield
        rounds = min(max(math.ceil(2 / seconds), ROUNDS[0]), ROUNDS[1])
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for how in times:
                compiled(how and not self._broken)
                seconds, left = yield
                times[how].append(seconds)
        gain = statistics.median(times[False]) / statistics.median(times[True])
        gain = self._agreed(0.0 if self._broken else gain)
        self.decided = gain >= FASTER
        compiled(self.decided)
        if not self._broken:
            kept = "kept" if self.decided else f"not kept, which takes {FASTER}"
            self.say(f"Compiled, steps are {gain:.2f} times as fast: {kept}")

    def _agreed(self, value: float) -> float:
        """The mean over all processes, which must decide alike."""
        return float(statistics.mean(self.runtime.gather(value)))

    def _failed(self, error: Exception) -> None:
        self._broken = True
        if self.decided:  # a trial goes on to its end, where the other processes wait
            self.decided = False
        self.say(f"Compiling failed, and the run goes on without: {reason(error)}")


def reason(error: BaseException) -> str:
    """Why compiling failed, in one line."""
    error = getattr(error, "inner_exception", error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]

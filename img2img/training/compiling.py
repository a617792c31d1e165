"""Whether a run compiles its networks: tried where the run is long, kept where it is faster."""

import contextlib
import math
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator

import torch
from torch import nn

from img2img.networks.regions import compile_parts
from img2img.runtime import Runtime
from img2img.training.config import COMPILE, TrainConfig

WORTH = 3600.0  # seconds that a run still has to take: compiling takes one or two minutes
FASTER = 1.05  # compiled steps that are not faster by this are not kept
ROUNDS = 3, 50  # at least and at most so many steps of each kind; two seconds of them are enough
WARM_UP = 2  # steps that are not timed: they choose kernels, or compile
# Where it has been measured that compiling does not pay, it is not tried (docs/benchmarks.md, "Training").
NEVER = {("cpu", torch.float32)}


class Compiling:
    """Compiles a run's networks from its first step on, or not at all, or where that turns out to be faster.

    With "auto", a run of which more than `WORTH` seconds are left after its first steps tries it: steps that are
    compiled and steps that are not take turns, so that a machine that others use as well slows both, and the medians
    decide. The training is the same either way, up to rounding; so a run that must be bit-equal to others
    (`deterministic`) does not try. The decision is saved with the run, and a resumed one follows it.

    Attributes:
        decided: whether networks are compiled; None while an "auto" has not decided.
    """

    def __init__(self, config: TrainConfig, networks: Iterable[nn.Module], runtime: Runtime) -> None:
        self.networks, self.runtime = list(networks), runtime
        self.decided: bool | None = COMPILE[config.compile]
        if self.decided is None and (config.deterministic or (runtime.device.type, runtime.dtype) in NEVER):
            self.decided = False
        self.say: Callable[[str], None] = print
        self._broken = False
        self._trial = self._try()

    def words(self) -> list[str]:
        """For the line at the start of a run; what an "auto" finds is said later."""
        layout = ["channels_last"] if self.runtime.dtype is torch.bfloat16 else []
        return [*layout, "compiled blocks"] if self.decided else layout

    def begin(self, say: Callable[[str], None]) -> None:
        self.say = say
        if self.decided:
            compile_parts(self.networks, self._failed)
        elif self.decided is None:
            next(self._trial)

    @contextlib.contextmanager
    def step(self, work: float, left: float) -> Iterator[None]:
        """Around each step, which does `work`; so much is `left` after it, in the same unit."""
        if self.decided is not None:
            yield
            return
        begin = self.runtime.now()
        yield
        with contextlib.suppress(StopIteration):
            self._trial.send(((self.runtime.now() - begin) / work, left))

    def _try(self) -> Generator[None, tuple[float, float], None]:
        """Receives the seconds of each step per work, and the work that is left, until it has decided."""
        for _ in range(WARM_UP):
            yield
        seconds, left = yield
        seconds = self._agreed(seconds)
        if seconds * left < WORTH:
            self.decided = False
            return
        self.say("Compiling the networks to see whether that is faster")
        compiled = compile_parts(self.networks, self._failed)
        for _ in range(WARM_UP):
            yield
        rounds = min(max(math.ceil(2 / seconds), ROUNDS[0]), ROUNDS[1])
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for how in times:
                compiled(how)
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
        error = getattr(error, "inner_exception", error)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.say(f"Compiling failed, and the run goes on without: {reason}")

"""Whether a run compiles its networks: what that costs, what it saves, and the rule."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from img2img.networks.regions import Work, compile_parts
from img2img.runtime import Runtime
from img2img.training.config import COMPILE

REPAID = 10  # compiling may cost a tenth of what it saves over the whole run


@dataclass(frozen=True)
class Gain:
    """Seconds that compiling takes, and seconds that it saves for each TFLOP of training."""

    costs: float
    saves: float


# By device and precision. Where there is no entry, "auto" does not compile: nobody has measured that it pays.
# A CPU without bf16 units (AVX2, torch 2.14, one thread): CycleGAN compiled was 0.86 times as fast at 64 px and 1.13
# times at 128, one round each, after 75 to 115 s of compiling: not sure enough.
GAINS: dict[tuple[str, str], Gain] = {}


def repays(runtime: Runtime, tflop: float) -> bool:
    """Whether compiling is repaid `REPAID` times by a run of so many TFLOP."""
    gain = GAINS.get((runtime.device.type, "bf16" if runtime.dtype is torch.bfloat16 else "fp32"))
    return gain is not None and tflop * gain.saves >= REPAID * gain.costs


class Compiling:
    """Compiles a run's networks from its first step on, or after it, or not at all.

    With "auto" the first step is counted, and what the whole run will multiply decides. That depends on the options
    and the machine alone, not on how long a step took, so equal runs go the same way; and the decision is saved with
    the run, so that a resumed one does.

    Attributes:
        decided: whether networks are compiled; None before the first step of an "auto".
    """

    def __init__(self, choice: str, networks: Iterable[nn.Module], runtime: Runtime) -> None:
        self.decided: bool | None = COMPILE[choice]
        self.networks, self.runtime = list(networks), runtime
        self.say: Callable[[str], None] = print

    def words(self) -> list[str]:
        """For the line at the start of a run; with an "auto" that compiles, another follows the first step."""
        layout = ["channels_last"] if self.runtime.dtype is torch.bfloat16 else []
        return [*layout, "compiled blocks"] if self.decided else layout

    def begin(self, say: Callable[[str], None]) -> None:
        self.say = say
        if self.decided:
            compile_parts(self.networks, self._failed)

    @contextlib.contextmanager
    def deciding(self, times: float) -> Iterator[None]:
        """Around each step; a run does the work of the first one `times` over."""
        if self.decided is not None:
            yield
            return
        with Work(self.networks) as work:
            yield
        tflop = work.flop * times / 1e12
        self.decided = repays(self.runtime, tflop)
        if self.decided:
            self.say(f"compiling the networks, which {tflop:.3g} TFLOP of training repay")
            compile_parts(self.networks, self._failed)

    def _failed(self, error: Exception) -> None:
        self.decided = False
        error = getattr(error, "inner_exception", error)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.say(f"Compiling failed, and the run goes on without: {reason}")

"""Processes that train together: their meeting, whether all are still there, and an end for all when one is lost.

`torchrun` starts the processes and keeps a store of small values that all can reach. Each process leaves a sign of life
there every second and looks for that of the next one. Whoever misses one, or fails, leaves the sentence that all end
with. So nobody waits for a process that is gone, on whichever machine it was.
"""

import atexit
import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from img2img.errors import ConfigError, Img2ImgError, Interrupted, TrainingError, first_line, printable
from img2img.runtime.device import Runtime
from img2img.runtime.output import Forgiving

BEAT = 1.0  # seconds between signs of life
LOST = 20.0  # seconds without one after which a process counts as lost
HURRIED = 5.0  # seconds in place of that once a connection broke
GRACE = 10.0  # seconds that a process has to end by itself; with LOST, about the 30 after which torchrun kills
TIMEOUT = timedelta(minutes=30)  # for all to come together, and for an exchange: process 0 may be scoring meanwhile
LEFT = "left"  # the last sign of a process that has done its part
AGAIN = "the same command on every node resumes from the last checkpoint"

stores: Any = dist  # whose stores have no types
_trainings = itertools.count()
_current: "Peers | None" = None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Train together with the processes that `torchrun` started, if it did, within the block; end if one is lost.

    Raises:
        TrainingError: if another process is lost or has failed; so does every process.
    """
    global _current
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or _current is not None:
        yield
        return
    _current = peers = Peers()
    try:
        yield
    except BaseException as error:
        cause = peers.explain(error)
        if isinstance(cause, Img2ImgError):
            cause.said = not peers.speaks()
        _end_soon()
        if cause is error:
            raise
        raise cause from error
    finally:
        peers.leave()
        _current = None


def meet(runtime: Runtime) -> None:
    """Let this process exchange values with the others, once all have come.

    Raises:
        TrainingError: if they do not.
    """
    if runtime.world_size == 1 or dist.is_initialized():
        return
    try:
        dist.init_process_group("nccl" if runtime.device.type == "cuda" else "gloo", timeout=TIMEOUT)
    except dist.DistError as error:
        raise TrainingError(
            f"The {runtime.world_size} processes did not come together; start the same command with the same --nnodes "
            f"and --master-addr on every node. {first_line(error)}"
        ) from error
    atexit.register(dist.destroy_process_group)


def check() -> None:
    """Raise TrainingError if another process is lost or has failed."""
    if _current is not None and _current.verdict:
        raise TrainingError(_current.verdict)


def leave() -> None:
    """State that this process has done its part, so that its end is no loss."""
    if _current is not None:
        _current.leave()


def agree(runtime: Runtime, facts: Mapping[str, object], advice: str) -> None:
    """Raise ConfigError, in every process, unless all have the same `facts`, by title."""
    everyone = runtime.gather((socket.gethostname(), {title: str(value) for title, value in facts.items()}))
    first = everyone[0][1]
    for rank, (host, own) in enumerate(everyone):
        for title in first:
            if own.get(title) != first[title]:
                raise ConfigError(
                    f"Process {rank} on {host} has another {title} than process 0, {own.get(title)} and not "
                    f"{first[title]}; {advice}."
                )


def first_alone(runtime: Runtime, work: Callable[[], None]) -> None:
    """Let process 0 do some work while the others wait, however long it takes."""
    if runtime.is_main:
        work()
    if runtime.world_size > 1:
        assert _current is not None
        _current.wait_for(f"work {next(_current.works)}", runtime.is_main)


class Peers:
    """The processes of one training, as one of them sees them.

    Attributes:
        verdict: the sentence that all end with; "" while all is well.
    """

    def __init__(self) -> None:
        env = os.environ
        self.rank, self.size = int(env["RANK"]), int(env["WORLD_SIZE"])
        self.verdict, self.works = "", itertools.count()
        self.address, self.port = env.get("MASTER_ADDR", "localhost"), int(env.get("MASTER_PORT", 29500))
        local, beside = int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", 1))
        self.node = env.get("GROUP_RANK", str(self.rank))
        self.sibling = self.rank - local + (local + 1) % beside  # the next one on this machine
        self.next, self.sign, self.since = (self.rank + 1) % self.size, "", 0.0
        self.name = f"img2img/{env.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_trainings)}"
        self.parent = os.getppid() if "TORCHELASTIC_RUN_ID" in env else 0  # torchrun of this machine
        self.host = socket.gethostname()
        self.store: Any = None  # once it is reached, and while it answers
        self.heard = 0.0  # when the store last answered
        self.over = threading.Event()  # this process has left
        self.silent = False  # another process of this machine says the verdict
        self.beating = threading.Thread(target=self._beat, daemon=True)
        self.beating.start()
        threading.Thread(target=self._guard, daemon=True).start()

    def leave(self) -> None:
        self.over.set()
        if self.store is not None:
            self.beating.join(GRACE)

    def explain(self, error: BaseException) -> BaseException:
        """Return the error that this process ends with, and let the others know."""
        if self.over.is_set():
            return error
        broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        if broken or self.verdict:
            with contextlib.suppress(ValueError):  # of another thread than the main one
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun asks for an end that is coming anyway
        ended = isinstance(error, Interrupted) and error.signal == signal.SIGTERM  # by torchrun, if another one failed
        if broken:
            self._set("broken", "yes")
        self._wait(lambda: bool(self.verdict), LOST if broken else 2 * BEAT if ended else 0.0)
        if broken and not self.verdict:
            self.verdict = f"The connection to another process broke: {first_line(error)}; {AGAIN}."
        if self.verdict and (ended or not isinstance(error, Img2ImgError)):
            self._end(self.verdict)
            return TrainingError(self.verdict)
        reason = str(error) if isinstance(error, Img2ImgError) else f"{type(error).__name__}: {first_line(error)}"
        self._end(f"Process {self.rank} on {self.host} ended: {reason}")
        return error

    def speaks(self) -> bool:
        """Return whether it is for this process to say why all end: once per machine is enough."""
        try:
            return self.store is None or self._first(f"said {self.node}", str(self.rank)) == str(self.rank)
        except RuntimeError:  # the store is gone as well
            return True

    def wait_for(self, mark: str, own: bool) -> None:
        """Wait until the process that has the `mark` as its `own` sets it."""
        self._wait(lambda: self.store is not None, TIMEOUT.total_seconds())
        if own:
            self._set(mark, "done")
        while not self._get(mark):
            check()
            time.sleep(BEAT)

    def _beat(self) -> None:
        """Leave signs of life, and look for those of others, until this process leaves."""
        try:
            store = stores.TCPStore(self.address, self.port, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
            self.store = stores.PrefixStore(self.name, store)
            self._set(f"host {self.rank}", f"{self.host} {os.getpid()}")
            for count in itertools.count():
                self._set(f"sign {self.rank}", str(count))
                self._look()
                self.heard = time.monotonic()
                if self.over.wait(BEAT):
                    break
            self._set(f"sign {self.rank}", LEFT)
        except RuntimeError:
            self.store = None
            if not self.over.is_set():
                self._no_store()

    def _look(self) -> None:
        self.verdict = self._get("end") or self.verdict
        if self.verdict:
            self._end(self.verdict)
            self.silent = not self.speaks()
            return
        if self._is_gone(self.sibling) and self._get(f"sign {self.sibling}") != LEFT:
            self._end(f"Process {self.sibling} on {self.host} was killed; {AGAIN}.")
        while (sign := self._get(f"sign {self.next}")) == LEFT and self.next != self.rank:
            self.next, self.sign = (self.next + 1) % self.size, ""
        hurried = self._get("broken")
        if sign != self.sign:
            self.sign, self.since = sign, time.monotonic()
        elif sign and self.next != self.rank and time.monotonic() - self.since > (HURRIED if hurried else LOST):
            host = self._get(f"host {self.next}").split()[0]
            self._end(f"Process {self.next} on {host} no longer answers; {AGAIN}.")

    def _is_gone(self, rank: int) -> bool:
        """Return whether a process of this machine has ended."""
        host = self._get(f"host {rank}")
        if os.name != "posix" or not host:
            return False
        try:
            os.kill(int(host.split()[1]), 0)
        except OSError as error:
            return isinstance(error, ProcessLookupError)
        return False

    def _guard(self) -> None:
        """End this process if it does not do so by itself when it should, e.g. because it waits for one that is gone.

        It never asks the store, which may not answer.
        """
        while not self.verdict:
            if self.over.wait(BEAT):
                return
            if self.parent and os.getppid() != self.parent:
                self.verdict = f"torchrun on {self.host} was killed; {AGAIN}."
            elif self.heard and time.monotonic() - self.heard > LOST:
                self._no_store()
        if self.over.wait(GRACE):
            return
        if not self.silent:
            print(f"img2img: {printable(self.verdict)}", file=Forgiving(sys.stderr), flush=True)
        os._exit(2)

    def _no_store(self) -> None:
        self.verdict = self.verdict or f"{self.address}, where the processes meet, no longer answers; {AGAIN}."

    def _end(self, sentence: str) -> None:
        """Let all processes end with a sentence, unless another one has been given to them."""
        self.verdict = self.verdict or sentence
        with contextlib.suppress(RuntimeError):
            self.verdict = self._first("end", self.verdict)

    def _wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not reached() and time.monotonic() < until:
            time.sleep(BEAT / 10)
        return reached()

    # The store: values by name, of which one that is missing is "".

    def _set(self, name: str, value: str) -> None:
        if (store := self.store) is not None:
            store.set(name, value)

    def _get(self, name: str) -> str:
        store = self.store
        return str(store.get(name), "utf-8") if store is not None and store.check([name]) else ""

    def _first(self, name: str, value: str) -> str:
        """Set a value unless there is one; return that which is there now."""
        store = self.store
        return value if store is None else str(store.compare_set(name, "", value), "utf-8")


def _end_soon() -> None:
    """At exit, do not wait long for connections to processes that are gone."""

    def end() -> None:
        time.sleep(GRACE)
        os._exit(2)

    atexit.register(lambda: threading.Thread(target=end, daemon=True).start())

"""Worker processes that prepare batches: starting them, limiting them to shared memory, shielding them from signals."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_starting = threading.RLock()


class _Worker(SpawnProcess):
    """A process that leaves signals to its parent, which terminates it, and that does not rerun the user's script."""

    def start(self) -> None:
        with _stop_signals_blocked(), _main_hidden():
            super().start()
        self._popen.terminate = self._popen.kill  # type: ignore[attr-defined]  # SIGTERM is ignored


class Context(SpawnContext):
    """The multiprocessing context in which a DataLoader starts its workers."""

    Process = _Worker

    def __init__(self) -> None:
        with _stop_signals_blocked():  # or closing the terminal would end the tracker of shared memory
            getattr(resource_tracker, "ensure_running", lambda: None)()


def shield(_: int = 0) -> None:
    """Make a worker ignore the signals that a terminal or a scheduler sends to the whole process group, and end with
    its parent, without a word even where a batch is being handed over.
    """
    sys.excepthook = _except_hang_ups
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if parent := parent_process():
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End this process when `parent` has ended, were it before the call: PyTorch's watchdog misses one that is killed
    while its workers start.
    """
    parent.join()
    os._exit(1)


def _except_hang_ups(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Delay stop signals until the block ends; a process started in it inherits the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Hide the source of the main module, or a new process would start by running it: the user's training script."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    with _starting:
        hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        main["__spec__"] = None
        try:
            yield
        finally:
            main.update(hidden)


@contextmanager
def ignore_worker_deaths() -> Iterator[None]:
    """Keep a worker's death from raising an exception in mid-step; the code that waits for its batch notices it."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous or signal.SIG_DFL)


def free_shared_memory() -> int | None:
    """Return the bytes of shared memory available to this process, or None where it is not limited separately.

    In a container it is 64 MB by default.
    """
    if not SHARED_MEMORY.exists():
        return None
    return shutil.disk_usage(SHARED_MEMORY).free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def fitting(workers: int, prefetch: int, batch_bytes: int) -> tuple[int, int]:
    """Reduce the number of workers, and of batches that each prepares ahead, to what fits into shared memory."""
    free = free_shared_memory()
    if free is None or not workers:
        return workers, prefetch
    batches = int(0.9 * free) // batch_bytes - 2  # two are in transit
    if batches < workers:
        return max(batches, 0), 1
    return workers, min(prefetch, batches // workers)

"""Processes that prepare batches: how they are started, how many there is room for, and what may happen to them."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_starting = threading.RLock()


class _Worker(SpawnProcess):
    """A process that leaves signals to its parent, which ends it, and that does not run the user's script again."""

    def start(self) -> None:
        with _stops_held(), _main_hidden():
            super().start()
        self._popen.terminate = self._popen.kill  # type: ignore[attr-defined]  # SIGTERM is ignored


class Context(SpawnContext):
    """What a DataLoader starts its workers with."""

    Process = _Worker

    def __init__(self) -> None:
        with _stops_held():  # or a closed terminal ends the tracker of shared memory
            getattr(resource_tracker, "ensure_running", lambda: None)()


def leave_stops_to_parent(_: int = 0) -> None:
    """Makes a worker deaf to the signals that a terminal or a scheduler sends to the whole group."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def _stops_held() -> Iterator[None]:
    """Stop signals wait until the block ends; a process that is started in it is born without them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Hides where the main module comes from, or a new process would begin by running it: the user's training."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    with _starting:
        hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        main["__spec__"] = None
        try:
            yield
        finally:
            main.update(hidden)


@contextmanager
def dead_children_unheard() -> Iterator[None]:
    """Within the block a worker's death raises nothing in mid-step: whoever waits for its batch notices."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def free_shared_memory() -> int | None:
    """Bytes of shared memory for this process, where that is scarcer than the rest; a container's is 64 MB."""
    if not SHARED_MEMORY.exists():
        return None
    return shutil.disk_usage(SHARED_MEMORY).free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def fitting(workers: int, prefetch: int, batch_bytes: int) -> tuple[int, int]:
    """At most so many workers, each with so many batches ahead, as fit into shared memory."""
    free = free_shared_memory()
    if free is None or not workers:
        return workers, prefetch
    room = int(0.9 * free) // batch_bytes - 2  # two are on their way
    if room < workers:
        return max(room, 0), 1
    return workers, min(prefetch, room // workers)

"""What ends a run early: signals, unreadable images, numbers that are not finite, full memory or disks."""

import contextlib
import errno
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from img2img.errors import DataError, Interrupted, TrainingError
from img2img.runtime import peers
from img2img.runtime.device import Runtime
from img2img.training.state import State
from img2img.training.stops import Stops

DISK_ERRORS = {getattr(errno, name, 0) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE")}


@contextlib.contextmanager
def saving(state: State, runtime: Runtime, stops: Stops, report: Callable[[], None]) -> Iterator[None]:
    """Save and end the run if a signal comes within the block, or the next batch does not.

    Between two steps everything is consistent, so it can be saved.
    """
    alone = runtime.world_size == 1  # several processes would have to agree
    try:
        with stops.waiting(alone):
            yield
    except KeyboardInterrupt:
        if not alone:
            raise
        state.save()
        report()
        raise stopped(state, stops.received[0]) from None
    except (DataError, TrainingError, OSError, MemoryError) as error:
        if alone and state.step > state.saved_step:
            state.save()
            report()
        if isinstance(error, MemoryError):
            raise
        kept = state.kept()
        kind = TrainingError if isinstance(error, TrainingError) else DataError
        raise kind(f"{error} {kept[0].upper()}{kept[1:]}.{state.hint}") from error


def stopped(state: State, signal: int) -> Interrupted:
    """Return the error that ends a run which all processes have saved after a signal."""
    peers.leave()
    return Interrupted(f"Stopped and saved at step {state.step}. To resume: {state.run.resume_hint}", signal)


def agreed_stop(stopped: list[int], runtime: Runtime, step: int, rhythm: int) -> int:
    """Return the signal to stop for, or 0; all processes come to the same answer at the same step.

    Raises:
        TrainingError: if another process is lost or has failed.
    """
    if runtime.world_size == 1:
        return stopped[0] if stopped else 0
    peers.check()
    if step % rhythm:
        return 0
    return runtime.largest(stopped[0] if stopped else 0)


@contextlib.contextmanager
def explained(state: State) -> Iterator[None]:
    """Turn full memory, a full disk and a second Ctrl-C into a sentence that says what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped at once; {state.kept()}.{state.hint}", signal.SIGINT) from None
    except OSError as error:
        file = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        if error.errno not in DISK_ERRORS and not (file and file.is_relative_to(state.run.files.path.absolute())):
            raise
        raise TrainingError(
            f"Cannot write {error.filename or state.run.files.path}: {error.strerror or error}; {state.kept()}."
        ) from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        ways = f"{state.ways('out of memory')}, or a smaller --size"
        raise TrainingError(f"Out of memory at step {state.step + 1}; {state.kept()}. Use {ways}.") from error

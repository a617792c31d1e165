"""Images drawn on several devices: a process for each, all of which take batches from one list."""

import contextlib
import pickle
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing.connection import wait
from typing import Any

import torch

from img2img.data.workers import Context, shield
from img2img.errors import Img2ImgError, TrainingError, counted, listed
from img2img.model.devices import DEATHS, stop
from img2img.model.samples import Drawing


@dataclass
class _Helper:
    """A process, and the numbers of the images of a batch that it has yet to draw."""

    device: str
    process: Any
    connection: Any
    numbers: list[int] = field(default_factory=list)


def draw(drawing: Drawing, devices: Sequence[str]) -> Iterator[int]:
    """Draw what is missing on `devices`, a process for each; yield the number of each image once it is written.

    A batch that a process had in hand when it was killed is given to another.

    Raises:
        TrainingError: if the disk is full, a batch ended several processes, or all were killed.
    """
    if len(devices) == 1:
        yield from drawing.draw(drawing.missing)
        return
    batches = deque(list(numbers) for _, numbers in groupby(drawing.missing, lambda i: i // drawing.batch))
    helpers, deaths, lost = list[_Helper](), Counter[int](), list[str]()
    try:
        for device in devices[: len(batches)]:
            helpers.append(_started(drawing, device))
        while batches or any(helper.numbers for helper in helpers):
            if not helpers:
                raise _ended(f"The processes on {listed(lost)}")
            for helper in helpers:
                if batches and not helper.numbers:
                    helper.numbers = batches.popleft()
                    with contextlib.suppress(OSError):  # it has ended, which is heard of below
                        helper.connection.send(helper.numbers)
            ready = wait([helper.connection for helper in helpers if helper.numbers])
            for helper in [helper for helper in helpers if helper.connection in ready]:
                try:
                    message = helper.connection.recv()
                except (EOFError, OSError):
                    helpers.remove(helper)
                    stop(helper.process, helper.connection)
                    first, last = helper.numbers[0], helper.numbers[-1]
                    deaths[last] += 1
                    if deaths[last] == DEATHS:
                        many = counted(DEATHS, "process", "processes")
                        raise _ended(f"{many} that drew images {first} to {last}") from None
                    lost.append(helper.device)
                    drawing.notes.append(f"The process on {helper.device} ended early; the others did its work.")
                    batches.appendleft(helper.numbers)
                    continue
                if isinstance(message, Img2ImgError):
                    raise message
                helper.numbers.remove(message)
                yield message
    finally:
        for helper in helpers:
            helper.connection.close()
        for helper in helpers:
            stop(helper.process, helper.connection)
        drawing.tidy()


def _ended(who: str) -> TrainingError:
    return TrainingError(
        f"{who} ended early, perhaps because the memory was full; run the same command again to draw what is missing."
    )


def _started(drawing: Drawing, device: str) -> _Helper:
    context = Context()
    ours, theirs = context.Pipe()
    arguments = theirs, pickle.dumps(drawing.copy_for(device)), torch.get_num_threads()
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    theirs.close()
    return _Helper(device, process, ours)


def _serve(connection: Any, pickled: bytes, threads: int) -> None:
    """Draw the images whose numbers come through `connection`, and send each back, until it is closed."""
    shield()
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            torch.set_num_threads(threads)
            drawing: Drawing = pickle.loads(pickled)  # by the process that started this one
            if drawing.model.runtime.device.type == "cuda":
                torch.cuda.set_device(drawing.model.runtime.device)
            drawing.join()
            while True:
                for number in drawing.draw(connection.recv()):
                    connection.send(number)
        except Img2ImgError as error:
            connection.send(error)

"""The images of a domain at the size before the crop, decoded once where they fit into memory."""

import errno
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from img2img.data.domain import Domain, refuse_non_finite
from img2img.data.images import resize
from img2img.data.picture import Array
from img2img.errors import DataError, listed

WAITS = (0.1, 0.5, 2.0)  # seconds before each further attempt to read what a drive, e.g. on a network, fails to serve
PERMANENT = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
CHUNK = 16  # images that a thread reads in one go
REPORT_SECONDS = 10.0
FEW = 20  # images worth retrying; if more cannot be read, the whole drive is away


Result = TypeVar("Result")


class Store:
    """The images of a domain, resized to `side` if there is one, and kept in memory if they fit into `budget` bytes.

    Attributes:
        shapes: (H, W, C) of every image.
        memory: all images one after the other, or None if they are decoded each time.
        nbytes: bytes that all images take.
        extremes: lowest and highest value of every image, filled in by `read` for types other than uint8.
    """

    def __init__(self, domain: Domain, side: int | None, budget: int, shared: bool) -> None:
        self.domain, self.side = domain, side
        self.shapes = [
            (*(domain.size(i) if side is None else (side, side)), domain.channels) for i in range(len(domain))
        ]
        self.alike = all(shape == self.shapes[0] for shape in self.shapes)
        self.ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        self.memory: Tensor | None = None
        self.nbytes = int(self.ends[-1]) * np.dtype(domain.dtype).itemsize
        if self.nbytes <= budget:
            memory = torch.empty(int(self.ends[-1]), dtype=getattr(torch, domain.dtype))
            self.memory = memory.share_memory_() if shared else memory  # type: ignore[no-untyped-call]
        self.extremes = np.zeros((len(domain), 2), domain.dtype)

    def _decode(self, i: int) -> Array:
        image = self.domain.load(i)
        return image if self.side is None else resize(image, self.side, self.side)

    def _slot(self, i: int) -> Array:
        assert self.memory is not None
        start = int(self.ends[i - 1]) if i else 0
        slot: Array = self.memory.numpy()[start : int(self.ends[i])].reshape(self.shapes[i])
        return slot

    def read(self, i: int) -> None:
        """Decode image i before training starts, and keep its pixels if there is room for them, and its extremes."""
        if self.memory is None and self.domain.dtype == "uint8":
            self.domain.load(i)
            return
        image = self._decode(i)
        refuse_non_finite(image, self.domain.name(i))  # resizing large values may overflow to infinity
        if self.memory is not None:
            self._slot(i)[:] = image
        if self.domain.dtype != "uint8":
            self.extremes[i] = image.min(), image.max()

    def __getitem__(self, i: int) -> Array:
        return read_with_retries(self._decode, i) if self.memory is None else self._slot(i)

    def take(self, numbers: Array) -> Array:
        """Return several images of one shape at once, (N, H, W, C)."""
        if self.memory is None or not self.alike:
            return np.stack([self[int(i)] for i in numbers])
        taken: Array = self.memory.numpy().reshape(-1, *self.shapes[0])[numbers]
        return taken

    def __len__(self) -> int:
        return len(self.domain)


def is_transient(error: DataError) -> bool:
    """Return whether the system failed to deliver the bytes, as opposed to the bytes not being an image."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno is not None and cause.errno not in PERMANENT


def read_with_retries(read: Callable[[int], Result], i: int) -> Result:
    """Return `read(i)`, retried for a few seconds while the system fails to deliver the bytes."""
    for wait in WAITS:
        try:
            return read(i)
        except DataError as error:
            if not is_transient(error):
                raise
        time.sleep(wait)
    return read(i)


def read_all(
    stores: Sequence[Store], others: Sequence[Domain] = (), say: Callable[[str], None] = lambda text: None
) -> None:
    """Decode every image once: into its store, or, where that has no room, to make sure that it can be decoded.

    Args:
        stores: the training images.
        others: images that only have to be readable.
        say: receives a line about the progress every `REPORT_SECONDS`.

    Raises:
        DataError: if images cannot be decoded; it names them.
    """
    jobs: list[tuple[Callable[[int], object], int]] = [(store.read, i) for store in stores for i in range(len(store))]
    jobs += [(domain.load, i) for domain in others for i in range(len(domain))]

    def fault(job: tuple[Callable[[int], object], int], retry: bool = False) -> DataError | None:
        read, i = job
        try:
            read_with_retries(read, i) if retry else read(i)
        except DataError as error:
            return error
        return None

    start = reported = time.monotonic()
    failed = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        done = 0
        chunks = [jobs[k : k + CHUNK] for k in range(0, len(jobs), CHUNK)]
        for chunk, faults in zip(chunks, pool.map(lambda chunk: [fault(job) for job in chunk], chunks), strict=True):
            failed += [(job, error) for job, error in zip(chunk, faults, strict=True) if error]
            done, now = done + len(chunk), time.monotonic()
            if now - reported > REPORT_SECONDS and done < len(jobs):
                reported = now
                left = (now - start) / done * (len(jobs) - done)
                say(f"reading every image once before training: {done} of {len(jobs)}, {left:.0f} s left")
        if len(failed) <= FEW and any(is_transient(error) for _, error in failed):
            failed = [(job, error) for job, _ in failed if (error := fault(job, retry=True))]
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        reasons = dict.fromkeys(str(error).rstrip(".") for _, error in failed)  # both halves of a pair are one file
        raise DataError(f"{len(reasons)} of the images cannot be used: {listed(reasons)}.")

"""The results of large images, written block by block; finished blocks outlast a stop."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.blocks import Place, blocks_of
from img2img.data.picture import Array
from img2img.data.regions import open_regions
from img2img.lab.tables.images import region_of

EDGE = 1024  # pixels, about the edge of a block

Function = Callable[[Array, tuple[int, int]], Array]


class Stopped(Exception):
    """A row was given up between two blocks, because the command was stopped."""


def write_by_region(
    files: Sequence[Path],
    targets: Sequence[Path],
    function: Function,
    dtype: str | None,
    record: Mapping[str, Any],
    stopped: Callable[[], bool],
    workers: int = 1,
) -> tuple[str, ...]:
    """Write the result of one row, whose files are the channels of one image; each appears whole or not at all.

    Finished blocks wait beside each result; those that were made with the same record are not made again.

    Args:
        files, targets: the files and their results.
        function: makes the result of a block (C, h, w), of the same shape, from it and the place of its first pixel.
        dtype: type of the results, or None for that of the image.
        record: what the pixels depend on.
        stopped: asked before each block.
        workers: threads, each with one block in memory.

    Returns:
        What the results do not keep of their originals.

    Raises:
        DataError: if a file cannot be read by region, or another process writes the same result.
        TrainingError: if there is not enough space.
        Stopped: if `stopped` is true.
    """
    with ExitStack() as stack:
        images = [stack.enter_context(open_regions(path)) for path in files]
        jobs = []
        for image, path, target in zip(images, files, targets, strict=True):
            job = blocks_of(image, path, target, image.channels, dtype or image.dtype, None, EDGE)
            stack.enter_context(job.alone())
            job.bind(record)
            jobs.append(job)
        ends = list(accumulate(image.channels for image in images))

        def make(place: Place, members: list[int]) -> None:
            """Make the blocks at one place, of the same size, that are not finished."""
            if not (missing := [i for i in members if not jobs[i].holds(place)]):
                return
            if stopped():
                raise Stopped
            rows, columns = jobs[missing[0]].spans(place)
            result = function(region_of(images, rows, columns), (rows[0], columns[0]))
            for i in missing:
                part = result[ends[i] - images[i].channels : ends[i]]
                jobs[i].write(place, np.ascontiguousarray(part.transpose(1, 2, 0)))

        for size in {job.size: None for job in jobs}:
            same = [i for i, job in enumerate(jobs) if job.size == size]
            _each(partial(make, members=same), jobs[same[0]].places, workers)
        for job in jobs:
            job.assemble()
    for job in jobs:
        job.remove()
    return tuple(dict.fromkeys(what for job in jobs for what in job.form.lost))


def _each(work: Callable[[Place], None], places: Sequence[Place], workers: int) -> None:
    """Work on every place; at an exception, on no other one."""
    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(work, places) if workers > 1 else map(work, places):
            pass
    finally:
        pool.shutdown(cancel_futures=True)

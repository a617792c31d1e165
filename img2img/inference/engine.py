"""Folder in, folder out: read ahead, batch by size, translate, write behind."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from img2img.data.images import Array, Picture, find_images, read_image, write_image
from img2img.errors import ConfigError, DataError
from img2img.inference.translator import Translator

LOOK_AHEAD = 4  # batches that are decoded, or waiting for others of their size


@dataclass
class Summary:
    """What happened to a folder.

    Attributes:
        translated: images written.
        skipped: images whose result was there already.
        failed: (file, reason) of every image that could not be translated.
        seconds: from the first read to the last write.
    """

    translated: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path


def plan(source: Path, out: Path, overwrite: bool) -> tuple[list[_Job], int]:
    """The files to translate and where they go, and how many are done already.

    A folder is mirrored: same names, same formats, same sub-folders.

    Raises:
        ConfigError: if results would land on the originals.
        DataError: if there is nothing to translate.
    """
    if out.is_file():
        raise ConfigError(f"--out {out} is a file; give a folder.")
    if source.is_file():
        jobs = [_Job(source, out / source.name)]
    else:
        inside = out.resolve()
        found = [p for p in find_images(source) if inside == source.resolve() or not p.resolve().is_relative_to(inside)]
        jobs = [_Job(path, out / path.relative_to(source)) for path in found]
    clash = next((job for job in jobs if job.source.resolve() == job.target.resolve()), None)
    if clash:
        raise ConfigError(f"The result would overwrite the original {clash.source}; choose another --out.")
    todo = [job for job in jobs if overwrite or not job.target.exists()]
    return todo, len(jobs) - len(todo)


def translate_folder(
    translator: Translator,
    source: Path,
    out: Path,
    batch_size: int = 4,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[Path, str], None] = lambda path, reason: None,
) -> Summary:
    """Translates every image below `source` (or the one file it is) into `out`.

    A file that cannot be translated is reported, and the rest go on. Results appear whole or not at all, and those
    that exist are left alone unless `overwrite`, so a stopped job can be started again.

    Args:
        progress: called with the number of files dealt with, and of all.
        report: called with each file that failed and the reason.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {batch_size}.")
    begin = time.perf_counter()
    jobs, skipped = plan(source, out, overwrite)
    summary = Summary(skipped=skipped)
    threads = min(8, os.cpu_count() or 1)

    def dealt_with() -> None:
        progress(summary.translated + len(summary.failed), len(jobs))

    def fail(job: _Job, error: Exception) -> None:
        summary.failed.append((job.source, str(error)))
        report(job.source, str(error))
        dealt_with()

    def finish(job: _Job, written: Future[None]) -> None:
        try:
            written.result()
        except (DataError, OSError) as error:
            fail(job, error)
        else:
            summary.translated += 1
            dealt_with()

    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        writing: list[tuple[_Job, Future[None]]] = []
        pictures = _read_ahead(readers, jobs, LOOK_AHEAD * batch_size, translator, fail)
        for batch in _by_size(pictures, batch_size, translator):
            arrays = [picture.array for _, picture in batch]
            for (job, picture), array in zip(
                batch, translator.translate_batch(arrays, translator.direction), strict=True
            ):
                writing.append((job, writers.submit(_write, job.target, array, picture)))
            while len(writing) > LOOK_AHEAD * batch_size:
                finish(*writing.pop(0))
        for job, written in writing:
            finish(job, written)
    summary.seconds = time.perf_counter() - begin
    return summary


def _write(target: Path, array: Array, original: Picture) -> None:
    write_image(target, Picture(array, original.alpha))


def _read_ahead(
    pool: ThreadPoolExecutor,
    jobs: list[_Job],
    depth: int,
    translator: Translator,
    fail: Callable[[_Job, Exception], None],
) -> Iterator[tuple[_Job, Picture]]:
    reading: list[tuple[_Job, Future[Picture]]] = []
    rest = iter(jobs)
    while True:
        while len(reading) < depth and (job := next(rest, None)) is not None:
            reading.append((job, pool.submit(read_image, job.source)))
        if not reading:
            return
        job, future = reading.pop(0)
        try:
            picture = future.result()
            _refuse_other_kinds(picture.array, translator, job.source)
        except DataError as error:
            fail(job, error)
        else:
            yield job, picture


def _refuse_other_kinds(array: Array, translator: Translator, path: Path) -> None:
    spec = translator.spec()
    wanted, given = (spec.in_channels, spec.scale_in.dtype), (array.shape[2], str(array.dtype))
    if wanted != given:
        raise DataError(
            f"{path} has {given[0]} channels of {given[1]}; this model takes {wanted[0]} of {wanted[1]}. "
            "Convert it first."
        )


def _by_size(
    pictures: Iterator[tuple[_Job, Picture]], batch_size: int, translator: Translator
) -> Iterator[list[tuple[_Job, Picture]]]:
    """Batches of equal padded size; when too many images wait for company, the oldest go as they are."""
    waiting: dict[tuple[int, int], list[tuple[_Job, Picture]]] = {}
    for job, picture in pictures:
        size = translator.padded_size(picture.array, translator.direction)
        group = waiting.setdefault(size, [])
        group.append((job, picture))
        if len(group) == batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) > LOOK_AHEAD * batch_size:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()

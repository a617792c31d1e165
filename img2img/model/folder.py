"""Translation of a folder into a folder: read ahead, batch by size, translate, write behind."""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from img2img.data.folders import skipped_note
from img2img.data.images import not_kept, read_header, read_image, write_image
from img2img.data.ome_zarr import is_image
from img2img.data.picture import Array, Picture
from img2img.data.regions import SLIDES
from img2img.data.shards import Shard
from img2img.errors import DataError, Img2ImgError, TooLargeError, TrainingError, quote
from img2img.model.arrays import Unpacked, by_page
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.plan import Plan
from img2img.model.record import mark_finished, refuse_taken, resume_record
from img2img.model.slides import SlideJob, refuse_others
from img2img.model.summary import Outcome, Status
from img2img.model.translator import Translator
from img2img.runtime.device import side_by_side, torch_threads
from img2img.runtime.files import remove_stale

LOOK_AHEAD = 16  # files that are decoded, or waiting to be written
LOOK_AHEAD_BYTES = 2**28  # of decoded images, if they are large
SMALL = 2 * 256 * 256  # pixels
BY_REGION = "With --statistics 64, it is translated in blocks, by the statistics of 64 tiles; see docs/slides.md."
TIFF = (".tif", ".tiff")


@dataclass
class _File:
    """A file that is being processed: its pages go through the network one by one."""

    source: Path
    target: Path
    picture: Picture | None = None
    unpacked: Unpacked = field(default_factory=lambda: by_page([]))
    results: dict[int, Array] = field(default_factory=dict)
    outside: float = 0.0


def unheard(source: Path, done: int, total: int) -> None:
    """Hear of a finished block of a slide, and do nothing."""


class Job:
    """The translation of every image below `source`, or of `source` itself if it is a file, into the folder `out`.

    A file that cannot be translated does not stop the others. Results appear whole or not at all, and existing ones are
    kept unless `overwrite` is given, so a stopped job can be started again. `plan` says which images and where to, if
    they are not those below `source`.

    Attributes:
        translator: the model, set up to compute as the existing results were computed.

    Raises:
        ConfigError: if the options, or `source` and `out`, do not fit together; if `out` holds results that were
            computed in another way, or cannot be written.
        DataError: if there is nothing to translate.
    """

    def __init__(
        self,
        translator: Translator,
        source: Path,
        out: Path,
        options: TranslateOptions,
        files: FolderOptions,
        plan: Plan | None = None,
    ) -> None:
        self.pages = files.pages or translator.card.pages
        if files.statistics:
            refuse_others(options, files)
        files = replace(files, pages=self.pages)
        self.options, self.files = options, files
        self.plan = plan or Plan(source, out, files.format, files.files, Shard.parse(files.shard))
        translator.notes += skipped_note(self.plan.passed)
        self.translator, self.record = resume_record(translator, self.plan, options, files)
        translator = self.translator
        self.blocks: Callable[[Path, int, int], None] = unheard  # of a slide, when one is done
        self.total, self.done = len(self.plan.sources), 0
        self.depth = LOOK_AHEAD
        self.lost: set[str] = set()  # what results do not keep of their originals
        self.on_cpu = translator.runtime.device.type == "cpu" and translator.backend in ("auto", "eager")
        self.computing: ThreadPoolExecutor | None = None
        self.writing: deque[tuple[_File, Future[None]]] = deque()

    def run(self) -> Iterator[Outcome]:
        """Yield the outcome of each file as soon as it is known.

        Raises:
            TrainingError: if the disk is full.
        """
        todo: deque[Path] = deque()
        yield from self.sort_out(todo)
        yield from self.translate(todo)
        mark_finished(self.plan.out)

    def translate(self, todo: deque[Path]) -> Iterator[Outcome]:
        """Translate the files in `todo`, which may become more meanwhile; yield their outcomes."""
        threads = min(8, os.cpu_count() or 1)
        readers, writers = ThreadPoolExecutor(threads), ThreadPoolExecutor(threads)
        count = min(torch.get_num_threads(), LOOK_AHEAD)
        try:
            if self.on_cpu and count > 1:
                self.computing = side_by_side(count)
            yield from self._slides(todo) if self.files.statistics else self._translate(readers, writers, todo)
        finally:
            if self.computing:
                self.computing.shutdown()
                self.computing = None
            readers.shutdown(cancel_futures=True)
            writers.shutdown()

    def _outcome(self, job: _File, status: Status, reason: str = "") -> Outcome:
        self.done += 1
        return Outcome(job.source, job.target, status, reason, job.outside, self.done, self.total)

    def _failed(self, job: _File, reason: str) -> Outcome:
        """Return the outcome of a failure, with a reason in one line that names the file once."""
        name = quote(job.source)
        text = reason if reason.startswith(name) else f"{name}: {reason}"
        return self._outcome(job, "failed", text.replace("\n", "\\n"))

    def _unwritten(self, job: _File, error: OSError) -> Outcome:
        """Return the outcome of a failure to write; a full disk ends the job."""
        if error.errno == errno.ENOSPC:
            raise TrainingError(
                f"The disk is full; {quote(job.target)} was not written. Make room and start the same command again."
            ) from error
        return self._failed(job, f"{quote(job.target)} cannot be written: {error.strerror or error}.")

    def sort_out(self, todo: deque[Path]) -> Iterator[Outcome]:
        """Fill `todo` with the files to translate; yield the outcomes of those that are done or cannot be done."""
        folders: dict[Path, str] = {}
        targets: dict[Path, Path] = {}
        for source in self.plan.sources:
            job = _File(source, self.plan.target(source))
            if job.target.parent not in folders:
                folders[job.target.parent] = _unwritable(job.target.parent)
                remove_stale(job.target.parent)
            first = targets.setdefault(job.target, source)
            if first != source:
                clash = f"its result would have the same path as that of {quote(first)}, {quote(job.target)}."
                yield self._failed(job, clash)
            elif job.target.exists() and job.target.samefile(source):
                yield self._failed(job, "its result would overwrite it, through a link.")
            elif job.target.is_dir() and not is_image(job.target):
                yield self._failed(job, f"its result would be {quote(job.target)}, which is a folder.")
            elif job.target.exists() and not self.files.overwrite:
                yield self._outcome(job, "skipped")
            elif reason := folders[job.target.parent]:
                yield self._failed(job, reason)
            elif source.suffix.lower() in SLIDES and not self.files.statistics:
                yield self._failed(job, f"it is a slide, of which no more than a region is held. {BY_REGION}")
            else:
                todo.append(source)

    def _translate(
        self, readers: ThreadPoolExecutor, writers: ThreadPoolExecutor, todo: deque[Path]
    ) -> Iterator[Outcome]:
        key: tuple[int, int] | None
        waiting: dict[tuple[int, int] | None, list[tuple[_File, int]]] = {}
        for job in self._read(readers, todo):
            if isinstance(job, Outcome):
                yield job
                continue
            for i, page in enumerate(job.unpacked[0]):
                size = self.translator.padded_size(page)
                if self._is_small(size):
                    key, most = None, self.options.batch_size or LOOK_AHEAD
                else:
                    key, most = size, self.translator.batch_size(size, self.options)
                group = waiting.setdefault(key, [])
                group.append((job, i))
                if len(group) >= most:
                    yield from self._batch(writers, waiting.pop(key))
            while sum(map(len, waiting.values())) > self.depth:
                yield from self._batch(writers, waiting.pop(next(iter(waiting))))
        for group in list(waiting.values()):
            yield from self._batch(writers, group)
        yield from self._written(0)

    def _read(self, pool: ThreadPoolExecutor, todo: deque[Path]) -> Iterator["_File | Outcome"]:
        ahead: deque[tuple[_File, Future[int]]] = deque()
        reading: deque[tuple[_File, Future[Picture]]] = deque()
        pixels = int(self.files.max_megapixels * 1e6)
        while todo or ahead or reading:
            while todo and len(ahead) < LOOK_AHEAD:
                source = todo.popleft()
                job = _File(source, self.plan.target(source))
                ahead.append((job, pool.submit(decoded_bytes, source, self.pages, pixels)))
            while ahead and len(reading) < min(LOOK_AHEAD, max(1, LOOK_AHEAD_BYTES // ahead[0][1].result())):
                job, _ = ahead.popleft()
                reading.append((job, pool.submit(read_image, job.source, self.pages, pixels)))
            job, future = reading.popleft()
            try:
                job.picture = future.result()
                self._open(job)
            except TooLargeError as error:
                gigabytes = error.values * 5 / 1e9 + self.options.tile_memory  # the image, and the result in fp32
                hint = f" To translate it whole takes about {gigabytes:.0f} GB of memory. {BY_REGION}"
                by_region = job.source.suffix.lower() in TIFF or job.source.is_dir()
                yield self._failed(job, f"{error}{hint if by_region else ''}")
            except DataError as error:
                yield self._failed(job, str(error))
            else:
                yield job

    def _open(self, job: _File) -> None:
        """Convert the picture to the pages that go through the network."""
        assert job.picture is not None
        array, spec = job.picture.array, self.translator.spec()
        self._note_lost(not_kept(job.picture, job.target), job.source)
        merged = array.shape[-1] * len(array) if array.ndim == 4 else 0
        if self.options.channels == "exact" and merged == spec.in_channels != array.shape[-1]:
            raise DataError(
                f"Each of its {len(array)} pages is taken for an image, of other channels than the model's {merged}; "
                "use --pages channels if the pages are the channels of one."
            )
        self.depth = max(1, min(LOOK_AHEAD, LOOK_AHEAD_BYTES // max(array.nbytes, 1)))
        pages = list(array) if array.ndim == 4 else [array]
        job.unpacked = by_page([self.translator.fit(page, self.options) for page in pages])
        job.outside = spec.scale_in.outside(array) / array.size

    def _note_lost(self, lost: Iterable[str], source: Path) -> None:
        for what in lost:
            if what not in self.lost:
                self.lost.add(what)
                self.translator.notes.append(f"Results do not keep {what}, e.g. of {quote(source)}.")

    def _slides(self, todo: deque[Path]) -> Iterator[Outcome]:
        """Translate one by one what is too large to be held."""
        while todo:
            source = todo.popleft()
            job = _File(source, self.plan.target(source))
            refuse_taken(self.plan.out, self.record)
            calls = partial(self.blocks, source), partial(self.plan.copy_groups, source)
            slide = SlideJob(self.translator, source, job.target, self.options, self.files, *calls)
            try:
                slide.run()
            except OSError as error:
                yield self._unwritten(job, error)
            except Img2ImgError as error:
                yield self._failed(job, str(error))
            else:
                self._note_lost(slide.lost, source)
                job.outside = slide.outside
                yield self._outcome(job, "translated")

    def _batch(self, writers: ThreadPoolExecutor, group: list[tuple[_File, int]]) -> Iterator[Outcome]:
        group = [(job, i) for job, i in group if job.picture is not None]
        pages = [job.unpacked[0][i] for job, i in group]
        try:
            results = self._compute(pages) if pages else []
        except TrainingError as error:  # too large for the memory
            for job, _ in group:
                if job.picture is not None:  # a job may have several pages here, and more to come
                    job.picture = None
                    yield self._failed(job, str(error))
            return
        for (job, i), result in zip(group, results, strict=True):
            job.results[i] = result
            if len(job.results) == len(job.unpacked[0]):
                self.writing.append((job, writers.submit(self._write, job)))
        yield from self._written(self.depth)

    def _is_small(self, size: tuple[int, int]) -> bool:
        """Return whether images of a padded size are processed in parallel on a CPU, each on one thread.

        Threads that share a small image spend most of their time waiting for each other.
        """
        return self.on_cpu and size[0] * size[1] <= SMALL and not self.translator.tile(size, self.options)

    def _compute(self, pages: list[Array]) -> list[Array]:
        def alone(page: Array) -> Array:
            return self.translator.translate_batch([page], self.options)[0]

        small = self._is_small(self.translator.padded_size(pages[0]))
        if small and self.computing:
            return list(self.computing.map(alone, pages))
        with torch_threads(1 if small else self.translator.threads):
            if small:
                return [alone(page) for page in pages]
            return self.translator.translate_batch(pages, self.options)

    def _write(self, job: _File) -> None:
        assert job.picture is not None
        refuse_taken(self.plan.out, self.record)
        pages = job.unpacked[1]([job.results[i] for i in range(len(job.results))])
        array = np.stack(pages) if job.picture.array.ndim == 4 else pages[0]
        self.plan.copy_groups(job.source)
        write_image(job.target, replace(job.picture, array=array), self.files.quality)

    def _written(self, most: int) -> Iterator[Outcome]:
        """Wait until at most `most` files are still being written; yield the outcomes of the others."""
        while len(self.writing) > most:
            job, future = self.writing.popleft()
            try:
                future.result()
            except OSError as error:
                yield self._unwritten(job, error)
            except DataError as error:
                yield self._failed(job, str(error))
            else:
                yield self._outcome(job, "translated")


def decoded_bytes(path: Path, pages: str, max_pixels: int) -> int:
    """Return the size in bytes of a decoded file, from its header; 1 if the header cannot be read."""
    try:
        header = read_header(path, pages, max_pixels)
    except DataError:
        return 1
    return header.width * header.height * header.channels * header.pages * np.dtype(header.dtype).itemsize


def _unwritable(folder: Path) -> str:
    """Return why no file can be written into a folder, which need not exist yet; "" if one can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{quote(folder)} is not a folder."
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"the folder {quote(folder)} is write-protected."

"""Folder in, folder out: read ahead, batch by size, translate, write behind."""

import errno
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from img2img.data.images import (
    SUFFIXES,
    Array,
    Picture,
    find_images,
    holds_keys,
    read_header,
    read_image,
    refuse_unwritable,
    remove_stale,
    skipped_note,
    write_image,
    write_text,
)
from img2img.data.picture import quote
from img2img.errors import ConfigError, DataError, TrainingError, choose
from img2img.model.arrays import Unpacked, by_page
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.record import mark_finished, resume_record
from img2img.model.translator import Translator
from img2img.runtime.device import side_by_side, torch_threads

LOOK_AHEAD = 16  # files that are decoded, or waiting to be written
SMALL = 2 * 256 * 256  # pixels
LOOK_AHEAD_BYTES = 2**28  # of decoded images, if they are large
SHOWN_FAILURES = 10  # in the repr of a summary; all are in its `failed`


Status = Literal["translated", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What happened to one file.

    Attributes:
        outside: share of its values outside the range that the model was trained on, where it cannot follow.
        done, total: files dealt with, and all there are.
    """

    source: Path
    target: Path
    status: Status
    reason: str = ""
    outside: float = 0.0
    done: int = 0
    total: int = 0


@dataclass
class Summary:
    """What happened to a folder.

    Attributes:
        translated: files written.
        skipped: files whose result was there already.
        failed: (file, reason) of every file that could not be translated.
        outside: (file, share) of every file with values outside the range that the model was trained on.
        seconds: from the first read to the last write.
        computed: device, precision and backend, in words.
    """

    translated: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    outside: list[tuple[Path, float]] = field(default_factory=list)
    seconds: float = 0.0
    computed: str = ""

    def __repr__(self) -> str:
        counts = f"{self.translated} translated, {self.skipped} skipped, {len(self.failed)} failed"
        reasons = [f"\n  {reason}" for _, reason in self.failed[:SHOWN_FAILURES]]  # each names its file
        more = f"\n  and {len(self.failed) - SHOWN_FAILURES} more" if len(self.failed) > SHOWN_FAILURES else ""
        return f"Summary({counts}, {self.seconds:.1f} s){''.join(reasons)}{more}"

    def add(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self.failed.append((outcome.source, outcome.reason))
        elif outcome.status == "skipped":
            self.skipped += 1
        else:
            self.translated += 1
            if outcome.outside:
                self.outside.append((outcome.source, outcome.outside))

    def to_json(self) -> dict[str, Any]:
        rate = round(self.translated / self.seconds, 3) if self.seconds else 0.0
        return {
            **asdict(self),
            "failed": [{"file": str(path), "reason": reason} for path, reason in self.failed],
            "outside": [{"file": str(path), "share": share} for path, share in self.outside],
            "files_per_s": rate,
        }


@dataclass
class _File:
    """A file on its way: its pages go through the network one by one."""

    source: Path
    target: Path
    picture: Picture | None = None
    unpacked: Unpacked = field(default_factory=lambda: by_page([]))
    results: dict[int, Array] = field(default_factory=dict)
    outside: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Which files are translated, and where their results go: a folder is mirrored.

    Attributes:
        sources: the files.
        base: the folder that becomes `out`.
        suffix: of the results, where it is not to stay as it is.
        passed: suffixes of the files that are no images of ours, and how often.
    """

    sources: list[Path]
    base: Path
    out: Path
    suffix: str | None
    passed: Counter[str] = field(default_factory=Counter)

    @classmethod
    def make(cls, source: Path, out: Path, format: str | None = None) -> "Plan":
        """Looks for the files.

        Raises:
            ConfigError: if results would land on the originals, or there is no such format.
            DataError: if there is nothing to translate.
        """
        formats = {suffix[1:]: suffix for suffix in SUFFIXES}
        suffix = None if format is None else choose("format", format.lower().removeprefix("."), formats)
        if (out.exists() or out.is_symlink()) and not out.is_dir():
            what = "is a file" if out.exists() else "is a link that leads nowhere"
            raise ConfigError(f"--out {quote(out)} {what}; give a folder.")
        inside, root = out.resolve(), source.resolve()
        sources, base, passed = [source], source.parent, Counter[str]()
        if not source.is_file():
            sources, base = find_images(source), source
            passed = sources.passed
        if inside != root and inside.is_relative_to(root):  # results below the source are not translated again
            sources = [path for path in sources if not path.resolve().is_relative_to(inside)]
        plan = cls(sources, base, out, suffix, passed)
        if inside == base.resolve():
            targets = ((path, plan.target(path)) for path in sources)
            clash = next((path for path, target in targets if target.exists() and target.samefile(path)), None)
            if clash:
                raise ConfigError(f"The result would overwrite the original {quote(clash)}; choose another --out.")
        return plan

    def target(self, source: Path) -> Path:
        path = self.out / source.relative_to(self.base)
        return path.with_suffix(self.suffix) if self.suffix else path


def translate_folder(
    translator: Translator,
    source: Path,
    out: Path,
    options: TranslateOptions | None = None,
    files: FolderOptions | None = None,
) -> Iterator[Outcome]:
    """Translates every image below `source`, or the one file it is, into the folder `out`.

    Yields what happened to each file, as it happens. A file that cannot be translated is one outcome, and the rest go
    on. Results appear whole or not at all, and those that exist are left alone unless told otherwise, so a stopped
    job can be started again.

    Raises:
        ConfigError: if the options, or `source` and `out`, do not go together; if `out` holds results that were
            computed otherwise, or cannot be written.
        DataError: if there is nothing to translate.
        TrainingError: if the disk is full.
    """
    return Job.open(translator, source, out, options or TranslateOptions(), files or FolderOptions()).run()


class Job:
    """A folder to be translated.

    Attributes:
        translator: the one that was given, computing as the results that are there were computed.
    """

    @classmethod
    def open(
        cls, translator: Translator, source: Path, out: Path, options: TranslateOptions, files: FolderOptions
    ) -> "Job":
        plan = Plan.make(source, out, files.format)
        translator.notes += skipped_note(plan.passed)
        resumed = any(plan.target(path).exists() for path in plan.sources)
        return cls(resume_record(translator, out, options, files, resumed), options, files, plan)

    def __init__(self, translator: Translator, options: TranslateOptions, files: FolderOptions, plan: Plan) -> None:
        self.translator, self.options, self.files, self.plan = translator, options, files, plan
        self.total, self.done = len(plan.sources), 0
        self.depth = LOOK_AHEAD
        self.on_cpu = translator.runtime.device.type == "cpu" and translator.backend in ("auto", "eager")
        self.computing: ThreadPoolExecutor | None = None
        self.writing: deque[tuple[_File, Future[None]]] = deque()

    def run(self) -> Iterator[Outcome]:
        threads = min(8, os.cpu_count() or 1)
        readers, writers = ThreadPoolExecutor(threads), ThreadPoolExecutor(threads)
        count = min(torch.get_num_threads(), LOOK_AHEAD)
        try:
            if self.on_cpu and count > 1:
                self.computing = side_by_side(count)
            todo: deque[Path] = deque()
            yield from self._sort_out(todo)
            yield from self._translate(readers, writers, todo)
            mark_finished(self.plan.out)
        finally:
            if self.computing:
                self.computing.shutdown()
            readers.shutdown(cancel_futures=True)
            writers.shutdown()

    def _outcome(self, job: _File, status: Status, reason: str = "") -> Outcome:
        self.done += 1
        return Outcome(job.source, job.target, status, reason, job.outside, self.done, self.total)

    def _sort_out(self, todo: deque[Path]) -> Iterator[Outcome]:
        """Fills `todo` with what is left to do; yields what is done already, or cannot be done."""
        folders: dict[Path, str] = {}
        targets: dict[Path, Path] = {}
        for source in self.plan.sources:
            job = _File(source, self.plan.target(source))
            if job.target.parent not in folders:
                folders[job.target.parent] = _unwritable(job.target.parent)
                remove_stale(job.target.parent)
            first = targets.setdefault(job.target, source) if self.plan.suffix else source
            if first != source:
                reason = f"its result would be that of {quote(first)}, {quote(job.target)}."
                yield self._outcome(job, "failed", _with_name(source, reason))
            elif job.target.exists() and job.target.samefile(source):
                yield self._outcome(job, "failed", _with_name(source, "its result would overwrite it, through a link."))
            elif job.target.is_dir():
                reason = f"its result would be {quote(job.target)}, which is a folder."
                yield self._outcome(job, "failed", _with_name(source, reason))
            elif job.target.is_file() and not self.files.overwrite:
                yield self._outcome(job, "skipped")
            elif reason := folders[job.target.parent]:
                yield self._outcome(job, "failed", _with_name(source, reason))
            else:
                todo.append(source)

    def _translate(
        self, readers: ThreadPoolExecutor, writers: ThreadPoolExecutor, todo: deque[Path]
    ) -> Iterator[Outcome]:
        waiting: dict[Any, list[tuple[_File, int]]] = {}
        for job in self._read(readers, todo):
            if isinstance(job, Outcome):
                yield job
                continue
            for i, page in enumerate(job.unpacked[0]):
                size = self.translator.padded_size(page)
                small = self._is_small(size)
                key, most = (None, self.options.batch_size or LOOK_AHEAD) if small else (size, self._most(size))
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
                ahead.append((job, pool.submit(decoded_bytes, source, self.files.pages, pixels)))
            while ahead and len(reading) < min(LOOK_AHEAD, max(1, LOOK_AHEAD_BYTES // ahead[0][1].result())):
                job, _ = ahead.popleft()
                reading.append((job, pool.submit(read_image, job.source, self.files.pages, pixels)))
            job, future = reading.popleft()
            try:
                job.picture = future.result()
                self._open(job)
            except DataError as error:
                yield self._outcome(job, "failed", _with_name(job.source, str(error)))
            else:
                yield job

    def _open(self, job: _File) -> None:
        """Takes the picture apart into what goes through the network."""
        assert job.picture is not None
        array, scale = job.picture.array, self.translator.spec().scale_in
        self.depth = max(1, min(LOOK_AHEAD, LOOK_AHEAD_BYTES // max(array.nbytes, 1)))
        pages = list(array) if array.ndim == 4 else [array]
        job.unpacked = by_page([self.translator.fit(page, self.options) for page in pages])
        job.outside = scale.outside(array) / array.size

    def _batch(self, writers: ThreadPoolExecutor, group: list[tuple[_File, int]]) -> Iterator[Outcome]:
        group = [(job, i) for job, i in group if job.picture is not None]
        pages = [job.unpacked[0][i] for job, i in group]
        try:
            results = self._compute(pages) if pages else []
        except TrainingError as error:  # too large for the memory
            for job, _ in group:
                if job.picture is not None:  # a job may have several pages here, and more to come
                    job.picture = None
                    yield self._outcome(job, "failed", _with_name(job.source, str(error)))
            return
        for (job, i), result in zip(group, results, strict=True):
            job.results[i] = result
            if len(job.results) == len(job.unpacked[0]):
                self.writing.append((job, writers.submit(self._write, job)))
        yield from self._written(self.depth)

    def _most(self, size: tuple[int, int]) -> int:
        return self.translator.batch_size(size, self.options)

    def _is_small(self, size: tuple[int, int]) -> bool:
        """Whether images of a padded size go side by side on a CPU, each on one thread.

        Threads that share a small image wait for each other most of the time.
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
        pages = job.unpacked[1]([job.results[i] for i in range(len(job.results))])
        array = np.stack(pages) if job.picture.array.ndim == 4 else pages[0]
        write_image(job.target, replace(job.picture, array=array), self.files.quality)

    def _written(self, most: int) -> Iterator[Outcome]:
        """Waits until at most `most` files are still being written."""
        while len(self.writing) > most:
            job, future = self.writing.popleft()
            try:
                future.result()
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise TrainingError(
                        f"The disk is full; {quote(job.target)} was not written. "
                        "Make room and start the same command again."
                    ) from error
                reason = f"{quote(job.target)} cannot be written: {error.strerror or error}."
                yield self._outcome(job, "failed", _with_name(job.source, reason))
            except DataError as error:
                yield self._outcome(job, "failed", _with_name(job.source, str(error)))
            else:
                yield self._outcome(job, "translated")


def decoded_bytes(path: Path, pages: str, max_pixels: int) -> int:
    """How large a file is once it is decoded, by its header; 1 if it has none that can be read."""
    try:
        header = read_header(path, pages, max_pixels)
    except DataError:
        return 1
    return header.width * header.height * header.channels * header.pages * np.dtype(header.dtype).itemsize


def _unwritable(folder: Path) -> str:
    """Why no file can be written into a folder, which may have to be made; empty if one can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{quote(folder)} is not a folder."
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"nothing may be written into {quote(folder)}."


def _with_name(path: Path, reason: str) -> str:
    """A reason of one line that names the file once."""
    text = reason if reason.startswith(quote(path)) else f"{quote(path)}: {reason}"
    return text.replace("\n", "\\n")


def refuse_report(path: Path) -> None:
    """Raises ConfigError if the report cannot be written there, or is a file that is no report of translating."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The report {path} cannot be written: {error.strerror}.") from error
    refuse_unwritable(path, holds_keys("model", "computed", "translated"))


def write_report(path: Path, translator: Translator, summary: Summary) -> None:
    """Writes `summary` as json, with the model and how it was run.

    Raises:
        ConfigError: if it cannot be written there.
    """
    facts = {"model": str(translator.path), "direction": translator.direction}
    report = facts | summary.to_json() | {"notes": translator.notes}
    try:
        write_text(path, json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"The report {path} cannot be written: {error.strerror}.") from error

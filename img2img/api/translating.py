"""Translating folders: `translate`, `translate_folder`, and `merge_reports` of shards."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, Unpack

from img2img.bulk.options import RayOptions
from img2img.data.remote import Remote, is_inside, locate, refuse_private, refuse_url
from img2img.errors import ConfigError
from img2img.model.devices import refuse_unlike, run
from img2img.model.folder import Job
from img2img.model.model import Model
from img2img.model.options import FolderOptions, JobLoadOptions, TranslateOptions
from img2img.model.staging import StagedJob
from img2img.model.summary import Outcome, Report, Summary, merge_reports as merge, refuse_report, write_report
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, pick, split
from img2img.options.docstrings import documented
from img2img.runtime.device import pick_devices
from img2img.runtime.progress import shown_in_notebook

Opened = TypeVar("Opened", bound=Model)


@documented(JobLoadOptions, TranslateOptions, FolderOptions, RayOptions)
@shown_in_notebook("translating", adapt=lambda advance: lambda outcome: advance(outcome.done, outcome.total))
def translate(
    model: str | Path | Translator,
    source: str | Path,
    out: str | Path,
    *,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    blocks: Callable[[Path, int, int], None] = lambda source, done, total: None,
    **options: Unpack[keywords.Translating],
) -> Summary:
    """Translate a folder of images, or one file, into the folder `out`, with the same tree, names and formats.

    Args:
        model: a model, or its path.
        source: the folder or file to translate, or the URL of one in a store, e.g. s3://bucket/photos.
        out: the folder for the results, or its URL.
        progress: called with the outcome of each file.
        blocks: called with a slide and the numbers of its blocks that are finished, and of all, when one is.
        **options: see Options below.
    """
    loaded, devices = _opened(model, options)
    return translate_on(loaded, devices, source, out, progress, blocks, options)


def translate_on(
    model: Translator,
    devices: Sequence[str],
    source: str | Path,
    out: str | Path,
    progress: Callable[[Outcome], None],
    blocks: Callable[[Path, int, int], None],
    options: Mapping[str, Any],
) -> Summary:
    """Translate as `translate` does, with a model that is open on the first of `devices`."""
    begin, summary, before = time.perf_counter(), Summary(), 0
    going, files, spread = split(options, TranslateOptions, FolderOptions, RayOptions)
    if files.report:
        refuse_url(Path(files.report), "--report")
        refuse_report(Path(files.report))  # rather than at the end
    places = _places(source, out, devices, spread)
    with _engine(devices, spread) as run_job:
        for job in _jobs(model, *places, going, files, spread):
            shared = f", {len(devices)} processes" if len(devices) > 1 else ""
            summary.computed, job.blocks = summary.computed or job.translator.describe() + shared, blocks
            for outcome in run_job(job):
                total = outcome.total * files.n_outputs
                summary.add(outcome)
                summary.seconds = time.perf_counter() - begin
                progress(replace(outcome, done=before + outcome.done, total=total))
            before = summary.translated + summary.skipped + len(summary.failed)
    if files.report:
        write_report(Path(files.report), model, summary, files.shard)
    return summary


@documented(JobLoadOptions, TranslateOptions, FolderOptions, RayOptions)
def translate_folder(
    model: str | Path | Translator, source: str | Path, out: str | Path, **options: Unpack[keywords.Translating]
) -> Iterator[Outcome]:
    """Translate as `translate` does, as an iterator over the outcome of each file."""
    loaded, devices = _opened(model, options)
    going, files, spread = split(options, TranslateOptions, FolderOptions, RayOptions)
    places = _places(source, out, devices, spread)
    with ExitStack() as stack:
        run_job = stack.enter_context(_engine(devices, spread))
        jobs = _jobs(loaded, *places, going, files, spread)
        first = next(jobs)  # so that what is wrong is said at once
        return _outcomes(chain([first], jobs), run_job, stack.pop_all())


def _outcomes(jobs: Iterable[Job], run_job: Callable[[Job], Iterator[Outcome]], engine: ExitStack) -> Iterator[Outcome]:
    with engine:
        for job in jobs:
            yield from run_job(job)


@contextmanager
def _engine(devices: Sequence[str], options: RayOptions) -> Iterator[Callable[[Job], Iterator[Outcome]]]:
    """Yield what runs a job: this machine's devices, or Ray."""
    if options.ray is None:
        yield lambda job: run(job, devices)
        return
    from img2img.bulk.cluster import connected
    from img2img.bulk.translating import translate as by_ray

    with connected(options, devices) as ray:
        yield lambda job: by_ray(ray, job, options)


def merge_reports(reports: Iterable[str | Path], out: str | Path) -> Report:
    """Merge the reports of the shards of a translation into one, which is written to `out` as JSON.

    Args:
        reports: the files that `translate(..., shard=..., report=...)` wrote.
        out: the file to write.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    if not (paths := [Path(path) for path in reports]):
        raise ConfigError("Give the reports to merge.")
    return merge(paths, Path(out))


def _places(
    source: str | Path, out: str | Path, devices: Sequence[str], spread: RayOptions
) -> tuple[Path | Remote, Path | Remote]:
    """Return the places of a job: folders, or stores.

    Raises:
        ConfigError: if one is a store, which cannot be opened, or the job is to be done in a way that needs a disk.
    """
    places = locate(source), locate(out)
    if len(devices) > 1 and any(isinstance(place, Remote) for place in places):
        raise ConfigError(
            "Several --device cannot be combined with a store such as s3://; use --ray local, or start a command with "
            "a --shard of its own on each device."
        )
    if spread.ray is not None:
        refuse_private(*places)
    return places


def _jobs(
    model: Translator,
    source: Path | Remote,
    out: Path | Remote,
    going: TranslateOptions,
    files: FolderOptions,
    spread: RayOptions,
) -> Iterator[Job]:
    """Yield the job of each result of the images; several have a folder each."""

    def job(translator: Translator, place: Path | Remote) -> Job:
        if isinstance(source, Path) and isinstance(place, Path):
            return Job(translator, source, place, going, files)
        return StagedJob(translator, source, place, going, files)

    if spread.ray is not None:
        model = copy.copy(model)
        model.threads = spread.ray_cpus  # of each worker, and not of this process
    if files.n_outputs == 1:
        yield job(model.with_noise(0, files.seed) if files.seed else model, out)
        return
    if is_inside(out, source):
        raise ConfigError(f"--n-outputs writes several folders, which must not be inside {source}; give another --out.")
    for number in range(files.n_outputs):
        yield job(model.with_noise(number, files.seed), out / f"{number:03}")


def _opened(model: str | Path | Translator, options: Mapping[str, Any]) -> tuple[Translator, list[str]]:
    """Return `model`, loaded with those of `options` that apply to loading, and the devices of its jobs."""
    check_names("translating", options, JobLoadOptions, TranslateOptions, FolderOptions, RayOptions)
    loading = pick(options, JobLoadOptions)
    if not isinstance(model, Translator):
        return open_on_devices(Translator, model, **loading)
    towards = {name: loading.pop(name) for name in ("direction", "label") if name in loading}
    if loading:
        raise ConfigError(f"{', '.join(loading)}: fixed when the model is loaded, which has already happened.")
    return model.towards(**towards) if towards else model, [model.asked[0]]


def open_on_devices(kind: Callable[..., Opened], path: str | Path, **loading: Any) -> tuple[Opened, list[str]]:
    """Return a model of a kind, open on the first of the devices that `loading` names, and these devices.

    Raises:
        ConfigError: if this machine lacks one, or they round differently.
    """
    asked = loading.pop("device", "auto")
    devices = pick_devices(asked)
    refuse_unlike(devices)
    model = kind(path, devices[0], **loading)
    if asked == "all":
        model.asked = "auto", model.asked[1]  # no device was asked for by name
    return model, devices

"""The held-out images of both sides, cut as in the protocol and read ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from img2img.data.domain import Domain, from_arrays
from img2img.data.finding import find_domains
from img2img.data.folders import scan
from img2img.data.images import resize
from img2img.data.options import DataConfig
from img2img.data.pairs import Domains, halves_of, pair_up, two_folders
from img2img.data.picture import Array, Header
from img2img.data.remote import refuse_url
from img2img.data.samples import cut
from img2img.data.shards import Shard
from img2img.errors import ConfigError, DataError, ModelFileError, quote
from img2img.evaluation.options import EvaluateOptions
from img2img.methods import METHODS
from img2img.options.declared import split
from img2img.runs.facts import in_words, read_report_record
from img2img.runs.folder import RunFolder
from img2img.runs.record import RunRecord
from img2img.runtime.records import from_json, read_text

WHERE = "--a DIR --b DIR, or --ab DIR of side-by-side pairs (in Python a= and b=, folders or arrays)"
TITLES = {"a": "A", "b": "B"}  # of domains, in sentences
READERS = 4  # threads that decode, and images kept ready
CHUNK, CHUNK_VALUES = 16, 3 * 2**22  # images, and their values, in memory at once; at least one image


@dataclass(frozen=True)
class Side:
    """The images of one side.

    Attributes:
        domain: where they are.
        cut: maps each, (H, W, C) to (H, W, C).
    """

    domain: Domain
    cut: Callable[[Array], Array]

    @classmethod
    def of(cls, domain: Domain, options: EvaluateOptions, cut: Callable[[Array], Array] | None = None) -> "Side":
        """Choose images evenly, up to the limit in the options; `cut` replaces resizing."""
        chosen = domain.evenly(options.limit or len(domain))
        resized = (lambda x: resize(x, options.size, options.size)) if options.size else (lambda x: x)
        return cls(chosen, cut or resized)

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, i: int) -> Array:
        return self.cut(self.domain.load(i))

    def __iter__(self) -> Iterator[Array]:
        """Yield all images in order, decoded ahead by threads; only a few are in memory at once."""
        waiting: deque[Future[Array]] = deque()
        with ThreadPoolExecutor(READERS) as pool:
            for i in range(len(self)):
                waiting.append(pool.submit(self.__getitem__, i))
                if len(waiting) > READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    @property
    def kind(self) -> str:
        """The channels and the type of the images, in words."""
        return f"{self.domain.channels} channels of {self.domain.dtype}"

    @property
    def folder(self) -> str:
        """The folder that contains all files; "arrays" for arrays."""
        paths = [source.path for source in self.domain.sources if isinstance(source, Header)]
        return os.path.commonpath([path.parent for path in paths]) if paths else "arrays"

    @property
    def names(self) -> list[str]:
        """The paths of the files relative to `folder`; for arrays their numbers."""
        folder, sources = self.folder, self.domain.sources
        return [
            quote(source.path.relative_to(folder)) + source.place if isinstance(source, Header) else f"image {i}"
            for i, source in enumerate(sources)
        ]

    def part(self, shard: Shard, folder: str | None) -> "Side":
        """Return the images in one part, by the paths of their files relative to `folder`; of arrays by number."""
        base = folder or self.folder
        held = [
            shard.holds(source.path.relative_to(base)) if isinstance(source, Header) else shard.holds_number(i)
            for i, source in enumerate(self.domain.sources)
        ]
        return replace(self, domain=self.domain.select(np.flatnonzero(held).tolist()))

    def with_channels(self, channels: int) -> "Side":
        """Return grey images read as colour, as in training; other images are unchanged."""
        if self.domain.channels != 1:
            return self
        return replace(self, domain=replace(self.domain, channels=channels))


@dataclass(frozen=True)
class Sides:
    """Both sides of a translation.

    Attributes:
        sides: domain, "a" or "b" -> its images.
        paired: whether image i of both shows the same scene.
        size: how images are cut, in words.
    """

    sides: dict[str, Side]
    paired: bool
    size: str

    @classmethod
    def of_folders(cls, options: EvaluateOptions, paired: bool, arrays: Mapping[str, Any] | None = None) -> "Sides":
        """Open the folders that `options` name, or `arrays` "a" and "b".

        Raises:
            ConfigError: if the options name none, or too many.
            DataError: if images are missing, unreadable, or do not match.
        """
        paired = paired or options.paired or bool(options.ab)
        a, b = _open(options, arrays, ("a", "b", "ab"), paired, f"Name the held-out images: {WHERE}.")
        return cls({"a": Side.of(a, options), "b": Side.of(b, options)}, paired, options.cut_in_words)

    @classmethod
    def of_run(cls, folder: Path, options: EvaluateOptions) -> "Sides":
        """Open the held-out images of a run, cut as they were during training.

        Raises:
            ConfigError: if the run has none, or its options do not name its data.
            DataError: if the data have changed since.
            ModelFileError: if `folder` is not the folder of a translation run.
        """
        run = RunFolder(folder)
        if not run.config.exists():
            raise ModelFileError(f"{folder} is not the folder of a translation run: it holds no {run.config.name}.")
        record = from_json(RunRecord, read_text(run.config), str(run.config))
        method = METHODS.get(record.method)
        if method is None or method.Config.needs.domains != ("a", "b"):
            raise ModelFileError(f"{folder} is not the folder of a translation run, but of {record.method}.")
        try:
            (config,) = split(record.options, DataConfig)
        except ConfigError as error:
            raise ModelFileError(f"{run.config} is damaged: {error}") from error
        if not any((config.a, config.b, config.ab, config.data)):
            raise ConfigError(
                f"{folder} was trained on arrays, so its held-out images are not known here; name images: {WHERE}."
            )
        opened = find_domains(method.Config.needs, config)
        trained = record.training_images() or read_report_record(run).facts.images
        found = {domain.title: len(domain) for domain in opened.train.values()}
        if trained and trained != found:
            raise DataError(
                f"The data of {folder} have changed: it was trained on {in_words(trained)}, now there are "
                f"{in_words(found)}, so images that it was trained on may count as held out. "
                f"Name images that it has not seen: {WHERE}."
            )
        heldout = (opened.heldout["a"], opened.heldout["b"]) if opened.heldout else None
        return cls.held_out(heldout, config, method.Config.needs.paired, folder, options)

    @classmethod
    def held_out(
        cls, heldout: Domains | None, config: DataConfig, paired: bool, run: Path, options: EvaluateOptions
    ) -> "Sides":
        """Take the held-out domains of a run; for pairs the inputs come first, then the true answers."""
        if heldout is None:
            raise ConfigError(f"{run} held no images out; name images: {WHERE}.")
        if options.size or options.paired or options.pages:
            raise ConfigError(
                "--size, --paired and --pages apply to images that are named; those that a run held out are used as in "
                "training."
            )
        letters = "ba" if paired and config.direction == "b2a" else "ab"
        as_trained = partial(cut, config=config)
        sides = {x: Side.of(domain, options, as_trained) for x, domain in zip(letters, heldout, strict=True)}
        return cls(sides, paired, f"{config.size}, as in training")


def domains_of(direction: str) -> tuple[str, str]:
    """Return the domains that a direction leads from and to, e.g. "a" and "b" for "a2b".

    Raises:
        ConfigError: if it leads nowhere else, as in models with classes.
    """
    if direction[1:2] != "2":
        raise ConfigError(f"Only translations between two domains can be evaluated, and '{direction}' is none.")
    return direction[0], direction[-1]


def back_of(direction: str, directions: Iterable[str]) -> str | None:
    """Return the one of `directions` that leads back, if there is one."""
    return next((back for back in directions if domains_of(back) == domains_of(direction)[::-1]), None)


def open_two(options: EvaluateOptions, arrays: Mapping[str, Any] | None = None) -> tuple[Side, Side]:
    """Open the folders, or arrays, of real and of generated images.

    Raises:
        ConfigError: if only one is given.
        DataError: if images are missing, unreadable, or do not match.
    """
    missing = "Without a model, give --real DIR and --fake DIR (in Python real= and fake=, folders or arrays)."
    domains = _open(options, arrays, ("real", "fake"), options.paired, missing)
    real, fake = (Side.of(domain, options) for domain in domains)
    if real.kind != fake.kind:
        raise DataError(f"The real images have {real.kind}, the generated ones {fake.kind}; they cannot be compared.")
    return real, fake


def _open(
    options: EvaluateOptions, arrays: Mapping[str, Any] | None, names: Sequence[str], paired: bool, missing: str
) -> Domains:
    """Open the arrays, or the folders in the options `names`, of which the first two are one for each domain."""
    x, y, *_ = names
    given = [name for name in names if getattr(options, name)]
    if arrays:
        if not given and (odd := arrays.keys() - {x, y}):
            raise ConfigError(
                f"{min(odd)} does not go with {x} and {y}: use a and b with a model, real and fake without one."
            )
        if given or len(arrays) < 2:
            raise ConfigError(f"Give arrays for both {x} and {y}, or folders for both.")
        first, second = (from_arrays(name.upper(), arrays[name]) for name in (x, y))
        if not (first and second):
            raise DataError(f"{x} and {y} need at least one image each, not {len(first)} and {len(second)}.")
        return pair_up(first, second, paired)
    if given not in (["ab"], [x, y]):
        raise ConfigError(missing)
    folders, pages = [Path(getattr(options, name)) for name in given], options.pages or "images"
    for folder in folders:
        if not folder.is_dir():
            refuse_url(Path(folder), "This command")
            raise DataError(f"There is no folder {folder}.")
    if given == ["ab"]:
        return halves_of(folders[0], pages)
    if paired:
        return two_folders(folders[0], folders[1], True, pages)
    a, b = (Domain.of(TITLES.get(name, name), scan(folder, pages)) for name, folder in zip(given, folders, strict=True))
    return a, b


def chunks(images: Iterable[Array]) -> Iterator[list[Array]]:
    """Yield images in order, in lists small enough for memory."""
    chunk: list[Array] = []
    for image in images:
        if chunk and (len(chunk) == CHUNK or (len(chunk) + 1) * max(image.size, chunk[0].size) > CHUNK_VALUES):
            yield chunk
            chunk = []
        chunk.append(image)
    if chunk:
        yield chunk


def batches_of(**sets: list[Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield batches of consecutive images of the same shape from several sets that correspond image by image."""
    together = list(zip(*sets.values(), strict=True))
    for _, same in groupby(together, lambda images: [x.shape for x in images]):
        yield {name: torch.stack(x) for name, x in zip(sets, zip(*same, strict=True), strict=True)}

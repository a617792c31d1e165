"""The held-out images of both sides, cut as in the protocol and read ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from img2img.data.axes import arrays_of
from img2img.data.domain import Domain, from_arrays
from img2img.data.finding import find_domains
from img2img.data.folders import scan
from img2img.data.images import resize
from img2img.data.options import DataConfig
from img2img.data.pairs import Domains, halves_of, pair_up, two_folders
from img2img.data.picture import Array, Header
from img2img.data.samples import cut
from img2img.errors import ConfigError, DataError, ModelFileError, quote
from img2img.evaluation.options import EvaluateOptions
from img2img.methods import METHODS
from img2img.options.declared import split
from img2img.runs.facts import in_words, read_report_record
from img2img.runs.folder import RunFolder
from img2img.runs.record import RunRecord
from img2img.runtime.records import from_json, read_text

WHERE = "--a DIR --b DIR, or --ab DIR of side-by-side pairs (in Python a= and b=, folders or arrays)"
ARRAYS = ("a", "b", "real", "fake")  # options that may be arrays in Python
READERS = 4  # threads that decode, and images kept ready


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
    def folder(self) -> str:
        """The folder that contains all files; "arrays" for arrays."""
        paths = [source.path for source in self.domain.sources if isinstance(source, Header)]
        return os.path.commonpath([path.parent for path in paths]) if paths else "arrays"

    @property
    def names(self) -> list[str]:
        """The paths of the files relative to `folder`; for arrays their numbers."""
        folder, sources = self.folder, self.domain.sources
        return [
            quote(source.path.relative_to(folder)) if isinstance(source, Header) else f"image {i}"
            for i, source in enumerate(sources)
        ]

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
        named = {name for name in ("a", "b", "ab") if getattr(options, name)}
        if arrays:
            if named:
                raise ConfigError("Give arrays for both a and b, or folders for both.")
            a, b = _of_arrays(arrays, "a", "b", paired or options.paired)
            sides = {"a": Side.of(a, options), "b": Side.of(b, options)}
            return cls(sides, paired or options.paired, size_in_words(options))
        if named not in ({"ab"}, {"a", "b"}):
            raise ConfigError(f"Name the held-out images: {WHERE}.")
        paired = paired or options.paired or named == {"ab"}
        places = {name: _folder(getattr(options, name)) for name in named}
        a, b = halves_of(places["ab"]) if named == {"ab"} else two_folders(places["a"], places["b"], paired)
        return cls({"a": Side.of(a, options), "b": Side.of(b, options)}, paired, size_in_words(options))

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
        paired = learns_from_pairs(record.method)
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
        return cls.held_out(heldout, config, paired, folder, options)

    @classmethod
    def held_out(
        cls, heldout: Domains | None, config: DataConfig, paired: bool, run: Path, options: EvaluateOptions
    ) -> "Sides":
        """Take the held-out domains of a run; for pairs the inputs come first, then the true answers."""
        if heldout is None:
            raise ConfigError(f"{run} held no images out; name images: {WHERE}.")
        if options.size or options.paired:
            raise ConfigError(
                "--size and --paired apply to images that are named; those that a run held out are used as in training."
            )
        letters = "ba" if paired and config.direction == "b2a" else "ab"
        as_trained = partial(cut, config=config)
        sides = {x: Side.of(domain, options, as_trained) for x, domain in zip(letters, heldout, strict=True)}
        return cls(sides, paired, f"{config.size}, as in training")


def learns_from_pairs(method: str) -> bool:
    """Tell whether a method of `METHODS` learns from pairs."""
    paired: bool = METHODS[method].Config.needs.paired
    return paired


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


def arrays_in(options: Any, channel_axis: int | None = None) -> dict[str, Any]:
    """Take out of `options` those that are images where the command line has folders."""
    images = {k: options.pop(k) for k in ARRAYS if not isinstance(options.get(k, ""), str | Path | None)}
    return arrays_of(images, channel_axis)


def _of_arrays(arrays: Mapping[str, Any], x: str, y: str, paired: bool) -> Domains:
    """Return both domains of arrays, checked as in training."""
    if odd := arrays.keys() - {x, y}:
        raise ConfigError(
            f"{min(odd)} does not go with {x} and {y}: use a and b with a model, real and fake without one."
        )
    if len(arrays) < 2:
        raise ConfigError(f"Give arrays for both {x} and {y}, or folders for both.")
    first, second = (from_arrays(name.upper(), arrays[name]) for name in (x, y))
    if not (first and second):
        raise DataError(f"{x} and {y} need at least one image each, not {len(first)} and {len(second)}.")
    return pair_up(first, second, paired)


def open_two(options: EvaluateOptions, arrays: Mapping[str, Any] | None = None) -> tuple[Side, Side]:
    """Open the folders, or arrays, of real and of generated images.

    Raises:
        ConfigError: if only one is given.
        DataError: if images are missing, unreadable, or do not match.
    """
    if arrays:
        if options.real or options.fake:
            raise ConfigError("Give arrays for both real and fake, or folders for both.")
        real, fake = _of_arrays(arrays, "real", "fake", options.paired)
    elif not (options.real and options.fake):
        raise ConfigError(
            "Without a model, give --real DIR and --fake DIR (in Python real= and fake=, folders or arrays)."
        )
    else:
        real, fake = _folders(_folder(options.real), _folder(options.fake), options.paired)
    if (real.channels, real.dtype) != (fake.channels, fake.dtype):
        raise DataError(f"The real images have {real.kind}, the generated ones {fake.kind}; they cannot be compared.")
    return Side.of(real, options), Side.of(fake, options)


def _folders(real: Path, fake: Path, paired: bool) -> Domains:
    if paired:
        return two_folders(real, fake, True)
    return Domain.of("real", scan(real)), Domain.of("fake", scan(fake))


def size_in_words(options: EvaluateOptions) -> str:
    """Return how images are cut, in words."""
    return f"{options.size}, resized" if options.size else "as they are"


def _folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    return folder

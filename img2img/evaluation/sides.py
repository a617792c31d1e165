"""The held-out images of both sides, cut as the protocol says, read ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from img2img.data.axes import arrays_of
from img2img.data.folders import Domain, Domains, from_arrays, pair_up, pairs_in, scan
from img2img.data.images import Array, Header, resize
from img2img.data.layouts import DataConfig, cut, open_data
from img2img.data.opening import in_words
from img2img.data.picture import quote
from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.evaluation.options import EvaluateOptions
from img2img.methods import METHODS
from img2img.options.declared import split
from img2img.report.run import read_facts
from img2img.runs.record import RunRecord
from img2img.runtime.records import read_record

WHERE = "--a DIR --b DIR, or --ab DIR of side-by-side pairs (in Python a= and b=, folders or arrays)"
ARRAYS = ("a", "b", "real", "fake")  # where Python takes images themselves
READERS = 4  # threads that decode, and images that lie ready


@dataclass(frozen=True)
class Side:
    """The images of one side.

    Attributes:
        domain: where they are.
        cut: what is done to each, (H, W, C) to (H, W, C).
    """

    domain: Domain
    cut: Callable[[Array], Array]

    @classmethod
    def of(cls, domain: Domain, options: EvaluateOptions, cut: Callable[[Array], Array] | None = None) -> "Side":
        """Evenly chosen images, as many as the options say, resized unless `cut` says otherwise."""
        chosen = domain.evenly(options.limit or len(domain))
        resized = (lambda x: resize(x, options.size, options.size)) if options.size else (lambda x: x)
        return cls(chosen, cut or resized)

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, i: int) -> Array:
        return self.cut(self.domain.load(i))

    def __iter__(self) -> Iterator[Array]:
        """All images in their order, decoded ahead by threads; only a few are in memory at once."""
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
        """The folder that all files lie in or below; "arrays" of arrays."""
        paths = [source.path for source in self.domain.sources if isinstance(source, Header)]
        return os.path.commonpath([path.parent for path in paths]) if paths else "arrays"

    @property
    def names(self) -> list[str]:
        """The names of the files, from `folder` on; of arrays their numbers."""
        folder, sources = self.folder, self.domain.sources
        return [
            quote(source.path.relative_to(folder)) if isinstance(source, Header) else f"image {i}"
            for i, source in enumerate(sources)
        ]

    def with_channels(self, channels: int) -> "Side":
        """Grey images read as colour, as in training; others as they are."""
        if self.domain.channels != 1:
            return self
        return replace(self, domain=replace(self.domain, channels=channels))


@dataclass(frozen=True)
class Sides:
    """Both sides, by the letters of a direction.

    Attributes:
        sides: "a" and "b".
        paired: whether image i of both shows the same thing.
        size: how images are cut, in words.
    """

    sides: dict[str, Side]
    paired: bool
    size: str

    @classmethod
    def of_folders(cls, options: EvaluateOptions, paired: bool, arrays: Mapping[str, Any] | None = None) -> "Sides":
        """The folders that `options` name, or `arrays` "a" and "b".

        Raises:
            ConfigError: if the options name none, or too many.
            DataError: if images are missing, unreadable, or do not fit together.
        """
        given = {name for name in ("a", "b", "ab") if getattr(options, name)}
        if arrays:
            if given:
                raise ConfigError("Give arrays for both a and b, or folders for both.")
            a, b = _of_arrays(arrays, "a", "b", paired or options.paired)
            sides = {"a": Side.of(a, options), "b": Side.of(b, options)}
            return cls(sides, paired or options.paired, size_in_words(options))
        if given not in ({"ab"}, {"a", "b"}):
            raise ConfigError(f"Say where the held-out images are: {WHERE}.")
        paired = paired or options.paired or given == {"ab"}
        places = {name: _folder(getattr(options, name)) for name in given}
        if paired:
            a, b = pairs_in(**places)
        else:
            a, b = Domain.of("A", scan(places["a"])), Domain.of("B", scan(places["b"]))
        return cls({"a": Side.of(a, options), "b": Side.of(b, options)}, paired, size_in_words(options))

    @classmethod
    def of_run(cls, folder: Path, options: EvaluateOptions) -> "Sides":
        """The held-out images of a run, cut as they were during training.

        Raises:
            ConfigError: if the run has none, or its data cannot be told from its options.
            DataError: if the data are no longer those of the run.
        """
        if not (folder / "config.json").exists():
            raise ModelFileError(f"{folder} is not the folder of a translation run: it holds no config.json.")
        record = read_record(RunRecord, folder / "config.json")
        method = METHODS.get(record["method"])
        if method is None or method.Config.needs.domains != ("a", "b"):
            raise ModelFileError(f"{folder} is not the folder of a translation run, but of {record['method']}.")
        try:
            (config,) = split(record["options"], DataConfig)
        except ConfigError as error:
            raise ModelFileError(f"{folder / 'config.json'} is damaged: {error}") from error
        paired = method.Config.needs.paired
        if not any((config.a, config.b, config.ab, config.data)):
            raise ConfigError(
                f"{folder} was trained on arrays, so its held-out images are not known here; "
                f"say where images are: {WHERE}."
            )
        opened = open_data(config, paired)
        known = read_facts(folder)[0].get("training images")
        if known and known != in_words(opened.train):
            raise DataError(
                f"The data of {folder} have changed: it was trained on {known}, now there are "
                f"{in_words(opened.train)}, so what it has trained on may count as held out. "
                f"Name images that it has not seen: {WHERE}."
            )
        return cls.held_out(opened.heldout, config, paired, folder, options)

    @classmethod
    def held_out(
        cls, heldout: Domains | None, config: DataConfig, paired: bool, run: Path, options: EvaluateOptions
    ) -> "Sides":
        """The held-out domains of a run: what goes in and what should come out, in this order, if they are pairs."""
        if heldout is None:
            raise ConfigError(f"{run} held no images out; say where there are some: {WHERE}.")
        if options.size or options.paired:
            raise ConfigError(
                "--size and --paired are for images that are named; those that a run held out are taken as in training."
            )
        letters = "ba" if paired and config.direction == "b2a" else "ab"
        as_trained = partial(cut, config=config)
        sides = {x: Side.of(domain, options, as_trained) for x, domain in zip(letters, heldout, strict=True)}
        return cls(sides, paired, f"{config.size}, as in training")


def arrays_in(options: Any, channel_axis: int | None = None) -> dict[str, Any]:
    """Takes those of `options` that are images where the command line has folders."""
    given = {k: options.pop(k) for k in ARRAYS if not isinstance(options.get(k, ""), str | Path | None)}
    return arrays_of(given, channel_axis)


def _of_arrays(arrays: Mapping[str, Any], x: str, y: str, paired: bool) -> Domains:
    """Both domains of arrays, checked as in training."""
    if odd := arrays.keys() - {x, y}:
        raise ConfigError(
            f"{min(odd)} does not go with {x} and {y}: a and b are for a model, real and fake without one."
        )
    if len(arrays) < 2:
        raise ConfigError(f"Give arrays for both {x} and {y}, or folders for both.")
    first, second = (from_arrays(name.upper(), arrays[name]) for name in (x, y))
    if not (first and second):
        raise DataError(f"{x} and {y} are at least one image each, not {len(first)} and {len(second)}.")
    return pair_up(first, second, paired)


def open_two(options: EvaluateOptions, arrays: Mapping[str, Any] | None = None) -> tuple[Side, Side]:
    """The folders, or arrays, of real and of generated images.

    Raises:
        ConfigError: if only one is given.
        DataError: if images are missing, unreadable, or do not fit together.
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
        kinds = [f"{d.channels} channels of {d.dtype}" for d in (real, fake)]
        raise DataError(f"The real images have {kinds[0]}, the others {kinds[1]}; they cannot be compared.")
    return Side.of(real, options), Side.of(fake, options)


def _folders(real: Path, fake: Path, paired: bool) -> Domains:
    if paired:
        return pairs_in(a=real, b=fake)
    return Domain.of("real", scan(real)), Domain.of("fake", scan(fake))


def size_in_words(options: EvaluateOptions) -> str:
    return f"{options.size}, resized" if options.size else "as they are"


def _folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    return folder

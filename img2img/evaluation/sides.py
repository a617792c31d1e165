"""The held-out images of both sides, cut as the protocol says, read ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from img2img.data.folders import Domain, Domains, pairs_in, scan
from img2img.data.images import Array, Header, resize
from img2img.data.layouts import DataConfig, cut, open_data
from img2img.data.opening import in_words
from img2img.data.picture import shown
from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.evaluation.options import EvaluateOptions
from img2img.methods import METHODS
from img2img.options import split
from img2img.records import read_record
from img2img.training.config import RunRecord
from img2img.training.journal import read_facts

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
        image = self.cut(self.domain.load(i))
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise DataError(f"{self.domain.name(i)} holds values that are not numbers; repair it or take it out.")
        return image

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
            shown(source.path.relative_to(folder)) if isinstance(source, Header) else f"image {i}"
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
    def of_folders(cls, options: EvaluateOptions, paired: bool) -> "Sides":
        """The folders that `options` name.

        Raises:
            ConfigError: if the options name none, or too many.
            DataError: if images are missing, unreadable, or do not fit together.
        """
        given = {name for name in ("a", "b", "ab") if getattr(options, name)}
        if given not in ({"ab"}, {"a", "b"}):
            raise ConfigError("Say where the held-out images are: --a DIR --b DIR, or --ab DIR of side-by-side pairs.")
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
        if method is None or method.layout == "images":
            raise ModelFileError(f"{folder} is not the folder of a translation run, but of {record['method']}.")
        try:
            (config,) = split(record["options"], DataConfig)
        except ConfigError as error:
            raise ModelFileError(f"{folder / 'config.json'} is damaged: {error}") from error
        paired = method.layout == "pairs"
        if not any((config.a, config.b, config.ab, config.data)):
            ways = "say where images are: --a DIR --b DIR, or --ab DIR"
            raise ConfigError(f"{folder} was trained on arrays, so its held-out images are not known here; {ways}.")
        opened = open_data(config, paired)
        known = read_facts(folder)[0].get("training images")
        if known and known != in_words(opened.train):
            raise DataError(
                f"The data of {folder} have changed: it was trained on {known}, now there are "
                f"{in_words(opened.train)}, so what it has trained on may count as held out. "
                "Name images that it has not seen: --a DIR --b DIR, or --ab DIR."
            )
        return cls.held_out(opened.heldout, config, paired, folder, options)

    @classmethod
    def held_out(
        cls, heldout: Domains | None, config: DataConfig, paired: bool, run: Path, options: EvaluateOptions
    ) -> "Sides":
        """The held-out domains of a run: what goes in and what should come out, in this order, if they are pairs."""
        if heldout is None:
            raise ConfigError(
                f"{run} held no images out; say where there are some: --a DIR --b DIR, or --ab DIR of pairs."
            )
        if options.size or options.paired:
            raise ConfigError(
                "--size and --paired are for images that are named; those that a run held out are taken as in training."
            )
        letters = "ba" if paired and config.direction == "b2a" else "ab"
        as_trained = partial(cut, config=config)
        sides = {x: Side.of(domain, options, as_trained) for x, domain in zip(letters, heldout, strict=True)}
        return cls(sides, paired, f"{config.size}, as in training")


def open_two(options: EvaluateOptions) -> tuple[Side, Side]:
    """The folders of real and of generated images.

    Raises:
        ConfigError: if only one is given.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    if not (options.real and options.fake):
        raise ConfigError("Without a model, give --real DIR and --fake DIR.")
    places = _folder(options.real), _folder(options.fake)
    if options.paired:
        real, fake = pairs_in(a=places[0], b=places[1])
    else:
        real, fake = (Domain.of(title, scan(place)) for title, place in zip(("real", "fake"), places, strict=True))
    if (real.channels, real.dtype) != (fake.channels, fake.dtype):
        kinds = [f"{d.channels} channels of {d.dtype}" for d in (real, fake)]
        raise DataError(f"The real images have {kinds[0]}, the others {kinds[1]}; they cannot be compared.")
    return Side.of(real, options), Side.of(fake, options)


def size_in_words(options: EvaluateOptions) -> str:
    return f"{options.size}, resized" if options.size else "as they are"


def _folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    return folder

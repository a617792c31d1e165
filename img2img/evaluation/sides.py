"""The held-out images of both sides, cut as the protocol says, read ahead."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from img2img.data.folders import Domain, pairs_in, scan
from img2img.data.images import Array, resize
from img2img.data.layouts import DataConfig
from img2img.data.opening import LAYOUTS, Opened
from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.evaluation.options import EvaluateOptions
from img2img.methods import METHODS

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
    def of(cls, domain: Domain, options: EvaluateOptions) -> "Side":
        size, count = options.size, min(options.limit or len(domain), len(domain))
        chosen = domain.select([round(i) for i in np.linspace(0, len(domain) - 1, count)])
        return cls(chosen, (lambda x: resize(x, size, size)) if size else (lambda x: x))

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
        places = {name: Path(getattr(options, name)) for name in given}
        for place in places.values():
            if not place.is_dir():
                raise DataError(f"There is no folder {place}.")
        if paired:
            a, b = pairs_in(**places)
        else:
            a, b = Domain.of("A", scan(places["a"])), Domain.of("B", scan(places["b"]))
        size = f"{options.size}, resized" if options.size else "as they are"
        return cls({"a": Side.of(a, options), "b": Side.of(b, options)}, paired, size)

    @classmethod
    def of_run(cls, folder: Path, options: EvaluateOptions) -> "Sides":
        """The held-out images of a run, cut as they were during training.

        Raises:
            ConfigError: if the run has none, or its data cannot be told from its options.
        """
        try:
            record = json.loads((folder / "config.json").read_text())
            layout = METHODS[record["method"]].layout
            saved = record["options"]
            config = DataConfig(**{f.name: saved[f.name] for f in fields(DataConfig)})
        except (OSError, ValueError, KeyError) as error:
            raise ModelFileError(f"{folder} is not the folder of a translation run: {error}.") from None
        ways = "say where images are: --a DIR --b DIR, or --ab DIR"
        if not any((config.a, config.b, config.ab, config.data)):
            raise ConfigError(f"{folder} was trained on arrays, so its held-out images are not known here; {ways}.")
        opened = LAYOUTS[layout].open(replace(config, cache_mb=0), layout == "pairs", saved["seed"], False)
        return cls.of_opened(opened, layout == "pairs", folder, options)

    @classmethod
    def of_opened(cls, opened: Opened, paired: bool, folder: Path, options: EvaluateOptions) -> "Sides":
        held = opened.heldout
        if held is None:
            raise ConfigError(
                f"{folder} held no images out; say where there are some: --a DIR --b DIR, or --ab DIR of pairs."
            )
        sides = {
            name: Side(Side.of(domain, options).domain, held.cut) for name, domain in (("a", held.a), ("b", held.b))
        }
        return cls(sides, paired, f"{held.config.size}, as in training")


def open_two(options: EvaluateOptions) -> tuple[Side, Side]:
    """The folders of real and of generated images.

    Raises:
        ConfigError: if only one is given.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    if not (options.real and options.fake):
        raise ConfigError("Without a model, give --real DIR and --fake DIR.")
    for place in (options.real, options.fake):
        if not Path(place).is_dir():
            raise DataError(f"There is no folder {place}.")
    if options.paired:
        real, fake = pairs_in(a=Path(options.real), b=Path(options.fake))
    else:
        real, fake = (Domain.of(t, scan(Path(p))) for t, p in (("real", options.real), ("fake", options.fake)))
    if (real.channels, real.dtype) != (fake.channels, fake.dtype):
        kinds = [f"{d.channels} channels of {d.dtype}" for d in (real, fake)]
        raise DataError(f"The real images have {kinds[0]}, the others {kinds[1]}; they cannot be compared.")
    return Side.of(real, options), Side.of(fake, options)

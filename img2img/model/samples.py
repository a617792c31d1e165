"""Images drawn from noise as files: each number once, drawn as the others in its folder were, on any machine."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from img2img.data.grid import draw_grid
from img2img.data.images import FORMATS, write_image
from img2img.data.picture import Array, Picture
from img2img.data.shards import Shard
from img2img.errors import ConfigError, DataError, ModelFileError, TrainingError, choose, quote
from img2img.model.options import SampleOptions
from img2img.model.record import TRIES, compare_machines, refuse_taken, worker_remarks
from img2img.model.sampling import Sampler
from img2img.runtime.files import atomic, create_json, json_object, remove, remove_stale, write_json
from img2img.runtime.markup import facts, in_cell, listing
from img2img.runtime.records import read_record

PNG_HOLDS = ("uint8", "uint16")
GRID_IMAGES, WALKS, COLUMNS = 64, 8, 32
SOURCE = "samples.json"  # in a folder of images: what they were drawn with
WHAT = ("model", "seed", "label", "truncation", "vectors")
OTHERS = "model, seed, class, truncation or vectors"


@dataclass(frozen=True)
class _Record:
    """What images were drawn with; None where it does not apply, or an older version did not record it."""

    model: str
    seed: int
    label: str | None = None
    truncation: float | None = None
    vectors: str | None = None
    batch_size: int | None = None
    device: str | None = None
    processor: str | None = None
    software: str | None = None
    precision: str | None = None
    threads: int | None = None


@dataclass
class Written:
    """The result of `write_samples`: images drawn, images that existed, the sheets that show several, and notes."""

    drawn: int
    skipped: int
    pictures: list[Path | str]
    notes: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str:
        sheets = ", ".join(map(str, self.pictures))
        counts = facts({"drawn": self.drawn, "already there": self.skipped, "sheets": sheets})
        return in_cell("Drawn images", counts, listing(self.notes))


class Drawing:
    """The images number 0 to `n`, or those of one shard, as files in the folder `out`; those that exist are kept.

    Attributes:
        model: draws as the images in `out` were drawn.
        batch: the size of their batches.
        begun: whether `out` held a record of such images.
        total: number of the images.
        missing: the numbers of those that are to be drawn.
        notes: what the user should know.
        record: what the images in `out` are drawn with.
        way: precision and threads, for `join`.

    Raises:
        ConfigError: if `out` holds images of another model, seed, class, truncation, vectors or machine.
        TrainingError: if it cannot be written.
    """

    def __init__(self, model: Sampler, n: int, out: Path, options: SampleOptions) -> None:
        self.n, self.out, self.options = n, out, options
        self.way: tuple[str, int | None] = model.runtime.precision, model.threads
        self.suffix, self.shard = _suffix(model, options.format), Shard.parse(options.shard)
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; give a folder for the images.")
        model = model.chosen(options)
        model.condition([0])  # refuses a model whose vectors are missing
        sheets = {"grid.png": options.grid, "walk.png": options.interpolate} if self.shard.number == 1 else {}
        self.has_sheets, self.begun = bool(sheets), (out / SOURCE).exists()
        with _writing(out):
            if not self.begun and not options.overwrite:
                names = [*(self.path(i).name for i in range(n)), *(name for name, asked in sheets.items() if asked)]
                if foreign := next((out / name for name in names if self.holds(name)), None):
                    raise ConfigError(
                        f"{foreign} was not drawn by this command; give another --out, or --overwrite it."
                    )
            out.mkdir(parents=True, exist_ok=True)
            remove_stale(out)
            # before the images, so that it is known whose they are
            self.model, self.batch, self.notes = _resume(model, out, options, self.remove_former)
            numbers = [i for i in range(n) if self.shard.holds_number(i // self.batch)]  # in whole batches
            self.total = len(numbers)
            self.missing = [i for i in numbers if options.overwrite or not self.holds(self.path(i).name)]
            self.record = json_object((out / SOURCE).read_bytes())

    def copy_for(self, device: str) -> Self:
        """Return the drawing for a process that is to help on `device`, and calls `join` first; it is not long."""
        other, model = copy.copy(self), copy.copy(self.model)
        other.way = self.model.runtime.precision, self.model.threads
        model.asked = device, model.asked[1]
        other.model, other.missing, other.notes = model, [], []
        return other

    def join(self) -> None:
        """Set a copy in another process up to draw as the others do.

        Raises:
            ConfigError: if the machine rounds differently, or does not see the folder of the images.
        """
        self.notes += worker_remarks(self.model, self.out / SOURCE, self.record)
        refuse_taken(self.out, self.record, SOURCE)
        self.model = self.model.by_way_of(*self.way)

    def path(self, number: int) -> Path:
        """Return the file of an image."""
        return self.out / f"{number:06}{self.suffix}"

    def holds(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return (self.out / name).exists()

    def remove_former(self) -> None:
        """Remove the images of an earlier call, which a shorter one would leave among its own."""
        for path in self.out.glob("[0-9]*.*"):
            if is_image(path.name):
                remove(path)

    def tidy(self) -> None:
        """Remove what processes that have ended left half written."""
        remove_stale(self.out)

    def release(self) -> None:
        """Remove the record, so that the folder is free for other images."""
        (self.out / SOURCE).unlink()

    def draw(self, numbers: Sequence[int]) -> Iterator[int]:
        """Draw images of these numbers, each in its usual batch; yield the number of each once it is written."""
        images = self.model.draw_in_place(list(numbers), self.options.seed, self.batch)
        with _writing(self.out):
            for number, image in zip(numbers, images, strict=True):
                write_image(self.path(number), Picture(image))
                yield number

    def sheets(self) -> list[Path | str]:
        """Write the pictures that show several images, if they were asked for; return their paths."""
        with _writing(self.out):
            options = replace(self.options, batch_size=self.batch)
            return [*_pictures(self.model, self.n, self.out, options)] if self.has_sheets else []


def write_samples(drawing: Drawing, drawn: Iterable[int], progress: Callable[[int, int], None]) -> Written:
    """Write the images of a drawing, and its sheets.

    Args:
        drawing: where the images are to be.
        drawn: the numbers of the missing images; an image is written when its number is asked for.
        progress: called with the number of images that are there, and their total.

    Raises:
        DataError: if the format cannot hold the images.
        TrainingError: if they cannot be written.
    """
    kept = done = drawing.total - len(drawing.missing)
    try:
        for _ in drawn:
            done += 1
            progress(done, drawing.total)
    except DataError:  # a format that cannot hold them: the folder stays free for another
        if done == kept and not drawing.begun:
            drawing.release()
        raise
    return Written(len(drawing.missing), kept, drawing.sheets(), drawing.notes)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{out} cannot be written: {error.strerror or error}.") from error


def _resume(
    model: Sampler, out: Path, options: SampleOptions, remove_former: Callable[[], None]
) -> tuple[Sampler, int, list[str]]:
    """Return the model that draws as the images in `out` were drawn, the size of their batches, and notes.

    The record of a new folder is written; of several processes that begin one at once, one decides.

    Raises:
        ConfigError: if they were drawn with another model, other options or on another machine.
    """
    current: dict[str, Any] = {"model": model.digest(), "seed": options.seed}
    current |= {"label": model.label} if model.label else {}
    current |= {"truncation": model.truncation} if model.truncation else {}
    if model.vectors is not None:
        current["vectors"] = hashlib.sha256(model.vectors.numpy().tobytes()).hexdigest()
    current |= {"batch_size": options.batch_size} | model.way()
    path = out / SOURCE
    for _ in range(TRIES):
        if not path.exists():
            if create_json(path, current):
                return model, options.batch_size, []
            continue
        previous = _read(path, options.overwrite)
        others = any(previous.get(name) != current.get(name) for name in WHAT)
        of_machine, remarks = compare_machines(model, previous)
        precision = previous.get("precision") or current["precision"]
        if model.asked[1] not in ("auto", precision):
            of_machine.append(f"precision was {precision}, now {model.asked[1]}")
        if not others and not of_machine:
            break
        if options.overwrite and options.shard is None:
            if previous:
                remove_former()
            write_json(path, current)
            return model, options.batch_size, []
        differently = f"that were computed differently: {'; '.join(of_machine)}"
        raise ConfigError(
            f"{out} holds images {'of another ' + OTHERS if others else differently}; give another --out, or "
            f"{'--overwrite them' if options.shard is None else 'delete them'}."
        )
    else:
        raise ConfigError(f"{quote(path)} comes and goes; end the other commands that use the folder.")
    batch = previous.get("batch_size") or options.batch_size
    notes = [f"The existing images may be rounded differently: {words}." for words in remarks]
    if batch != options.batch_size:
        notes.append(f"Images are drawn in batches of {batch}, as those in {out} were: their rounding depends on it.")
    return model.by_way_of(precision, previous.get("threads")), batch, notes


def _read(path: Path, overwrite: bool) -> dict[str, Any]:
    try:
        return read_record(_Record, path)
    except ModelFileError as error:
        if overwrite:
            return {}
        raise ConfigError(
            f"{quote(path)} is damaged, or of another program; give another --out, or --overwrite it."
        ) from error


def is_image(name: str) -> bool:
    """Return whether a file has the name of a drawn image."""
    path = Path(name)
    return path.stem.isdecimal() and path.stem == f"{int(path.stem):06}" and path.suffix in FORMATS


def _suffix(model: Sampler, format: str) -> str:
    if format == "auto":
        fits = model.spec().scale_out.dtype in PNG_HOLDS and model.spec().out_channels in (1, 3)
        return ".png" if fits else ".tif"
    suffix = f".{format.removeprefix('.')}"
    choose("format", suffix, FORMATS)
    return suffix


def _pictures(model: Sampler, n: int, out: Path, options: SampleOptions) -> list[Path]:
    def shown(images: Iterable[Array]) -> Tensor:
        return torch.stack([model.spec().scale_out.encode(image) for image in images])

    sheets: dict[str, tuple[dict[str, Tensor], int | None]] = {}
    turn, seed, steps = model.turn, options.seed, options.interpolate
    if options.grid and len(turn) > 1:  # a column for each, whose rows have the same noise
        turn = turn[:COLUMNS]
        rows = range(min(n, max(2, GRID_IMAGES // len(turn))))
        noise = torch.cat([model.noise(k, seed) for k in rows])
        columns = {str(x): model.images_of(noise, model.condition([c] * len(rows))) for c, x in enumerate(turn)}
        sheets["grid.png"] = {title: shown(images) for title, images in columns.items()}, None
    elif options.grid:
        sheets["grid.png"] = {"": shown(model(min(n, GRID_IMAGES), seed, batch_size=options.batch_size))}, None
    if steps:
        k = len(model.turn)
        ways: Iterable[list[Array]] = (model.walk(2 * i, 2 * i + 1, steps, seed) for i in range(WALKS))
        if k > 1:  # from one class or vector to the next, under the same noise
            ways = (model.walk(i, i, steps, seed, (model.turn[i % k], model.turn[(i + 1) % k])) for i in range(WALKS))
        sheets["walk.png"] = {"": shown(image for way in ways for image in way)}, steps
    for name, (images, wide) in sheets.items():
        with atomic(out / name) as temporary:
            draw_grid(images, wide).save(temporary)
    return [out / name for name in sheets]

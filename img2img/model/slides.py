"""Translation of slides that are too large to be held, block by block, with statistics from a sample of tiles.

Finished blocks wait in a hidden folder beside the result, so that a job that was killed continues with the others. The
folder is bound to the model, to the options that the pixels depend on, and to the content of the slide.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from img2img.data.blocks import Blocks, blocks_of
from img2img.data.ome_metadata import FILES
from img2img.data.picture import Array
from img2img.data.regions import Regions, Span, open_regions
from img2img.data.tissue import empty_regions, has_glass, sample_of
from img2img.errors import ConfigError, DataError, TrainingError, quote
from img2img.model.frozen import Frozen
from img2img.model.lazy import Region
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.tiling import NotInTilesError
from img2img.model.translator import Translator
from img2img.runtime.device import is_out_of_memory, torch_threads
from img2img.runtime.files import atomic

BLOCK = 1024  # pixels, the edge of a block unless --tile says otherwise
SAMPLED = 256  # pixels, the least edge of the tiles that statistics are taken from
PIECES, PIECE = 256, 2**16  # number and bytes of the parts of a slide that its digest is made of
STATISTICS = "statistics.{}.safetensors"  # of a page
OF_PIXELS = ("statistics", "skip_empty", "tile", "quality")  # options that blocks depend on


@dataclass
class SlideJob:
    """The translation of one slide, or of all pages of an image, into a TIFF or OME-Zarr.

    Attributes:
        translator: the model.
        source, target: the slide and its result.
        options: how it is translated.
        files: how it is read and written; `statistics` is the number of tiles that they are taken from.
        progress: called with the number of finished blocks and of all, when a block is finished.
        before: called when all blocks are finished, before the result appears.
        lost: what the result does not keep of the slide.
        outside: share of the values read in this run that are outside the range of the training images.
    """

    translator: Translator
    source: Path
    target: Path
    options: TranslateOptions
    files: FolderOptions
    progress: Callable[[int, int], None] = lambda done, total: None
    before: Callable[[], None] = lambda: None
    lost: tuple[str, ...] = ()
    outside: float = 0.0
    _read: list[int] = field(default_factory=lambda: [0, 0])  # values, and those outside the range

    @property
    def edge(self) -> int:
        """Pixels that blocks are about as high and as wide as, and the parts that are computed of larger blocks."""
        return BLOCK if self.options.tile == "auto" else int(self.options.tile)

    def run(self) -> None:
        """Translate the slide, or what is missing of it; the result appears whole.

        Raises:
            DataError: if the slide cannot be read, or does not fit the model.
            ConfigError: if the options do not fit the slide or the model.
            TrainingError: if there is not enough memory or space.
        """
        spec = self.translator.spec()
        with open_regions(self.source, pages=True) as slide, torch_threads(self.translator.threads):
            self._refuse(slide)
            kind = spec.out_channels, spec.scale_out.dtype, self.files.quality
            blocks = blocks_of(slide, self.source, self.target, *kind, self.edge)
            self.lost = blocks.form.lost
            with blocks.alone():
                self._prepare(blocks)
                self._compute(slide, blocks)
                self.before()
                blocks.assemble()
        blocks.remove()

    def _refuse(self, slide: Regions) -> None:
        """Refuse a slide that the model does not take, or whose empty parts are not to be copied."""
        spec = self.translator.spec()
        self.translator.fit(np.zeros((1, 1, slide.channels), slide.dtype), self.options)
        if not self.files.skip_empty:
            return
        if not has_glass(slide):
            raise DataError(
                f"--skip-empty recognises glass by its colour, in slides of 3 channels of uint8, and "
                f"{quote(self.source)} has {slide.channels} of {slide.dtype}; leave it out."
            )
        if (spec.in_channels, spec.scale_in) != (spec.out_channels, spec.scale_out):
            raise ConfigError(
                "--skip-empty copies what is empty, and this model gives images of another kind than it takes; leave "
                "it out."
            )

    def _prepare(self, blocks: Blocks) -> None:
        """Bind the folder of the blocks to the model, the options and the slide; blocks of others are removed."""
        chosen = asdict(self.options) | asdict(self.files)
        translator = self.translator
        record = {
            "model": translator.digest(),
            "towards": [translator.direction, translator.label, *translator.drawn],
            "way": translator.way(),
            "options": {name: chosen[name] for name in OF_PIXELS},
            "slide": digest(self.source),
        }
        if blocks.bind(record):
            self.translator.notes.append(
                f"Finished blocks of {quote(self.source)} were of another model, other options or another content of "
                "the slide; they were removed."
            )

    @torch.inference_mode()
    def _compute(self, slide: Regions, blocks: Blocks) -> None:
        """Compute the blocks that are not finished."""
        places = blocks.places
        todo = [place for place in places if not blocks.holds(place)]
        if not todo:
            return
        frozen = self._frozen(slide)
        for done, place in enumerate(todo, len(places) - len(todo) + 1):
            pages = [self._block(frozen, slide, blocks, page, blocks.spans(place)) for page in blocks.pages(place)]
            blocks.write(place, np.stack(pages) if len(pages) > 1 else pages[0])
            self.progress(done, len(places))

    def _block(self, frozen: Frozen, slide: Regions, blocks: Blocks, page: int, region: Region) -> Array:
        """Compute the block (H, W, C) of a page, part by part if it is much larger than `edge`."""
        spec, image = self.translator.spec(), slide.page(page)
        is_empty = empty_regions(image) if self.files.skip_empty else lambda rows, columns: False
        self._learn(frozen, image, blocks.folder / STATISTICS.format(page))
        (top, bottom), (left, right) = region
        out = np.empty((bottom - top, right - left, spec.out_channels), spec.scale_out.dtype)
        for rows, columns in product(*map(self._parts, region, blocks.size)):
            if is_empty(rows, columns):
                result = image.read(rows, columns)
            else:
                high, wide = rows[1] - rows[0], columns[1] - columns[0]
                with enough_memory(f"blocks of {wide}x{high} pixels; use --tile with less than {max(high, wide)}"):
                    result = spec.scale_out.decode(frozen.compute((rows, columns), self._reader(image))[0])
            out[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left] = result
        return out

    def _parts(self, span: Span, size: int) -> list[Span]:
        """Return the parts of the rows or columns of a block of which a whole one has `size`."""
        step = -(-size // max(1, round(size / self.edge)))
        return [(i, min(i + step, span[1])) for i in range(*span, step)]

    def _frozen(self, slide: Regions) -> Frozen:
        """Return the network, without statistics."""
        size = self.translator.padded(slide.height, slide.width)
        try:
            return Frozen(self.translator.tiled(), (1, slide.channels, *size), self.translator.runtime.device)
        except NotInTilesError as error:
            raise ConfigError(f"--statistics cannot be used: {error.why}.") from error

    def _learn(self, frozen: Frozen, slide: Regions, path: Path) -> None:
        """Give the network the statistics of an image: from the file at `path`, or from a sample."""
        if path.exists():
            known = load_file(path, str(self.translator.runtime.device))
            frozen.statistics = [(known[f"mean.{i}"], known[f"variance.{i}"]) for i in range(frozen.norms)]
            return
        unit = max(self.translator.padded(1, 1))
        sample = sample_of(slide, self.files.statistics, -(-SAMPLED // unit) * unit)
        needed, allowed = frozen.bytes_of(sample) / 1e9, self.options.tile_memory
        if needed > allowed:
            raise ConfigError(
                f"--statistics {self.files.statistics} holds {needed:.1f} GB of maps for {quote(self.source)}, and "
                f"--tile-memory allows {allowed:.1f}; give fewer tiles, or allow more."
            )
        with enough_memory(f"the maps of {len(sample)} tiles; use fewer --statistics"):
            frozen.learn(sample, self._reader(slide))
        moments = {"mean": [m for m, _ in frozen.statistics], "variance": [v for _, v in frozen.statistics]}
        with atomic(path) as temporary:
            save_file({f"{name}.{i}": x for name, found in moments.items() for i, x in enumerate(found)}, temporary)

    def _reader(self, slide: Regions) -> Callable[[Span, Span], Tensor]:
        """Return what reads regions as the network takes them, mirrored where it is padded."""
        scale, device = self.translator.spec().scale_in, self.translator.runtime.device

        def read(rows: Span, columns: Span) -> Tensor:
            y, x = mirrored(rows, slide.height), mirrored(columns, slide.width)
            pixels = slide.read((int(y.min()), int(y.max()) + 1), (int(x.min()), int(x.max()) + 1))
            try:
                (array,), _ = self.translator.fit(pixels, self.options)
            except DataError as error:
                place = f"rows {y.min()} to {y.max()}, columns {x.min()} to {x.max()}"
                raise DataError(f"{quote(self.source)}, {place}: {error}") from error
            self._read[0] += array.size
            self._read[1] += scale.outside(array)
            self.outside = self._read[1] / self._read[0]
            if len(y) != len(array) or len(x) != array.shape[1]:
                array = array[y - y.min()][:, x - x.min()]
            return scale.encode(array)[None].to(device)

        return read


def refuse_others(options: TranslateOptions, files: FolderOptions) -> None:
    """Refuse options that do not apply to slides of which only regions are held.

    Raises:
        ConfigError: that names them.
    """
    others = {
        "--tile off": options.tile == "off",
        "--ensemble": options.ensemble,
        "--channels": options.channels != "exact",
        "--nan": options.nan != "error",
        "--format": (files.format or "tif").lower().removeprefix(".") not in ("tif", "tiff", "zarr"),
    }
    if given := [name for name, other in others.items() if other]:
        raise ConfigError(
            f"{', '.join(given)}: with --statistics, an image is never whole, and its result is a TIFF or OME-Zarr; "
            "leave it out."
        )


def mirrored(span: Span, size: int) -> Any:
    """Return the rows or columns of an image that those of its continuation by mirroring are."""
    period = max(2 * (size - 1), 1)
    place = np.arange(*span) % period
    return np.minimum(place, period - place)


def digest(path: Path) -> str:
    """Return a digest of the size of a file, and of parts that are spread over it; of a folder, of all sizes in it."""
    known = hashlib.sha256()
    if path.is_dir():
        files = sorted((x for x in _below(path)), key=lambda x: x.as_posix())
        known.update(repr([(x.relative_to(path).as_posix(), x.stat().st_size) for x in files]).encode())
        places = [(files[i * len(files) // PIECES], 0) for i in range(PIECES)]
        places += [(x, 0) for x in files if x.name in FILES]
    else:
        size = path.stat().st_size
        known.update(str(size).encode())
        places = [(path, i * max(size - PIECE, 0) // (PIECES - 1)) for i in range(PIECES)]
    for name, start in places:
        with name.open("rb") as file:
            file.seek(start, os.SEEK_SET)
            known.update(file.read(PIECE))
    return known.hexdigest()


def _below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, and not beyond links."""
    for inside, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(inside, name)).is_file() and not path.is_symlink())


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Raise a TrainingError where memory is not enough for `what`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"Not enough memory for {what}.") from error

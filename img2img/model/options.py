"""The options of translating and sampling, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from img2img.data.options import JPEG_QUALITY, MAX_PIXELS, PAGES
from img2img.data.shards import Shard
from img2img.errors import ConfigError
from img2img.options.declared import SEEDS, Choice, Options, Within

CHANNELS = {
    "exact": "refuse files whose number of channels is not the model's",
    "convert": "convert grey to colour or colour to grey (Rec. 601), and the result back",
    "each": "translate each channel separately, with a model of one channel",
}
NAN = {
    "error": "refuse images with NaN or infinities",
    "mask": "put the median of their channel in their place for the network, and put them back into the result",
}
BACKENDS = ("auto", "eager", "compile")
PRECISIONS = Choice(table="img2img.runtime.device.PRECISIONS")
DEVICES = Choice(("auto", "cpu", "cuda", "mps"), complete=False)
FORMATS = Choice(("png", "jpg", "webp", "bmp", "tif", "npy", "npz", "zarr"), complete=False)
TILES = Within(16, 2**20)

Count = Annotated[int, "Number of images.", Within(1, 10**7)]
Part = Annotated[
    str | None,
    "Process only one of several parts, e.g. 2/8; which, follows from names alone, so machines can share a job.",
]


@dataclass(frozen=True)
class LoadOptions(Options):
    """Options of opening a model that translates."""

    direction: Annotated[
        str | None, "a2b or b2a; by default the model's first.", Choice(("a2b", "b2a"), complete=False)
    ] = None
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps.", DEVICES] = "auto"
    precision: Annotated[
        str, "auto (bf16 for 8-bit images where it is native and close enough), fp32, bf16.", PRECISIONS
    ] = "auto"
    label: Annotated[str | None, "The class to translate to, for a model that takes one."] = None
    backend: Annotated[
        str, f"Backend that runs the network: {', '.join(BACKENDS)}; auto is eager.", Choice(BACKENDS)
    ] = "auto"


@dataclass(frozen=True)
class JobLoadOptions(LoadOptions):
    """Options of opening a model that translates a folder."""

    device: Annotated[
        str,
        "auto, cpu, cuda, cuda:1, mps; several that share the files, e.g. cuda:0,cuda:1; all: all GPUs.",
        DEVICES,
    ] = "auto"


@dataclass(frozen=True)
class TranslateOptions(Options):
    """Options of translating images."""

    batch_size: Annotated[int, "Images of equal size per batch.", Within(1, 2**16, special=(0, "by their size"))] = 0
    tile: Annotated[
        str,
        "auto (tiles for images above 4 megapixels), off, or the edge of a tile in pixels.",
        Choice(("auto", "off"), complete=False),
    ] = "auto"
    tile_memory: Annotated[
        float, "Main memory for maps that tiles share, in GB; more is faster on large images.", Within(0, 10**6)
    ] = 4.0
    ensemble: Annotated[
        bool, "Average over the eight rotations and reflections of each image; takes eight times as long."
    ] = False
    channels: Annotated[
        str, f"{'; '.join(f'{name}: {text}' for name, text in CHANNELS.items())}.", Choice(tuple(CHANNELS))
    ] = "exact"
    nan: Annotated[str, f"{'; '.join(f'{name}: {text}' for name, text in NAN.items())}.", Choice(tuple(NAN))] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        edge = int(self.tile) if self.tile.isdecimal() and len(self.tile) < 9 else 0
        if self.tile not in ("auto", "off") and edge not in TILES:
            raise ConfigError(f"--tile takes auto, off or a number of pixels {TILES}, not '{self.tile[:60]}'.")


@dataclass(frozen=True)
class FolderOptions(Options):
    """Options of reading and writing files."""

    format: Annotated[
        str | None,
        "Format of the results: png, jpg, webp, bmp, tif, npy, npz or zarr; by default that of each file.",
        FORMATS,
    ] = None
    quality: Annotated[int, "Quality of JPEG and WebP results.", Within(1, 100)] = JPEG_QUALITY
    pages: Annotated[
        str | None,
        f"{'; '.join(f'{name}: {text}' for name, text in PAGES.items())}; by default as in training.",
        Choice(tuple(PAGES)),
    ] = None
    max_megapixels: Annotated[
        float, "Refuse files whose headers claim more pixels than this.", Within(0, 10**9, above=True)
    ] = MAX_PIXELS / 1e6
    overwrite: Annotated[bool, "Overwrite existing results."] = False
    report: Annotated[Path | None, "Write a report of all files to this path, as JSON."] = None
    files: Annotated[
        Path | None,
        "List of the files of INPUT to process: a line each, or the column file of a .csv or .parquet.",
    ] = None
    shard: Part = None
    n_outputs: Annotated[
        int,
        "Results for each image, by a model that takes noise; several go into the folders 000, 001, ... of --out.",
        Within(1, 1000),
    ] = 1
    seed: Annotated[
        int,
        "Seed of that noise; result k of every image has the same noise, and depends only on the seed and k.",
        Within(0, SEEDS),
    ] = 0
    statistics: Annotated[
        int,
        "For TIFFs, OME-Zarr and slides too large to be held: take the statistics of the norms from this many tiles, "
        "spread over the tissue, and translate block by block.",
        Within(1, 10**5, special=(0, "from the whole image")),
    ] = 0
    skip_empty: Annotated[
        bool, "With --statistics: copy blocks of bare glass, which is bright and grey, in place of translating them."
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip_empty and not self.statistics:
            raise ConfigError("--skip-empty applies to blocks of --statistics; give their number too, e.g. 64.")
        Shard.parse(self.shard)


@dataclass(frozen=True)
class SampleLoadOptions(Options):
    """Options of opening a model that draws from noise."""

    device: Annotated[
        str,
        "auto, cpu, cuda, cuda:1, mps; several that share the images, e.g. cuda:0,cuda:1; all: all GPUs.",
        DEVICES,
    ] = "auto"
    precision: Annotated[str, "auto (bf16 for 8-bit images where it is native), fp32, bf16.", PRECISIONS] = "auto"


@dataclass(frozen=True)
class ClassifyOptions(Options):
    """Options of classifying images."""

    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps.", DEVICES] = "auto"


@dataclass(frozen=True)
class SampleOptions(Options):
    """Options of sampling."""

    label: Annotated[str | None, "The class to draw, for a model that takes one; by default all classes in turn."] = (
        None
    )
    vectors: Annotated[
        str | None,
        "File of the vectors to draw under, for a model trained under some: image i has row i modulo their number.",
    ] = None
    truncation: Annotated[
        float,
        "Cut normal noise at plus and minus this: images that are more typical, and less diverse.",
        Within(0, 100, special=(0, "none")),
    ] = 0.0
    seed: Annotated[int, "Seed of the noise; image i depends only on the seed and i.", Within(0, SEEDS)] = 0
    batch_size: Annotated[int, "Images per batch.", Within(1, 2**16)] = 64
    format: Annotated[
        str,
        "Format of the images: auto (png if it can hold them, otherwise tif), png, tif, npy, ...",
        Choice(("auto", *FORMATS.words), complete=False),
    ] = "auto"
    grid: Annotated[bool, "Also write grid.png: 64 of the images, or a column for each class."] = False
    interpolate: Annotated[
        int,
        "Also write walk.png: walks of this many steps from noise to noise, or from class to class under one noise.",
        Within(2, 10**4, special=(0, "none")),
    ] = 0
    overwrite: Annotated[bool, "Overwrite existing images."] = False
    shard: Part = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Shard.parse(self.shard)

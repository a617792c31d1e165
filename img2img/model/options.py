"""The options of translating, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from img2img.data.defaults import JPEG_QUALITY, MAX_PIXELS, PAGES
from img2img.errors import ConfigError
from img2img.options.declared import SEEDS, Choice, Options, Within

CHANNELS = {
    "exact": "refuse files with another number of channels than the model takes",
    "convert": "repeat grey as colours, or weigh colours to grey (Rec. 601), and back again on the result",
    "each": "give each channel by itself to a model of one channel",
}
BACKENDS = ("auto", "eager", "compile", "openvino")
PRECISIONS = Choice(table="img2img.runtime.device.PRECISIONS")
DEVICES = Choice(("auto", "cpu", "cuda", "mps"), complete=False)
FORMATS = Choice(("png", "jpg", "webp", "bmp", "tif", "npy", "npz"), complete=False)
TILES = Within(16, 2**20)

Count = Annotated[int, "How many images.", Within(1, 10**7)]


@dataclass(frozen=True)
class LoadOptions(Options):
    """How a model is opened."""

    direction: Annotated[
        str | None, "a2b or b2a; by default the model's first.", Choice(("a2b", "b2a"), complete=False)
    ] = None
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps.", DEVICES] = "auto"
    precision: Annotated[
        str, "auto (bf16 for 8-bit images where it is native and close enough), fp32, bf16.", PRECISIONS
    ] = "auto"
    label: Annotated[str | None, "The class to translate to, for a model that takes one."] = None
    backend: Annotated[str, f"What runs the network: {', '.join(BACKENDS)}.", Choice(BACKENDS)] = "auto"


@dataclass(frozen=True)
class TranslateOptions(Options):
    """How images go through a model."""

    batch_size: Annotated[
        int, "Images of equal size translated at once.", Within(1, 2**16, special=(0, "by their size"))
    ] = 0
    tile: Annotated[
        str,
        "auto (for images above 4 megapixels), off, or the edge of a tile in pixels.",
        Choice(("auto", "off"), complete=False),
    ] = "auto"
    tile_memory: Annotated[
        float, "Main memory for what tiles share, in GB. More is faster on large images.", Within(0, 10**6)
    ] = 4.0
    ensemble: Annotated[bool, "Average over the eight turns and mirrors of each image; takes eight times as long."] = (
        False
    )
    channels: Annotated[
        str, f"{'; '.join(f'{name}: {text}' for name, text in CHANNELS.items())}.", Choice(tuple(CHANNELS))
    ] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        edge = int(self.tile) if self.tile.isdecimal() and len(self.tile) < 9 else 0
        if self.tile not in ("auto", "off") and edge not in TILES:
            raise ConfigError(f"--tile is auto, off or a number of pixels {TILES}, not '{self.tile[:60]}'.")


@dataclass(frozen=True)
class FolderOptions(Options):
    """How files are read and written."""

    format: Annotated[
        str | None, "Write png, jpg, webp, bmp, tif, npy or npz, instead of what each file is.", FORMATS
    ] = None
    quality: Annotated[int, "Quality of JPEG and WebP results, 1 to 100.", Within(1, 100)] = JPEG_QUALITY
    pages: Annotated[str, f"{'; '.join(f'{name}: {text}' for name, text in PAGES.items())}.", Choice(tuple(PAGES))] = (
        "images"
    )
    max_megapixels: Annotated[float, "Refuse files that claim more pixels than this.", Within(0, 10**9, above=True)] = (
        MAX_PIXELS / 1e6
    )
    overwrite: Annotated[bool, "Translate what has a result already, too."] = False
    report: Annotated[Path | None, "Write what happened to this file, as json."] = None


@dataclass(frozen=True)
class SampleLoadOptions(Options):
    """How a model that draws from noise is opened."""

    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps.", DEVICES] = "auto"
    precision: Annotated[str, "auto (bf16 for 8-bit images where it is native), fp32, bf16.", PRECISIONS] = "auto"


@dataclass(frozen=True)
class SampleOptions(Options):
    """What is drawn, and how it is written."""

    label: Annotated[str | None, "The class to draw, for a model that takes one; by default all in turn."] = None
    seed: Annotated[int, "Seed of the noise; image i depends on it and i alone.", Within(0, SEEDS)] = 0
    batch_size: Annotated[int, "Images drawn at once.", Within(1, 2**16)] = 64
    format: Annotated[
        str,
        "Write auto (png where it can hold the images, else tif), png, tif, npy, ...",
        Choice(("auto", *FORMATS.words), complete=False),
    ] = "auto"
    grid: Annotated[bool, "Also write grid.png, up to 64 of the images in one picture."] = False
    interpolate: Annotated[
        int,
        "Also write walk.png, walks through the latent space in so many steps between two images.",
        Within(2, 10**4, special=(0, "none")),
    ] = 0
    overwrite: Annotated[bool, "Draw images that are there already, too."] = False

"""The options of translating, each declared once; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from img2img.data.defaults import JPEG_QUALITY, MAX_PIXELS, PAGES
from img2img.errors import ConfigError, choose

CHANNELS = {
    "exact": "refuse files with another number of channels than the model takes",
    "convert": "repeat grey as colours, or weigh colours to grey (Rec. 601), and back again on the result",
    "each": "give each channel by itself to a model of one channel",
}
BACKENDS = ("auto", "eager", "compile", "openvino")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is opened."""

    direction: Annotated[str | None, "a2b or b2a; by default the model's first."] = None
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps."] = "auto"
    precision: Annotated[str, "auto (bf16 for 8-bit images where it is native and close enough), fp32, bf16."] = "auto"
    backend: Annotated[str, f"What runs the network: {', '.join(BACKENDS)}."] = "auto"


@dataclass(frozen=True)
class TranslateOptions:
    """How images go through a model."""

    batch_size: Annotated[int, "Images of equal size translated at once; 0 chooses by their size."] = 0
    tile: Annotated[str, "auto (for images above 4 megapixels), off, or the edge of a tile in pixels."] = "auto"
    tile_memory: Annotated[float, "Main memory for what tiles share, in GB. More is faster on large images."] = 4.0
    ensemble: Annotated[bool, "Average over the eight turns and mirrors of each image; takes eight times as long."] = (
        False
    )
    channels: Annotated[str, f"{'; '.join(f'{name}: {text}' for name, text in CHANNELS.items())}."] = "exact"

    def __post_init__(self) -> None:
        choose("policy for --channels", self.channels, CHANNELS)
        object.__setattr__(self, "tile", str(self.tile))  # Python callers may give a number
        if self.batch_size < 0:
            raise ConfigError(f"--batch-size must be at least 1, or 0 to choose, not {self.batch_size}.")
        if self.tile not in ("auto", "off") and not (self.tile.isdecimal() and int(self.tile) >= 16):
            raise ConfigError(f"--tile is auto, off or a number of pixels from 16 on, not '{self.tile}'.")
        if not self.tile_memory >= 0:
            raise ConfigError(f"--tile-memory must not be negative, but is {self.tile_memory}.")


@dataclass(frozen=True)
class FolderOptions:
    """How files are read and written."""

    format: Annotated[str | None, "Write png, jpg, webp, bmp, tif, npy or npz, instead of what each file is."] = None
    quality: Annotated[int, "Quality of JPEG and WebP results, 1 to 100."] = JPEG_QUALITY
    pages: Annotated[str, f"{'; '.join(f'{name}: {text}' for name, text in PAGES.items())}."] = "images"
    max_megapixels: Annotated[float, "Refuse files that claim more pixels than this."] = MAX_PIXELS / 1e6
    overwrite: Annotated[bool, "Translate what has a result already, too."] = False
    report: Annotated[Path | None, "Write what happened to this file, as json."] = None

    def __post_init__(self) -> None:
        choose("policy for --pages", self.pages, PAGES)
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"--quality is between 1 and 100, not {self.quality}.")
        if not self.max_megapixels > 0:
            raise ConfigError(f"--max-megapixels must be above 0, not {self.max_megapixels}.")


@dataclass(frozen=True)
class SampleLoadOptions:
    """How a model that draws from noise is opened."""

    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps."] = "auto"
    precision: Annotated[str, "auto (bf16 for 8-bit images where it is native), fp32, bf16."] = "auto"


@dataclass(frozen=True)
class SampleOptions:
    """What is drawn, and how it is written."""

    seed: Annotated[int, "Seed of the noise; image i depends on it and i alone."] = 0
    batch_size: Annotated[int, "Images drawn at once."] = 64
    format: Annotated[str, "Write auto (png where it can hold the images, else tif), png, tif, npy, ..."] = "auto"
    grid: Annotated[bool, "Also write grid.png, up to 64 of the images in one picture."] = False
    interpolate: Annotated[
        int, "Also write walk.png, walks through the latent space in so many steps between two images; 0: none."
    ] = 0
    overwrite: Annotated[bool, "Draw images that are there already, too."] = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size must be at least 1, not {self.batch_size}.")
        if self.interpolate and self.interpolate < 2:
            raise ConfigError(f"--interpolate takes at least 2 steps, not {self.interpolate}.")
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, but is {self.seed}.")

"""The data of a run, by what its method learns from: pairs, two unpaired domains, or one collection of images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from img2img.data.collection import Images, open_images
from img2img.data.folders import Domains, passed_beside
from img2img.data.layouts import HeldOut, Translation, open_data
from img2img.data.options import CONFIGS, DataConfig, ImagesConfig
from img2img.errors import counted

Say = Callable[[str], None]


@dataclass(frozen=True)
class Opened:
    """What a run trains on.

    Attributes:
        train: the training samples, with their `channels` and `scales`.
        heldout: held-out samples, where there are any.
        counts: how many images there are, in words.
        held: how many are held out, in words.
        notes: what the user should know.
    """

    train: Translation | Images
    heldout: HeldOut | None
    counts: str
    held: str = ""
    notes: tuple[str, ...] = ()


def in_words(domains: Domains) -> str:
    """How many images there are to train on."""
    a, b = domains
    return f"{len(a)} images of A, {len(b)} of B"


def _open_domains(
    config: DataConfig, paired: bool, seed: int, shared: bool, say: Say = lambda text: None, **arrays: Any
) -> Opened:
    opened = open_data(config, paired, **arrays)
    train = Translation(*opened.train, config, paired, seed, shared, opened.heldout or (), say)
    heldout = HeldOut(*opened.heldout, train) if opened.heldout else None
    held = " and ".join(str(len(domain)) for domain in opened.heldout) if opened.heldout else ""
    return Opened(train, heldout, in_words(opened.train), held, opened.notes)


def _open_images(
    config: ImagesConfig, paired: bool, seed: int, shared: bool, say: Say = lambda text: None, **arrays: Any
) -> Opened:
    domain = open_images(config, **arrays)
    greys = counted(domain.grey_files, "grey image is", "grey images are")
    notes = (f"{greys} read as colour.",) if domain.grey_files else ()
    notes = (*passed_beside(domain), *notes)
    return Opened(Images(domain, config, seed, shared, say), None, f"{len(domain)} images", notes=notes)


class Layout(NamedTuple):
    """How to open the data, from which options, and what may be arrays."""

    Config: Any
    open: Callable[..., Opened]
    arrays: tuple[str, ...]


LAYOUTS = {
    "pairs": Layout(CONFIGS["pairs"], _open_domains, ("a", "b")),
    "unpaired": Layout(CONFIGS["unpaired"], _open_domains, ("a", "b")),
    "images": Layout(CONFIGS["images"], _open_images, ("data",)),
}

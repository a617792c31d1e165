"""From what a method needs, and the options of a run or arrays, to its training samples and held-out samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from img2img.core.needs import Needs
from img2img.data.finding import Notes, find_domains
from img2img.data.samples import HeldOut, Samples

Say = Callable[[str], None]


@dataclass(frozen=True)
class Opened:
    """What a run trains on.

    Attributes:
        train: the training samples, with their domains, channels, scales and classes.
        heldout: held-out samples, if there are any.
        counts: the number of training images, in words.
        held: the number of held-out images, in words.
        notes: what the user should know.
    """

    train: Samples
    heldout: HeldOut | None
    counts: str
    held: str = ""
    notes: Notes = ()


def open_samples(
    needs: Needs, config: Any, seed: int = 0, shared: bool = False, say: Say = lambda text: None, **arrays: Any
) -> Opened:
    """Find, check and read the images that `config` names, or `arrays`, as the samples that a method needs.

    Args:
        needs: domains ("a", "b"), or the one domain "image"; whether they are paired; whether images have labels.
        config: an instance of `data_options(needs)`.
        seed: of the order of samples and their augmentation.
        shared: whether worker processes read from the cache.
        say: receives lines about the progress of reading.
        **arrays: "a" and "b"; or "data", and "labels", one per image.

    Raises:
        ConfigError: if the options do not say where the images or their labels are.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    split = find_domains(needs, config, **arrays)
    heldout = split.heldout or {}
    train = Samples(
        split.train, config, needs.paired, split.classes, seed, shared, heldout.values(), say, needs.balanced
    )
    held = " and ".join(str(len(domain)) for domain in heldout.values())
    return Opened(train, HeldOut(heldout, train) if heldout else None, split.counts, held, split.notes)


def arrays_for(needs: Needs) -> tuple[str, ...]:
    """Return the names of the arrays that `open_samples` takes."""
    return needs.domains if needs.domains == ("a", "b") else ("data", "labels") if needs.labels else ("data",)

"""Adapters: the names of `opening` and `samples` as callers knew them before `Needs`."""

from typing import Any, NamedTuple

from img2img.core.needs import Needs
from img2img.data.finding import find_domains
from img2img.data.folders import Domains
from img2img.data.options import DataConfig as DataConfig
from img2img.data.samples import HeldOut as HeldOut, cut as cut


class Opened(NamedTuple):
    """Two domains of a data set, for training and held out."""

    train: Domains
    heldout: Domains | None
    notes: tuple[str, ...] = ()


def open_data(config: DataConfig, paired: bool, a: Any = None, b: Any = None) -> Opened:
    """Return what `find_domains` does, as tuples."""
    split = find_domains(Needs(("a", "b"), paired), config, a=a, b=b)
    train, heldout = split.train, split.heldout
    return Opened((train["a"], train["b"]), (heldout["a"], heldout["b"]) if heldout else None, split.notes)

"""How the images of two domains become training samples, held-out samples, and the options that say so."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from img2img.data.augment import PRESETS, Augment
from img2img.data.folders import (
    Domain,
    Domains,
    _list,
    alike,
    find,
    from_arrays,
    pair_up,
    passed_beside,
    refuse_non_finite,
    refuse_small,
)
from img2img.data.images import Array, resize
from img2img.data.options import DataConfig as DataConfig
from img2img.data.patience import may_pass, patiently
from img2img.data.scale import Scale
from img2img.data.workers import free_shared_memory
from img2img.errors import ConfigError, DataError, counted

PART = 16  # images that a thread reads in one go
SAY_SECONDS = 10.0
FEW = 20  # images worth waiting for; if more are missing, the drive is
WARPED = ("uint8", "uint16", "int16", "float32", "float64")  # the types that OpenCV interpolates


class Store:
    """The images of a domain at the size before the crop, decoded once when they fit into memory."""

    def __init__(self, domain: Domain, side: int | None, budget: int, shared: bool) -> None:
        self.domain, self.side = domain, side
        self.shapes = [
            (*(domain.size(i) if side is None else (side, side)), domain.channels) for i in range(len(domain))
        ]
        self.alike = all(shape == self.shapes[0] for shape in self.shapes)
        self.ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        self.memory: Tensor | None = None
        self.nbytes = int(self.ends[-1]) * np.dtype(domain.dtype).itemsize
        if self.nbytes <= budget:
            memory = torch.empty(int(self.ends[-1]), dtype=getattr(torch, domain.dtype))
            self.memory = memory.share_memory_() if shared else memory  # type: ignore[no-untyped-call]
        self.extremes = np.zeros((len(domain), 2), domain.dtype)  # of every image, where the type does not say them

    def _decode(self, i: int) -> Array:
        image = self.domain.load(i)
        return image if self.side is None else resize(image, self.side, self.side)

    def _slot(self, i: int) -> Array:
        assert self.memory is not None
        start = int(self.ends[i - 1]) if i else 0
        slot: Array = self.memory.numpy()[start : int(self.ends[i])].reshape(self.shapes[i])
        return slot

    def read(self, i: int) -> None:
        """Decodes an image before the training, and keeps of it what there is room for."""
        if self.memory is None and self.domain.dtype == "uint8":
            self.domain.load(i)
            return
        image = self._decode(i)
        refuse_non_finite(image, self.domain.name(i))  # resized, large values may be infinite
        if self.memory is not None:
            self._slot(i)[:] = image
        if self.domain.dtype != "uint8":
            self.extremes[i] = image.min(), image.max()

    def __getitem__(self, i: int) -> Array:
        return patiently(self._decode, i) if self.memory is None else self._slot(i)

    def take(self, numbers: Array) -> Array:
        """Several images of one shape at once, (N, H, W, C)."""
        if self.memory is None or not self.alike:
            return np.stack([self[int(i)] for i in numbers])
        taken: Array = self.memory.numpy().reshape(-1, *self.shapes[0])[numbers]
        return taken

    def __len__(self) -> int:
        return len(self.domain)


def read_all(
    stores: Sequence[Store], others: Sequence[Domain] = (), say: Callable[[str], None] = lambda text: None
) -> None:
    """Decodes every image once, into its store or, where that has no room, to see that it can be.

    Args:
        stores: what is trained on.
        others: images that are only seen to be readable.
        say: is told how far it is where that takes long.

    Raises:
        DataError: if images cannot be decoded; it names them.
    """
    jobs: list[tuple[Callable[[int], object], int]] = [(store.read, i) for store in stores for i in range(len(store))]
    jobs += [(domain.load, i) for domain in others for i in range(len(domain))]

    def fault(job: tuple[Callable[[int], object], int], patience: bool = False) -> DataError | None:
        read, i = job
        try:
            patiently(read, i) if patience else read(i)
        except DataError as error:
            return error
        return None

    begin = said = time.monotonic()
    bad = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        done = 0
        parts = [jobs[k : k + PART] for k in range(0, len(jobs), PART)]
        for part, faults in zip(parts, pool.map(lambda part: [fault(job) for job in part], parts), strict=True):
            bad += [(job, error) for job, error in zip(part, faults, strict=True) if error]
            done, now = done + len(part), time.monotonic()
            if now - said > SAY_SECONDS and done < len(jobs):
                said = now
                left = (now - begin) / done * (len(jobs) - done)
                say(f"reading the images, each once before the training: {done} of {len(jobs)}, {left:.0f} s left")
        if len(bad) <= FEW and any(may_pass(error) for _, error in bad):
            bad = [(job, error) for job, _ in bad if (error := fault(job, patience=True))]
    finally:
        pool.shutdown(cancel_futures=True)
    if bad:
        reasons = dict.fromkeys(str(error).rstrip(".") for _, error in bad)  # two halves are one file
        raise DataError(f"{len(reasons)} of the images cannot be used: {_list(reasons)}.")


def shared_budget(megabytes: int, shared: bool) -> int:
    """Bytes that decoded images may take; memory that processes share may be scarcer than the rest."""
    budget = megabytes * 2**20
    free = free_shared_memory() if shared else None
    return budget if free is None else min(budget, free // 2)


def refuse_unwarpable(domain: Domain, augment: str) -> None:
    """Raises DataError if the augmentation cannot interpolate the images' type."""
    if augment == "strong" and domain.dtype not in WARPED:
        raise DataError(
            f"Domain {domain.title} has {domain.dtype} values, which --augment strong cannot warp; "
            f"use another --augment, or convert to {', '.join(WARPED)}."
        )


class Translation(Dataset[dict[str, Tensor]]):
    """Training samples {"a": (C, size, size), "b": ...} in [-1, 1], numbered without end.

    Sample n is a pure function of the seed and n, whichever process or worker asks for it and in whatever order. One
    epoch has as many samples as the larger domain has images. It shows each of them once, and those of the other
    domain as evenly as it goes; without pairs, who meets whom is drawn anew in every epoch.

    Attributes:
        channels: channels of "a" and "b".
        scales: how pixel values map to [-1, 1], per domain.
    """

    def __init__(
        self,
        a: Domain,
        b: Domain,
        config: DataConfig,
        paired: bool,
        seed: int = 0,
        shared: bool = False,
        heldout: Sequence[Domain] = (),
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config, self.paired, self.seed = config, paired, seed
        self.domains = {"a": a, "b": b}
        self.channels = {"a": a.channels, "b": b.channels}
        factor = PRESETS[config.augment].resize
        side = None if factor is None else round(config.size * factor)
        budget = shared_budget(config.cache_mb, shared)
        store_a = Store(a, side, budget, shared)
        store_b = Store(b, side, budget - (store_a.nbytes if store_a.memory is not None else 0), shared)
        self.stores = {"a": store_a, "b": store_b}
        read_all((store_a, store_b), heldout, say)
        self.scales = {name: Scale.of(store.extremes, store.domain.dtype) for name, store in self.stores.items()}
        self._augment: Augment | None = None
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        """Samples in one epoch."""
        return max(map(len, self.stores.values()))

    @property
    def cached(self) -> bool:
        return all(store.memory is not None for store in self.stores.values())

    def _indices(self, n: int) -> tuple[int, int]:
        epoch, position = divmod(n, len(self))
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, 1, epoch))
            self._order = (epoch, [rng.permutation(len(self)) for _ in "ab"])
        i, j = (int(order[position]) for order in self._order[1])
        return (i, i) if self.paired else (i % len(self.stores["a"]), j % len(self.stores["b"]))

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        if self._augment is None:
            self._augment = Augment(self.config.augment, self.config.size)
        i, j = self._indices(n)
        seed_a, seed_b = (int(s) for s in np.random.default_rng((self.seed, 3, n)).integers(2**31, size=2))
        if self.paired:
            a, b = self._augment(seed_a, self.stores["a"][i], self.stores["b"][j])
            assert b is not None
        else:
            a, b = self._augment(seed_a, self.stores["a"][i])[0], self._augment(seed_b, self.stores["b"][j])[0]
        return {"a": self.scales["a"].encode(a), "b": self.scales["b"].encode(b)}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_augment": None}


class HeldOut(Dataset[dict[str, Tensor]]):
    """The held-out images, resized to the training size (or cut from the middle), without augmentation."""

    def __init__(self, a: Domain, b: Domain, train: Translation) -> None:
        self.a, self.b, self.config, self.scales = a, b, train.config, train.scales
        self.domains = {"a": a, "b": b}

    def __len__(self) -> int:
        return max(len(self.a), len(self.b))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        a, b = (cut(patiently(domain.load, i % len(domain)), self.config) for domain in (self.a, self.b))
        return {"a": self.scales["a"].encode(a), "b": self.scales["b"].encode(b)}


def cut(image: Array, config: DataConfig) -> Array:
    """A held-out image (H, W, C) at the training size, (size, size, C)."""
    n = config.size
    if PRESETS[config.augment].resize is not None:
        return resize(image, n, n)
    top, left = (image.shape[0] - n) // 2, (image.shape[1] - n) // 2
    return image[top : top + n, left : left + n]


@dataclass(frozen=True)
class Opened:
    """The domains of a data set: for training, and held out where there are such images."""

    train: Domains
    heldout: Domains | None
    notes: tuple[str, ...] = ()


def open_data(config: DataConfig, paired: bool, a: Any = None, b: Any = None) -> Opened:
    """Finds and checks the images that `config` names (or the arrays `a` and `b`); splits off the held-out part.

    Raises:
        ConfigError: if the options do not say where the images are.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    preset = PRESETS[config.augment]
    if a is not None or b is not None:
        train, heldout = pair_up(from_arrays("A", a), from_arrays("B", b), paired), None
    else:
        places = {"a": config.a, "b": config.b, "ab": config.ab, "data": config.data}
        train, heldout = find(places, paired)
    if config.direction == "b2a":
        if not paired:
            raise ConfigError("--direction is for pairs; without them both directions are learned at once.")
        train, heldout = train[::-1], heldout and heldout[::-1]
    notes = list(passed_beside(*train, *(heldout or ())))
    for domain in train:
        if domain.grey_files:
            one, several = (f"grey {what} of domain {domain.title}" for what in ("image", "images"))
            notes.append(f"{counted(domain.grey_files, f'{one} is', f'{several} are')} read as colour.")
    if heldout:
        heldout = alike(heldout[0], train[0]), alike(heldout[1], train[1])
    if config.val_fraction and heldout:
        notes.append("--val-fraction is not used: the data have a held-out part of their own.")
    elif config.val_fraction:
        train, heldout = _split(train, config.val_fraction)
    for domain in train:
        if len(domain) < 2:
            raise DataError(f"Domain {domain.title} has one image to train on; a GAN needs at least two.")
    for domain in train:
        refuse_unwarpable(domain, config.augment)
    for domain in (*train, *(heldout or ())):
        if preset.resize is None:
            refuse_small(domain, config.size)
    return Opened(train, heldout, tuple(notes))


def _split(domains: Domains, fraction: float) -> tuple[Domains, Domains]:
    """Holds out the same share of every domain, spread over the sorted names; pairs stay together."""
    kept, held = [], []
    for domain in domains:
        n = len(domain)
        count = round(n * fraction)
        if not 0 < count < n - 1:
            raise ConfigError(f"--val-fraction {fraction} of the {n} images of domain {domain.title} leaves too few.")
        order = np.random.default_rng(0).permutation(n)
        kept.append(domain.select(sorted(order[count:])))
        held.append(domain.select(sorted(order[:count])))
    return (kept[0], kept[1]), (held[0], held[1])

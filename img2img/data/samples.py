"""Training samples and held-out samples of any number of domains, paired or not, with or without labels; and how
they are opened from what a method needs and the options of a run, or arrays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from img2img.core.needs import Facts, Needs
from img2img.data.augment import PRESETS, Augment
from img2img.data.domain import Domain
from img2img.data.finding import Split, find_domains
from img2img.data.images import resize
from img2img.data.options import DataConfig, ImagesConfig
from img2img.data.picture import Array
from img2img.data.scale import Scale
from img2img.data.store import Store, read_all, read_with_retries
from img2img.data.workers import free_shared_memory

LABEL = "label"


class Samples(Dataset[dict[str, Tensor]]):
    """Training samples {domain: (C, size, size)} in [-1, 1], numbered without end.

    Sample n is a pure function of the seed and n, whichever process or worker asks for it and in whatever order. An
    epoch has as many samples as the largest domain has images. It shows each of those once, in a new order, and the
    images of smaller domains as evenly as possible. Without pairs, who meets whom is drawn anew in every epoch.

    With labels a sample also holds "label", the int64 index of the class of its image (of the first domain's, where
    there are several). Images are drawn uniformly whatever their class: an epoch shows every image once, so a class of
    ten times as many images is seen ten times as often. If `balanced`, classes take turns instead, sample n being of
    class n modulo their number, and each goes through its own images in a new order again and again. If `unlabelled`,
    images with a label take turns with all images in the same way; a label that is not known is -1.
    With vectors in place of labels, "label" is the vector of the image.

    Args:
        domains: the images by the key that they have in a sample; with pairs, image i of one belongs to image i of all.
        config: the options that say how images are cut, augmented and cached.
        paired: whether the images of a sample belong together and are augmented by one draw.
        classes: names of the labels, in the order of their indices; empty if samples have no labels.
        seed: of the order and of the augmentation.
        shared: whether worker processes read from the cache.
        heldout: held-out images, which are read once to make sure that they can be.
        say: receives lines about the progress of reading.
        balanced: whether the classes of the one domain take turns.
        unlabelled: whether images with a label take turns with all.

    Attributes:
        channels: channels of each domain.
        scales: how pixel values map to [-1, 1], per domain.

    Raises:
        DataError: if images cannot be decoded.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        config: DataConfig | ImagesConfig,
        paired: bool = False,
        classes: Sequence[str] = (),
        seed: int = 0,
        shared: bool = False,
        heldout: Iterable[Domain] = (),
        say: Callable[[str], None] = lambda text: None,
        balanced: bool = False,
        unlabelled: bool = False,
    ) -> None:
        self.domains, self.config, self.paired, self.seed = dict(domains), config, paired, seed
        self.classes = tuple(classes)
        self.channels = {key: domain.channels for key, domain in domains.items()}
        factor = PRESETS[config.augment].resize
        side = None if factor is None else round(config.size * factor)
        budget = config.cache_mb * 2**20
        if shared and (free := free_shared_memory()) is not None:
            budget = min(budget, free // 2)
        self.stores: dict[str, Store] = {}
        for key, domain in domains.items():
            self.stores[key] = store = Store(domain, side, budget, shared)
            budget -= store.nbytes if store.memory is not None else 0
        read_all(tuple(self.stores.values()), tuple(heldout), say)
        self.scales = {key: Scale.of(store.extremes, store.domain.dtype) for key, store in self.stores.items()}
        self._augment: Augment | None = None
        self._order: tuple[int, list[Array]] = (-1, [])
        self._turns: dict[int, tuple[int, Array]] = {}  # the epoch and the order of each of the following
        self._members: list[Array] = []  # the images of each class, or of those with a label and of all: take turns
        labels = np.array(next(iter(self.domains.values())).labels)
        if unlabelled:
            self._members = [np.flatnonzero(labels >= 0), np.arange(len(labels))]
        if balanced:
            self._members = [np.flatnonzero(labels == label) for label in range(len(self.classes))]

    def __len__(self) -> int:
        """Return the number of samples in one epoch."""
        return max(map(len, self.stores.values()))

    @property
    def facts(self) -> Facts:
        """Return what the images say to networks."""
        vectors = next(iter(self.domains.values())).vectors
        return Facts(self.config.size, self.channels, self.classes, 0 if vectors is None else vectors.shape[1])

    @property
    def cached(self) -> bool:
        """Tell whether all decoded images are in memory."""
        return all(store.memory is not None for store in self.stores.values())

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        return {key: x[0] for key, x in self.fetch([n]).items()}

    def fetch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return several samples at once, {domain: (N, C, size, size)} and "label": (N,) or vectors (N, length)."""
        indices = np.array([self._indices(n) for n in numbers])  # (N, domains)
        if self.config.augment == "none":
            images = [store.take(chosen) for store, chosen in zip(self.stores.values(), indices.T, strict=True)]
        else:
            drawn = [self._augmented(n, chosen) for n, chosen in zip(numbers, indices, strict=True)]
            images = [np.stack(of_domain) for of_domain in zip(*drawn, strict=True)]
        batch = {key: self.scales[key].encode_all(x) for key, x in zip(self.stores, images, strict=True)}
        first = next(iter(self.domains.values()))
        if self.classes:
            batch[LABEL] = torch.tensor([first.labels[i] for i in indices[:, 0]])
        elif first.vectors is not None:
            batch[LABEL] = torch.from_numpy(first.vectors[indices[:, 0]])
        return batch

    def _indices(self, n: int) -> list[int]:
        """Return which image of each domain sample n shows."""
        if self._members:
            turn, label = divmod(n, len(self._members))
            members = self._members[label]
            epoch, position = divmod(turn, len(members))
            if self._turns.get(label, (-1, members))[0] != epoch:
                self._turns[label] = epoch, np.random.default_rng((self.seed, 1, epoch, label)).permutation(members)
            return [int(self._turns[label][1][position])]
        epoch, position = divmod(n, len(self))
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, 1, epoch))
            self._order = (epoch, [rng.permutation(len(self)) for _ in self.stores])
        drawn = [int(order[position]) for order in self._order[1]]
        if self.paired:
            return [drawn[0]] * len(drawn)
        return [i % len(store) for i, store in zip(drawn, self.stores.values(), strict=True)]

    def _augmented(self, n: int, indices: Array) -> list[Array]:
        """Return the image of each domain that sample n shows, augmented; pairs by one draw."""
        if self._augment is None:
            self._augment = Augment(self.config.augment, self.config.size)
        images = [store[int(i)] for store, i in zip(self.stores.values(), indices, strict=True)]
        seeds = np.random.default_rng((self.seed, 3, n)).integers(2**31, size=len(images)).tolist()
        return [self._augment(seeds[0] if self.paired else seed, x) for seed, x in zip(seeds, images, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_augment": None}


class HeldOut(Dataset[dict[str, Tensor]]):
    """Held-out samples, as those of `Samples` but resized to the training size (or cut from the middle), unaugmented.

    Args:
        domains: the held-out images by the keys of the training samples.
        train: the training samples, whose options, scales and classes apply.
    """

    def __init__(self, domains: Mapping[str, Domain], train: Samples) -> None:
        self.domains = dict(domains)
        self.config: Any = train.config
        self.scales, self.classes = train.scales, train.classes

    @property
    def labels(self) -> tuple[int, ...]:
        """The class of every image of the first domain; empty without labels."""
        return next(iter(self.domains.values())).labels

    def __len__(self) -> int:
        return max(map(len, self.domains.values()))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        sample = {}
        for key, domain in self.domains.items():
            image = cut(read_with_retries(domain.load, i % len(domain)), self.config)
            sample[key] = self.scales[key].encode(image)
        first = next(iter(self.domains.values()))
        if self.classes:
            sample[LABEL] = torch.tensor(self.labels[i % len(self.labels)])
        elif first.vectors is not None:
            sample[LABEL] = torch.from_numpy(first.vectors[i % len(first)])
        return sample


def cut(image: Array, config: DataConfig | ImagesConfig) -> Array:
    """Return a held-out image (H, W, C) at the training size, (size, size, C)."""
    n = config.size
    if PRESETS[config.augment].resize is not None:
        return resize(image, n, n)
    top, left = (image.shape[0] - n) // 2, (image.shape[1] - n) // 2
    return image[top : top + n, left : left + n]


@dataclass(frozen=True)
class Opened:
    """What a run trains on: training samples, held-out ones if there are any, and the images they were made of."""

    train: Samples
    heldout: HeldOut | None
    images: Split


def open_samples(
    needs: Needs,
    config: Any,
    seed: int = 0,
    shared: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **arrays: Any,
) -> Opened:
    """Find, check and read the images that `config` names, or `arrays`, as the samples that a method needs.

    Args:
        needs: domains ("a", "b"), or the one domain "image"; whether they are paired; whether images have labels.
        config: an instance of `data_options(needs)`.
        seed: of the order of samples, their augmentation, and the choice of regions.
        shared: whether worker processes read from the cache.
        say: receives lines about the progress of reading.
        **arrays: "a" and "b"; or "data", and "labels" or "vectors", one per image.

    Raises:
        ConfigError: if the options do not say where the images or their labels are.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    split = find_domains(needs, config, seed, **arrays)
    heldout = split.heldout or {}
    train = Samples(
        split.train,
        config,
        needs.paired,
        split.classes,
        seed,
        shared,
        heldout.values(),
        say,
        needs.balanced,
        needs.unlabelled,
    )
    return Opened(train, HeldOut(heldout, train) if heldout else None, split)


def arrays_for(needs: Needs) -> tuple[str, ...]:
    """Return the names of the arrays that `open_samples` takes."""
    if needs.domains == ("a", "b"):
        return needs.domains
    return ("data", *["labels"] * needs.labels, *["vectors"] * needs.vectors)

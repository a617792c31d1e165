"""One collection of images, for methods that learn to draw more of its kind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from img2img.data.augment import PRESETS, Augment
from img2img.data.folders import Domain, from_arrays, refuse_small, scan
from img2img.data.idx import is_idx, read_idx
from img2img.data.images import Array, Header
from img2img.data.layouts import Store, read_all, refuse_unwarpable, shared_budget
from img2img.data.options import ImagesConfig as ImagesConfig
from img2img.data.picture import shown
from img2img.data.scale import Scale
from img2img.errors import ConfigError, DataError


class Images(Dataset[dict[str, Tensor]]):
    """Training samples {"image": (C, size, size)} in [-1, 1], numbered without end.

    Sample n is a pure function of the seed and n. An epoch shows every image once, in an order of its own.

    Attributes:
        channels: of "image".
        scales: how pixel values map to [-1, 1].
    """

    def __init__(
        self,
        domain: Domain,
        config: ImagesConfig,
        seed: int = 0,
        shared: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config, self.seed = config, seed
        factor = PRESETS[config.augment].resize
        side = None if factor is None else round(config.size * factor)
        self.store = Store(domain, side, shared_budget(config.cache_mb, shared), shared)
        self.domains = {"image": domain}
        self.channels = {"image": domain.channels}
        read_all((self.store,), say=say)
        self.scales = {"image": Scale.of(self.store.extremes, domain.dtype)}
        self._augment: Augment | None = None
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self.store)

    @property
    def cached(self) -> bool:
        return self.store.memory is not None

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        return {"image": self.scales["image"].encode(self._image(n))}

    def fetch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Several samples at once, {"image": (N, C, size, size)}."""
        if self.config.augment == "none":
            images = self.store.take(np.array([self._position(n) for n in numbers]))
        else:
            images = np.stack([self._image(n) for n in numbers])
        return {"image": self.scales["image"].encode_all(images)}

    def _position(self, n: int) -> int:
        """Which image sample n shows."""
        epoch, position = divmod(n, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, 1, epoch)).permutation(len(self)))
        return int(self._order[1][position])

    def _image(self, n: int) -> Array:
        image = self.store[self._position(n)]
        if self.config.augment == "none":
            return image
        if self._augment is None:
            self._augment = Augment(self.config.augment, self.config.size)
        return self._augment(int(np.random.default_rng((self.seed, 3, n)).integers(2**31)), image)[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_augment": None}


def _scan(folder: Path) -> list[Header]:
    try:
        return scan(folder)
    except DataError as error:
        found = sorted(filter(is_idx, folder.iterdir()), key=lambda x: ("image" not in x.name, "train" not in x.name))
        if not found or "holds no image" not in str(error):
            raise
        raise DataError(f"{shown(folder)} holds no image but idx files; give one: --data {shown(found[0])}.") from error


def open_images(config: ImagesConfig, data: Any = None) -> Domain:
    """Finds and checks the images that `config` names, or the arrays `data`.

    Raises:
        ConfigError: if the options do not say where the images are.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    preset = PRESETS[config.augment]
    if data is None and config.data is None:
        raise ConfigError("Say where the images are: --data, a folder of images or an idx file.")
    path = Path(config.data or "")
    if data is not None:
        sources: Sequence[Header | Array] = from_arrays("data", data)
    elif is_idx(path):
        images = read_idx(path)
        if images.ndim < 3:
            raise DataError(
                f"{shown(path)} holds labels, not images; give the file of images, as train-images-idx3-ubyte.gz."
            )
        sources = from_arrays("data", images)
    elif path.is_dir():
        sources = _scan(path)
    else:
        raise DataError(f"There is no folder, and no idx file, {shown(path)}.")
    if len(sources) < 2:
        raise DataError(f"A GAN needs at least two images to train on; there are {len(sources)}.")
    domain = Domain.of("data", sources)
    refuse_unwarpable(domain, config.augment)
    if preset.resize is None:
        refuse_small(domain, config.size)
    return domain

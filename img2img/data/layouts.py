"""How images on disk, or arrays, become the two domains of a translation: side by side, paired folders, unpaired."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from img2img.data.augment import PRESETS, Augment
from img2img.data.images import Array, Header, find_images, read_header, read_image, resize
from img2img.data.scale import Scale
from img2img.errors import ConfigError, DataError, choose

HELD_OUT = ("val", "test")  # names of held-out parts, in order of preference
LISTED = 5  # names shown of a longer list of culprits


@dataclass(frozen=True)
class DataConfig:
    """Which images to train on, and how they are cut."""

    a: Annotated[str | None, "Folder of domain A."] = None
    b: Annotated[str | None, "Folder of domain B; for pairs, partners have the names of those in A."] = None
    ab: Annotated[str | None, "Folder of side-by-side pairs: left half A, right half B."] = None
    data: Annotated[
        str | None, "One root: trainA trainB (and testA testB), or train (and val) of side-by-side pairs."
    ] = None
    direction: Annotated[str, "For pairs: a2b, or b2a to learn the other way round."] = "a2b"
    size: Annotated[int, "Side of the square the networks are trained on, in pixels."] = 256
    augment: Annotated[str, "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items()) + "."] = "standard"
    val_fraction: Annotated[
        float, "Share of the images held out, where the data have no held-out part of their own."
    ] = 0.0
    cache_mb: Annotated[int, "Decoded images are kept in memory when they fit into this many megabytes."] = 4096


@dataclass(frozen=True)
class Domain:
    """The images of one side: where they are, and what they have in common.

    Attributes:
        title: "A" or "B", for messages.
        sources: headers of files, or arrays (H, W, C).
        half: "whole", or the "left" or "right" half of each image.
        channels: channels of every image; grey images of a colour domain are read as colour.
        dtype: type of every image.
    """

    title: str
    sources: tuple[Header | Array, ...]
    half: str
    channels: int
    dtype: str

    @classmethod
    def of(cls, title: str, sources: Sequence[Header | Array], half: str = "whole") -> "Domain":
        """Decides channels and type from the data.

        Raises:
            DataError: if the images do not go together.
        """
        kinds = Counter((_channels(s), str(s.dtype)) for s in sources)
        dtypes, counts = {dtype for _, dtype in kinds}, {channels for channels, _ in kinds}
        if len(dtypes) > 1 or not (len(counts) == 1 or counts == {1, 3}):
            found = ", ".join(f"{n} with {c} channels of {dtype}" for (c, dtype), n in kinds.most_common())
            raise DataError(f"The images of domain {title} do not go together: {found}. Convert them to one kind.")
        return cls(title, tuple(sources), half, max(counts), dtypes.pop())

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def grey_files(self) -> int:
        """How many grey images are read as colour."""
        return sum(_channels(s) != self.channels for s in self.sources)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i."""
        source = self.sources[i]
        height, width = (source.height, source.width) if isinstance(source, Header) else source.shape[:2]
        return height, width if self.half == "whole" else width // 2

    def name(self, i: int) -> str:
        source = self.sources[i]
        return str(source.path) if isinstance(source, Header) else f"array {i} of domain {self.title}"

    def load(self, i: int) -> Array:
        """Image i as (H, W, channels)."""
        source = self.sources[i]
        array = read_image(source.path).array if isinstance(source, Header) else source
        if self.half != "whole":
            middle = array.shape[1] // 2
            array = array[:, :middle] if self.half == "left" else array[:, middle : 2 * middle]
        return array if array.shape[2] == self.channels else np.repeat(array, self.channels, axis=2)

    def select(self, indices: Sequence[int]) -> "Domain":
        return replace(self, sources=tuple(self.sources[i] for i in indices))


def _channels(source: Header | Array) -> int:
    return source.channels if isinstance(source, Header) else source.shape[2]


class Store:
    """The images of a domain at the size before the crop, decoded once when they fit into memory."""

    def __init__(self, domain: Domain, side: int | None, budget: int, shared: bool) -> None:
        self.domain, self.side = domain, side
        self.shapes = [
            (*(domain.size(i) if side is None else (side, side)), domain.channels) for i in range(len(domain))
        ]
        self.ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        self.memory: Tensor | None = None
        self.nbytes = int(self.ends[-1]) * np.dtype(domain.dtype).itemsize
        if self.nbytes <= budget:
            memory = torch.empty(int(self.ends[-1]), dtype=getattr(torch, domain.dtype))
            self.memory = memory.share_memory_() if shared else memory  # type: ignore[no-untyped-call]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(self._fill, range(len(domain))))

    def _decode(self, i: int) -> Array:
        image = self.domain.load(i)
        return image if self.side is None else resize(image, self.side, self.side)

    def _slot(self, i: int) -> Array:
        assert self.memory is not None
        start = int(self.ends[i - 1]) if i else 0
        slot: Array = self.memory.numpy()[start : int(self.ends[i])].reshape(self.shapes[i])
        return slot

    def _fill(self, i: int) -> None:
        self._slot(i)[:] = self._decode(i)

    def __getitem__(self, i: int) -> Array:
        return self._decode(i) if self.memory is None else self._slot(i)

    def __len__(self) -> int:
        return len(self.domain)


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
        self, a: Domain, b: Domain, config: DataConfig, paired: bool, seed: int = 0, shared: bool = False
    ) -> None:
        self.config, self.paired, self.seed = config, paired, seed
        self.domains = {"a": a, "b": b}
        self.channels = {"a": a.channels, "b": b.channels}
        factor = choose("augmentation", config.augment, PRESETS).resize
        side = None if factor is None else round(config.size * factor)
        budget = config.cache_mb * 2**20
        if shared and Path("/dev/shm").exists():
            budget = min(budget, shutil.disk_usage("/dev/shm").free // 2)
        store_a = Store(a, side, budget, shared)
        store_b = Store(b, side, budget - (store_a.nbytes if store_a.memory is not None else 0), shared)
        self.stores = {"a": store_a, "b": store_b}
        self.scales = {
            name: Scale.of((store[i] for i in range(len(store))), store.domain.dtype)
            for name, store in self.stores.items()
        }
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
        self.resized = PRESETS[train.config.augment].resize is not None

    def __len__(self) -> int:
        return max(len(self.a), len(self.b))

    def _cut(self, image: Array) -> Array:
        n = self.config.size
        if self.resized:
            return resize(image, n, n)
        top, left = (image.shape[0] - n) // 2, (image.shape[1] - n) // 2
        return image[top : top + n, left : left + n]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        a, b = self.a.load(i % len(self.a)), self.b.load(i % len(self.b))
        return {"a": self.scales["a"].encode(self._cut(a)), "b": self.scales["b"].encode(self._cut(b))}


Domains = tuple[Domain, Domain]


@dataclass(frozen=True)
class Opened:
    """The domains of a data set: for training, and held out where there are such images."""

    train: Domains
    heldout: Domains | None
    notes: tuple[str, ...] = ()


def open_data(config: DataConfig, paired: bool, a: Any = None, b: Any = None) -> Opened:
    """Finds, scans checks the images that `config` names (or the arrays `a` and `b`); splits off the held-out part.

    Raises:
        ConfigError: if the options do not say where the images are.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    if not 0 <= config.val_fraction < 1:
        raise ConfigError(f"--val-fraction is a share from 0 up to 1, not {config.val_fraction}.")
    preset = choose("augmentation", config.augment, PRESETS)
    choose("direction", config.direction, {"a2b": 0, "b2a": 0})
    if a is not None or b is not None:
        train, heldout = _pair_up(_arrays("A", a), _arrays("B", b), paired), None
    else:
        train, heldout = _find(config, paired)
    if config.direction == "b2a":
        if not paired:
            raise ConfigError("--direction is for pairs; without them both directions are learned at once.")
        train, heldout = train[::-1], heldout and heldout[::-1]
    notes = []
    for domain in train:
        if domain.grey_files:
            notes.append(f"{domain.grey_files} grey images of domain {domain.title} are read as colour.")
    if heldout:
        heldout = _alike(heldout[0], train[0]), _alike(heldout[1], train[1])
    if config.val_fraction and heldout:
        notes.append("--val-fraction is not used: the data have a held-out part of their own.")
    elif config.val_fraction:
        train, heldout = _split(train, config.val_fraction)
    for domain in train:
        if len(domain) < 2:
            raise DataError(f"Domain {domain.title} has one image to train on; a GAN needs at least two.")
    for domain in (*train, *(heldout or ())):
        if preset.resize is None:
            _refuse_small(domain, config.size)
    return Opened(train, heldout, tuple(notes))


def _find(config: DataConfig, paired: bool) -> tuple[Domains, Domains | None]:
    """The one way in `config` to say where the images are."""
    given = {name for name in ("a", "b", "ab", "data") if getattr(config, name) is not None}
    if given == {"data"}:
        return _find_in_root(Path(str(config.data)), paired)
    if given == {"ab"} and paired:
        root = Path(str(config.ab))
        if (root / "train").is_dir():
            return _find_in_root(root, paired)
        return _side_by_side(root), _maybe(_side_by_side, _beside(root))
    if given == {"a", "b"}:
        a, b = Path(str(config.a)), Path(str(config.b))
        if a.resolve() == b.resolve():
            raise DataError(f"--a and --b are the same folder, {a}; give two different ones.")
        heldout_a, heldout_b = _beside(a), _beside(b)
        heldout = None
        if heldout_a and heldout_b and heldout_a.resolve() != heldout_b.resolve():
            heldout = _two_folders(heldout_a, heldout_b, paired)
        return _two_folders(a, b, paired), heldout
    ways = "--a DIR --b DIR, --ab DIR or --data ROOT" if paired else "--a DIR --b DIR or --data ROOT"
    got = f" You gave: {', '.join('--' + name for name in sorted(given))}." if given else ""
    raise ConfigError(f"Say where the images are, in one way: {ways}.{got}")


def _find_in_root(root: Path, paired: bool) -> tuple[Domains, Domains | None]:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    if (root / "trainA").is_dir() and (root / "trainB").is_dir():
        pairs = [(root / f"{part}A", root / f"{part}B") for part in HELD_OUT]
        heldout = next(((a, b) for a, b in pairs if a.is_dir() and b.is_dir()), None)
        return _two_folders(root / "trainA", root / "trainB", paired), heldout and _two_folders(*heldout, paired)
    if paired and (root / "train").is_dir():
        return _side_by_side(root / "train"), _maybe(_side_by_side, _beside(root / "train"))
    layouts = "trainA and trainB" + (", or train with side-by-side pairs" if paired else "")
    raise DataError(f"{root} does not have the standard layout: it needs the folders {layouts}.")


def _beside(folder: Path) -> Path | None:
    """The held-out folder that belongs to a folder called train, trainA or trainB."""
    if folder.name not in ("train", "trainA", "trainB"):
        return None
    names = [folder.name.replace("train", part, 1) for part in HELD_OUT]
    return next((folder.parent / name for name in names if (folder.parent / name).is_dir()), None)


def _maybe(load: Callable[[Path], Domains], folder: Path | None) -> Domains | None:
    return load(folder) if folder else None


def _scan(folder: Path) -> list[Header]:
    """The headers of all images below `folder`; unreadable files are named together."""

    def header(path: Path) -> Header | DataError:
        try:
            return read_header(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(header, find_images(folder)))
    bad = [h for h in headers if isinstance(h, DataError)]
    if bad:
        raise DataError(f"{len(bad)} of the images in {folder} cannot be used: {_list(map(str, bad))}")
    return [h for h in headers if isinstance(h, Header)]


def _list(culprits: Any) -> str:
    names = list(culprits)
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _side_by_side(folder: Path) -> Domains:
    headers = _scan(folder)
    odd = [f"{h.path.name} ({h.width}x{h.height})" for h in headers if h.width % 2]
    if odd:
        raise DataError(f"Side-by-side images need an even width to be halved: {_list(odd)}.")
    return Domain.of("A", headers, "left"), Domain.of("B", headers, "right")


def _two_folders(a: Path, b: Path, paired: bool) -> Domains:
    if not paired:
        return Domain.of("A", _scan(a)), Domain.of("B", _scan(b))
    stems: list[dict[str, Header]] = []
    for folder in (a, b):
        by_stem: dict[str, Header] = {}
        for header in _scan(folder):
            stem = header.path.relative_to(folder).with_suffix("").as_posix()
            if stem in by_stem:
                raise DataError(
                    f"{by_stem[stem].path} and {header.path} have the same name but for the suffix; keep one."
                )
            by_stem[stem] = header
        stems.append(by_stem)
    lonely = [str(side[stem].path) for side, other in (stems, stems[::-1]) for stem in side if stem not in other]
    if lonely:
        raise DataError(
            f"{len(lonely)} images have no partner of the same name in the other folder: {_list(lonely)}. "
            "Pairs are matched by file name without suffix; complete or remove them."
        )
    names = sorted(stems[0])
    return _pair_up([stems[0][n] for n in names], [stems[1][n] for n in names], True)


def _pair_up(a: Sequence[Header | Array], b: Sequence[Header | Array], paired: bool) -> Domains:
    domains = Domain.of("A", a), Domain.of("B", b)
    if paired:
        if len(a) != len(b):
            raise DataError(f"Pairs need as many images in A as in B; there are {len(a)} and {len(b)}.")
        sizes = [(i, domains[0].size(i), domains[1].size(i)) for i in range(len(a))]
        unequal = [
            f"{domains[0].name(i)} ({wa}x{ha} and {wb}x{hb})" for i, (ha, wa), (hb, wb) in sizes if (ha, wa) != (hb, wb)
        ]
        if unequal:
            raise DataError(f"{len(unequal)} pairs differ in size: {_list(unequal)}.")
    return domains


def _arrays(title: str, images: Any) -> list[Header | Array]:
    """A list of (H, W) or (H, W, C) arrays, or one (N, H, W) or (N, H, W, C) array, as a list of (H, W, C)."""
    if images is None:
        raise ConfigError("Give arrays for both a and b, or folders for both.")
    arrays = [np.asarray(x) for x in images]
    for i, x in enumerate(arrays):
        if x.ndim not in (2, 3) or x.dtype.name not in ("uint8", "uint16", "float32"):
            raise DataError(
                f"Array {i} of domain {title} is {x.dtype} of shape {x.shape}; "
                "expected (H, W) or (H, W, C) of uint8, uint16 or float32."
            )
    return [x if x.ndim == 3 else x[..., None] for x in arrays]


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


def _alike(heldout: Domain, train: Domain) -> Domain:
    """`heldout` with the channels of `train`: grey images of a colour domain are read as colour."""
    if heldout.dtype != train.dtype or (heldout.channels != train.channels and heldout.channels != 1):
        kinds = [f"{d.channels} channels of {d.dtype}" for d in (heldout, train)]
        raise DataError(f"The held-out images of domain {train.title} have {kinds[0]}, the training images {kinds[1]}.")
    return replace(heldout, channels=train.channels)


def _refuse_small(domain: Domain, size: int) -> None:
    small = [f"{domain.name(i)} ({w}x{h})" for i in range(len(domain)) for h, w in [domain.size(i)] if min(h, w) < size]
    if small:
        raise DataError(
            f"{len(small)} images of domain {domain.title} are smaller than the {size} px crop: {_list(small)}. "
            "Use a smaller --size, or an --augment that resizes."
        )

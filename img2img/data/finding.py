"""Which images a method is trained on: found, labelled, divided into training and held-out ones, and checked."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from img2img.core.needs import Needs
from img2img.data.augment import PRESETS
from img2img.data.domain import Domain, alike, from_arrays, passed_beside, refuse_small
from img2img.data.folders import Found, find_images, scan
from img2img.data.heldout import hold_out
from img2img.data.idx import is_idx, read_idx
from img2img.data.labels import (
    UNKNOWN,
    Table,
    beside,
    classes_of,
    from_folders,
    from_idx,
    from_values,
    keep_labels,
    labelled,
    refuse_missing,
)
from img2img.data.options import DataConfig, ImagesConfig, LabelledConfig, PartlyLabelledConfig
from img2img.data.pairs import HELD_OUT, Domains, find_pair, pair_up
from img2img.data.patches import patches_of, scan_large, spread
from img2img.data.picture import Array, Header
from img2img.data.regions import SLIDES
from img2img.data.vectors import vectors_for
from img2img.errors import ConfigError, DataError, NoImagesError, choose, counted, quote

Notes = tuple[str, ...]
WARPABLE = ("uint8", "uint16", "int16", "float32", "float64")  # the types that OpenCV interpolates


@dataclass(frozen=True)
class Split:
    """The images of a run, checked but not read."""

    train: dict[str, Domain]  # the training images of each domain
    heldout: dict[str, Domain] | None = None  # the held-out images of each domain, if there are any
    classes: tuple[str, ...] = ()  # names of the labels that the domains carry
    notes: Notes = ()  # what the user should know

    @property
    def counts(self) -> str:
        """The number of training images, in words."""
        first, *others = self.train.values()
        if others:
            return ", ".join([f"{len(first)} images of {first.title}", *(f"{len(d)} of {d.title}" for d in others)])
        under = "" if first.vectors is None else f" under vectors of {first.vectors.shape[1]}"
        return f"{len(first)} images{under}" + (f" of {len(self.classes)} classes" if self.classes else "")

    @property
    def held(self) -> str:
        """The number of held-out images, in words."""
        return " and ".join(str(len(domain)) for domain in (self.heldout or {}).values())


def find_domains(needs: Needs, config: Any, seed: int = 0, **arrays: Any) -> Split:
    """Find and check the images that `config` names, or `arrays`, and hold out a part of them if there is to be one.

    Of large images, `config.regions` squares of each domain are kept, chosen by the seed.

    Raises:
        ConfigError: if an option has no effect, or the options do not say where the images or their labels are.
        DataError: if images are missing, unreadable, or do not fit together.
    """
    preset = choose("--augment", config.augment, PRESETS)
    if config.region_size:
        _refuse_region_size(config, arrays)
    elif config.regions:
        raise ConfigError("--regions counts the squares of --region-size, which is missing; give both, or neither.")
    if needs.domains == ("a", "b") and not needs.labels:
        split = _find_two(config, needs.paired, **arrays)
    elif needs.domains == ("image",):
        split = _find_images(config, needs.labels, **arrays)
    else:
        raise NotImplementedError(f"There are no options that name the images of {needs}.")
    train, heldout, classes = split.train, split.heldout, split.classes
    notes = [*passed_beside(*train.values(), *(heldout or {}).values()), *split.notes]
    for domain in train.values():
        of = f" of domain {domain.title}" if len(train) > 1 else ""
        if greys := domain.grey_files:
            notes.append(f"{counted(greys, f'grey image{of} is', f'grey images{of} are')} read as colour.")
    if heldout:
        heldout = {key: alike(heldout[key], train[key]) for key in train}
    if config.val_fraction and heldout:
        notes.append("--val-fraction is ignored because the data set has a held-out part.")
    elif config.val_fraction:
        parts = {key: hold_out(domain, config.val_fraction) for key, domain in train.items()}
        train, heldout = ({key: part[k] for key, part in parts.items()} for k in range(2))
        if classes:
            refuse_missing(train["image"], classes, config.val_fraction)
    if config.regions:
        train, chosen = _limited(train, config.regions, seed)
        notes += chosen
    if count := getattr(config, "labelled", 0):
        train = {key: keep_labels(domain, count, classes) for key, domain in train.items()}
    if needs.unlabelled:
        labels = train["image"].labels
        notes.append(f"{len(labels) - labels.count(-1)} of {len(labels)} training images have a label.")
    for domain in train.values():
        if len(domain) < 2:
            raise DataError(f"Domain {domain.title} has one image to train on; a GAN needs at least two.")
        _refuse_unwarpable(domain, config.augment)
    for domain in (*train.values(), *(heldout or {}).values()):
        if preset.resize is None:
            refuse_small(domain, config.size)
    return Split(train, heldout, classes, tuple(notes))


def _refuse_region_size(config: Any, arrays: dict[str, Any]) -> None:
    """Raise ConfigError if there is nothing that could be cut into squares."""
    data = getattr(config, "data", None)
    if any(array is not None for array in arrays.values()) or (data and Path(data).is_file()):
        raise ConfigError(
            "--region-size is for folders of large images; arrays and idx files are small, so leave it out."
        )
    if config.pages != "images":
        raise ConfigError(
            f"--region-size is for images of one page, so --pages {config.pages} has no effect; leave it out."
        )
    if getattr(config, "vectors", None):
        raise ConfigError("--vectors has one for each image, and --region-size makes many of one; leave one out.")


def _limited(train: dict[str, Domain], count: int, seed: int) -> tuple[dict[str, Domain], Notes]:
    """Return the domains with at most `count` squares each, and notes; pairs stay pairs."""
    if all(len(domain) <= count for domain in train.values()):
        sizes = " and ".join(str(len(domain)) for domain in train.values())
        raise ConfigError(f"--regions {count} has no effect on {sizes} regions; use fewer, or leave it out.")
    kept = {key: domain.select(spread(domain.sources, count, seed)) for key, domain in train.items()}
    sizes = " and ".join(f"{len(kept[key])} of {len(domain)}" for key, domain in train.items())
    return kept, (f"{sizes} regions are used, by --regions {count}.",)


def _find_two(config: DataConfig, paired: bool, a: Any = None, b: Any = None) -> Split:
    heldout: Domains | None
    if a is not None or b is not None:
        train, heldout = pair_up(from_arrays("A", a), from_arrays("B", b), paired), None
    else:
        places = {"a": config.a, "b": config.b, "ab": config.ab, "data": config.data}
        train, heldout = find_pair(places, paired, config.pages, config.region_size)
    if config.direction == "b2a":
        if not paired:
            raise ConfigError("--direction is for pairs; without pairs both directions are learned at once.")
        train, heldout = train[::-1], heldout and heldout[::-1]
    return _split("ab", train, heldout)


def _split(keys: Sequence[str], train: Sequence[Domain], heldout: Sequence[Domain] | None) -> Split:
    return Split(dict(zip(keys, train, strict=True)), dict(zip(keys, heldout, strict=True)) if heldout else None)


def _find_images(
    config: ImagesConfig, needs_labels: bool, data: Any = None, labels: Any = None, vectors: Any = None
) -> Split:
    """Find the images of the single domain "image", and their classes or vectors if a method needs them."""
    vectors = getattr(config, "vectors", None) if vectors is None else vectors
    if vectors is not None:
        if labels is not None or getattr(config, "labels", None):
            raise ConfigError("Give labels or vectors, not both.")
        file = Path(vectors) if isinstance(vectors, str | Path) and config.data else None
        if file and file.suffix.lower() == ".npy" and file.resolve().is_relative_to(Path(config.data or "").resolve()):
            raise ConfigError(f"{quote(file)} lies in the folder of images and would be read as one; move it.")
        split = _find_images(ImagesConfig(config.data, pages=config.pages), False, data)
        parts = [split.train["image"], *(split.heldout or {}).values()]
        rows = vectors_for(vectors, Path(config.data or "-"), [part.sources for part in parts])
        parts = [replace(part, vectors=x) for part, x in zip(parts, rows, strict=True)]
        return replace(_split(["image"], parts[:1], parts[1:]), notes=split.notes)
    if labels is not None and not needs_labels:
        raise ConfigError("This method does not use labels; leave them out.")
    file = Path(config.labels) if isinstance(config, LabelledConfig) and config.labels else None
    if labels is not None and file:
        raise ConfigError("Give labels once, as a file or as a list.")
    if file and not file.is_file():
        raise DataError(f"There is no file of labels {quote(file)}.")
    if data is None and config.data is None:
        alone = " Labels alone are not enough." if labels is not None or file else ""
        raise ConfigError(f"Give the images with --data: a folder of images or an idx file.{alone}")
    path, notes = Path(config.data or ""), Notes()
    names: list[list[str]] = []
    if data is None and path.is_dir():
        if labels is not None or (file and is_idx(file)):
            raise ConfigError("The labels of a folder of images are its sub-folders, or --labels FILE.csv, not a list.")
        domains, names, notes = _in_folder(path, file, needs_labels, config.pages, config.region_size)
    else:
        domains = [Domain.of("data", from_arrays("data", _read_images(path) if data is None else data))]
        if needs_labels:
            names = [_listed(labels, file, path if data is None else None)]
    classes: tuple[str, ...] = ()
    if needs_labels:
        what = "data" if data is not None else quote(path)
        unlabelled = isinstance(config, PartlyLabelledConfig)
        classes = classes_of([name for name in names[0] if not (unlabelled and name == UNKNOWN)], what)
        domains = [labelled(x, part, classes, what, unlabelled) for x, part in zip(domains, names, strict=True)]
    return replace(_split(["image"], domains[:1], domains[1:]), classes=classes, notes=notes)


def _in_folder(
    root: Path, table_file: Path | None, needs_labels: bool, pages: str, region: int
) -> tuple[list[Domain], list[list[str]], Notes]:
    """Return the domains of the parts of a folder, the labels of each if they are needed, and notes."""
    folders, notes = _divide(root, needs_labels and not table_file, SLIDES if region else ())
    scans = [scan_large(folder) if region else _scan(folder, pages) for folder in folders]
    names: list[list[str]] = []
    if table_file:
        table = Table(table_file)
        names = [table.of(root, headers) for headers in scans]
        if unused := len(table.labels) - sum(map(len, names)):
            verb = "is" if unused == 1 else "are"
            notes += (f"{counted(unused, 'row', 'rows')} of {quote(table_file)} {verb} of images that are not used.",)
        for folder, headers in zip(folders, scans, strict=True):
            if table_file.resolve().is_relative_to(folder.resolve()):  # used, not passed over
                headers.passed -= Counter([table_file.suffix.lower()])
    elif needs_labels:
        names = [from_folders(folder, headers) for folder, headers in zip(folders, scans, strict=True)]
    if region:
        cut = [patches_of(headers, region) for headers in scans]
        names = [_for_each(labels, patches) for labels, patches in zip(names, cut, strict=True)] if names else names
        scans = [Found(chain(*patches), headers.passed) for patches, headers in zip(cut, scans, strict=True)]
    return [Domain.of("data", headers) for headers in scans], names, notes


def _for_each(labels: list[str], patches: list[list[Header]]) -> list[str]:
    """Return the label of every patch, from those of the images."""
    return [label for label, found in zip(labels, patches, strict=True) for _ in found]


def _listed(labels: Any, file: Path | None, images: Path | None) -> list[str]:
    """Return the labels of images in one array: as given, from an idx file, or from the one beside the images."""
    if labels is not None:
        return from_values(labels)
    if file and not is_idx(file):
        raise ConfigError("A CSV of labels names files in a folder; for other images give an idx file of labels.")
    if not file and images is None:
        raise ConfigError("This method needs the class of every image; give labels=, one per image.")
    return from_idx(file or beside(images or Path()))


def _divide(root: Path, class_folders: bool, others: Collection[str] = ()) -> tuple[list[Path], Notes]:
    """Return the folder to train on, and the held-out one if `root` is divided into such parts; and what to say of it.

    A root is divided if all its images lie in the sub-folders `train` and `val` or `test` (of both, `val` is held out).
    If its sub-folders could be classes of those names, it is divided if all images of `train` lie in sub-folders; if
    all lie directly in it, `train` is a class.

    Raises:
        DataError: if classes are folders and `train` holds images both directly and in sub-folders.
    """
    held = next((root / part for part in HELD_OUT if (root / part).is_dir()), None)
    if held is None or not (root / "train").is_dir():
        return [root], ()
    note = (
        f"{quote(root)} is used as a whole: its folders train and {held.name} are not a training and a held-out part."
    )
    whole = [root], (note,)
    places = [image.relative_to(root).parts for image in find_images(root, others)]
    if not {held.name, "train"} <= {parts[0] for parts in places} <= {"train", *HELD_OUT}:
        return whole
    if class_folders:
        direct = {len(parts) == 2 for parts in places if parts[0] == "train"}
        if len(direct) > 1:
            raise DataError(
                f"{quote(root / 'train')} holds images both directly and in sub-folders, so it is unclear whether it "
                "is a class or the training part; move the images into class folders."
            )
        if direct == {True}:
            return whole
    return [root / "train", held], ()


def _scan(folder: Path, pages: str) -> Found[Header]:
    try:
        return scan(folder, pages)
    except NoImagesError as error:
        found = sorted(filter(is_idx, folder.iterdir()), key=lambda x: ("image" not in x.name, "train" not in x.name))
        if not found:
            raise
        raise DataError(
            f"{quote(folder)} contains no images except idx files; use one of them: --data {quote(found[0])}."
        ) from error


def _read_images(path: Path) -> Array:
    if not is_idx(path):
        raise DataError(f"There is no folder, and no idx file, {quote(path)}.")
    images = read_idx(path)
    if images.ndim < 3:
        raise DataError(
            f"{quote(path)} holds labels, not images; give the file of images, such as train-images-idx3-ubyte.gz."
        )
    return images


def _refuse_unwarpable(domain: Domain, augment: str) -> None:
    """Raise DataError if the augmentation cannot interpolate the images' type."""
    if augment == "strong" and domain.dtype not in WARPABLE:
        raise DataError(
            f"Domain {domain.title} has {domain.dtype} values, which --augment strong cannot warp; "
            f"use another --augment, or convert to {', '.join(WARPABLE)}."
        )

"""The class of every image: from class folders, an idx file of labels, a CSV of file and label, or a list."""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from img2img.data.domain import Domain
from img2img.data.folders import is_run
from img2img.data.idx import read_idx
from img2img.data.picture import Header
from img2img.errors import ConfigError, DataError, counted, listed, quote

COLUMNS = ("file", "label")
UNKNOWN = "-1"  # the label of an image whose class is not known, for a method that learns from such images too
WAYS = "one sub-folder per class in --data, or --labels FILE.csv with the columns file and label"


def from_folders(folder: Path, headers: Iterable[Header]) -> list[str]:
    """Return the class of each image below `folder`: the top folder that it lies in.

    Raises:
        DataError: if images lie beside the class folders, or a class folder holds no image.
    """
    paths = [header.path.relative_to(folder) for header in headers]
    names = [path.parts[0] for path in paths]
    if loose := [quote(folder / path) for path in paths if len(path.parts) == 1]:
        raise DataError(
            f"{counted(len(loose), 'image lies', 'images lie')} in no class folder: {listed(loose)}. Use {WAYS}."
        )
    folders = (entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "." and not is_run(entry))
    if empty := sorted(quote(entry) for entry in folders if entry.name not in set(names)):
        raise DataError(
            f"{counted(len(empty), 'class folder holds', 'class folders hold')} no image: {listed(empty)}. "
            "Add images or remove it."
        )
    return names


def from_idx(path: Path) -> list[str]:
    """Return the labels in an idx file.

    Raises:
        DataError: if it is damaged, or does not hold labels.
    """
    labels = read_idx(path)
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataError(f"{quote(path)} does not hold labels; give a file such as train-labels-idx1-ubyte.gz.")
    return [str(label) for label in labels.tolist()]


def beside(images: Path) -> Path:
    """Return the idx file of labels that belongs to one of images: train-labels-idx1-ubyte for train-images-idx3-ubyte.

    Raises:
        ConfigError: if there is none.
    """
    plain = re.sub(r"idx\d", "idx1", images.name.removesuffix(".gz").replace("images", "labels"))
    for name in (plain + ".gz" * images.name.endswith(".gz"), plain, f"{plain}.gz"):
        if name != images.name and (images.parent / name).is_file():
            return images.parent / name
    raise ConfigError(f"{quote(images)} has no file of labels beside it, such as {plain}; give one: --labels FILE.")


class Table:
    """The rows of a CSV with the columns file and label.

    Attributes:
        path: of the CSV.
        labels: label by file, as the CSV names it.

    Raises:
        DataError: if it is missing, is not such a CSV, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.labels = path, dict[str, str]()
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                self._read(csv.reader(file, strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{quote(path)} cannot be read as a CSV: {error}.") from error

    def _read(self, rows: Any) -> None:
        header = [name.strip().lower() for name in next(rows, [])]
        if any(header.count(name) != 1 for name in COLUMNS):
            raise DataError(
                f"The first line of {quote(self.path)} has to name the columns file and label, separated by commas; "
                f"it is {','.join(header)[:60]!r}."
            )
        for row in filter(None, rows):
            cells = dict(zip(header, map(str.strip, row), strict=False))
            file, label = (cells.get(name, "") for name in COLUMNS)
            if len(row) != len(header) or not file or not label:
                raise DataError(
                    f"Line {rows.line_num} of {quote(self.path)} is not a file and its label; "
                    "names with commas have to be quoted."
                )
            if self.labels.setdefault(file_name(file), label) != label:
                raise DataError(
                    f"{quote(self.path)} gives {file} two labels: {self.labels[file_name(file)]} and {label}."
                )

    def of(self, root: Path, headers: Iterable[Header]) -> list[str]:
        """Return the label of each image, whose file is named relative to `root`.

        Raises:
            DataError: if images have no row.
        """
        return [self.labels[file] for file in files_in(self.labels, self.path, root, headers)]


def files_in(rows: Container[str], table: Path, root: Path, headers: Iterable[Header]) -> list[str]:
    """Return the name that each image has in a table, whose `rows` name files relative to `root`.

    Raises:
        DataError: if images have no row.
    """
    files = [file_name(header.path.relative_to(root).as_posix()) for header in headers]
    if missing := [quote(file) for file in files if file not in rows]:
        raise DataError(
            f"{counted(len(missing), 'image has', 'images have')} no row in {quote(table)}: {listed(missing)}. "
            f"Files are named relative to {quote(root)}."
        )
    return files


def file_name(file: str) -> str:
    """Return a name in the form in which it is compared, whatever system wrote it."""
    return unicodedata.normalize("NFC", PurePosixPath(file.replace("\\", "/")).as_posix())


def from_values(values: Any) -> list[str]:
    """Return labels that are whole numbers or text as text.

    Raises:
        DataError: if they are anything else.
    """
    try:
        labels = values.tolist() if hasattr(values, "tolist") else list(values)
    except TypeError:
        raise DataError(f"labels is a file, or one label per image, not {type(values).__name__}.") from None
    labels = [label.item() if hasattr(label, "item") else label for label in labels]
    for i, label in enumerate(labels):
        if not isinstance(label, Integral | str) or isinstance(label, bool):
            raise DataError(f"labels[{i}] is {label!r}; labels are whole numbers or text, one per image.")
    return [str(label) for label in labels]


def classes_of(labels: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names of the classes, in natural order: 2 before 10.

    Args:
        labels: of all training images.
        what: what the images are called, for messages.

    Raises:
        DataError: if there are fewer than two classes.
    """
    classes = tuple(sorted(set(labels), key=_natural))
    if len(classes) < 2:
        one = f"only the class {classes[0]}" if classes else "no classes"
        raise DataError(f"{what} has {one}; this method needs at least two.")
    return classes


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", name.casefold())  # text and digits take turns
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def labelled(
    domain: Domain, labels: Sequence[str], classes: Sequence[str], what: str, unlabelled: bool = False
) -> Domain:
    """Return the domain with the index of each image's class; -1 where it is `UNKNOWN`, if that is allowed.

    Raises:
        DataError: if there is not one label per image, or a held-out image has a class that no training image has.
    """
    if len(labels) != len(domain):
        raise DataError(
            f"{what} has {len(domain)} images and {len(labels)} labels; there has to be one for each image."
        )
    index = {name: i for i, name in enumerate(classes)} | ({UNKNOWN: -1} if unlabelled else {})
    if unknown := sorted(set(labels) - index.keys(), key=_natural):
        raise DataError(
            f"Held-out images have {'classes' if len(unknown) > 1 else 'a class'} that no training image has: "
            f"{listed(unknown)}."
        )
    return replace(domain, labels=tuple(index[label] for label in labels))


def keep_labels(domain: Domain, count: int, classes: Sequence[str]) -> Domain:
    """Return the domain with the labels of `count` images of each class, drawn at random, and -1 for the others.

    Raises:
        ConfigError: if a class has fewer.
    """
    labels, kept = np.array(domain.labels), np.full(len(domain), -1)
    for i, name in enumerate(classes):
        members = np.flatnonzero(labels == i)
        if len(members) < count:
            raise ConfigError(f"--labelled {count} is more than the {len(members)} labelled images of {name}.")
        kept[np.random.default_rng((0, i)).permutation(members)[:count]] = i
    return replace(domain, labels=tuple(kept.tolist()))


def refuse_missing(domain: Domain, classes: Sequence[str], fraction: float) -> None:
    """Raise ConfigError if holding images out has left a class without any to train on."""
    counts = Counter(domain.labels)
    if missing := [name for i, name in enumerate(classes) if not counts[i]]:
        raise ConfigError(
            f"--val-fraction {fraction} leaves no image of {listed(missing)} to train on; use a smaller share."
        )

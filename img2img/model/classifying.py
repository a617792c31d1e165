"""The class of every image of a folder, by a model that classifies, as a table."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from img2img.data.domain import refuse_non_finite
from img2img.data.folders import images_at, readable
from img2img.data.images import read_image, resize
from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, counted
from img2img.model.model import BATCH, Model
from img2img.runtime.files import refuse_unwritable, write_text
from img2img.runtime.markup import in_cell, listing, table

HEAD = "file,label,confidence"  # of the table, before a column for each class


@dataclass
class Classified:
    """The classes of images.

    Attributes:
        classes: the names of all classes.
        files: the images, relative to their folder.
        labels: the class of each.
        confidences: how sure the model is of each class, (images, classes); rows sum to 1.
        failed: (file, reason) of every image that could not be read.
    """

    classes: tuple[str, ...]
    files: list[Path] = field(default_factory=list)
    confidences: Array = field(default_factory=lambda: np.zeros((0, 0)))
    failed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        return [self.classes[k] for k in self.confidences.argmax(1)] if self.files else []

    def __repr__(self) -> str:
        return f"Classified({len(self.files)} images, {len(self.failed)} failed)"

    def _repr_html_(self) -> str:
        counts = Counter(self.labels)
        rows = [[escape(name), str(counts[name])] for name in self.classes]
        failed = [reason for _, reason in self.failed]
        title = f"Classified {counted(len(self.files), 'image', 'images')}, {len(failed)} failed"
        return in_cell(title, table(rows, ["class", "images"]), listing(failed))

    def to_csv(self) -> str:
        """Return a table of file, label, confidence, and the confidence of each class; --labels reads it."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*HEAD.split(","), *(f"p({name})" for name in self.classes)])
        for path, label, row in zip(self.files, self.labels, self.confidences, strict=True):
            table.writerow([path.as_posix(), label, *(f"{p:.6f}" for p in (row.max(), *row))])
        return text.getvalue()


def classify_files(model: Model, source: Path, out: Path | None, progress: Callable[[int, int], None]) -> Classified:
    """Classify one image, or all below a folder, resized to the training size; write a CSV to `out`.

    Raises:
        ConfigError: if the model does not classify, or `out` cannot be written.
        DataError: if there are no images.
    """
    model.classifier()
    if out is not None:
        refuse_unwritable(out, lambda content: content.decode(errors="replace").startswith(HEAD))
    root, paths = images_at(source)
    result, rows = Classified(model.classes), list[Array]()
    for i in range(0, len(paths), BATCH):
        images: list[Array] = []
        for path in paths[i : i + BATCH]:
            try:
                images.append(_read(path, model))
                result.files.append(path.relative_to(root))
            except DataError as error:
                result.failed.append((path, str(error)))
        if images:
            rows.append(model.confidences(np.stack(images)))
        progress(min(i + BATCH, len(paths)), len(paths))
    result.confidences = np.concatenate(rows) if rows else result.confidences
    if out is not None:
        try:
            write_text(out, result.to_csv())
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror or error}.") from error
    return result


def _read(path: Path, model: Model) -> Array:
    """Read an image as those of the training, (size, size, C)."""
    readable(path, model.card.pages)
    image, domain = read_image(path, "channels").array, model.classifier().source
    channels, dtype = model.card.channels[domain], model.card.scales[domain].dtype
    if image.shape[2] not in (1, channels) or image.dtype != dtype:
        raise DataError(
            f"{path} has {image.shape[2]} channels of {image.dtype}, and the model classifies {channels} of {dtype}."
        )
    refuse_non_finite(image, str(path))
    return resize(np.repeat(image, channels // image.shape[2], axis=2), model.card.size, model.card.size)

"""Rows of images from lists of single files: the files that agree in everything but the channel are one image."""

from collections.abc import Iterable, Sequence

from img2img.errors import DataError, quote

BATCHES = ("Metadata_Batch", "Metadata_Plate")  # the columns of the batches, the first that is there
Key = tuple[object, ...]


def rows_of(
    files: Iterable[tuple[Key, str, str]], rule: str, where: str = ""
) -> tuple[list[Key], dict[str, list[str]]]:
    """Return the images of a list of files, each given as (what its image is known by, channel, name).

    Returns:
        What each image is known by, in the order of their first files; and the files of each channel in that order,
        channels sorted, numbers first.

    Raises:
        DataError: if two files are the same channel of an image, or an image lacks a channel. `rule` ends the sentence
            on the former: what tells the channels, and the remedy; `where` is part of that on the latter.
    """
    rows: dict[Key, dict[str, str]] = {}
    for key, channel, name in files:
        row = rows.setdefault(key, {})
        if channel in row:
            raise DataError(f"{quote(row[channel])} and {quote(name)} are the same channel of one image {rule}.")
        row[channel] = name
    channels = sorted(
        {c for names in rows.values() for c in names}, key=lambda c: (not c.isdigit(), len(c) if c.isdigit() else 0, c)
    )
    lacking = [(next(iter(names.values())), c) for names in rows.values() for c in channels if c not in names]
    if lacking:
        listed = first_of([f"channel {channel} beside {name}" for name, channel in lacking])
        raise DataError(f"Files are missing{where}: {listed}; add them.")
    return list(rows), {c: [names[c] for names in rows.values()] for c in channels}


def first_of(names: Sequence[str]) -> str:
    """Return the first three names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

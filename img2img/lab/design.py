"""The design of a fit: images with their batches, controls, groups and labels; which images it may learn from, what it
aims at, and what would make it worthless.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from img2img.data.picture import Array
from img2img.errors import ConfoundedDesignError, DataError, InputError, counted, listed, quote
from img2img.lab import checks
from img2img.lab.arrays import is_instance, unpack
from img2img.lab.curves.stain import is_rgb, thinning
from img2img.lab.curves.tone import factor_of
from img2img.lab.judgement.baselines import Statistics, reductions as needs_of_statistics
from img2img.lab.judgement.features import reductions as needs_of_features
from img2img.lab.large import LargeImage
from img2img.lab.lazy import LazyImages
from img2img.lab.options import Parameters
from img2img.lab.reductions import Every, Extremes, Means
from img2img.lab.tables.rows import BATCHES

GB = 2**30  # bytes
JUDGED = 0.5  # of the memory for images; with the results of all methods, about eight times as much is held
SATURATED = 0.01  # share of saturated pixels that is worth a note
Note = Callable[[str], None]


@dataclass(frozen=True)
class Design:
    """Images, and what is known of each; None if it is not known.

    `images` is a sequence of arrays (C, H, W) that knows its channels and what errors call each image.
    """

    images: Any
    batch: list[str]
    control: Array | None
    group: list[str] | None
    label: list[str] | None
    manifest: Any = None

    @classmethod
    def of(
        cls, X: Any, p: Parameters, *, batch: Any, control: Any = None, group: Any = None, label: Any = None
    ) -> Self:
        """Return the design of arrays with their description, or of a `Manifest`, which describes itself.

        Raises:
            InputError: if the images or their description do not fit; the message names the image and the remedy.
        """
        described = {"batch": batch, "control": control, "group": group, "label": label}
        if is_manifest(X):
            if extra := [name for name, value in described.items() if value is not None]:
                raise InputError(f"A Manifest names its own {', '.join(extra)}; give them to Manifest.open instead.")
            return cls(X.images, X.batch, X.control, X.group, X.label, X)
        images = unpack(X, p.axes, p.channels)
        n = len(images)
        return cls(
            images,
            [batch.strip()] * n if isinstance(batch, str) else checks.check_batch(batch, n),
            None if control is None else checks.check_mask(control, n),
            None if group is None else checks.check_batch(group, n, "group"),
            None if label is None else checks.check_batch(label, n, "label"),
        )

    @property
    def notes(self) -> list[str]:
        """Return what a user should know about how the table was read; empty for arrays."""
        return [] if self.manifest is None else list(self.manifest.notes)

    def refuse_one_batch(self) -> None:
        """Raise InputError if there is only one batch; of a table, the message names columns with several values."""
        if len(set(self.batch)) > 1:
            return
        found = f"There is only one batch, {self.batch[0]}"
        if self.manifest is None:
            raise InputError(f"{found}; fit needs at least two.")
        used, frame = self.manifest.batch_column, self.manifest.frame
        others = [name for name in BATCHES if name != used and name in frame and frame[name].nunique() > 1]
        remedy = f"if {others[0]} tells them apart, use it: --batch {others[0]}" if others else "fit needs at least two"
        raise InputError(f"{found}, in the column {used}; {remedy}.")

    @property
    def groups(self) -> list[str]:
        """The group of each image; by default every image is one."""
        return [str(i) for i in range(len(self.batch))] if self.group is None else self.group

    def title(self, i: int) -> str:
        """Return what reports call image `i`: its file, relative to the root, and its well."""
        manifest = self.manifest
        name, group = f"image {i}", None if self.group is None else self.group[i]
        if manifest is not None:
            path = manifest.files[i][0]
            group = None if group == str(path) else group
            name = quote(path.relative_to(manifest.root) if path.is_relative_to(manifest.root) else path)
        return name if group is None else f"{name}, {'group' if manifest is None else 'well'} {group}"


def is_manifest(X: Any) -> bool:
    """Return whether X is a `Manifest`; does not import pandas."""
    return is_instance(X, "img2img.lab.tables.manifest", "Manifest")


def part(images: Sequence[Array], members: Sequence[int]) -> Sequence[Array]:
    """Return the members of a sequence of images, each read when it is asked for."""
    return LazyImages(len(members), lambda i: images[members[i]])


def each(
    function: Callable[[int], Any], names: Sequence[str], n_jobs: int = 1, tell: Callable[[int], None] | None = None
) -> list[Any]:
    """Return `function(i)` of each image, which errors call `names`, computed by `n_jobs` threads.

    `tell` is called with the number of images that are done.

    Raises:
        DataError: naming all images that cannot be read, before any other error.
    """

    def one(i: int) -> Any:
        try:
            return function(i)
        except (DataError, InputError) as error:
            return error

    with ThreadPoolExecutor(checks.threads(n_jobs)) as pool:
        found = []
        for result in pool.map(one, range(len(names))):
            found.append(result)
            if tell:
                tell(len(found))
    failed = {name: x for name, x in zip(names, found, strict=True) if isinstance(x, DataError)}
    if len(failed) > 1:
        first = next(iter(failed.values()))
        raise DataError(f"{len(failed)} images cannot be used ({listed(failed)}): {first}") from first
    for error in (*failed.values(), *found):
        if isinstance(error, Exception):
            raise error
    return found


def survey(image: Array | LargeImage) -> None:
    """Gather in one pass what a fit needs of a large image."""
    if isinstance(image, LargeImage):
        stains = [Every(thinning(image.shape))] if is_rgb(image) else []
        image.gather(Extremes(), Means(factor_of(image.shape[1:])), *needs_of_statistics(image),
                     *needs_of_features(image), *stains)  # fmt: skip


def fingerprint(image: Array | LargeImage) -> int:
    """Return a checksum of the pixels of an image (C, H, W), whatever its source; of a large one, of their means."""
    if isinstance(image, LargeImage):
        return zlib.crc32(image.gather(Means(factor_of(image.shape[1:])))[0].tobytes())
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


def members_of(batch: Sequence[str], control: Array | None = None) -> dict[str, list[int]]:
    """Return the images of each batch, sorted by name; only the controls if any are named."""
    rows = range(len(batch)) if control is None else np.flatnonzero(control).tolist()
    return {name: [i for i in rows if batch[i] == name] for name in sorted(set(batch))}


def judged(images: Any, batch: Sequence[str], most: int, memory: float, note: Note) -> list[int]:
    """Return the images to judge on: all, or as many of each batch as fit into `memory` GB."""
    members = members_of(batch)
    fits = max(int(JUDGED * memory * GB) // max(images[0].nbytes, 1) // len(members), 2)
    count = min(most, fits)
    if all(len(indices) <= count for indices in members.values()):
        return list(range(len(batch)))
    note(f"Judged on at most {count} images of each batch, spread evenly; all methods' results are held in memory.")
    return spread(members, count)


def spread(members: Mapping[str, list[int]], most: int) -> list[int]:
    return sorted(
        indices[i]
        for indices in members.values()
        for i in np.linspace(0, len(indices) - 1, min(len(indices), most)).round().astype(int)
    )


def refuse_confounded(
    batch: Sequence[str], label: Sequence[str] | None, on_controls: bool, allowed: bool, note: Note
) -> None:
    """Refuse a design whose labels and batches determine each other, and that has no controls.

    Raises:
        ConfoundedDesignError: unless `allowed`, which leaves a note.
    """
    if label is None or on_controls or len(set(label)) < 2 or len(set(batch)) < 2:
        return
    pairs = len(set(zip(batch, label, strict=True)))
    if pairs == len(set(label)):
        found = "Every label lies in one batch only"
    elif pairs == len(set(batch)):
        found = "Every batch holds one label only"
    else:
        return
    message = f"{found}: equalizing the batches removes what differs between the labels"
    if not allowed:
        raise ConfoundedDesignError(
            f"{message}. Name the controls that all batches share (control=), or use allow_confounded=True."
        )
    note(f"{message}; allowed by allow_confounded=True.")


def choose_images(batch: Sequence[str], control: Array | None, fewest: int, most: int) -> list[int]:
    """Return the images to learn from: from each batch at most `most`, evenly spread; only controls if any are named.

    Raises:
        InputError: if a batch has fewer than `fewest`.
    """
    members = members_of(batch, control)
    if few := [f"{name} ({len(indices)})" for name, indices in members.items() if len(indices) < fewest]:
        raise InputError(
            f"Batches with fewer than {fewest} {'images' if control is None else 'controls'}: {', '.join(few)}. "
            "Give more, leave these batches out, or lower min_images."
        )
    return spread(members, most)


def inspect(
    images: Sequence[Array], batch: Sequence[str], names: Sequence[str], fewest: int, note: Note, n_jobs: int = 1
) -> list[int]:
    """Return which of the images (C, H, W) can be learned from; note the others, and saturated images.

    `names` is what errors call each; every batch needs `fewest` images.

    Raises:
        DataError: naming all images that cannot be read.
        InputError: if a value is not finite, or a batch is left with too few images.
    """

    def look(i: int) -> tuple[bool, bool]:
        survey(images[i])
        checks.check_finite(images[i], f"{names[i]} (batch {batch[i]})")
        is_flat = checks.is_flat(images[i])
        return is_flat, not is_flat and bool(checks.saturated(images[i]).max() > SATURATED)

    found = each(look, names, n_jobs)
    usable, flat = ([i for i, (is_flat, _) in enumerate(found) if is_flat == wanted] for wanted in (False, True))
    bright = [i for i, (_, is_bright) in enumerate(found) if is_bright]
    for indices, what in (
        (flat, "constant and left out of the fit"),
        (bright, "saturated in more than 1 % of the pixels"),
    ):
        if indices:
            listed = [f"{names[i]} ({batch[i]})" for i in indices[:5]] + (["..."] if len(indices) > 5 else [])
            note(f"{counted(len(indices), 'image is', 'images are')} {what}: {', '.join(listed)}.")
    left = [batch[i] for i in usable]
    if few := [name for name in sorted(set(batch)) if left.count(name) < fewest]:
        raise InputError(f"Fewer than {fewest} images of {', '.join(few)} are not constant; give more.")
    return usable


def refuse_single_groups(batch: Sequence[str], group: Sequence[str], refused: bool, note: Note) -> None:
    """Refuse, or note, batches with a single group of their own, whose difference cannot be told from the batch effect.

    Raises:
        ConfoundedDesignError: if it is `refused`.
    """
    groups = {name: {g for g, b in zip(group, batch, strict=True) if b == name} for name in sorted(set(batch))}
    spread = {g for g in set(group) if sum(g in members for members in groups.values()) > 1}
    if alone := [name for name, members in groups.items() if len(members) == 1 and not members & spread]:
        message = (
            f"Only one group (well, donor) of {', '.join(alone)} was given, so its own difference passes for the batch "
            "effect"
        )
        if refused:
            raise ConfoundedDesignError(f"{message}. Give several, or use allow_single_group=True.")
        note(f"{message}. Give several, or judge the result with care.")


def refuse_sizes(images: Sequence[Array], model: str) -> None:
    """Raise InputError unless all images have the same size."""
    sizes = sorted({image.shape[1:] for image in images})
    if len(sizes) > 1:
        shown = ", ".join(f"{h}x{w}" for h, w in sizes[:3])
        raise InputError(
            f"{model} needs whole images of one camera, all of one size, but these are {shown}; use model='tone'."
        )


def medoid(statistics: Statistics) -> str:
    """Return the batch with the least sum of Wasserstein distances to the others, in units of the channels' range."""
    q = statistics.quantiles  # the area between two quantile functions is the distance
    span = np.maximum(q[:, :, -2].max(0) - q[:, :, 1].min(0), 1e-12)
    apart = (np.abs(q[:, None] - q[None]).mean(-1) / span).sum((1, 2))
    return statistics.names[int(apart.argmin())]


def find_scale(statistics: Statistics, names: Sequence[str] | None) -> Array:
    """Return low and high value per channel (C, 2): the 0.4th and 99.6th percentile of the reference's pixels.

    Raises:
        InputError: if a channel has one value everywhere.
    """
    of_reference = statistics.quantiles[statistics.index(statistics.reference)]
    low, high = of_reference[:, 1], of_reference[:, -2]
    flat = high <= low
    low = np.where(flat, statistics.quantiles.min((0, 2)), low)
    high = np.where(flat, statistics.quantiles.max((0, 2)), high)
    if (high <= low).any():
        channel = int(np.argmax(high <= low))
        raise InputError(f"Channel {names[channel] if names else channel} has one value in all images; leave it out.")
    return np.stack([low, high], 1)

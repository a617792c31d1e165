"""The design of a fit: which images it may learn from, what it aims at, and what would make it worthless."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from img2img.data.picture import Array
from img2img.errors import ConfoundedDesignError, InputError, counted
from img2img.lab import checks
from img2img.lab.baselines import Statistics
from img2img.lab.correction import Correction

IN_MEMORY = 2 * 2**30  # bytes of images up to which they are read once and kept
JUDGED = 2**30  # bytes of images that are judged on; with the results of all methods, about eight times as much is held
SATURATED = 0.01  # share of saturated pixels that is worth a word
SHAM_SPLITS, SHAM_GROUPS, SHAM_IMAGES = 5, 4, 12
Note = Callable[[str], None]


class Part(Sequence[Array]):
    """Some images of a sequence, read when they are asked for."""

    def __init__(self, images: Sequence[Array], members: Sequence[int]) -> None:
        self.images, self.members = images, list(members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i: Any) -> Any:
        return self.images[self.members[i]]


def part(images: Sequence[Array], members: list[int]) -> Sequence[Array]:
    """The members, in memory if they fit there."""
    some = Part(images, members)
    return list(some) if images[members[0]].nbytes * len(members) <= IN_MEMORY else some


def fingerprint(image: Array) -> int:
    """A number that tells an image (C, H, W) from others, wherever it came from."""
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


def judged(images: Any, batch: Sequence[str], most: int, note: Note) -> list[int]:
    """Which images to judge on: all, or evenly spread ones of each batch, where there are more than fit into memory."""
    members = {name: [i for i, b in enumerate(batch) if b == name] for name in sorted(set(batch))}
    fits = max(JUDGED // max(images[0].nbytes, 1) // len(members), 2)
    count = min(most, fits)
    if all(len(who) <= count for who in members.values()):
        return list(range(len(batch)))
    note(f"Judged on at most {count} images of each batch, spread evenly; all methods' results are held in memory.")
    return _spread(members, count)


def _spread(members: Mapping[str, list[int]], most: int) -> list[int]:
    at = {name: np.linspace(0, len(who) - 1, min(len(who), most)).round().astype(int) for name, who in members.items()}
    return sorted(members[name][i] for name in members for i in at[name])


def refuse_confounded(
    batch: Sequence[str], label: Sequence[str] | None, on_controls: bool, allowed: bool, note: Note
) -> None:
    """Where the label tells the batch, or the batch the label, and there are no controls, they are one.

    Raises:
        ConfoundedDesignError: then, unless `allowed`.
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
            f"{message}. Name the controls that all batches share (control=), or say allow_confounded=True."
        )
    note(f"{message}; allowed, as allow_confounded=True says.")


def choose_images(batch: Sequence[str], control: Array | None, fewest: int, most: int) -> list[int]:
    """The images to learn from: of each batch its controls, if there are any named, at most `most` spread evenly.

    Raises:
        InputError: if there is one batch only, or a batch has fewer than `fewest`.
    """
    names = sorted(set(batch))
    if len(names) < 2:
        raise InputError(f"There is one batch, {names[0]}, and nothing to equalize it with; fit needs two or more.")
    members = {
        name: [i for i, b in enumerate(batch) if b == name and (control is None or control[i])] for name in names
    }
    if few := [f"{name} ({len(who)})" for name, who in members.items() if len(who) < fewest]:
        raise InputError(
            f"Batches with fewer than {fewest} {'images' if control is None else 'controls'}: {', '.join(few)}. "
            "Give more, leave these batches out, or lower min_images."
        )
    return _spread(members, most)


def inspect(images: Sequence[Array], batch: Sequence[str], names: Sequence[str], fewest: int, note: Note) -> list[int]:
    """Which of the images can be learned from; notes the others, and saturated ones.

    Args:
        images: (C, H, W) each.
        batch: of each.
        names: what errors call each.
        fewest: images that every batch needs.
        note: takes a sentence.

    Raises:
        InputError: if a value is not finite, or a batch is left with too few images.
    """
    usable: list[int] = []
    flat: list[int] = []
    bright: list[int] = []
    for i, image in enumerate(images):
        checks.check_image_finite(image, f"{names[i]} (batch {batch[i]})")
        (flat if checks.is_flat(image) else usable).append(i)
        if not checks.is_flat(image) and checks.saturated(image).max() > SATURATED:
            bright.append(i)
    for who, what in (
        (flat, "constant, and left out of the fit"),
        (bright, "saturated in more than 1 % of the pixels"),
    ):
        if who:
            shown = ", ".join(f"{names[i]} ({batch[i]})" for i in who[:5]) + ", ..." * (len(who) > 5)
            note(f"{counted(len(who), 'image is', 'images are')} {what}: {shown}.")
    left = [batch[i] for i in usable]
    if few := [name for name in sorted(set(batch)) if left.count(name) < fewest]:
        raise InputError(f"Fewer than {fewest} images that are not constant are left of {', '.join(few)}; give more.")
    return usable


def note_single_groups(batch: Sequence[str], group: Sequence[str], note: Note) -> None:
    """Notes batches that have one group of their own: what is particular to it cannot be told from the batch."""
    groups = {name: {g for g, b in zip(group, batch, strict=True) if b == name} for name in sorted(set(batch))}
    spread = {g for g in set(group) if sum(g in own for own in groups.values()) > 1}
    if alone := [name for name, own in groups.items() if len(own) == 1 and not own & spread]:
        note(
            f"Of {', '.join(alone)} there is one group (well, donor): its own difference passes for the batch's. Give "
            "several, or judge the result with care."
        )


def refuse_sizes(images: Sequence[Array], model: str) -> None:
    """Raises InputError unless all images are of one size."""
    sizes = sorted({image.shape[1:] for image in images})
    if len(sizes) > 1:
        shown = ", ".join(f"{h}x{w}" for h, w in sizes[:3])
        raise InputError(
            f"{model} needs whole images of one camera, all of one size, and these are {shown}; use model='tone'."
        )


def medoid(statistics: Statistics) -> str:
    """The batch with the least sum of Wasserstein distances to the others, over channels in units of their range."""
    q = statistics.quantiles  # the area between two quantile functions is the distance
    span = np.maximum(q[:, :, -2].max(0) - q[:, :, 1].min(0), 1e-12)
    apart = (np.abs(q[:, None] - q[None]).mean(-1) / span).sum((1, 2))
    return statistics.names[int(apart.argmin())]


def find_scale(statistics: Statistics, names: Sequence[str] | None) -> Array:
    """Low and high value per channel (C, 2): the 0.4th and 99.6th percentile of the reference's pixels.

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


def sham(
    images: Sequence[Array], group: Sequence[str], scale: Array, with_field: bool, seed: int, n_jobs: int
) -> float | None:
    """Splits one batch at random into two, by groups, equalizes them, and measures the change: it should be none.

    Returns:
        The mean absolute change, as a share of the range, over a few splits; None if there are too few groups.
    """
    names = sorted(set(group))
    if len(names) < SHAM_GROUPS:
        return None
    rng = np.random.default_rng(seed)
    span = (scale[:, 1] - scale[:, 0])[:, None, None]
    changes = []
    for _ in range(SHAM_SPLITS):
        side = {str(name): i % 2 for i, name in enumerate(rng.permutation(names))}
        number = np.array([side[g] for g in group])
        correction = Correction.fit(images, number, group, 0, with_field, n_jobs)
        moved = np.flatnonzero(number == 1)[:SHAM_IMAGES].tolist()
        changes.append(
            np.mean([np.abs((correction(images[i], 1) - images[i].astype(np.float32)) / span).mean() for i in moved])
        )
    return float(np.mean(changes))


def with_batch(statistics: Statistics, name: str, images: Sequence[Array]) -> Statistics:
    """The statistics with those of one more batch at the end."""
    new = Statistics.of(images, [name] * len(images), reference=name, example=images[0])

    def joined(which: str) -> Any:
        old, more = getattr(statistics, which), getattr(new, which)
        return None if old is None else np.concatenate([old, more])

    arrays_ = {which: joined(which) for which in ("mean", "sd", "quantiles", "colour")}
    return replace(statistics, names=(*statistics.names, name), **arrays_)

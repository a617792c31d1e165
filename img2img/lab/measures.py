"""What can be measured of one method's images: structure, effect, distributions, and what a probe can tell.

Everything is to be measured on images, and groups of images, that no method was fitted on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance
from skimage.metrics import structural_similarity

from img2img.data.picture import Array
from img2img.errors import InputError
from img2img.lab import baselines, objects, probes
from img2img.lab.features import image_features, in_range
from img2img.lab.verdict import COLUMNS, IDENTITY as IDENTITY

Row = dict[str, float | None]

PIXELS = 2000  # of each image, inside and outside the objects, that distributions are compared on
STEPS = 3  # of whole numbers: a plane that spans no more shows nothing whose place could be followed
MOST_PSNR = 100.0  # dB, of an image that is equal


@dataclass(frozen=True)
class Case:
    """The images to judge by, and what needs to be measured of them only once. See `measure` for the fields."""

    before: Sequence[Array]
    batch: Array
    reference: str
    scale: Array
    group: Array
    control: Array | None
    label: Array | None
    masks: Sequence[Array] | None
    truth: Sequence[Array] | None
    nuclei: int
    dark: bool
    seed: int
    found: list[Array]  # segmentation of the input
    means: Array  # (n, C) inside the objects, of the input, in units of the range
    problems: dict[str, None] = field(default_factory=dict)  # what could not be measured, and why

    @property
    def objects(self) -> Sequence[Array]:
        return self.found if self.masks is None else self.masks

    @property
    def moved(self) -> list[int]:
        """The images outside the reference batch."""
        return [int(i) for i in np.flatnonzero(self.batch != self.reference)]

    @property
    def batches(self) -> list[str]:
        """The names, the reference first."""
        return [self.reference, *(str(name) for name in np.unique(self.batch) if name != self.reference)]

    @property
    def controls(self) -> Array:
        return np.ones(len(self.batch), bool) if self.control is None else self.control


def prepare(
    before: Sequence[Array],
    *,
    batch: Sequence[str],
    reference: str,
    scale: Array,
    group: Sequence[str] | None = None,
    control: Sequence[bool] | None = None,
    label: Sequence[str] | None = None,
    masks: Sequence[Array] | None = None,
    truth: Sequence[Array] | None = None,
    nuclei: int = 0,
    dark: bool = False,
    seed: int = 0,
) -> Case:
    """Checks what `measure` was given, and finds the objects of the input."""
    given = {"batch": batch, "group": group, "control": control, "label": label, "masks": masks, "truth": truth}
    for name, values in given.items():
        if values is not None and len(values) != len(before):
            raise InputError(f"There are {len(before)} images, but {len(values)} values of `{name}`.")
    for i, image in enumerate(before):
        for name, values in (("masks", masks), ("truth", truth)):
            if values is not None and values[i].shape[-2:] != image.shape[1:]:
                raise InputError(f"Number {i} of `{name}` is {values[i].shape[-2:]}, and its image {image.shape[1:]}.")
        if truth is not None and truth[i].dtype != image.dtype:
            raise InputError(f"`truth` holds {truth[i].dtype} values, and the images {image.dtype}; give one type.")
    if reference not in set(batch) or len(set(batch)) < 2:
        raise InputError(f"Judging needs images of the reference batch '{reference}' and of another one.")
    group = [str(i) for i in range(len(before))] if group is None else group
    found = [objects.segment(image[nuclei], dark) for image in before]
    inside = found if masks is None else masks
    scale = np.asarray(scale, np.float64)
    return Case(
        before=before,
        batch=np.asarray(batch),
        reference=reference,
        scale=scale,
        group=np.asarray(group),
        control=None if control is None else np.asarray(control, bool),
        label=None if label is None else np.asarray(label),
        masks=masks,
        truth=truth,
        nuclei=nuclei,
        dark=dark,
        seed=seed,
        found=found,
        means=_object_means(before, inside, scale, dark),
    )


def measure(before: Sequence[Array], after: Sequence[Array], **case: Any) -> Row:
    """All metrics of one method; what cannot be measured is None. `COLUMNS` has a sentence for each.

    With `_low`, `_high`, `_chance` and `_null` come bounds and null of the probes.

    Objects are the `masks`, or else what `objects.segment` finds in the input; intensities and features inside objects
    are taken on the same pixels before and after. The reference batch is what the others are compared to, so metrics of
    change are means over the images of the other batches.

    Args:
        before: n images (C, H, W), of one type.
        after: the method's images, of the same shapes.
        **case: keywords, of which the first three are needed:
            batch: of each image.
            reference: the batch that the others are to look like.
            scale: low and high value of each channel (C, 2), fixed when the method was fitted.
            group: source field or well of each image; without it, every image is its own.
            control: whether each image is a control; treated are the others.
            label: phenotype or treatment of each image.
            masks: labels (H, W) of the objects of each image.
            truth: each image as it would be without the batch effect.
            nuclei: the channel in which objects are found.
            dark: objects are darker than what is around them.
            seed: of the probes.

    Raises:
        InputError: if lengths or shapes differ, or there is one batch only.
    """
    return measure_case(prepare(before, **case), after)


def measure_case(case: Case, after: Sequence[Array]) -> Row:
    """`measure`, for several methods on the same images."""
    shapes = [image.shape for image in case.before]
    if [image.shape for image in after] != shapes:
        raise InputError("A method's images differ from the input in number or shape; they have to be the same.")
    parts = (_structure, _pixels, _intensity, _distributions, _fidelity)
    row: Row = dict.fromkeys(COLUMNS)
    row |= {name: value for part in parts for name, value in part(case, after).items()}
    row |= measure_features(case, *_both_features(after, case.objects, case.scale))
    return {name: None if value is None or not np.isfinite(value) else float(value) for name, value in row.items()}


def measure_features(case: Case, features: Array, inside: Array) -> Row:
    """Batch predictability from features of images (n, f), phenotype accuracy from features inside objects (n, g)."""
    row: Row = {}
    sets = {"batch": np.ones(len(case.batch), bool)} | ({} if case.control is None else {"control_batch": case.control})
    for prefix, rows in sets.items():
        probe = partial(probes.batch_predictability, features[rows], case.batch[rows], case.group[rows], case.seed)
        row |= _attempt(case, prefix, probe)
    if case.label is not None:
        where = (case.batch, case.reference, case.group, case.seed)
        row |= _attempt(case, "phenotype", partial(probes.phenotype_accuracy, inside, case.label, *where))
    return row


def _attempt(case: Case, prefix: str, probe: Callable[[], dict[str, float]]) -> Row:
    try:
        return {f"{prefix}_{name}": value for name, value in probe().items()}
    except InputError as error:
        case.problems[f"{prefix.replace('_', ' ')} could not be probed. {error}"] = None
        return {}


def _structure(case: Case, after: Sequence[Array]) -> Row:
    rows = case.moved
    found = [objects.segment(after[i][case.nuclei], case.dark) for i in rows]
    return {**objects.structure([case.objects[i] for i in rows], [case.found[i] for i in rows], found)}


def _pixels(case: Case, after: Sequence[Array]) -> Row:
    """What moved and what is new, over images and channels; changes in units of the fitted range."""
    span = case.scale[:, 1] - case.scale[:, 0]
    pairs = [
        (case.before[i][c], after[i][c], span[c])
        for i in case.moved
        for c in range(len(span))
        if np.ptp(case.before[i][c]) > (STEPS if case.before[i].dtype.kind == "u" else 0)
    ]
    shifts = np.array([objects.shift(was, now) for was, now, _ in pairs])
    change = np.array([np.abs(a - b.astype(np.float64)).mean((1, 2)) for a, b in zip(after, case.before, strict=True)])
    change = (change / span).mean(1)
    return {
        "px_shift": float(np.quantile(shifts, 0.95)) if len(shifts) and np.isfinite(shifts).all() else None,
        "edge_agreement": _mean([objects.edge_agreement(was, now) for was, now, _ in pairs]),
        "novel_structure": _mean([objects.novel_structure(*pair) for pair in pairs]),
        "change": float(change[case.moved].mean()),
        "reference_change": float(change[case.batch == case.reference].mean()),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _intensity(case: Case, after: Sequence[Array]) -> Row:
    now = _object_means(after, case.objects, case.scale, case.dark)
    images = (case.means, now, case.batch, case.reference)
    true = None if case.truth is None else _object_means(case.truth, case.objects, case.scale, case.dark)
    shift = objects.control_shift(*images, case.controls, true)
    return {"shift_control": shift, **objects.effect_retention(*images, *_treatment(case))}


def _object_means(images: Sequence[Array], labels: Sequence[Array], scale: Array, dark: bool) -> Array:
    """(n, C), in units of the range; how much darker than the background, for dark objects."""
    means = np.stack([objects.object_means(*pair) for pair in zip(images, labels, strict=True)])
    return np.asarray((-means if dark else means) / (scale[:, 1] - scale[:, 0]))


def _treatment(case: Case) -> tuple[Array, Array]:
    """Which images are treated, and which they are compared with: not controls, or the second of two labels."""
    if case.control is not None:
        return ~case.control, case.control
    if case.label is not None and len(names := np.unique(case.label)) == 2:
        return case.label == names[1], case.label == names[0]
    return ~case.controls, case.controls  # none is treated


def _distributions(case: Case, after: Sequence[Array]) -> Row:
    """Wasserstein-1 to the reference batch, inside and outside objects, so that their density does not count."""
    row: Row = {}
    for part, inside in (("background", False), ("foreground", True)):
        pixels = [_sample(in_range(a, case.scale), (o > 0) == inside) for a, o in zip(after, case.objects, strict=True)]
        pools = [
            np.concatenate(
                [pixels[i] for i in np.flatnonzero((case.batch == name) & case.controls)] or [pixels[0][:, :0]], 1
            )
            for name in case.batches
        ]
        distances = [
            wasserstein_distance(a, b)
            for pool in pools[1:]
            for a, b in zip(pool, pools[0], strict=True)
            if a.size and b.size
        ]
        row[f"w1_{part}"] = _mean(distances)
    return row


def _sample(planes: Array, where: Array) -> Array:
    """At most PIXELS of the pixels there, evenly spread, (C, n)."""
    index = np.flatnonzero(where)
    return planes.reshape(len(planes), -1)[:, index[:: -(-len(index) // PIXELS) or 1]]


def _fidelity(case: Case, after: Sequence[Array]) -> Row:
    """Against the truth, with the fitted range as the range of the data, whatever the images hold."""
    if case.truth is None:
        return {}
    pairs = [[in_range(image, case.scale) for image in (after[i], case.truth[i])] for i in case.moved]
    errors = [max(float(np.mean((a - b) ** 2)), 10 ** (-MOST_PSNR / 10)) for a, b in pairs]
    similar = [
        float(structural_similarity(a, b, data_range=1.0, channel_axis=0))  # type: ignore[no-untyped-call]
        for a, b in pairs
        if min(a.shape[1:]) >= 7
    ]
    return {"psnr": float(np.mean(-10 * np.log10(errors))), "ssim": _mean(similar)}


def features_only(
    case: Case, images: Sequence[Array], batch: Sequence[str], masks: Sequence[Array] | None = None
) -> Row:
    """Features of the input, normalised by those of the fit set: there are no images, so only the probes apply."""
    labels = [objects.segment(image[case.nuclei], case.dark) for image in images] if masks is None else masks
    pairs = [_both_features(*sets, case.scale) for sets in ((case.before, case.objects), (images, labels))]
    moved = [
        baselines.zscore_features(here, list(case.batch), there, batch) for here, there in zip(*pairs, strict=True)
    ]
    return dict.fromkeys(COLUMNS) | measure_features(case, *moved)


def _both_features(images: Sequence[Array], labels: Sequence[Array], scale: Array) -> tuple[Array, Array]:
    """Features of the images, and of the pixels inside their objects."""
    inside = [objects.object_features(*pair, scale) for pair in zip(images, labels, strict=True)]
    return np.stack([image_features(image, scale) for image in images]), np.stack(inside)


def batch_left(row: Row, identity: Row) -> Row:
    """What is left of the linear probe's success: (accuracy - chance) / (the same of doing nothing)."""
    result: Row = {}
    for prefix in ("batch", "control_batch"):
        now, was, chance = row.get(f"{prefix}_linear"), identity.get(f"{prefix}_linear"), row.get(f"{prefix}_chance")
        if now is not None and was is not None and chance is not None and was > chance:
            result[f"{prefix}_left"] = (now - chance) / (was - chance)
    return result

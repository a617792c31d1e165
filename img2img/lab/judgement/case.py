"""The images that methods are judged on, and what can be measured of one method's images: structure, effect,
distributions, and how well a probe predicts batch and phenotype.

Everything should be measured on images, and groups of images, that no method was fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance
from skimage.metrics import structural_similarity

from img2img.data.picture import Array
from img2img.errors import InputError
from img2img.lab.curves.stain import is_rgb
from img2img.lab.judgement import objects, probes
from img2img.lab.judgement.features import image_features, in_range
from img2img.lab.judgement.scores import COLUMNS, Scores

PIXELS = 2000  # of each image, inside and outside the objects, for comparing distributions
STEPS = 3  # of whole numbers: a plane that spans no more shows nothing whose place could be followed
STEPS_OF_MEASURING = 7  # of one method
MOST_PSNR = 100.0  # dB, of an image that is equal


@dataclass(eq=False)
class Case:
    """The images that methods are judged on, and what is known of them.

    Objects are the `masks`, or else what `objects.segment` finds in the input.

    Attributes:
        before: n images (C, H, W), of one type.
        batch: the batch of each image, (n,).
        reference: the batch that the others should look like.
        scale: low and high value of each channel (C, 2), fixed when the method was fitted.
        group: source field or well of each image, (n,); by default every image is a group.
        control: whether each image is a control, (n,); the others are treated.
        label: phenotype or treatment of each image, (n,).
        masks: labels (H, W) of the objects of each image.
        truth: each image as it would be without the batch effect.
        nuclei: the channel in which objects are found.
        dark: whether objects are darker than their surroundings.
        seed: seed of the probes.
        channels: names of the channels; by default numbers.
        names: what reports call each image, such as its file.
        problems: reasons why something could not be measured; filled while measuring.

    Raises:
        InputError: if lengths or shapes differ, or there is only one batch.
    """

    before: Sequence[Array]
    batch: Any
    reference: str
    scale: Array
    group: Any = None
    control: Any = None
    label: Any = None
    masks: Sequence[Array] | None = None
    truth: Sequence[Array] | None = None
    nuclei: int = 0
    dark: bool = False
    seed: int = 0
    channels: Sequence[str] | None = None
    names: Sequence[str] | None = None
    problems: dict[str, None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        names = ("batch", "group", "control", "label", "masks", "truth", "names")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name, values in given.items():
            if len(values) != len(self.before):
                raise InputError(f"There are {len(self.before)} images, but {len(values)} values of `{name}`.")
        sized = {name: given[name] for name in ("masks", "truth") if name in given}
        for i, image in enumerate(self.before):
            for name, values in sized.items():
                if (size := values[i].shape[-2:]) != image.shape[1:]:
                    raise InputError(f"Number {i} of `{name}` is {size}, but its image is {image.shape[1:]}.")
            if self.truth is not None and self.truth[i].dtype != image.dtype:
                raise InputError(
                    f"`truth` holds {self.truth[i].dtype} values, but the images hold {image.dtype}; use one type."
                )
        if self.reference not in set(self.batch) or len(set(self.batch)) < 2:
            raise InputError(f"Judging needs images of the reference batch '{self.reference}' and of another batch.")
        self.batch, self.scale = np.asarray(self.batch), np.asarray(self.scale, np.float64)
        self.group = np.asarray([str(i) for i in range(len(self.before))] if self.group is None else self.group)
        self.control = None if self.control is None else np.asarray(self.control, bool)
        self.label = None if self.label is None else np.asarray(self.label)

    @cached_property
    def found(self) -> list[Array]:
        """The objects that are segmented in the input, as labels (H, W)."""
        return [objects.segment(image[self.nuclei], self.dark) for image in self.before]

    @property
    def objects(self) -> Sequence[Array]:
        """The objects of each image, as labels (H, W)."""
        return self.found if self.masks is None else self.masks

    @cached_property
    def means(self) -> Array:
        """Means inside the objects of the input (n, C), in units of the range."""
        return self.object_means(self.before)

    @cached_property
    def features(self) -> tuple[Array, Array]:
        """Features of the input's images (n, f), and of the pixels inside their objects (n, g)."""
        return both_features(self.before, self.objects, self.scale)

    def features_of(self, images: Sequence[Array]) -> tuple[Array, Array]:
        """Return features as of the input; those of images that are unchanged are not computed again."""
        rows = [i for i, image in enumerate(images) if not np.array_equal(image, self.before[i])]
        whole, inside = (known.copy() for known in self.features)
        if rows:
            new = both_features([images[i] for i in rows], [self.objects[i] for i in rows], self.scale)
            whole[rows], inside[rows] = new
        return whole, inside

    def object_means(self, images: Sequence[Array]) -> Array:
        """Return means (n, C) inside the objects, in units of the range; for dark objects how much darker they are."""
        means = np.stack([objects.object_means(*pair) for pair in zip(images, self.objects, strict=True)])
        return np.asarray((-means if self.dark else means) / (self.scale[:, 1] - self.scale[:, 0]))

    @property
    def moved(self) -> list[int]:
        """The images outside the reference batch."""
        return [int(i) for i in np.flatnonzero(self.batch != self.reference)]

    @property
    def batches(self) -> list[str]:
        """The names of the batches, the reference first."""
        return [self.reference, *(str(name) for name in np.unique(self.batch) if name != self.reference)]

    @property
    def controls(self) -> Array:
        """Return which images are controls, (n,); all are if none were named."""
        return np.ones(len(self.batch), bool) if self.control is None else self.control

    def treatment(self) -> tuple[Array, Array]:
        """Return which images are treated and which they are compared with.

        Treated are those that are not controls, or those with the second of two labels.
        """
        if self.control is not None:
            return ~self.control, self.control
        if self.label is not None and len(names := np.unique(self.label)) == 2:
            return self.label == names[1], self.label == names[0]
        return ~self.controls, self.controls  # none is treated


def measure(case: Case, after: Sequence[Array], step: Callable[[], None] = lambda: None) -> Scores:
    """Return all scores of one method; `COLUMNS` explains each, and what cannot be measured is None.

    Scores of the probes come with `_low`, `_high`, `_chance` and `_null`. Intensities and features inside objects are
    taken on the same pixels before and after. The others are compared with the reference batch, so scores of change
    are means over the images of the other batches. `step` is called after each of `STEPS_OF_MEASURING` parts.

    Raises:
        InputError: if `after` differs from the input in number or shape.
    """
    if [image.shape for image in after] != [image.shape for image in case.before]:
        raise InputError("A method's images differ from the input in number or shape; they must be the same.")
    parts = (_structure, _pixels, _intensity, _distributions, _fidelity)
    scores: Scores = dict.fromkeys(COLUMNS)
    for part in parts:
        scores |= part(case, after)
        step()
    features = case.features_of(after)
    step()
    scores |= measure_features(case, *features)
    step()
    return {name: None if value is None or not np.isfinite(value) else float(value) for name, value in scores.items()}


def measure_features(case: Case, features: Array, inside: Array) -> Scores:
    """Return batch predictability from features of images (n, f), and phenotype accuracy from features inside objects
    (n, g).
    """
    scores: Scores = {}
    sets = {"batch": np.ones(len(case.batch), bool)} | ({} if case.control is None else {"control_batch": case.control})
    for prefix, rows in sets.items():
        probe = partial(probes.batch_predictability, features[rows], case.batch[rows], case.group[rows], case.seed)
        scores |= _attempt(case, prefix, probe)
    if case.label is not None:
        place = (case.batch, case.reference, case.group, case.seed)
        scores |= _attempt(case, "phenotype", partial(probes.phenotype_accuracy, inside, case.label, *place))
    return scores


def _attempt(case: Case, prefix: str, probe: Callable[[], dict[str, float]]) -> Scores:
    try:
        return {f"{prefix}_{name}": value for name, value in probe().items()}
    except InputError as error:
        case.problems[f"{prefix.replace('_', ' ')} could not be probed. {error}"] = None
        return {}


def _structure(case: Case, after: Sequence[Array]) -> Scores:
    rows = case.moved
    same = {i for i in rows if np.array_equal(after[i][case.nuclei], case.before[i][case.nuclei])}
    found = [case.found[i] if i in same else objects.segment(after[i][case.nuclei], case.dark) for i in rows]
    return {**objects.structure([case.objects[i] for i in rows], [case.found[i] for i in rows], found)}


def _pixels(case: Case, after: Sequence[Array]) -> Scores:
    """Measure what moved and what is new, over images and channels; changes are in units of the fitted range."""
    span = case.scale[:, 1] - case.scale[:, 0]
    pairs = [
        (case.before[i][c], after[i][c], span[c])
        for i in case.moved
        for c in range(len(span))
        if np.ptp(case.before[i][c]) > (STEPS if case.before[i].dtype.kind == "u" else 0)
    ]
    shifts = np.array([objects.shift(*pair) for i in case.moved for pair in _followed(case.before[i], after[i])])
    change = np.array([np.abs(a - b.astype(np.float64)).mean((1, 2)) for a, b in zip(after, case.before, strict=True)])
    change = (change / span).mean(1)
    return {
        "px_shift": float(np.quantile(shifts, 0.95)) if len(shifts) and np.isfinite(shifts).all() else None,
        "edge_agreement": _mean([objects.edge_agreement(was, now) for was, now, _ in pairs]),
        "novel_structure": _mean([objects.novel_structure(*pair) for pair in pairs]),
        "change": float(change[case.moved].mean()),
        "reference_change": float(change[case.batch == case.reference].mean()),
    }


def _followed(before: Array, after: Array) -> list[tuple[Array, Array]]:
    """Return the planes between which content is followed: those of each channel that shows something.

    New colours mix the channels of RGB, so there each plane is compared with the best mixture of those before.
    """
    least = STEPS if before.dtype.kind == "u" else 0
    shown = [c for c, plane in enumerate(before) if np.ptp(plane) > least]
    if not is_rgb(before):
        return [(before[c], after[c]) for c in shown]
    parts = np.concatenate([np.ones((1, before[0].size)), before.reshape(3, -1)])
    planes = after.reshape(3, -1)
    mixed = (planes @ parts.T @ np.linalg.pinv(parts @ parts.T) @ parts).reshape(before.shape)
    return [(mixed[c] if (before[c] != after[c]).any() else before[c], after[c]) for c in shown]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _intensity(case: Case, after: Sequence[Array]) -> Scores:
    images = (case.means, case.object_means(after), case.batch, case.reference)
    true = None if case.truth is None else case.object_means(case.truth)
    shift = objects.control_shift(*images, case.controls, true)
    return {"shift_control": shift, **objects.effect_retention(*images, *case.treatment())}


def _distributions(case: Case, after: Sequence[Array]) -> Scores:
    """Measure Wasserstein-1 to the reference batch inside and outside objects, so that density does not count."""
    scores: Scores = {}
    members = [np.flatnonzero((case.batch == name) & case.controls) for name in case.batches]
    for part, inside in (("background", False), ("foreground", True)):
        pixels = [_sample(in_range(a, case.scale), (o > 0) == inside) for a, o in zip(after, case.objects, strict=True)]
        reference, *others = (np.concatenate([pixels[0][:, :0], *(pixels[i] for i in rows)], 1) for rows in members)
        pairs = [pair for pool in others for pair in zip(pool, reference, strict=True)]
        scores[f"w1_{part}"] = _mean([wasserstein_distance(*pair) for pair in pairs if pair[0].size and pair[1].size])
    return scores


def _sample(planes: Array, mask: Array) -> Array:
    """Return at most PIXELS of the masked pixels, evenly spread, (C, n)."""
    index = np.flatnonzero(mask)
    return planes.reshape(len(planes), -1)[:, index[:: -(-len(index) // PIXELS) or 1]]


def _fidelity(case: Case, after: Sequence[Array]) -> Scores:
    """Compare with the truth, with the fitted range as the range of the data, whatever the images hold."""
    if case.truth is None:
        return {}
    pairs = [[in_range(image, case.scale) for image in (after[i], case.truth[i])] for i in case.moved]
    errors = [max(float(np.mean((a - b) ** 2)), 10 ** (-MOST_PSNR / 10)) for a, b in pairs]
    large = [pair for pair in pairs if min(pair[0].shape[1:]) >= 7]
    similar = [float(structural_similarity(*pair, data_range=1.0, channel_axis=0)) for pair in large]  # type: ignore[no-untyped-call]
    return {"psnr": float(np.mean(-10 * np.log10(errors))), "ssim": _mean(similar)}


def both_features(images: Sequence[Array], labels: Sequence[Array], scale: Array) -> tuple[Array, Array]:
    """Return features of the images, and of the pixels inside their objects."""
    inside = [objects.object_features(*pair, scale) for pair in zip(images, labels, strict=True)]
    return np.stack([image_features(image, scale) for image in images]), np.stack(inside)


def batch_left(scores: Scores, identity: Scores) -> Scores:
    """Return what is left of the linear probe's success: (accuracy - chance) over that of doing nothing."""
    left: Scores = {}
    for prefix in ("batch", "control_batch"):
        now, was = (row.get(f"{prefix}_linear") for row in (scores, identity))
        chance = scores.get(f"{prefix}_chance")
        if now is not None and was is not None and chance is not None and was > chance:
            left[f"{prefix}_left"] = (now - chance) / (was - chance)
    return left

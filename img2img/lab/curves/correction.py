"""`tone` and `tone+field`: the curves and fields that follow from the measurements of each batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import numpy as np

from img2img.data.picture import Array, as_type
from img2img.lab.curves import tone
from img2img.lab.curves.effects import Moves
from img2img.lab.curves.field import ORDERS, TERMS, certain, surface
from img2img.lab.curves.found import Found
from img2img.lab.curves.measuring import Measured, Sample, signs as signs_of
from img2img.lab.curves.place import NOWHERE, Origin, Place, Well
from img2img.lab.curves.tone import Curve
from img2img.lab.large import LargeImage

SIGN_IMAGES = 64  # images that vote on whether the foreground is bright
CACHED = 65536  # pixels mapped at once
WINDOWS = 8  # evaluated fields that are kept


@dataclass(frozen=True)
class Correction:
    """The corrections of B batches with C channels.

    Attributes:
        signs: (C,), 1 where the foreground is bright.
        levels: (B, C, 1 + K), background and log contrasts of each batch.
        curves: (B, C, 2, points), x and y of each curve.
        fields: (B, C, 2, 5), coefficients of light and background relative to the target's; zeros without a field.
        camera: (2,), height and width of the images that a field was fitted to; zeros without one.
        target_level: (C, 1 + K), the levels that batches are moved to: those of one batch, or the mean of all.
        target_covariance: (C, 1 + K, 1 + K), its covariance.
        target_field: (C, 2, 5), the target's own field.
        target_field_covariance: (C, 2, 5, 5), its covariance.
        trends: (B, C, 2, 2), what background and log contrast gain from the middle of the plate to the last row and to
            the last column; zeros without a trend.
    """

    signs: Array
    levels: Array
    curves: Array
    fields: Array
    camera: Array
    target_level: Array
    target_covariance: Array
    target_field: Array
    target_field_covariance: Array
    trends: Array
    _tables: dict[Any, Array] = field(default_factory=dict, init=False, repr=False, compare=False)
    _windows: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        images: Sequence[Array],
        batch: Array,
        group: Sequence[str],
        target: int | None,
        with_field: bool = False,
        n_jobs: int = 1,
        wells: Array | None = None,
    ) -> tuple[Self, list[Found]]:
        """Measure every image, one at a time (three times with a field); return the corrections, and what was found.

        Args:
            images: (C, H, W) each; all of one size if there is a field.
            batch: the batches of the images, numbered from 0, (n,).
            group: the groups of the images.
            target: number of the batch that the others are moved to; None for the mean of all.
            with_field: whether to fit illumination.
            n_jobs: threads; -1 is one for each core.
            wells: row and column of each image's well, from -1 to 1, (n, 2), to correct trends along the plate.
        """
        count, channels = int(batch.max()) + 1, len(images[0])
        weights = np.full(count, 1 / count) if target is None else np.eye(count)[target]
        signs = signs_of(images, SIGN_IMAGES, n_jobs)
        sample = Sample(images, batch, group, count, signs, n_jobs, wells)
        measured = sample.measured()
        curves, fields = np.zeros((count, channels, 2, 0)), np.zeros((count, channels, 2, TERMS))
        target_field = np.zeros((channels, 2, TERMS)), np.zeros((channels, 2, TERMS, TERMS))
        target_level = measured.target(weights)
        start = cls(
            signs, measured.levels, curves, fields, np.zeros(2, int), *target_level, *target_field, measured.trends
        )
        if with_field:
            own, sure = sample.fields()
            start = replace(
                start,
                camera=np.array(images[0].shape[1:]),
                target_field=np.einsum("b,bcjt->cjt", weights, own),
                target_field_covariance=np.einsum("b,bcjst->cjst", weights**2, sure),
            )
            start, measured = start._with_fields(sample, measured, own, sure)
        moves = measured.moves(weights)
        level, covariance = measured.target(weights)
        fitted = replace(
            start,
            levels=measured.levels,
            curves=_curves(measured.levels, moves, signs),
            target_level=level,
            target_covariance=covariance,
            trends=measured.trends,
        )
        return fitted, Found.all(measured, moves, wells is not None)

    def with_batch(
        self, images: Sequence[Array], group: Sequence[str], n_jobs: int = 1, wells: Array | None = None
    ) -> tuple[Self, list[Found]]:
        """Return the corrections with those of one more batch, measured on `images`, and what was found in it."""
        sample = Sample(images, np.zeros(len(images), int), group, 1, self.signs, n_jobs, wells)
        measured, fields = sample.measured(), np.zeros((1, *self.fields.shape[1:]))
        if self.camera.any():
            start, measured = self._with_fields(sample, measured, *sample.fields())
            fields = start.fields
        moves = measured.beside(self.target_level, self.target_covariance).moves(np.array([1.0, 0.0])).of_batch(1)
        fitted = replace(
            self,
            levels=np.concatenate([self.levels, measured.levels]),
            curves=np.concatenate([self.curves, _curves(measured.levels, moves, self.signs)]),
            fields=np.concatenate([self.fields, fields]),
            trends=np.concatenate([self.trends, measured.trends]),
        )
        return fitted, Found.all(measured, moves, wells is not None)

    def _with_fields(self, sample: Sample, measured: Measured, own: Array, sure: Array) -> tuple[Self, Measured]:
        """Return the fields of the batches of `sample`, and its measurements under the target's illumination.

        `own` is light and background of each batch, `sure` their covariances, as `Sample.fields` returns them.
        """
        gains = np.exp((measured.levels - self.target_level)[:, :, 1:].mean(2))
        target = self.target_field, self.target_field_covariance
        fields = [_relative(a, b, *target, gain) for a, b, gain in zip(own, sure, gains, strict=True)]
        start = replace(self, levels=measured.levels, fields=np.stack(fields))

        def even(i: int) -> Array | None:
            number = int(sample.batch[i])
            return start.evened(sample.images[i], number) if start.fields[number].any() else None

        return start, sample.measured(even)

    def curve(self, batch: int, channel: int, well: Well = NOWHERE.well) -> Curve:
        """Return the curve of one batch and channel, for images of a well whose row and column are from -1 to 1."""
        x, y = self.curves[batch, channel]
        rise, stretch = self.trends[batch, channel] @ well
        if rise or stretch:
            middle = self.levels[batch, channel, 0]
            x = middle + rise + np.exp(stretch) * (x - middle)
        return Curve(x, y)

    def is_identity(self, batch: int) -> bool:
        """Return whether images of this batch are left unchanged, bit for bit."""
        return not (self.fields[batch].any() or self.trends[batch].any()) and all(
            self.curve(batch, c).is_identity for c in range(self.curves.shape[1])
        )

    def evened(self, image: Array, batch: int, origin: Origin = (0, 0)) -> Array:
        """Return an image (C, H, W) under the target's illumination, float32; `origin` places a crop on the camera."""
        if isinstance(image, LargeImage):
            even = image.mapped(lambda block, place: self.evened(block, batch, place), len(image), np.float32)
            return cast(Array, even)
        out = image.astype(np.float32)
        for c in np.flatnonzero(self.fields[batch].any((1, 2))).tolist():
            level, light, background = self._illumination(batch, c, image.shape[1:], origin)
            out[c] -= background
            out[c] *= light
            out[c] += level
        return out

    def __call__(self, image: Array, batch: int, place: Place = NOWHERE) -> Array:
        """Return the corrected image, float32 (C, H, W), neither rounded nor clipped."""
        if self.is_identity(batch):
            return image.astype(np.float32)
        even = self.evened(image, batch, place.origin) if self.fields[batch].any() else image.astype(np.float64)
        return np.stack([self.curve(batch, c, place.well)(plane).astype(np.float32) for c, plane in enumerate(even)])

    def corrected(self, image: Array, batch: int, place: Place = NOWHERE) -> Array:
        """Return the corrected image in the type of `image`; curves of integers are looked up in a table."""
        if self.is_identity(batch):
            return image.copy()
        if image.dtype.kind == "f":
            return self(image, batch, place).astype(image.dtype)
        out = np.empty(image.shape, image.dtype)
        for c, plane in enumerate(image):
            if self.fields[batch, c].any():
                level, light, background = self._illumination(batch, c, image.shape[1:], place.origin)
                curve = self.curve(batch, c, place.well)
                for rows in _rows(plane):
                    even = (plane[rows] - background[rows]) * light[rows] + level
                    out[c, rows] = as_type(curve(even), image.dtype)
            else:
                table = self._table(batch, c, image.dtype, place.well)
                for rows in _rows(plane):
                    np.take(table, plane[rows], out=out[c, rows], mode="clip")
        return out

    def _table(self, batch: int, channel: int, dtype: np.dtype[Any], well: Well) -> Array:
        if self.trends[batch, channel].any():
            return self.curve(batch, channel, well).table(dtype)
        key = batch, channel, dtype.name
        if key not in self._tables:
            self._tables[key] = self.curve(batch, channel).table(dtype)
        return self._tables[key]

    def _illumination(
        self, batch: int, channel: int, shape: tuple[int, ...], origin: Origin
    ) -> tuple[np.float32, Array, Array]:
        """Return the level, 1 / light, and the background including the level; the last two are float32 (H, W)."""
        key = batch, channel, shape, origin
        if (window := self._windows.get(key)) is None:
            light, background = self.fields[batch, channel]
            place: Any = (shape, tuple(self.camera.tolist()), origin)
            level = np.float32(self.levels[batch, channel, 0])
            window = level, np.exp(-surface(light, *place)), level + surface(background, *place)
            if len(self._windows) >= WINDOWS:
                self._windows.clear()
            self._windows[key] = window
        return window


def _rows(plane: Array) -> list[slice]:
    """Return bands of rows that fit into the processor's cache."""
    step = max(1, CACHED // max(plane.shape[1], 1))
    return [slice(top, top + step) for top in range(0, plane.shape[0], step)]


def _curves(levels: Array, moves: Moves, signs: Array) -> Array:
    """Return the curves of all batches, (B, C, 2, points)."""
    out = np.zeros((*levels.shape[:2], 2, levels.shape[2] + 2))
    for b, c in np.ndindex(levels.shape[:2]):
        curve = tone.curve(levels[b, c], moves.applied[b, c], int(signs[c]))
        out[b, c] = curve.x, curve.y
    return out


def _relative(coefficients: Array, covariance: Array, target: Array, target_covariance: Array, gain: Array) -> Array:
    """Return a batch's field (C, 2, 5) relative to the target's, as far as it is certain.

    `gain` is the contrast of the batch over the target's (C,); the target's background is brighter in the batch by it.
    """
    out = np.zeros_like(coefficients)
    for c, j in np.ndindex(out.shape[:2]):
        times = gain[c] if j else 1.0
        difference = coefficients[c, j] - times * target[c, j]
        doubt = covariance[c, j] + times**2 * target_covariance[c, j]
        for order in ORDERS:
            out[c, j, order] = certain(difference[order], doubt[order, order])
    return out

"""`stain`: the colours of bright-field images, as amounts of two stains, matched between batches.

Light that passes a stained tissue is weakened to white * exp(-density), and the densities of stains add up (Beer and
Lambert). The colours of two stains are found as by Macenko et al. 2009, but in a plane through the origin, where no
stain is no density, and from the pixels of all images of a batch. Mean and spread of the amounts in a batch's tissue
are then moved to those of the target, as far as the batches differ by more than the groups (slides) within them do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from img2img.data.picture import Array, as_type
from img2img.errors import InputError
from img2img.lab.curves.found import Found
from img2img.lab.curves.place import NOWHERE, Place
from img2img.lab.large import LargeImage
from img2img.lab.reductions import Every

TISSUE = 0.45  # density, summed over the colours, from which on a pixel counts as tissue
FEWEST = 500  # sampled pixels of tissue that a batch needs
SAMPLED = 400_000  # pixels of a batch that are measured
THINNED = 2_500_000  # pixels of an image; of one with twice as many, every third is looked at, and so on
WHITE = 0.99  # quantile of each colour that is taken for the light without tissue
ANGLES = (0.01, 0.99)  # quantiles of the angle between the two stains
ALIKE = 0.05  # radians; stains whose directions differ by less are one
ROWS = 65536  # pixels mapped at once


@dataclass(frozen=True)
class StainCorrection:
    """The stains of B batches of RGB images, and the maps of their densities to the target's.

    Batches without enough tissue, or with a single stain, have zeros in `stains`, and are left unchanged.

    Attributes:
        white: (B, 3), the light without tissue, in pixel values.
        stains: (B, 3, 3), unit rows: the colours (densities of red, green and blue) of two stains, first the one that
            absorbs more red, such as hematoxylin; and what is at right angles to both.
        mean: (B, 3), mean amounts of the three in tissue.
        spread: (B, 3), their standard deviations.
        share: (), the share of the differences that is corrected, from 0 to 1.
        target: (), number of the batch that the others are moved to.
    """

    white: Array
    stains: Array
    mean: Array
    spread: Array
    share: Array
    target: Array
    signs: ClassVar[Array] = -np.ones(3, int)  # tissue is dark
    camera: ClassVar[Array] = np.zeros(2, int)  # no field
    _maps: dict[int, tuple[Array, Array, Array]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def fit(cls, images: Sequence[Array], batch: Array, group: Sequence[str], target: int) -> Self:
        """Measure the batches of RGB images.

        Args:
            images: (3, H, W), uint8.
            batch: the batches of the images, numbered from 0, (n,).
            group: the groups of the images; each group of a batch contributes the same number of pixels.
            target: number of the batch that the others are moved to.

        Raises:
            InputError: if images are not RGB of 8 bits, or the target shows no tissue.
        """
        if not is_rgb(images[0]):
            raise InputError(
                f"model='stain' is for RGB images of 8 bits, but these have {len(images[0])} channels of "
                f"{images[0].dtype}; use model='tone'."
            )
        members = [np.flatnonzero(batch == b).tolist() for b in range(int(batch.max()) + 1)]
        parts = [_measured((images[i] for i in rows), [group[i] for i in rows]) for rows in members]
        white, stains, mean, spread, level, groups, squares = (np.stack(x) for x in zip(*parts, strict=True))
        if not stains[target].any():
            raise InputError(
                "The target shows no tissue, or a single stain, so there is no colour to aim at; name another target."
            )
        return cls(white, stains, mean, spread, np.array(_certain(level, groups, squares, target)), np.array(target))

    def with_batch(
        self, images: Sequence[Array], group: Sequence[str], n_jobs: int = 1, wells: Array | None = None
    ) -> tuple[Self, list[Found]]:
        """Return the corrections with those of one more batch, measured on `images`; no channel is found by itself."""
        white, stains, mean, spread, *_ = _measured(images, group)
        corrected = replace(
            self,
            white=np.concatenate([self.white, white[None]]),
            stains=np.concatenate([self.stains, stains[None]]),
            mean=np.concatenate([self.mean, mean[None]]),
            spread=np.concatenate([self.spread, spread[None]]),
        )
        return corrected, []

    @property
    def without_tissue(self) -> list[int]:
        """The numbers of the batches that show too little tissue, or a single stain, and are left unchanged."""
        return [b for b, stains in enumerate(self.stains) if not stains.any()]

    def is_identity(self, batch: int) -> bool:
        """Return whether images of this batch are left unchanged, bit for bit."""
        return batch == int(self.target) or not self.share or not self.stains[batch].any()

    def has_tissue(self, image: Array | LargeImage, batch: int) -> bool:
        """Return whether an image (3, H, W) of a batch shows any tissue, among the pixels that are looked at."""
        density = _looked_up(_densities(self.white[batch]), thinned(image))
        return bool((density.sum(0) > TISSUE).any())

    def __call__(self, image: Array, batch: int, place: Place = NOWHERE) -> Array:
        """Return the corrected image, float32 (3, H, W), neither rounded nor clipped; `place` has no effect."""
        return self._moved(image, batch, np.empty(image.shape, np.float32))

    def corrected(self, image: Array, batch: int, place: Place = NOWHERE) -> Array:
        """Return the corrected image in the type of `image`."""
        return self._moved(image, batch, np.empty(image.shape, image.dtype))

    def _moved(self, image: Array, batch: int, out: Array) -> Array:
        """Fill `out` (3, H, W) with the corrected image, band by band."""
        flat, result = image.reshape(3, -1), out.reshape(3, -1)
        if self.is_identity(batch):
            result[:] = flat
            return out
        density = _densities(self.white[batch])
        if batch not in self._maps:
            self._maps[batch] = self._map(batch)
        slope, offset, light = self._maps[batch]
        bands = [slice(start, start + ROWS) for start in range(0, flat.shape[1], ROWS)]
        for band in bands:
            was = _looked_up(density, flat[:, band])
            # Tissue is moved by slope and offset, white stays white, and between them the offset fades in.
            share = np.clip(was.sum(0) * np.float32(1 / TISSUE), 0, 1)
            values = _product(slope, was)
            values -= offset * share
            np.exp(values, out=values)
            values *= light
            result[:, band] = as_type(values, out.dtype)
        return out

    def _map(self, batch: int) -> tuple[Array, Array, Array]:
        """Return what moves densities (3, n) of a batch to minus those of the target, float32: slope (3, 3), offset
        (3, 1); and the light of the target (3, 1).
        """
        b, t, share = batch, int(self.target), float(self.share)
        gain = self.spread[t] / self.spread[b]
        slope = self.stains[t].T @ np.diag(gain) @ np.linalg.inv(self.stains[b]).T
        slope = share * slope + (1 - share) * np.eye(3)
        offset = share * self.stains[t].T @ (self.mean[t] - gain * self.mean[b])
        light = self.white[t] ** share * self.white[b] ** (1 - share)
        return -slope.astype(np.float32), offset[:, None].astype(np.float32), light[:, None].astype(np.float32)


def is_rgb(image: Array | LargeImage) -> bool:
    """Return whether an image (C, H, W) has three channels of 8 bits."""
    return image.dtype == np.uint8 and len(image) == 3


def _densities(white: Array) -> Array:
    """Return the optical density of each value of uint8 (3, 256), float32, where `white` (3,) has none."""
    return -np.log(np.arange(256).clip(1) / white[:, None]).astype(np.float32)


def _product(matrix: Array, vectors: Array) -> Array:
    """Return matrix (3, 3) times vectors (3, n); those of each pixel are the same however many there are.

    Libraries for matrices round otherwise for another n, so blocks of an image would differ from the whole.
    """
    out, part = np.empty_like(vectors), np.empty_like(vectors[0])
    for row, total in zip(matrix, out, strict=True):
        np.multiply(vectors[0], row[0], out=total)
        for value, vector in zip(row[1:], vectors[1:], strict=True):
            np.multiply(vector, value, out=part)
            total += part
    return out


def _looked_up(tables: Array, planes: Array) -> Array:
    """Return the entries of the tables (3, 256) at the values of the planes (3, n)."""
    return np.stack([np.take(table, plane) for table, plane in zip(tables, planes, strict=True)])


def _measured(images: Iterable[Array], group: Sequence[str]) -> tuple[Array, ...]:
    """Return white, stains, mean and spread of one batch, as `StainCorrection` has them; and of its groups' levels, the
    mean densities (3,) of their tissue, the mean, the number and the sum of squares about the mean.

    All but white are zeros if there is no tissue.
    """
    names, of_image = np.unique([str(g) for g in group], return_inverse=True)
    members = np.bincount(of_image)[of_image]
    pixels_of = map(thinned, images)
    samples = [_sample(image, SAMPLED / len(names) / n) for image, n in zip(pixels_of, members, strict=True)]
    smallest = np.bincount(of_image, [part.shape[1] for part in samples]).min()
    samples = [_sample(part, smallest / n) for part, n in zip(samples, members, strict=True)]
    pixels = np.concatenate(samples, 1)
    owner = np.repeat(of_image, [part.shape[1] for part in samples])
    white = np.quantile(pixels, WHITE, axis=1).clip(1)
    density = _looked_up(_densities(white), pixels).T.astype(np.float64)
    inside = density.sum(1) > TISSUE
    tissue, owner = density[inside], owner[inside]
    nothing = white, np.zeros((3, 3)), np.zeros(3), np.zeros(3), np.zeros(3), np.array(0), np.zeros(3)
    if len(tissue) < FEWEST or (stains := find_stains(tissue)) is None:
        return nothing
    amounts = tissue @ np.linalg.inv(stains)
    mean, spread = amounts.mean(0), amounts.std(0)
    if (spread < 1e-6).any():
        return nothing
    size = np.bincount(owner)
    seen = size > 0
    levels = np.stack([np.bincount(owner, plane)[seen] / size[seen] for plane in tissue.T], 1)
    squares = ((levels - levels.mean(0)) ** 2).sum(0)
    return white, stains, mean, spread, levels.mean(0), np.array(seen.sum()), squares


def _certain(level: Array, groups: Array, squares: Array, target: int) -> float:
    """Return the share of the batches' differences from the target that is certain, from 0 to 1.

    It is 1 - 1/d⁴, one share for all batches, where d², the mean squared distance of levels from the target's in
    standard errors, is 1 on average if no batch differs; clear differences are hardly shrunk. It is 1 if no batch has
    several groups. The arguments are those of all batches, as `_measured` returns them: levels (B, 3), groups (B,),
    squares (B, 3).
    """
    freedom = (groups - 1).clip(0).sum()
    others = np.flatnonzero(groups > 0)[np.flatnonzero(groups > 0) != target]
    if not freedom or not len(others):
        return 1.0
    noise = squares.sum(0) * (freedom + 2) / freedom**2  # larger than usual: few degrees of freedom must not seem sure
    doubt = noise * (1 / groups[others] + 1 / groups[target])[:, None]
    distance = float(((level[others] - level[target]) ** 2 / doubt.clip(1e-12)).mean())
    return max(0.0, 1 - 1 / max(distance, 1e-12) ** 2)


def _sample(image: Array, count: float) -> Array:
    """Return about `count` pixels (3, n) of an image, spread evenly, by an odd step that does not follow columns."""
    flat = image.reshape(3, -1)
    return flat[:, :: max(int(flat.shape[1] / max(count, 1)), 1) | 1].copy()


def thinning(shape: tuple[int, ...]) -> int:
    """Return the odd step that thins the pixels of an image (3, H, W) before they are sampled; 1 for most."""
    return max(shape[1] * shape[2] // THINNED, 1) | 1


def thinned(image: Array | LargeImage) -> Array:
    """Return the pixels (3, n) of an image, row by row; of a large one, every `thinning`th."""
    step = thinning(image.shape)
    if isinstance(image, LargeImage):
        return np.asarray(image.gather(Every(step))[0])
    return image.reshape(3, -1)[:, ::step]


def find_stains(density: Array) -> Array | None:
    """Return the colours of two stains, and what is at right angles to both, as unit rows (3, 3).

    The plane that holds most of the densities (n, 3) of tissue goes through the origin; the stains are its directions
    at the 1st and 99th percentile of the pixels' angles, without negative densities. None if these are one direction.
    """
    plane = np.linalg.eigh(density.T @ density)[1][:, [2, 1]]
    plane *= np.where(plane.sum(0) < 0, -1, 1)
    along, across = (density @ plane).T
    ends = np.quantile(np.arctan2(across, along), ANGLES)
    stains = (np.stack([np.cos(ends), np.sin(ends)], 1) @ plane.T).clip(0)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True).clip(1e-9)
    first, second = stains if stains[0, 0] >= stains[1, 0] else stains[::-1]
    normal = np.cross(first, second)
    apart = np.linalg.norm(normal)  # the sine of the angle between them
    return np.stack([first, second, normal / apart]) if apart > ALIKE else None

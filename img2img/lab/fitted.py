"""The state of a fitted equalizer, and an image of any batch moved to the target batch by it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Interval, Len

from img2img.data.picture import Array, as_type
from img2img.errors import InputError, UnknownBatchError, choose
from img2img.lab import checks
from img2img.lab.curves.correction import Correction
from img2img.lab.curves.found import Found
from img2img.lab.curves.place import NOWHERE, Origin, Place, centred
from img2img.lab.curves.stain import StainCorrection
from img2img.lab.judgement.baselines import Statistics
from img2img.lab.judgement.features import reductions
from img2img.lab.judgement.quality import Familiarity, change_step, largest_change, lost, quality_of
from img2img.lab.large import LargeImage
from img2img.lab.networks.models import MODELS
from img2img.lab.reductions import Counts, Extremes, Moments, Picked

if TYPE_CHECKING:
    from torch import nn

Names = list[str]


@dataclass(frozen=True)
class GeneratorSpec:
    """The arguments that a network's generator is built with."""

    model: str
    options: dict[str, str | bool | int | float | None]
    channels: int
    batches: int


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The result of a fit, except for the arrays; `BatchEqualizer` explains what is not explained here.

    Attributes:
        network: how the model's generator is built, or None.
        dtype: type of the images.
        groups: the groups that were fitted, if groups were given.
        on_controls: whether only controls were used.
        cramers_v: association of batch and label, if labels were given.
        fingerprints: checksums of the images that were used.
        corrections: what was found in each batch and channel; empty in equalizers before 0.2.
        stated: the names that files state for the channels, "" for one that they do not name; None without files.
        pixel_size: the width and height of a pixel in micrometres that files state, or None.
        plate: rows and columns of the plates whose trends are corrected, or None.
    """

    model: str
    network: GeneratorSpec | None
    batches: Annotated[Names, Len(1)]
    target: str
    channels: Names | None
    n_channels: Annotated[int, Interval(ge=1, le=checks.MAX_CHANNELS)]
    dtype: str
    groups: Names
    on_controls: bool
    n_images: dict[str, int]
    cramers_v: float | None
    fingerprints: list[int]
    sham: float | None
    notes: Names
    corrections: list[Found] = field(default_factory=list)
    stated: Names | None = None
    pixel_size: tuple[float, float] | None = None
    plate: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        network = choose("model", self.model, MODELS).network
        choose("type of image", self.dtype, checks.DTYPES)
        choose("target", self.target, [*self.batches, "mean"])
        built = self.network and (self.network.model, self.network.channels)
        if built != (network and (network.name, self.n_channels)):
            raise ValueError(f"{self.model} of {self.n_channels} channels has another network")
        if self.channels is not None and len(self.channels) != self.n_channels:
            raise ValueError(f"{len(self.channels)} names for {self.n_channels} channels")
        if self.stated is not None and len(self.stated) != self.n_channels:
            raise ValueError(f"{len(self.stated)} stated names for {self.n_channels} channels")


@dataclass(frozen=True, kw_only=True)
class Fitted(Learned):
    """Everything that a fit learned. Images are (C, H, W); those of unknown batches stay as they are, and those of the
    target unless trends along its plate are corrected.

    `familiarity` holds the features of the fitted images.
    """

    scale: Array
    correction: Correction | StainCorrection
    familiarity: Familiarity
    statistics: Statistics
    generator: "nn.Module | None" = None

    @property
    def highest(self) -> float:
        """The highest value of any channel's range."""
        return float(self.scale[:, 1].max())

    @property
    def _ends(self) -> Array:
        """The low and high values, (2, C, 1, 1)."""
        return self.scale.astype(np.float32).T[:, :, None, None]

    def learned(self) -> dict[str, Any]:
        """Return the fields of `Learned`, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(Learned)}
        network = None if self.network is None else asdict(self.network)
        return plain | {"network": network, "corrections": [asdict(found) for found in self.corrections]}

    def equalized(self, image: Array, batch: str, place: Place = NOWHERE, device: str = "cpu") -> Array:
        """Return the image in its own type, rounded and clipped."""
        if self._stays(batch):
            return image.copy()
        if self.generator is None:
            return self.correction.corrected(image, self.batches.index(batch), place)
        return as_type(self.values(image, batch, place, device), image.dtype)

    def values(self, image: Array, batch: str, place: Place = NOWHERE, device: str = "cpu") -> Array:
        """Return the image as float32, neither rounded nor clipped."""
        if self._stays(batch):
            return image.astype(np.float32)
        number = self.batches.index(batch)
        if self.generator is None:
            return self.correction(image, number, place)
        y = self.run_network(self.network_input(image, number, place), number, device)
        low, high = self._ends
        values: Array = (y + 1) * ((high - low) / 2) + low
        return values

    def _stays(self, batch: str) -> bool:
        if batch not in self.batches or (batch == self.target and self.generator is not None):
            return True
        return batch == self.target and self.correction.is_identity(self.batches.index(batch))

    def place(
        self, image: Array | LargeImage, batch: str, origin: Origin | None = None, group: str | None = None
    ) -> Place:
        """Return where an image was taken, from the place of a crop on the camera and the name of the well.

        Raises:
            InputError: if there is a field, and the image is neither a whole camera image nor a crop with its place; or
                if positions on the plate are corrected, and the group is no well.
        """
        if self._stays(batch):
            return NOWHERE
        well = NOWHERE.well if self.plate is None else centred(group, self.plate)
        return Place(self.origin(image, origin), well)

    def origin(self, image: Array | LargeImage, origin: Origin | None = None) -> Origin:
        """Return the row and column of an image's first pixel on the camera; raises as `place`."""
        camera = tuple(self.correction.camera.tolist())
        if not any(camera) or (origin is None and image.shape[1:] == camera):
            return 0, 0
        if origin is None:
            raise InputError(
                f"An image is {image.shape[1]}x{image.shape[2]}, but the field was fitted to a camera of "
                f"{camera[0]}x{camera[1]} pixels; give whole images, or the origin= of each crop."
            )
        if min(origin) < 0 or any(o + n > c for o, n, c in zip(origin, image.shape[1:], camera, strict=True)):
            raise InputError(
                f"A crop of {image.shape[1:]} pixels at {origin} does not fit on the camera of {camera} pixels."
            )
        return origin

    def network_input(self, image: Array, number: int, place: Place = NOWHERE) -> Array:
        """Return the network's input for an image of batch `number`: about -1 to 1, float32."""
        x = self.correction(image, number, place) if MODELS[self.model].starts_at_tone else image.astype(np.float32)
        low, high = self._ends
        signal: Array = (x - low) * (2 / (high - low)) - 1
        return signal

    def run_network(self, signal: Array, number: int, device: str) -> Array:
        """Return the network's output for its input, on the same scale."""
        from img2img.lab.networks.applying import apply, bind  # imports torch, which curves do without

        assert self.network is not None and self.generator is not None
        bound = bind(self.network.model, self.generator, number, self.batches.index(self.target))
        return apply(bound, signal, device=device)

    def quality(self, image: Array | LargeImage, result: Any, batch: str, place: Place, device: str) -> dict[str, Any]:
        """Return the quality of an image's result; see `judgement.quality.quality_of`."""
        if isinstance(image, LargeImage):
            return self._large_quality(image, batch, place)
        shares = 0.0, 0.0
        if image.size and not self._stays(batch):
            clipped = self._clipped(image, result, batch, place, device)
            shares = clipped, 0.0 if self._is_curve(batch) else largest_change(image, result, self.scale)
        return self._row(image, batch, *shares)

    def _large_quality(self, image: LargeImage, batch: str, place: Place) -> dict[str, Any]:
        """Return the quality of the result of a large image, whose blocks are equalized for that."""
        counted = [Counts()] if image.dtype.kind != "f" else []
        image.gather(Extremes(), *reductions(image), *counted)
        shares = 0.0, 0.0
        if not self._stays(batch) and not self._is_curve(batch):
            shares = self._large_shares(image, batch, place)
        elif not self._stays(batch) and counted:
            shares = self._lost_by_curve(image.gather(*counted)[0], image.dtype, batch, place), 0.0
        return self._row(image, batch, *shares)

    def _large_shares(self, image: LargeImage, batch: str, place: Place) -> tuple[float, float]:
        """Return the share of pixels that the type cannot hold, and the largest change, in one pass."""
        counted = image.dtype.kind != "f"

        def each(block: Array, origin: Origin) -> Array:
            values = self.values(block, batch, place._replace(origin=origin))
            wrong = lost(values, block.dtype) if counted else np.zeros(block.shape)
            return np.concatenate([block, as_type(values, block.dtype), wrong.astype(block.dtype)])

        step = change_step(image.shape)
        rows, columns = ((0, n, step) for n in image.shape[1:])
        seen = image.mapped(each, 3 * len(image), image.dtype)
        picked, moments = seen.gather(Picked(rows, columns), Moments())
        before, after, _ = np.split(picked, 3)
        return float(np.split(moments[1], 3)[2].mean()), largest_change(before, after, self.scale, 1)

    def _row(self, image: Array | LargeImage, batch: str, clipped: float, change: float) -> dict[str, Any]:
        number = self.batches.index(batch) if batch in self.batches else None
        row = quality_of(image, self.scale, self.familiarity, number, clipped, change)
        if isinstance(self.correction, StainCorrection) and number is not None:
            blank = not self.correction.has_tissue(image, number)
            row["flags"] = ", ".join(filter(None, [row["flags"], "no tissue" if blank else ""]))
        return row

    def _is_curve(self, batch: str) -> bool:
        """Return whether the results of a batch are functions of the pixel values of each channel alone."""
        if self.generator is not None or not isinstance(self.correction, Correction):
            return False
        return not self.correction.fields[self.batches.index(batch)].any()

    def _clipped(self, image: Array, result: Array, batch: str, place: Place, device: str) -> float:
        """Return the share of pixels that the type cannot hold; it has none unless results are at its ends."""
        if image.dtype.kind == "f":
            return 0.0
        if result.dtype.kind == "f":
            return float(lost(result, image.dtype).mean())
        limits = np.iinfo(image.dtype)
        if result.min() > limits.min and result.max() < limits.max:
            return 0.0
        if not self._is_curve(batch):
            return float(lost(self.values(image, batch, place, device), image.dtype).mean())
        counts = np.stack([np.bincount(plane.ravel(), minlength=limits.max + 1) for plane in image])
        return self._lost_by_curve(counts, image.dtype, batch, place)

    def _lost_by_curve(self, counts: Array, dtype: np.dtype[Any], batch: str, place: Place) -> float:
        """Return the share of pixels that the type cannot hold, from how often each value occurs, (C, values)."""
        every = np.arange(counts.shape[1], dtype=dtype)
        curved = self.correction(np.broadcast_to(every, (len(counts), 1, len(every))), self.batches.index(batch), place)
        return float((lost(curved, dtype)[:, 0] * counts).sum() / counts.sum())

    def expect(self, manifest: Any) -> None:
        """Let the files of a manifest, if there is one, be compared with those that were fitted."""
        if manifest is not None:
            names = self.stated or [""] * self.n_channels
            if manifest.columns == ["Image"] and not all(names):
                numbers = [str(c) for c in range(self.n_channels)]
                names = [""] * self.n_channels if self.channels in (None, numbers) else self.channels
            manifest.agreement.expect(names, self.pixel_size)

    def check(self, images: Any, batch: Sequence[str], unseen: str) -> None:
        """Raise an error unless batches, channels and type are those that were fitted."""
        self.check_batches(batch, unseen)
        checks.check_channels(images, self.n_channels, self.channels)
        checks.check_dtype(images, self.dtype, self.highest)

    def check_batches(self, batch: Sequence[str], unseen: str) -> None:
        """Raise UnknownBatchError for a batch that was not fitted, unless `unseen` is "passthrough"."""
        unknown = sorted(set(batch) - set(self.batches))
        if unknown and unseen == "error":
            raise UnknownBatchError(
                f"Batch {', '.join(unknown)} was not fitted; the batches are {', '.join(self.batches)}. Fit it with "
                "add_batch(name, its controls), or use unseen='passthrough' to leave such images as they are."
            )

    def channel(self, name: int | str) -> int:
        """Return the number of a channel that is given by number or name."""
        if isinstance(name, str):
            return choose("channel", name, {c: i for i, c in enumerate(self.channels or [])})
        if not 0 <= name < self.n_channels:
            raise InputError(f"There is no channel {name}; there are {self.n_channels} channels, counted from 0.")
        return name

"""A fitted equalizer applied to arrays, and to the files of a manifest."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from img2img.bulk.options import RayOptions
from img2img.data.holes import fill, holes_of
from img2img.data.picture import Array
from img2img.data.remote import Remote, refuse_private
from img2img.errors import ConfigError, InputError
from img2img.lab import checks
from img2img.lab.arrays import Stack
from img2img.lab.curves.place import NOWHERE, Origin, Place
from img2img.lab.fitted import Fitted
from img2img.lab.large import LargeImage
from img2img.lab.options import Parameters


def equalized(p: Parameters, fitted: Fitted, image: Array, batch: str, place: Place = NOWHERE) -> Array:
    """Return the equalized image, in the type of output that was asked for."""
    method = fitted.values if p.out_dtype == "float32" else fitted.equalized
    return method(image, batch, place, p.device)


def refuse_network(fitted: Fitted) -> None:
    """Raise ConfigError if an equalizer has a network, which cannot take an image by region."""
    if fitted.generator is not None:
        raise ConfigError(
            f"{fitted.model} has a network, which takes whole images; allow more --max-megapixels, or fit tone, "
            "tone+field or stain."
        )


def transform_arrays(
    p: Parameters,
    fitted: Fitted,
    stack: Stack,
    batches: Sequence[str],
    *,
    return_quality: bool,
    nan: str,
    origin: Sequence[Origin] | None,
    group: Sequence[str] | None,
) -> Any:
    """Return the equalized images as the kind that was handed in; with their quality table if that is wanted."""
    if origin is not None and len(origin) != len(stack):
        raise InputError(f"origin has {len(origin)} places, but there are {len(stack)} images; give one for each.")
    origins = [None] * len(stack) if origin is None else [(int(y), int(x)) for y, x in origin]
    groups = [None] * len(stack) if group is None else group

    def one(i: int, image: Array) -> tuple[Array, dict[str, Any]]:
        checks.check_range(image, stack.called(i), fitted.dtype, fitted.highest)
        filled, holes = _filled(image, stack.called(i), nan)
        place = batches[i], fitted.place(filled, batches[i], origins[i], groups[i])
        out = equalized(p, fitted, filled, *place)
        row = {"batch": batches[i]} | fitted.quality(filled, out, *place, p.device) if return_quality else {}
        if holes is not None:
            out[holes] = image[holes]
        return out, row

    if stack.lazy and not return_quality:
        return stack.map(lambda i, image: one(i, image)[0], np.float32 if p.out_dtype == "float32" else stack.dtype)
    with ThreadPoolExecutor(checks.threads(p.n_jobs)) as pool:
        images, rows = zip(*pool.map(lambda i: one(i, stack[i]), range(len(stack))), strict=True)
    if not return_quality:
        return stack.pack(images)
    import pandas as pd

    return stack.pack(images), pd.DataFrame(list(rows))


def _filled(image: Array, what: str, nan: str, names: list[str] | None = None) -> tuple[Array, Array | None]:
    """Return the image with its holes filled by each channel's median, and the holes."""
    if (holes := holes_of(image)) is None:
        return image, None
    if nan == "error":
        checks.check_finite(image, what, names)
    return np.moveaxis(fill(np.moveaxis(image, 0, -1), np.moveaxis(holes, 0, -1)), -1, 0), holes


@dataclass
class Equalizing:
    """What makes the result of a row of a manifest, and its quality."""

    p: Parameters
    fitted: Fitted
    manifest: Any
    nan: str
    quality: bool

    def __call__(self, i: int, image: Array) -> tuple[Array, dict[str, Any]]:
        p, fitted, batch = self.p, self.fitted, self.manifest.batch[i]
        filled, holes = _filled(image, f"Row {i}", self.nan, fitted.channels)
        row = Stack((filled[None],), list(self.manifest.channels), f"row {i}", lambda parts: parts[0])
        fitted.check(row, [batch], p.unseen)
        place = fitted.place(filled, batch, group=self.manifest.group[i])
        out = equalized(p, fitted, filled, batch, place)
        quality_of = fitted.quality(filled, out, batch, place, p.device) if self.quality else {}
        if holes is not None:
            out[holes] = image[holes]
        return out, quality_of

    def large(self, i: int, image: LargeImage) -> tuple[Callable[[Array, Origin], Array], str | None, dict[str, Any]]:
        """Return what makes the result of a block of an image, the type of results, and the quality of the image."""
        p, fitted, batch, what = self.p, self.fitted, self.manifest.batch[i], f"Row {i}"
        refuse_network(fitted)
        if self.nan == "error":
            checks.check_finite(image, what, fitted.channels)
        fitted.check_batches([batch], p.unseen)
        checks.check_range(image, what, fitted.dtype, fitted.highest)
        place = fitted.place(image, batch, group=self.manifest.group[i])

        def block(part: Array, origin: Origin) -> Array:
            filled, holes = _filled(part, what, "mask")
            out = equalized(p, fitted, filled, batch, place._replace(origin=origin))
            if holes is not None:
                out[holes] = part[holes]
            return out

        quality_of = fitted.quality(image, None, batch, place, p.device) if self.quality else {}
        return block, None if p.out_dtype == "same" else p.out_dtype, quality_of


def transform_files(
    p: Parameters,
    fitted: Fitted,
    manifest: Any,
    folder: Path | Remote,
    *,
    makers: Sequence[str],
    nan: str,
    quality: bool,
    overwrite: bool,
    progress: Any,
    spread: RayOptions,
) -> Any:
    """Write the equalized files of a manifest into `folder`, and return the table of results.

    `makers` is the equalizer of each row; see `store.makers`.
    """
    from img2img.lab.tables import results

    if spread.ray is not None and isinstance(folder, Remote):
        refuse_private(folder)
    fitted.check_batches(manifest.batch, p.unseen)
    fitted.expect(manifest)
    if len(manifest) and manifest.readable:  # or every row is reported as failed
        checks.check_channels(manifest.images, fitted.n_channels, fitted.channels)
        if manifest.dtype.kind != "f":
            checks.check_dtype(manifest.images, fitted.dtype)
    function = Equalizing(p, fitted, manifest, nan, quality)
    with ExitStack() as stack:
        engine = None
        if spread.ray is not None and len(manifest) and manifest.readable:
            from img2img.lab.spreading import by_ray

            engine = stack.enter_context(by_ray(spread))
        return results.transform(
            manifest, function, folder,
            overwrite=overwrite, progress=progress, n_jobs=p.n_jobs, makers=makers, engine=engine,
        )  # fmt: skip

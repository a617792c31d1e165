"""Rivals from other packages, judged beside a model where they are installed: torchstain and BaSiCPy.

They are used as labs use them. What one of them cannot process stays as it is, and is said.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from img2img.data.picture import Array, as_type
from img2img.errors import counted
from img2img.lab.curves.stain import is_rgb
from img2img.lab.judgement.baselines import PERCENTILES, Baseline, Statistics

Note = Callable[[str], None]


class Rival(NamedTuple):
    """A method of another package.

    Attributes:
        package: its name, as it is imported.
        is_for: tells whether it applies to images like the one it is given.
        run: images, their batches, statistics of the fit set and a callback for notes -> new images.
    """

    package: str
    is_for: Callable[[Array], bool]
    run: Callable[..., list[Array]]


def installed(context: Statistics, note: Note) -> dict[str, Baseline]:
    """Return the rivals that are installed and apply to images like `context.example`; `note` is told of failures."""
    return {
        name: partial(rival.run, note=note)
        for name, rival in RIVALS.items()
        if rival.is_for(context.example) and find_spec(rival.package)
    }


def _torchstain(normalizer: str, **options: Any) -> Callable[..., list[Array]]:
    """Return a rival that normalises image by image to one image of the reference batch."""

    def run(images: Sequence[Array], batch: Sequence[str], context: Statistics, note: Note) -> list[Array]:
        import torch

        method: Any = getattr(import_module("torchstain").normalizers, normalizer)(backend="torch")
        outputs: list[Array] = []
        failed = 0
        for image in images:
            try:
                if not outputs:
                    method.fit(torch.from_numpy(context.example.astype(np.float32)))
                result = method.normalize(I=torch.from_numpy(image.astype(np.float32)), **options)
                pixels = np.asarray(result[0] if isinstance(result, tuple) else result, np.float64)
                pixels = pixels.reshape(*image.shape[1:], 3).transpose(2, 0, 1)  # it returns (H, W, 3)
                if not np.isfinite(pixels).all():
                    raise ValueError("not a number")
                outputs.append(as_type(pixels, image.dtype))
            except (RuntimeError, ValueError, IndexError):  # too little tissue, mostly
                outputs.append(image)
                failed += 1
        if failed:
            note(f"torchstain's {normalizer} failed on {counted(failed, 'image', 'images')}, left unchanged.")
        return outputs

    return run


def _basic(images: Sequence[Array], batch: Sequence[str], context: Statistics, note: Note) -> list[Array]:
    """Flatten each batch and channel by BaSiC (Peng et al. 2017), fitted to these images; then match percentiles."""
    if len({image.shape for image in images}) > 1:
        note("BaSiCPy was left out, since it needs images of one size.")
        return list(images)
    basic = import_module("basicpy").BaSiC
    members = {name: [i for i, b in enumerate(batch) if b == name] for name in sorted(set(batch))}
    flat = np.stack([image.astype(np.float32) for image in images])
    for rows in members.values():
        for c in range(flat.shape[1]):
            method = basic(get_darkfield=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its advice for stacks that are sorted
                method.fit(flat[rows, c])
                flat[rows, c] = method.transform(flat[rows, c], use_tqdm=False)
    ends = {name: np.quantile(flat[rows], PERCENTILES, axis=(0, 2, 3)) for name, rows in members.items()}
    low, high = ends[context.reference]
    outputs = []
    for image, name, plane in zip(images, batch, flat, strict=True):
        start, end = ends[name]
        slope = np.divide(high - low, end - start, out=np.ones_like(low), where=end > start)
        moved = (plane - start[:, None, None]) * slope[:, None, None] + low[:, None, None]
        outputs.append(as_type(moved, image.dtype))
    return outputs


def _is_grey(image: Array) -> bool:
    return not is_rgb(image)


RIVALS: dict[str, Rival] = {
    "per-image torchstain Reinhard": Rival("torchstain", is_rgb, _torchstain("ReinhardNormalizer")),
    "per-image torchstain Macenko": Rival("torchstain", is_rgb, _torchstain("MacenkoNormalizer", stains=False)),
    "BaSiCPy and percentiles": Rival("basicpy", _is_grey, _basic),
}

"""Fields of fluorescent nuclei as different microscopes record them: batch effects whose truth is known.

The example, the tutorial, the tests and the benchmark use them. A *field* is a signal (H, W) in DN (digital numbers)
above the camera's pedestal, with its nuclei as labels (H, W), 0 for background. `expose` applies a batch effect and
returns uint16.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.random import Generator
from scipy import ndimage

from img2img.data.picture import Array

PEDESTAL = 400.0  # DN of a pixel without light


@dataclass(frozen=True)
class Effect:
    """The effect of one batch's microscope.

    Attributes:
        gain: brightness of the lamp.
        offset: DN added to the camera's pedestal.
        vignette: share of the light missing in the corners.
        gradient: share of the light missing at the left border, and in excess at the right border.
        blur: standard deviation of an additional point spread function, in pixels.
        shot: variance of the shot noise, in DN per DN of signal.
        read: standard deviation of the read noise, in DN.
    """

    gain: float = 1.0
    offset: float = 0.0
    vignette: float = 0.0
    gradient: float = 0.0
    blur: float = 0.0
    shot: float = 1.0
    read: float = 15.0


EFFECTS = {
    "A": Effect(),
    "B": Effect(gain=0.6, vignette=0.3, offset=80),
    "C": Effect(gain=1.4, blur=1.3, offset=-60),
    "D": Effect(gain=0.8, gradient=0.35, offset=220, shot=4),
    "E": Effect(gain=0.7, vignette=0.15, gradient=0.175, offset=150, blur=0.6, shot=2.5),
}

SEEDED = {"A": 14, "B": 9, "C": 14, "D": 7, "E": 10}  # nuclei of a field of 128 px: no batch effect, and taken for one


def light(shape: tuple[int, int], effect: Effect) -> Array:
    """Return the effect's gain at every pixel, (H, W)."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    radius2 = (y[:, None] ** 2 + x[None] ** 2) / 2  # 1 in the corners
    return effect.gain * (1 - effect.vignette * radius2) * (1 + effect.gradient * x[None])


def expose(signal: Array, effect: Effect, rng: Generator | None) -> Array:
    """Return the field (H, W) as a uint16 image of that microscope; without `rng` it has no noise."""
    if effect.blur:
        signal = ndimage.gaussian_filter(signal, effect.blur)
    expected = signal * light(signal.shape, effect)
    if rng is not None:
        noise = rng.standard_normal((2, *signal.shape))
        expected = expected + np.sqrt(effect.shot * expected.clip(0)) * noise[0] + effect.read * noise[1]
    limits = np.iinfo(np.uint16)
    return np.rint(expected + PEDESTAL + effect.offset).clip(limits.min, limits.max).astype(np.uint16)


def nuclei(rng: Generator, size: int = 128, count: int = 12) -> tuple[Array, Array]:
    """Return a field of at most `count` round nuclei that do not touch, and its labels; background about 250 DN."""
    y, x = np.mgrid[:size, :size].astype(float)
    signal = 250 + 60 * ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 8, mode="wrap") * size / 8
    labels = np.zeros((size, size), np.int32)
    brightness = rng.lognormal(np.log(3000), 0.15)  # of the whole field: the stain is not even over the slide
    for label in range(1, count + 1):
        cy, cx = rng.uniform(6, size - 6, 2)
        a, b = rng.uniform(5, 9, 2)
        turn = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        inside = (u / a) ** 2 + (v / b) ** 2 <= 1
        if labels[ndimage.binary_dilation(inside, iterations=2)].any():
            continue
        labels[inside] = label
        texture = ndimage.gaussian_filter(rng.standard_normal((size, size)), 1.5) * 1.5
        signal[inside] += (brightness * rng.lognormal(0, 0.15) * (1 + 0.25 * texture))[inside]
    signal = ndimage.gaussian_filter(signal.clip(0), 0.8)
    return signal, labels


def brighten(signal: Array, labels: Array, factor: float = 1.5) -> Array:
    """Apply phenotype 1: make every nucleus `factor` times as bright, which looks like a batch's gain."""
    share = ndimage.gaussian_filter((labels > 0).astype(float), 0.8)
    brighter: Array = signal * (1 + (factor - 1) * share)
    return brighter


def add_foci(
    signal: Array, labels: Array, rng: Generator, per_nucleus: int = 3, strength: float = 0.8
) -> tuple[Array, Array]:
    """Apply phenotype 2: add small bright spots to every nucleus.

    Returns:
        The field, and the positions of the spots (n, 2) as rows and columns.
    """
    places: list[Any] = []
    spots = np.zeros_like(signal)
    core = ndimage.distance_transform_edt(labels > 0) > 2
    for label in range(1, int(labels.max()) + 1):
        inside = np.argwhere((labels == label) & core)
        for y, x in rng.permutation(inside)[:per_nucleus]:
            places.append((y, x))
            spots[y, x] += strength * signal[y, x]
    spots = ndimage.gaussian_filter(spots, 1.0) * (2 * np.pi)  # the peak keeps its height
    return signal + spots, np.array(places, dtype=int).reshape(-1, 2)


def write_plates(
    folder: str | Path,
    plates: Mapping[str, str] | None = None,
    *,
    wells: int = 24,
    sites: int = 3,
    size: int = 128,
    seed: int = 0,
) -> Path:
    """Write plates of 16-bit images of nuclei, some of them treated, and the table that describes them.

    Every third well is treated with taxol, which makes nuclei 1.5 times as bright; the others are controls. The first
    half of the wells is to fit on, the second half to judge on. The plates also differ in the number of nuclei.

    Args:
        folder: where to write plates.csv, and a folder of (size, size) uint16 TIFFs for every plate.
        plates: the key in `EFFECTS` of every plate's microscope; by default plates P1 to P4, of A to D.
        wells: of a plate.
        sites: images of a well.
        size: height and width of an image, in pixels.
        seed: of the nuclei and of the noise.

    Returns:
        The table.
    """
    rng, folder = np.random.default_rng(seed), Path(folder)
    rows = []
    area = (size / 128) ** 2
    for plate, effect in (plates or dict(zip(("P1", "P2", "P3", "P4"), EFFECTS, strict=False))).items():
        (folder / plate).mkdir(parents=True, exist_ok=True)
        for well in range(wells):
            for site in range(1, sites + 1):
                signal, labels = nuclei(rng, size, max(5, round(SEEDED[effect] * area)))
                treated = well % 3 == 2
                image = expose(brighten(signal, labels) if treated else signal, EFFECTS[effect], rng)
                name = f"{plate}/B{well:02d}_s{site}_DNA.tif"
                tifffile.imwrite(folder / name, image)
                use = "fit" if well < wells // 2 else "test"
                rows.append((name, plate, f"B{well:02d}", site, "taxol" if treated else "DMSO", use))
    table = folder / "plates.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        known = ("Plate", "Well", "Site", "Treatment", "Use")
        csv.writer(file).writerows([("FileName_DNA", *(f"Metadata_{name}" for name in known)), *rows])
    return table

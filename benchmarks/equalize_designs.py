"""The risk of `tone` on the designs that labs have, beside doing nothing and plain scaling by the controls.

    python benchmarks/equalize_designs.py            on numbers and on images, about 5 minutes on two cores
    python benchmarks/equalize_designs.py --quick    a tenth of it
    python benchmarks/equalize_designs.py --only plates

On numbers: the log contrast of every image is its batch's level, plus its well's, plus noise; the estimate is compared
with the known difference over a grid of designs. On images: fields of synthetic nuclei with a known effect are
equalized, and the error is what is left of it in the brightness of nuclei, on wells that were not fitted. The regret of
a method is its error (root mean square) minus that of the better of doing nothing and plain scaling, which nobody can
choose without knowing the truth. On plates: a plane along a plate of 384 wells, found from its control wells as with
`plate_position`, beside leaving it and least squares. Seeds from 1000 on; the estimator was chosen on seeds below 100.
"""

import argparse
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from img2img.lab import BatchEqualizer
from img2img.lab.curves import effects, tone, trend
from img2img.lab.curves.measuring import EXPECTED
from img2img.lab.synthetic import PEDESTAL, nuclei

WELLS, SITES, SPREADS = (1, 2, 3, 4, 6, 9, 18, 32), (1, 2, 9, 18), (0.05, 0.1, 0.2)
GAINS = (0.5, 0.6, 0.75, 0.85, 0.9, 0.95, 1.0, 1.1, 1.25, 1.5)
FEWEST = 4  # images of a batch
WITHIN = 0.12  # standard deviation of the log contrast between the images of a well
Rows = list[dict[str, Any]]


def of_numbers(seed: int, repeats: int) -> Rows:
    """Return the errors of each method over the grid with two batches, and over four and twenty batches."""
    rng, rows = np.random.default_rng(seed), []
    for wells, sites, spread in product(WELLS, SITES, SPREADS):
        if wells * sites < FEWEST:
            continue
        for _ in range(repeats):
            levels = simulated(rng, 2, wells, sites, spread)
            for gain in GAINS:
                truth = np.log([1, gain])
                rows += compared(levels, truth, {"batches": 2, "wells": wells, "spread": spread, "effect": gain})
    for batches, wells in product((4, 20), (2, 4, 8, 16)):
        for _ in range(repeats):
            levels = simulated(rng, batches, wells, 2, 0.1)
            one = np.where(np.arange(batches) == 1, np.log(0.6), 0)
            scenes = {"none": 0 * one, "one batch 0.6": one, "sd 20 %": rng.normal(0, 0.2, batches)}
            for name, truth in scenes.items():
                rows += compared(levels, truth, {"batches": batches, "wells": wells, "spread": 0.1, "effect": name})
    return rows


def simulated(rng: np.random.Generator, batches: int, wells: int, sites: int, spread: float) -> effects.Levels:
    """Return the estimated levels of batches without a difference."""
    well = np.repeat(np.arange(batches * wells), sites)
    y = rng.normal(0, spread, batches * wells)[well] + rng.normal(0, WITHIN, len(well))
    return effects.batch_levels(y[:, None], well // wells, well.tolist(), batches)


def compared(levels: effects.Levels, truth: Any, design: dict[str, Any]) -> Rows:
    """Return the squared errors towards the first batch, and whether the stated 90 % interval holds the truth."""
    shifted = effects.Levels(levels.values + truth[:, None], levels.covariance, levels.spread, levels.within)
    moves = effects.moves(shifted, np.eye(len(truth))[0], EXPECTED)
    wanted = truth[0] - truth[1:]
    found, applied, left = (x[1:, 0] for x in (moves.found, moves.applied, moves.left))
    squares = {"nothing": wanted**2, "plain": (found - wanted) ** 2, "tone": (applied - wanted) ** 2}
    held = np.abs(applied - wanted) <= 1.645 * left
    return [design | {name: float(s.mean()) for name, s in squares.items()} | {"held": float(held.mean())}]


def of_images(seed: int, repeats: int) -> Rows:
    """Return the squared errors of each method on images of two plates, for every design and effect."""
    designs = [(1, 18), (2, 9), (3, 6), (6, 3), (9, 2), (18, 1)]
    changes: dict[str, Callable[[Any], Any]] = {
        "none": lambda x: x,
        "gain 0.6": lambda x: 0.6 * x,
        "gain 0.85": lambda x: 0.85 * x,
        "gain 0.95": lambda x: 0.95 * x,
        "gain 1.5": lambda x: 1.5 * x,
        "gamma 0.8": lambda x: 3000 * (x / 3000).clip(0) ** 0.8,
        "gain 0.7, offset 80": lambda x: 0.7 * x + 80,
    }
    rows = []
    for (wells, sites), (name, change) in product(designs, changes.items()):
        for i in range(repeats):
            rng = np.random.default_rng([seed, i])
            plates = [plate(rng, change if b else None, wells, sites) for b in range(2)]
            rows.append({"wells": wells, "sites": sites, "effect": name} | errors(plates))
    return rows


def plate(rng: np.random.Generator, change: Callable[[Any], Any] | None, wells: int, sites: int) -> Rows:
    """Return the images (1, H, W) of control wells and of six others, with the labels and the true images."""
    images = []
    for well in range(wells + 6):
        bright = rng.lognormal(0, 0.1)
        for _ in range(sites if well < wells else 1):
            field, labels = nuclei(rng, 80, 6)
            field = 250 + (field - 250) * bright
            seen = field if change is None else change(field)
            seen = seen + np.sqrt(seen.clip(0)) * rng.standard_normal(seen.shape) + 15 * rng.standard_normal(seen.shape)
            image, true = (np.rint(x + PEDESTAL).clip(0, 65535).astype(np.uint16)[None] for x in (seen, field))
            images.append({"image": image, "true": true, "labels": labels, "well": well, "control": well < wells})
    return images


def errors(plates: list[Rows]) -> dict[str, float]:
    """Return the squared errors in log brightness of the second plate's other wells."""
    every = [(b, image) for b, images in enumerate(plates) for image in images]
    equalizer = BatchEqualizer(target="0", min_images=FEWEST, allow_single_group=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        equalizer.fit(
            [image["image"] for _, image in every],
            batch=[str(b) for b, _ in every],
            control=[image["control"] for _, image in every],
            group=[f"{b}/{image['well']}" for b, image in every],
        )
    (a0, c0), (a1, c1) = (centre([x["image"] for x in images if x["control"]]) for images in plates)
    others = [image for image in plates[1] if not image["control"]]
    results = {
        "nothing": [x["image"][0].astype(float) for x in others],
        "plain": [(x["image"][0] - a1) * (c0 / c1) + a0 for x in others],
        "tone": [equalizer.transform(x["image"][None], batch="1")[0, 0].astype(float) for x in others],
    }
    return {
        name: np.mean([left(i, x) for i, x in zip(images, others, strict=True)]) ** 2
        for name, images in results.items()
    }


def centre(images: Any) -> tuple[float, float]:
    """Return the mean background and the mean contrast of controls."""
    found = np.array([tone.measure(image[0], 1) for image in images])
    return float(found[:, 0].mean()), float(np.exp(found[:, 1:].mean(1)).mean())


def left(image: Any, other: dict[str, Any]) -> float:
    """Return the log ratio of the nuclei's brightness over the background to the true one."""
    inside = other["labels"] > 0
    outside = ~ndimage.binary_dilation(inside, iterations=4)
    ratio = [float(x[inside].mean() - np.median(x[outside])) for x in (image, other["true"][0])]
    return float(np.log(max(ratio[0], 1e-9) / ratio[1]))


def of_plates(seed: int, repeats: int) -> Rows:
    """Return the squared errors over a plate of 384 wells with a trend in a random direction, by layout and size."""
    rng, rows = np.random.default_rng(seed), []
    plate = np.array(list(product(np.linspace(-1, 1, 16), np.linspace(-1, 1, 24))))
    for layout, wells, size in product(("scattered", "two outer columns"), (6, 8, 16, 32), (0, 0.2, 0.5, 1.0)):
        for _ in range(repeats):
            outer = np.array(list(product(np.linspace(-1, 1, wells // 2), (-1, 1))))
            places = outer if "outer" in layout else plate[rng.choice(len(plate), wells, replace=False)]
            angle = rng.uniform(0, 2 * np.pi)
            truth = size / 2 * np.array([np.cos(angle), np.sin(angle)])
            y = places @ truth + rng.normal(0, 0.1, wells)
            line = np.linalg.lstsq(np.column_stack([np.ones(wells), places]), y)[0][1:]
            found = trend.fit(np.stack([y, y], 1)[:, None], np.zeros(wells, int), range(wells), 1, places)[0, 0, 1]
            slopes = {"as it is": np.zeros(2), "plane": line, "tone": found}
            left = {name: plate @ (b - truth) + (y - places @ b).mean() for name, b in slopes.items()}
            rows.append(
                {"controls": layout, "wells": wells, "trend": size} | {n: (x**2).mean() for n, x in left.items()}
            )
    return rows


def table(rows: Rows, by: list[str]) -> pd.DataFrame:
    """Return root mean squares by design, the regret of plain scaling and of tone, and the coverage."""
    frame = pd.DataFrame(rows)
    means = frame.groupby(by, sort=False)[[c for c in ("nothing", "plain", "tone", "held") if c in frame]].mean()
    means[["nothing", "plain", "tone"]] **= 0.5
    best = means[["nothing", "plain"]].min(axis=1)
    return means.assign(regret_plain=means.plain - best, regret_tone=means.tone - best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", choices=("numbers", "images", "plates"), help="by default all three")
    options = parser.parse_args()
    share = 1 if options.quick else 10
    numbers = of_numbers(options.seed, 4 * share) if options.only in (None, "numbers") else []
    for batches in (2, 4, 20) if numbers else ():
        part = [row for row in numbers if row["batches"] == batches]
        whole = table(part, ["wells", "spread", "effect"])
        print(f"\nnumbers, {batches} batches: regret of plain scaling {whole.regret_plain.mean():.4f}, worst "
              f"{whole.regret_plain.max():.3f}; of tone {whole.regret_tone.mean():.4f}, worst "
              f"{whole.regret_tone.max():.3f}; 90 % intervals hold {whole.held.mean():.0%}")  # fmt: skip
        print(table(part, ["wells"]).round(3).to_string())
        print(table(part, ["effect"]).round(3).to_string())
    if options.only in (None, "images"):
        print("\nimages")
        print(table(of_images(options.seed, 1 + 2 * share), ["wells", "sites", "effect"]).round(3).to_string())
    if options.only in (None, "plates"):
        plates = pd.DataFrame(of_plates(options.seed, 30 * share))
        print("\nplates")
        print((plates.groupby(["controls", "wells", "trend"], sort=False).mean() ** 0.5).round(3).to_string())


if __name__ == "__main__":
    main()

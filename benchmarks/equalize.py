"""Judge batch equalization on synthetic batch effects with known ground truth, and on two real sets of batches.

    python benchmarks/equalize.py DATA [--out DIR] [--only 0,B,N,K,U,X,speed,wbc,rnai] [--seeds N]

DATA holds `nuclei-fluo`, and for the real sets `wbc-3labs` and `rnai-2plates`. The default is scenarios 0 and B with
three seeds; `--adversarial local,local+field,stargan,cyclegan` adds networks to B. Four synthetic microscopes
(`img2img.lab.synthetic`) expose crops of real fields of nuclei; source fields are split into fit and test. Results are
written to results.json.

0, sham: no effect. B, balanced: a crop of every source in every batch. N: whole sources, so that densities differ. K:
like B, but phenotypes are confounded with batches. U: a batch that was not fitted. X: foci in one batch only. speed: of
`transform`; the only one that needs an idle machine.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from equalize_real import REAL
from PIL import Image
from scipy import ndimage

from img2img import BatchEqualizer
from img2img.lab import Case, evaluate
from img2img.lab.judgement.baselines import CHEATS, applicable
from img2img.lab.synthetic import EFFECTS, PEDESTAL, Effect, add_foci, brighten, expose

CROP = 256
BATCHES = "ABCD"
LABELS = ("control", "bright", "foci")
RANGE = np.array([[PEDESTAL, PEDESTAL + 255 * 50]])  # of the noise-free reference: the unit of PSNR and of fractions
SHOWN = {
    "psnr": 1, "phenotype_accuracy": 2, "batch_linear": 2, "retention": 2, "shift_control": 2, "f1_drop": 3, "change": 4
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One crop of a source field: signal (H, W) in DN above the pedestal, and its nuclei."""

    signal: np.ndarray
    nuclei: np.ndarray
    source: str


@dataclass
class Samples:
    """The images of a scenario with all that is known about them; each list has one entry per image."""

    images: list[np.ndarray]
    truth: list[np.ndarray]
    masks: list[np.ndarray]
    batch: list[str]
    label: list[str]
    group: list[str]

    @classmethod
    def empty(cls):
        return cls([], [], [], [], [], [])

    def of(self, batch):
        """Return the images of one batch, with their ground truth and masks."""
        return [
            x
            for x, b in zip(zip(self.images, self.truth, self.masks, strict=True), self.batch, strict=True)
            if b == batch
        ]

    def add(self, field, batch, label, signal, effect, rng):
        self.images.append(expose(signal, effect, rng)[None])
        self.truth.append(expose(signal, Effect(), None)[None])
        self.masks.append(field.nuclei)
        self.batch.append(batch)
        self.label.append(label)
        self.group.append(field.source)

    @property
    def control(self):
        return np.array([label == "control" for label in self.label])


def nuclei_fields(data: Path) -> list[list[Field]]:
    """Return four corner crops of every field of `nuclei-fluo` that has five nuclei in each of them."""
    fields = []
    for path in sorted((data / "nuclei-fluo" / "images").glob("*.png")):
        image = np.asarray(Image.open(path)).astype(float) * 50
        labels = np.asarray(Image.open(path.parents[1] / "instances" / path.name)).astype(np.int32)
        corners = [(y, x) for y in (0, image.shape[0] - CROP) for x in (0, image.shape[1] - CROP)]
        crops = [(slice(y, y + CROP), slice(x, x + CROP)) for y, x in corners]
        if all(len(np.unique(labels[crop])) > 5 for crop in crops):
            fields.append([Field(image[crop], labels[crop], path.stem) for crop in crops])
    return fields


def phenotype(field: Field, label: str, rng, factor: float) -> np.ndarray:
    if label == "bright":
        return brighten(field.signal, field.nuclei, factor)
    if label == "foci":
        return add_foci(field.signal, field.nuclei, rng)[0]
    return field.signal


def scenario(name: str, fields: list[list[Field]], seed: int) -> tuple[Samples, Samples]:
    """Return the fit and the held-out images of a scenario; they share no source field, and the latter are balanced."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(fields))
    held = set(order[: round(0.4 * len(fields))].tolist())
    factor = 2.0 if name == "K" else 1.5
    shares = {"A": (0.2, 0.0), "B": (0.75, 0.0), "C": (0.0, 0.75), "D": (0.1, 0.1)}  # bright nuclei and foci, in K
    foci = {"X: foci in the source": "B", "X: foci in the reference": "A"}.get(name)
    fit, test = Samples.empty(), Samples.empty()
    for position, i in enumerate(order.tolist()):
        crops, into = fields[i], test if i in held else fit
        batches = [BATCHES[position % 4]] * 4 if name == "N" and i not in held else rng.permutation(list(BATCHES))
        for k, (field, batch) in enumerate(zip(crops, map(str, batches), strict=True)):
            label = LABELS[(position + k + rng.integers(3)) % 3]
            if name == "K" and i not in held:
                label = str(rng.choice(LABELS, p=[1 - sum(shares[batch]), *shares[batch]]))
            if foci:
                label = "foci" if batch == foci else "control"
            effect = Effect() if name == "0" else EFFECTS[batch]
            into.add(field, batch, label, phenotype(field, label, rng, factor), effect, rng)
    return fit, test


def fitted(model: str, fit: Samples, controls: bool = False, **options) -> BatchEqualizer:
    control = fit.control if controls else None
    equalizer = BatchEqualizer(model, target="A", **options)
    return equalizer.fit(fit.images, batch=fit.batch, group=fit.group, control=control)


class Pairs:
    """CycleGAN, which takes two batches: one for the target with each of the others."""

    def __init__(self, fit: Samples, **options) -> None:
        self.fitted = {}
        for other in sorted(set(fit.batch) - {"A"}):
            rows = [i for i, batch in enumerate(fit.batch) if batch in ("A", other)]
            pair = Samples(*([values[i] for i in rows] for values in vars(fit).values()))
            self.fitted[other] = fitted("cyclegan", pair, **options)
        self.statistics_, self.sham_ = (
            BatchEqualizer("tone", target="A").fit(fit.images, batch=fit.batch).statistics_,
            None,
        )

    def transform(self, images, batch):
        return [
            image if name == "A" else self.fitted[name].transform([image], batch=[name])[0]
            for image, name in zip(images, batch, strict=True)
        ]


def judge(outputs: dict, test: Samples, judged: str, seed: int, truth: bool = True, **more) -> dict[str, dict]:
    """Return the row of each method, including whether it `passed` the gates."""
    judgement = evaluate(
        outputs,
        Case(
            test.images, batch=test.batch, reference="A", scale=RANGE, group=test.group, control=test.control,
            label=test.label, masks=test.masks, truth=test.truth if truth else None, seed=seed,
        ),
        judged=judged,
        **more,
    )  # fmt: skip
    return {name: row | {"passed": judgement.passed(name)} for name, row in judgement.rows.items()}


def run_sham(fields, seed, models):
    """Run scenario 0: equalize where there is nothing to equalize."""
    fit, test = scenario("0", fields, seed)
    rows = {}
    for model in models:
        outputs = fitted(model, fit).transform(test.images, batch=test.batch)
        pairs = [(o, i) for o, i, b in zip(outputs, test.images, test.batch, strict=True) if b != "A"]
        same = all((o == i).all() for o, i, b in zip(outputs, test.images, test.batch, strict=True) if b == "A")
        rows[model] = {
            "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
            "change": float(np.mean([np.abs(o.astype(float) - i).mean() for o, i in pairs]) / np.ptp(RANGE)),
            "reference unchanged": same,
        }
    return rows


def psnr(a, b):
    return 10 * np.log10(np.ptp(RANGE) ** 2 / max(float(np.mean((a.astype(float) - b) ** 2)), 1e-3))


def run_balanced(name, fields, seed, models, **options):
    """Run scenarios B and N: everything a lab might do, both cheats, and the ground truth."""
    fit, test = scenario(name, fields, seed)
    fits = {model: (Pairs if model == "cyclegan" else partial(fitted, model))(fit, **options) for model in models}
    statistics = next(iter(fits.values())).statistics_
    outputs = {
        n: method(test.images, test.batch, statistics) for n, method in (applicable(statistics) | CHEATS).items()
    }
    outputs |= {model: equalizer.transform(test.images, batch=test.batch) for model, equalizer in fits.items()}
    outputs["the truth"] = test.truth
    return judge(outputs, test, models[0], seed, sham=fits[models[0]].sham_, fit=(fit.images, fit.batch, fit.masks))


def run_confounded(fields, seed, models):
    """Run scenario K: the same models fitted on all images, and on controls."""
    fit, test = scenario("K", fields, seed)
    outputs = {}
    for controls in (False, True):
        for model in models:
            equalizer = fitted(model, fit, controls, min_images=4)  # three in four images of B and C are treated
            on = "controls" if controls else "all"
            outputs[f"{model}, {on}"] = equalizer.transform(test.images, batch=test.batch)
            for baseline in ("batch moments", "batch quantiles"):
                method = applicable(equalizer.statistics_)[baseline]
                outputs[f"{baseline}, {on}"] = method(test.images, test.batch, equalizer.statistics_)
    return judge(outputs, test, f"{models[0]}, controls", seed)


def run_unseen(fields, seed, models):
    """Run scenario U: microscope E appears after the fit, and is added with 20 of its controls."""
    fit, test = scenario("B", fields, seed)
    rng = np.random.default_rng(seed)
    sources = {field.source: field for crops in fields for field in crops}
    controls = [expose(sources[g].signal, EFFECTS["E"], rng)[None] for g in sorted(set(fit.group))[:20]]
    images = [expose(sources[g].signal, EFFECTS["E"], rng)[None] for g in sorted(set(test.group))]
    truth = [expose(sources[g].signal, Effect(), None)[None] for g in sorted(set(test.group))]
    rows = {"do nothing": {"psnr": float(np.mean([psnr(a, b) for a, b in zip(images, truth, strict=True)]))}}
    for model in models:
        equalizer = fitted(model, fit).add_batch("E", controls, group=sorted(set(fit.group))[:20])
        out = equalizer.transform(images, batch="E")
        rows[model] = {"psnr": float(np.mean([psnr(a, b) for a, b in zip(out, truth, strict=True)]))}
    return rows


def foci(image, nuclei):
    """Return the places (n, 2) of bright spots: those brighter than their nucleus by a third of its brightness."""
    plane = image[0].astype(float)
    smooth = ndimage.gaussian_filter(plane, 1)
    around = ndimage.median_filter(smooth, 9)
    peak = (ndimage.maximum_filter(smooth, 5) == smooth) & (nuclei > 0)
    level = np.median(plane[nuclei == 0])
    return np.argwhere(peak & (smooth - around > 0.33 * (around - level)))


def run_foci(fields, seed, models):
    """Run scenario X: spots that only one batch has must stay, and must not appear in the others."""
    rows = defaultdict(dict)
    for name in ("X: foci in the source", "X: foci in the reference"):
        fit, test = scenario(name, fields, seed)
        outputs = {"do nothing": test.images}
        outputs |= {model: fitted(model, fit).transform(test.images, batch=test.batch) for model in models}
        for method, images in outputs.items():
            before, after, kept = 0, 0, 0
            for image, original, mask, batch in zip(images, test.images, test.masks, test.batch, strict=True):
                if batch == "A" or (name.endswith("source") and batch != "B"):
                    continue
                was, now = foci(original, mask), foci(image, mask)
                near = ndimage.binary_dilation(_dots(now, mask.shape), iterations=2)
                before, after, kept = before + len(was), after + len(now), kept + int(near[tuple(was.T)].sum())
            if name.endswith("source"):
                rows[method]["foci recall"] = kept / max(before, 1)
            else:
                rows[method]["false foci"] = after / max(before, 1)  # relative to those found in the input
    return dict(rows)


def _dots(places, shape):
    dots = np.zeros(shape, bool)
    dots[tuple(places.T)] = True
    return dots


def run_speed(fields, seed, models):
    """Measure `transform` in megapixels per second on eight 16-bit images of 2048x2048, and relative to a copy."""
    rng = np.random.default_rng(seed)
    side = 2048 // CROP
    crops = [field for four in fields for field in four][:8]
    rows, batch, group = {}, np.repeat(["A", "D"], 8), np.tile(np.arange(8), 2)
    signals = [np.kron(crop.signal, np.ones((side, side))) for crop in crops]
    large = [expose(signals[g], EFFECTS[b], rng)[None] for g, b in zip(group, batch, strict=True)]
    for model in models:
        equalizer = BatchEqualizer(model, target="A", n_jobs=os.cpu_count())
        equalizer.fit(large, batch=batch, group=group)
        correction = equalizer.correction_
        assert not correction.is_identity(1) and correction.fields[1].any() == ("field" in model)
        images = large[8:]
        pixels = sum(image.size for image in images) / 1e6
        copying, moving = (
            min(_seconds(f) for _ in range(5))
            for f in (lambda i=images: [x.copy() for x in i], lambda i=images, e=equalizer: e.transform(i, batch="D"))
        )
        rows[model] = {"megapixels/s": pixels / moving, "times a copy": moving / copying}
    return rows


def _seconds(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


SCENARIOS = {
    "0": lambda fields, seed, models: run_sham(fields, seed, models),
    "B": lambda fields, seed, models: run_balanced("B", fields, seed, models),
    "N": lambda fields, seed, models: run_balanced("N", fields, seed, models),
    "K": run_confounded,
    "U": run_unseen,
    "X": run_foci,
    "speed": run_speed,
}
CLASSICAL = ["tone", "tone+field"]


def run(job):
    """Run one scenario with one seed in its own process; with `alone`, only the rows of the models matter."""
    data, name, seed, models, alone = job
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    if name in REAL:
        rows = REAL[name](data, seed, models)
    else:
        rows = SCENARIOS[name](nuclei_fields(data), seed, models)
    if alone:
        rows = {model: rows[model] for model in models}
    return {"scenario": name, "seed": seed, "seconds": round(time.perf_counter() - begin), "rows": rows}


def table_of(results: list[dict], name: str) -> pd.DataFrame:
    """Return the means of a scenario over its seeds, with standard deviations if there are several."""
    rows = defaultdict(list)
    for result in results:
        for method, row in result["rows"].items() if result["scenario"] == name else ():
            rows[method].append(row)
    shown = {}
    for method, seeds in rows.items():
        columns = [c for c in seeds[0] if name not in ("B", "N", "K", "rnai") or c in SHOWN or c == "passed"]
        shown[method] = {"seeds": len(seeds)} | {c: _summary(c, [s.get(c) for s in seeds]) for c in columns}
    return pd.DataFrame(shown).T


def _summary(column, values):
    if any(v is None for v in values):
        return "–"
    if column in ("passed", "reference unchanged"):
        return f"{sum(values)} of {len(values)}"
    digits = SHOWN.get(column, 2)
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def machine():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    return {"cpu": cpu, "commit": commit, "command": " ".join(sys.argv)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_equalize"))
    parser.add_argument("--only", default="0,B", help=f"of {', '.join([*SCENARIOS, *REAL])}, or all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", default=",".join(CLASSICAL), help="of BatchEqualizer")
    parser.add_argument("--adversarial", default="", help="networks in B, e.g. local,local+field,stargan,cyclegan")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    names = [*SCENARIOS, *REAL] if args.only == "all" else args.only.split(",")
    models = args.models.split(",")
    jobs = [(args.data, name, seed, models, False) for name in names for seed in range(args.seeds)]
    if "B" in names:
        networks = [model for model in args.adversarial.split(",") if model]
        slow = [(args.data, "B", seed, [model], True) for model in networks for seed in range(args.seeds)]
        jobs = [*slow, *jobs]
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the processes run in parallel
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(run, jobs):
            results.append(result)
            print(f"{result['scenario']}, seed {result['seed']}: {result['seconds']} s", file=sys.stderr, flush=True)
            (args.out / "results.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    for name in names:
        print(f"\n{name}\n{table_of(results, name).to_string()}")


if __name__ == "__main__":
    main()

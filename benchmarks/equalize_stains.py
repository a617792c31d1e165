"""Judge stain normalization by what is carried over from one lab to the others: a threshold, or a pixel classifier.

    python benchmarks/equalize_stains.py DATA [--seeds 10,11,12] [--only monuseg,wbc,speed] [--out DIR]

DATA holds `monuseg-labs` and `wbc-3labs`. Of every source image (monuseg) or lab (wbc) a random part is fitted, and the
rest is judged; the seed draws the parts, so tiles of a source are in both, and the standard deviation over seeds is
that of the split alone. Details of `stain` were chosen on seeds 0 to 2. torchstain is measured if it is installed.
Speed is of one image of 2048x2048 pixels, in seconds of one thread of the processor, all methods in the same run.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from equalize import machine
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed
from sklearn.ensemble import RandomForestClassifier

from img2img import BatchEqualizer
from img2img.lab.judgement.baselines import applicable
from img2img.lab.judgement.rivals import installed

FITTED = 5  # tiles of each source image, of nine
BASELINES = ("do nothing", "batch percentiles", "batch quantiles", "per-batch Reinhard")


def opened(path, mode="RGB"):
    image = np.asarray(Image.open(path).convert(mode))
    return image.transpose(2, 0, 1) if image.ndim == 3 else image


def outputs_of(images, lab, fit, test, target):
    """Return the images to judge after each method, and each method as a function of (images, labs)."""
    some, of = [images[i] for i in fit], lab[fit].tolist()
    methods = {}
    for model in ("stain", "tone"):
        equalizer = BatchEqualizer(model, target=target, min_images=5).fit(some, batch=of)
        methods[model] = lambda x, b, e=equalizer: e.transform(x, batch=b)
    statistics = equalizer.statistics_
    known = {name: applicable(statistics)[name] for name in BASELINES} | installed(statistics, print)
    methods |= {name: lambda x, b, m=method: m(x, b, statistics) for name, method in known.items()}
    judged, labs = [images[i] for i in test], lab[test].tolist()
    return {name: method(judged, labs) for name, method in methods.items()}, methods


def dice(a, b):
    return 2 * (a & b).sum() / max(a.sum() + b.sum(), 1)


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def carried(maps, masks, here, thresholds, score):
    """Return the mean score of the threshold that is best on the images that are `here`, on all others."""
    scores = np.array([[score(m > t, mask) for t in thresholds] for m, mask in zip(maps, masks, strict=True)])
    return float(scores[~here, scores[here].mean(0).argmax()].mean())


def pixels_of(image):
    """Return features (n, 10) of the pixels: colours, their means at two scales, and the gradient."""
    x = image.astype(np.float32)
    blurred = [ndimage.gaussian_filter(x, (0, s, s)) for s in (2, 5)]
    return np.concatenate([x, *blurred, ndimage.gaussian_gradient_magnitude(x.mean(0), 1.5)[None]]).reshape(10, -1).T


def classified(images, masks, here, seed):
    """Return the mean Dice of a forest on pixels, trained on the images that are `here`, on all others."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for image, mask, is_here in zip(images, masks, here, strict=True):
        if is_here:
            chosen = rng.choice(mask.size, 1500, replace=False)
            rows.append(pixels_of(image)[chosen])
            labels.append(mask.ravel()[chosen])
    forest = RandomForestClassifier(40, min_samples_leaf=5, random_state=seed)
    forest.fit(np.concatenate(rows), np.concatenate(labels))
    others = [(image, mask) for image, mask, is_here in zip(images, masks, here, strict=True) if not is_here]
    return float(np.mean([dice(forest.predict(pixels_of(x)[::3]), mask.ravel()[::3]) for x, mask in others]))


def run_monuseg(data, seed):
    """Run six hospitals with nine tiles per source image; the target is the hospital with the most images, G9."""
    folder = data / "monuseg-labs"
    table = pd.read_csv(folder / "tiles.csv")
    table = table[table.groupby("source_image").image.transform("size") == 9].reset_index(drop=True)
    images = [opened(folder / "images" / Path(name).name) for name in table.image]
    masks = [opened(folder / "masks" / Path(name).name, "L") > 0 for name in table["mask"]]
    lab, source = table.lab_tss.to_numpy(), table.source_image.to_numpy()
    rng = np.random.default_rng(seed)
    fit = np.concatenate([rng.permutation(np.flatnonzero(source == s))[:FITTED] for s in np.unique(source)])
    test = np.setdiff1d(np.arange(len(table)), fit)
    here, wanted = lab[test] == "G9", [masks[i] for i in test]
    rows = {}
    for name, out in outputs_of(images, lab, fit, test, "G9")[0].items():
        nuclei = [ndimage.gaussian_filter(rgb2hed(image, channel_axis=0)[0], 1.5) for image in out]
        levels = np.quantile(np.concatenate([n.ravel()[::50] for n in nuclei]), np.linspace(0.3, 0.95, 40))
        rows[name] = {
            "Dice, threshold": carried(nuclei, wanted, here, levels, dice),
            "Dice, pixel forest": classified(out, wanted, here, seed),
        }
    return rows


def run_wbc(data, seed):
    """Run white blood cells of three labs, two of which have masks of the nuclei; the target is jiangxi."""
    folder = data / "wbc-3labs"
    table = pd.read_csv(folder / "labels.csv")
    table = table[table.cell_class != "basophil"].reset_index(drop=True)  # almost absent
    images = [opened(folder / name) for name in table.file]
    lab = table.lab.to_numpy()
    rng = np.random.default_rng(seed)
    halves = (rng.permutation(np.flatnonzero(lab == name)) for name in np.unique(lab))
    fit = np.concatenate([half[: len(half) // 2] for half in halves])
    test = np.setdiff1d(np.arange(len(table)), fit)
    masked = [j for j, i in enumerate(test) if isinstance(table["mask"][i], str)]
    wanted = [opened(folder / table["mask"][test[j]], "L") > 200 for j in masked]
    here = lab[test][masked] == "jiangxi"
    rows = {}
    for name, out in outputs_of(images, lab, fit, test, "jiangxi")[0].items():
        dark = [-ndimage.gaussian_filter(out[j][1].astype(float), 1) for j in masked]
        rows[name] = {"IoU, threshold": carried(dark, wanted, here, -np.arange(20.0, 230, 4), iou)}
    return rows


def run_speed(data, seed):
    """Run each method on one image of 2048x2048, mirrored from a tile; megapixels per second of CPU, best of three."""
    folder = data / "monuseg-labs"
    table = pd.read_csv(folder / "tiles.csv").query("lab_tss in ('G9', 'HE')").reset_index(drop=True)
    images = [opened(folder / "images" / Path(name).name) for name in table.image]
    every = np.arange(len(table))
    _, methods = outputs_of(images, table.lab_tss.to_numpy(), every, every[:1], "G9")
    tile = images[int(np.argmax(table.lab_tss == "HE"))]
    large = np.pad(tile, ((0, 0), (0, 2048 - tile.shape[1]), (0, 2048 - tile.shape[2])), mode="symmetric")
    rows = {}
    for name, method in methods.items():
        seconds = []
        for _ in range(3):
            begin = time.process_time()
            method([large], ["HE"])
            seconds.append(time.process_time() - begin)
        rows[name] = {"megapixels/s": large[0].size / 1e6 / min(seconds)}
    return rows


RUNS = {"monuseg": run_monuseg, "wbc": run_wbc, "speed": run_speed}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="10,11,12")
    parser.add_argument("--only", default="monuseg,wbc,speed")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_stains"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in args.only.split(","):
        for seed in args.seeds.split(",") if name != "speed" else ["0"]:
            results += [
                {"run": name, "seed": int(seed), "method": method} | row
                for method, row in RUNS[name](args.data, int(seed)).items()
            ]
            (args.out / "results.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
        frame = pd.DataFrame([row for row in results if row["run"] == name]).dropna(axis=1)
        groups = frame.drop(columns=["run", "seed"]).groupby("method", sort=False)
        shown = groups.mean()
        if frame.seed.nunique() > 1:
            shown = shown.join(groups.std(ddof=1).add_suffix(" ± sd"))
        print(f"\n{name}\n{shown.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()

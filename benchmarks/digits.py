"""Translate MNIST to USPS and back, and test what a classifier learns from the translated digits.

    python benchmarks/digits.py DIR [--only NAME,NAME] [--seeds 3] [--steps N] [--jobs N] [--device cuda] [--out DIR]

DIR holds the public sets mnist and usps as idx files, one folder each. The splits are the published ones: 60,000 and
10,000 digits of MNIST, and of USPS the first 7,291 and the last 2,007. A model that translates both ways is trained on
the training images alone, without labels. For each direction, classifiers are trained with the labels of the source's
training images, and tested on the target's test images:

    translated source: a classifier of translated source images, on the target's images
    translated target: a classifier of source images, on the target's images translated to the source
    both: the mean of their probabilities
    source only: a classifier of source images, on the target's images
    oracle: a classifier trained with the labels of the target

The labels of the target choose nothing, neither options nor checkpoints: each run is tested once, at its end. Two
measures do without them, and the setup that the script names as chosen is the one whose lesser measure is greatest:

    agreed: share of the target's training images that the first two classifiers name alike
    kept: share of the source's test images that the classifier of source images names rightly once translated

The oracle shows what a network did to the classes: `named` is the share of translated source images that it names by
the source's label, and `permuted` the same under the best permutation of classes.

The classifier is a LeNet of 28 px, trained as it is or (distorted) on images that are rotated, scaled, sheared and
shifted at random. Setups called plain resize the digits of USPS to 28 px, as in the literature; the others to 20 px,
in a margin of 4 px like MNIST's. Each job is a process of its own; results.json is written as each ends, and those that
it holds are not run again.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIZE, FRAME = 28, 32  # of digits, and of training images, whose border of 2 px is black
USPS_TRAIN = 7291
MARGIN = 4  # pixels around a digit in MNIST, whose digits fit a box of 20 px in 28
SMALL = {
    "size": FRAME, "augment": "none", "batch_size": 64, "ema": 0.999, "width": 32, "d_width": 64, "lr": 5e-4,
    "decay": 0.5, "sample_every": 1000, "save_every": 10**6, "keep": 0, "workers": 1, "precision": "fp32",
    "log_every": 50, "quiet": True,
}  # fmt: skip
RESNET = SMALL | {"generator": "resnet_3", "discriminator": "patch_16", "pool": 0}
PAPER = {name: x for name, x in SMALL.items() if name not in ("lr", "decay")} | {"discriminator": "patch_34"}
# Name -> method, margin around the digits of USPS, options.
SETUPS = {
    "untranslated-plain": ("", 0, {}),
    "untranslated": ("", MARGIN, {}),
    "cyclegan": ("cyclegan", MARGIN, RESNET),
    "cyclegan-plain": ("cyclegan", 0, RESNET),
    "discogan": ("discogan", MARGIN, PAPER),
    "dualgan": ("dualgan", MARGIN, PAPER),
}
CLASSIFIERS = {"LeNet": False, "distorted": True}  # whether it is trained on distorted images
NAMES = {"a": "MNIST", "b": "USPS"}
COLUMNS = (
    "translated source", "translated target", "both", "source only", "oracle", "agreed", "kept", "named", "permuted",
)  # fmt: skip
PUBLISHED = {
    "CoGAN": (91.2, 89.1), "ADDA": (89.4, 90.1), "UNIT": (95.97, 93.58), "CyCADA": (95.6, 96.5),
    "SBADA-GAN": (97.6, 95.0), "DeepJDOT": (95.7, 96.4), "DASPOT": (97.5, 96.4), "oracle": (96.5, 99.2),
}  # fmt: skip


# --- digits and their classifier --------------------------------------------------------------------------------------


def frame(images, margin):
    """Return images (N, H, W) resized to 28 px less a margin, in a black frame of 32 px, uint8 (N, 32, 32)."""
    from img2img.data.images import resize

    side = SIZE - 2 * margin
    edge = (FRAME - side) // 2
    return np.pad([resize(x[..., None], side, side)[..., 0] for x in images], ((0, 0), (edge, edge), (edge, edge)))


def load(folder, margin, most):
    """Return images and labels by (domain, part), at most so many of a part, where the digits of USPS have a margin."""
    from img2img.data.idx import read_idx

    def read(name, part=""):
        return [read_idx(next((folder / name).glob(f"{part}*{kind}*"))) for kind in ("images-idx3", "labels-idx1")]

    usps = read("usps")
    parts = {
        ("a", "train"): read("mnist", "train"),
        ("a", "test"): read("mnist", "t10k"),
        ("b", "train"): [x[:USPS_TRAIN] for x in usps],
        ("b", "test"): [x[USPS_TRAIN:] for x in usps],
    }
    images = {key: frame(x[:most], margin if key[0] == "b" else 0) for key, (x, _) in parts.items()}
    return images, {key: labels[:most].astype(np.int64) for key, (_, labels) in parts.items()}


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(20, 50, 5), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Dropout(), nn.Linear(500, 10),
    )  # fmt: skip


def crop(images):
    edge = (FRAME - SIZE) // 2
    return images[..., edge:-edge, edge:-edge]


def distort(images):
    """Rotate, scale, shear and shift images (N, 1, H, W) in [-1, 1] at random, each in its own way."""

    def uniform(width):
        return width * (2 * torch.rand(len(images), device=images.device) - 1)

    angle, scale, x = uniform(0.25), uniform(0.25).exp(), uniform(0.15).exp()
    rows = (x * scale * angle.cos(), uniform(0.2) - scale * angle.sin(), uniform(0.15)), (
        x * scale * angle.sin(), scale * angle.cos(), uniform(0.15),
    )  # fmt: skip
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), images.shape, align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def classifier(images, labels, steps, distorted, seed):
    """Train a LeNet on images (N, 1, 32, 32) on their device; the learning rate falls over the second half."""
    torch.manual_seed(seed)
    network = lenet().to(images.device)
    adam = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1, 2 - 2 * step / steps))
    labels = torch.from_numpy(labels).to(images.device)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,), device=images.device)
        batch = distort(images[rows]) if distorted else images[rows]
        adam.zero_grad()
        F.cross_entropy(network(crop(batch)), labels[rows]).backward()
        adam.step()
        falling.step()
    return network.eval()


@torch.no_grad()
def by_parts(network, images):
    return torch.cat([network(part) for part in images.split(1000)])


def probabilities(network, images):
    return by_parts(network, crop(images)).softmax(1).cpu().numpy()


# --- one run ----------------------------------------------------------------------------------------------------------


def one(args, name, seed):
    """Train a model, test it both ways, and draw its digits; return the row of the results."""
    import img2img
    from img2img.runtime.device import Runtime

    begin = time.perf_counter()
    method, margin, options = SETUPS[name]
    images, y = load(args.data, margin, args.images)
    device = Runtime.start(args.device, "fp32").device
    x = {key: torch.from_numpy(some)[:, None].to(device).float() / 127.5 - 1 for key, some in images.items()}
    row, ways = {"setup": name, "seed": seed}, {}
    if method:
        a, b = (images[domain, "train"][..., None] for domain in "ab")
        out = args.out / f"{name}_{seed}"
        run = {"steps": args.steps, "seed": seed, "device": args.device, "out": out, "overwrite": True}
        model = img2img.train(method, a=a, b=b, **options, **run)
        ways = {direction: model.use(direction).network.to(device).eval() for direction in ("a2b", "b2a")}
        draw(ways, x, y, out / "digits.png")
        row |= {"steps": args.steps, "train_s": round(time.perf_counter() - begin)}
    for kind, distorted in CLASSIFIERS.items():
        learn = (args.classifier_steps, distorted, seed)
        of = {domain: classifier(x[domain, "train"], y[domain, "train"], *learn) for domain in "ab"}
        for s, t in ("ab", "ba"):
            named = {"source only": of[s], "oracle": of[t]}
            right = {what: probabilities(net, x[t, "test"]).argmax(1) == y[t, "test"] for what, net in named.items()}
            if ways:
                learned = classifier(by_parts(ways[f"{s}2{t}"], x[s, "train"]), y[s, "train"], *learn)
                right |= tested(of[s], of[t], learned, ways[f"{s}2{t}"], ways[f"{t}2{s}"], s, t, x, y)
            percent = {what: round(100 * float(np.mean(hits)), 2) for what, hits in right.items()}
            row.setdefault(way(s, t), {})[kind] = percent
    return row | {"seconds": round(time.perf_counter() - begin)}


def way(s, t):
    return f"{NAMES[s]} to {NAMES[t]}"


def tested(of_source, of_target, learned, there, back, s, t, x, y):
    """Return which images a translation from s to t leads to be named rightly or, for "agreed", alike."""
    first = {part: probabilities(learned, x[t, part]) for part in ("train", "test")}
    second = {part: probabilities(of_source, by_parts(back, x[t, part])) for part in ("train", "test")}
    translated = by_parts(there, x[s, "test"])
    target, source = y[t, "test"], y[s, "test"]
    named = probabilities(of_target, translated).argmax(1)
    return {
        "translated source": first["test"].argmax(1) == target,
        "translated target": second["test"].argmax(1) == target,
        "both": (first["test"] + second["test"]).argmax(1) == target,
        "agreed": first["train"].argmax(1) == second["train"].argmax(1),
        "kept": probabilities(of_source, translated).argmax(1) == source,
        "named": named == source,
        "permuted": best_permutation(source, named)[named] == source,
    }


def best_permutation(labels, named):
    """Return the class (10,) to call each named one, one to one, so that most are right; by dynamic programming."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (named, labels), 1)
    best = {frozenset(): (0, ())}  # classes given away -> most right, and to which
    for row in counts.tolist():
        longer = {}
        for taken, (right, chosen) in best.items():
            for k in set(range(10)) - taken:
                longer[taken | {k}] = max(longer.get(taken | {k}, (-1, ())), (right + row[k], (*chosen, k)))
        best = longer
    return np.array(best[frozenset(range(10))][1])


def draw(ways, x, y, path):
    """Draw a digit of each class of both sets, below it its translation, and below that its way back."""
    from PIL import Image

    rows = []
    for s, t in ("ab", "ba"):
        digits = x[s, "test"][[int(np.flatnonzero(y[s, "test"] == k)[0]) for k in range(10)]]
        there = by_parts(ways[f"{s}2{t}"], digits)
        rows += [digits, there, by_parts(ways[f"{t}2{s}"], there)]
    sheet = torch.cat([torch.cat(list(row[:, 0]), 1) for row in rows]).add(1).mul(127.5).round().byte().cpu().numpy()
    Image.fromarray(sheet).resize((sheet.shape[1] * 3, sheet.shape[0] * 3), Image.Resampling.NEAREST).save(path)


# --- all runs ---------------------------------------------------------------------------------------------------------


def run(args, name, seed):
    """Run one job in a process of its own; return its row, or what went wrong."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{name},{seed}"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    result = subprocess.run(command, capture_output=True, text=True, env=threads | os.environ)
    lines = result.stdout.strip().splitlines()
    if result.returncode or not lines:
        why = result.stderr.strip().splitlines() or ["no output"]
        return {"setup": name, "seed": seed, "error": f"exit code {result.returncode}: {why[-1]}"}
    return json.loads(lines[-1])


def table(rows):
    """Print means and standard deviations over seeds, and which setup the measures without labels choose."""
    for direction in (way("a", "b"), way("b", "a")):
        for kind in CLASSIFIERS:
            print(f"\n{direction}, {kind}, %")
            print(" " * 22, *(f"{what:>17}" for what in COLUMNS))
            worth = {}
            for name in SETUPS:
                some = [row[direction][kind] for row in rows if row["setup"] == name and direction in row]
                if not some:
                    continue
                values = {what: [row[what] for row in some if what in row] for what in COLUMNS}
                if values["agreed"]:
                    worth[name] = min(mean(values["agreed"]), mean(values["kept"]))
                print(f"{name + f' ({len(some)})':22}", *(f"{in_words(x):>17}" for x in values.values()))
            if worth:
                print(f"chosen without labels of the target: {max(worth, key=worth.get)}")
        print("published:", ", ".join(f"{name} {pair[direction[0] == 'U']}" for name, pair in PUBLISHED.items()))
    for row in rows:
        if "error" in row:
            print(f"{row['setup']}, seed {row['seed']}: {row['error']}")


def in_words(values):
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(SETUPS), help=f"of {', '.join(SETUPS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--classifier-steps", type=int, default=3000)
    parser.add_argument("--images", type=int, help="at most so many of each part of a set, for a quick look")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_digits"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, seed = args.one.split(",")
        print(json.dumps(one(args, name, int(seed))))
        return
    names = args.only.split(",")
    if unknown := [name for name in names if name not in SETUPS]:
        parser.error(f"--only: {unknown[0]} is none of {', '.join(SETUPS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    rows = [row for row in json.loads(file.read_text())["rows"] if "error" not in row] if file.exists() else []
    done = {(row["setup"], row["seed"]) for row in rows}
    jobs = [(name, seed) for seed in range(args.seeds) for name in names if (name, seed) not in done]
    commit = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(commit, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    machine = {"hardware": hardware, "torch": torch.__version__, "commit": commit, "command": " ".join(sys.argv)}
    with ThreadPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(run, args, *job) for job in jobs]):
            rows.append(row := future.result())
            print(json.dumps(row), flush=True)
            file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    table(rows)


if __name__ == "__main__":
    main()

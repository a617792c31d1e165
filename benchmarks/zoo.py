"""Measure the papers of the zoo, each by what it claims: one table of jobs, each with several seeds.

    python benchmarks/zoo.py --mnist DIR [--facades DIR] [--only cgan,infogan] [--seeds 3] [--device cuda] [--jobs 12]
        [--out DIR] [--runs DIR] [--share 0.1] [--set width=16 ema=0.99]

MNIST is its four IDX files, and facades `train` and `val` of side-by-side photos and label maps. `--only` takes names
of jobs or of their groups; `--share` shortens every run. Each job is a process of its own: one that fails has its error
as its result. Writes results.json and results.md as jobs end, and a grid of samples per job; a call that is repeated
with the same --runs goes on with the jobs that are missing.
"""

import argparse
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from ast import literal_eval
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIZE, FACADES = 32, 64  # pixels
COMMON = {"sample_every": 10**6, "save_every": 10**6, "keep": 0, "precision": "fp32", "workers": 0, "log_every": 50}
STACKED, STACKED_SAMPLES = 128_000, 26_000  # of PacGAN's protocol
SAMPLES, SEED = 2000, 1


# --- the jobs: group, method, data, measure, steps, options -----------------------------------------------------------


class Job(NamedTuple):
    """A run and how it is measured; data is mnist, hues, stacked, ring, facades, or labels: facades, label to photo."""

    group: str
    method: str
    data: str
    measure: str
    steps: int
    options: dict[str, Any]


NARROW = {"width": 32, "d_width": 32}
SMOOTH = NARROW | {"ema": 0.999}
RESIDUAL = SMOOTH | {"attention": 16}
EDITS = NARROW | {"latent": 32, "lambda_rec": 10.0, "e_lr": 1e-3}
MLP = {"network": "mlp", "device": "cpu", "noise": "normal"}  # so small that a GPU would only wait
RING = MLP | {"width": 128, "d_width": 128, "latent": 64, "batch_size": 256, "size": 1, "lr": 1e-3, "d_lr": 1e-4}
CODED = {"code": 2, "d_lr": 1e-3}
DIGITS = MLP | {"width": 256, "d_width": 256, "latent": 64}
SIDES = NARROW | {"batch_size": 4, "augment": "none", "generator": "unet_64"}
LABELLED = SMOOTH | {"labelled": 10, "batch_size": 200}

JOBS = {
    "cgan": Job("classes", "cgan", "mnist", "as_asked", 5000, SMOOTH),
    "acgan": Job("classes", "acgan", "mnist", "as_asked", 5000, SMOOTH),
    "infogan": Job("codes", "infogan", "mnist", "codes", 5000, NARROW),
    "semigan": Job("labels", "semigan", "mnist", "class_error", 8000, LABELLED),
    "semigan fooled": Job("labels", "semigan", "mnist", "class_error", 8000, LABELLED | {"match_features": False}),
    "supervised": Job("labels", "semigan", "mnist", "class_error", 2000, LABELLED | {"lambda_game": 0.0}),
    "pack 1": Job("stacked", "dcgan", "stacked", "modes", 6000, SMOOTH),
    "pack 2": Job("stacked", "dcgan", "stacked", "modes", 6000, SMOOTH | {"pack": 2, "batch_size": 128}),
    "icgan": Job("edits", "icgan", "mnist", "edits", 8000, EDITS),
    "icgan hues": Job("edits", "icgan", "hues", "edits", 8000, EDITS),
    "icgan hues published": Job("edits", "icgan", "hues", "edits", 8000, NARROW),
    "sagan": Job("classes", "sagan", "mnist", "as_asked", 3000, RESIDUAL),
    "biggan": Job("classes", "biggan", "mnist", "truncations", 2500, RESIDUAL | {"lr": 2e-4}),
    "stackgan": Job("classes", "stackgan", "mnist", "as_asked", 6000, SMOOTH),
    "cyclegan": Job("facades", "cyclegan", "facades", "sides", 2500, SIDES),
    "discogan": Job("facades", "discogan", "facades", "sides", 2500, SIDES),
    "dualgan": Job("facades", "dualgan", "facades", "sides", 2500, SIDES),
    "cut": Job("facades", "cut", "facades", "sides", 2500, SIDES),
    "fastcut": Job("facades", "fastcut", "facades", "sides", 2500, SIDES),
    "bicyclegan": Job("facades", "bicyclegan", "labels", "outputs", 3000, SIDES),
    "ring gan": Job("ring", "gan", "ring", "points", 3000, RING),
    "ring unrolled": Job("ring", "unrolled", "ring", "points", 3000, RING),
    "ring ebgan": Job("ring", "ebgan", "ring", "points", 3000, RING | CODED),
    "ring began": Job("ring", "began", "ring", "points", 3000, RING | CODED),
    "ring gan longer": Job("ring", "gan", "ring", "points", 18000, RING),
    "ring ebgan longer": Job("ring", "ebgan", "ring", "points", 9000, RING | CODED),
    "ring began longer": Job("ring", "began", "ring", "points", 9000, RING | CODED),
    "lapgan": Job("digits", "lapgan", "mnist", "digits", 4000, SMOOTH),
    "ebgan": Job("digits", "ebgan", "mnist", "digits", 5000, SMOOTH),
    "began": Job("digits", "began", "mnist", "digits", 5000, SMOOTH),
    "dcgan": Job("digits", "dcgan", "mnist", "digits", 5000, SMOOTH),
    "gan": Job("digits", "gan", "mnist", "digits", 4000, DIGITS),
    "unrolled": Job("digits", "unrolled", "mnist", "digits", 4000, DIGITS),
    "pack 4": Job("stacked", "dcgan", "stacked", "modes", 6000, SMOOTH | {"pack": 4, "batch_size": 256}),
    "small D pack 1": Job("stacked", "dcgan", "stacked", "modes", 6000, SMOOTH | {"d_width": 8}),
    "small D pack 2": Job(
        "stacked", "dcgan", "stacked", "modes", 6000, SMOOTH | {"d_width": 8, "pack": 2, "batch_size": 128}
    ),
}


# --- data -------------------------------------------------------------------------------------------------------------


def prepare(args):
    """Read the images once for all jobs."""
    from img2img.data.idx import read_idx
    from img2img.data.images import resize

    target = args.runs / "mnist.npz"
    if not target.exists():
        arrays = {}
        for part, name in (("train", "train"), ("test", "t10k")):
            images = read_idx(next(args.mnist.glob(f"{name}-images*")))
            arrays[part] = np.stack([resize(x[..., None], SIZE, SIZE) for x in images])
            arrays[f"{part}_labels"] = read_idx(next(args.mnist.glob(f"{name}-labels*"))).astype(np.int64)
        np.savez(target, **arrays)
    if args.facades and not (args.runs / "facades.npz").exists():
        arrays = {f"{part}_{side}": x for part in ("train", "val") for side, x in halves(args.facades / part).items()}
        np.savez(args.runs / "facades.npz", **arrays)


def train_judge(args):
    """Train the judge of digits on a CPU, beside the first jobs."""
    import torch

    target, partial = args.runs / "judge.pt", args.runs / "judge.part"
    if not target.exists():
        torch.save(classifier(args.runs).network.state_dict(), partial)
        partial.rename(target)


def classifier(runs, some=slice(None), **options):
    """Return a classifier of some of the training digits."""
    from img2img.evaluation.judge import Classifier

    found = mnist(runs)
    return Classifier(found["train"][some], found["train_labels"][some], **options)


def halves(folder):
    """Return photos, label maps and the classes of their pixels at `FACADES` pixels."""
    from facades import nearest_class
    from PIL import Image

    sides = {"photo": [], "label": [], "class": []}
    for path in sorted(folder.glob("*.jpg")):
        pair = Image.open(path).convert("RGB")
        half, size = pair.width // 2, (FACADES, FACADES)
        photo, label = pair.crop((0, 0, half, pair.height)), pair.crop((half, 0, pair.width, pair.height))
        sides["photo"].append(np.asarray(photo.resize(size, Image.Resampling.BICUBIC)))
        sides["label"].append(np.asarray(label.resize(size, Image.Resampling.BICUBIC)))
        sides["class"].append(nearest_class(np.asarray(label.resize(size, Image.Resampling.NEAREST))))
    return {side: np.stack(images) for side, images in sides.items()}


@functools.cache
def mnist(runs):
    return dict(np.load(runs / "mnist.npz"))


@functools.cache
def facades(runs):
    return dict(np.load(runs / "facades.npz"))


@functools.cache
def judge(runs):
    """Return the judge, which may still be learning when the first jobs are ready for it."""
    import torch

    for _ in range(600):
        if (runs / "judge.pt").exists():
            break
        time.sleep(1)
    found = classifier(runs, slice(1000), epochs=0)  # has learned nothing yet
    found.network.load_state_dict(torch.load(runs / "judge.pt", weights_only=True))
    found.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return found


def training_data(job, seed, args):
    """Return the images of a job as keywords of `img2img.train`."""
    import img2img

    if job.data == "ring":
        return {"data": img2img.modes.ring().sample(50_000, seed)}
    if job.data in ("facades", "labels"):
        sides = [facades(args.runs)[f"train_{side}"] for side in ("photo", "label")]
        a, b = sides if job.data == "facades" else sides[::-1]
        return {"a": a, "b": b, "size": FACADES}
    digits = mnist(args.runs)
    if job.data == "stacked":
        return {"data": img2img.modes.stacked(digits["train"][..., 0], STACKED, seed), "size": SIZE}
    if job.data == "hues":
        names = np.array(["blue", "green", "red"])[np.arange(len(digits["train"])) % 3]
        return {"data": hues(digits["train"]), "labels": names, "size": SIZE}
    from img2img.methods import CONFIGS

    labels = {"labels": digits["train_labels"]} if CONFIGS[job.method].needs.labels else {}
    return {"data": digits["train"], "size": SIZE} | labels


# --- measures: a trained model to figures and the columns of its picture ----------------------------------------------


def as_asked(model, args, limit=0.0):
    """Count the samples that the judge names as asked; diversity is that of a class, as a share of real digits'."""
    found = judged(model(SAMPLES, SEED, truncation=limit), args)
    right = found["named"] == np.arange(SAMPLES) % 10
    rows = {"right": right.mean(), "least class": min(right[k::10].mean() for k in range(10))}
    rows |= {"confidence": found["confidence"].mean(), "diversity": spread(model, limit, args)}
    return rows, {"": model(100, SEED)}, 10


def truncations(model, args):
    """Measure the same of noise that is cut, at three limits."""
    rows, *picture = as_asked(model, args)
    for limit in (1.0, 0.5, 0.1):
        rows |= {f"{name} at {limit:g}": x for name, x in as_asked(model, args, limit)[0].items()}
    return rows, *picture


def judged(images, args):
    """Return the class of each image, and the confidence of the judge in it."""
    classifier = judge(args.runs)
    device = next(classifier.network.parameters()).device
    p = classifier.probabilities(classifier._encode(images).to(device)).cpu().numpy()
    return {"named": p.argmax(1), "confidence": p.max(1)}


def spread(model, limit, args):
    """Return the mean distance of two samples of a class, as a share of that of real digits."""
    digits = mnist(args.runs)
    ratios = []
    for k in range(10):
        fake = model(60, SEED, label=model.classes[k], truncation=limit)
        real = digits["test"][digits["test_labels"] == k][:60]
        ratios.append(distance(fake) / distance(real))
    return np.mean(ratios)


def distance(images):
    from scipy.spatial.distance import pdist

    return pdist(images.reshape(len(images), -1).astype(float)).mean()


def codes(model, args):
    """Match codes and digits one to one; return the share of samples whose digit is that of their code."""
    from scipy.optimize import linear_sum_assignment

    named = judged(model(SAMPLES, SEED), args)["named"]
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (np.arange(SAMPLES) % 10, named), 1)
    rows, columns = linear_sum_assignment(-counts)
    matched = counts[rows, columns] / counts.sum(1)
    return {"right": matched.mean(), "least code": matched.min()}, {"": model(100, SEED)}, 10


def class_error(model, args):
    digits = mnist(args.runs)
    named = np.array(model.classify(digits["test"])).astype(int)
    return {"error": (named != digits["test_labels"]).mean()}, {"": model(64, SEED)}, 8


def edits(model, args):
    """Edit digits to every class, and digits in a hue to every hue.

    `right` is the share of edits to another class that are named as asked. A hue has to leave the digit: `kept`. The
    error is that of reconstructions, and `blank` that of the median image.
    """
    found, n = mnist(args.runs), 300
    digits, labels = found["test"][:n], found["test_labels"][:n]
    in_hues = len(model.classes) == 3
    images, classes = (hues(digits), np.arange(n) % 3) if in_hues else (digits, labels)
    made = {k: np.stack(model(list(images), label=k, batch_size=100)) for k in model.classes}
    shown = [2 - x.reshape(n, -1, 3).mean(1).argmax(1) if in_hues else judged(x, args)["named"] for x in made.values()]
    rows = {"right": np.mean([(x == k)[classes != k].mean() for k, x in enumerate(shown)])}
    if in_hues:
        grey = [judged(x.max(3, keepdims=True), args)["named"] for x in made.values()]
        rows["kept"] = np.mean([(x == labels)[classes != k].mean() for k, x in enumerate(grey)])
    same = np.stack(list(made.values()))[classes, np.arange(n)]
    rows |= {"error": off(same, images), "blank": off(np.median(images, 0), images)}
    rows["E_y right"] = logged(model)[-1]["y_accuracy"]
    return rows, {"input": images[:12]} | {k: x[:12] for k, x in made.items()}, None


def hues(digits):
    """Return digits (n, H, W, 1) as blue, green and red ones in turn, in the order of the classes."""
    images = np.zeros((*digits.shape[:3], 3), np.uint8)
    for k in range(3):
        images[k::3, ..., 2 - k] = digits[k::3, ..., 0]
    return images


def modes(model, args):
    """Count the three-digit numbers among samples, by the judge of each channel."""
    from img2img.evaluation.modes import covered

    images = model(STACKED_SAMPLES, SEED, batch_size=500)
    named = [judged(images[..., [k]], args)["named"] for k in range(3)]
    counts = np.bincount(named[0] * 100 + named[1] * 10 + named[2], minlength=1000)
    scores = covered(counts, counts)
    return {"modes": scores.modes, "kl": scores.kl}, {"": images[:64]}, 8


def points(model, args):
    """Score samples of the ring."""
    from PIL import Image

    import img2img

    ring, found = img2img.modes.ring(), model(2500, SEED)
    scores = ring.score(found)
    picture = np.full((128, 128), 255, np.uint8)
    x, y = ((found.reshape(-1, 2).clip(-1.25, 1.25) + 1.25) / 2.5 * 127).round().astype(int).T
    picture[y, x] = 0
    return {"modes": scores.modes, "good": scores.high_quality, "kl": scores.kl}, Image.fromarray(picture), None


def digits(model, args):
    """Count the classes of the digits among samples, and how sure the judge is of them."""
    from img2img.evaluation.modes import covered

    images = model(SAMPLES, SEED)
    found = judged(images, args)
    counts = np.bincount(found["named"], minlength=10)
    scores, sure = covered(counts, counts), (found["confidence"] > 0.9).mean()
    real = mnist(args.runs)["test"][:300]
    varied = distance(images[:300]) / distance(real)
    return {"classes": scores.modes, "kl": scores.kl, "confident": sure, "diversity": varied}, {"": images[:64]}, 8


def sides(model, args):
    """Compare translations with what they should be; `blank` is what the median of all training images gets."""
    from facades import nearest_class

    held, rows, columns = facades(args.runs), {}, {}
    for way, a, b in (("a2b", "photo", "label"), ("b2a", "label", "photo")):
        columns[a] = held[f"val_{a}"][:8]
        if way not in model.directions:
            continue
        made = np.stack(model(list(held[f"val_{a}"]), way))
        median = np.median(held[f"train_{b}"], 0)
        rows[f"{b} error"], rows[f"{b} blank"] = (off(x, held[f"val_{b}"]) for x in (made, median))
        if b == "label":
            rows["pixels right"] = (np.stack([nearest_class(x) for x in made]) == held["val_class"]).mean()
        columns[f"{b}, made"] = made[:8]
    return rows, columns, None


def off(made, truth):
    """Return the mean distance of two pixels, of a range of 1."""
    return np.abs(made.astype(float) - truth).mean() / 255


def outputs(model, args, count=10):
    """Compare results of one label map with each other, as a share of photos' distances, and with the photo."""
    held = facades(args.runs)
    source, truth = held["val_label"][:50], held["val_photo"][:50]
    made = np.stack([np.stack(model.with_noise(k)(list(source))) for k in range(count)])
    errors = np.abs(made.astype(float) - truth).mean((2, 3, 4)) / 255
    varied = np.mean([distance(made[:, i]) for i in range(len(source))]) / distance(truth)
    rows = {"diversity": varied, "error": errors.mean(), "error of the best": errors.min(0).mean()}
    return rows, {"label": source[:8]} | {str(k): made[k, :8] for k in range(6)} | {"photo": truth[:8]}, None


# --- running ----------------------------------------------------------------------------------------------------------


def play(name, seed, args):
    """Train, measure and draw one job."""
    import torch

    import img2img
    from img2img.data.grid import draw_grid

    job = JOBS[name]
    options = COMMON | {"device": args.device} | job.options | dict(args.set)
    steps = max(1, round(job.steps * args.share))
    folder = args.runs / f"{file_name(name)}_{seed}"
    data = training_data(job, seed, args)
    begin, cpu = time.perf_counter(), time.process_time()
    model = img2img.train(job.method, out=folder, seed=seed, steps=steps, quiet=True, **data, **options)
    spent = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    spent["seconds a step"] = statistics.median(row["seconds_per_step"] for row in logged(model))
    figures, columns, wide = globals()[job.measure](model, args)
    if isinstance(columns, dict):
        encode = model.spec().scale_out.encode
        columns = draw_grid(
            {title: torch.stack([encode(x) for x in images]) for title, images in columns.items()}, wide
        )
    columns.save(args.out / f"{folder.name}.png")
    return {"steps": steps} | {k: round(float(x), 4) for k, x in (spent | figures).items()}


def logged(model):
    """Return the lines of the log of a model's run."""
    from img2img.runs.record import read_log

    return [row.values for row in read_log(model.path.parent / "log.jsonl")]


def file_name(job):
    return re.sub(r"\W+", "_", job)


def apart(name, seed, args):
    """Run a job in a process of its own; return its result, which is kept in --runs."""
    kept = args.runs / f"{file_name(name)}_{seed}.json"
    if not kept.exists():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name, "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            return {"job": name, "seed": seed, "failed": done.stderr.strip()[-2000:]}
    return {"job": name, "seed": seed} | json.loads(kept.read_text())


def page(rows):
    """Return a table of all jobs in Markdown: means over seeds, least and most, and the grid of the first seed."""
    lines = ["| job | steps | seconds | measured | grid |", "|---|---|---|---|---|"]
    for name in sorted(dict.fromkeys(row["job"] for row in rows), key=list(JOBS).index):
        every = [row for row in rows if row["job"] == name]
        good = [row for row in every if "failed" not in row]
        for row in every:
            if "failed" in row:
                lines.append(f"| {name}, seed {row['seed']} | | | failed: {row['failed'].splitlines()[-1:]} | |")
        if not good:
            continue
        figures = []
        for key in (k for k in good[0] if k not in ("job", "seed", "steps", "seconds", "cpu")):
            values = [row[key] for row in good]
            between = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
            figures.append(f"{key} {statistics.mean(values):.4g}{between}")
        seconds = statistics.mean(row["seconds"] for row in good)
        grid = f"[{name}]({file_name(name)}_{good[0]['seed']}.png)"
        lines.append(f"| {name} | {good[0]['steps']} | {seconds:.0f} | {', '.join(figures)} | {grid} |")
    return "\n".join(lines)


def pair(text):
    name, value = text.split("=")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--facades", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of each job")
    parser.add_argument("--set", type=pair, nargs="*", default=[], help="options of all runs, such as width=16")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_zoo"))
    parser.add_argument("--runs", type=Path, help="folder of the runs; by default that of --out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.runs = args.runs or args.out / "runs"
    if args.one:
        result = play(args.one, args.seed, args)
        (args.runs / f"{file_name(args.one)}_{args.seed}.json").write_text(json.dumps(result))
        return
    for folder in (args.out, args.runs):
        folder.mkdir(parents=True, exist_ok=True)
    prepare(args)
    wanted = args.only.split(",") if args.only else list(JOBS)
    names = [name for name, job in JOBS.items() if name in wanted or job.group in wanted]
    names = [name for name in names if args.facades or JOBS[name].group != "facades"]
    commit = subprocess.getoutput("git rev-parse --short HEAD")
    import torch

    machine = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    results: dict[str, Any] = {"machine": machine, "commit": commit, "command": " ".join(sys.argv), "jobs": []}
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(apart, name, seed, args) for seed in range(args.seeds) for name in names]
        train_judge(args)
        for done in as_completed(futures):
            results["jobs"].append(done.result())
            (args.out / "results.json").write_text(json.dumps(results, indent=1))
            print(done.result(), flush=True)
            (args.out / "results.md").write_text(page(results["jobs"]) + "\n")
    print(page(results["jobs"]))


if __name__ == "__main__":
    main()

"""Distill trained models to several widths; measure what that gains in speed and costs in quality.

    python benchmarks/distill.py RUN [RUN ...] (--ab DIR | --a DIR --b DIR) [--widths 32 16 8] [--steps 4000]
        [--metrics l1] [--palette FILE] [--rounds 5] [--out DIR]

With --a and --b, which have no partners, metrics are those of sets, such as kid; `structure` is measured besides.

The runs are teachers that differ in their seed: their scores on the held-out images are what a student's score, against
the truth, is compared with. The first one is distilled. All models translate the same images in turn, in one process.
images/s is that of the median round, and the gain the median over rounds of the teacher's seconds over the student's.
Writes results.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

GIGA = 1e9


def held_out(args, model):
    """Return the inputs of the held-out images as arrays at the training size."""
    size, images = model.card.size, []
    for path in sorted((args.ab or args.a).iterdir()):
        image = Image.open(path).convert("RGB")
        if args.ab:  # the side that is the input
            half = image.width // 2
            image = image.crop((0, 0, half, image.height) if args.direction == "a2b" else (half, 0, *image.size))
        images.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
    return images


def scores(model, args):
    import img2img

    if not args.ab:
        return scores_of_results(model, args)
    options = {"palette": args.palette} if args.palette else {}
    return img2img.evaluate(model, metrics=args.metrics, size=model.card.size, ab=str(args.ab), **options).scores


def scores_of_results(model, args):
    """Score the results as a set against the images of B, and by the structure that they keep.

    A student was trained on pairs, and these images have no partners, so its results are written and compared.
    """
    import torch

    import img2img
    from img2img.metrics.structure import structure

    def tensors(images):
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255

    inputs = held_out(args, model)
    results = model(inputs)
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(results):
            Image.fromarray(image).save(Path(folder, f"{number}.png"))
        found = img2img.evaluate(real=str(args.b), fake=folder, metrics=args.metrics, size=model.card.size)
    return found.scores | {"structure": structure(tensors(inputs), tensors(results)).mean().item()}


def multiplications(model):
    """Return the multiplications, in billions, that one image of the training size takes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    size, channels = model.card.size, model.spec().in_channels
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.use().network(torch.zeros(1, channels, size, size))
    return counter.get_total_flops() / 2 / GIGA


def in_turn(models, images, rounds):
    """Return the seconds that each model takes for all images, round by round, after one that does not count."""
    seconds = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            begin = time.perf_counter()
            model(images)
            seconds[name].append(time.perf_counter() - begin)
    return {name: those[1:] for name, those in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--ab", type=Path)
    parser.add_argument("--a", type=Path)
    parser.add_argument("--b", type=Path)
    parser.add_argument("--direction", choices=["a2b", "b2a"], default="a2b", help="of the pairs in --ab")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 16, 8])
    parser.add_argument("--steps", type=int, default=4000, help="of each student")
    parser.add_argument("--metrics", nargs="+", default=[])
    parser.add_argument("--palette")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_distill"))
    args = parser.parse_args()
    import img2img

    teachers = {f"teacher {k}": img2img.load(run) for k, run in enumerate(args.runs)}
    first, students = next(iter(teachers.values())), {}
    rows = {name: {} for name in teachers}
    for width in args.widths:
        begin = time.perf_counter()
        out = args.out / f"width_{width}"
        students[f"width {width}"] = img2img.distill(args.runs[0], width=width, steps=args.steps, out=out)
        rows[f"width {width}"] = {"training seconds": time.perf_counter() - begin}
    for name, model in (teachers | students).items():
        rows[name] |= scores(model, args) | {"gmac": multiplications(model)}
        print(name, rows[name], flush=True)
    images = held_out(args, first)
    compared = {"teacher 0": first} | students
    seconds = in_turn(compared, images, args.rounds)
    for name, those in seconds.items():
        ratios = [t / s for t, s in zip(seconds["teacher 0"], those, strict=True)]
        rows[name] |= {"images/s": len(images) / statistics.median(those), "gain": statistics.median(ratios)}
        rows[name] |= {"gains": sorted(ratios), "computed": compared[name].describe()}
    results = {"machine": platform.processor() or platform.machine(), "images": len(images), "rows": rows}
    results["commit"] = subprocess.getoutput("git rev-parse --short HEAD")
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

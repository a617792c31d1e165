"""Score pix2pix on facades, photo to label, 128 px, at equal steps and at equal minutes, against a plain fp32 loop.

    python benchmarks/facades.py DATA [--out DIR] [--steps 4000] [--only ratio|steps|minutes]

DATA holds `train` and `val` of side-by-side photos and label maps. There are three rows: the time of a training step
relative to a plain eager fp32 loop of the same networks (benchmarks/train.py); the score after `--steps` steps; and the
score after as many steps as fit into the time that the plain loop needs for `--steps`. Writes results.json.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from train import in_turn

SIZE = 128
GENERATOR = "unet_128"
CLASSES = [
    (0, 0, 222), (0, 48, 255), (0, 128, 255), (0, 207, 255), (33, 255, 223), (111, 255, 143),
    (194, 255, 63), (255, 241, 0), (255, 159, 0), (255, 81, 0), (255, 0, 0), (175, 0, 0),
]  # fmt: skip


def nearest_class(image):
    """Map colours (H, W, 3) to the indices (H, W) of the nearest of `CLASSES`."""
    distance = np.square(image[:, :, None].astype(float) - np.array(CLASSES, float)).sum(3)
    return distance.argmin(2)


def score(model, folder):
    """Return per-pixel accuracy and mean IoU of the translated photos in `folder`, after snapping to the palette."""
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for path in sorted(folder.glob("*.jpg")):
        pair = Image.open(path).convert("RGB")
        half = pair.width // 2
        photo = pair.crop((0, 0, half, pair.height)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        truth = nearest_class(np.asarray(pair.crop((half, 0, pair.width, pair.height)))).astype(np.uint8)
        truth = np.asarray(Image.fromarray(truth).resize((SIZE, SIZE), Image.Resampling.NEAREST))
        np.add.at(confusion, (truth, nearest_class(model(np.asarray(photo)))), 1)
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    return {"pixel_accuracy": right.sum() / confusion.sum(), "mean_iou": float(np.nanmean(right / union))}


def measure_ratio():
    """Return the median of plain / ours over alternating steps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, answers = in_turn("facades", ("pix2pix", SIZE, 1, {"generator": GENERATOR}, 20, 5), ["plain", "ours"], device)
    plain, ours = ([answer["seconds"] for answer in those] for those in answers.values())
    return {
        "plain_s": statistics.median(plain),
        "ours_s": statistics.median(ours),
        "ratio": statistics.median(p / o for p, o in zip(plain, ours, strict=True)),
    }


def train_and_score(data, out, steps):
    import img2img

    begin = time.perf_counter()
    model = img2img.train("pix2pix", ab=data, out=out, size=SIZE, generator=GENERATOR, steps=steps)
    return {"steps": steps, "wall_s": time.perf_counter() - begin} | score(model, data / "val")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_facades"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--only", choices=["ratio", "steps", "minutes"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results_file = args.out / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    results["hardware"] = f"{platform.processor() or platform.machine()}, {platform.system()}"
    if args.only in (None, "ratio"):
        results["step"] = measure_ratio()
    if args.only in (None, "steps"):
        results["equal steps"] = train_and_score(args.data, args.out / "steps", args.steps)
    if args.only in (None, "minutes"):
        steps = round(args.steps * results["step"]["ratio"])
        results["equal minutes"] = train_and_score(args.data, args.out / "minutes", steps)
    results_file.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

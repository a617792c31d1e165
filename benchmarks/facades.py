"""pix2pix on facades, photo to label, 128 px: score at equal steps and at equal minutes, against a plain fp32 loop.

    python benchmarks/facades.py DATA [--out DIR] [--steps 4000] [--only ratio|steps|minutes]

DATA holds `train` and `val` of side-by-side photos and label maps. Three rows: the time of a training step as a ratio
to a plain eager fp32 loop of the same networks (each in a process of its own, in turn); the score after `--steps`
steps; and the score after as many steps as fit into the time the plain loop needs for `--steps`. Writes results.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
GENERATOR = "unet_128"
CLASSES = [
    (0, 0, 222), (0, 48, 255), (0, 128, 255), (0, 207, 255), (33, 255, 223), (111, 255, 143),
    (194, 255, 63), (255, 241, 0), (255, 159, 0), (255, 81, 0), (255, 0, 0), (175, 0, 0),
]  # fmt: skip


def nearest_class(image):
    """(H, W, 3) colours to (H, W) indices of the nearest of `CLASSES`."""
    distance = np.square(image[:, :, None].astype(float) - np.array(CLASSES, float)).sum(3)
    return distance.argmin(2)


def score(model, folder):
    """Per-pixel accuracy and mean IoU of the translated photos in `folder`, after snapping to the palette."""
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


def time_steps(kind, count=20, warmup=5):
    """Seconds per training step on one fixed pair: "ours", or "plain" in fp32 with PyTorch's own layers."""
    import torch
    import torch.nn.functional as F

    from img2img.networks import layers
    from img2img.runtime import Runtime
    from img2img.translation.pix2pix import Pix2Pix, Pix2PixConfig

    if kind == "plain":
        layers.MATMUL_PIXELS = 0
    torch.manual_seed(0)
    method = Pix2Pix(Pix2PixConfig(generator=GENERATOR), {"a": 3, "b": 3}).train()
    batch = {"a": torch.rand(1, 3, SIZE, SIZE) * 2 - 1, "b": torch.rand(1, 3, SIZE, SIZE) * 2 - 1}
    if kind == "ours":
        runtime = Runtime.start()
        for network in method.networks().values():
            runtime.prepare(network)
        batch = runtime.to_device(batch)

        def step():
            method.step(iter([batch]))
    else:
        g, d = method.g, method.d
        adam_g = torch.optim.Adam(g.parameters(), 2e-4, betas=(0.5, 0.999))
        adam_d = torch.optim.Adam(d.parameters(), 2e-4, betas=(0.5, 0.999))
        a, b = batch["a"], batch["b"]

        def step():
            fake = g(a)
            d.requires_grad_(True)
            adam_d.zero_grad()
            real_logits, fake_logits = d(torch.cat([a, b], 1)), d(torch.cat([a, fake.detach()], 1))
            ((F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()) / 2).backward()
            adam_d.step()
            d.requires_grad_(False)
            adam_g.zero_grad()
            (F.softplus(-d(torch.cat([a, fake], 1))).mean() + 100 * F.l1_loss(fake, b)).backward()
            adam_g.step()

    times = []
    for _ in range(warmup + count):
        begin = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[warmup:])


def measure_ratio(rounds=3):
    """Median of plain / ours over pairs of processes run one after the other."""
    rows = []
    for _ in range(rounds):
        row = {}
        for kind in ("plain", "ours"):
            command = [sys.executable, __file__, "-", "--time", kind]
            row[kind] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append(row)
        print(f"seconds per step: plain {row['plain']:.3f}, ours {row['ours']:.3f}", flush=True)
    return {
        "plain_s": statistics.median(row["plain"] for row in rows),
        "ours_s": statistics.median(row["ours"] for row in rows),
        "ratio": statistics.median(row["plain"] / row["ours"] for row in rows),
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
    parser.add_argument("--time", choices=["plain", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.time:
        print(time_steps(args.time))
        return
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

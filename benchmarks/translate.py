"""Measure translating 256 JPEGs of 256x256, in images/s of whole processes, against a plain loop and the ceiling.

    python benchmarks/translate.py [--images 256] [--rounds 1] [--model resnet_9 unet_256] [--size 256] [--out DIR]
        [--compiling]

For each network, alternating within each round: `plain`, a loop as commonly written (PIL open, fp32 eager at batch 1,
PIL save), with the same weights; `ours`, the command `img2img translate` with its defaults; `ours fp32`, the same with
`--precision fp32`. Each is a separate process, including its start. The ceiling is the largest matrix product of the
device, measured in the same run, divided by what the network multiplies per image. Writes results.json.

`--compiling` instead measures the first compiled batch, then alternates between compiled and eager batches, `--rounds`
of each, and prints the speedup.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

GFLOP = {"resnet_9": 99.1, "resnet_6": 70.1, "unet_256": 12.1}  # forward at 256x256, 3 channels, multiply-add = 2


def make_images(folder, count, size):
    """Write smooth random pictures with some grain, as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 6, (size, size, 3))
        picture = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i:06}.jpg", quality=90)


def make_model(path, generator, channels=3, width=64):
    """Write a model file with random weights, since its output does not matter here."""
    import torch

    from img2img.core.needs import Facts
    from img2img.data.scale import Scale
    from img2img.methods import METHODS
    from img2img.model.file import ModelCard, save_model

    torch.manual_seed(0)
    method = "pix2pix" if generator.startswith("unet") else "cyclegan"
    config = {"generator": generator, "width": width}
    of_each, scales = dict.fromkeys("ab", channels), dict.fromkeys("ab", Scale(0, 255, "uint8"))
    uses = METHODS[method].build(METHODS[method].Config(**config), Facts(256, of_each))
    card = ModelCard(method, config, 256, of_each, scales, {"a2b": "a2b"}, 0, "benchmark")
    save_model(path, card, {"a2b": uses["a2b"].network})


def plain_loop(model, source, out):
    """Translate a folder with the loop that ours is compared with."""
    import torch

    from img2img.model.file import load_use, read_card
    from img2img.networks import convolutions

    convolutions.MOST_POSITIONS = convolutions.MOST_WIDE_POSITIONS = 0  # PyTorch's own convolutions everywhere
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_use(model, read_card(model), "a2b").network.to(device)
    out.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        array = np.asarray(Image.open(path).convert("RGB"), np.float32)
        x = torch.from_numpy(array).permute(2, 0, 1)[None].to(device) / 127.5 - 1
        with torch.no_grad():
            y = network(x)
        pixels = ((y[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
        Image.fromarray(pixels).save(out / path.name, quality=95)


def ceiling(edge=2048, rounds=10, device=None):
    """Return the TFLOP/s of a square matrix product, in fp32 and bf16."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    edge *= 4 if device == "cuda" else 1
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def product(n, dtype):
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        wait()
        begin = time.perf_counter()
        _ = a @ b
        wait()
        return time.perf_counter() - begin

    best = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        n = 256
        product(n, dtype)  # the first one loads the library
        while n < edge and product(n, dtype) < 0.05:  # large convolutions take minutes without bf16 units
            n *= 2
        best[name] = max(2 * n**3 / product(n, dtype) / 1e12 for _ in range(rounds))
    return best


def timed(command):
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begin, done.stdout


def measure(generator, folder, args):
    model, source = folder / f"{generator}.safetensors", folder / "images"
    make_model(model, generator)
    ours = [sys.executable, "-m", "img2img", "translate", str(model), str(source), "--out"]
    commands = {
        "plain": [sys.executable, __file__, "--plain", str(model), str(source)],
        "ours fp32": [*ours[:-1], "--precision", "fp32", "--out"],
        "ours": ours,
    }
    seconds = {name: [] for name in commands}
    computed = {}
    for k in range(args.rounds):
        for name, command in commands.items():
            wall, said = timed([*command, str(folder / f"{generator}_{name}_{k}")])
            seconds[name].append(wall)
            computed[name] = next((line for line in said.splitlines() if line.startswith("computed")), "")
            print(f"{generator:9} {name:9} {args.images / wall:7.2f} images/s   {computed[name]}", flush=True)
    rate = {name: args.images / statistics.median(walls) for name, walls in seconds.items()}
    ratios = {
        name: statistics.median(p / w for p, w in zip(seconds["plain"], walls, strict=True))
        for name, walls in seconds.items()
    }
    return {"images_per_s": rate, "ratio_to_plain": ratios, "computed": computed}


def compile_and_compare(generator, folder, args):
    """Return the seconds of the first compiled batch, and the speedup of the later ones."""
    import img2img
    from img2img.model.options import TranslateOptions

    model, source = folder / f"{generator}.safetensors", folder / "images"
    make_model(model, generator)
    images = [np.asarray(Image.open(path)) for path in sorted(source.iterdir())]
    translators = {name: img2img.load(model, backend=name) for name in ("eager", "compile")}
    batch = translators["eager"].batch_size(images[0].shape[:2], TranslateOptions())
    seconds = {name: [] for name in translators}
    for _ in range(args.rounds + 1):
        for name, translator in translators.items():
            begin = time.perf_counter()
            translator(images[:batch])
            seconds[name].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(seconds["eager"][1:], seconds["compile"][1:], strict=True)]
    row = {"computed": translators["eager"].describe(), "batch": batch, "first_batch_s": seconds["compile"][0]}
    row |= {"gain": statistics.median(ratios), "gains": sorted(ratios)}
    return row | {"eager_s_per_batch": statistics.median(seconds["eager"][1:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", nargs="+", default=["resnet_9", "unet_256"], choices=list(GFLOP))
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_translate"))
    parser.add_argument("--compiling", action="store_true", help="measure what compiling costs and gains instead")
    parser.add_argument("--plain", nargs=3, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain_loop(*args.plain)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    top = ceiling()
    print(f"matrix product: fp32 {top['fp32']:.3f}, bf16 {top['bf16']:.3f} TFLOP/s", flush=True)
    results = {"hardware": platform.processor() or platform.machine(), "images": args.images, "size": args.size}
    results["ceiling_tflops"] = top
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        make_images(Path(folder) / "images", args.images, args.size)
        for generator in args.model:
            if args.compiling:
                results[generator] = compile_and_compare(generator, Path(folder), args)
                continue
            row = measure(generator, Path(folder), args)
            per_image = GFLOP[generator] / 1000 * (args.size / 256) ** 2
            row["share_of_bf16_ceiling"] = row["images_per_s"]["ours"] * per_image / top["bf16"]
            results[generator] = row
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

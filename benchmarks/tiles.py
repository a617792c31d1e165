"""Measure large images in tiles: deviation from the whole image, visibility of borders, memory and time.

    python benchmarks/tiles.py [--size 1024] [--tile 256] [--model resnet_9 unet_256] [--large EDGE] [--precision fp32]

For each network, with random weights and a smooth picture with grain: the mean and largest difference between the tiled
and the whole output in 255ths of the range, and the mean gradient across tile borders relative to elsewhere, for the
tiled and for the whole output (which has no borders). `--large EDGE` instead translates one grey EDGE x EDGE image with
the command, in a separate process, and prints its time and its peak memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from translate import make_model


def picture(size, channels, seed=0):
    """Return (size, size, channels) uint8: smooth shapes of every scale, dark on one side and bright on the other."""
    rng = np.random.default_rng(seed)
    planes = []
    for _ in range(channels):
        plane = np.linspace(40, 160, size, dtype=np.float32)[None, :].repeat(size, 0)
        for cells, weight in ((4, 60), (size // 32, 50), (size // 8, 20)):
            coarse = Image.fromarray(rng.random((cells, cells), np.float32))
            plane += weight * (np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) - 0.5)
        planes.append(np.clip(plane + rng.normal(0, 3, (size, 1)).astype(np.float32), 0, 255).astype(np.uint8))
    return np.stack(planes, 2)


def compare(model, image, tile, precision):
    import img2img
    from img2img.model.options import TranslateOptions

    translator = img2img.load(model, precision=precision)
    begin = time.perf_counter()
    whole = translator.signals([image], TranslateOptions(tile="off"))[0].numpy()
    middle = time.perf_counter()
    tiled = translator.signals([image], TranslateOptions(tile=str(tile)))[0].numpy()
    seconds = {"whole": middle - begin, "tiled": time.perf_counter() - middle}
    difference = np.abs(whole - tiled) * 127.5
    borders = np.zeros(image.shape[1] - 1, bool)
    borders[tile - 1 :: tile] = True

    def ratio(signal):
        steps = np.abs(np.diff(signal, axis=2)).mean((0, 1))
        return float(steps[borders].mean() / steps[~borders].mean())

    return {
        "mean_difference_255": float(difference.mean()),
        "largest_difference_255": float(difference.max()),
        "gradient_at_borders_over_elsewhere": {"tiled": ratio(tiled), "whole": ratio(whole)},
        "seconds": seconds,
    }


def large(model, edge, folder, options):
    Image.fromarray(picture(edge, 1)[..., 0]).save(folder / "large.tif")
    command = [sys.executable, "-m", "img2img", "translate", str(model), str(folder / "large.tif"), "--out"]
    begin = time.perf_counter()
    done = subprocess.run([*command, str(folder / "out"), *options], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"edge": edge, "seconds": time.perf_counter() - begin, "most_memory_gib": most, "said": done.stdout.strip()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--model", nargs="+", default=["resnet_9", "unet_256"])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--large", type=int)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="for the command of --large")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for generator in args.model:
            model = folder / f"{generator}.safetensors"
            make_model(model, generator, 1 if args.large else 3, args.width)
            if args.large:
                result = large(model, args.large, folder, args.options)
            else:
                result = compare(model, picture(args.size, 3), args.tile, args.precision)
            print(json.dumps({"model": generator, **result}, indent=2), flush=True)


if __name__ == "__main__":
    main()

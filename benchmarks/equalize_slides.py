"""Measure the equalizing of slides by region: memory, and CPU time per megapixel.

    python benchmarks/equalize_slides.py [--edge 4096 8192] [--model stain tone] [--slides 2] [--options ...]

Two batches of `--slides` slides each are drawn: RGB of 8 bits for `stain`, and two channels of 16 bits for `tone`, in
tiles of 512 pixels with three levels, in deflate. `img2img equalize fit` learns from all of them, and `transform` moves
those of the second batch, with its quality and without, all by region. Each command runs in a process of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from slides import tissue

TILE, FACTORS, PATTERN = 512, (2, 4, 8), 2048


def cells(edge, gain, seed):
    """Return (edge, edge, 2) uint16: nuclei, and grains of another size, on a dark background."""
    rng = np.random.default_rng(seed)
    picture = rng.normal(400, 15, (edge, edge, 2))
    for channel, (radius, count) in enumerate(((12, edge * edge // 9000), (5, edge * edge // 2500))):
        disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
        for top, left in rng.integers(0, edge - 2 * radius - 1, (count, 2)):
            picture[top : top + 2 * radius + 1, left : left + 2 * radius + 1, channel][disc] += 3000 * gain
    return picture.clip(0, 65535).astype(np.uint16)


def stained(edge, gain, seed):
    """Return (edge, edge, 3) uint8, in which the stain is `gain` times as dense."""
    return (240 * (np.maximum(tissue(edge, seed), 1) / 240) ** gain).round().clip(0, 255).astype(np.uint8)


KINDS = {"stain": (stained, (1, 1.3)), "tone": (cells, (1, 0.6))}  # what is drawn, and the gains of two batches


def write(path, pattern, edge):
    """Write a slide that repeats a pattern; its levels are every second pixel and so on."""
    planar = pattern.shape[2] == 2
    options = {"compression": "deflate", "predictor": True, "tile": (TILE, TILE), "metadata": None}
    options |= {"photometric": "minisblack" if planar else "rgb"}
    with tifffile.TiffWriter(path, ome=planar) as writer:
        for number, step in enumerate((1, *FACTORS)):
            small = pattern[::step, ::step]
            image = np.tile(small, (edge // len(pattern), edge // len(pattern), 1))
            kind = {"subifds": len(FACTORS)} if not number else {"subfiletype": 1}
            if planar:
                image = np.ascontiguousarray(image.transpose(2, 0, 1))
                kind |= {"metadata": {"axes": "CYX", "Channel": {"Name": ["DNA", "ER"]}}} if not number else {}
            writer.write(image, **(options | kind))


def run(*words):
    """Run a command of img2img; return its CPU and wall seconds and its peak memory in GiB."""
    watched = (
        "import json, resource, subprocess, sys; p = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss / 2**20])); sys.exit(p.returncode)"
    )
    begin = time.perf_counter()
    command = [sys.executable, "-c", watched, sys.executable, "-m", "img2img", "equalize", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr + done.stdout)
    cpu, memory = json.loads(done.stdout.splitlines()[-1])
    return cpu, time.perf_counter() - begin, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--model", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--slides", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=["--max-megapixels", "4"])
    args = parser.parse_args()
    for model in args.model:
        draw, gains = KINDS[model]
        for edge in args.edge:
            with tempfile.TemporaryDirectory(dir=args.folder) as name:
                folder = Path(name)
                for batch, gain in zip("AB", gains, strict=True):
                    (folder / "in" / batch).mkdir(parents=True)
                    for i in range(args.slides):
                        suffix = ".ome.tif" if model == "tone" else ".tif"
                        pattern = draw(min(PATTERN, edge), gain, seed=i + 10 * (batch == "B"))
                        write(folder / "in" / batch / f"{i}{suffix}", pattern, edge)
                source, eq, options = folder / "in", folder / "eq", ["--jobs", 1, *args.options]
                one = ["--where", "Metadata_Batch == 'B'"]
                fit = ["--target", "A", "--min-images", 2, "--model", model]
                commands = {
                    "fit": (2 * args.slides, ["fit", source, "--out", eq, *fit]),
                    "transform": (args.slides, ["transform", eq, source, "--out", folder / "out", *one]),
                    "transform --no-quality": (
                        args.slides,
                        ["transform", eq, source, "--out", folder / "plain", "--no-quality", *one],
                    ),
                }
                for what, (count, words) in commands.items():
                    cpu, wall, memory = run(*words, *options)
                    row = {"model": model, "edge": edge, "command": what, "peak_memory_gib": round(memory, 2)}
                    megapixels = count * edge * edge / 1e6
                    row |= {"cpu_seconds_per_megapixel": round(cpu / megapixels, 4), "cpu_seconds": round(cpu, 1)}
                    print(json.dumps(row | {"seconds": round(wall, 1)}), flush=True)
                shutil.rmtree(folder / "in")


if __name__ == "__main__":
    main()

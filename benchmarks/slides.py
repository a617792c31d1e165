"""Measure the translation of whole slides by region: memory, and cost per megapixel.

    python benchmarks/slides.py [--edge 16384 32768] [--width 8] [--generator resnet_9] [--statistics 64] [--zarr]

Each slide is drawn: tissue of many colours and shapes on glass, RGB, in tiles of 256 pixels with three levels, each 4
times smaller than the one before; with --jpeg in JPEG, and with --zarr as OME-Zarr 0.5, in chunks of 1024 pixels of
one channel. For each, the command runs in a process of its own, in the folder --folder. Printed are its CPU seconds and
wall time, its peak memory, the time per megapixel, and what 100,000 x 100,000 would take.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import zarr
from translate import make_model

TILE, CHUNK, FACTORS, LARGEST = 256, 1024, (4, 4, 4), 100_000
PATTERN = 4096  # pixels, after which the tissue repeats, in another colour
TISSUE, STAINS = np.array([214.0, 160, 196]), np.array([[70.0, 40, 120], [190, 60, 110]])


def tissue(edge, seed=0):
    """Return (edge, edge, 3) uint8: nuclei on fibres, with glass between."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:edge, :edge].astype(np.float32) * (2 * np.pi / edge)
    waves = sum(np.sin(a * y + b * x + p) for a, b, p in rng.integers(-9, 10, (6, 3)))
    picture = np.full((edge, edge, 3), 240, np.float32)
    picture[waves > -1.5] = TISSUE
    for count, radius, colour in ((edge * edge // 2000, 5, STAINS[0]), (edge * edge // 6000, 9, STAINS[1])):
        disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
        for top, left in rng.integers(0, edge - 2 * radius - 1, (count, 2)):
            part = picture[top : top + 2 * radius + 1, left : left + 2 * radius + 1]
            if part[radius, radius, 1] < 200:
                part[disc] = colour
    grain = rng.normal(0, 4, (edge, edge, 1)).astype(np.float32) * (waves > -1.5)[..., None]
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def draw(path, edge, jpeg):
    """Write a slide in tiles with levels, without holding it."""
    pattern = tissue(min(PATTERN, edge))
    options = {"photometric": "rgb", "compression": "jpeg" if jpeg else "deflate", "tile": (TILE, TILE)}
    options |= {"compressionargs": {"level": 90}} if jpeg else {"predictor": True}

    def tiles(size, step):
        around = len(pattern) // step
        small = pattern[::step, ::step]
        for top in range(0, size, TILE):
            for left in range(0, size, TILE):
                tile = small[top % around : top % around + TILE, left % around : left % around + TILE]
                shade = (top // around * 7 + left // around * 3) % 5 * 6
                yield np.pad(tile - np.minimum(tile, shade), [(0, TILE - n) for n in tile.shape[:2]] + [(0, 0)])

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        size, step = edge, 1
        for number in range(len(FACTORS) + 1):
            kind = {"subifds": len(FACTORS)} if not number else {"subfiletype": 1}
            kind |= {"resolution": (20000, 20000), "resolutionunit": 3} if not number else {}
            with_args = {k: dict(v) if isinstance(v, dict) else v for k, v in options.items()}
            writer.write(tiles(size, step), shape=(size, size, 3), dtype=np.uint8, metadata=None, **kind, **with_args)
            if number < len(FACTORS):
                size, step = size // FACTORS[number], step * FACTORS[number]


def draw_zarr(path, edge):
    """Write the same slide as OME-Zarr, chunk row by chunk row."""
    axes = [{"name": "c", "type": "channel"}, *({"name": x, "type": "space", "unit": "micrometer"} for x in "yx")]
    steps = np.cumprod([1, *FACTORS]).tolist()
    scales = [[{"type": "scale", "scale": [1.0, 0.5 * step, 0.5 * step]}] for step in steps]
    datasets = [{"path": str(i), "coordinateTransformations": scale} for i, scale in enumerate(scales)]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    zarr.create_group(path, zarr_format=3, attributes={"ome": ome})
    pattern = tissue(min(PATTERN, edge))
    for number, step in enumerate(steps):
        size, small = edge // step, pattern[::step, ::step]
        around, chunks = len(small), (1, min(CHUNK, size), min(CHUNK, size))
        array = zarr.create_array(
            path / str(number), shape=(3, size, size), chunks=chunks, dtype="uint8", zarr_format=3
        )
        for top in range(0, size, CHUNK):
            y = np.arange(top, min(top + CHUNK, size))
            for left in range(0, size, CHUNK):
                x = np.arange(left, min(left + CHUNK, size))
                tile = small[np.ix_(y % around, x % around)]
                shade = (y[:, None] // around * 7 + x // around * 3)[..., None] % 5 * 6
                place = (slice(None), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1))
                array[place] = (tile - np.minimum(tile, shade)).astype(np.uint8).transpose(2, 0, 1)


def bytes_of(path):
    """The bytes of a file, or of all files below a folder."""
    return sum(x.stat().st_size for x in path.rglob("*") if x.is_file()) if path.is_dir() else path.stat().st_size


def measure(model, slide, out, options):
    """Run the command, and return what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "img2img", "translate", str(model), str(slide), "--out", str(out), *options]
    watched = "import resource, subprocess, sys; p = subprocess.run(sys.argv[1:]); " + (
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(p.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", watched, *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr + done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": time.perf_counter() - begin,
        "peak_memory_gib": int(done.stdout.split()[-1]) / 2**20,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, nargs="+", default=[16384, 32768])
    parser.add_argument("--generator", default="resnet_9")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--statistics", default="64")
    parser.add_argument("--jpeg", action="store_true")
    parser.add_argument("--zarr", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options for the command")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_model(folder / "model.safetensors", args.generator, 3, args.width)
        for edge in args.edge:
            slide = folder / f"{edge}{'.zarr' if args.zarr else '.tif'}"
            draw_zarr(slide, edge) if args.zarr else draw(slide, edge, args.jpeg)
            options = ["--statistics", args.statistics, *args.options]
            found = measure(folder / "model.safetensors", slide, folder / "out", options)
            per_megapixel = found["cpu_seconds"] / (edge * edge / 1e6)
            sizes = {"slide_gb": bytes_of(slide) / 1e9, "result_gb": bytes_of(folder / "out" / slide.name) / 1e9}
            hours = per_megapixel * LARGEST**2 / 1e6 / 3600
            facts = {"cpu_seconds_per_megapixel": per_megapixel, f"cpu_hours_of_{LARGEST}": hours}
            print(json.dumps({"edge": edge, **found, **facts, **sizes}, indent=2), flush=True)
            shutil.rmtree(folder / "out")
            shutil.rmtree(slide) if args.zarr else slide.unlink()


if __name__ == "__main__":
    main()

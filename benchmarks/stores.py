"""Measure jobs over a store, against the same on a disk; and drawing and equalizing by Ray, with one and two workers.

    python benchmarks/stores.py [--images 60] [--small 400] [--drawn 3000] [--rows 200] [--rounds 2] [--out DIR]

The store is moto's server on the loopback address, in a process of its own, so requests cost CPU and no distance.
Rounds alternate between disk and store, and between one and two workers; medians are printed. The CPU time is that of
the process that translates, with its threads: on a machine that has other work to do it says what images/s cannot. The
overhead per file is the difference for images of 32x32, which cost next to nothing themselves. For jobs on Ray, the
first and the last tenth do not count, and the CPU time is that of the workers. Writes results.json.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from ray_workers import workers
from translate import make_images, make_model

EDGE, PLATES = 512, ("P1", "P2")


def serve():
    """Start a server that speaks the protocol of S3, and let this process and its children know it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "key")
    os.environ.update(keys | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            time.sleep(0.1)
    raise SystemExit("moto's server does not start; install moto[server].")


def translated(model, source, out):
    """Translate a folder or a place in a store in this process."""
    import img2img

    begun, cpu = time.perf_counter(), time.process_time()
    count = img2img.translate(model, source, out, device="cpu").translated
    return {"images_per_s": count / (time.perf_counter() - begun), "own": (time.process_time() - cpu) / count}


def by_workers(job, count):
    """Run `job(progress, options)` on Ray, and measure the middle of it."""
    marks = {}

    def progress(done, total):
        cpu = 0.0
        if done in (total // 10, total - total // 10):
            cpu = sum(sum(process.cpu_times()[:2]) for process in workers())
        marks[done] = time.perf_counter(), cpu

    job(progress, {"ray": "local", "ray_workers": count})
    first, last = len(marks) // 10, len(marks) - len(marks) // 10
    (begun, before), (ended, after) = marks[first], marks[last]
    return {"images_per_s": (last - first) / (ended - begun), "own": (after - before) / (last - first)}


def make_table(root, count):
    """Write images of two plates, with blobs on a ground, and a table of them."""
    import pandas as pd
    import tifffile

    rng, rows = np.random.default_rng(0), []
    for k in range(count):
        plate = PLATES[k % 2]
        (root / plate).mkdir(parents=True, exist_ok=True)
        image = rng.normal(300, 20, (EDGE, EDGE))
        for y, x in rng.integers(0, EDGE - 40, (30, 2)):
            image[y : y + 30, x : x + 30] += 900
        name = f"{plate}/{k:05}.tif"
        tifffile.imwrite(root / name, (image * (1 - 0.2 * (plate == "P2"))).astype("uint16"))
        rows.append({"FileName_DNA": name, "Metadata_Plate": plate, "Metadata_Number": k})
    pd.DataFrame(rows).to_csv(root / "plates.csv", index=False)
    return root / "plates.csv"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in {"images": 60, "small": 400, "drawn": 3000, "rows": 200, "rounds": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    server = serve()
    try:
        measure(options, out)
    finally:
        server.kill()


def measure(options, out):
    """Run all rounds, print medians, and write all figures."""
    import s3fs

    import img2img
    from img2img.bulk.cluster import connected
    from img2img.bulk.options import RayOptions
    from img2img.lab import BatchEqualizer

    fs = s3fs.S3FileSystem()
    fs.mkdir("bucket")
    cases = {"256x256": (options.images, 256, "unet_256", 64), "32x32": (options.small, 32, "resnet_3", 4)}
    for name, (count, size, generator, width) in cases.items():
        make_images(out / name, count, size)
        make_model(out / f"{name}.safetensors", generator, width=width)
        fs.put(f"{out / name}/", f"bucket/{name}/", recursive=True)
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    img2img.train("dcgan", data=faces, out=out / "faces", steps=2, batch_size=4, size=64, quiet=True, device="cpu")
    table = make_table(out / "plates", options.rows)
    equalizer = BatchEqualizer(target="P1").fit_table(table, where="Metadata_Number < 16")

    def draw(place, progress, ray):
        img2img.sample(out / "faces", options.drawn, out=place, progress=progress, device="cpu", **ray)

    def equalize(place, progress, ray):
        equalizer.transform_table(table, None, place, progress=progress, **ray)

    rows = {}

    def keep(name, found):
        rows.setdefault(name, []).append(found)
        print(name, json.dumps(found), flush=True)

    for k in range(options.rounds):
        for name in cases:
            for where, source, to in (("disk", out, out / "results"), ("store", "s3://bucket", "s3://bucket/results")):
                found = translated(out / f"{name}.safetensors", f"{source}/{name}", f"{to}/{name}-{k}")
                keep(f"translate {name}, {where}", found)
        for count in (1, 2):
            with connected(RayOptions(ray="local", ray_workers=count)):
                for name, job in (("sample", draw), ("equalize", equalize)):
                    for where, to in (("disk", out / "results"), ("store", "s3://bucket/results")):
                        place = f"{to}/{name}-{k}-{count}"
                        keep(f"{name}, {where}, {count}", by_workers(partial(job, place), count))
    (out / "results.json").write_text(json.dumps(rows, indent=1))
    median = {name: {key: statistics.median(x[key] for x in found) for key in found[0]} for name, found in rows.items()}
    for name, found in median.items():
        print(f"{name}: {found['images_per_s']:.1f} images/s, {1000 * found['own']:.2f} ms CPU per image")
    for name in cases:
        disk, store = (median[f"translate {name}, {where}"] for where in ("disk", "store"))
        more, share = 1000 * (store["own"] - disk["own"]), store["images_per_s"] / disk["images_per_s"]
        print(f"{name}: over the store {more:.2f} ms CPU more per file, {share:.2f} times the images/s")
    for name in ("sample", "equalize"):
        for where in ("disk", "store"):
            one, two = (median[f"{name}, {where}, {count}"] for count in (1, 2))
            cpu = 2 * one["own"] / (two["own"] or float("nan"))  # too few to take any time
            gain = two["images_per_s"] / one["images_per_s"]
            print(f"{name}, {where}: two workers do {gain:.2f} times the work of one; by CPU time {cpu:.2f}")
    print(f"results in {out}")


if __name__ == "__main__":
    main()

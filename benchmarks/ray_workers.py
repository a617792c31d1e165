"""Measure jobs on Ray: images/s of one and of two workers, of one core each, their memory, and the overhead per file.

    python benchmarks/ray_workers.py [--images 200] [--small 1500] [--rounds 3] [--model unet_256] [--out DIR]

Rounds alternate between one and two workers, and the first and last tenth of each job do not count, so that the start
and the last file do not. Besides images/s, the CPU seconds of the workers per image are measured: on a machine that has
other work to do, they say what images/s cannot. The overhead per file is the CPU time of workers on images of 32x32,
less that of this process for the same images without Ray; and the CPU time of this process, which hands them out.
Writes results.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from translate import make_images, make_model

WORKER = "ray::MapWorker"


def workers():
    """Return the processes of the workers."""
    from ray._private.services import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(WORKER):
            found.append(process)
    return found


def measure(model, source, out, count):
    """Translate a folder with `count` workers, or without Ray if 0."""
    import img2img

    marks, state = [], {"rss": [], "store": 0.0, "cpu": {}}

    def progress(outcome):
        marks.append((time.perf_counter(), outcome.done))
        if outcome.done in (outcome.total // 10, outcome.total - outcome.total // 10):
            if count:
                import ray

                processes = workers()
                state["rss"] = [process.memory_info().rss / 2**20 for process in processes]
                free, size = (
                    f().get("object_store_memory", 0) for f in (ray.available_resources, ray.cluster_resources)
                )
                state["store"] = max(state["store"], (size - free) / 2**20)
                state["cpu"][outcome.done] = sum(sum(process.cpu_times()[:2]) for process in processes)
            state[outcome.done] = time.process_time()

    options = {"ray": "local", "ray_workers": count} if count else {}
    img2img.translate(model, source, out, device="cpu", progress=progress, **options)
    total = marks[-1][1]
    first, last = total // 10, total - total // 10
    when = {done: moment for moment, done in marks}
    files = last - first
    return {
        "images_per_s": files / (when[last] - when[first]),
        "worker_cpu_s": (state["cpu"][last] - state["cpu"][first]) / files if count else None,
        "own_cpu_s": (state[last] - state[first]) / files,
        "rss_mib": state["rss"],
        "store_mib": state["store"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--small", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="unet_256")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    make_images(out / "photos", options.images, 256)
    make_images(out / "small", options.small, 32)
    make_model(out / "model.safetensors", options.model)
    make_model(out / "tiny.safetensors", "resnet_3", width=4)
    rows = {1: [], 2: []}
    for k in range(options.rounds):
        for count in rows:
            rows[count].append(measure(out / "model.safetensors", out / "photos", out / f"{k}-{count}", count))
            print(count, json.dumps(rows[count][-1]), flush=True)
    small = {count: measure(out / "tiny.safetensors", out / "small", out / f"small-{count}", count) for count in (0, 1)}
    print(json.dumps(small), flush=True)
    (out / "results.json").write_text(json.dumps({"photos": rows, "small": small}, indent=1))
    speed = {count: statistics.median(x["images_per_s"] for x in rows[count]) for count in rows}
    cpu = {count: statistics.median(x["worker_cpu_s"] for x in rows[count]) for count in rows}
    print(f"images/s: {speed[1]:.2f} and {speed[2]:.2f}, ratio {speed[2] / speed[1]:.2f}")
    print(f"CPU s per image: {cpu[1]:.3f} and {cpu[2]:.3f}: two idle cores would give {2 * cpu[1] / cpu[2]:.2f} times")
    more = small[1]["worker_cpu_s"] - small[0]["own_cpu_s"]
    print(f"overhead per file: {1000 * more:.1f} ms in the worker, {1000 * small[1]['own_cpu_s']:.1f} ms in the driver")
    print(
        f"memory per worker: {max(x for r in rows[2] for x in r['rss_mib']):.0f} MiB; "
        f"object store: {max(r['store_mib'] for r in rows[2]):.1f} MiB; results in {out}"
    )


if __name__ == "__main__":
    main()

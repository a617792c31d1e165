"""Measure whether evaluation streams in bounded memory, and whether the networks dominate its time.

    python benchmarks/evaluate.py [--n 10000] [--size 256] [--inception 200] [--out DIR]

Compares folders of N generated JPEGs each (real and fake) by kid, precision, recall, density, coverage and drift of the
encoder, in a separate process whose memory is monitored from 500 images on; then --inception images by fid and kid of
the Inception network with random weights, which take as long as trained ones. Prints images per second, the memory, and
the fraction of the scoring time spent in the feature network and in the metrics' functions (torchmetrics, distances).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 200  # images that are really made; the others are links to them, as only the count matters
SETS = "kid,precision,recall,density,coverage,drift"


def make(folder, n, size, seed):
    """Write n JPEGs of blurred noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        path = folder / f"{i:06d}.jpg"
        if path.exists():
            continue
        if i < DISTINCT:
            small = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
            small.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            os.link(folder / f"{i % DISTINCT:06d}.jpg", path)
    return folder


def random_inception(path):
    """Write random weights for the Inception network of torch-fidelity."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Keep(Exception):
        pass

    found = {}

    def caught(self, state, *args, **kwargs):
        found.update(torch.nn.Module.state_dict(self))
        raise Keep

    cls = module.FeatureExtractorInceptionV3
    before, loaded = cls.load_state_dict, module.load_state_dict_from_url
    cls.load_state_dict, module.load_state_dict_from_url = caught, lambda *args, **kwargs: {}
    try:
        cls("inception-v3-compat", ["2048"])
    except Keep:
        torch.save(found, path)
    finally:
        cls.load_state_dict, module.load_state_dict_from_url = before, loaded


def watched(job):
    """Run one evaluation and time its parts; meant for a separate process."""
    import img2img
    from img2img.metrics import scorer as scoring

    spent = {"network": 0.0, "functions": 0.0, "scoring": 0.0, "reading": 0.0}
    rss = []

    def timed(kind, fn):
        def call(*args, **kwargs):
            begin = time.perf_counter()
            try:
                return fn(*args, **kwargs)
            finally:
                spent[kind] += time.perf_counter() - begin

        return call

    scoring.Scorer.features = timed("network", scoring.Scorer.features)
    scoring.METRICS.update(
        {n: replace(m, fn=timed("functions", m.fn)) for n, m in scoring.METRICS.items() if m.kind == "features"}
    )
    prepare = scoring.Scorer.prepare

    def prepared(scorer, real):  # reading images does not count as the metrics' time
        def passes():
            images = iter(real())
            while (batch := reading(images)) is not None:
                yield batch

        reading = timed("reading", lambda images: next(images, None))
        before = spent["reading"]
        timed("scoring", prepare)(scorer, passes)
        spent["scoring"] -= spent["reading"] - before

    scoring.Scorer.prepare = prepared
    for name in ("add", "scores"):
        setattr(scoring.ScoreRow, name, timed("scoring", getattr(scoring.ScoreRow, name)))

    def progress(done, total):
        if done >= min(500, total // 2):
            rss.append(resident())

    begin = time.perf_counter()
    result = img2img.evaluate(progress=progress, **job)
    seconds = time.perf_counter() - begin
    row = {name: value for name, value in result.scores.items()}
    return {
        "seconds": round(seconds, 1),
        "images_per_s": round((result.protocol["images"] + result.protocol["real_images"]) / seconds, 1),
        "rss_early_mb": round(rss[0]), "rss_late_mb": round(rss[-1]), "rss_peak_mb": round(peak()),
        "share": round((spent["network"] + spent["functions"]) / spent["scoring"], 3),
        "spent": {k: round(v, 2) for k, v in spent.items()},
        "scores": row, "notes": result.protocol["notes"],
    }  # fmt: skip


def resident():
    """Return the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--inception", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_evaluate"))
    parser.add_argument("--job", help="for the benchmark's own processes")
    args = parser.parse_args()
    if args.job:
        print(json.dumps(watched(json.loads(args.job))))
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    results = {"machine": {"cpu": cpu, "commit": commit, "command": " ".join(sys.argv)}}
    real, fake = (str(make(args.out / name, args.n, args.size, seed)) for seed, name in enumerate(("real", "fake")))
    jobs = {"encoder": {"real": real, "fake": fake, "metrics": SETS}}
    if args.inception:
        weights = args.out / "inception.pth"
        random_inception(weights)
        jobs["inception"] = {
            "real": real, "fake": fake, "metrics": "fid,kid", "limit": args.inception, "features": "inception",
            "features_weights": str(weights),
        }  # fmt: skip
    for name, job in jobs.items():
        words = [sys.executable, __file__, "--job", json.dumps(job)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, json.dumps(results[name], indent=1))
    (args.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

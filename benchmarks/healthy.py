"""Check that the diagnosis raises no alarm about games that learn.

    python benchmarks/healthy.py DIR [--only NAME,NAME] [--out DIR]

DIR holds the public sets mnist, usps, facades and horse2zebra, one folder each (datasets/README.md). Each small game
is trained with its method's defaults except for size, width and length, and its diagnosis is printed: there should be
no finding in the first tenth of a run, and none that still holds at its end. Existing runs are diagnosed again without
training, so that thresholds can be changed. `benchmarks/modes.py --only failing` is the counterpart: games that are
made to fail.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

SMALL = {
    "size": 32, "width": 16, "d_width": 16, "device": "cpu", "precision": "fp32", "sample_every": 200,
    "save_every": 10**6, "validate_every": 10**6, "keep": 0, "cache_mb": 500, "quiet": True,
}  # fmt: skip
TRANSLATOR = SMALL | {"generator": "resnet_3", "discriminator": "patch_16"}
UNET = SMALL | {"discriminator": "patch_34", "size": 64, "width": 8}
GAMES = {
    "cyclegan digits": ("cyclegan", ("mnist", "usps"), TRANSLATOR | {"steps": 800}),
    "cyclegan digits batch 8": ("cyclegan", ("mnist", "usps"), TRANSLATOR | {"steps": 400, "batch_size": 8}),
    "cyclegan digits no identity": (
        "cyclegan",
        ("mnist", "usps"),
        TRANSLATOR | {"steps": 400, "batch_size": 8, "lambda_identity": 0.0},
    ),
    "cyclegan horses": ("cyclegan", ("horse2zebra",), TRANSLATOR | {"steps": 800}),
    "cyclegan horses 64 px": (
        "cyclegan",
        ("horse2zebra",),
        TRANSLATOR | {"steps": 600, "size": 64, "width": 8, "discriminator": "patch_34"},
    ),
    "pix2pix facades": ("pix2pix", ("facades",), UNET | {"steps": 800}),
    "pix2pix facades 32 px": ("pix2pix", ("facades",), TRANSLATOR | {"steps": 800, "direction": "b2a"}),
    "dcgan mnist": ("dcgan", ("mnist",), SMALL | {"steps": 700}),
    "dcgan mnist wide": ("dcgan", ("mnist",), SMALL | {"steps": 500, "width": 32, "d_width": 64}),
    "dcgan usps": ("dcgan", ("usps",), SMALL | {"steps": 700, "width": 8, "d_width": 8}),
    "dcgan zebras": ("dcgan", ("horse2zebra/trainB",), SMALL | {"steps": 500, "size": 64}),
    "wgan mnist": ("wgan", ("mnist",), SMALL | {"steps": 400}),
    "wgan_gp mnist": ("wgan_gp", ("mnist",), SMALL | {"steps": 500}),
    "wgan_gp usps": ("wgan_gp", ("usps",), SMALL | {"steps": 800, "width": 8, "d_width": 8}),
    "gan mnist": ("gan", ("mnist",), SMALL | {"steps": 1500, "width": 256, "d_width": 256, "size": 28}),
}
EARLY = 0.1  # fraction of a run in which there should be no finding


def data_of(method, names, root):
    """Return folders as they are and digits as arrays, since unpaired methods take no IDX file."""
    from img2img.data.idx import read_idx

    def images(name):
        files = sorted((root / name).glob("*images-idx3*"))
        return read_idx(files[-1])[:4000, ..., None] if files else str(root / name)

    if len(names) == 2:
        return {"a": images(names[0]), "b": images(names[1])}
    name = "ab" if method == "pix2pix" else "data"
    return {name: str(root / names[0] / "train") if method == "pix2pix" else images(names[0])}


def judged(folder):
    """Return the findings of the diagnosis of a run, with their steps."""
    from img2img.report.diagnosis import Diagnosis
    from img2img.runs.record import read_log

    steps = json.loads((folder / "config.json").read_text())["options"]["steps"]
    diagnosis = Diagnosis(steps)
    for row in read_log(folder / "log.jsonl"):
        if row.kind == "train":
            diagnosis.see(row.step, row.values)
    return steps, diagnosis.findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(GAMES))
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_healthy"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import img2img

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}; {' '.join(sys.argv)}")
    early = standing = 0
    for name in (name for name in GAMES if name in args.only.split(",")):
        method, names, options = GAMES[name]
        folder = args.out / name.replace(" ", "_")
        if not (folder / "model.safetensors").exists():
            img2img.train(method, out=folder, **data_of(method, names, args.data), **options)
        steps, findings = judged(folder)
        early += any(finding.start < EARLY * steps for finding in findings)
        standing += any(finding.end is None for finding in findings)
        said = ", ".join(f"{finding.kind} {finding.when}" for finding in findings)
        print(f"| {name} | {steps} | {said or 'nothing'} |", flush=True)
    print(f"warned in the first {EARLY:.0%}: {early}; warned at the end: {standing}")


if __name__ == "__main__":
    main()

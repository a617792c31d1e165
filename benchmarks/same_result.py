"""Check that the fast path trains to the same result: held-out scores of every method, against plain fp32.

    python benchmarks/same_result.py DATA [--only pix2pix ...] [--kinds fp32 bf16 compiled] [--jobs 2] [--device cuda]

DATA holds `facades` (train and val, for pix2pix), `horse2zebra` (trainA, trainB, testA, testB) and `mnist` (its IDX
files, for the unconditional methods), all used at 64 px with narrow networks, `STEPS` steps each. Kinds: `plain`, with
PyTorch's own convolutions, instance norms and padding in fp32, NCHW and eager, for --seeds seeds; `fp32`, `bf16` and
`compiled` (fp32), as `img2img train` computes them, for --fast-seeds of these. Scores are those of `img2img evaluate`
on held-out images: l1 for pix2pix, otherwise kid[encoder]; lower is better.

Without units that multiply bf16, its arithmetic is simulated, which makes it affordable there: operands are rounded to
bf16, multiplied and summed in fp32, and the result is rounded, forward and backward; PyTorch computes everything else
in bf16. Each run is a process with one thread. Writes results.json after every run, and resumes from it.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from train import make_plain

STEPS = 2000
COMMON = {
    "size": 64, "steps": STEPS, "log_every": 100, "sample_every": 10**6, "save_every": 10**6, "validate_every": 10**6,
    "keep": 0, "workers": 0, "quiet": True,
}  # fmt: skip
NARROW = {"width": 16, "d_width": 16, "batch_size": 16, "lr": 5e-4}
MLPS = {
    "width": 256,
    "d_width": 256,
    "batch_size": 64,
    "penalty": "r1",
    "lambda_gp": 10.0,
}  # without R1, samples are noise
# method -> data, options, held-out score.
ROWS = {
    "pix2pix": ("facades", {"width": 32, "d_width": 32}, "l1"),
    "cyclegan": ("horse2zebra", {"generator": "resnet_6", "width": 24, "d_width": 24}, "kid[encoder]"),
    "gan": ("mnist", MLPS, "kid[encoder]"),
    "dcgan": ("mnist", NARROW, "kid[encoder]"),
    "wgan": ("mnist", NARROW | {"n_critic": 2}, "kid[encoder]"),
    "wgan_gp": ("mnist", NARROW | {"n_critic": 2}, "kid[encoder]"),
}
KINDS = ["plain", "fp32", "bf16", "compiled"]
SAMPLES = 2000


class SimulatedBf16(TorchFunctionMode):
    """Within autocast, round the operands of products to bf16, sum in fp32 and round, in both directions."""

    PRODUCTS = {torch.conv2d, torch.conv_transpose2d, F.linear, torch.Tensor.matmul, torch.matmul}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in self.PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        rounded = [x.bfloat16().float().contiguous() if isinstance(x, torch.Tensor) else x for x in args]
        with torch.autocast("cpu", enabled=False):
            return func(*rounded, **kwargs).bfloat16()


def train_one(kind, method, seed, data, out, device):
    """Train one run, and return its score on held-out images."""
    import img2img
    from img2img.runtime.device import Runtime, multiplies_bf16

    folder, options, metric = ROWS[method]
    options = COMMON | options | {"seed": seed, "compile": "on" if kind == "compiled" else "off"}
    options |= {"precision": "bf16" if kind == "bf16" else "fp32", "device": device}
    simulated = kind == "bf16" and not multiplies_bf16(torch.device(device))
    if kind == "plain":
        Runtime.place = lambda self, network: make_plain(network.to(self.device), batch_norm=False)
    with SimulatedBf16() if simulated else contextlib.nullcontext():
        begin = time.perf_counter()
        place = next((data / folder).glob("train-images*")) if folder == "mnist" else data / folder
        img2img.train(method, data=place, out=out, **options)
        seconds = time.perf_counter() - begin
    score = judge(out, data / folder, metric)
    return {
        "kind": kind, "method": method, "seed": seed, "score": score, "simulated": simulated, "seconds": seconds,
    }  # fmt: skip


def judge(run, data, metric):
    """Return the held-out score of a run in fp32; for digits, of `SAMPLES` drawn ones against as many unseen ones."""
    import img2img

    name = metric.split("[")[0]
    if data.name != "mnist":
        return img2img.evaluate(run, metrics=[name], device="cpu", precision="fp32").scores[metric]
    fake = write(img2img.Sampler(run, device="cpu", precision="fp32")(SAMPLES, 1), run / "drawn")
    return img2img.evaluate(real=run.parent / "digits", fake=fake, metrics=[name], device="cpu").scores[metric]


def write(digits, folder):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, digit in enumerate(digits):
        Image.fromarray(digit.squeeze()).save(folder / f"{i:05}.png")
    return folder


def unseen_digits(data):
    from img2img.data.idx import read_idx
    from img2img.data.images import resize

    digits = read_idx(next(data.glob("t10k-images*")))[:SAMPLES]
    return [resize(x[..., None], COMMON["size"], COMMON["size"]) for x in digits]


def table(runs):
    head = ["method", "metric", *KINDS, "no worse than the worst plain seed"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in ROWS:
        of = {kind: sorted(r["score"] for r in runs if (r["method"], r["kind"]) == (method, kind)) for kind in KINDS}
        if of["plain"]:
            inside = [
                f"{kind} {'yes' if statistics.mean(of[kind]) <= of['plain'][-1] else 'no'}"
                for kind in KINDS[1:]
                if of[kind]
            ]
            cells = (", ".join(f"{x:.4g}" for x in of[kind]) for kind in KINDS)
            lines.append(f"| {method} | {ROWS[method][2]} | {' | '.join(cells)} | {'; '.join(inside)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS[1:], default=["fp32", "bf16"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fast-seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_same_result"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, method, seed = json.loads(args.one)
        print(json.dumps(train_one(kind, method, seed, args.data, args.out / f"{method}_{kind}_{seed}", args.device)))
        return
    if any(ROWS[method][0] == "mnist" for method in args.only):
        write(unseen_digits(args.data / "mnist"), args.out / "digits")
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    runs = json.loads(results.read_text()) if results.exists() else []
    done = {(r["kind"], r["method"], r["seed"]) for r in runs}
    wanted = [
        (kind, method, seed)
        for method in args.only
        for kind in ("plain", *args.kinds)
        for seed in range(args.seeds if kind == "plain" else args.fast_seeds)
    ]

    def run(job):
        command = [sys.executable, __file__, str(args.data), "--out", str(args.out), "--device", args.device]
        command += ["--one", json.dumps(job)]
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if ended.returncode:
            print(f"{job} failed: {ended.stderr[-2000:]}", file=sys.stderr, flush=True)
            return
        runs.append(json.loads(ended.stdout.splitlines()[-1]))
        results.write_text(json.dumps(runs, indent=1) + "\n")
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, [job for job in wanted if job not in done]))
    print(table(runs))


if __name__ == "__main__":
    main()

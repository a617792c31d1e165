"""Find the largest batch that trains in 4, 8 and 24 GB, with and without --checkpoint-activations.

    python benchmarks/train_memory.py [--only cyclegan pix2pix dcgan] [--size N] [--device cuda] [--check BATCH]

Two steps of a small and of a large batch are run, each in its own process. The memory of a step grows linearly with
both pixels and batch, so the rest of the table follows from a line through these two; --check runs the given batches
to verify this. Memory on a CPU is that of the whole process in fp32; on CUDA it is what PyTorch has allocated, with
the defaults. Writes results.json.
"""

import argparse
import json
import sys
from pathlib import Path

from train import ROWS, Worker

SIZES = [64, 128, 256, 512, 1024]
MEMORIES = [4, 8, 24]  # GB of 10^9 bytes
# Method -> row of benchmarks/train.py, batches that are run.
METHODS = {
    "cyclegan": ("cyclegan_b1", (1, 2)),
    "pix2pix": ("pix2pix_b1", (4, 16)),
    "dcgan": ("dcgan_b64", (64, 256)),
}


def peak(kind, method, size, batch, options, device):
    """Return the peak memory of two steps in GB; the second one includes the optimizer's moments."""
    with Worker("--serve", json.dumps([kind, method, size, batch, options, 1, device])) as worker:
        worker.ask()
        return worker.ask()["peak_mib"] * 2**20 / 1e9


def measure(kind, method, args):
    name, batches = METHODS[method]
    _, size, _, options, *_ = ROWS[name]
    size = args.size or size
    few, many = (peak(kind, method, size, batch, options, args.device) for batch in batches)
    each = (many - few) / (batches[1] - batches[0]) / size**2  # GB per pixel of each image
    rest = few - batches[0] * each * size**2
    row = {
        "size": size,
        "rest_gb": rest,
        "gb_per_megapixel": each * 1e6,
        "measured_gb": {batches[0]: few, batches[1]: many},
    }
    sizes = SIZES if method != "dcgan" else [size]
    row["largest"] = {n: {s: max(0, int((n - rest) / (each * s**2))) for s in sizes} for n in MEMORIES}
    for batch in args.check:
        got = peak(kind, method, size, batch, options, args.device)
        row.setdefault("checked", {})[batch] = {"measured_gb": got, "line_gb": rest + batch * each * size**2}
    return row


def table(results):
    lines = ["| | " + " | ".join(f"{n} GB" for n in MEMORIES) + " |", "|---" * (len(MEMORIES) + 1) + "|"]
    for name, row in results.items():
        for size in row["largest"][MEMORIES[0]]:
            cells = (str(row["largest"][n][size] or "-") for n in MEMORIES)
            lines.append(f"| {name}, {size} px | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--size", type=int, default=0, help="pixels that are run; 0 = 256, and 64 for dcgan")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--check", nargs="+", type=int, default=[], metavar="BATCH")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_train_memory"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for method in args.only:
        for kind in ("ours", "ours checkpointed") if method != "dcgan" else ("ours",):
            name = method + kind.removeprefix("ours")
            results[name] = measure(kind, method, args)
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()

"""Measure the overhead of training in two processes of one core each, with gradients averaged over gloo.

    python benchmarks/train_processes.py [--only pix2pix_b1 cyclegan_b1] [--rounds N] [--size N]

The rows are those of benchmarks/train.py. Four processes step two at a time while the others wait: two that average
their gradients, then two that train separately, so that memory and clock are shared equally. Writes results.json.
"""

import argparse
import contextlib
import json
import socket
import statistics
import sys
from pathlib import Path

from train import ROWS, Worker


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def both(workers):
    """Run a step of each at the same time; return the seconds of the slower one."""
    for worker in workers:
        worker.begin()
    return max(worker.answer()["seconds"] for worker in workers)


def measure(row, args):
    method, size, batch, options, rounds, _ = row
    spec = json.dumps(["ours", method, args.size or size, batch, options, 1, "cpu"])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with contextlib.ExitStack() as stack:
        pairs = {
            kind: [
                stack.enter_context(Worker("--serve", spec, OMP_NUM_THREADS="1", **more, RANK=str(rank)))
                for rank in range(2)
            ]
            for kind, more in (("averaging", group), ("apart", {}))
        }
        seconds = {kind: [] for kind in pairs}
        for i in range(1 + (args.rounds or rounds)):
            for kind, workers in pairs.items():
                took = both(workers)
                if i:
                    seconds[kind].append(took)
    overheads = sorted(a / b - 1 for a, b in zip(seconds["averaging"], seconds["apart"], strict=True))
    medians = {kind: statistics.median(those) for kind, those in seconds.items()}
    return medians | {"overhead": statistics.median(overheads), "overheads": overheads}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=["pix2pix_b1", "cyclegan_b1", "dcgan_b64"])
    parser.add_argument("--rounds", type=int, default=0, help="0 = each row's own number")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0 = the rows' own")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_train_processes"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = {"command": " ".join(sys.argv)}
    for name in args.only:
        results[name] = x = measure(ROWS[name], args)
        print(
            f"{name:12} {x['averaging']:.3f} s per step, apart {x['apart']:.3f}: {x['overhead']:+.1%} "
            f"({', '.join(f'{o:+.1%}' for o in x['overheads'])})",
            flush=True,
        )
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

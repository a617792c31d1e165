"""Measure whether games cover the modes of the data, and whether failing games are diagnosed.

    python benchmarks/modes.py [--mnist DIR] [--only toys,failing,mnist,choice] [--seeds N] [--minutes M] [--out DIR]
        [--device DEVICE] [--jobs N]

toys: a ring of 8 Gaussians and a grid of 25, by WGAN-GP, by the non-saturating GAN with R1, and by the plain GAN; N
seeds each from 0 on, of which the median is shown. choice: candidates for the options of the first two, on the grid,
with N seeds from 10 on, so that those of the toys are not the ones that they were chosen by; only if asked for.
failing: one game for each kind of failure, and when it is reported. mnist: DCGAN and WGAN-GP at 32 px for M minutes
each; DIR holds MNIST's four IDX files. Writes results.json after every game, pictures of the toys and of the failing
games and, for mnist, grids of samples. A game that fails is recorded with its error, and the others are played all the
same.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

TOYS = {"ring of 8": "ring", "grid of 25": "grid"}
MLP = {
    "network": "mlp", "width": 128, "d_width": 128, "latent": 16, "noise": "normal", "size": 1, "batch_size": 256,
    "log_every": 20, "sample_every": 10**6, "save_every": 10**6, "keep": 0, "workers": 0, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip
DEEP = {"depth": 3, "latent": 2, "noise": "uniform", "batch_size": 128, "lr": 1e-3, "decay": 0.7, "ema": 0.998}
GAMES = {
    "WGAN-GP": (
        "wgan_gp",
        DEEP | {"steps": 8500, "d_lr": 3e-3, "beta1": 0.0, "beta2": 0.9, "lambda_gp": 0.1, "n_critic": 1},
    ),
    "non-saturating + R1": ("gan", DEEP | {"steps": 7500, "beta1": 0.0, "penalty": "r1", "lambda_gp": 1e-3}),
    "plain GAN": ("gan", {"steps": 6000, "lr": 1e-3, "decay": 0.7}),
}
LONG = DEEP | {"beta1": 0.0, "noise": "normal", "decay": 0.5, "steps": 20_000}
R1 = LONG | {"d_lr": 2e-3, "penalty": "r1", "lambda_gp": 1e-3}
CANDIDATES = {
    "R1": ("gan", R1),
    "R1, wide D": ("gan", R1 | {"d_width": 256}),
    "R1, wide D, uniform": ("gan", R1 | {"d_width": 256, "noise": "uniform"}),
    "R1, D moves twice": ("gan", R1 | {"n_critic": 2}),
    "WGAN-GP, wide D": (
        "wgan_gp",
        LONG | {"d_width": 256, "d_lr": 3e-3, "beta2": 0.9, "lambda_gp": 0.1, "n_critic": 1},
    ),
}
FAILING = {
    "discriminator winning": ("gan", {"objective": "minimax", "lr": 1e-8, "d_lr": 2e-3}),
    "saturation": ("gan", {"lr": 1e-8, "d_lr": 5e-3}),
    "mode collapse": ("gan", {"lr": 2e-3, "beta1": 0.9}),
    "oscillation": ("gan", {"lr": 1e-2, "beta1": 0.95, "log_every": 5}),
    "not finite": ("gan", {"objective": "f_kl", "lr": 1.0}),
}
FAILING_STEPS = 2000
SMALL = {"width": 128, "d_width": 128, "batch_size": 128, "log_every": 10, "steps": FAILING_STEPS}
SMALL_IMAGES = {
    "size": 32, "latent": 64, "noise": "normal", "batch_size": 64, "decay": 0.5, "ema": 0.995, "d_width": 16,
    "device": "cpu", "sample_every": 10**6, "save_every": 10**6, "keep": 0, "quiet": True,
}  # fmt: skip
IMAGES = {
    "DCGAN": ("dcgan", {"width": 32, "lr": 5e-4, "smooth": 0.1, "instance_noise": 0.3}),
    "WGAN-GP": ("wgan_gp", {"width": 16, "lr": 1e-3, "n_critic": 2}),
}
SAMPLES = 2500


def toy(job):
    """Play one game on one mixture."""
    import img2img

    name, mixture, seed, device, out = job
    method, options = (GAMES | CANDIDATES)[name]
    data = getattr(img2img.modes, TOYS[mixture])()
    begin, cpu = time.perf_counter(), time.process_time()
    options = MLP | {"device": device} | options
    folder = out / folder_of(name, mixture, seed)
    model = img2img.train(method, data=data.sample(50_000, seed), out=folder, seed=seed, quiet=True, **options)
    scores = data.score(model(SAMPLES, seed))
    spent = {"seconds": round(time.perf_counter() - begin), "cpu": round(time.process_time() - cpu)}
    return {"game": name, "mixture": mixture, "seed": seed} | spent | scores._asdict()


def folder_of(name, mixture, seed):
    return f"{TOYS[mixture]}_{name.replace(' ', '_')}_{seed}"


def failing(job):
    """Play one game that is made to fail; return its findings, and after which fraction of the run each began."""
    import img2img
    from img2img.report.diagnosis import Diagnosis
    from img2img.runs.record import read_log

    kind, device, out = job
    method, options = FAILING[kind]
    data = img2img.modes.ring()
    folder = out / f"failing_{kind.replace(' ', '_')}"
    said = ""
    try:
        img2img.train(
            method, data=data.sample(20_000), out=folder, quiet=True, **(MLP | SMALL | {"device": device} | options)
        )
    except img2img.Img2ImgError as error:
        said = str(error)
    diagnosis = Diagnosis(FAILING_STEPS)
    for row in read_log(folder / "log.jsonl"):
        diagnosis.see(row.step, row.values)
    found = {finding.kind: finding.start / FAILING_STEPS for finding in reversed(diagnosis.findings)}  # the first
    if "finite" in said:
        found["not finite"] = int(said.split("step ")[1].split()[0]) / FAILING_STEPS
    return {"made to fail by": kind, "found": found}


def mnist(job):
    """Train one method on MNIST at 32 px for some minutes, and judge it by a classifier of real digits."""
    import img2img
    from img2img.data.idx import read_idx
    from img2img.data.images import resize
    from img2img.evaluation.judge import Classifier

    name, data, minutes, device, out = job
    method, options = IMAGES[name]
    images = next(data.glob("train-images*"))
    common = {"data": str(images)} | SMALL_IMAGES | {"device": device} | options

    def seconds(steps, name, **options):  # CPU time, so that a busy machine does not shorten the run
        begin = time.process_time()
        img2img.train(method, out=out / f"{name}_{method}", steps=steps, **common, **options)
        return time.process_time() - begin

    rate = (seconds(80, "long_probe") - seconds(20, "probe")) / 60
    steps = max(50, int(minutes * 60 / rate))
    spent = seconds(steps, "mnist", log_every=max(1, steps // 200))
    model = img2img.Sampler(out / f"mnist_{method}")
    digits = np.stack([resize(x[..., None], 32, 32) for x in read_idx(images)])
    judge = Classifier(digits, read_idx(next(data.glob("train-labels*"))))
    coverage = judge.coverage(model(SAMPLES, 1))
    img2img.sample(model, 64, out / f"samples_{method}", grid=True, interpolate=8)
    return {
        "method": name, "steps": steps, "cpu": round(spent), "classes": coverage.present,
        "smallest share": float(coverage.shares.min()), "confident": coverage.confident,
        "classifier": coverage.accuracy, "shares": [round(float(x), 3) for x in coverage.shares],
    }  # fmt: skip


def table(rows, games):
    """Print medians over seeds; seconds are CPU time."""
    for mixture in TOYS:
        for game in games:
            some = sorted(
                (r for r in rows if r["game"] == game and r["mixture"] == mixture), key=lambda row: row["seed"]
            )
            if some:
                modes, good, kl, seconds = (
                    statistics.median(r[k] for r in some) for k in ("modes", "high_quality", "kl", "cpu")
                )
                each = ", ".join(f"{r['modes']} at {r['high_quality']:.1%}, KL {r['kl']:.3f}" for r in some)
                print(f"{mixture:11} {game:20} {modes:g} modes, {good:.1%} good, KL {kl:.3f}, {seconds:.0f} s ({each})")


def draw_toys(out, target):
    """Draw the samples of each game on each mixture, seed 0: blue near a mode, red otherwise."""
    import img2img

    def title(game, data, points):
        scores = data.score(points)
        return f"{game}\n{scores.modes} of {scores.of} modes, {scores.high_quality:.0%} good"

    figure, axes = canvas(len(TOYS), len(GAMES))
    for row, (mixture, name) in zip(axes, TOYS.items(), strict=True):
        data = getattr(img2img.modes, name)()
        for axis, game in zip(row, GAMES, strict=True):
            folder = out / folder_of(game, mixture, 0)
            if (folder / "model.safetensors").exists():
                points = img2img.sample(folder, SAMPLES)
                scatter(axis, data, points, title(game, data, points))
        row[0].set_ylabel(mixture)
    figure.savefig(target, dpi=80)


def draw_failing(out, target):
    """Draw the last samples and the log of each game that was made to fail and survived until it saved a model."""
    import img2img
    from img2img.runs.record import read_log

    folders = {kind: out / f"failing_{kind.replace(' ', '_')}" for kind in FAILING}
    folders = {kind: folder for kind, folder in folders.items() if (folder / "model.safetensors").exists()}
    figure, axes = canvas(2, len(folders))
    data = img2img.modes.ring()
    for (above, below), (kind, folder) in zip(axes.T, folders.items(), strict=True):
        scatter(above, data, img2img.sample(folder, SAMPLES), kind)
        rows = read_log(folder / "log.jsonl")
        for name in ("d_real", "d_fake", "diversity"):
            below.plot([r.step for r in rows], [r.values[name] for r in rows], label=name, linewidth=1)
        below.set_ylim(-0.05, 1.55)
        below.set_xlabel("step")
    axes[1, 0].legend(fontsize="small")
    figure.savefig(target, dpi=80)


def played(pool, play, jobs, results, kind, out):
    """Play games side by side, and write the results whenever one ends; return those of all that did not fail."""
    waiting = {pool.submit(play, job): job for job in jobs}
    results[kind] = []
    for game in as_completed(waiting):
        try:
            results[kind].append(game.result())
        except Exception as error:
            results[kind].append({"failed": [str(x) for x in waiting[game]], "error": repr(error)})
            print(f"failed: {waiting[game]}: {error!r}")
        (out / "results.json").write_text(json.dumps(results, indent=1))
    return [row for row in results[kind] if "error" not in row]


def canvas(rows, columns):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns)


def scatter(axis, data, points, title):
    points = np.asarray(points, float).reshape(-1, 2)
    good = np.linalg.norm(points[:, None] - data.centres, axis=2).min(1) <= 3 * data.std
    axis.scatter(*data.centres.T, s=60, facecolors="none", edgecolors="#bbb", linewidths=0.7)
    for some, colour in ((good, "#1f5fa8"), (~good, "#c23b22")):
        axis.scatter(*points[some].T, s=2, c=colour, linewidths=0)
    edge = 1.25 * np.abs(data.centres).max()
    axis.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[], aspect="equal")
    axis.set_title(title, fontsize="medium")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--only", default="toys,failing,mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_modes"))
    args = parser.parse_args()
    wanted = args.only.split(",")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    results: dict[str, Any] = {"machine": {"cpu": cpu, "commit": commit, "command": " ".join(sys.argv)}}
    os.environ |= {"OMP_NUM_THREADS": "1"}  # the processes run in parallel
    args.out.mkdir(parents=True, exist_ok=True)
    common = (args.device, args.out)
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:

        def play(kind, function, jobs):
            return played(pool, function, [(*job, *common) for job in jobs], results, kind, args.out)

        if "choice" in wanted:
            table(play("choice", toy, product(CANDIDATES, ["grid of 25"], range(10, 10 + args.seeds))), CANDIDATES)
        if "toys" in wanted:
            table(play("toys", toy, product(GAMES, TOYS, range(args.seeds))), GAMES)
            draw_toys(args.out, args.out / "toys.png")
        if "failing" in wanted:
            for row in play("failing", failing, product(FAILING)):
                found = ", ".join(f"{kind} at {share:.1%} of the run" for kind, share in row["found"].items())
                print(f"made to fail by {row['made to fail by']}: {found or 'nothing found'}")
            draw_failing(args.out, args.out / "failing.png")
        if "mnist" in wanted and args.mnist:
            for row in play("mnist", mnist, product(IMAGES, [args.mnist], [args.minutes])):
                print(row)
    (args.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

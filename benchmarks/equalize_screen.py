"""Equalize a synthetic plate of a screen with the command line, beside copying its files.

    python benchmarks/equalize_screen.py [--wells 384] [--sites 9] [--size 1080] [--rounds 3] [--jobs -1] [--folder DIR]

A plate of the JUMP consortium has 384 wells of 9 sites with 5 channels, 1080x1080 pixels of 16 bits: 3456 images, 40
GB. Plate A, the target, has the wells to fit and to judge alone; plate B, which is moved to it, is whole. Fields of
nuclei are exposed by two synthetic microscopes and shifted at random, so no two images are alike. The commands are
those of docs/equalizing.md: `check`, `fit`, also with a quarter of its images in memory, `transform` with and without
the table of quality, stopped and resumed, and `report`. Copying plate B and transforming it alternate, from memory and,
where the system can be made to forget files, from the disk; a sync of the disk is part of each. Results are printed
and written to results.json: wall and CPU seconds an image, megabytes a second, and the largest memory.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from img2img.lab.synthetic import Effect, brighten, expose, nuclei

CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
EFFECTS = {"A": Effect(), "B": Effect(gain=0.6, offset=80)}
CONTROLS = 1 / 6  # of the wells
JUDGED = 1 / 12  # of the wells, of either plate; half are controls
POOL, TILE = 6, 216  # fields of each channel, plate and treatment; pixels of the tiles they are made of
CHECKED = 200  # images at most that `check` looks at
FROM_DISK = ", from the disk"
CONTROL = "Metadata_Treatment == 'DMSO'"
IMG2IMG = [sys.executable, "-c", "from img2img.cli.main import main; main()", "equalize"]


def fields(size: int, rng: np.random.Generator) -> dict[tuple[str, str, str], list[np.ndarray]]:
    """Return exposed fields by plate, treatment and channel; a drug makes nuclei 1.5 times as bright."""
    tile = min(TILE, size)
    times = -(-size // tile)
    tiles = [nuclei(rng, tile, max(2, tile // 14)) for _ in range(10)]

    def one(plate: str, treatment: str) -> np.ndarray:
        shown = [[tiles[rng.integers(len(tiles))] for _ in range(times)] for _ in range(times)]
        signal = np.block([[brighten(*t) if treatment == "drug" else t[0] for t in row] for row in shown])
        return expose(signal[:size, :size], EFFECTS[plate], rng)

    keys = [(p, t, c) for p in EFFECTS for t in ("DMSO", "drug") for c in CHANNELS]
    return {key: [one(*key[:2]) for _ in range(POOL)] for key in keys}


def make_plates(folder: Path, wells: int, sites: int, size: int) -> Path:
    """Write both plates and the table; return the table."""
    rng = np.random.default_rng(0)
    pool = fields(size, rng)
    fitted, judged = max(round(wells * CONTROLS), 3), max(2 * round(wells * JUDGED / 2), 4)
    rows = []
    for plate in EFFECTS:
        (folder / plate).mkdir(parents=True)
        for well in range(max(wells, fitted + judged) if plate == "B" else fitted + judged):
            use = "fit" if well < fitted else "judge" if well < fitted + judged else "move"
            treatment = "DMSO" if use == "fit" or (use == "judge" and well % 2) else "drug"
            for site in range(1, sites + 1):
                row = {"Metadata_Plate": plate, "Metadata_Well": f"{chr(65 + well // 24)}{well % 24 + 1:02d}"}
                row |= {"Metadata_Site": site, "Metadata_Treatment": treatment, "Metadata_Use": use}
                for channel in CHANNELS:
                    image = pool[plate, treatment, channel][rng.integers(POOL)]
                    row[f"FileName_{channel}"] = f"{plate}/{row['Metadata_Well']}_s{site}_{channel}.tiff"
                    shift = tuple(rng.integers(size, size=2).tolist())
                    tifffile.imwrite(folder / row[f"FileName_{channel}"], np.roll(image, shift, (0, 1)))
                rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "plates.csv", index=False)
    return folder / "plates.csv"


def measured(work, images: int, megabytes: float) -> dict[str, float]:
    """Return the cost of `work()`, which returns the CPU seconds and the kilobytes of memory of a child process."""
    os.sync()
    start, own = time.perf_counter(), time.process_time()
    cpu, memory = work() or (time.process_time() - own, 0)
    os.sync()
    wall = time.perf_counter() - start
    row = {"images": images, "seconds": wall, "seconds_an_image": wall / images, "cpu_seconds_an_image": cpu / images}
    row |= {"megabytes_a_second": megabytes / wall, "peak_megabytes": memory / 1024}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def command(*words: object, stop_after: float | None = None) -> tuple[float, float]:
    """Run `img2img equalize`; return its CPU seconds and its largest memory in kB. A stopped one is sent SIGTERM."""
    child = subprocess.Popen([*IMG2IMG, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if stop_after is not None:
        time.sleep(stop_after)
        os.kill(child.pid, signal.SIGTERM)  # send_signal would reap one that has ended
    errors = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode and stop_after is None:
        raise SystemExit(f"{words[0]} failed: {errors}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def copy(files: list[Path], root: Path, out: Path, jobs: int) -> None:
    def one(path: Path) -> None:
        target = out / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, files))


def forget(files: list[Path]) -> None:
    """Drop files from the system's memory, so that they are read from the disk."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, table: Path, rounds: int, jobs: int, with_report: bool) -> dict[str, list[dict[str, float]]]:
    """Return the costs of each step, in every round."""
    frame = pd.read_csv(table, dtype=str)
    moved = frame[frame.Metadata_Plate == "B"]
    columns = [f"FileName_{channel}" for channel in CHANNELS]
    files = [folder / name for name in moved[columns].to_numpy().ravel()]
    size = (len(moved), sum(path.stat().st_size for path in files) / 1e6)

    def part(rows: pd.DataFrame) -> tuple[int, float]:
        return len(rows), size[1] / size[0] * len(rows)

    equalizer, out = folder / "equalizer", folder / "out"
    transform = ("transform", equalizer, table, "--where", "Metadata_Plate == 'B'", "--out", out, "--jobs", jobs)
    fit = ("fit", table, "--control", CONTROL, "--target", "A", "--where", "Metadata_Use == 'fit'", "--jobs", jobs)
    fit = (*fit, "--min-images", 2, "--out", equalizer)
    fitted, controls = frame[frame.Metadata_Use == "fit"], frame[frame.Metadata_Treatment == "DMSO"]
    check = ("check", table, "--control", CONTROL, "--jobs", jobs)
    quarter = ("--memory", len(fitted) * size[1] / size[0] / 4 * 1e6 / 2**30, "--overwrite")
    found = {
        "check": [measured(lambda: command(*check), *part(controls[:CHECKED]))],
        "fit": [measured(lambda: command(*fit), *part(fitted))],
        "fit, a quarter in memory": [measured(lambda: command(*fit, *quarter), *part(fitted))],
    }
    steps = {
        "copy": lambda: copy(files, folder, out, os.cpu_count() if jobs < 0 else jobs),
        "transform --no-quality": lambda: command(*transform, "--no-quality"),
        "transform": lambda: command(*transform),
    }
    from_disk = {name: steps[name] for name in ("copy", "transform --no-quality") if hasattr(os, "posix_fadvise")}
    for _ in range(rounds):
        for place, chosen in (("", steps), (FROM_DISK, from_disk)):
            for name, work in chosen.items():
                shutil.rmtree(out, ignore_errors=True)
                if place:
                    os.sync()
                    forget(files)
                found.setdefault(name + place, []).append(measured(work, *size))
    found["nothing left to do"] = [measured(lambda: command(*transform), *size)]
    shutil.rmtree(out)
    start, whole = found["nothing left to do"][0]["seconds"], found["transform"][-1]["seconds"]
    command(*transform, stop_after=start + (whole - start) / 2)
    there = len(list(out.rglob("*.tiff"))) // len(CHANNELS)
    found["resumed after a stop"] = [measured(lambda: command(*transform), *size) | {"images_before": there}]
    judged = ("--label", "Metadata_Treatment", "--where", "Metadata_Use == 'judge'", "--out", folder / "report.html")
    report = ("report", equalizer, table, "--control", CONTROL, *judged, "--jobs", jobs)
    if with_report:
        found["report"] = [measured(lambda: command(*report), *part(frame[frame.Metadata_Use == "judge"]))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, default=384)
    parser.add_argument("--sites", type=int, default=9)
    parser.add_argument("--size", type=int, default=1080, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=-1, help="threads; -1 is one for each core")
    parser.add_argument("--no-report", action="store_true", help="leave out the report, which takes the longest")
    parser.add_argument("--folder", type=Path, help="of the plates, three times their size; by default a temporary one")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(1, get_context("spawn")) as other:  # a command's memory counts from its parent's
            table = other.submit(make_plates, folder, options.wells, options.sites, options.size).result()
        found = measure(folder, table, options.rounds, options.jobs, not options.no_report)
    seconds = {name: np.array([row["seconds"] for row in rows]) for name, rows in found.items()}
    for name, rows in found.items():
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        print(f"{name:34}", "  ".join(f"{key} {value:.4g}" for key, value in mean.items()))
        if name.startswith("transform"):
            copied = seconds["copy" + FROM_DISK * name.endswith(FROM_DISK)]
            for what, start in (("", 0), (" after the start", seconds["nothing left to do"])):
                shares = copied / (seconds[name] - start)
                print(f"{'':34} speed{what}, as a share of copying: {', '.join(f'{share:.0%}' for share in shares)}")
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    shown = {key: str(value) for key, value in vars(options).items() if key not in ("folder", "out")}
    options.out.write_text(json.dumps({"options": shown, "machine": machine, "steps": found}, indent=1))


if __name__ == "__main__":
    main()

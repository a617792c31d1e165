"""What several test modules share: grids of cases, runs with reports or stopped, and networks of features."""

import contextlib
import inspect
import itertools
import json
import math
import os
import random
import shutil
import signal
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage

import img2img
from img2img.core.needs import Facts
from img2img.data.scale import Scale
from img2img.methods import METHODS
from img2img.model.file import ModelCard, save_model
from img2img.networks.layers import init_weights
from img2img.report.run import write_report
from img2img.runs.facts import Finding, Progress, Report, RunFacts
from img2img.runs.folder import RunFolder
from img2img.runs.record import LogRow, kinds_of_old
from img2img.training.journal import Journal
from img2img.training.run import Run

# Time


def there(folder, pattern):
    """The files below a folder that others write in, by a pattern of `Path.match`; what vanishes does not count."""
    files = (Path(inside, name) for inside, _, names in os.walk(folder) for name in names)
    return [path for path in files if path.match(pattern)]


def wait_until(condition, seconds=20):
    """Wait for a condition of another thread or process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


# Models

TINY = {
    "size": 32, "width": 4, "d_width": 4, "discriminator": "patch_16", "generator": "resnet_3", "steps": 2,
    "augment": "none", "device": "cpu", "quiet": True,
}  # fmt: skip


def cyclegan_run(folder):
    """Train a tiny CycleGAN of colour images in a run folder, and return it."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for _ in "ab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.training.journal.write_report", lambda *_: None)  # takes longer than such a run
        img2img.train("cyclegan", a=a, b=b, out=folder, **TINY)
    return folder


def runs_to_serve(root):
    """Train and return run folders: colour photos; 16 bits of two channels, with noise; and a sampler with classes."""
    quick = dict(steps=2, augment="none", device="cpu", precision="fp32", quiet=True)
    rng = np.random.default_rng(0)
    deep = [rng.integers(100, 60000, (4, 16, 16, 2)).astype(np.uint16) for _ in "ab"]
    small = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.training.journal.write_report", lambda *_: None)  # takes longer than such a run
        sides = dict(zip("ab", deep, strict=True))
        width = dict(width=2, d_width=2, generator="unet_16", discriminator="patch_16")
        img2img.train("bicyclegan", **sides, out=root / "deep", size=16, **width, **quick, val_fraction=0)
        classes = dict(data=small, labels=["x", "y", "x", "y"])
        img2img.train("cgan", **classes, out=root / "drawn", size=8, latent=3, width=8, d_width=2, **quick)
    return [cyclegan_run(root / "photos"), root / "deep", root / "drawn"]


def axe_rules():
    """Return a function that lists what axe-core finds wrong with the page in a browser: rules and their elements."""
    packages = map(find_spec, ("axe_playwright_python", "axe_core_python"))  # the newest axe-core first; not imported
    package = next(filter(None, packages), None)
    if package is None:
        pytest.skip("needs axe-core, which `scripts/setup test` and `scripts/browser` install")
    source = (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")

    def check(browser):
        browser.execute_script(source)
        answer = browser.execute_async_script(
            """const done = arguments[0]; axe.run({resultTypes: ["violations"]}).then(found => done({passes:
            found.passes.length, violations: found.violations.map(rule => [rule.id, ...rule.nodes.map(node =>
            node.target.join(" ") + ": " + node.failureSummary)])}))"""
        )
        assert answer["passes"] > 8
        return answer["violations"]

    return check


def make_model(path, channels=3, dtype="uint8", out=None, generator="resnet_3", norm="instance", high=None):
    """Write a model with random weights that change colours visibly."""
    config = {"generator": generator, "width": 8, "norm": norm}
    torch.manual_seed(0)
    counts = {"a": channels, "b": out or channels}
    scales = dict.fromkeys("ab", Scale(0, high or int(np.iinfo(dtype).max), dtype))
    method = "pix2pix" if out or generator.startswith("unet") else "cyclegan"
    uses = METHODS[method].build(METHODS[method].Config(**config), Facts(64, counts))
    init_weights(uses["a2b"].network, std=0.1)
    save_model(
        path, ModelCard(method, config, 64, counts, scales, {"a2b": "a2b"}, 0, "0"), {"a2b": uses["a2b"].network}
    )
    return path


def dcgan_run(folder):
    """Train a tiny DCGAN of grey images in a run folder, and return it."""
    options = dict(steps=2, batch_size=3, latent=3, width=2, d_width=2, size=16, quiet=True, device="cpu")
    data = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.training.journal.write_report", lambda *_: None)
        img2img.train("dcgan", out=folder, data=data, **options)
    return folder


def write_photos(root):
    """Write 41 images of several sizes into folders; one cannot be read, and the name of one is not UTF-8."""
    rng = np.random.default_rng(0)
    for k in range(40):
        (root / f"{k % 3}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30 + 9 * k % 40, 40, 3), dtype=np.uint8)).save(root / f"{k % 3}/{k}.png")
    (root / "0" / "0.png").rename(root / "0" / os.fsdecode(b"\xff b.png"))
    (root / "broken.png").write_bytes(b"broken")
    return root


WELLS = 12
SIZES = {3: 0.5, 20: 1.0}  # of the pixels of two rows of `write_plates`, in micrometres; others do not state theirs


def write_plates(root):
    """Write two plates of two channels, with a file that cannot be read, and a table of them, which is returned."""
    rows, rng = [], np.random.default_rng(0)
    for k in range(2 * WELLS):
        plate, files = f"P{1 + k // WELLS}", {}
        (root / plate).mkdir(exist_ok=True)
        for channel in ("DNA", "ER"):
            image = rng.normal(200, 5, (24, 24))
            image[4:12, 5:14] += 500
            path = root / plate / f"{k}-{channel}.ome.tif"
            size = {"PhysicalSizeX": SIZES.get(k), "PhysicalSizeY": SIZES.get(k)} if k in SIZES else {}
            pixels = (image * (1 - 0.2 * (plate == "P2"))).astype("uint16")
            tifffile.imwrite(path, pixels, metadata={"axes": "YX"} | size)
            files[f"FileName_{channel}"] = f"{plate}/{path.name}"
        rows.append(files | {"Metadata_Plate": plate, "Metadata_Well": f"A{k % WELLS:02}"})
    (root / "P1" / "7-ER.ome.tif").write_bytes(b"broken")
    pd.DataFrame(rows).to_csv(root / "plates.csv", index=False)
    return root / "plates.csv"


def fit_plates(table, folder):
    """Fit an equalizer that knows no size of pixels to the table of `write_plates`, and return its folder."""
    bad = [f"A{k % WELLS:02}" for k in (7, *SIZES)]
    wells = f"Metadata_Well in {[f'A{k:02}' for k in range(WELLS) if f'A{k:02}' not in bad]}"
    img2img.BatchEqualizer(target="P1").fit_table(table, where=wells, control=wells).save(folder)
    return folder


# Grids


def over(names="", rows=(), /, **axes):
    """Run the test below over a grid, as one test that names every case that fails.

    `over("suffix, dtype", [(".png", "uint8"), ...])` lists the cases, `over(suffix=[...], dtype=[...])` is the product
    of its axes, and both together are the product of rows and axes. Fixtures are made once, for all cases, but each
    case has a tmp_path of its own, and what it changes through monkeypatch is undone after it. A case that skips is
    left out.
    """
    names = names.replace(",", " ").split()
    rows = [(row if len(names) > 1 else (row,)) for row in rows] if names else [()]
    cases = [
        dict(zip((*names, *axes), (*row, *values), strict=True))
        for row, *values in itertools.product(rows, *axes.values())
    ]

    def decorate(function):
        fixtures = [p for name, p in inspect.signature(function).parameters.items() if name not in (*names, *axes)]

        def test(**given):
            failed, skipped = {}, []
            for number, case in enumerate(cases):
                try:
                    _run_case(function, case, given, number)
                except pytest.skip.Exception as reason:
                    skipped.append(reason)
                except (Exception, pytest.fail.Exception) as error:
                    failed[", ".join(f"{name}={_short(value)}" for name, value in case.items())] = error
            if failed:
                lines = [f"  {name}: {type(e).__name__}: {str(e)[:400]}" for name, e in failed.items()]
                error = AssertionError("\n".join([f"{len(failed)} of {len(cases)} cases failed:", *lines]))
                raise error from next(iter(failed.values()))
            if len(skipped) == len(cases):
                raise skipped[0]

        test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
        test.__signature__ = inspect.Signature(fixtures)
        test.pytestmark, test.cases = list(getattr(function, "pytestmark", [])), cases
        return test

    return decorate


def _run_case(function, case, given, number):
    torch.manual_seed(0)  # no case depends on those before it
    with contextlib.ExitStack() as stack:
        if "tmp_path" in given:
            given = given | {"tmp_path": given["tmp_path"] / f"case{number}"}
            given["tmp_path"].mkdir()
        if "monkeypatch" in given:
            given = given | {"monkeypatch": stack.enter_context(given["monkeypatch"].context())}
        function(**case, **given)


def _short(value):
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Reports

FACTS = RunFacts(method="cyclegan", images={"A": 900, "B": 800}, held_out={"A": 100, "B": 100})
DONE = Progress(4000, 4000)
REPORTED = {
    "l1": {"better": "lower", "range": "0 to 1", "text": "Mean absolute difference from the target."},
    "psnr": {"better": "higher", "range": "0 dB to infinity", "text": "Peak signal-to-noise ratio to the target."},
    "kid[encoder]": {"better": "lower", "range": "0 upwards", "text": "Kernel distance of features."},
    "drift": {"better": "lower", "range": "0 to 1", "text": "Shift of the channels' mean and deviation."},
    "structure": {"better": "higher", "range": "-1 to 1", "text": "Correlation of the edges with the source's."},
    "cycle": {"better": "lower", "range": "0 to 1", "text": "Mean absolute difference after there and back."},
}


def score(value, std=None):
    return {"value": value, "std": std, "note": ""}


def scored(model, nothing, **more):
    """An evaluation with these values of the model and of doing nothing."""
    rows = {"model": model, "do nothing": nothing, **more}
    rows = {row: {name: score(v) for name, v in values.items()} for row, values in rows.items()}
    names = {name for row in rows.values() for name in row}
    protocol = {"images": 100, "direction": "a2b", "paired": True, "size": "256", "model": "model.safetensors"}
    protocol |= {"step": 4000, "features": "encoder", "notes": [], "seconds": 12.3}
    return {"protocol": protocol, "metrics": {n: REPORTED[n] for n in REPORTED if n in names}, "rows": rows}


GOOD = scored(
    {"l1": 0.081, "psnr": 21.4, "kid[encoder]": 0.021, "drift": 0.012, "structure": 0.84, "cycle": 0.034},
    {"l1": 0.192, "psnr": 14.2, "kid[encoder]": 0.153, "drift": 0.094, "structure": 1.0},
    **{"histogram matching": {"l1": 0.151, "psnr": 16.0, "kid[encoder]": 0.119, "drift": 0.008, "structure": 0.97}},
) | {"per_image": {"l1": {f"{i:03d}.png": 0.05 + 0.01 * i for i in range(9)}}}
GOOD["rows"]["model"]["kid[encoder]"]["std"] = 0.0031


def records(steps=4000, every=10, seed=0):
    """Records of a CycleGAN with held-out pairs, whose best l1 is half way."""
    rng, rows = random.Random(seed), []
    for step in range(every, steps + 1, every):
        fall, t = math.exp(-3 * step / steps), step / steps
        row = {"lr": 1.0}
        for side in ("a", "b"):
            row |= {f"g_gan_{side}": 0.3 + rng.gauss(0, 0.05), f"cycle_{side}": 0.05 + 0.2 * fall + rng.gauss(0, 0.01)}
            row |= {f"identity_{side}": 0.04 + 0.1 * fall, f"d_{side}": 0.2 + rng.gauss(0, 0.03)}
            row |= {
                f"d_{side}_real": min(1, 0.8 + rng.gauss(0, 0.08)),
                f"d_{side}_fake": min(1, 0.75 + rng.gauss(0, 0.08)),
            }
        row |= {"grad_G": 3 * fall + 0.5 + rng.random() / 5, "grad_D": 1 + rng.random() / 2}
        row |= {"seconds_per_step": 1.08, "images_per_s": 1.85}
        rows.append(LogRow(step, 1 + step // 900, "train", row))
        if step % max(every, steps // 8) == 0:
            l1 = 0.08 + 0.4 * (t - 0.5) ** 2
            rows.append(LogRow(step, 1, "validation", {"l1": l1, "psnr": 21 - 20 * l1}))
    return rows


def grid(width, height, seed=0):
    """Smooth blobs, as photographs compress."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def run_folder(root, name="h2z", steps=(500, 1000, 4000), size=(300, 120)):
    """A run folder with config and samples."""
    folder = root / name
    (folder / "samples").mkdir(parents=True)
    for step in steps:
        grid(*size, seed=step).save(folder / "samples" / f"{step:08d}.png")
    config = {
        "method": "cyclegan",
        "options": {"a": "horses", "b": "zebras", "size": 256, "lr": 0.0002, "lambda_cycle": 10.0, "d_lr": None},
        "processes": 1,
        "command": "img2img train cyclegan --a horses --b zebras --out checkpoints/h2z",
        "environment": {"img2img": "0.1.0", "torch": "2.14.1", "python": "3.11.7", "system": "Linux x86_64, 2 cores"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def put(folder, name, record):
    (folder / name).write_text(json.dumps(record))


def checkpoints(best=2000):
    scores = {f"models/{s:08d}.safetensors": {"step": s, "l1": score(0.08 + abs(s - best) / 1e5)} for s in
              range(1000, 5000, 1000)}  # fmt: skip
    return {"metric": "l1", "better": "lower", "best": f"models/{best:08d}.safetensors", "scores": scores}


def full_folder(root):
    """A run folder with everything that a report can show, some of it alarming."""
    folder = run_folder(root, steps=(200,), size=(1000, 500))
    for step in range(400, 4001, 200):
        shutil.copy(folder / "samples" / "00000200.png", folder / "samples" / f"{step:08d}.png")
    put(folder, "evaluation.json", GOOD)
    put(folder, "checkpoints.json", checkpoints())
    grid(600, 300).save(folder / "evaluation_images.png")
    findings = [Finding("oscillation", 700, 1100), Finding("discriminator winning", 3100)]
    write_report(RunFolder(folder), records(), Report(FACTS, DONE, findings))
    return folder


def noise_rows():
    """Records of a DCGAN."""
    values = {"g_gan": 0.7, "d": 0.6, "d_real": 0.7, "d_fake": 0.7, "diversity": 0.9, "seconds_per_step": 0.1}
    return [LogRow(step, 1, "train", values | {"grad_G": 0.0}) for step in range(1, 20)]


def journal_in(folder, total, start=0, shorten="", **options):
    """The journal of a run whose scalars have the kinds that their names tell."""
    names = ("d_real", "d_fake", "d_a_real", "d_a_fake", "d_b_real", "d_b_fake", "diversity", "grad_G", "grad_D")
    facts = RunFacts(method="gan", kinds=kinds_of_old(names))
    return Journal(Run(RunFolder(folder), None, facts, "", shorten), total, start, **options)


# Metrics


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def smooth(n, side=24, channels=3, seed=0, wide=None):
    """Images of soft blobs, (n, channels, side, wide) in [-1, 1]."""
    noise = torch.randn(n, channels, side, wide or side, generator=seeded(seed)).numpy()
    x = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 2, 2)))
    return (x / x.abs().amax((1, 2, 3), keepdim=True)).float()


def spoiled(x, amount, seed=1):
    return (x + amount * torch.randn(x.shape, generator=seeded(seed))).clamp(-1, 1)


def save_torchscript(network, example, path):
    """The network as a TorchScript file, which PyTorch still reads and no longer likes to write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, example).save(path)


# Runs

RHYTHM = dict(log_every=4, save_every=4, sample_every=4, validate_every=4)


def at_step(monkeypatch, name, number, action):
    """Call `action(scalars)` on what the method's `number`-th step returns."""
    step, calls = METHODS[name].step, []

    def patched(self, batches):
        scalars = step(self, batches)
        calls.append(1)
        return action(scalars) if len(calls) == number else scalars

    monkeypatch.setattr(METHODS[name], "step", patched)


def terminate(scalars):
    os.kill(os.getpid(), signal.SIGTERM)
    return scalars


def assert_equal(a, b, where="last.pt"):
    """Compare two nested states to the bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def picture(height, width, channels=3, seed=0):
    """Tissue with grain in the middle, glass around it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = (abs(y / height - 0.5) < 0.3) & (abs(x / width - 0.5) < 0.35)
    slope = 120 + 60 * np.sin(np.arange(channels) + (y / 40 + x / 70)[..., None])
    pixels = np.where(inside[..., None], slope + rng.normal(0, 6, (height, width, 1)), 245)
    return pixels.clip(0, 255).astype(np.uint8)

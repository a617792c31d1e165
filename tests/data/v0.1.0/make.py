"""Files of img2img 0.1.0 (commit b0cecff), and the pixels that it made with them.

    PYTHONPATH=CHECKOUT_OF_b0cecff python tests/data/v0.1.0/make.py           # writes the files beside this one
    PYTHONPATH=CHECKOUT_TO_TEST python tests/data/v0.1.0/make.py --check      # compares today's pixels bit for bit

Contents:

    METHOD.safetensors    a model of each method of 0.1.0, after a few steps; grey16 is a CycleGAN of uint16 images
    run/                  a run folder of pix2pix, stopped at step 4; `DATA` in its config.json stands for pairs/
    pairs/                its side-by-side images
    equalizers/MODEL/     fitted equalizers
    public/*.pth          random weights in the layout of the published pix2pix and CycleGAN code
    imported_*.safetensors  what `import_model` of 0.1.0 made of them
    inputs.npz            the images that go in
    outputs.npz           what 0.1.0 gave on a CPU, in fp32, with one thread; `resumed` is run/ after its last step

`--check` demands equal bits, as this machine gave them. tests/test_old_files.py tolerates one level on 0.1 % of the
pixels where a network computes, because CPUs differ in the last bit of a convolution.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import img2img

HERE = Path(__file__).parent
INPUTS = np.load(HERE / "inputs.npz") if (HERE / "inputs.npz").exists() else {}
PLATES, SHOWN = ["old"] * 10 + ["new"] * 10, ["old", "new", "new"]
TINY = {"width": 2, "d_width": 2, "device": "cpu", "precision": "fp32", "quiet": True, "workers": 0}
NOISE = TINY | {"size": 16, "batch_size": 4, "steps": 3, "latent": 8}
TRANSLATION = TINY | {"discriminator": "patch_16", "steps": 3}
CYCLEGAN = TRANSLATION | {"size": 32, "generator": "resnet_3", "width": 1, "pool": 2}
MODELS = {
    "pix2pix": TRANSLATION | {"size": 16, "generator": "unet_16"},
    "cyclegan": CYCLEGAN | {"ema": 0.9},
    "grey16": CYCLEGAN,
    "gan": NOISE | {"width": 4, "d_width": 4},
    "dcgan": NOISE,
    "wgan": NOISE | {"ema": 0.9},
    "wgan_gp": NOISE,
}
STOPPED, STEPS = 4, 8
RUN = TRANSLATION | {"size": 16, "generator": "unet_16", "width": 1, "d_width": 1, "dropout": 0.5}
RUN |= {"steps": STEPS, "log_every": 2, "val_fraction": 0.25, "keep": 0}
RUN_FILES = ("config.json", "log.jsonl", "report.json", "last.pt", "model.safetensors", "evaluation.json")
EQUALIZERS = {
    "tone": {"model": "tone"},
    "tone+field": {"model": "tone+field"},
    "local": {"model": "local", "training": {"steps": 3, "patch": 24, "width": 4, "d_width": 4}},
    "stargan": {
        "model": "stargan",
        "training": {"steps": 3, "patch": 24, "width": 2, "blocks": 1, "d_width": 2, "d_layers": 2},
    },
    "cyclegan": {
        "model": "cyclegan",
        "training": {"steps": 3, "patch": 24, "width": 2, "d_width": 2, "discriminator": "patch_16"},
    },
}


# --- what is computed, then and now -----------------------------------------------------------------------------------


def results() -> dict[str, np.ndarray]:
    """Compute the output of every file, by the names of outputs.npz."""
    found = {}
    for path in (*sorted(HERE.glob("*.safetensors")), HERE / "run"):
        found |= results_of(path)
    for path in sorted((HERE / "equalizers").iterdir()):
        equalizer = img2img.BatchEqualizer.load(path)
        found[f"equalizers/{path.name}"] = equalizer.transform(INPUTS["plates"], batch=SHOWN)
    return found


def results_of(path: Path, name: str = "") -> dict[str, np.ndarray]:
    """Compute what a model draws with a fixed seed, or makes of the input images in each direction."""
    name = name or path.stem
    if name in ("gan", "dcgan", "wgan", "wgan_gp"):
        return {name: img2img.Sampler(path, device="cpu", precision="fp32")(4, 5)}
    images = INPUTS["grey16" if name == "grey16" else "rgb"]
    model = img2img.load(path, device="cpu", precision="fp32", backend="eager")
    directions = {d: model.towards(d) for d in model.card.directions}
    return {f"{name}/{d}": np.stack([one(image) for image in images]) for d, one in directions.items()}


def old_run(folder: Path) -> Path:
    """Copy run/ and pairs/ into `folder`, and let config.json name the copied pairs."""
    run, pairs = folder / "run", folder / "pairs"
    shutil.copytree(HERE / "run", run)
    shutil.copytree(HERE / "pairs", pairs)
    config = json.loads((run / "config.json").read_text())
    config["options"]["ab"] = str(pairs)
    (run / "config.json").write_text(json.dumps(config))
    return run


def resumed(folder: Path) -> dict[str, np.ndarray]:
    """Continue a copy of run/ in `folder` to its last step, and compute its output."""
    run = old_run(folder)
    img2img.train("pix2pix", out=run, resume=True, quiet=True)
    return results_of(run, "resumed")


# --- the files, as 0.1.0 makes them -----------------------------------------------------------------------------------


def make() -> None:
    """Write all files. Needs img2img of b0cecff: what later code writes is not what this folder is for."""
    global INPUTS
    for path in HERE.iterdir():
        if path != Path(__file__):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    grey = {k: _smooth(4, 40, 1, seed) * 257 for k, seed in (("a", 1), ("b", 2))}
    colour = {k: _smooth(4, 40, 3, seed).astype(np.uint8) for k, seed in (("a", 3), ("b", 4))}
    plates = np.concatenate([_smooth(10, 48, 1, 5), _smooth(10, 48, 1, 6) // 2 + 30]).transpose(0, 3, 1, 2)
    plates = plates.astype(np.uint16)
    inputs = {
        "rgb": _smooth(2, 64, 3, 7)[:, :32].astype(np.uint8),
        "grey16": (_smooth(1, 64, 1, 8)[:, :32, :, 0] * 257).astype(np.uint16),
        "plates": plates[9:12],
    }
    np.savez_compressed(HERE / "inputs.npz", **inputs)
    INPUTS = inputs
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for name, options in MODELS.items():
            arrays = {k: x.astype(np.uint16) for k, x in grey.items()} if name == "grey16" else colour
            images = {"data": colour["a"]} if name in ("gan", "dcgan", "wgan", "wgan_gp") else arrays
            out = scratch / name
            img2img.train("cyclegan" if name == "grey16" else name, out=out, **options, **images)
            shutil.copy(out / "model.safetensors", HERE / f"{name}.safetensors")
        _make_run()
        for name, options in EQUALIZERS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                equalizer = img2img.BatchEqualizer(**options, target="old").fit(plates, batch=PLATES)
            equalizer.save(HERE / "equalizers" / name)
    (HERE / "public").mkdir()
    for name, weights in (("resnet", _public_resnet()), ("unet", _public_unet())):
        torch.save(weights, HERE / "public" / f"{name}_net_G.pth")
        img2img.import_model(HERE / "public" / f"{name}_net_G.pth", HERE / f"imported_{name}.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        outputs = results() | resumed(Path(temporary))
        whole = Path(temporary) / "whole"
        img2img.train("pix2pix", out=whole, ab=Path(temporary) / "pairs", **RUN)
        assert np.array_equal(outputs["resumed/a2b"], results_of(whole)["whole/a2b"])
    np.savez_compressed(HERE / "outputs.npz", **outputs)


def _make_run() -> None:
    """Make pairs/ and run/, stopped by a signal in its step `STOPPED` and evaluated then."""
    from img2img.errors import Interrupted
    from img2img.training.loop import _Progress

    pairs, kept = HERE / "pairs", HERE / "run"
    pairs.mkdir()
    for i, (a, b) in enumerate(zip(_smooth(8, 20, 3, 9), _smooth(8, 20, 3, 10), strict=True)):
        Image.fromarray(np.concatenate([a, b], 1).astype(np.uint8)).save(pairs / f"{i}.png")

    def begin(progress: _Progress, step: int, set_lr: Callable[..., None] = _Progress.set_lr) -> None:
        set_lr(progress, step)
        if step == STOPPED:
            os.kill(os.getpid(), signal.SIGINT)

    _Progress.set_lr = begin
    with contextlib.suppress(Interrupted):
        img2img.train("pix2pix", out=kept, ab=pairs, **RUN)
    _Progress.set_lr = begin.__defaults__[0]
    img2img.evaluate(kept, device="cpu", precision="fp32")
    for path in kept.iterdir():
        if path.name not in RUN_FILES:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("config.json", "evaluation.json", "report.json"):  # no path of this machine
        text = (kept / name).read_text().replace(str(pairs), "DATA").replace(str(kept), "RUN")
        (kept / name).write_text(text)
    config = json.loads((kept / "config.json").read_text())
    config["command"], config["environment"]["folder"] = "img2img train pix2pix --ab DATA", "img2img"
    (kept / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _smooth(count: int, size: int, channels: int, seed: int) -> np.ndarray:
    """Return images (N, size, size, C) from 0 to 255: waves, which compress well and are no noise."""
    y, x = np.mgrid[:size, :size] / size
    k = np.random.default_rng(seed).uniform(-9, 9, (3, count, 1, 1, channels))
    waves = np.sin(k[0] * x[..., None] + k[1] * y[..., None] + k[2])
    return (np.rint((waves + 1) * 127.5)).astype(np.int64)


def _public_resnet(width: int = 1, blocks: int = 6) -> dict[str, torch.Tensor]:
    """Weights of a ResNet with instance norms, reflected borders and no dropout; trained in colour."""
    w, last = width, 10 + blocks
    shapes = {"1": (w, 3, 7, 7), "4": (2 * w, w, 3, 3), "7": (4 * w, 2 * w, 3, 3)}
    shapes |= {f"{10 + i}.conv_block.{place}": (4 * w, 4 * w, 3, 3) for i in range(blocks) for place in (1, 5)}
    shapes |= {str(last): (4 * w, 2 * w, 3, 3), str(last + 3): (2 * w, w, 3, 3), str(last + 7): (3, w, 7, 7)}
    transposed = (str(last), str(last + 3))
    random, weights = torch.Generator().manual_seed(1), {}
    for name, shape in shapes.items():
        weights[f"model.{name}.weight"] = 0.15 * torch.randn(shape, generator=random)
        weights[f"model.{name}.bias"] = 0.1 * torch.randn(shape[name in transposed], generator=random)
    return weights


def _public_unet(width: int = 1, depth: int = 5) -> dict[str, torch.Tensor]:
    """Weights of a U-Net with batch norms, whose averages are in the file."""
    w = [width * min(2**level, 8) for level in range(depth)]
    random, weights, prefix = torch.Generator().manual_seed(2), {}, "model.model"

    def draw(name: str, *shape: int) -> None:
        weights[f"{prefix}.{name}"] = 0.15 * torch.randn(shape, generator=random)

    def norm(place: int, channels: int) -> None:
        draw(f"{place}.weight", channels)
        weights[f"{prefix}.{place}.weight"] += 1
        draw(f"{place}.bias", channels)
        weights[f"{prefix}.{place}.running_mean"] = torch.zeros(channels)
        weights[f"{prefix}.{place}.running_var"] = torch.ones(channels)
        weights[f"{prefix}.{place}.num_batches_tracked"] = torch.tensor(0)

    for level in range(depth):
        if level == 0:
            draw("0.weight", w[0], 3, 4, 4)
            draw("3.weight", 2 * w[0], 3, 4, 4)
            draw("3.bias", 3)
        else:
            innermost = level == depth - 1
            up = 3 if innermost else 5
            draw("1.weight", w[level], w[level - 1], 4, 4)
            draw(f"{up}.weight", w[level] if innermost else 2 * w[level], w[level - 1], 4, 4)
            norm(up + 1, w[level - 1])
            if not innermost:
                norm(2, w[level])
        prefix += ".1.model" if level == 0 else ".3.model"
    return weights


def check() -> int:
    """Print every output that is not bit-equal to the one of 0.1.0; return how many there are."""
    expected, differing = np.load(HERE / "outputs.npz"), 0
    with tempfile.TemporaryDirectory() as temporary:
        found = results() | resumed(Path(temporary))
    for name in sorted({*expected, *found}):
        if name not in found or name not in expected:
            print(f"{name}: only in {'outputs.npz' if name in expected else 'todays results'}")
        elif expected[name].dtype != found[name].dtype or not np.array_equal(expected[name], found[name]):
            off = np.abs(expected[name].astype(float) - found[name])
            print(f"{name}: {(off > 0).mean():.2%} of the values differ, by up to {off.max()}")
        else:
            continue
        differing += 1
    print(f"{len(found) - differing} of {len(found)} outputs are bit-equal to those of 0.1.0 ({img2img.__file__})")
    return differing


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(min(check(), 1)) if "--check" in sys.argv else make()

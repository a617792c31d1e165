"""Fixtures shared by all tests: tiny folders of images and tiny training options."""

import io
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.cli import main as cli
from img2img.errors import Img2ImgError

os.environ.setdefault("RAY_worker_niceness", "0")  # at 15, as Ray has it, workers wait for the other tests
torch.set_num_threads(1)  # tiny maps; with more, threads wait for each other on a busy machine


def refused(kind, function, *args, **options):
    """The one sentence in which `function` refuses its arguments."""
    with pytest.raises(kind) as error:
        function(*args, **options)
    text = str(error.value)
    assert isinstance(error.value, Img2ImgError) and "\n" not in text and text.endswith("."), text
    return text


def write_images(folder, count, size, seed):
    """Write `count` random RGB PNGs of `size` (width, height) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    width, height = size
    for index in range(count):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture
def command_line(monkeypatch, capsys):
    """`img2img WORDS` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["img2img", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def blank_curves(monkeypatch):
    """Reports whose curves are blank: drawing them takes longer than a run of tests. Tests of reports override this."""
    blank = io.BytesIO()
    Image.new("L", (2, 2)).save(blank, "PNG")
    monkeypatch.setattr("img2img.report.run.draw_panel", lambda *_: blank.getvalue())


@pytest.fixture
def few_probes(monkeypatch):
    """Judgements that repeat less, for tests that do not look at their numbers."""
    monkeypatch.setattr("img2img.lab.judgement.probes.PERMUTATIONS", 2)
    monkeypatch.setattr("img2img.lab.judgement.probes.TREES", 5)


@pytest.fixture
def unpaired(tmp_path):
    """Two folders of unpaired 32x32 images: 6 of domain a, 5 of domain b."""
    return (
        write_images(tmp_path / "plain", 6, (32, 32), seed=1),
        write_images(tmp_path / "striped", 5, (32, 32), seed=2),
    )


@pytest.fixture
def pairs(tmp_path):
    """A folder of 6 side-by-side pairs, 64x32 each."""
    return write_images(tmp_path / "pairs", 6, (64, 32), seed=3)


@pytest.fixture
def quick():
    """Training options small enough for a test."""
    return dict(
        size=32,
        width=4,
        d_width=4,
        discriminator="patch_16",
        steps=4,
        device="cpu",
        precision="fp32",
        quiet=True,
        log_every=2,
        save_every=2,
        sample_every=2,
        validate_every=2,
    )


@pytest.fixture
def images(unpaired, pairs):
    """The options that name the images, by method."""
    return {"cyclegan": dict(a=unpaired[0], b=unpaired[1]), "pix2pix": dict(ab=pairs)}


@pytest.fixture
def options(images, quick):
    """The options of a tiny run, by method."""
    generators = {"cyclegan": "resnet_3", "pix2pix": "unet_32"}
    return {name: quick | {"generator": generators[name]} | images[name] for name in generators}

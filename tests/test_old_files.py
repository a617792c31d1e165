"""Files of img2img 0.1.0 open, and give the pixels that they gave; tests/data/v0.1.0/make.py says what they are."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import img2img
from img2img.report.run import rewrite_report

OLD = Path(__file__).parent / "data" / "v0.1.0"
EXACT = ("equalizers/tone", "equalizers/tone+field")  # curves and fields: table look-ups and float64
pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.equalizer.LabWarning")


@pytest.fixture(scope="module")
def made():
    """The functions of make.py."""
    return runpy.run_path(str(OLD / "make.py"))


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(OLD / "outputs.npz"))


def differences(expected, found):
    """Sentences about the outputs that are not those of 0.1.0; CPUs differ in the last bit of a convolution."""
    for name, was in expected.items():
        out = found.get(name)
        if out is None or out.dtype != was.dtype or out.shape != was.shape:
            yield f"{name}: {None if out is None else (out.dtype, out.shape)}, not {(was.dtype, was.shape)}"
            continue
        off = np.abs(out.astype(np.float64) - was)
        most = 1e-2 if out.dtype == np.uint16 else 1e-3  # whose levels are 256 times as close to each other
        if off.max() > (0 if name in EXACT else 1) or (off > 0).mean() > most:
            yield f"{name}: {(off > 0).mean():.2%} of the values differ, by up to {off.max()}"


def test_every_file_gives_the_pixels_that_it_gave(made, expected):
    found = made["results"]()
    before = {name: x for name, x in expected.items() if not name.startswith("resumed")}
    assert found.keys() == before.keys()
    assert not list(differences(before, found))
    assert {"pix2pix", "cyclegan", "gan", "dcgan", "wgan", "wgan_gp"} <= {name.split("/")[0] for name in found}


def test_load_opens_every_kind_of_file():
    kinds = {
        "Translator": ["cyclegan.safetensors", "grey16.safetensors", "pix2pix.safetensors", "run"],
        "Sampler": ["gan.safetensors", "dcgan.safetensors", "wgan.safetensors", "wgan_gp.safetensors"],
        "BatchEqualizer": [f"equalizers/{path.name}" for path in (OLD / "equalizers").iterdir()],
    }
    wrong = []
    for kind, paths in kinds.items():
        for path in paths:
            opened = img2img.load(OLD / path, device="cpu")
            if not isinstance(opened, getattr(img2img, kind)):
                wrong.append(f"{path} is a {type(opened).__name__}, not a {kind}")
    assert not wrong


def test_a_stopped_run_is_resumed_to_the_end_of_the_old_one(made, expected, tmp_path):
    found = made["resumed"](tmp_path)
    run = tmp_path / "run"
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 8 and steps == sorted(steps)
    assert torch.load(run / "last.pt", weights_only=True)["step"] == 8
    (name,) = found
    off = np.abs(found[name].astype(np.float64) - expected[name])
    assert off.mean() < 0.5, off.mean()  # make.py --check demands equal bits; four steps of Adam amplify the last one
    before = np.abs(expected["run/a2b"].astype(np.float64) - expected[name])
    assert before.mean() > 4 * off.mean()  # it did train


def test_an_old_run_without_resume_is_the_same_call(made, tmp_path):
    """The documented call of then, on the folder of then."""
    run = made["old_run"](tmp_path)
    tiny = dict(size=16, generator="unet_16", discriminator="patch_16", width=1, d_width=1, dropout=0.5)
    where = dict(device="cpu", precision="fp32", workers=0, quiet=True)
    length = dict(steps=8, log_every=2, val_fraction=0.25, keep=0)
    model = img2img.train("pix2pix", ab=tmp_path / "pairs", out=run, **tiny, **where, **length)
    assert model.card.step == 8


def test_the_report_of_an_old_run_is_written_again(made, tmp_path):
    run = made["old_run"](tmp_path)
    rewrite_report(run)
    page = (run / "report.html").read_text()
    for text in ("pix2pix", "6 images of A, 6 of B", "do nothing", "histogram matching"):
        assert text in page, text


def test_an_old_run_is_evaluated_again(made, tmp_path):
    run = made["old_run"](tmp_path)
    before = json.loads((run / "evaluation.json").read_text())["rows"]
    scores = img2img.evaluate(run, device="cpu", precision="fp32")
    after = json.loads((run / "evaluation.json").read_text())["rows"]
    assert scores is not None
    for row, values in before.items():
        for metric, value in values.items():
            assert after[row][metric]["value"] == pytest.approx(value["value"], rel=1e-3), (row, metric)


def test_public_weights_become_the_model_that_they_became(made, expected, tmp_path):
    found = {}
    for path in sorted((OLD / "public").iterdir()):
        name = f"imported_{path.stem.removesuffix('_net_G')}"
        found |= made["results_of"](img2img.import_model(path, tmp_path / f"{name}.safetensors"))
    assert found and not list(differences({name: expected[name] for name in found}, found))

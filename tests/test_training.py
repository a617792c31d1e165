"""Training runs: exact resume, what a run leaves behind, what stops it, several processes."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import RHYTHM, assert_equal, at_step, terminate
from PIL import Image
from safetensors.torch import load_file

import img2img
from img2img.core.needs import Facts
from img2img.errors import ConfigError, Interrupted, ModelFileError, TrainingError
from img2img.methods import METHODS
from img2img.model.file import as_os_error, load_resume, read_card
from img2img.training.config import Schedule
from img2img.training.ema import Ema

ROOT = Path(img2img.__file__).parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# Everything random is on: dropout, pools that are full before the end, accumulation, and a moving average.
RANDOM = {
    "cyclegan": dict(generator="resnet_3", dropout=0.3, pool=3, ema=0.9, accumulate=2),
    "pix2pix": dict(generator="unet_64", size=64, dropout=0.5, ema=0.9, val_fraction=0.34),
}


def log_of(folder, kind=None):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]


@pytest.mark.parametrize(("name", "stop"), [("cyclegan", 4), ("cyclegan", 5), ("pix2pix", 4)])
def test_eight_steps_are_four_and_a_stop_and_four(name, stop, options, tmp_path, monkeypatch):
    config = options[name] | RANDOM[name] | RHYTHM | {"steps": 8}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    img2img.train(name, out=whole, **config)

    with monkeypatch.context() as patch:
        at_step(patch, name, stop * config.get("accumulate", 1), terminate)
        with pytest.raises(Interrupted, match=f"Stopped and saved at step {stop}. To resume: .* --resume") as stopped:
            img2img.train(name, out=parts, **config)
    assert stopped.value.signal == signal.SIGTERM
    assert load_resume(parts / "last.pt")["step"] == stop
    img2img.train(name, out=parts, **config)

    assert_equal(load_resume(whole / "last.pt"), load_resume(parts / "last.pt"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert [p.name for p in sorted((whole / "samples").iterdir())] == [
        p.name for p in sorted((parts / "samples").iterdir())
    ]
    for sample in (whole / "samples").iterdir():
        assert sample.read_bytes() == (parts / "samples" / sample.name).read_bytes()
    if stop == 4:
        timing = ("seconds_per_step", "images_per_s")
        logs = [[{k: x for k, x in row.items() if k not in timing} for row in log_of(f)] for f in (whole, parts)]
        assert logs[0] == logs[1]


def test_runs_of_another_seed_differ(options, tmp_path):
    config = options["cyclegan"] | RHYTHM | {"steps": 1}
    for seed in (0, 1):
        img2img.train("cyclegan", out=tmp_path / str(seed), seed=seed, **config)
    a, b = (load_file(tmp_path / str(seed) / "model.safetensors") for seed in (0, 1))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_resume_takes_its_options_from_the_run(options, tmp_path, monkeypatch):
    config, out = options["cyclegan"] | RHYTHM, tmp_path / "run"
    at_step(monkeypatch, "cyclegan", 2, terminate)
    with pytest.raises(Interrupted):
        img2img.train("cyclegan", out=out, **config)
    img2img.train("cyclegan", out=out, resume=True, quiet=True)
    assert load_resume(out / "last.pt")["step"] == 4


def test_a_finished_run_stays_as_it_is(options, tmp_path):
    config, out = options["cyclegan"] | RHYTHM | {"steps": 1}, tmp_path / "run"
    img2img.train("cyclegan", out=out, **config)
    before = (out / "last.pt").read_bytes()
    img2img.train("cyclegan", out=out, **config)
    assert (out / "last.pt").read_bytes() == before


@pytest.mark.parametrize(("field", "value", "was"), [("lr", 1e-3, "0.0002"), ("pool", 7, "50"), ("seed", 3, "0")])
def test_another_option_on_resume_is_refused(field, value, was, options, tmp_path):
    config, out = options["cyclegan"] | RHYTHM | {"steps": 1}, tmp_path / "run"
    img2img.train("cyclegan", out=out, **config)
    before = (out / "last.pt").read_bytes()
    with pytest.raises(ConfigError, match=f"other options: {field} was {was}, now {value}. Give the same options"):
        img2img.train("cyclegan", out=out, **config | {field: value})
    assert (out / "last.pt").read_bytes() == before
    img2img.train("cyclegan", out=out, **config | {"log_every": 1})  # a rhythm may change


def test_resume_without_a_run_is_refused(options, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing to resume in .*nowhere: it holds no last.pt"):
        img2img.train("cyclegan", out=tmp_path / "nowhere", resume=True, **options["cyclegan"])
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_checkpoint_is_refused(options, tmp_path):
    config, out = options["cyclegan"] | RHYTHM | {"steps": 1}, tmp_path / "run"
    img2img.train("cyclegan", out=out, **config)
    (out / "last.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelFileError, match=r"last\.pt cannot be resumed from: it is damaged"):
        img2img.train("cyclegan", out=out, **config)


@pytest.mark.parametrize(("name", "loss"), [("cyclegan", "cycle"), ("pix2pix", "l1")])
def test_a_loss_that_is_not_finite_stops_the_run(name, loss, options, tmp_path, monkeypatch):
    out = tmp_path / "run"
    at_step(monkeypatch, name, 3, lambda scalars: scalars | {loss: torch.tensor(float("nan"))})
    with pytest.raises(TrainingError, match=f"At step 4 the loss '{loss}' is no longer a finite .*; step 2 is kept in"):
        img2img.train(name, out=out, **options[name])
    state = load_resume(out / "last.pt")
    assert state["step"] == 2
    assert read_card(out / "model.safetensors").step == 2
    assert all(torch.isfinite(x).all() for x in state["method"].values() if isinstance(x, torch.Tensor))


@pytest.mark.parametrize("rhythm", [{}, {"keep": 4, "save_every": 100}])
def test_weights_that_are_not_finite_are_not_saved(rhythm, options, tmp_path, monkeypatch):
    """Neither at a save nor as one of the models that are kept on the way."""
    step = METHODS["cyclegan"].step

    def overflowing(self, batches):
        scalars = step(self, batches)
        with torch.no_grad():
            next(self.g_ab.parameters()).fill_(torch.inf)
        return scalars

    monkeypatch.setattr(METHODS["cyclegan"], "step", overflowing)
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"At step . a weight is no longer a finite number; nothing was saved yet"):
        img2img.train("cyclegan", out=out, **options["cyclegan"] | {"log_every": 100} | rhythm)
    assert not (out / "last.pt").exists()
    assert not list(out.rglob("*.safetensors"))


# The learning rate.


@pytest.mark.parametrize(("steps", "decay"), [(10, 0.5), (7, 0.3), (10, 0.0), (10, 1.0), (1, 0.5)])
def test_learning_rate_by_steps(steps, decay):
    schedule = Schedule(steps, 3, False, decay)
    n_decay = round(steps * decay)
    factors = [schedule.lr_factor(step) for step in range(1, steps + 1)]
    expected = [1 - max(0, e - (steps - n_decay)) / (n_decay + 1) for e in range(1, steps + 1)]
    assert factors == pytest.approx(expected)
    assert factors[-1] == pytest.approx(1 / (n_decay + 1)) and min(factors) > 0
    assert factors[: steps - n_decay] == [1] * (steps - n_decay)


def test_learning_rate_by_epochs():
    schedule = Schedule(10 * 3, 3, True, 0.5)
    factors = [schedule.lr_factor(step) for step in range(1, 31)]
    by_epoch = [1, 1, 1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert factors == pytest.approx([factor for factor in by_epoch for _ in range(3)])
    assert [schedule.epoch(step) for step in (1, 3, 4, 30)] == [1, 1, 2, 10]


def test_the_run_uses_the_schedule(options, tmp_path):
    img2img.train("cyclegan", out=tmp_path / "run", **options["cyclegan"] | {"log_every": 1, "save_every": 4})
    rows = log_of(tmp_path / "run")
    assert [row["lr"] for row in rows] == pytest.approx([1, 1, 2 / 3, 1 / 3], abs=1e-6)
    for optimizer in load_resume(tmp_path / "run" / "last.pt")["optimizers"].values():
        assert optimizer["param_groups"][0]["lr"] == pytest.approx(2e-4 / 3)


# What a run leaves behind.


def test_run_folder_of_pairs(options, tmp_path):
    out = tmp_path / "run"
    model = img2img.train("pix2pix", out=out, **options["pix2pix"] | {"val_fraction": 0.34})
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.json", "log.jsonl", "curves.png", "report.html", "report.json", "model_card.md", "samples", "models"),
        *("last.pt", "model.safetensors", "best.safetensors", "evaluation.json", "evaluation_images.png"),
    }
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["00000002.png", "00000004.png"]
    with Image.open(out / "samples" / "00000004.png") as sheet, Image.open(out / "curves.png") as curves:
        assert sheet.width > 3 * 32 and sheet.height > 2 * 32
        assert curves.format == "PNG"
    record = json.loads((out / "config.json").read_text())
    assert record["method"] == "pix2pix"
    assert record["options"]["generator"] == "unet_32" and record["options"]["steps"] == 4
    page = (out / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and 'src="data:image/png' in page
    assert [row["step"] for row in log_of(out, "train")] == [2, 4]
    scores = {row["step"]: row["l1"] for row in log_of(out, "validation")}
    assert list(scores) == [2, 4]
    assert read_card(out / "best.safetensors").step == min(scores, key=scores.get)
    assert read_card(out / "model.safetensors").step == 4
    assert load_resume(out / "last.pt")["best"] == pytest.approx(min(scores.values()), abs=1e-6)
    assert model.path == out / "model.safetensors" or model.path == out


def test_run_folder_without_pairs(options, tmp_path):
    out = tmp_path / "run"
    img2img.train("cyclegan", out=out, **options["cyclegan"])
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.json", "log.jsonl", "curves.png", "report.html", "report.json", "model_card.md", "samples", "models"),
        *("last.pt", "model.safetensors"),
    }
    assert set(read_card(out / "model.safetensors").directions) == {"a2b", "b2a"}


def test_last_pt_executes_nothing(options, tmp_path):
    img2img.train("cyclegan", out=tmp_path / "run", **options["cyclegan"] | RHYTHM | {"steps": 1})
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == 1
    assert set(state["optimizers"]) == {"G", "D"}


# The moving average.


def test_ema_follows_the_formula():
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    ema, expected = Ema([network], 0.5), 0.0
    for step in range(1, 30):
        with torch.no_grad():
            network.weight.fill_(step)
        ema.update()
        decay = min(0.5, step / (step + 10))
        expected = decay * expected + (1 - decay) * step
    with ema.applied():
        assert network.weight.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert network.weight.flatten().tolist() == [29, 29]


def test_ema_off_costs_nothing():
    network = torch.nn.Linear(2, 1)
    ema = Ema([network], 0.0)
    ema.update()
    assert ema.average == []
    before = network.weight.clone()
    with ema.applied():
        assert torch.equal(network.weight, before)


def test_the_model_file_holds_the_average(options, tmp_path):
    out = tmp_path / "run"
    img2img.train("cyclegan", out=out, **options["cyclegan"] | RHYTHM | {"ema": 0.9})
    state, model = load_resume(out / "last.pt"), load_file(out / "model.safetensors")
    names = [f"{d}.{k.removeprefix(g + '.')}" for d, g in (("a2b", "g_ab"), ("b2a", "g_ba")) for k in state["method"]
             if k.startswith(g + ".")]  # fmt: skip
    assert sorted(names) == sorted(model)
    for name, average in zip(names, state["ema"]["average"], strict=True):
        assert torch.equal(model[name], average)
    own = state["method"]["g_ab.layers.1.weight"]
    assert not torch.equal(model["a2b.layers.1.weight"], own)


# Other processes.


def command(name, config, out):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in config.items() if k != "quiet"]
    return ["-m", "img2img", "train", name, *flags, f"--out={out}"]


@pytest.mark.slow
def test_a_killed_run_goes_on(options, tmp_path):
    config, out = options["cyclegan"] | {"steps": 12, "save_every": 1, "sample_every": 100}, tmp_path / "run"
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen([sys.executable, *command("cyclegan", config, out)], env=ENV, stderr=output)
        deadline = time.monotonic() + 120
        while not (out / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert process.poll() is None, (tmp_path / "output.txt").read_text()
        process.kill()
        process.wait()
    step = load_resume(out / "last.pt")["step"]
    assert 1 <= step < 12
    img2img.train("cyclegan", out=out, **config)
    assert load_resume(out / "last.pt")["step"] == 12
    assert not list(out.glob(".*")), "parts of files are left behind"
    steps = [row["step"] for row in log_of(out)]
    assert steps == sorted(set(steps)) and steps[-1] == 12


# Plain descent instead of Adam, whose first moves are the gradient's sign: the weights then differ by as little as
# the gradients do. The moves are small against the weights, or they amplify the rounding of the first step.
WORKER = """
import json, sys
import torch
import img2img
from img2img.core.method import Method

def player(self, name, *networks, lr, optimizer):
    parameters = [p for network in networks for p in network.parameters()]
    self.optimizers[name] = torch.optim.SGD(parameters, lr=2.5 * lr)

Method.player = player
name, out, config = sys.argv[1:]
img2img.train(name, out=out, **json.loads(config))
"""
SPREAD = {
    "cyclegan": dict(pool=0),
    "pix2pix": dict(norm="batch", dropout=0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("cyclegan", marks=pytest.mark.nightly), "pix2pix"])
def test_two_processes_equal_one(name, options, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    rhythm = dict(log_every=3, save_every=3, sample_every=3, validate_every=3)
    config = {k: str(v) if isinstance(v, Path) else v for k, v in options[name].items()}
    config |= SPREAD[name] | rhythm | {"steps": 3, "workers": 0, "decay": 0.0}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    states = []
    for batch_size, prefix in ((2, []), (1, torchrun)):
        out = tmp_path / f"batch_{batch_size}"
        arguments = [str(script), name, str(out), json.dumps(config | {"batch_size": batch_size})]
        done = subprocess.run(
            [sys.executable, *prefix, *arguments], env=ENV, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert "FutureWarning" not in done.stderr
        states.append(load_resume(out / "last.pt"))
    one, two = (state["method"] for state in states)
    assert len(states[0]["ranks"]) == 1 and len(states[1]["ranks"]) == 2
    torch.manual_seed(0)
    fields = {k: v for k, v in options[name].items() if k in METHODS[name].Config.__dataclass_fields__} | SPREAD[name]
    start = METHODS[name](METHODS[name].Config(**fields), Facts(32, {"a": 3, "b": 3})).state_dict()
    for parameter, x in one.items():
        if isinstance(x, torch.Tensor) and not parameter.endswith("_extra_state"):
            torch.testing.assert_close(two[parameter], x, atol=2e-6, rtol=1e-5, msg=lambda m, p=parameter: f"{p}: {m}")
    moved = max((one[k] - start[k]).abs().max().item() for k in one if not k.endswith("_extra_state"))
    assert moved > 1e-3, "nothing was trained"


def test_a_full_disk_is_a_sentence_and_loses_nothing(pairs, quick, tmp_path, monkeypatch):
    options = quick | {"ab": pairs, "out": tmp_path / "run", "generator": "unet_32"}
    save, calls = torch.save, []

    def fails_the_second_time(state, path):
        calls.append(path)
        if len(calls) > 1:
            raise RuntimeError("basic_ios::clear: iostream error")
        save(state, path)

    monkeypatch.setattr(torch, "save", fails_the_second_time)
    with pytest.raises(TrainingError, match=r"Cannot write .*last.pt: the disk is full.*step 2 is kept"):
        img2img.train("pix2pix", **options)
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert kept["step"] == 2
    assert [path for path in (tmp_path / "run").rglob("*") if "img2img-part" in path.name] == []


def test_only_errors_of_writing_are_called_a_full_disk(tmp_path, monkeypatch):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    writing = ["[enforce fail at inline_container.cc:672] . unexpected pos", "basic_ios::clear: iostream error"]
    for text in writing:
        with pytest.raises(OSError, match="the disk is full or does not take the file"), as_os_error(tmp_path):
            raise RuntimeError(text)
    for size in (1, 10**5):  # torch reports the second one in an error of its own
        with pytest.raises(OSError, match=r"disk is full|No space left"), as_os_error(tmp_path):
            torch.save(torch.zeros(size), Full())
    for text in ("Some tensors share memory", "CUDA error: an illegal memory access was encountered"):
        with pytest.raises(RuntimeError, match=text), as_os_error(tmp_path):
            raise RuntimeError(text)


def test_a_run_folder_that_was_taken_away_is_not_said_to_keep_anything(pairs, quick, tmp_path, monkeypatch):
    out = tmp_path / "run"
    at_step(monkeypatch, "pix2pix", 3, lambda scalars: shutil.rmtree(out) or scalars)
    with pytest.raises(TrainingError, match=r"Cannot write .*; .*run with all that was saved is gone\."):
        img2img.train("pix2pix", ab=pairs, out=out, generator="unet_32", **quick)

"""The command line: help, mistakes, and a run from end to end."""

import contextlib
import csv
import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import tifffile
import typer
from helpers import over
from PIL import Image

from img2img import BatchEqualizer, __version__
from img2img.cli import equalize as cli_equalize, main as cli
from img2img.cli.equalize import add_equalizing
from img2img.cli.terminal import stoppable
from img2img.errors import Interrupted
from img2img.lab import Manifest
from img2img.lab.judgement.verdict import BANNER
from img2img.lab.synthetic import EFFECTS, brighten, expose, nuclei
from img2img.methods import METHODS
from img2img.options.declared import unused_in
from img2img.runs.record import OPERATIONAL
from img2img.training.config import groups_of

ROOT = Path(cli.__file__).parents[2]
FIELDS = [
    (name, field.name, get_args(get_type_hints(config, include_extras=True)[field.name])[1])
    for name, method in METHODS.items()
    for config in groups_of(method.Config)
    for field in dataclasses.fields(config)
    if field.name not in unused_in(*groups_of(method.Config))
]


@pytest.fixture(scope="module")
def methods():
    cli.add_methods()
    yield
    cli.train.registered_commands.clear()


@pytest.fixture
def call(methods, monkeypatch, command_line):
    """The command line, with the methods added once for all tests."""
    monkeypatch.setattr(cli, "add_methods", lambda: None)
    return command_line


def python(*words, **kwargs):
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=env, **kwargs)


def squeezed(text):
    return re.sub(r"[\s│|]+", "", text)


# Help


WITH_CODE_2 = ["train cyclgan", "train cyclegan --stesp 3", "train dcgan --depth x", "equalize fti"]
WITH_CODE_2 += ["train cyclegan --a x --b y --generator resnet_5", "train cyclegan --a x --b y --lr nan"]
WITH_CODE_2 += ["equalize fit x.csv --out y --max-change 2", "translate x y --out z --channels each_one"]


@pytest.mark.parametrize(
    "words",
    ["--version", "-V", "-h", "train -h", *(f"train {name} -h" for name in METHODS), "equalize -h"]
    + [f"equalize {name} -h" for name in ("check", "fit", "add", "transform", "report")]
    + [
        f"{name} --help"
        for name in (
            "translate",
            "sample",
            "classify",
            "evaluate",
            "compare",
            "push",
            "import",
            "export",
            "info",
            "demo",
            "doctor",
        )
    ]
    + WITH_CODE_2,
)
def test_neither_help_nor_a_typo_waits_for_torch(words):
    code = 2 if words in WITH_CODE_2 else 0
    script = (
        "import sys\nfrom img2img.cli import main as cli\n"
        f"sys.argv = ['img2img', *{words.split()!r}]\n"
        f"try:\n    cli.main()\nexcept SystemExit as stop:\n    assert (stop.code or 0) == {code}\n"
        "heavy = {'torch', 'torchvision', 'albumentations', 'cv2', 'matplotlib', 'torchmetrics', 'numpy'}\n"
        "heavy |= {'sklearn', 'skimage', 'scipy', 'pandas'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (done.stderr if code else done.stdout).strip()


def test_import_img2img_does_not_wait_for_torch():
    done = python("-c", "import sys, img2img; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0


def test_version(call):
    code, out, _ = call("--version")
    assert (code, out.count("\n")) == (0, 1) and out.startswith(
        f"img2img {__version__}, torch {metadata.version('torch')}, Python"
    )


def test_every_command_has_help(methods):
    def walk(group, path):
        for name, command in group.commands.items():
            here = (*path, name)
            assert command.help, here
            yield here
            for parameter in command.params:
                assert getattr(parameter, "hidden", False) or parameter.name == "help" or parameter.help, (
                    here,
                    parameter.name,
                )
            if hasattr(command, "commands"):
                yield from walk(command, here)

    add_equalizing(cli.equalize)
    found = set(walk(typer.main.get_command(cli.app), ()))
    assert found >= {("translate",), ("demo",), ("train",), *(("train", name) for name in METHODS)}
    assert found >= {("equalize",), *(("equalize", name) for name in ("check", "fit", "add", "transform", "report"))}


def test_train_lists_the_methods(call):
    code, out, _ = call("train", "--help")
    assert code == 0 and all(name in out for name in METHODS)


def test_every_option_is_in_the_help_with_its_text(call):
    pages = {method: call("train", method, "--help") for method in METHODS}
    assert all(code == 0 for code, _, _ in pages.values())
    missing = [
        (method, option)
        for method, option, text in FIELDS
        if f"--{option.replace('_', '-')}" not in re.split(r"[\s,/]+", pages[method][1])
        or squeezed(text) not in squeezed(pages[method][1])
    ]
    assert missing == []


def test_help_is_in_the_order_of_the_work(call):
    _, page, _ = call("-h")
    commands = re.findall(r"^│ (\w+) ", page, re.MULTILINE)
    assert commands == [
        "train",
        "translate",
        "distill",
        "evaluate",
        "compare",
        "sample",
        "classify",
        "serve",
        "push",
        "equalize",
        "report",
        "export",
        "import",
        "info",
        "demo",
        "doctor",
    ]
    _, page, _ = call("train", "cyclegan", "-h")
    panels = re.findall(r"^╭─ (.*?) ─", page, re.MULTILINE)
    assert panels == ["Data", "Length", "Networks", "Adversarial game", "Run", "Evaluation"]
    assert "[default: by --epochs; from 1 to 10^12, or 0]" in page and "<bool>" not in page
    assert "--direction" not in page and "--ab " not in page
    assert "--no-spectral" in page and "--no-resume" not in page
    _, page, _ = call("translate", "-h")
    assert re.search(r"\{?MODEL\}? \{?INPUT\}?", page) and "[default: 268; above 0 up to 10^9]" in page
    assert (
        "that cannot be translated are reported and skipped; the exit code is then 1. Running the command again" in page
    )
    _, page, _ = call("equalize", "fit", "-h")
    assert "equalizereport" in squeezed(page) and "`evaluate`" not in page


def completions(monkeypatch, command_line, *words):
    monkeypatch.setenv("_IMG2IMG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["img2img", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return command_line()[1].split()


def test_the_shell_completes_commands_options_and_names(monkeypatch, command_line):
    assert completions(monkeypatch, command_line, "train", "wg") == ["wgan", "wgan_gp"]
    assert completions(monkeypatch, command_line, "train", "wgan", "--weight-c") == ["--weight-clip"]
    found = completions(monkeypatch, command_line, "train", "cyclegan", "--generator", "resnet_")
    assert found == ["resnet_3", "resnet_6", "resnet_9"]
    assert completions(monkeypatch, command_line, "equalize", "fit", "--model", "lo") == ["local", "local+field"]


@over(method=METHODS)
def test_options_of_a_command_do_not_collide(method):
    groups = [{f.name for f in dataclasses.fields(c)} for c in groups_of(METHODS[method].Config)]
    for one, other in combinations([*groups, {"out", "resume", "quiet", "method"}], 2):
        assert not one & other
    assert set.union(*groups) >= OPERATIONAL


# Mistakes


@pytest.fixture
def data(unpaired):
    return ["--a", unpaired[0], "--b", unpaired[1]]


@pytest.fixture
def tiny(data, tmp_path):
    return [*data, "--size", 32, "--steps", 2, "--device", "cpu", "--out", tmp_path / "run"]


MISTAKES = {
    "augment": (["--augment", "standart"], "Did you mean 'standard'"),
    "generator": (["--generator", "resnet_5"], "Did you mean 'resnet_"),
    "discriminator": (["--discriminator", "patch_7"], "Did you mean 'patch_70'"),
    "objective": (["--objective", "lsgann"], "Unknown"),
    "precision": (["--precision", "fp23"], "Did you mean 'fp32'"),
    "folder": (["--a", "/no/such/folder"], "There is no folder /no/such/folder"),
    "device": (["--device", "gpu"], "'gpu' is not a device"),
    "absent device": (["--device", "cuda:99"], "no device 'cuda:99'"),
    "multiple": (["--size", "30", "--generator", "resnet_3"], "--size"),
    "size": (["--size", "0"], "--size takes a whole number from 16 to 65536, not 0."),
    "steps": (["--steps", "-1"], "--steps"),
    "batch size": (["--batch-size", "-1"], "--batch-size"),
    "resume": (["--resume"], "nothing to resume"),
    "two ways": (["--data", "x"], "in one of these ways"),
}


@over(mistake=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(call, tiny, mistake):
    words, sentence = MISTAKES[mistake]
    code, out, err = call("train", "cyclegan", *tiny, *words)
    assert code == 2
    assert err.startswith("img2img: ") and sentence in err and err.count("\n") == 1
    assert out == "" and "Traceback" not in err
    assert not tiny[-1].exists()  # found out before anything is written


@over(
    words=[
        ["train", "cyclegan", "--no-such-option", "1"],
        ["train", "cyclegan", "--steps", "many"],
        ["train", "cyclgan"],
        ["translate"],
        ["nonsense"],
    ]
)
def test_words_that_cannot_be_parsed_exit_with_2_and_no_traceback(call, words):
    code, _, err = call(*words)
    assert code == 2 and err and "Traceback" not in err


def test_mistakes_of_translate(call, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"text")
    for model, sentence in (
        (tmp_path / "nowhere", "no model or run folder"),
        (tmp_path / "bad.safetensors", "damaged"),
    ):
        code, out, err = call("translate", model, tmp_path, "--out", tmp_path / "out")
        assert code == 2 and out == "" and err.startswith("img2img: ") and sentence in err and err.count("\n") == 1


def test_a_signal_that_a_callback_swallows_still_stops_the_command():
    def swallow():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(Interrupted, match=r"Stopped\.") as stop, stoppable("Stopped.") as check:
        check()
        swallow()
        check()
    assert stop.value.signal == signal.SIGTERM


def test_a_bug_shows_its_traceback(methods, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "add_methods", lambda: None)
    monkeypatch.setattr("img2img.api.translating.open_on_devices", broken)
    monkeypatch.setattr(sys, "argv", ["img2img", "translate", "x", "y", "--out", "z"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# End to end


@pytest.mark.slow
def test_train_and_translate(unpaired, tmp_path):
    a, b = unpaired
    words = ["train", "cyclegan", "--a", a, "--b", b, "--out", tmp_path / "run", "--size", 32, "--width", 4]
    words += ["--d-width", 4, "--discriminator", "patch_16", "--generator", "resnet_3", "--steps", 2]
    done = python("-m", "img2img", *words, "--device", "cpu", "--precision", "fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = tmp_path / "run" / "model.safetensors"
    assert f"model: {model}" in done.stdout and model.exists()
    assert f"report: {tmp_path / 'run' / 'report.html'}" in done.stdout and (tmp_path / "run" / "report.html").exists()

    words = ["translate", tmp_path / "run", a, "--out", tmp_path / "out", "--device", "cpu", "--direction", "a2b"]
    done = python("-m", "img2img", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 images translated" in done.stdout
    written = sorted(path for path in (tmp_path / "out").iterdir() if path.name != ".img2img.json")
    assert [path.name for path in written] == [path.name for path in sorted(a.iterdir())]
    for path in written:
        with Image.open(path) as image:
            assert np.asarray(image).shape == (32, 32, 3)


def test_mistake_through_a_real_process(tmp_path):
    done = python("-m", "img2img", "train", "pix2pix", "--ab", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"img2img: There is no folder {tmp_path / 'nowhere'}.\n"


# Equalizing


DMSO = ["--control", "Metadata_Treatment == 'DMSO'"]
FIT, TEST = ["--where", "Metadata_Use == 'fit'"], ["--where", "Metadata_Use == 'test'"]


@pytest.fixture
def plates(tmp_path):
    """A table of two plates with 8 wells each, of two fields; the second half of the wells is for judging."""
    rng = np.random.default_rng(0)
    rows = []
    for plate in "AB":
        (tmp_path / "plates" / plate).mkdir(parents=True)
        for well in range(8):
            for site in (1, 2):
                field = nuclei(rng, 64, 5)
                signal = brighten(*field) if well % 2 else field[0]
                name = f"{plate}/B{well:02d}_s{site}.tif"
                tifffile.imwrite(tmp_path / "plates" / name, expose(signal, EFFECTS[plate], rng))
                rows.append(
                    [name, plate, f"B{well:02d}", "drug" if well % 2 else "DMSO", "test" if well > 3 else "fit"]
                )
    with (tmp_path / "plates" / "plates.csv").open("w", newline="") as file:
        names = ["FileName_DNA", *(f"Metadata_{name}" for name in ("Plate", "Well", "Treatment", "Use"))]
        csv.writer(file).writerows([names, *rows])
    return tmp_path / "plates" / "plates.csv"


@pytest.fixture
def fitted(command_line, plates, tmp_path):
    words = ["fit", plates, *DMSO, *FIT, "--min-images", 4, "--target", "A", "--out", tmp_path / "eq"]
    code, out, err = command_line("equalize", *words)
    assert (code, err) == (0, ""), err
    return tmp_path / "eq", out


def command(name):
    add_equalizing(cli.equalize)
    return typer.main.get_command(cli.app).commands["equalize"].commands[name]


def test_options_of_equalize_are_the_arguments_of_the_equalizer():
    options = {option.name: option for option in command("fit").params}
    arguments = inspect.signature(BatchEqualizer).parameters
    assert options.keys() >= arguments.keys() - cli_equalize.LEFT_OUT
    defaults = {name: argument.default for name, argument in arguments.items()} | {"n_jobs": -1}  # a command's own
    assert all(options[name].default == defaults[name] for name in arguments.keys() - cli_equalize.LEFT_OUT)
    assert options["random_state"].opts == ["--seed"] and options["n_jobs"].opts == ["--jobs"]
    for name, function in (
        ("fit", Manifest.open),
        ("transform", BatchEqualizer.transform_table),
        ("report", BatchEqualizer.evaluate_table),
    ):
        others = {"self", "out_dir", "progress", "columns", "channels"} | ({"shard"} if name == "fit" else set())
        assert {option.name for option in command(name).params} >= inspect.signature(
            function
        ).parameters.keys() - others


@over(name=["check", "fit", "add", "transform", "report"])
def test_every_option_of_equalize_has_its_text(command_line, name):
    told = (BatchEqualizer, BatchEqualizer.transform, BatchEqualizer.evaluate, Manifest.open)
    docstrings = squeezed(" ".join(inspect.getdoc(one) for one in told)).lower()
    code, page, err = command_line("equalize", name, "--help")
    assert (code, err) == (0, "")
    taken = [option for option in command(name).params if option.name in cli_equalize.texts_of(BatchEqualizer)]
    assert taken or name in ("add", "report")
    for option in command(name).params:
        text, _, default = option.help.partition(" \\[")  # what follows is the default, and the limit
        assert text.endswith(".") and (default or not option.default or option.required), option.name
        assert text[0].isupper() or text[0] == '"', option.name
        assert squeezed(text) in squeezed(page), option.name
        if option in taken and option.name not in cli_equalize.TEXTS:
            assert f"{option.name}:{squeezed(text)}".lower() in docstrings


def test_texts_of_a_docstring():
    def function(a, b):
        """Does.

        Args:
            a: one line.
            b: two
                lines: of text.

        Raises:
            ValueError: never.
        """

    assert cli_equalize.texts_of(function) == {"a": "One line.", "b": "Two lines: of text."}
    assert cli_equalize.texts_of(test_version) == {}


def test_fit_transform_and_again(command_line, plates, fitted, tmp_path):
    eq, out = fitted
    corrections = [line for line in out.splitlines() if line.startswith("B, ")]
    assert len(corrections) == 1 and " x ± " in corrections[0] and "; background " in corrections[0]
    assert out.splitlines() == [
        "tone, fitted to controls; target: A; batches: Metadata_Plate",
        "batch A: 4 images, the target",
        "batch B: 4 images",
        *corrections,
        "sham change, where there is nothing to correct: not measured: groups that lie in one batch are too few",
        f"saved: {eq}",
        BANNER,
    ]
    before = {path: path.read_bytes() for path in plates.parent.rglob("*.*")}
    words = ["equalize", "transform", eq, plates, "--out", tmp_path / "out", "--jobs", 2]
    code, out, err = command_line(*words)
    assert (code, err) == (0, "")
    first, listed, banner = out.splitlines()
    assert re.fullmatch(rf"32 images equalized into {tmp_path / 'out'}; \d+ flagged", first)
    assert listed == f"listed in {tmp_path / 'out' / 'equalized.csv'}" and banner == BANNER
    for name in ("A/B00_s1.tif", "B/B00_s1.tif"):
        original, result = (tifffile.imread(folder / name) for folder in (plates.parent, tmp_path / "out"))
        assert result.dtype == np.uint16 and result.shape == (64, 64)
        assert np.array_equal(original, result) == name.startswith("A")  # the target stays bit for bit

    (tmp_path / "out" / "B" / "B01_s2.tif").unlink()
    code, out, err = command_line(*words)
    assert (code, err) == (0, "")
    assert out.startswith(f"1 image equalized into {tmp_path / 'out'}, 31 existed already; ")
    assert before == {path: path.read_bytes() for path in plates.parent.rglob("*.*")}


def test_a_corrupt_file_is_reported_and_the_others_are_done(command_line, plates, fitted, tmp_path):
    (plates.parent / "B" / "B02_s1.tif").write_bytes(b"II*\0nothing")
    words = ["transform", fitted[0], plates, "--out", tmp_path / "out", "--where", "Metadata_Plate == 'B'"]
    code, out, err = command_line("equalize", *words)
    assert code == 1
    assert err.startswith("failed: ") and "B02_s1.tif" in err and err.count("\n") == 1
    assert out.startswith(f"15 images equalized into {tmp_path / 'out'}, 1 failed; ")
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 15


@pytest.mark.slow
@pytest.mark.usefixtures("few_probes")
def test_report(command_line, plates, fitted, tmp_path):
    words = ["report", fitted[0], plates, *DMSO, *TEST, "--label", "Metadata_Treatment", "--bright", "--nuclei", "DNA"]
    code, out, err = command_line("equalize", *words, "--out", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "r.json").read_text())
    assert "* tone" in out and found["verdict"] in out and BANNER in out
    assert found["counts"]["images"] == 16 and found["settings"]["dark"] is False
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert out.endswith(f"report: {tmp_path / 'r.html'}\nnumbers: {tmp_path / 'r.json'}\n")


def test_a_network_is_trained_as_told_and_its_notes_are_printed_once(command_line, plates, tmp_path):
    words = ["fit", plates, *DMSO, "--model", "local", "--run", tmp_path / "run", "--out", tmp_path / "eq"]
    options = [
        "steps=2",
        "width=4",
        "d_width=4",
        "batch_size=2",
        "patch=32",
        "ema=0.5",
        "norm=none",
        "compile=off",
        "deterministic=false",
    ]
    words += [word for option in options for word in ("--train", option)]
    code, out, err = command_line("equalize", *words)
    assert (code, err) == (0, "")
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert [note[:40] for note in notes] == [
        "note: local trains a network: the pixel ",
        "note: The network of local changes the i",
    ]
    assert BANNER in out
    training = BatchEqualizer.load(tmp_path / "eq").training
    assert training == {"steps": 2, "width": 4, "d_width": 4, "batch_size": 2, "patch": 32, "ema": 0.5} | {
        "norm": "none",
        "compile": "off",
        "deterministic": False,
    }
    assert (tmp_path / "run" / "report.html").exists()


FITS = {
    "model": (["--model", "tonne"], "Did you mean 'tone'"),
    "column": (["--batch", "Metadata_Plat"], "Unknown column 'Metadata_Plat'. Did you mean 'Metadata_Plate'?"),
    "table": (["no.csv"], "no.csv cannot be read: No such file or directory."),
    "one batch": (["--where", "Metadata_Plate == 'A'"], "There is only one batch, A"),
    "confounded": (["--label", "Metadata_Plate"], "Every label lies in one batch only"),
    "control": (["--control", "Metadata_Treatment == 'none'"], "No row of the table is a control"),
    "expression": (["--where", "__import__('os')"], "is not valid"),
    "too few": ([*FIT, "--min-images", "9"], "Batches with fewer than 9 images: A (8), B (8)"),
    "target": (["--target", "C"], "The target 'C' is not a batch"),
    "mean": (["--model", "stargan", "--target", "mean"], "The target 'mean' is for tone"),
    "file": (["--out", "{table}"], "is a file; give a folder"),
    "run": (["--model", "local", "--run", "{out}"], "each needs its own config.json"),
    "train without network": (["--train", "steps=2"], "--train and --run are for models with a network"),
    "run without network": (["--run", "{out}_run"], "--train and --run are for models with a network"),
    "train without value": (["--model", "local", "--train", "steps"], "--train takes NAME=VALUE"),
    "unknown training": (["--model", "local", "--train", "stesp=2"], "Did you mean 'steps'"),
    "kind of training": (["--model", "local", "--train", "steps=many"], "--train steps takes a whole number from 1"),
    "flag of training": (
        ["--model", "local", "--train", "deterministic=perhaps"],
        "--train deterministic takes true or false",
    ),
}


@over(mistake=FITS)
def test_a_mistake_of_fit_is_one_line_and_exit_code_2(command_line, plates, tmp_path, mistake):
    words, sentence = FITS[mistake]
    out = tmp_path / "eq"
    words = [word.format(table=plates, out=out) for word in words]
    table = tmp_path / words.pop() if words[-1].endswith("no.csv") else plates
    code, printed, err = command_line("equalize", "fit", table, "--out", out, *words)
    assert code == 2 and printed == ""
    assert err.startswith("img2img: ") and sentence in err and err.count("\n") == 1
    assert not out.exists()


def test_mistakes_with_a_fitted_equalizer(command_line, plates, fitted, tmp_path):
    eq, _ = fitted
    kept = (eq / "weights.safetensors").read_bytes()
    for words, sentence in (
        (["fit", plates, "--out", eq], "already holds a config.json"),
        (["add", eq, plates, *DMSO, "--out", eq], "already holds a config.json"),
        (["add", eq, plates, "--out", tmp_path / "out"], "was fitted to controls; say with --control"),
        (["add", eq, plates, *DMSO, "--out", tmp_path / "out"], "knows all batches of"),
        (["transform", eq, plates, "--map", "x", "--out", tmp_path / "out"], "map takes OLD=NEW"),
        (["transform", tmp_path / "none", plates, "--out", tmp_path / "out"], "holds no config.json"),
        (["transform", eq, tmp_path / "none", "--out", tmp_path / "out"], "cannot be read"),
        (["transform", eq, plates, "--out", plates.parent], "is the folder of the originals"),
        (["transform", eq, plates, "--out", tmp_path / "out", "--batch", "Metadata_Well"], "was not fitted"),
        (["transform", eq, plates, "--out", tmp_path / "out", "--jobs", 0], "--jobs takes"),
        (["report", eq, plates, "--out", tmp_path / "none" / "r.html"], "There is no folder"),
        (["report", eq, plates, "--out", tmp_path / "r.html", "--json", tmp_path], "give the name of a file to write"),
        (["report", eq, plates, "--out", tmp_path / "r.html"], "4 groups were part of the fit"),
        (["report", eq, plates, *TEST, "--nuclei", "ER", "--out", tmp_path / "r.html"], "Unknown channel 'ER'"),
        (["report", eq, plates, *TEST, "--nuclei", 3, "--out", tmp_path / "r.html"], "There is no channel 3"),
    ):
        code, out, err = command_line("equalize", *words)
        assert code == 2 and out == "", (words, out, err)
        assert err.startswith("img2img: ") and sentence in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists() and not (tmp_path / "r.html").exists()
    assert (eq / "weights.safetensors").read_bytes() == kept
    assert command_line("equalize", "fit", plates, *DMSO, "--out", eq, "--overwrite")[0] == 0
    assert (eq / "weights.safetensors").read_bytes() != kept


def test_plates_of_another_week_are_added(command_line, plates, fitted, tmp_path):
    eq, _ = fitted
    later = plates.with_name("later.csv")
    later.write_text(plates.read_text().replace(",B,", ",C,"))
    before = (eq / "config.json").read_bytes()
    code, out, err = command_line("equalize", "add", eq, later, *DMSO, "--out", tmp_path / "eq2")
    assert (code, err) == (0, ""), err
    assert out.splitlines()[:2] == ["batch C: 8 images, added", "known already, and left as they were: A"]
    assert out.splitlines()[-1] == f"saved: {tmp_path / 'eq2'}" and (eq / "config.json").read_bytes() == before
    code, out, err = command_line("equalize", "transform", tmp_path / "eq2", later, "--out", tmp_path / "out")
    assert (code, err) == (0, "") and out.startswith("32 images equalized")
    old, new = (BatchEqualizer.load(path) for path in (eq, tmp_path / "eq2"))
    image = tifffile.imread(plates.parent / "B" / "B05_s1.tif")[None, None]
    assert new.batches_ == ["A", "B", "C"]
    assert np.array_equal(old.transform(image, batch="B"), new.transform(image, batch="B"))


def test_a_table_of_jump(command_line, plates, tmp_path):
    """Of another machine, with illumination functions; the equalizer keeps the channels that were chosen."""
    with plates.open(newline="") as file:
        names, *rows = csv.reader(file)
    more = ["PathName_OrigDNA", "FileName_OrigER", "PathName_OrigER", "FileName_IllumDNA", "Metadata_Batch"]
    path = "/home/ubuntu/bucket/images"
    rows = [[*row, path, row[0], path, "illum.npy", "2021_Batch1"] for row in rows]
    table = tmp_path / "load_data_with_illum.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["FileName_OrigDNA", *names[1:], *more], *rows])
    words = ["fit", table, *DMSO, *FIT, "--min-images", 4, "--target", "A", "--out", tmp_path / "eq"]
    code, _, err = command_line("equalize", *words)
    assert code == 2 and err.startswith(
        "img2img: The folder /home/ubuntu/bucket/images of the table does not exist here"
    )
    words += ["--map", f"{path}={plates.parent}", "--channels", "DNA"]
    code, _, err = command_line("equalize", *words)
    assert code == 2 and "one batch, 2021_Batch1, in the column Metadata_Batch; if Metadata_Plate tells them" in err
    code, out, err = command_line("equalize", *words, "--batch", "Metadata_Plate")
    assert (code, err) == (0, "") and "target: A; batches: Metadata_Plate\n" in out
    assert "note: FileName_IllumDNA is taken for illumination functions and not for channels." in out
    words = ["transform", tmp_path / "eq", table, "--root", plates.parent, "--batch", "Metadata_Plate"]
    code, out, err = command_line("equalize", *words, "--out", tmp_path / "out")
    assert code == 0 and out.startswith("32 images equalized") and err.count("note: ") == 2
    assert f"note: The folder {path} of the table is taken to be {plates.parent}, where its files are." in err


def test_an_out_that_cannot_be_written_is_found_before_the_fit(command_line, plates, tmp_path, monkeypatch):
    monkeypatch.setattr("img2img.lab.equalizer.BatchEqualizer.fit", lambda *_, **__: pytest.fail("fitted"))
    (tmp_path / "file").write_text("mine")
    code, out, err = command_line("equalize", "fit", plates, "--model", "local", "--out", tmp_path / "file" / "eq")
    assert (code, out) == (2, "") and "cannot be written" in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "plates"]


@pytest.mark.usefixtures("few_probes")
def test_a_report_that_cannot_be_written_has_told_its_numbers(command_line, plates, fitted, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("img2img.lab.judgement.judge.Evaluation.to_html", full)
    code, out, err = command_line("equalize", "report", fitted[0], plates, *TEST, "--out", tmp_path / "r.html")
    assert code == 2 and "* tone" in out and err.endswith("r.html cannot be written: No space left on device.\n")


def test_ctrl_c_says_how_to_go_on(command_line, plates, fitted, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    for name, words, sentence in (
        ("transform", ["transform", fitted[0]], "the same command resumes."),
        ("fit", ["fit"], "nothing was saved"),
        ("evaluate", ["report", fitted[0]], "nothing was written"),
    ):
        monkeypatch.setattr(BatchEqualizer, name, stopped)
        code, out, err = command_line("equalize", *words, plates, "--out", tmp_path / "out")
        assert code == 130 and out == "" and sentence in err and err.count("\n") == 1


def test_without_the_extra_one_line_says_how_to_install_it():
    code = """
import sys

class Absent:
    def find_spec(name, *others):
        if name == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name=name)

sys.meta_path.insert(0, Absent)
sys.argv = ["img2img", "equalize", "transform", "eq", "plates.csv", "--out", "out"]
from img2img.cli.main import main
main()
"""
    done = python("-c", code)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("img2img: ") and "pip install 'img2img-gan[lab]'" in done.stderr
    assert done.stderr.count("\n") == 1

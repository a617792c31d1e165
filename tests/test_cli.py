"""The command line: help, mistakes, and a run from end to end."""

import dataclasses
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import typer
from PIL import Image

from img2img import __version__, cli
from img2img.data.layouts import DataConfig
from img2img.methods import METHODS
from img2img.training.config import OPERATIONAL, TrainConfig

ROOT = Path(cli.__file__).parents[1]
FIELDS = [
    (name, field.name, get_args(get_type_hints(config, include_extras=True)[field.name])[1])
    for name, method in METHODS.items()
    for config in (DataConfig, TrainConfig, method.Config)
    for field in dataclasses.fields(config)
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


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["translate", "--help"], ["demo", "--help"]])
def test_help_does_not_wait_for_torch(words):
    code = (
        "import sys\nfrom img2img import cli\n"
        f"sys.argv = ['img2img', *{words!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'torchvision', 'albumentations', 'cv2', 'matplotlib', 'torchmetrics', 'numpy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_import_img2img_does_not_wait_for_torch():
    done = python("-c", "import sys, img2img; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0


def test_version(call):
    assert call("--version") == (0, f"img2img {__version__}\n", "")


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

    found = set(walk(typer.main.get_command(cli.app), ()))
    assert found >= {("translate",), ("demo",), ("train",), *(("train", name) for name in METHODS)}


def test_train_lists_the_methods(call):
    code, out, _ = call("train", "--help")
    assert code == 0 and all(name in out for name in METHODS)


@pytest.fixture(scope="module")
def pages():
    return {}


@pytest.mark.parametrize(("method", "option", "text"), FIELDS, ids=lambda x: x if " " not in x else "")
def test_every_option_is_in_the_help_with_its_text(call, pages, method, option, text):
    if method not in pages:
        code, pages[method], _ = call("train", method, "--help")
        assert code == 0
    assert f"--{option.replace('_', '-')}" in re.split(r"[\s,/]+", pages[method])
    assert squeezed(text) in squeezed(pages[method])


@pytest.mark.parametrize("method", METHODS)
def test_options_of_a_command_do_not_collide(method):
    groups = [{f.name for f in dataclasses.fields(c)} for c in (DataConfig, TrainConfig, METHODS[method].Config)]
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
    "objective": (["--objective", "lsgann"], "There is no"),
    "precision": (["--precision", "fp23"], "Did you mean 'fp32'"),
    "folder": (["--a", "/no/such/folder"], "There is no folder /no/such/folder"),
    "device": (["--device", "gpu"], "'gpu' is not a device"),
    "absent device": (["--device", "cuda:99"], "no device 'cuda:99'"),
    "multiple": (["--size", "30", "--generator", "resnet_3"], "--size"),
    "size": (["--size", "0"], "--size must be at least 16"),
    "steps": (["--steps", "-1"], "--steps"),
    "batch size": (["--batch-size", "0"], "--batch-size"),
    "resume": (["--resume"], "nothing to resume"),
    "two ways": (["--data", "x"], "in one way"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(call, tiny, tmp_path, mistake):
    words, sentence = MISTAKES[mistake]
    code, out, err = call("train", "cyclegan", *tiny, *words)
    assert code == 2
    assert err.startswith("img2img: ") and sentence in err and err.count("\n") == 1
    assert out == "" and "Traceback" not in err
    assert not (tmp_path / "run").exists()  # found out before anything is written


@pytest.mark.parametrize(
    "words",
    [
        ["train", "cyclegan", "--no-such-option", "1"],
        ["train", "cyclegan", "--steps", "many"],
        ["train", "cyclgan"],
        ["translate"],
        ["nonsense"],
    ],
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


def test_a_bug_shows_its_traceback(methods, monkeypatch):
    import img2img.api

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "add_methods", lambda: None)
    monkeypatch.setattr(img2img.api, "load", broken)
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
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [p.name for p in sorted(a.iterdir())]
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            assert np.asarray(image).shape == (32, 32, 3)


def test_mistake_through_a_real_process(tmp_path):
    done = python("-m", "img2img", "train", "pix2pix", "--ab", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"img2img: There is no folder {tmp_path / 'nowhere'}.\n"

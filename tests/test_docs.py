"""The documentation is true: its code runs, its options exist, its tables have the defaults of the code.

Every ```bash and ```python block of README.md, datasets/README.md and docs/ is run, in order, page by page, in a folder
with small generated data sets under the names the pages use. What the blocks cost is cut in one way: `TINY` is put
after the options of every training, where it wins over what is written on the page. For bash, a script called
`img2img` at the head of PATH does so; for Python, a wrapper of `img2img.train`.

Blocks marked ```sh are shown only: they install, download or start several processes. Unmarked blocks are no code.
"""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import img2img
from img2img import cli
from img2img.data.layouts import DataConfig
from img2img.inference.options import FolderOptions, LoadOptions, TranslateOptions
from img2img.methods import METHODS
from img2img.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
RUN_PAGES = [ROOT / "README.md", ROOT / "datasets" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*RUN_PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
TABLES = {
    "datasets/README.md": [DataConfig],
    "docs/training.md": [TrainConfig],
    "docs/translating.md": [LoadOptions, TranslateOptions, FolderOptions],
    **{f"docs/methods/{name}.md": [method.Config] for name, method in METHODS.items()},
}
COMMANDS = {"train", "translate", "import", "export", "info", "demo"}
FOREIGN_OPTIONS = {"nproc-per-node", "fix", "large", "model"}  # of torchrun, scripts/check and the benchmarks

TINY: dict[str, Any] = {
    "steps": 2,
    "size": 32,
    "width": 4,
    "d_width": 4,
    "generator": "resnet_3",
    "discriminator": "patch_16",
    "log_every": 1,
}
SHIM = """#!{python}
import sys

import torch

from img2img.cli import main

torch.set_num_threads(1)
tiny = {tiny!r}
if sys.argv[1:2] == ["train"]:
    sys.argv += [word for name, value in tiny.items() for word in ("--" + name.replace("_", "-"), str(value))]
if sys.argv[1:2] == ["demo"]:
    sys.argv += ["--steps", "1"]
main()
"""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, int, str]]:
    """Language, line number and text of every code block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(m[1], text.count("\n", 0, m.start()) + 1, m[2]) for m in found]


def images(folder: Path, count: int, suffix: str = ".png", width: int = 48, height: int = 48) -> None:
    rng = np.random.default_rng(len(str(folder)))
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}{suffix}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run blocks in, with the data sets that the pages speak of."""
    images(tmp_path / "horses", 10, ".jpg", 40, 36)
    images(tmp_path / "zebras", 10)
    images(tmp_path / "photos", 3)
    images(tmp_path / "maps", 3)
    images(tmp_path / "labels", 2)
    for part in ("train", "val"):
        images(tmp_path / "facades" / part, 3, ".jpg", 96)
    for part in ("trainA", "trainB", "testA", "testB"):
        images(tmp_path / "horse2zebra" / part, 2)
    shim = tmp_path / "bin" / "img2img"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(python=sys.executable, tiny=TINY))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for bash")
@pytest.mark.parametrize("page", RUN_PAGES, ids=name)
def test_blocks_run(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = img2img.train
    monkeypatch.setattr(img2img, "train", lambda method, **options: train(method, **options | TINY))
    if page.name == "translating.md":  # it speaks of a run that training.md has made
        img2img.train("cyclegan", a="horses", b="zebras", out="checkpoints/h2z", quiet=True)
    for language, line, text in blocks(page):
        where = f"{name(page)}:{line}"
        if language == "bash":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, cwd=place)
            assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"
        elif language == "python":
            exec(compile(text, where, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_example_runs(place: Path) -> None:
    script = ROOT / "examples" / "cyclegan_from_scratch.py"
    options = ["--out", "out", "--size", "32", "--steps", "2", "--width", "4", "--device", "cpu"]
    subprocess.run([sys.executable, str(script), "horses", "zebras", *options], check=True, cwd=place)
    assert (place / "out" / "last.png").exists() and (place / "out" / "generators.pt").exists()


def test_example_stands_alone() -> None:
    source = (ROOT / "examples" / "cyclegan_from_scratch.py").read_text(encoding="utf-8")
    assert "img2img" not in source
    assert source.count("\n") < 200


def known_options() -> set[str]:
    configs = [DataConfig, TrainConfig, *(method.Config for method in METHODS.values())]
    names = {field.name for config in configs for field in dataclasses.fields(config)} | {"out", "resume", "help"}
    for command in (*(entry.callback for entry in cli.app.registered_commands), cli._root):
        assert command is not None
        names |= set(inspect.signature(command).parameters)
    return {option.replace("_", "-") for option in names}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    options = set(re.findall(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*)", text))
    assert options <= known_options() | FOREIGN_OPTIONS
    code = "\n".join([body for language, _, body in blocks(page) if language] + re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"(?m)(?:^|-m )img2img ([a-z]\w*)", code)) <= COMMANDS
    assert set(re.findall(r"(?m)(?:^|-m )img2img train ([a-z]\w*)", code)) <= set(METHODS)


def test_readme_names_every_command() -> None:
    registered = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    registered |= {str(group.name) for group in cli.app.registered_groups}
    assert registered == COMMANDS
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"img2img {command}" in text for command in COMMANDS)


def rows(page: str) -> dict[str, str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `--([a-z0-9-]+)` \| *([^|]*?) *\|", text, re.MULTILINE))


@pytest.mark.parametrize(("page", "configs"), TABLES.items(), ids=TABLES)
def test_tables_have_every_option_and_its_default(page: str, configs: list[type]) -> None:
    shown = {None: "", False: "off", True: "on"}
    expected = {}
    for field in (field for config in configs for field in dataclasses.fields(config)):
        plain = field.default is None or isinstance(field.default, bool)
        expected[field.name.replace("_", "-")] = shown[field.default] if plain else str(field.default)
    assert {name: default for name, default in rows(page).items() if name != "out"} == expected


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        target, _, anchor = link.partition("#")
        if target.startswith("http") or target == "docs/demo.png":
            continue
        path = (page.parent / target).resolve()
        assert path.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link

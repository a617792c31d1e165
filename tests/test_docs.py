"""The documentation is true: its code runs, its options exist, its tables of options are those of the code, which
`python tests/test_docs.py` writes.

Every ```bash and ```python block of README.md, datasets/README.md and docs/ is run, in order, page by page, in a folder
with small generated data sets under the names that the pages use. Their cost is reduced in one way: `TINY` is appended
to the options of every training that has them, where it overrides what is written on the page, and two steps to the
options of every network of `equalize`. For bash, a script called `img2img` at the head of PATH does so (`preloaded.py`
has its imports ready); for Python, a wrapper of `img2img.train`.

Blocks marked ```sh are only displayed: they install, download or start several processes. Unmarked blocks are not code.
"""

import dataclasses
import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import preloaded
import pytest
import typer
from PIL import Image

import img2img
from img2img.bulk.options import RayOptions
from img2img.cli import main as cli
from img2img.cli.equalize import add_equalizing
from img2img.data.images import SUFFIXES
from img2img.data.options import ConditionedConfig, DataConfig, PartlyLabelledConfig
from img2img.evaluation.options import EvaluateOptions
from img2img.lab.networks import models
from img2img.lab.synthetic import write_plates
from img2img.methods import METHODS
from img2img.metrics.options import MetricOptions
from img2img.metrics.table import METRICS
from img2img.model.options import FolderOptions, JobLoadOptions, SampleLoadOptions, SampleOptions, TranslateOptions
from img2img.options.declared import Option, Within, options_in, unused_in
from img2img.serve.options import ServeOptions
from img2img.training.config import DistillConfig, StartConfig, groups_of

ROOT = Path(__file__).parents[1]
RUN_PAGES = [ROOT / "README.md", ROOT / "datasets" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*RUN_PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
TABLES = {
    "datasets/README.md": [DataConfig, PartlyLabelledConfig, ConditionedConfig],
    "docs/training.md": [StartConfig],
    "docs/translating.md": [JobLoadOptions, TranslateOptions, FolderOptions, RayOptions],
    "docs/distilling.md": [DistillConfig],
    "docs/sampling.md": [SampleLoadOptions, SampleOptions, RayOptions],
    "docs/serving.md": [ServeOptions],
    "docs/evaluating.md": [EvaluateOptions, MetricOptions],
    **{f"docs/methods/{name}.md": [method.Config] for name, method in METHODS.items()},
}
NETWORKS = ("local", "stargan")  # of the equalizer; their pages list its defaults by their Python names
COMMANDS = {
    "train",
    "distill",
    "translate",
    "sample",
    "classify",
    "serve",
    "push",
    "evaluate",
    "compare",
    "equalize",
    "report",
    "import",
    "export",
    "info",
    "demo",
    "doctor",
}
# Options of torchrun, SLURM, curl, http.server, Docker, scripts/check and the benchmarks.
FOREIGN_OPTIONS = {
    "build-arg",
    "rm",
    "user",
    "head",
    "edge",
    "zarr",
    "data-binary",
    "port",
    "address",
    "array",
    "gpus",
    "cpus-per-task",
    "shm-size",
    "nproc-per-node",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "fix",
    "large",
    "wells",
    "sites",
    "rounds",
    "report",
    "model",
    "only",
    "seeds",
    "adversarial",
    "mnist",
    "facades",
    "set",
    "minutes",
    "inception",
    "check",
    "compiling",
    "kinds",
    "fast-seeds",
    "widths",
    "small",
    "drawn",
    "rows",
    "images",
    "bind",
    "directory",
}
OF_PLUGINS = {"gcgan"}  # methods of examples/plugin

TINY: dict[str, Any] = {
    "steps": 2,
    "size": 32,
    "width": 4,
    "d_width": 4,
    "generator": "resnet_3",
    "discriminator": "patch_16",
    "d_layers": 4,
    "log_every": 1,
    "workers": 0,
}


def tiny(method: str) -> dict[str, Any]:
    """Return the entries of `TINY` that are options of `img2img train METHOD`."""
    configs = groups_of(METHODS[method].Config)
    names = {field.name for config in configs for field in dataclasses.fields(config)} - unused_in(*configs)
    return {name: value for name, value in TINY.items() if name in names}


EDIT = """
tiny = {tiny!r}
if words[:1] == ["train"]:
    words += [word for name, value in tiny[words[1]].items() for word in ("--" + name.replace("_", "-"), str(value))]
if words[:2] == ["equalize", "fit"] and "--train" in words:
    words += ["--train", "steps=2"]
if words[:1] == ["distill"]:
    words += ["--steps", "2", "--pairs", "3", "--width", "2"]
if words[:1] == ["demo"]:
    words += ["--steps", "1"]
"""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, int, str]]:
    """Return language, line number and text of every code block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(m[1], text.count("\n", 0, m.start()) + 1, m[2]) for m in found]


def images(folder: Path, count: int, suffix: str = ".png", width: int = 48, height: int = 48) -> None:
    rng = np.random.default_rng(len(str(folder)))
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}{suffix}")


def digits(folder: Path) -> None:
    """Write 28x28 images to a file like MNIST's: two zeros, the type, the number of axes, their lengths, bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    header = bytes([0, 0, 0x08, 3]) + np.array(pixels.shape, ">u4").tobytes()
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))


def plates(folder: Path) -> None:
    """Write plates P1 and P2 with controls and treated wells, to fit and to judge on, and P3, of which later.csv lists
    the controls.
    """
    table = pd.read_csv(write_plates(folder, {"P1": "A", "P2": "B", "P3": "D"}, wells=16, sites=2, size=64))
    later = table.Metadata_Plate == "P3"
    table[~later].to_csv(folder / "plates.csv", index=False)
    table[later & (table.Metadata_Treatment == "DMSO")].to_csv(folder / "later.csv", index=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder to run blocks in, with the data sets that the pages mention."""
    images(tmp_path / "horses", 10, ".jpg", 40, 36)
    images(tmp_path / "zebras", 10)
    images(tmp_path / "photos", 3)
    images(tmp_path / "maps", 3)
    images(tmp_path / "labels", 2)
    images(tmp_path / "faces", 5)
    images(tmp_path / "bags", 3)
    images(tmp_path / "shoes", 3)
    for part in ("rose", "tulip"):
        images(tmp_path / "flowers" / part, 3)
    images(tmp_path / "new_flowers", 3)
    digits(tmp_path / "mnist")
    for part in ("train", "val"):
        images(tmp_path / "facades" / part, 3, ".jpg", 96)
    for part in ("trainA", "trainB", "testA", "testB"):
        images(tmp_path / "horse2zebra" / part, 2)
    plates(tmp_path / "plates")
    for day, plate in (("monday", "P1"), ("friday", "P2")):
        shutil.copytree(tmp_path / "plates" / plate, tmp_path / "slides" / day)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with preloaded.commands() as address:
        yield address


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for bash")
@pytest.mark.parametrize("page", RUN_PAGES, ids=name)
def test_blocks_run(page: Path, place: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = place / "bin" / "img2img"
    command.parent.mkdir()
    preloaded.write_command(command, address, EDIT.format(tiny={method: tiny(method) for method in METHODS}))
    train = img2img.train

    def smaller(method: str, **options: Any) -> Any:
        return train(method, **options | tiny(method) | {name: x for name, x in options.items() if callable(x)})

    monkeypatch.setattr(img2img, "train", smaller)
    if page.name in ("translating.md", "distilling.md"):  # they use the run of training.md
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


@pytest.mark.slow
@pytest.mark.nightly
def test_example_of_batches_runs(place: Path) -> None:
    script = ROOT / "examples" / "equalize_batches.py"
    done = subprocess.run([sys.executable, str(script), "out"], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    assert re.search(
        "^Use it. Phenotype accuracy is .* with “tone.field”, .* with “do nothing”", done.stdout, re.MULTILINE
    )
    effects = dict(re.findall(r"^(.+): treated over A's controls ([\d.]+)", done.stdout, re.MULTILINE))
    loss = {name: abs(float(effect) - float(effects["the truth"])) for name, effect in effects.items()}
    assert loss["tone, fitted on controls"] < loss["tone, fitted on all wells"] / 2
    pictures = {"before_and_after.png", "illumination.png"}
    written = {"equalizer", "report.html", "report.json", *pictures}
    assert {path.name for path in (place / "out").iterdir()} == written
    for picture in pictures:
        with Image.open(place / "out" / picture) as image:
            assert min(image.size) > 400 and np.asarray(image).std() > 10


def test_example_stands_alone() -> None:
    source = (ROOT / "examples" / "cyclegan_from_scratch.py").read_text(encoding="utf-8")
    assert "img2img" not in source
    assert source.count("\n") < 200


def known_options() -> set[str]:
    configs = {config for method in METHODS.values() for config in groups_of(method.Config)}
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    names |= {"out", "config", "resume", "help"}
    group: Any = typer.main.get_command(cli.app)
    options = [option for command in (group, *group.commands.values()) for option in command.params] + equalizing()
    names |= {name.removeprefix("--") for option in options for name in (*option.opts, *option.secondary_opts)}
    return {option.replace("_", "-") for option in names}


def equalizing() -> list[Any]:
    """Return the options of all commands of `equalize`."""
    add_equalizing(cli.equalize)
    group: Any = typer.main.get_command(cli.app)
    commands = group.commands["equalize"].commands.values()
    return [option for command in commands for option in command.params if option.opts[0].startswith("--")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    options = set(re.findall(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*)", text))
    assert options <= known_options() | FOREIGN_OPTIONS
    code = "\n".join([body for language, _, body in blocks(page) if language] + re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"(?m)(?:^|-m )img2img ([a-z]\w*)", code)) <= COMMANDS
    assert set(re.findall(r"(?m)(?:^|-m )img2img train ([a-z]\w*)", code)) <= {*METHODS, *OF_PLUGINS}


def test_readme_names_every_command() -> None:
    registered = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    registered |= {str(group.name) for group in cli.app.registered_groups}
    assert registered == COMMANDS
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"img2img {command}" in text for command in COMMANDS)


def rows(page: str) -> dict[str, str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `--([a-z0-9-]+)` \| *([^|]*?) *\|", text, re.MULTILINE))


def written(default: Any) -> str:
    """Return a default as a table states it."""
    return (
        {None: "", False: "off", True: "on"}[default] if default is None or isinstance(default, bool) else str(default)
    )


def test_the_table_of_equalizing_has_every_option_and_its_default() -> None:
    options = [option for option in equalizing() if option.name not in ("out", "help")]
    assert rows("docs/equalizing.md") == {
        option.opts[0].removeprefix("--"): written(option.default) for option in options
    }


@pytest.mark.parametrize("model", NETWORKS)
def test_the_tables_of_networks_have_every_option_and_its_default(model: str) -> None:
    network = models.network(model)
    own, config = network.defaults, network.method.Config
    expected = {field.name: own.get(field.name, field.default) for field in dataclasses.fields(config)}
    expected |= {name: value for name, value in own.items()}
    for name in models.FROM_DATA | {"max_change"}:  # of the data, or arguments of the equalizer
        expected.pop(name, None)
    text = (ROOT / "docs" / "methods" / f"{model}.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| `([a-z0-9_]+)` \| *([^|]*?) *\|", text, re.MULTILINE))
    assert found == {name: written(default) for name, default in expected.items()}


def with_tables(page: str, text: str) -> str:
    """Return the text of a page with the rows of its table of options written from the code."""
    unused, options = unused_in(*TABLES[page]), dict[str, Option]()
    for config in TABLES[page]:
        for one in options_in(config).values():
            if one.name not in unused:
                options.setdefault(one.name.replace("_", "-"), one)
    fresh = [f"| `--{name}` | {one.default_text} | {meaning(one)} |" for name, one in options.items()]
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        row = re.match(r"\| `--([a-z0-9-]+)` \|", line)
        inside = line.startswith("| option |") or (inside and line.startswith("|"))
        if inside and row and row[1] not in {"out", "n"}:  # arguments of the command itself
            lines += fresh
            fresh = []
        else:
            lines.append(line)
    return "\n".join(lines)


def meaning(one: Option) -> str:
    """Return the help of an option, with the meaning of its special value."""
    special = one.limit.special if isinstance(one.limit, Within) else None
    return f"{one.text.removesuffix('.')} ({special[0]:g} = {special[1]})." if special else one.text


@pytest.mark.parametrize("page", TABLES)
def test_tables_of_options_are_those_of_the_code(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == with_tables(page, text), "Run `python tests/test_docs.py`, which rewrites them."


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S*)", text, re.MULTILINE))
    assert rows == {name: metric.better for name, metric in METRICS.items()}


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


def test_every_suffix_of_an_image_is_listed() -> None:
    text = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    sentence = " ".join(text.split("suffix is none of", 1)[1].split("and a line counts", 1)[0].split())
    assert re.findall(r"`(\.\w+)`", sentence) == list(SUFFIXES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_of_the_project_exist(page: Path) -> None:
    folders = "img2img|examples|benchmarks|scripts|tests|docs"
    paths = re.findall(rf"`((?:{folders})/[\w./-]+)", page.read_text(encoding="utf-8"))
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def test_contributing_names_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("| room | question |", 1)[1].split("\n\n", 1)[0]
    named = {path for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for path in re.findall(r"`([^`]+)`", row)}
    rooms = {f"{path.name}/" for path in (ROOT / "img2img").iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.name for path in (ROOT / "img2img").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == rooms


def test_entries_for_additions_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    entries = re.findall(r"((?:`[A-Z_]+`(?:, | and )?)+) in `([\w/]+\.py)`", text)
    tables = [(name, path) for names, path in entries for name in re.findall(r"`(\w+)`", names)]
    assert len(tables) > 15
    sources = {path: (ROOT / "img2img" / path).read_text(encoding="utf-8") for _, path in tables}
    assert [table for table in tables if not re.search(rf"(?m)^{table[0]}\b", sources[table[1]])] == []


def test_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(docs/methods/(\w+)\.md\)", text)) == set(METHODS)


if __name__ == "__main__":
    for title in TABLES:
        file = ROOT / title
        file.write_text(with_tables(title, file.read_text(encoding="utf-8")), encoding="utf-8")

"""What is installed, by which name, and what comes with it."""

import ast
import re
import tomllib
from pathlib import Path

from img2img.errors import DISTRIBUTION, install_hint

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = CONFIG["project"], CONFIG["tool"]["setuptools"]
EXTRAS = set(PROJECT["optional-dependencies"])


def texts():
    """The text of every file that a user may read or run, by its path."""
    files = [path for folder in ("docs", "examples", "datasets", "benchmarks") for path in (ROOT / folder).rglob("*")]
    files += [*ROOT.glob("*.md"), *(ROOT / "scripts").iterdir(), *(ROOT / "img2img").rglob("*.py")]
    kinds = {".md", ".py", ""}
    return {path: path.read_text(encoding="utf-8") for path in files if path.is_file() and path.suffix in kinds}


def installed(text):
    """What the `pip install` lines of a text name."""
    for line in re.findall(r"\bpip\"? install ([^`\n#]*)", text):
        words = [quoted or word for quoted, word in re.findall(r"'([^']+)'|([^\s'\"]+)", line)]
        yield next((word for word in words if not word.startswith(("-", "$"))), "")


def wrong_requirements(text):
    """Those that are not this project, or ask it for an extra that it does not have."""
    for name in installed(text):
        match = re.fullmatch(r"(?:\.|" + re.escape(DISTRIBUTION) + r")(?:\[([\w,]+)\])?", name)
        if match is None or not set((match[1] or "").split(",")) - {""} <= EXTRAS:
            yield name


def test_every_install_hint_names_this_project():
    found = {path: text for path, text in texts().items() if path.parent.name != "scripts"}
    code = {path: text for path, text in found.items() if path.is_relative_to(ROOT / "img2img")}
    assert [path.name for path, text in code.items() if "pip install" in text] == ["errors.py"]
    pages = {path.name: list(wrong_requirements(text)) for path, text in found.items() if path not in code}
    assert {name: wrong for name, wrong in pages.items() if wrong} == {}
    assert sum(len(list(installed(text))) for text in found.values()) > 6  # they are found at all
    assert [path.name for path, text in found.items() if re.search(r"\bimg2img\[[a-z]", text)] == []


def test_scripts_install_nothing_of_somebody_elses_name():
    scripts = {path: text for path, text in texts().items() if path.parent.name == "scripts"}
    assert scripts
    for path, text in scripts.items():
        for line in re.findall(r"\bpip\"? install (.*)", text):
            assert not re.search(r"(?<![\w./-])img2img(?!-gan)", line), path.name


def test_the_name_and_the_extras_of_hints_are_those_of_the_project():
    assert PROJECT["name"] == DISTRIBUTION
    called = [
        node.args[2].value
        for path in (ROOT / "img2img").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "install_hint"
    ]
    extras = {"hub", "lab", "metrics", "microscopes", "onnx", "ray", "serve", "slides", "stores", "tensorboard", "zarr"}
    assert extras == set(called)
    assert [list(wrong_requirements(install_hint("It", "x", extra))) for extra in called] == [[]] * len(called)


def test_the_check_sees_a_name_of_somebody_else():
    for text in ("pip install 'img2img[lab]'", "pip install img2img", "pip install -U 'img2img-gan[nonsense]'"):
        assert len(list(wrong_requirements(text))) == 1
    for text in ("pip install .", "pip install '.[lab,onnx]'", f"pip install -U '{DISTRIBUTION}[lab]'"):
        assert list(wrong_requirements(text)) == []


def test_the_source_distribution_has_what_its_tests_read():
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    grafted = {line.split()[1] for line in lines if line.startswith("graft ")}
    assert grafted == {"benchmarks", "docs", "examples", "scripts", "tests"}
    assert all((ROOT / folder).is_dir() for folder in grafted)
    included = {word for line in lines if line.startswith("include ") for word in line.split()[1:]}
    assert {"*.md", "datasets/README.md"} <= included
    assert "datasets" not in grafted  # where people keep their images


def test_the_image_of_docker_has_extras_that_exist_and_does_not_run_as_root():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [extras] = (line.removeprefix("ARG EXTRAS=").split(",") for line in lines if line.startswith("ARG EXTRAS="))
    assert set(extras) <= EXTRAS - {"docs", "test"}
    assert {stage for stage in ("cpu", "cuda") if any(line.endswith(f" AS {stage}") for line in lines)} == {
        "cpu",
        "cuda",
    }
    assert [line for line in lines if line.startswith(("USER", "ENTRYPOINT"))] == [
        "USER 1000",
        'ENTRYPOINT ["img2img"]',
    ]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert kept == {"LICENSE", "README.md", "img2img", "pyproject.toml", "setup.py"}  # what the wheel is built from


def test_editors_can_follow_an_editable_install():
    # With package-dir set, setuptools writes a path, and not an import hook that static tools cannot see.
    assert SETUPTOOLS["package-dir"] == {"": "."}


def test_what_the_package_index_shows():
    shown = set(PROJECT["classifiers"])
    matrix = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    versions = re.findall(r'"([\d.]+)"', matrix[1])
    assert {f"Programming Language :: Python :: {version}" for version in versions} <= shown
    assert len(versions) == sum(name.startswith("Programming Language :: Python :: 3.") for name in shown)
    assert {"Typing :: Typed", "Operating System :: OS Independent"} <= shown

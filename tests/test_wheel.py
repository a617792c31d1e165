"""The wheel, as people get it: built from the source distribution, and installed beside what it depends on."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from markdown_it import MarkdownIt
from trove_classifiers import classifiers

from img2img.errors import DISTRIBUTION
from img2img.version import __version__

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://example.org/owner/name"
BUILD = """
import os, sys, tarfile
from setuptools import build_meta
source, out = sys.argv[1:]
os.chdir(source)
with tarfile.open(os.path.join(out, build_meta.build_sdist(out))) as file:
    file.extractall(out, filter="data")
    os.chdir(os.path.join(out, file.getnames()[0]))
build_meta.build_wheel(out)
"""
LOCAL = ignore_patterns(".*", "build", "checkpoints", "datasets", "dist", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both distributions."""
    folder = tmp_path_factory.mktemp("dist")
    source = copytree(ROOT, folder / "source", ignore=LOCAL)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, source, folder],
        env=os.environ | {"IMG2IMG_REPOSITORY": REPOSITORY},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def described(text):
    """The addresses of links, and those of pictures, of a Markdown text."""
    tokens = [one for token in MarkdownIt("commonmark").enable("table").parse(text) for one in token.children or ()]
    links = [token.attrs["href"] for token in tokens if token.type == "link_open"]
    return links, [token.attrs["src"] for token in tokens if token.type == "image"]


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(wheel):
    home = f"{DISTRIBUTION.replace('-', '_')}-{__version__}.dist-info"
    names = {name for name in wheel.namelist() if not name.startswith(f"{home}/")}
    package = (path for path in (ROOT / "img2img").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT).as_posix() for path in package}
    assert {"img2img/py.typed", "img2img/serve/page/index.html"} <= names
    assert f"{home}/licenses/LICENSE" in wheel.namelist()


@pytest.mark.slow
def test_what_the_index_shows_has_no_relative_link(wheel):
    [path] = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    shown = message_from_bytes(wheel.read(path))
    assert (shown["Name"], shown["Version"], shown["License-Expression"]) == (DISTRIBUTION, __version__, "MIT")
    assert shown["Description-Content-Type"].startswith("text/markdown")
    links, pictures = described(shown.get_payload(decode=True).decode())
    prefix = f"{REPOSITORY}/blob/v{__version__}/"
    assert all(re.match(r"https?://|#", link) for link in links) and len(pictures) > 1
    files = {link.removeprefix(prefix).split("#")[0] for link in links if link.startswith(REPOSITORY)}
    files |= {picture.removeprefix(prefix.replace("/blob/", "/raw/")) for picture in pictures}
    assert "docs/training.md" in files and all((ROOT / file).is_file() for file in files), files
    named = dict(line.split(", ") for line in shown.get_all("Project-URL"))
    assert named["Repository"] == REPOSITORY and named["Changelog"] == f"{prefix}CHANGELOG.md"
    assert set(shown.get_all("Classifier")) <= classifiers


@pytest.mark.slow
def test_the_source_distribution_has_the_documentation_and_the_tests(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.split("/", 1)[-1] for name in file.getnames()}
    assert {"README.md", "setup.py", "docs/training.md", "docs/demo.png", "tests/helpers.py", "scripts/test"} <= names


@pytest.mark.slow
def test_the_installed_wheel_runs_in_a_clean_environment(built, tmp_path):
    """What it depends on comes from this environment, whose own img2img, the files of the project, is not seen."""
    [wheel] = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python, command = scripts / "python", scripts / "img2img"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = dict(env=clean, cwd=tmp_path, capture_output=True, text=True)
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, **run)
    found = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})
    (Path(found) / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    where = subprocess.run([python, "-c", "import img2img; print(img2img.__file__)"], **run)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path), where
    told = subprocess.run([command, "--version"], **run)
    assert told.returncode == 0 and f"img2img {__version__}" in told.stdout, told


def test_without_an_address_none_is_invented():
    spec = importlib.util.spec_from_file_location("setup_of_the_project", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert module.metadata(None) == {"long_description": readme, "long_description_content_type": "text/markdown"}
    text = "[a](b.md#c) ![d](e.png) [f](#g) [h](https://i.org)\n```python\nx[0](y)\n```\n"
    assert module.with_absolute_links(text, "R", "v1") == (
        "[a](R/blob/v1/b.md#c) ![d](R/raw/v1/e.png) [f](#g) [h](https://i.org)\n```python\nx[0](y)\n```\n"
    )

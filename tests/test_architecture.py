"""The shape of the package: who imports whom, what modules are called, what is public."""

import ast
import importlib
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import over

import img2img
from img2img import lab

ROOT = Path(img2img.__file__).parent

# One row per room, from the ground up: a module imports from rooms below its own, and from its own.
ROWS = [
    ["version", "errors"],
    ["plugins"],
    ["options"],
    ["runtime"],
    ["networks"],
    ["core"],
    ["data", "translation", "zoo"],
    ["methods", "extending"],
    ["metrics"],
    ["runs"],
    ["model"],
    ["bulk"],
    ["report"],
    ["evaluation"],
    ["training"],
    ["interchange"],
    ["lab.options", "lab.notes", "lab.lazy", "lab.large", "lab.synthetic", "lab.recommendation"],
    ["lab.reductions"],
    ["lab.checks"],
    ["lab.arrays", "lab.curves", "lab.tables"],
    ["lab.networks", "lab.judgement"],
    ["lab.design", "lab.pieces"],
    ["lab.fitted", "lab.positions", "lab.magnification", "lab.sham", "lab.spreading"],
    ["lab.store", "lab.learning", "lab.transforming", "lab.notebook"],
    ["lab.evaluating", "lab.recommending"],
    ["lab.equalizer"],
    ["lab"],
    ["api"],
    ["demo", "doctor"],
    ["serve"],
    ["cli"],
    ["__main__"],
]
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}
# Arrows that the rows alone would allow.
NEVER = {
    "data": {"networks"},
    "methods": {"data"},
    "metrics": {"core", "translation", "zoo", "methods", "networks", "data"},
}

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def part_of(module):
    """The entry of ROWS that `module` belongs to: the longest that begins its name."""
    fitting = [part for part in ROW_OF if module == part or module.startswith(f"{part}.")]
    return max(fitting, key=len, default=None)


def imports(path):
    """Every img2img name that a file imports, wherever in the file, as a dotted path below the package."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "img2img")
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = ["img2img", *filter(None, package.split("."))]
                source = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [source])])
            if source.split(".")[0] == "img2img":
                yield from (f"{source}.{alias.name}" for alias in node.names)


def target_of(name):
    """The module that a dotted import leads to: `img2img.data.images.Array` lies in `data.images`."""
    below = name.split(".")[1:]
    while below and ".".join(below) not in MODULES:
        below = below[:-1]
    return ".".join(below)


def wrong_arrows(modules):
    for module, path in modules.items():
        if module == "":  # the package itself only hands out what is below
            continue
        for name in imports(path):
            target = target_of(name)
            here, there = part_of(module), part_of(target)
            if here is None or there is None:
                yield f"{module} imports {name}, which has no place in the rows"
            elif here == there:
                continue
            elif ROW_OF[there] >= ROW_OF[here] or there in NEVER.get(here, ()):
                yield f"{module} imports {name}"


def test_imports_run_one_way():
    assert list(wrong_arrows(MODULES)) == []


@over(
    "module, text",
    [
        ("errors", "import img2img.api.models"),
        ("errors", "from img2img.data import images"),
        ("core.method", "from img2img.training.loop import Run"),
        ("data.images", "def f():\n    from img2img.cli.main import main"),
        ("data.images", "from ..api import load"),
        ("data.images", "from img2img.networks import GENERATORS"),
        ("translation.cyclegan", "from img2img.data.images import Array"),
        ("metrics.paired", "from img2img.methods import METHODS"),
        ("training.loop", "from img2img.cli import terminal"),
    ],
)
def test_the_walk_sees_wrong_arrows(tmp_path, monkeypatch, module, text):
    path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    monkeypatch.setitem(globals(), "module_of", lambda path: module)
    assert len(list(wrong_arrows({module: path}))) == 1


@pytest.mark.parametrize("room", ["lab"])
def test_no_circle_among_the_modules_of_a_room(room):
    """Imports for type checkers count too: a circle is a circle."""
    inside = {m: path for m, path in MODULES.items() if m == room or m.startswith(f"{room}.")}
    graph = {m: {target_of(name) for name in imports(path)} & (inside.keys() - {m}) for m, path in inside.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def test_the_face_of_the_lab_is_sorted_complete_and_light():
    assert lab.__all__ == sorted(lab.__all__)
    for name in lab.__all__:
        assert getattr(lab, name) is not None
    with pytest.raises(AttributeError, match="it has BASELINES"):
        _ = lab.nonsense
    code = "import sys, img2img.lab; print([m for m in ('numpy', 'torch', 'pandas', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_documented_places_of_version_0_1_0_still_lead_there():
    for module, name in (("tables", "Manifest"), ("folders", "table_of_names"), ("synthetic", "nuclei")):
        assert getattr(importlib.import_module(f"img2img.lab.{module}"), name) is not None


def test_every_module_has_a_place():
    homeless = [m for m in MODULES if m and part_of(m) is None and MODULES[m].name != "__init__.py"]
    assert homeless == []


def test_namespace_packages_only_hold_a_docstring():
    for package in (
        "cli",
        "core",
        "data",
        "evaluation",
        "metrics",
        "model",
        "options",
        "report",
        "runs",
        "runtime",
        "training",
        "lab.curves",
        "lab.judgement",
        "lab.networks",
        "translation",
        "zoo",
    ):
        body = ast.parse(ROOT.joinpath(*package.split("."), "__init__.py").read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), package


def test_module_names_say_what_is_inside():
    vague = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc", "core_utils"}
    assert [m for m in MODULES if vague & set(m.split("."))] == []


@over(module=[m for m in MODULES if m != "__main__"])
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


@over(module=[m for m in MODULES if m != "__main__"])
def test_every_module_imports(module):
    importlib.import_module(f"img2img.{module}" if module else "img2img")


def test_all_is_sorted_and_complete():
    assert img2img.__all__ == sorted(img2img.__all__)
    assert len(set(img2img.__all__)) == len(img2img.__all__)
    promised = set()
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("img2img"):
            promised |= {alias.asname or alias.name for alias in node.names}
    assert promised - {"__version__"} == set(img2img.__all__)  # what type checkers see is what there is


@over(name=img2img.__all__)
def test_public_names_can_be_imported_and_are_documented(name):
    assert getattr(img2img, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = img2img.nonsense


def test_version_is_stated_once():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "img2img.version.__version__"}
    assert img2img.__version__.count(".") == 2

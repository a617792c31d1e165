"""What type checkers and `help` see of the options. `python tests/test_types.py` writes `options/keywords.py` anew."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from helpers import over

import img2img
from img2img.bulk.options import RayOptions
from img2img.core.needs import Facts
from img2img.evaluation.compare import compare
from img2img.methods import METHODS
from img2img.metrics.options import MetricOptions
from img2img.model.options import LoadOptions, TranslateOptions
from img2img.options import keywords
from img2img.options.docstrings import in_code
from img2img.training.config import groups_of

ROOT = Path(img2img.__file__).parents[1]
FILE = Path(keywords.__file__)
HEAD = '''"""Options of functions, for type checkers: generated from the dataclasses by `python tests/test_types.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from numpy.typing import NDArray
from torch import Tensor

Images = str | Path | NDArray[Any] | Tensor | Sequence[Any]  # a folder, or arrays
'''
WIDER = {  # what calls take beside the type that is declared
    **dict.fromkeys(("a", "b", "data"), "Images | None"),
    **dict.fromkeys(("ab", "real", "fake", "judge", "cache", "report", "init"), "str | Path | None"),
    "tile": "str | int",
    **dict.fromkeys(("generator", "discriminator", "network"), "str | Callable[..., Any]"),
    "callbacks": "Sequence[Any]",  # of a room above this one
}


def takes_images(method):
    """Whether the first use of a method has an image input, so that `train` returns a `Translator`."""
    facts = Facts(64, dict.fromkeys(method.Config.needs.domains, 1), ("x", "y"))
    with torch.device("meta"):
        first, *_ = method.build(method.resolve(method.Config(), facts), facts).values()
    return bool(first.source)


PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("equalizing", "sampling", "translating"))]
DRAWS = {name: not takes_images(method) for name, method in METHODS.items()}


def keywords_of(groups, own=()):
    """The keywords that the fields of dataclasses, and a call's `own` parameters, are: name -> type."""
    types = {p.name: {WIDER.get(p.name) or in_code(p.annotation): None} for p in own}
    for group in groups:
        hints = get_type_hints(group)
        for field in fields(group):
            kind = WIDER.get(field.name) or in_code(hints[field.name])
            types.setdefault(field.name, {})[kind] = None
    return {name: " | ".join(kinds) for name, kinds in types.items()}


def own_of(call):
    """The keyword-only parameters that a call's signature names."""
    return [p for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]


def classes():
    """Name of a dict of keywords -> its bases, and the keywords that it adds to them."""
    known = {}

    def declared(title, keywords, *bases):
        inherited = {name: kind for base in bases for name, kind in known[base].items()}
        assert inherited.items() <= keywords.items(), title
        known[title] = keywords
        return title, bases, {name: kind for name, kind in keywords.items() if name not in inherited}

    own = own_of(img2img.train)
    translation, sampling = (
        keywords_of([g for name, groups in img2img.train.users.items() if DRAWS[name] is draws for g in groups], own)
        for draws in (False, True)
    )
    shared = translation.keys() & sampling.keys()
    yield declared("Scoring", keywords_of([MetricOptions]))
    yield declared("Loading", keywords_of([LoadOptions]))
    yield declared("AnyTraining", {name: kind for name, kind in translation.items() if name in shared}, "Scoring")
    yield declared("OnlyTranslation", {name: kind for name, kind in translation.items() if name not in shared})
    yield declared("OnlySampling", {name: kind for name, kind in sampling.items() if name not in shared})
    yield declared("TranslationTraining", translation, "AnyTraining", "OnlyTranslation")
    yield declared("SamplingTraining", sampling, "AnyTraining", "OnlySampling")
    yield declared("Training", translation | sampling, "AnyTraining", "OnlyTranslation", "OnlySampling")
    yield declared("AnyTranslating", keywords_of([TranslateOptions]))
    yield declared("Calling", keywords_of([TranslateOptions], own_of(img2img.Translator.__call__)), "AnyTranslating")
    yield declared("Spreading", keywords_of([RayOptions]))
    yield declared("Translating", keywords_of(img2img.translate.users[""]), "AnyTranslating", "Loading", "Spreading")
    yield declared("Sampling", keywords_of(img2img.sample.users[""]), "Spreading")
    yield declared("Classifying", keywords_of(img2img.classify.users[""]))
    yield declared("Distilling", keywords_of(img2img.distill.users[""]))
    yield declared("Evaluating", keywords_of(img2img.evaluate.users[""]), "Scoring", "Loading")


def literal(title, names):
    """A type of names, in lines as ruff breaks them."""
    line = f"{title} = Literal[{', '.join(names)}]\n"
    if len(line) <= 121:
        return line
    inner = f"    {', '.join(names)}\n"
    return (
        f"{title} = Literal[\n{inner if len(inner) <= 121 else ''.join(f'    {name},{chr(10)}' for name in names)}]\n"
    )


def written():
    """The text of keywords.py."""
    parts = [HEAD]
    for title, draws in (("TranslationMethod", False), ("SamplingMethod", True)):
        parts.append(literal(title, [f'"{name}"' for name in METHODS if DRAWS[name] is draws]))
    for title, bases, added in classes():
        head = f"\n\nclass {title}({', '.join(bases or ['TypedDict'])}"
        lines = [f"    {name}: {kind}\n" for name, kind in added.items()]
        parts.append(f"{head}, total=False):\n{''.join(lines)}" if added else f"{head}): ...\n")
    return parts[0] + "".join(parts[1:])


def test_keywords_are_those_of_the_dataclasses():
    assert FILE.read_text(encoding="utf-8") == written(), "run python tests/test_types.py"


def test_calls_with_the_same_options_say_so():
    assert img2img.translate.users == img2img.translate_folder.users
    assert img2img.evaluate.users == img2img.rank.users == compare.users
    assert {name: set(groups) for name, groups in img2img.train.users.items()} == {
        name: set(groups_of(method.Config)) for name, method in METHODS.items()
    }


CALLS = [
    img2img.train,
    img2img.distill,
    img2img.translate,
    img2img.translate_folder,
    img2img.sample,
    img2img.classify,
    img2img.evaluate,
    compare,
]


@over(call=[*CALLS, img2img.load, img2img.rank])
def test_help_shows_every_option_with_its_meaning(call):
    text = inspect.getdoc(call).partition("\nOptions:\n")[2]
    assert "Annotated" not in text and max(map(len, text.splitlines())) <= 100
    text = text.replace("\n" + 8 * " ", " ")
    for groups in call.users.values():
        for group in groups:
            for field in fields(group):
                assert re.search(rf"^    {field.name}: .* = .*\. \S", text, re.MULTILINE), field.name


def test_help_of_train_says_whose_an_option_is():
    text = " ".join(inspect.getdoc(img2img.train).split())
    assert "lambda_identity: float = 0.5. " in text
    n_critic = r"n_critic: int = \d \([^)]*dualgan: 2[^)]*\)\. .*? Only [\w, ]*stargan[\w, ]*\."
    assert re.search(n_critic, text)


def snippets(page):
    """The Python blocks of a page, one after another."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


USES = """
from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import img2img
from img2img.model.summary import Summary

method: str = input()
model = img2img.train("pix2pix", ab=Path("x"), size=64, lr=1e-4, out=Path("run"), quiet=True)
assert_type(model, img2img.Translator)
assert_type(img2img.train("dcgan", data=np.zeros((9, 8, 8)), n_critic=2), img2img.Sampler)
assert_type(img2img.train(method, epochs=3), img2img.Translator | img2img.Sampler)
image: NDArray[np.uint8] = np.zeros((8, 8, 3), np.uint8)
picture, tensor = Image.new("RGB", (8, 8)), torch.zeros(3, 8, 8)
assert_type(model(tensor), torch.Tensor)
assert_type(model(picture), Image.Image)
assert_type(model([picture, picture]), list[Image.Image])
assert_type(model([tensor], "b2a"), list[torch.Tensor])
out: NDArray[np.uint8] = model(image, ensemble=True)
outs: list[NDArray[np.uint8]] = model([image, image[:4]], tile=64)
read: NDArray[np.uint8] = model("x.png", channel_axis=-1)
several: list[NDArray[np.uint8]] = model([Path("x.png"), Path("y.png")])
assert_type(img2img.translate(model, "in", Path("out"), overwrite=True, report="r.json"), Summary)
drawn: NDArray[np.uint8] = img2img.sample("run", 4, seed=3)
print(img2img.sample("run", 4, out="drawn", grid=True).pictures)
print(img2img.evaluate(model, a="a", b="b", metrics="kid", limit=3).scores)
equalizer = img2img.BatchEqualizer(axes="NYX").fit(image, batch=["A"] * 8)
same: NDArray[np.uint8] = equalizer.transform(image, batch="A")
assert_type(equalizer.transform(tensor, batch="A"), torch.Tensor)
both, table = equalizer.transform(tensor, batch="A", return_quality=True)
assert_type(both, torch.Tensor)
"""
MISTAKES = [
    'img2img.train("cyclegan", a="a", b="b", batchsize=4)',
    'img2img.train("cyclegan", a="a", b="b", size="large")',
    'img2img.train("dcgan", data="a", lambda_cyclic=4.0)',
    'img2img.train("dcgan", data="a").backend',
    'img2img.translate("run", "in", "out", overwrit=True)',
    'img2img.sample("run", 4, interpolated=3)',
    'img2img.evaluate("run", limits=3)',
    'img2img.Translator("run")(np.zeros((8, 8)), esemble=True)',
    'img2img.Translator("run")(3)',
]


HEAD_OF_MISTAKES = "import numpy as np\n\nimport img2img\n\n"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """What mypy --strict says of programs that use the package, from outside: program -> its lines of errors."""
    folder = tmp_path_factory.mktemp("programs")
    programs = {"uses": USES, "mistakes": HEAD_OF_MISTAKES + "\n".join(MISTAKES) + "\n"}
    programs |= {page.stem.lower(): "".join(snippets(page)) for page in PAGES}
    for name, text in programs.items():
        assert "img2img" in text, name
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    options = ["--no-error-summary", "--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache"]
    command = [sys.executable, "-m", "mypy", *options, *(f"{name}.py" for name in programs)]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert not done.stderr, done.stderr
    found = {name: [] for name in programs}
    for line in done.stdout.splitlines():
        name, number, kind = re.match(r"(\w+)\.py:(\d+): (\w+)", line).groups()
        if kind == "error":
            found[name].append((int(number), line))
    return found


@pytest.mark.slow
def test_pages_and_other_calls_pass_mypy(complaints):
    assert {name: lines for name, lines in complaints.items() if lines and name != "mistakes"} == {}


@pytest.mark.slow
def test_mypy_sees_mistakes(complaints):
    seen = {number for number, _ in complaints["mistakes"]}
    first = HEAD_OF_MISTAKES.count("\n") + 1
    assert [mistake for number, mistake in enumerate(MISTAKES, first) if number not in seen] == []


@pytest.mark.slow
def test_benchmarks_and_examples_use_names_that_exist():
    """They are too long to be run by tests, and not typed; mypy sees the names that a change took from them."""
    files = [str(path) for folder in ("benchmarks", "examples") for path in sorted((ROOT / folder).glob("*.py"))]
    options = ["--config-file=", "--check-untyped-defs", "--ignore-missing-imports", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", ".mypy_cache/benchmarks", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert lines and f"checked {len(files)} source files" in lines[-1], done.stdout + done.stderr
    codes = ("[attr-defined]", "[call-arg]", "[name-defined]", "[import-not-found]")
    assert [line for line in lines if line.endswith(codes) and '"None"' not in line] == []


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")

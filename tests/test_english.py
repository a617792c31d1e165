"""The English of docstrings: those of functions begin with a verb in the imperative."""

import ast
import re
from pathlib import Path

import img2img

ROOT = Path(img2img.__file__).parent

# Rooms that are written so: folders of the package, and files at its top. Add a room when it is done.
DONE = {"__main__", "cli", "data", "demo", "errors", "interchange", "networks", "options", "runtime"}
# Files of these rooms that are still to be done. Remove a file when it is done.
TO_DO = {
    "cli/equalize.py",
    "cli/evaluate.py",
    "data/idx.py",
    "data/samples.py",
    "data/stream.py",
    "interchange/export.py",
    "interchange/onnx_graph.py",
    "networks/regions.py",
    "runtime/device.py",
}

NO_SENTENCE = re.compile(r"(What|Whether|How|Of|The same)\b|[^A-Z]")
NO_VERB = re.compile(r"(The|A|An|\w*[^s]s|\w*ing)\b|\w*[^\w\s.,]")


def functions(node, public=True):
    """Yield each function below a node, and whether its docstring must be imperative: if it is public, no property."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            is_property = any("property" in ast.unparse(decorator) for decorator in child.decorator_list)
            yield child, public and child.name[0] != "_" and not is_property
            yield from functions(child, False)
        else:
            yield from functions(child, public and not (isinstance(child, ast.ClassDef) and child.name[0] == "_"))


def faults(source):
    """Yield the first lines of docstrings that do not begin as they should, with the line of the function."""
    for function, is_verb in functions(ast.parse(source)):
        text = ast.get_docstring(function)
        if text and (NO_SENTENCE.match(text) or (is_verb and NO_VERB.match(text))):
            yield function.lineno, text.splitlines()[0]


def test_docstrings_of_functions_begin_with_a_verb():
    wrong = {room: [] for room in DONE}
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).with_suffix("").parts[0]
        if room in DONE and path.relative_to(ROOT).as_posix() not in TO_DO:
            wrong[room] += faults(path)
    assert not any(wrong.values()), "\n".join(fault for room in sorted(wrong) for fault in wrong[room])


def test_what_counts_as_a_verb(tmp_path, monkeypatch):
    monkeypatch.setattr("test_english.ROOT", tmp_path, raising=False)
    good = ["Return x.", "Pass it on.", "Raise E if x.", "Read"]
    bad = [
        "What it is.",
        "Whether x.",
        "How many.",
        "Of x.",
        "The same.",
        "The x.",
        "A x.",
        "Returns x.",
        "`x` is.",
        "it",
    ]
    found = []
    for text in (*good, *bad):
        (tmp_path / "x.py").write_text(f"def f():\n    '''{text}'''\n")
        found += [text] if list(faults(tmp_path / "x.py")) else []
    assert found == bad

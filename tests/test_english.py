"""The English of docstrings: those of functions begin with a verb in the imperative."""

import ast
import re
from pathlib import Path

import img2img

ROOT = Path(img2img.__file__).parent

# Rooms that are written so: folders of the package, and files at its top. Add a room when it is done.
DONE = {
    "__main__",
    "api",
    "bulk",
    "cli",
    "core",
    "data",
    "demo",
    "doctor",
    "errors",
    "evaluation",
    "extending",
    "interchange",
    "lab",
    "methods",
    "metrics",
    "model",
    "networks",
    "options",
    "plugins",
    "report",
    "runs",
    "runtime",
    "serve",
    "training",
    "translation",
    "zoo",
}
# Files of these rooms that are still to be done. Remove a file when it is done.
TO_DO: set[str] = set()

NEVER = re.compile(r"(What|Whether|How|Of|The same)\b|[^A-Z]")
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
        if text and (NEVER.match(text) or (is_verb and NO_VERB.match(text))):
            yield function.lineno, text.splitlines()[0]


def test_docstrings_of_functions_begin_with_a_verb():
    wrong = {room: [] for room in DONE}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        room = name.partition("/")[0].removesuffix(".py")
        if room in DONE and name not in TO_DO:
            wrong[room] += [f"{name}:{line}: {text}" for line, text in faults(path.read_text(encoding="utf-8"))]
    report = "\n".join(f"{room}: {fault}" for room in sorted(wrong) for fault in wrong[room])
    assert not report, report


def test_what_counts_as_a_verb():
    good = ["Return x.", "Pass it on.", "Find, check and read x.", "Read"]
    nouns = ["The x.", "A x.", "Returns x.", "Reading x.", "F(x) and y."]
    never = ["What it is.", "Whether x.", "How many.", "Of x.", "The same.", "`x` is.", "it"]
    sources = {text: f"def f():\n    '''{text}'''\n" for text in (*good, *nouns, *never)}
    assert [text for text, source in sources.items() if list(faults(source))] == [*nouns, *never]
    private = {text: source.replace("def f", "def _f") for text, source in sources.items()}
    assert [text for text, source in private.items() if list(faults(source))] == never

"""The notebooks of examples/: committed without outputs, and executed in a real kernel, smaller in one cell.

A cell tagged "parameters" sets the numbers that decide how long a notebook takes; here, others are set at its end.
"""

import base64
import io
import json
import re
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  # builds its cache here, rather than in a kernel, with a message
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
SMALL = {
    "gans_from_theory": {"STEPS": 20, "RING_STEPS": 20},
    "plates_of_a_lab": {"WELLS": 18},
    "two_folders_of_photos": {"STEPS": 6},
}
PICTURES = {"gans_from_theory": 5, "plates_of_a_lab": 2, "two_folders_of_photos": 4}
FIRST = re.compile(r'if "google.colab" in sys.modules and .*find_spec\("img2img"\) is None:\n    %pip install ')

pytestmark = pytest.mark.filterwarnings("ignore:Proactor event loop:RuntimeWarning")  # of pyzmq on Windows


def opened(name):
    return nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)


def executed(name, folder, monkeypatch):
    """Run a notebook in a kernel; return its cells, and what their variables named `wanted` are in the end."""
    for variable, value in {"PYTHONPATH": ROOT, "IPYTHONDIR": folder / "ipython", "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(variable, str(value))
    book = opened(name)
    (parameters,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    assert all(re.search(rf"(?m)^{variable} = ", parameters.source) for variable in SMALL[name])
    parameters.source += "".join(f"\n{variable} = {value}" for variable, value in SMALL[name].items())
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in book.cells if cell.cell_type == "code"]


def texts(cells):
    """Everything that cells printed or showed as text."""
    outputs = [output for cell in cells for output in cell.outputs]
    return "\n".join(x.get("text") or x.get("data", {}).get("text/plain", "") for x in outputs)


def pages(cells):
    return [x.data["text/html"] for cell in cells for x in cell.outputs if "text/html" in x.get("data", {})]


def numbers_of(text, pattern):
    return {key: float(value) for key, value in re.findall(pattern, text, re.MULTILINE)}


def check_photos(cells, folder):
    summary, scores = (next(page for page in pages(cells) if title in page) for title in ("Translated", "Evaluation"))
    assert 'translated</th><td>24</td></tr><tr><th scope="row">already there</th><td>0</td>' in summary
    assert (
        "do nothing" in scores and all(name in scores for name in ("kid", "structure", "drift")) and "nan" not in scores
    )
    truth = numbers_of(texts(cells), r"^(the [\w ]+): (\d\.\d\d)$")
    assert truth["the unchanged photo"] == 0 and truth["the true answer"] > 0.95 and 0 <= truth["the model"] <= 1
    assert len(list((folder / "checkpoints/two_folders/results").glob("*.png"))) == 24
    (bar,) = re.findall(r"^train .*", texts(cells), re.MULTILINE)  # one output, that was updated
    assert "100 % 6/6" in bar


def check_plates(cells, folder):
    shown = pages(cells)
    assert any("Recommended: tone+field, because" in page for page in shown)
    verdict = next(page for page in shown if "histogram" in page and "gates" in page)
    assert "Use it." in verdict
    errors = next(x.data["text/plain"] for cell in cells for x in cell.outputs if "before  after" in str(x))
    rows = {line.split()[0]: list(map(float, line.split()[1:])) for line in errors.splitlines()[1:]}
    assert rows["A"][0] == rows["A"][1] and all(rows[plate][1] < rows[plate][0] / 2 for plate in "BD")
    assert cells[-1].outputs[0].data["text/plain"] == "True"
    assert (
        (folder / "checkpoints/plates_of_a_lab/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    )


def check_theory(cells, folder):
    apart = numbers_of("\n".join(cell.source for cell in cells), "x^")
    assert apart == {}
    scores = dict(re.findall(r"^([\w ]+): Scores\(modes=(\d+), of=8", texts(cells), re.MULTILINE))
    assert scores["real"] == "8" and set(scores) == {"real", "plain game", "with R1"}


CHECKS = {"gans_from_theory": check_theory, "plates_of_a_lab": check_plates, "two_folders_of_photos": check_photos}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    cells = executed(name, tmp_path, monkeypatch)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [x.text for x in outputs if x.output_type == "stream" and x.name == "stderr"] == []
    assert cells[0].outputs == []  # it installs nothing here
    pictures = [base64.b64decode(x.data["image/png"]) for x in outputs if "image/png" in x.get("data", {})]
    assert len(pictures) == PICTURES[name]
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert min(image.size) > 90 and np.asarray(image.convert("L")).std() > 10
    assert max(len(cell.outputs) for cell in cells) < 10  # no flood
    CHECKS[name](cells, tmp_path)


def test_every_notebook_is_executed_and_committed_without_outputs():
    assert sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb")) == sorted(SMALL)
    for name in SMALL:
        book = opened(name)
        nbformat.validate(book)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code), name
        assert FIRST.search(code[0].source) and book.cells[0].source.startswith("# "), name
        text = (ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n", name  # small differences

"""What people hold in a notebook: the public names, models of every kind, and how they show, copy and pickle."""

import copy
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from conftest import refused
from helpers import over

import img2img
from img2img.errors import ConfigError, ModelFileError
from img2img.evaluation.compare import Comparison
from img2img.evaluation.evaluate import Ranking
from img2img.evaluation.scores import Evaluation
from img2img.lab.equalizer import LabWarning
from img2img.lab.recommendation import Difference, Recommendation
from img2img.methods import METHODS
from img2img.metrics.score import Score
from img2img.model.classifying import Classified
from img2img.model.samples import Written
from img2img.model.showing import paper
from img2img.model.summary import Outcome, Summary
from img2img.runtime.markup import MOST_LISTED

ROOT = Path(img2img.__file__).parents[1]
TINY = dict(size=32, width=4, d_width=4, steps=2, device="cpu", precision="fp32", quiet=True)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 65535, (40, 36, 3), dtype=np.uint16)
STACK, BATCHES = RNG.integers(0, 60000, (20, 24, 24), dtype=np.uint16), ["A"] * 10 + ["B"] * 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of every kind that `load` opens."""
    root = tmp_path_factory.mktemp("kinds")
    patch = pytest.MonkeyPatch()
    patch.setattr("img2img.training.journal.write_report", lambda *_: None)
    images = RNG.integers(0, 65535, (3, 32, 32, 3), dtype=np.uint16)
    small = TINY | {"generator": "resnet_3", "discriminator": "patch_16"}
    img2img.train("cyclegan", a=images, b=images, out=root / "translator", **small)
    img2img.train("gan", data=np.uint8(images), out=root / "sampler", network="mlp", batch_size=2, **TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabWarning)
        img2img.BatchEqualizer(target="A", axes="NYX").fit(STACK, batch=BATCHES).save(root / "equalizer")
    patch.undo()
    return root


USES = {  # kind -> what it is, and a use of it
    "translator": (img2img.Translator, lambda model: model(IMAGE)),
    "sampler": (img2img.Sampler, lambda model: model(2, seed=1)),
    "equalizer": (img2img.BatchEqualizer, lambda model: model.transform(STACK, batch=BATCHES)),
}


def test_dir_is_the_public_names():
    assert dir(img2img) == img2img.__all__ == sorted(img2img.__all__)


@over(kind=USES)
def test_load_opens_every_kind(kind, folders):
    model = img2img.load(folders / kind, device="cpu")
    assert type(model) is USES[kind][0]
    assert USES[kind][1](model).size


def test_load_refuses_options_of_other_kinds(folders, monkeypatch):
    assert "direction: " in refused(ConfigError, img2img.load, folders / "sampler", direction="a2b")
    assert "backend, precision: " in refused(
        ConfigError, img2img.load, folders / "equalizer", backend="eager", precision="fp32"
    )
    assert img2img.load(folders / "equalizer", device="cpu").device == "cpu"
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "img2img.lab.equalizer")
    assert "pip install 'img2img-gan[lab]'" in refused(ConfigError, img2img.load, folders / "equalizer")


def test_a_model_of_another_kind_is_refused(folders, tmp_path):
    sampler, translator = (img2img.load(folders / kind, device="cpu") for kind in ("sampler", "translator"))
    wrong = [
        (img2img.translate, sampler, folders, tmp_path / "out"),
        (img2img.translate_folder, sampler, folders, tmp_path / "out"),
        (img2img.evaluate, sampler),
        (img2img.sample, translator, 2),
        (img2img.load, 3),
    ]
    for function, model, *others in wrong:
        assert repr(model) in refused(ModelFileError, function, model, *others)


def test_models_say_what_they_are(folders):
    model = img2img.load(folders / "translator", device="cpu")
    assert repr(model) == "Translator(cyclegan, a2b|b2a, uint16 x3, 32 px, step 2, cpu)"
    assert repr(model.towards("b2a")) == "Translator(cyclegan, b2a|a2b, uint16 x3, 32 px, step 2, cpu)"
    sampler = img2img.load(folders / "sampler", device="cpu")
    assert repr(sampler) == "Sampler(gan, uint8 x3, 32 px, step 2, cpu)"


def by_joblib(model, path):
    joblib.dump(model, path)
    return joblib.load(path)


WAYS = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "twice": lambda model, path: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
    "joblib": by_joblib,
    "copy": lambda model, path: copy.copy(model),
    "deepcopy": lambda model, path: copy.deepcopy(model),
}


@over(kind=USES)
def test_models_are_copied_and_pickled_in_every_way(kind, folders, tmp_path):
    model, use = img2img.load(folders / kind, device="cpu"), USES[kind][1]
    before = copy.deepcopy(model)  # never used
    expected = use(model)
    for name, way in WAYS.items():
        again = way(model, tmp_path / "model.joblib")
        assert repr(again) == repr(model) and np.array_equal(use(again), expected), name
    assert np.array_equal(use(before), expected) and np.array_equal(use(model), expected)


OTHER_PROCESS = """
import pickle, sys
import numpy as np
model, argument, options = pickle.load(open("model.pickle", "rb"))
use = getattr(model, sys.argv[1])
np.save("result.npy", use(argument, **options))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "use", "argument", "options"),
    [
        ("translator", "__call__", IMAGE, {"direction": "b2a"}),
        ("sampler", "__call__", 2, {"seed": 1}),
        ("equalizer", "transform", STACK, {"batch": BATCHES}),
    ],
)
def test_a_pickle_needs_no_file_in_another_process(kind, use, argument, options, folders, tmp_path):
    own = shutil.copytree(folders / kind, tmp_path / "own")
    model, here = img2img.load(own, device="cpu"), tmp_path / "elsewhere"
    here.mkdir()
    (here / "model.pickle").write_bytes(pickle.dumps((model, argument, options)))
    expected = getattr(model, use)(argument, **options)
    shutil.rmtree(own)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, use], check=True, cwd=here, env=environment)
    found = np.load(here / "result.npy")
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@over(kind=["translator", "sampler"])
def test_a_model_whose_file_has_changed_is_not_pickled(kind, folders, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((folders / kind / "model.safetensors").read_bytes())
    model = img2img.load(path, device="cpu")
    kept = pickle.loads(pickle.dumps(model))
    os.utime(path, ns=(0, 0))
    assert "has changed since it was loaded" in refused(ModelFileError, pickle.dumps, model)
    path.unlink()
    assert "cannot be read again" in refused(ModelFileError, pickle.dumps, model)
    assert pickle.dumps(kept) and USES[kind][1](kept).size


@over(kind=["translator", "sampler"])
def test_to_moves_a_model_or_leaves_it_alone(kind, folders):
    model, use = img2img.load(folders / kind, device="cpu", precision="fp32"), USES[kind][1]
    expected = use(model)
    assert "nonsense" in refused(ConfigError, model.to, "nonsense")
    assert np.array_equal(use(model), expected)
    assert model.to("cpu") is model and np.array_equal(use(model), expected)
    assert np.array_equal(use(model.to(torch.device("cpu"))), expected)
    if torch.cuda.is_available():
        assert use(model.to("cuda")).shape == expected.shape and model.runtime.device.type == "cuda"


def test_a_summary_names_each_file_once():
    summary = Summary(translated=3, seconds=1.25)
    for i in range(MOST_LISTED + 2):
        source = Path("photos") / f"{i}.png"
        summary.add(Outcome(source, Path("out"), "failed", f"{source} is damaged."))
    text = repr(summary)
    assert text.splitlines()[0] == f"Summary(3 translated, 0 skipped, {MOST_LISTED + 2} failed, 1.2 s)"
    assert all(text.count(str(path)) == (i < MOST_LISTED) for i, (path, _) in enumerate(summary.failed))
    assert text.endswith("\n  and 2 more")


def test_an_evaluation_shows_its_scores():
    rows = {
        "model": {"kid": Score(0.43567, 0.01), "drift": Score(0.038)},
        "do nothing": {"kid": Score(24.5, 0.2), "drift": Score(0.134)},
    }
    result = Evaluation({"images": 10}, rows, {"drift": {"1.png": 0.03}})
    assert repr(result) == "Evaluation(10 images, model: kid 0.4357, drift 0.038)"
    page = result._repr_html_()
    assert page.count("<table") == 1 and "do nothing" in page and "24.5" in page
    frame = result.to_frame()
    assert list(frame.index) == list(rows) and list(frame.columns) == ["kid", "kid_std", "drift"]
    assert frame.loc["do nothing", "kid"] == 24.5 and frame.loc["model", "kid_std"] == 0.01


HOSTILE = "<script>alert(1)</script>&\udcff.png"
ROWS = {HOSTILE: {"l1": Score(0.4)}, "do nothing": {"l1": Score(0.5)}}
SHOWN = {  # what people print: its HTML in a notebook has these words, and its repr is one line with those
    "summary": (
        Summary(3, 1, [(HOSTILE, f"{HOSTILE} is damaged.")] * 12, seconds=1.0, computed="cpu, fp32"),
        ["<td>3</td>", "is damaged.</li>", "and 2 more"], "Summary(3 translated, 1 skipped, 12 failed",
    ),
    "classified": (
        Classified((HOSTILE, "y"), [Path("1.png")], np.array([[0.2, 0.8]]), [(Path(HOSTILE), HOSTILE)]),
        ["Classified 1 image, 1 failed", ">y</th><td>1</td>"], "Classified(1 images, 1 failed)",
    ),
    "written": (Written(4, 0, [Path(HOSTILE)], [HOSTILE]), ["drawn", "<td>4</td>", "sheets"], "Written(drawn=4"),
    "evaluation": (
        Evaluation({"images": 10, "notes": [HOSTILE]}, ROWS),
        ["<strong>0.4</strong>", "0.5", "l1 ↓", "Measured on 10"], "Evaluation(10 images",
    ),
    "features": (Evaluation({"images": 10, "notes": [HOSTILE]}, {}), ["without scores"], "Evaluation(10 images, no sc"),
    "ranking": (
        Ranking("l1", HOSTILE, {HOSTILE: (7, {"l1": Score(0.1)}), "b": (9, {"l1": Score(0.2)})}, {}, {}),
        ["<strong>7, best</strong>", "<strong>0.1</strong>", ">9<"], "Ranking(2 checkpoints, best at step 7: l1 0.1, ",
    ),
    "comparison": (
        Comparison(ROWS, {HOSTILE: {"r": HOSTILE, "s": 2}}, {"images": 10}),
        ["<strong>0.4</strong>", "Settings", "<td>2</td>"], "Comparison(<script>",
    ),
    "recommendation": (
        Recommendation("tone", HOSTILE, HOSTILE, True, {}, {}, None, None,
                       [Difference(HOSTILE, "DNA", "background", 0.1, 0.02, True)], [HOSTILE]),
        ["Recommended: tone, because", "+10.0% of the range", "clear"], "Recommendation(tone, because <script>",
    ),
}  # fmt: skip


@over(name=SHOWN)
def test_results_show_what_they_are(name):
    result, words, text = SHOWN[name]
    page = result._repr_html_()
    assert [word for word in words if word not in page] == []
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.encode() and "http" not in page  # no lone surrogates, and nothing is fetched
    assert repr(result).startswith(text) and "\n" not in repr(result).split("\n  ")[0]


def test_a_model_shows_its_paper_and_what_it_takes(folders, tmp_path):
    odd = tmp_path / "<b>.safetensors"
    shutil.copy(folders / "translator" / "model.safetensors", odd)
    model = img2img.load(odd, device="cpu").towards("b2a")
    page = model._repr_html_()
    parameters = sum(p.numel() for p in model.network().parameters())
    assert "<strong>b2a</strong>" in page and f"<td>{parameters:,}</td>" in page
    assert "arXiv:1703.10593" in page and "3 × uint16 " in page and "32 px" in page and "&lt;b&gt;.safet" in page
    assert "noise of" in (shown := img2img.load(folders / "sampler", device="cpu")._repr_html_())
    assert "Generative Adversarial Nets" in shown
    assert all(re.search(r" (19|20)\d\d", paper(method)) or method == "local" for method in METHODS)


def test_a_warning_shows_the_line_of_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        equalizer = img2img.BatchEqualizer(target="A", axes="NYX").fit(STACK, batch=BATCHES)
        flat = np.concatenate([STACK, STACK[:1] * 0])
        equalizer.add_batch("C", flat)
    seen = [(Path(w.filename), str(w.message)) for w in caught if w.category is LabWarning]
    assert len(seen) > 1 and {path for path, _ in seen} == {Path(__file__)}
    assert any("1 image is constant" in message for _, message in seen)

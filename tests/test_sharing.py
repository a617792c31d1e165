"""Models on a hub: named by hf://, fetched, pinned and refused; and what `push` uploads, with its model card."""

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from conftest import refused, write_images
from helpers import GOOD, TINY, checkpoints, make_model, put, run_folder
from hubs import TOKEN, serving
from huggingface_hub import constants

import img2img
from img2img.cli import main as cli
from img2img.errors import ConfigError, ModelFileError
from img2img.evaluation.compare import compare
from img2img.interchange.info import model_info
from img2img.model.file import read_card, save_model
from img2img.model.hub import LARGEST, Place
from img2img.report.run import write_report
from img2img.runs.facts import Finding, Progress, Report, RunFacts
from img2img.runs.folder import RunFolder
from img2img.serve.models import open_models

ROOT = Path(cli.__file__).parents[2]
MODEL = "model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the library's client


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and a cache of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        values = dict(ENDPOINT=hub.url, HUGGINGFACE_CO_URL_TEMPLATE=template, HF_HUB_CACHE=str(home / "hub"))
        values |= dict(HF_HUB_DISABLE_XET=True, HF_HUB_OFFLINE=False, AGENT_HARNESSES_PATH=str(home / "agents"))
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value, raising=False)
        yield hub


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A model file."""
    return make_model(tmp_path_factory.mktemp("models") / "one.safetensors", norm="batch")


@pytest.fixture
def run(tmp_path):
    """A run folder with a model, samples and a record."""
    folder = run_folder(tmp_path)
    make_model(folder / MODEL)
    return folder


def asked(hub):
    """What the hub was asked for since this was called last, without what is asked once a day."""
    found = [line for line in hub.asked if "agent-harnesses" not in line]
    hub.asked.clear()
    return found


def latest(hub, name, branch="main"):
    repository = hub.repositories[name]
    return repository.commits[repository.branches[branch]]


# Loading


def test_what_is_pushed_translates_as_the_run_does(hub, run, tmp_path, command_line):
    photos = write_images(tmp_path / "photos", 2, (24, 20), seed=1)
    code, out, err = command_line("push", run, "me/h2z", "--license", "mit")
    assert code == 0 and TOKEN not in out + err, err
    assert f"page: {hub.url}/me/h2z" in out and "note: samples.png shows images" in out
    files = latest(hub, "me/h2z")
    assert set(files) == {".gitattributes", "README.md", MODEL, "samples.png"}
    assert files[MODEL] == (run / MODEL).read_bytes()
    assert files["samples.png"] == (run / "samples" / "00004000.png").read_bytes()
    for model, folder in ((run, "here"), ("hf://me/h2z", "there")):
        code, out, err = command_line("translate", model, photos, "--out", tmp_path / folder, "--device", "cpu")
        assert code == 0 and TOKEN not in out + err, err
    for name in ("000.png", "001.png"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    asked(hub)
    model = img2img.Translator(Path("hf://me/h2z"), device="cpu")  # a path has one slash
    assert model.digest() == img2img.load(run, device="cpu").digest()
    assert {line.partition(" ")[0] for line in asked(hub)} == {"HEAD"}  # it is there already


def test_wherever_a_model_is_taken_one_on_a_hub_is(hub, file, tmp_path, command_line):
    hub.add("me/h2z", {MODEL: file.read_bytes(), "wide/b.safetensors": file.read_bytes()})
    one, other = "hf://me/h2z", "hf://me/h2z@main/wide/b.safetensors"
    assert model_info(one)["method"] == model_info(other)["method"] == "cyclegan"
    assert command_line("info", one)[0] == 0
    assert sorted(open_models([one, other], device="cpu")[0]) == ["h2z", "h2z_b"]
    a, b = (write_images(tmp_path / side, 2, (64, 64), seed=seed) for seed, side in enumerate("ab"))
    result = compare([one, other], a=a, b=b, metrics="structure", device="cpu")
    assert result.rows["h2z"] == result.rows["h2z_b"]
    code, out, err = command_line("evaluate", one, "--a", a, "--b", b, "--metric", "structure", "--device", "cpu")
    assert code == 0 and "structure" in out, err
    exported = tmp_path / "net_G.pth"
    assert command_line("export", one, "--out", exported)[0] == 0 and exported.exists()
    assert "does not classify" in refused(ConfigError, img2img.classify, one, a)
    assert command_line("sample", one, "--out", tmp_path / "x")[0] == 2
    assert "say on which to imitate it, with --images" in refused(ConfigError, img2img.distill, one)
    assert "--all takes the folder of a run; hf://me/h2z is not" in refused(ConfigError, img2img.rank, one)


def test_nothing_is_fetched_unless_it_is_written(hub, file, tmp_path, monkeypatch):
    hub.add("me/h2z", {MODEL: file.read_bytes()})
    monkeypatch.chdir(tmp_path)
    for name in ("me/h2z", "h2z", Path("me/h2z")):
        assert "There is no model or run folder" in refused(ModelFileError, img2img.load, name)
    says = refused(ConfigError, img2img.load, "s3://bucket/model.safetensors")
    assert says.startswith("A model takes a path on this machine, and not a URL such as s3://bucket/model.safetensors;")
    assert asked(hub) == []


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, file, run):
    old = hub.add("me/h2z", {MODEL: file.read_bytes()})
    pushed = img2img.push(run, "me/h2z", license="mit", revision="second")
    new = latest(hub, "me/h2z", "second")[MODEL]
    assert pushed.name == f"hf://me/h2z@{hub.repositories['me/h2z'].branches['second']}" and new != file.read_bytes()
    img2img.push(run, "me/h2z", license="mit", revision="second")  # which is there now
    for name, content in {"": file.read_bytes(), "@second": new, f"@{old}": file.read_bytes()}.items():
        assert img2img.Translator(f"hf://me/h2z{name}", device="cpu").path.read_bytes() == content
    hub.repositories["me/h2z"].commit({MODEL: new})
    assert img2img.Translator("hf://me/h2z", device="cpu").path.read_bytes() == new
    asked(hub)
    assert img2img.Translator(f"hf://me/h2z@{old}", device="cpu").path.read_bytes() == file.read_bytes()
    assert asked(hub) == []  # what a commit holds never changes


def test_offline_the_cache_answers(hub, file, monkeypatch):
    hub.add("me/h2z", {MODEL: file.read_bytes()})
    img2img.load("hf://me/h2z", device="cpu")
    asked(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert img2img.load("hf://me/h2z", device="cpu").path.read_bytes() == file.read_bytes()
    says = refused(ModelFileError, img2img.load, "hf://me/other")
    assert says == "hf://me/other is not in the cache, and HF_HUB_OFFLINE forbids fetching it."
    assert asked(hub) == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    nowhere = "http://user:secret@127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = f"{nowhere}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert img2img.load("hf://me/h2z", device="cpu").path.read_bytes() == file.read_bytes()
    says = refused(ModelFileError, img2img.load, "hf://me/other")
    assert "is not in the cache and cannot be fetched: http://127.0.0.1:9 does not answer as a hub does; check" in says


# Refusals


NOT_NAMES = [
    "hf://",
    "hf://me",
    "hf://me/",
    "hf://me/a b",
    "hf://me/x@",
    "hf://me/x@a@b",
    "hf://me/x/../../y.safetensors",
]
NOT_NAMES += ["hf://me/x/a\\b.safetensors", "hf://me/x//b.safetensors", "hf://me/x/\x1b[2Jb.safetensors\0"]


def test_names_that_are_none(hub):
    for name in NOT_NAMES:
        assert "does not name a model on a hub; write hf://user/name" in refused(ConfigError, img2img.load, name), name
    for name in ("hf://me/x/latest_net_G.pth", "hf://me/x/last.pt", "hf://me/x/pytorch_model.bin", "hf://a/b/train.py"):
        assert "only .safetensors files are fetched" in refused(ConfigError, img2img.load, name), name
    assert asked(hub) == []
    for name in ("hf://me/h2z", "hf://me/h2z@v1", "hf://me/h2z@refs/pr/3/b.safetensors", "hf://me/h2z/x/b.safetensors"):
        assert str(Place.of(name)) == name == str(Place.of(Path(name)))


def test_a_hub_that_says_no_is_quoted_in_one_sentence(hub, file, monkeypatch, command_line):
    content = {MODEL: file.read_bytes()}
    hub.add("me/private", content, private=True)
    hub.add("me/gated", content, gated=True)
    hub.add("me/open", content | {"b.safetensors": b"", "../c.safetensors": b"", "\x1b[2J.safetensors": b""})
    hub.add("me/empty", {"weights.pth": b"x"})
    cases = {
        "me/none": f"does not exist at {hub.url}, or is private and needs HF_TOKEN, a token that may read it.",
        "me/private": f"does not exist at {hub.url}, or is private and needs HF_TOKEN, a token that may read it.",
        "me/gated": f"is gated: accept its terms at {hub.url}, and set HF_TOKEN to a token that may read it.",
        "me/open@v9": f"does not exist at {hub.url}: the repository has no such revision.",
        "me/empty": "holds no model.safetensors.",
    }
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    for name, sentence in cases.items():
        assert refused(ModelFileError, img2img.load, f"hf://{name}") == f"hf://{name} {sentence}"
    says = refused(ModelFileError, img2img.load, "hf://me/open/a.safetensors")
    assert says.startswith("hf://me/open holds no a.safetensors; it holds '\\x1b[2J.safetensors', b.safetensors, model")
    assert "c.safetensors" not in says
    monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])
    code, out, err = command_line("-v", "info", "hf://me/open")
    assert code == 2 and err.endswith(
        f"img2img: hf://me/open is refused by {hub.url}: HF_TOKEN is not valid there, or does not allow it.\n"
    )
    assert TOKEN[::-1] not in out + err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert img2img.load("hf://me/private", device="cpu").path.read_bytes() == content[MODEL]
    assert img2img.load("hf://me/gated", device="cpu").path.read_bytes() == content[MODEL]


def test_an_error_of_the_library_does_not_show_the_token(hub, monkeypatch):
    def fail(*_, **__):
        raise ValueError(f"Illegal header value 'Bearer {TOKEN}' at {hub.url}?token={TOKEN}\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    says = refused(ModelFileError, img2img.load, "hf://me/h2z")
    assert (
        says.startswith(f"hf://me/h2z cannot be read at {hub.url}: Illegal header value 'Bearer ***")
        and TOKEN not in says
    )


class Harm:
    """What does harm when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_hostile_repository_does_no_harm(hub, file, tmp_path):
    done = tmp_path / "harm"
    hub.add("me/pickle", {MODEL: pickle.dumps(Harm(done), 2)})
    assert "hf://me/pickle is a file of torch.save" in refused(ModelFileError, img2img.load, "hf://me/pickle")
    content = file.read_bytes()
    hub.add("me/long", {MODEL: (2**62).to_bytes(8, "little") + b"{}"})
    hub.add("me/cut", {MODEL: content[:-100]})
    hub.add("me/html", {MODEL: b"<!doctype html>"})
    for name in ("long", "cut", "html"):
        says = refused(ModelFileError, img2img.load, f"hf://me/{name}")
        assert says == f"hf://me/{name} is damaged or not a safetensors file."
    hub.add("me/tensors", {MODEL: b"\x02\0\0\0\0\0\0\0{}"})
    says = refused(ModelFileError, img2img.load, "hf://me/tensors")
    assert says == "hf://me/tensors holds tensors, but was not written by img2img."
    hub.add("me/huge", {MODEL: content})
    hub.sizes[MODEL] = LARGEST + 1
    asked(hub)
    says = refused(ModelFileError, img2img.load, "hf://me/huge")
    assert says == "hf://me/huge is 9 GB large, which no model of img2img is; it is not fetched."
    assert [line for line in asked(hub) if line.startswith("GET")] == []
    assert not done.exists()


def test_without_the_library_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for function, words in ((img2img.load, ["hf://me/h2z"]),):
        says = refused(ConfigError, function, *words)
        assert says == "hf://me/h2z needs huggingface_hub. Install it with: pip install 'img2img-gan[hub]'."


# Training


def test_a_run_that_starts_from_a_hub_records_the_commit(hub, tmp_path):
    start = make_model(tmp_path / "start.safetensors", generator="resnet_3")
    sha = hub.add("me/h2z", {MODEL: start.read_bytes()})
    rng = np.random.default_rng(0)
    images = {side: rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for side in "ab"}
    options = TINY | images | {"width": 8, "out": tmp_path / "run", "steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("img2img.training.journal.write_report", lambda *_: None)
        img2img.train("cyclegan", init="hf://me/h2z", **options)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert config["options"]["init"] == f"hf://me/h2z@{sha}"
        assert config["init"]["from"].startswith(f"hf://me/h2z@{sha} (cyclegan, step 0): a2b")
        hub.repositories["me/h2z"].commit({MODEL: start.read_bytes(), "new": b""})
        asked(hub)
        img2img.train("cyclegan", init="hf://me/h2z", **options)  # the same call resumes
        img2img.train("cyclegan", **options | {"resume": True, "steps": 2})
        assert asked(hub) == []
        says = refused(ConfigError, img2img.train, "cyclegan", init="hf://me/h2z@main", **options | {"steps": 2})
        assert f"init was 'hf://me/h2z@{sha}', now 'hf://me/h2z@{hub.repositories['me/h2z'].branches['main']}'" in says
    text = img2img.report.card.model_card(
        img2img.api.sharing._contents(tmp_path / "run"), tmp_path / "run" / MODEL, "me/mine", "mit"
    )
    assert 'base_model: "me/h2z"' in text and f"--init hf://me/h2z@{sha}\n" in text


# Cards


@pytest.fixture
def judged(run):
    """A run with scores and names that ask for trouble, at the step of its scores."""
    model = img2img.Translator(run, device="cpu")
    card = read_card(run / MODEL)
    save_model(run / MODEL, replace(card, step=4000), {"a2b": model.use("a2b").network})
    record = json.loads((run / "config.json").read_text())
    hidden = "/home/somebody/a secret project"
    record["options"] |= {"a": f"{hidden}/horses|`x`", "b": f"{hidden}/zebras/trainB", "init": f"{hidden}/old run"}
    record["command"] = f"img2img train cyclegan --a {hidden}/horses"
    put(run, "config.json", record)
    notes = ["60 files of /home/somebody/a secret project/horses were left out", "KID of 100 images is biased"]
    put(run, "evaluation.json", GOOD | {"protocol": GOOD["protocol"] | {"notes": notes}})
    facts = RunFacts(method="cyclegan", images={"A": 900, "B": 800}, held_out={"A": 100, "B": 100})
    findings = [Finding("oscillation", 700, 1100), Finding("mode collapse", 3100)]
    write_report(RunFolder(run), [], Report(facts, Progress(4000, 5000), findings))
    put(run, "report.json", {"format": 2, "facts": {"method": "cyclegan", "images": facts.images}})
    return run


def test_a_report_has_a_model_card_beside_it(judged):
    text = (judged / "model_card.md").read_text()
    assert '<a href="model_card.md">' in (judged / "report.html").read_text()
    assert (judged / re.search(r"!\[Samples of the training\]\((.*)\)", text)[1]).is_file()
    assert "img2img translate hf://user/name IMAGES --out RESULTS" in text and "license:" not in text
    assert "Licence: none has been chosen yet." in text and "Step 4,000 of 5,000." in text
    assert "Trained on 900 images of A, 800 of B; held out: 100 and 100." in text
    assert r"Folders of the data: horses\|\`x\`, zebras/trainB." in text
    assert "| l1 ↓ | 0.081 | 0.192 | 0.151 |" in text and "| metric | model | do nothing | histogram matching |" in text
    assert (
        "KID of 100 images is biased." in text and "Mean absolute difference from the target; lower is better." in text
    )
    assert "Mode collapse: generated images resemble each other" in text and "Oscillation" not in text
    assert "CycleGAN: Zhu, Park, Isola, Efros" in text and "--lambda-cycle 10.0" in text
    for private in ("/home", "somebody", "secret", str(judged.parent)):
        assert private not in text


def test_the_metadata_are_those_of_hubs(judged):
    files = img2img.push(judged, "me/h2z", license="mit", dry_run=judged.parent / "dry").files
    assert set(files) == {"README.md", MODEL, "samples.png"}
    card = huggingface_hub.ModelCard.load(judged.parent / "dry" / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "mit" and data["library_name"] == "img2img" and data["pipeline_tag"] == "image-to-image"
    assert data["tags"] == ["img2img", "gan", "cyclegan"] and "base_model" not in data
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {
        "l1": 0.081,
        "psnr": 21.4,
        "kid[encoder]": 0.021,
        "drift": 0.012,
        "structure": 0.84,
        "cycle": 0.034,
    }
    assert {result.metric_type for result in card.data.eval_results} >= {"kid", "l1"}
    assert "hf://me/h2z" in card.text and "Licence: mit." in card.text


def test_scores_are_those_of_the_model_that_is_shared(judged, tmp_path):
    best = judged / "models" / "00002000.safetensors"
    best.parent.mkdir()
    make_model(best)
    card = read_card(best)
    network = img2img.Translator(best, device="cpu").use("a2b").network
    save_model(best, replace(card, step=2000), {"a2b": network})
    pushed = img2img.push(best, "me/h2z", license="mit", dry_run=tmp_path / "unscored")
    assert "## Scores" not in (tmp_path / "unscored" / "README.md").read_text() and len(pushed.notes) == 1
    rows = {"rows": {"do nothing": GOOD["rows"]["do nothing"]}, "protocol": GOOD["protocol"]}
    put(judged, "checkpoints.json", checkpoints() | rows)
    img2img.push(best, "me/h2z", license="mit", dry_run=tmp_path / "scored")
    assert "| l1 ↓ | 0.08 | 0.192 |" in (tmp_path / "scored" / "README.md").read_text()
    newest = img2img.push(judged, "me/h2z", license="mit", dry_run=tmp_path / "newest")
    assert "the best checkpoint is not the last one" in newest.notes[1] and best.name in newest.notes[1]
    lone = make_model(tmp_path / "lone.safetensors")
    assert set(img2img.push(lone, "me/x", license="mit", dry_run=tmp_path / "z").files) == {"README.md", MODEL}
    text = (tmp_path / "z" / "README.md").read_text()
    assert "## Scores" not in text and "# x\n" in text and "3 channels, uint8 from 0 to 255" in text


# Pushing


def test_what_push_asks_for(hub, run, tmp_path, command_line):
    code, _, err = command_line("push", run, "me/h2z")
    assert code == 2 and err.startswith(
        "img2img: --license is needed: others may use a model only as its licence says."
    )
    for name in ("h2z", "me/h2z/x", "https://hub/me/h2z", "me/h 2z"):
        assert "write user/name" in refused(ConfigError, img2img.push, run, name, license="mit")
    assert "not the short name of a licence" in refused(
        ConfigError, img2img.push, run, "me/h2z", license="MIT, I think"
    )
    assert "on a hub already" in refused(ConfigError, img2img.push, "hf://me/h2z", "me/h2z", license="mit")
    assert "is not an empty folder" in refused(ConfigError, img2img.push, run, "me/x", license="mit", dry_run=run)
    code, out, _ = command_line("push", run, "me/x", "--license", "mit", "--no-pictures", "--dry-run", tmp_path / "dry")
    assert code == 0 and out.endswith(f"written into {tmp_path / 'dry'}; nothing was uploaded\n")
    assert "samples" not in (tmp_path / "dry" / "README.md").read_text() and "note:" not in out
    assert asked(hub) == []


def test_a_hub_that_does_not_take_a_model(hub, run, monkeypatch):
    says = refused(ModelFileError, img2img.push, run, "me/h2z", license="gpl-17")
    assert says.startswith(f"hf://me/h2z cannot be written at {hub.url}: ") and "unknown license" in says
    assert hub.repositories == {}
    says = refused(ModelFileError, img2img.push, run, "others/h2z", license="mit")
    assert says == f"hf://others/h2z is refused by {hub.url}: HF_TOKEN is not valid there, or does not allow it."
    hub.add("me/public", {"README.md": b"by hand"})
    says = refused(ConfigError, img2img.push, run, "me/public", license="mit", private=True)
    assert "exists and is public" in says and latest(hub, "me/public") == {"README.md": b"by hand"}
    img2img.push(run, "me/own", license="mit", private=True)
    assert hub.repositories["me/own"].private and MODEL in latest(hub, "me/own")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    says = refused(ModelFileError, img2img.push, run, "me/h2z", license="mit")
    assert "needs HF_TOKEN, a token that may write it" in says


@pytest.mark.slow
def test_the_settings_are_those_of_the_environment(hub, file, tmp_path):
    hub.add("me/h2z", {MODEL: file.read_bytes()}, private=True)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "other"), "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}

    env = {name: x for name, x in os.environ.items() if not name.startswith("HF_")} | settings
    words = [sys.executable, "-m", "img2img", "info", "hf://me/h2z"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0 and "cyclegan" in done.stdout and TOKEN not in done.stdout + done.stderr, done.stderr
    assert next((tmp_path / "other").rglob(MODEL)).read_bytes() == file.read_bytes()

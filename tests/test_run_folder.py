"""The folder of a run: whose it is, what is removed from it, two at once, changed data, and kills at every write."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import refused, write_images
from helpers import over
from PIL import Image

import img2img
from img2img.errors import ConfigError, DataError, Interrupted, ModelFileError, TrainingError
from img2img.model.file import load_resume
from img2img.runs.folder import Entry, RunFolder
from img2img.training import loop, state

ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(img2img.__file__).parents[1])}


@pytest.fixture
def dcgan(tmp_path, quick):
    """A training of one collection of images, and its options."""
    data = write_images(tmp_path / "photos", 6, (32, 32), seed=1)
    unused = ("discriminator", "validate_every")
    return {k: v for k, v in quick.items() if k not in unused} | {"data": data, "size": 32, "batch_size": 2}


@pytest.fixture
def run(dcgan, tmp_path):
    """A finished run."""
    img2img.train("dcgan", out=tmp_path / "run", **dcgan)
    return tmp_path / "run"


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PHOTO = io.BytesIO()
Image.new("RGB", (8, 8)).save(PHOTO, "png")
FOREIGN = {
    "photos": {f"samples/{name}.png": PHOTO.getvalue() for name in ("1", "2024", "00000001", "holiday")},
    "model": {"config.json": b'{"architectures": ["GPT2"]}', "model.safetensors": b"weights"},
    "config": {"config.json": b'{"options": {}, "method": "dcgan"}', "last.pt": b"of another program"},
    "log": {"log.jsonl": b'{"loss": 1}\n'},
    "note": {"notes.txt": b"mine"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_of_others_is_refused_and_stays_as_it_is(kind, dcgan, tmp_path):
    out = tmp_path / "out"
    for name, text in FOREIGN[kind].items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(text)
    before = content(out)
    text = refused(ConfigError, img2img.train, "dcgan", out=out, **dcgan)
    assert "neither empty nor the folder of a run" in text and "--overwrite" in text
    assert content(out) == before
    img2img.train("dcgan", out=out, overwrite=True, **dcgan)
    kept = {name: b for name, b in before.items() if Path(name).name not in ("config.json", "log.jsonl", "last.pt")}
    kept = {name: b for name, b in kept.items() if name != "model.safetensors"}
    assert kept.items() <= content(out).items()
    assert load_resume(out / "last.pt")["step"] == 4


def test_hidden_files_of_others_stay(dcgan, tmp_path):
    out = tmp_path / "out"
    mine = [".notes.partial", ".thesis.part1.tex", ".holiday.part.zip", ".a.img2img-part", "samples/._00000012.png"]
    (out / "samples").mkdir(parents=True)
    (out / ".x.parts").mkdir()
    for name in mine[:-1]:
        (out / name).write_text("x")
    (out / "samples").rmdir()
    img2img.train("dcgan", out=out, **dcgan)
    (out / mine[-1]).write_text("x")
    (out / "samples" / "copy.png").write_text("x")
    img2img.train("dcgan", out=out, resume=True, quiet=True)
    assert all((out / name).read_text() == "x" for name in (*mine, "samples/copy.png"))


def test_a_run_without_its_last_pt_is_not_replaced(run, dcgan):
    (run / "last.pt").unlink()
    before = content(run)
    text = refused(ConfigError, img2img.train, "dcgan", out=run, **dcgan)
    assert "no last.pt to resume it from" in text
    assert content(run) == before
    img2img.train("dcgan", out=run, overwrite=True, **dcgan | {"steps": 2})
    assert load_resume(run / "last.pt")["step"] == 2
    assert [path.name for path in (run / "samples").iterdir()] == ["00000002.png"]
    assert all(int(path.stem) <= 2 for path in (run / "models").iterdir())


def test_resume_and_overwrite_exclude_each_other(run, dcgan):
    assert "give one of them" in refused(ConfigError, img2img.train, "dcgan", out=run, resume=True, overwrite=True)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("name", ["samples", "models"])
def test_a_run_of_another_does_not_reach_out_of_its_folder(name, run, dcgan, tmp_path):
    shutil.rmtree(run / name)
    (run / name).symlink_to(tmp_path / "photos")
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "00000012.png")
    before = content(tmp_path / "photos")
    assert "is a link" in refused(ConfigError, img2img.train, "dcgan", out=run, resume=True)
    assert "is a link" in refused(ConfigError, img2img.train, "dcgan", out=run, overwrite=True, **dcgan)
    assert content(tmp_path / "photos") == before


def test_options_that_never_trained_are_no_obstacle(dcgan, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(loop, "stream", lambda *_, **__: 1 / 0)
        img2img.train("dcgan", out=tmp_path / "run", **dcgan | {"batch_size": 4})
    img2img.train("dcgan", out=tmp_path / "run", **dcgan)


def test_options_are_compared_before_the_first_save(dcgan, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(state, "save_resume", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        img2img.train("dcgan", out=tmp_path / "run", **dcgan)
    assert not (tmp_path / "run" / "last.pt").exists()
    text = refused(ConfigError, img2img.train, "dcgan", out=tmp_path / "run", **dcgan | {"lr": 0.5})
    assert "lr was 0.0002, now 0.5" in text
    img2img.train("dcgan", out=tmp_path / "run", **dcgan)


def test_two_at_once_are_refused_and_a_lock_ends_with_its_process(dcgan, tmp_path):
    out = tmp_path / "run"
    hold = "import sys, time, pathlib\nfrom img2img.runs.folder import RunFolder\n"
    hold += "with RunFolder(pathlib.Path(sys.argv[1])).held(dict):\n    print('held', flush=True)\n    time.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", hold, str(out)], env=ENV, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    (out / "config.json").unlink()  # the other one's is empty
    assert "Another process is training in" in refused(ConfigError, img2img.train, "dcgan", out=out, **dcgan)
    other.kill()
    other.wait()
    other.stdout.close()
    assert RunFolder(out).lock.exists()
    img2img.train("dcgan", out=out, **dcgan)
    assert not RunFolder(out).lock.exists()


def test_a_last_pt_of_another_run_is_a_sentence(run, dcgan, tmp_path):
    img2img.train("dcgan", out=tmp_path / "wide", **dcgan | {"width": 8})
    shutil.copy(tmp_path / "wide" / "last.pt", run)
    assert "does not fit the run" in refused(ModelFileError, img2img.train, "dcgan", out=run, resume=True)
    state = load_resume(tmp_path / "wide" / "last.pt")
    for damaged in ([], {}, {"step": 1}, state | {"optimizers": {}}, state | {"ranks": []}):
        torch.save(damaged, run / "last.pt")
        assert "does not fit the run" in refused(ModelFileError, img2img.train, "dcgan", out=run, resume=True), damaged


def test_an_unwritable_config_is_a_sentence(tmp_path):
    (tmp_path / "run" / "config.json").mkdir(parents=True)
    with pytest.raises(TrainingError, match="Cannot write into"), RunFolder(tmp_path / "run").held(dict):
        pass
    assert not list((tmp_path / "run").glob(".*")), "parts of files are left behind"


# The data.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: write_images(data / "more", 2, (32, 32), 9), "data had 6 images, now 8"),
        (lambda data: (data / "000.png").rename(data / "zebra.png"), "data has files of other names"),
        (lambda data: Image.new("RGB", (32, 33)).save(data / "000.png"), "data has files of other contents"),
        (lambda data: Image.new("RGB", (32, 32)).save(data / "000.png"), "data has files of other contents"),
        (
            lambda data: [Image.open(path).convert("L").save(path) for path in data.glob("*.png")],
            "data had 3 channels of uint8, now 1 channels of uint8",
        ),
    ],
)
def test_changed_data_are_refused(change, said, run, tmp_path):
    change(tmp_path / "photos")
    before = content(run)
    assert said in refused(ConfigError, img2img.train, "dcgan", out=run, resume=True, quiet=True)
    assert content(run) == before


def test_a_run_knows_its_data_from_everywhere(dcgan, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    img2img.train("dcgan", out="run", **dcgan | {"data": "photos"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    img2img.train("dcgan", out=out, resume=True, quiet=True)
    img2img.train("dcgan", out=out, **dcgan | {"data": "../photos"})
    write_images(tmp_path / "other", 6, (32, 32), seed=2)
    assert "data was" in refused(ConfigError, img2img.train, "dcgan", out=out, **dcgan | {"data": tmp_path / "other"})
    (tmp_path / "photos").rename(tmp_path / "moved")
    img2img.train("dcgan", out=out, **dcgan | {"data": tmp_path / "moved"})
    (tmp_path / "moved").rename(tmp_path / "again")
    said = refused(ConfigError, img2img.train, "dcgan", out=out, **dcgan | {"data": tmp_path / "other"})
    assert "data has files of other contents" in said


def test_evaluate_and_compare_find_the_data_from_elsewhere(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("plain", 1), ("striped", 2)):
        write_images(tmp_path / name, 4, (32, 32), seed)
    for name in ("one", "two"):
        img2img.train("cyclegan", a="plain", b="striped", out=name, val_fraction=0.5, **quick | {"steps": 1})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = img2img.evaluate(tmp_path / "one", metrics="drift").protocol
    assert str(found["images"]) == "2" and img2img.compare([tmp_path / "one", tmp_path / "two"], metrics="drift").rows


def test_a_run_of_an_earlier_version_goes_on(run, dcgan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = json.loads((run / "config.json").read_text())
    del record["data"]
    record["options"]["data"] = "photos"
    (run / "config.json").write_text(json.dumps(record))
    state = load_resume(run / "last.pt")
    for own in state["ranks"]:
        del own["window"]
    torch.save(state, run / "last.pt")
    img2img.train("dcgan", out=run, resume=True, quiet=True)
    record["options"]["data"] = "photos"
    (run / "config.json").write_text(json.dumps(record))
    write_images(tmp_path / "photos" / "more", 1, (32, 32), 9)
    assert "there were 6 images, now 7 images" in refused(ConfigError, img2img.train, "dcgan", out=run, resume=True)


def test_a_run_folder_in_the_data_is_not_searched(dcgan, tmp_path, capsys):
    out = tmp_path / "photos" / "run"
    for _ in range(2):
        img2img.train("dcgan", out=out, **dcgan | {"quiet": False})
    assert json.loads((out / "config.json").read_text())["data"]["data"]["images"] == 6
    assert "The run folder lies inside" in capsys.readouterr().err
    assert "is a run folder" in refused(DataError, img2img.train, "dcgan", **dcgan | {"data": out})


def test_data_in_the_run_folder_are_refused(dcgan, tmp_path):
    text = refused(ConfigError, img2img.train, "dcgan", out=tmp_path, overwrite=True, **dcgan)
    assert "lies in the run folder" in text


@over(swapped=[False, True])
def test_one_domain_inside_the_other_is_refused(swapped, tmp_path, quick):
    outer = write_images(tmp_path / "nest", 4, (32, 32), 1)
    inner = write_images(outer / "zebras", 4, (32, 32), 2)
    a, b = (inner, outer) if swapped else (outer, inner)
    assert "is inside" in refused(DataError, img2img.train, "cyclegan", a=a, b=b, out=tmp_path / "run", **quick)


# Resuming to the same files.

TIMES = ("seconds_per_step", "images_per_s")


def exact(state):
    """A nested state with every tensor as its bytes."""
    if isinstance(state, torch.Tensor):
        return str(state.dtype), tuple(state.shape), state.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(state, dict):
        return {name: exact(x) for name, x in state.items()}
    return [exact(x) for x in state] if isinstance(state, list | tuple) else state


def without_times(folder):
    """The content of a run folder, in which nothing tells when and how fast it was made."""
    files = content(folder)
    log = [json.loads(line) for line in files["log.jsonl"].splitlines()]
    files["log.jsonl"] = [{k: v for k, v in row.items() if k not in TIMES} for row in log]
    files["last.pt"] = exact(load_resume(folder / "last.pt"))
    facts = json.loads(files["report.json"])
    del facts["facts"]["started"]
    files["report.json"] = facts
    if "evaluation.json" in files:
        files["evaluation.json"] = json.loads(files["evaluation.json"])
        del files["evaluation.json"]["protocol"]["seconds"]
    files["report.html"] = re.findall(rb"<h2[^>]*>", files["report.html"])
    title, heading = folder.name.encode(), folder.name.replace("_", "\\_").encode()
    card = files["model_card.md"].replace(b'"name": "' + title, b"").replace(b"\n# " + heading, b"")
    files["model_card.md"] = card
    config = json.loads(files["config.json"])
    del config["command"]
    files["config.json"] = config
    return files


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_the_log_of_a_resumed_run_is_that_of_one_never_stopped(stop, dcgan, tmp_path, monkeypatch):
    options = dcgan | {"steps": 6, "log_every": 3, "save_every": 100, "sample_every": 2}
    img2img.train("dcgan", out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(img2img.errors.Interrupted):
        patch.setattr(loop, "agreed_stop", lambda received, runtime, step, rhythm: 15 if step == stop else 0)
        img2img.train("dcgan", out=tmp_path / "parts", **options)
    img2img.train("dcgan", out=tmp_path / "parts", **options)
    whole, parts = without_times(tmp_path / "whole"), without_times(tmp_path / "parts")
    assert [row["step"] for row in whole["log.jsonl"]] == [3, 6]
    assert whole == parts


# Trains once, to have everything imported, and then is killed in a fork of itself, before every rename and after the
# last.
KILLER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import img2img

method, root, config = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
replace, renamed = os.replace, []


def train(out, kill=None):
    def watched(source, target, **options):
        renamed.append(str(target))
        if kill == (len(renamed), "before"):
            os._exit(9)
        replace(source, target, **options)
        if kill == (len(renamed), "after"):
            os._exit(9)

    os.replace = watched
    renamed.clear()
    img2img.train(method, out=out, quiet=True, **config)


def forked(*jobs):
    children = []
    for arguments in jobs:
        children.append(os.fork())
        if not children[-1]:
            status = 1
            try:
                train(*arguments)
                status = 0
            finally:
                os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


train(root / "whole")
files, failed = list(renamed), []
# What is there after a rename is there before the next one, too; so both are tried of the last one only.
kills = [(number, "before") for number in range(1, len(files) + 1)] + [(len(files), "after")]
for pair in (kills[k : k + 2] for k in range(0, len(kills), 2)):
    outs = {kill: root / f"{kill[1]}_{kill[0]}" for kill in pair}
    codes = forked(*((out, kill) for kill, out in outs.items())), forked(*((out,) for out in outs.values()))
    if codes != ([9] * len(pair), [0] * len(pair)):
        failed.append((pair, codes))
print(json.dumps({"files": files, "failed": failed}))
"""


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that nothing is imported anew")
def test_a_run_killed_at_any_write_is_resumed_to_the_same_files(pairs, quick, tmp_path):
    config = quick | {"ab": str(pairs), "generator": "unet_32", "val_fraction": 0.34, "ema": 0.9, "keep": 2}
    config |= {"augment": "none", "workers": 0}
    del config["quiet"]
    (tmp_path / "runs").mkdir()
    words = [sys.executable, "-c", KILLER, "pix2pix", str(tmp_path / "runs"), json.dumps(config)]
    done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["failed"] == [], done.stderr
    assert len(seen["files"]) > 20 and len(list((tmp_path / "runs").glob("*_*"))) > len(seen["files"])
    assert any(name.endswith("evaluation.json") for name in seen["files"])
    whole, differing = without_times(tmp_path / "runs" / "whole"), []
    for folder in sorted((tmp_path / "runs").glob("*_*")):
        files = without_times(folder)
        differing += [(folder.name, name) for name in whole | files if whole.get(name) != files.get(name)]
    assert differing == []


def test_every_file_of_a_run_has_its_name_in_run_folder(pairs, quick, tmp_path):
    out = tmp_path / "run"
    img2img.train("pix2pix", ab=pairs, out=out, generator="unet_32", val_fraction=0.34, keep=1, **quick)
    img2img.rank(out, metrics="l1")
    files = RunFolder(out)
    named = {getattr(files, name) for name, x in vars(RunFolder).items() if isinstance(x, Entry)}
    inside = {*files.sample_grids(), *files.kept_models()}
    assert {path for path in out.rglob("*")} <= {*named, *inside}
    assert files.sample(4) in inside and files.checkpoint(2) in inside and files.resumable and files.has_results()


def test_no_other_module_of_its_rooms_spells_a_name_of_a_run():
    package = Path(img2img.__file__).parent
    names = {path.name for path in (getattr(RunFolder(Path()), name) for name in ("config", "last", "model", "best"))}
    names |= {"log.jsonl", "report.json", "evaluation.json", "checkpoints.json", "evaluation_images.png", "curves.png"}
    spelled = []
    for room in ("runs", "report", "evaluation", "training/journal.py"):
        for path in [package / room] if room.endswith(".py") else sorted((package / room).glob("*.py")):
            strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            spelled += [(path.name, name) for name in names & strings if path.name != "folder.py"]
    assert spelled == []

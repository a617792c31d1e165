"""What a run tells listeners, and trackers of experiments."""

import json
import sys
from importlib.util import find_spec

import pytest
from conftest import refused

import img2img
from img2img.errors import ConfigError
from img2img.training import trackers
from img2img.training.trackers import TRACKERS, open_trackers

TINY = {"size": 32, "width": 4, "d_width": 4, "generator": "resnet_3", "discriminator": "patch_16", "quiet": True}


class Listener(img2img.Callback):
    def __init__(self):
        self.heard = []

    def begin(self, folder, options, step):
        self.heard.append(("begin", folder.name, options["width"], step))

    def log(self, step, values, kind):
        self.heard.append((kind, step, values))

    def samples(self, step, picture):
        assert picture.is_file()
        self.heard.append(("samples", step))

    def end(self, step):
        self.heard.append(("end", step))


def run(unpaired, out, **options):
    a, b = unpaired
    return img2img.train("cyclegan", a=a, b=b, out=out, **TINY | options)


def test_a_listener_hears_what_the_log_holds(unpaired, tmp_path):
    listener = Listener()
    options = {"steps": 4, "log_every": 2, "val_fraction": 0.4, "validate_every": 4, "sample_every": 3}
    run(unpaired, tmp_path / "run", callbacks=[listener], **options)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged = [(row.pop("kind"), row.pop("step"), row) for row in rows]
    for *_, row in logged:
        del row["epoch"]
    assert [x for x in listener.heard if x[0] in ("train", "validation")] == logged and len(logged) == 3
    assert listener.heard[0] == ("begin", "run", 4, 0) and listener.heard[-1] == ("end", 4)
    assert [x for x in listener.heard if x[0] == "samples"] == [("samples", 3), ("samples", 4)]


def test_a_listener_that_fails_ends_the_run_and_it_resumes_as_if_it_had_not(unpaired, tmp_path):
    class Failing(Listener):
        def log(self, step, values, kind):
            super().log(step, values, kind)
            if step == 3:
                raise RuntimeError("no network")

    failing, later = Failing(), Listener()
    options = {"steps": 4, "log_every": 1, "save_every": 2}
    with pytest.raises(RuntimeError, match="no network"):
        run(unpaired, tmp_path / "run", callbacks=[failing], **options)
    assert failing.heard[-1] == ("end", 3)
    run(unpaired, tmp_path / "run", callbacks=[later], **options)
    run(unpaired, tmp_path / "whole", **options)
    assert later.heard[0] == ("begin", "run", 4, 2)
    assert [x[1] for x in later.heard if x[0] == "train"] == [3, 4]
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert same[0] == same[1]


def test_an_optional_listener_that_fails_is_left_out(unpaired, tmp_path, capsys):
    class Offline(Listener):
        optional = True

        def samples(self, step, picture):
            raise OSError("no network")

    listener = Offline()
    run(unpaired, tmp_path / "run", callbacks=[listener], steps=3, log_every=1, sample_every=2, quiet=False)
    assert "Offline failed, and the run continues without it: no network\n" in capsys.readouterr().err
    assert [x[1] for x in listener.heard[1:]] == [1, 2]


def test_a_tracker_that_cannot_begin_is_one_sentence_and_the_run_can_begin_without_it(unpaired, tmp_path, monkeypatch):
    class Package:
        def init(**options):
            raise ValueError("API key must be 40 characters long\nmore")

    monkeypatch.setattr(trackers, "import_module", lambda name: Package)
    text = refused(ConfigError, run, unpaired, tmp_path / "run", track="wandb", steps=1)
    assert text == "Wandb cannot record the run: API key must be 40 characters long."
    run(unpaired, tmp_path / "run", steps=1)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_an_unknown_or_missing_tracker_is_said_before_anything_is_written(unpaired, tmp_path, monkeypatch):
    assert "Did you mean 'wandb'?" in refused(ConfigError, run, unpaired, tmp_path / "run", track="wandbb")
    for name, (module, _) in TRACKERS.items():
        monkeypatch.setitem(sys.modules, module, None)
        text = refused(ConfigError, run, unpaired, tmp_path / "run", track=name)
        assert f"--track {name} needs {name}" in text and "pip install" in text
    assert not (tmp_path / "run").exists()


def test_a_tracker_named_twice_is_opened_once(monkeypatch):
    monkeypatch.setattr(trackers, "import_module", lambda name: name)
    assert [type(x).__name__ for x in open_trackers("tensorboard, mlflow", tensorboard=True)] == [
        "TensorBoard",
        "MLflow",
    ]
    assert open_trackers("none") == []


@pytest.mark.skipif(not find_spec("tensorboard"), reason="needs tensorboard")
def test_tensorboard_holds_the_log(unpaired, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(unpaired, tmp_path / "run", steps=2, log_every=1, track="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert events.Scalars("train/cycle")[-1].value == pytest.approx(row["cycle"])
    assert [x.step for x in events.Scalars("train/cycle")] == [1, 2] and len(events.Images("samples")) == 1


@pytest.mark.skipif(not find_spec("mlflow"), reason="needs mlflow")
def test_mlflow_holds_the_log_in_one_run_also_when_resumed(unpaired, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: client)
    stopped_and_resumed(unpaired, tmp_path / "run", "mlflow")
    (found,) = client.search_runs([client.get_experiment_by_name("img2img").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/cycle")
    assert {x.step: x.value for x in history} == pytest.approx(logged(tmp_path / "run", "cycle"))
    assert found.data.params["width"] == "4" and found.info.status == "FINISHED"
    assert [x.path for x in client.list_artifacts(found.info.run_id, "samples")] == ["samples/00000003.png"]


@pytest.mark.skipif(not find_spec("wandb"), reason="needs wandb")
def test_wandb_offline_gets_every_record(unpaired, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    stopped_and_resumed(unpaired, tmp_path / "run", "wandb")
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*-run/*.wandb"))
    assert len(files) == 2  # a file per session, of one id
    assert b"train/cycle" in files[0].read_bytes() and b"train/cycle" in files[1].read_bytes()


@pytest.mark.skipif(not find_spec("trackio"), reason="needs trackio")
def test_trackio_holds_the_log_in_one_run_also_when_resumed(unpaired, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    import trackio

    stopped_and_resumed(unpaired, tmp_path / "run", "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = trackio.Api().runs("img2img")
    rows = SQLiteStorage.get_logs("img2img", found.name)
    history = {row["step"]: row["train/cycle"] for row in rows if "train/cycle" in row}
    assert history == pytest.approx(logged(tmp_path / "run", "cycle"))


def stopped_and_resumed(unpaired, out, tracker):
    class Failing(img2img.Callback):
        def log(self, step, values, kind):
            if step == 2:
                raise RuntimeError("stop")

    options = {"steps": 3, "log_every": 1, "save_every": 1, "track": tracker}
    with pytest.raises(RuntimeError, match="stop"):
        run(unpaired, out, callbacks=[Failing()], **options)
    run(unpaired, out, **options)


def logged(folder, name):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows}

"""Jobs on Ray: the bytes of one process, whoever is killed in the middle; and what a user can get wrong."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from helpers import cyclegan_run, there, write_photos
from hypothesis import HealthCheck, given, settings, strategies as st

import img2img
from img2img.bulk.translating import Translating
from img2img.bulk.workers import COLUMNS, TRIES, Begun, Worker
from img2img.errors import ConfigError, Img2ImgError, InputError
from img2img.model.devices import add_note, light
from img2img.model.folder import Job
from img2img.model.options import FolderOptions, TranslateOptions
from img2img.model.record import RECORD, join_record

COPIES = 20
RNG = np.random.default_rng(0)
ON_CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cyclegan_run(tmp_path_factory.mktemp("cyclegan") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(run, photos, tmp_path_factory):
    """The results of one process."""
    img2img.translate(run, photos, out := tmp_path_factory.mktemp("whole") / "out", **ON_CPU)
    return contents(out)


def workers_in(folder):
    """The workers of Ray that were started from `folder`; processes of Ray itself may take a minute to end."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if path.readlink() == folder and (path.parent / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(path.parent.name)
    return found


def contents(folder):
    """What is in the files of a folder, except the record."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != RECORD}


# The engine's entry for a list of files


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(0, 41), max_size=4), order=st.randoms(use_true_random=False))
def test_copies_of_a_job_that_process_lists_of_files_give_the_same_bytes(
    run, photos, whole, tmp_path_factory, cuts, order
):
    out = tmp_path_factory.mktemp("lists") / "out"
    job = Job(img2img.load(run, **ON_CPU), photos, out, TranslateOptions(), FolderOptions())
    todo = []
    assert list(job.sort_out(todo)) == [] and len(todo) == 41
    order.shuffle(todo)
    failed = []
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 41], strict=True):
        copied = pickle.loads(pickle.dumps(light(job, "cpu")))
        assert copied.plan.sources == [] and len(job.plan.sources) == 41
        copied.translator = join_record(copied.translator, out, copied.record)
        failed += [x.source.name for x in copied.translate(deque(todo[first:last])) if x.status == "failed"]
    assert contents(out) == whole and failed == ["broken.png"]


def test_a_worker_that_would_compute_differently_or_sees_another_disk_is_refused(run, photos, tmp_path):
    job = Job(img2img.load(run), photos, tmp_path / "out", TranslateOptions(), FolderOptions())
    job.record["processor"] = "AVX9"
    (tmp_path / "out" / RECORD).write_text(json.dumps(job.record))
    says = refused(ConfigError, join_record, job.translator, tmp_path / "out", job.record)
    assert "would compute differently than the results in" in says and "processor was AVX9, now" in says
    (tmp_path / "out" / RECORD).unlink()
    says = refused(ConfigError, join_record, job.translator, tmp_path / "out", job.record)
    assert says.endswith("INPUT and --out must be on a disk that all machines share.")


# A worker


def worker(job, out, run, photos):
    """A function that lets a worker process all files, and returns its rows; and the names of the files."""
    todo, begun = [], Begun()
    made = job(img2img.load(run, **ON_CPU), photos, out, TranslateOptions(), FolderOptions())
    list(made.sort_out(todo))
    batch = {"number": range(len(todo)), "piece": [os.fsencode(path.relative_to(photos)) for path in todo]}

    def call():
        rows = Worker(Translating(made, 1), begun, str(Path.cwd()))(batch)
        assert tuple(rows) == COLUMNS
        return [(number, kind, pickle.loads(value)) for number, kind, value in zip(*rows.values(), strict=True)]

    return call, [path.name for path in todo]


def test_a_file_that_ends_every_worker_does_not_stop_the_others(run, photos, whole, tmp_path):
    class Deadly(Job):
        def translate(self, todo):
            if "3.png" in [source.name for source in todo]:
                raise SystemExit
            yield from super().translate(todo)

    call, names = worker(Deadly, tmp_path / "out", run, photos)
    ends = 0
    while True:  # as Ray does
        try:
            rows = call()
            break
        except SystemExit:
            ends += 1
    assert ends == 1 + TRIES
    failed = {names[number]: reason for number, _, (status, reason, _) in rows if status == "failed"}
    assert failed.keys() == {"broken.png", "3.png"}
    assert failed["3.png"].endswith("3.png: the process that worked on it ended each time; is there enough memory?")
    lost = next(name for name in whole if name.name == "3.png")
    assert contents(tmp_path / "out") == {name: content for name, content in whole.items() if name != lost}


def test_what_stops_a_worker_is_a_row(run, photos, tmp_path, monkeypatch):
    def broken(translator, out, record):
        translator.notes.append("A note.")
        raise InputError("It does not fit.") if out.name == "fit" else ZeroDivisionError("a bug")

    monkeypatch.setattr("img2img.bulk.translating.join_record", broken)
    refusal, note = worker(Job, tmp_path / "fit", run, photos)[0]()
    assert refusal == (-1, "DataError", "It does not fit.") and note == (-1, "note", "A note.")
    number, status, reason = worker(Job, tmp_path / "bug", run, photos)[0]()[0]
    assert (number, status) == (-1, "bug") and "ZeroDivisionError: a bug" in reason


def test_notes_of_workers_that_differ_in_their_example_are_one():
    notes = []
    for note in ("Results do not keep x, e.g. of 1.tif.", "Results do not keep x, e.g. of 2.tif.", "Other."):
        add_note(notes, note)
    assert notes == ["Results do not keep x, e.g. of 1.tif.", "Other."]


# Ray


@pytest.mark.nightly
def test_the_command_is_stopped_killed_and_started_again(
    run, photos, whole, tmp_path, tmp_path_factory, monkeypatch, command_line
):
    pytest.importorskip("ray")
    copies = [f"{k:02}" for k in range(COPIES)]  # so many that the job is not done before the signal comes
    many = tmp_path_factory.mktemp("many")
    for name in copies:
        shutil.copytree(photos, many / name)
    words = [sys.executable, "-m", "img2img", "translate", run, many, "--out", "out", "--device", "cpu"]
    words += ["--ray", "local", "--ray-workers", "2"]
    codes = {signal.SIGINT: 130, signal.SIGKILL: -9}
    for number, code in codes.items():
        begun = len(there(tmp_path, "*.png"))
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run in the background
        process = subprocess.Popen(
            words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
        )
        while len(there(tmp_path, "*.png")) == begun and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        _, said = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in said, said
        assert ("Stopped. Run the same command again" in said) == (number == signal.SIGINT), said
        assert len(there(tmp_path, "*.png")) < COPIES * len(whole)
        deadline = time.monotonic() + 60
        while (left := workers_in(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left
    monkeypatch.chdir(tmp_path)
    code, out, err = command_line(*words[3:-4])  # this time without Ray
    assert code == 1 and f"already there, {COPIES} failed" in out, err
    found = {name: contents(tmp_path / "out" / name).items() ^ whole.items() for name in copies}
    assert {name: [path for path, _ in different] for name, different in found.items() if different} == {}


# Mistakes


def test_mistakes_in_options(run, photos, tmp_path, command_line):
    def says(*words):
        code, _, text = command_line("translate", run, photos, "--out", tmp_path / "out", *words)
        assert code == 2
        return text

    assert "--ray-workers has no effect without --ray." in says("--ray-workers", "2")
    for address in ("auto", "10.0.0.1", "ray://here:1", "here:port", ":1"):
        assert f"--ray takes local, or an address such as 10.0.0.1:6379, not '{address}'" in says("--ray", address)
    assert "--ray 127.0.0.1:1: there is no Ray cluster at this address: Connection refused." in says(
        "--ray", "127.0.0.1:1"
    )
    assert "there is no Ray cluster at this address: " in says("--ray", "nowhere.invalid:6379")
    assert not (tmp_path / "out").exists()


def test_ray_that_is_not_installed(run, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    says = refused(Img2ImgError, img2img.translate, run, photos, tmp_path / "out", ray="local", **ON_CPU)
    assert says == "--ray needs ray. Install it with: pip install 'img2img-gan[ray]'."
    assert not (tmp_path / "out").exists()

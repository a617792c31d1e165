"""Stores: translating from and into them gives the bytes of a disk, whatever becomes of the process or the network."""

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import refused
from fsspec.implementations.memory import MemoryFileSystem
from helpers import cyclegan_run, dcgan_run, there
from PIL import Image

import img2img
from img2img.bulk import translating as bulk
from img2img.bulk.begun import Begun
from img2img.bulk.sampling import Sampling, piece_of
from img2img.bulk.translating import StagedTranslating
from img2img.bulk.workers import TRIES, Worker
from img2img.data.remote import Remote, is_inside, is_name, locate, shown
from img2img.errors import ConfigError, DataError, NoImagesError, StoreError, TrainingError
from img2img.model import staged, staging
from img2img.model.devices import light
from img2img.model.options import FolderOptions, SampleOptions, TranslateOptions
from img2img.model.record import RECORD
from img2img.model.stored_samples import StoredDrawing

RNG = np.random.default_rng(0)
ROOT = Path(img2img.__file__).parents[1]
ON_CPU = {"device": "cpu"}
NAMES = ["1.png", "2.png", "in/1.png", "in/deep/ä b.png", "in/deep/2.jpg", "in/x?y#z.png", "z.tif"]
SECRET = "s3cr3t-word"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cyclegan_run(tmp_path_factory.mktemp("cyclegan") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images in folders; one cannot be read, others are hidden, are no images, or are overviews of samples."""
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (30 + 9 * k % 40, 40, 3), dtype=np.uint8)).save(root / name)
    (root / "broken.png").write_bytes(b"broken")
    for name in ("notes.txt", ".hidden.png", ".hidden/1.png", "drawn/grid.png", "drawn/samples.json", "in/grid.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "1.png", root / name)
    return root


@pytest.fixture(scope="module")
def whole(run, photos, tmp_path_factory):
    """The results of the same job on a disk, and its summary."""
    out = tmp_path_factory.mktemp("whole") / "out"
    summary = img2img.translate(run, photos, out, **ON_CPU)
    return contents(out), summary


@pytest.fixture
def store(photos, monkeypatch, tmp_path):
    """A store in memory that holds the photos, emptied afterwards; and a place for what is brought."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fs = MemoryFileSystem()
    fs.put(f"{photos}/", "/photos/", recursive=True)
    yield fs
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    assert list(tmp_path.glob(".*.img2img-part")) == []  # nothing stays on this disk


def contents(place):
    """What is in the files of a folder, or below a path of the store in memory, except the records."""
    if isinstance(place, Path):
        found = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    else:
        below = [x for x in MemoryFileSystem.store if x.startswith(f"{place}/")]
        found = {x[len(place) + 1 :]: MemoryFileSystem().cat_file(x) for x in below}
    return {name: content for name, content in found.items() if not name.startswith(".")}


def record(place="/out"):
    return json.loads(MemoryFileSystem().cat_file(f"{place}/{RECORD}"))


# The same bytes


def test_results_and_record_are_those_of_a_disk(run, store, photos, whole, tmp_path):
    results, expected = whole
    summary = img2img.translate(run, "memory://photos", "memory://out", report=tmp_path / "r.json", **ON_CPU)
    assert contents("/out") == results and summary.translated == expected.translated == len(NAMES) + 1
    [(url, reason)] = summary.failed
    [(_, of_disk)] = expected.failed
    assert url == "memory://photos/broken.png" and reason == of_disk.replace(str(photos), "memory://photos")
    img2img.translate(run, photos, tmp_path / "disk", **ON_CPU)
    assert record() == json.loads((tmp_path / "disk" / RECORD).read_text())
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["translated"] == len(NAMES) + 1 and report["failed"][0]["file"] == url
    assert report["notes"] == ["1 file was skipped: 1 .txt."]


def test_either_side_may_be_a_disk(run, store, photos, whole, tmp_path):
    img2img.translate(run, photos, "memory://out", **ON_CPU)
    summary = img2img.translate(run, "memory://photos", tmp_path / "out", **ON_CPU)
    assert contents("/out") == contents(tmp_path / "out") == whole[0]
    assert summary.failed[0][0] == "memory://photos/broken.png"
    assert list(tmp_path.glob("out/.*part*")) == [] and (tmp_path / "out" / RECORD).exists()
    img2img.translate(run, f"file://{photos}", f"file://{tmp_path}/other", **ON_CPU)  # as ever
    assert contents(tmp_path / "other") == whole[0]


def test_parts_lists_formats_and_single_files(run, store, photos, whole, tmp_path):
    for k in (1, 2, 3):
        img2img.translate(run, "memory://photos", "memory://out", shard=f"{k}/3", **ON_CPU)
    assert contents("/out") == whole[0]
    for source in ("memory://photos/1.png", tmp_path / "one.png"):  # one of the parts of a single image is empty
        Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
        parts = [img2img.translate(run, source, "memory://empty", shard=f"{k}/2", **ON_CPU) for k in (1, 2)]
        assert sum(part.translated for part in parts) == 1
    (tmp_path / "list.txt").write_text("1.png\nmemory://photos/in/1.png\nabsent.png\n")
    summary = img2img.translate(run, "memory://photos", "memory://listed", files=tmp_path / "list.txt", **ON_CPU)
    assert sorted(contents("/listed")) == ["1.png", "in/1.png"]
    assert summary.failed == [
        ("memory://photos/absent.png", "memory://photos/absent.png cannot be read: it does not exist.")
    ]
    (tmp_path / "list.txt").write_text("../secret.png\n")
    says = refused(DataError, img2img.translate, run, "memory://photos", "memory://x", files=tmp_path / "list.txt")
    assert says == "The list names files that are not below memory://photos: ../secret.png."
    summary = img2img.translate(run, "memory://photos/in/1.png", "memory://one", **ON_CPU)
    assert list(contents("/one")) == ["1.png"] and summary.translated == 1
    store.pipe_file("/clash/1.png", store.cat_file("/photos/1.png"))
    store.pipe_file("/clash/1.jpg", store.cat_file("/photos/in/deep/2.jpg"))
    summary = img2img.translate(run, "memory://clash", "memory://bmp", format="bmp", **ON_CPU)
    assert list(contents("/bmp")) == ["1.bmp"] and "same path as that of memory://clash/1.jpg" in summary.failed[0][1]


def test_results_below_the_source_are_not_translated_again(run, store, whole):
    for _ in range(2):
        summary = img2img.translate(run, "memory://photos", "memory://photos/results", **ON_CPU)
    assert contents("/photos/results") == whole[0] and summary.skipped == len(whole[0]) and not summary.translated
    says = refused(ConfigError, img2img.translate, run, "memory://photos", "memory://photos", **ON_CPU)
    assert "would lie among the originals in memory://photos" in says


# Repeats and records


def test_what_is_there_is_kept_unless_it_is_to_be_overwritten(run, store, whole):
    img2img.translate(run, "memory://photos", "memory://out", **ON_CPU)
    store.pipe_file("/out/1.png", b"kept")
    store.rm_file("/out/2.png")
    summary = img2img.translate(run, "memory://photos", "memory://out", **ON_CPU)
    assert (summary.translated, summary.skipped) == (1, len(NAMES)) and store.cat_file("/out/1.png") == b"kept"
    img2img.translate(run, "memory://photos", "memory://out", overwrite=True, **ON_CPU)
    assert contents("/out") == whole[0]


def test_another_model_or_option_is_refused_as_on_a_disk(run, store, whole, tmp_path):
    img2img.translate(run, "memory://photos", "memory://out", **ON_CPU)
    says = refused(ConfigError, img2img.translate, run, "memory://photos", "memory://out", direction="b2a", **ON_CPU)
    assert says.startswith("The results in memory://out were computed differently: direction was a2b, now b2a.")
    img2img.translate(run, "memory://photos", "memory://out", direction="b2a", overwrite=True, **ON_CPU)
    assert record()["direction"] == "b2a" and "unfinished" not in record() and contents("/out") != whole[0]
    store.pipe_file("/out/more/other.png", b"")
    says = refused(ConfigError, img2img.translate, run, "memory://photos", "memory://out", overwrite=True, **ON_CPU)
    assert "memory://out holds 1 result that were computed differently" in says.replace("results", "result")
    assert "e.g. memory://out/more/other.png" in says and str(tmp_path) not in says
    store.pipe_file("/out/" + RECORD, b"{}")
    says = refused(ConfigError, img2img.translate, run, "memory://photos", "memory://out", **ON_CPU)
    assert f"memory://out/{RECORD} is damaged" in says


def test_a_job_whose_place_is_taken_over_stops(run, store, monkeypatch):
    monkeypatch.setattr(staging, "LOOK_SECONDS", 0.0)
    outcomes = img2img.translate_folder(run, "memory://photos", "memory://out", **ON_CPU)
    store.pipe_file(f"/out/{RECORD}", json.dumps(record() | {"direction": "b2a"}).encode())
    says = refused(ConfigError, list, outcomes)
    assert says.startswith("Another command has begun to write other results into memory://out;")
    assert contents("/out") == {}


def test_of_several_that_begin_at_once_one_decides(store):
    place = locate("memory://out")
    wrote = []
    threads = [threading.Thread(target=lambda k=k: wrote.append(place.create("r", b"%d" % k))) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrote.count(True) == 1 and place.read("r") in [b"%d" % k for k in range(8)]
    assert place.create("r", b"x") is False and place.read("absent") is None


# Workers, as Ray has them; tests/test_ray_cluster.py has Ray


def of_worker(work, begun, pieces):
    """What a worker answers that is given pieces by number, and ends as often as Ray would start it again."""
    ends, copied = 0, pickle.dumps(work)
    while True:
        try:
            batch = {"number": list(pieces), "piece": list(pieces.values())}
            answer = Worker(pickle.loads(copied), begun, str(Path.cwd()))(batch)
        except SystemExit:
            ends += 1
            continue
        return ends, [(n, kind, pickle.loads(value)) for n, kind, value in zip(*answer.values(), strict=True)]


class Deadly(staging.StagedJob):
    def translate(self, todo):
        if "2.jpg" in [source.name for source in todo]:
            raise SystemExit
        yield from super().translate(todo)


def staged_job(run, kind=staging.StagedJob):
    """A job from one place in memory to another, and the pieces that workers are given."""
    places = locate("memory://photos"), locate("memory://out")
    job = kind(img2img.load(run, **ON_CPU), *places, TranslateOptions(), FolderOptions())
    pieces = {item.number: pickle.dumps((item.name, item.size)) for item in job.plan.items()}
    return job, StagedTranslating(light(job, "cpu"), 1), pieces


def test_workers_bring_and_send_files_in_any_order(run, store, whole):
    job, work, pieces = staged_job(run)
    begun, found = Begun(), {}
    for numbers in (range(6, len(pieces)), (5, 3, 4), range(3)):
        ends, rows = of_worker(work, begun, {n: pieces[n] for n in numbers})
        assert ends == 0 and {kind for _, kind, _ in rows} == {"result"}
        found |= {n: fields for n, _, fields in rows}
    assert contents("/out") == whole[0]
    [reason] = [reason for status, reason, _ in found.values() if status == "failed"]
    assert reason.startswith("memory://photos/broken.png is not in a format")
    ends, rows = of_worker(work, Begun(), pieces)
    assert {status for _, _, (status, _, _) in rows} == {"skipped", "failed"}
    store.pipe_file(f"/out/{RECORD}", json.dumps(job.record | {"direction": "b2a"}).encode())
    [(_, kind, says)] = of_worker(work, Begun(), {0: pieces[0]})[1]
    assert kind == "ConfigError" and says.startswith("Another command has begun to write other results into memory://")
    store.rm_file(f"/out/{RECORD}")
    assert "does not see memory://out;" in of_worker(work, Begun(), {0: pieces[0]})[1][0][2]
    job.plan.close()


def test_files_of_a_store_are_handed_out_some_after_others(run, store, whole, monkeypatch):
    monkeypatch.setattr(bulk, "ROUND", 3)
    store.pipe_file("/photos/large.png", bytes(10**4))
    job, work, _ = staged_job(run)
    job.plan.most, counts = 9000, []  # bytes of a file that is handed out

    def share(pieces):
        counts.append(len(pieces := dict(enumerate(pieces))))
        return ((n, fields) for n, _, fields in of_worker(work, Begun(), pieces)[1])

    with job.whole():
        outcomes = list(bulk._staged(job, share))
    assert sum(counts) == len(NAMES) + 2 and max(counts) <= 3 and [x.done for x in outcomes] == list(range(1, 11))
    failed = {x.source: x.reason for x in outcomes if x.status == "failed"}
    assert sorted(failed) == ["memory://photos/broken.png", "memory://photos/large.png"]
    assert "raise it if that is right" in failed["memory://photos/large.png"]
    assert contents("/out") == whole[0]


def test_a_file_in_a_store_that_ends_every_worker_is_reported(run, store, whole):
    job, work, pieces = staged_job(run, Deadly)
    ends, rows = of_worker(work, Begun(), pieces)
    assert ends == 1 + TRIES
    failed = sorted(reason for _, _, (status, reason, _) in rows if status == "failed")
    assert len(failed) == 2 and failed[1].startswith("memory://photos/in/deep/2.jpg: the process that worked on it")
    assert contents("/out") == {name: content for name, content in whole[0].items() if name != "in/deep/2.jpg"}
    job.plan.close()


# Images drawn from noise


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    return dcgan_run(tmp_path_factory.mktemp("dcgan") / "run")


def test_images_drawn_into_a_store_are_those_of_a_disk(sampler, store, tmp_path, command_line):
    options = {"grid": True, "batch_size": 4, "device": "cpu"}
    img2img.sample(sampler, 11, out=tmp_path / "out", **options)
    of_disk = contents(tmp_path / "out")
    for part in ("2/2", "1/2"):
        img2img.sample(sampler, 11, out="memory://out", shard=part, **options)
    assert contents("/out") == of_disk
    store.rm_file("/out/000003.png")
    store.pipe_file("/out/000004.png", b"kept")
    words = ("sample", sampler, "--out", "memory://out", "--n", 11, "--batch-size", 4, "--device", "cpu")
    code, out, err = command_line(*words)
    assert code == 0 and out == "1 image drawn into memory://out, 10 already there\n", err
    store.pipe_file("/out/000004.png", of_disk["000004.png"])
    assert contents("/out") == of_disk
    store.rm("/out", recursive=True)
    job = StoredDrawing(img2img.load(sampler, device="cpu"), 11, locate("memory://out"), SampleOptions(batch_size=4))
    for part in ([8, 9, 10], [4, 5, 6, 7, 0, 1, 2, 3]):
        answer = of_worker(Sampling(job.copy_for("cpu")), Begun(), {0: piece_of(part)})
        assert answer == (0, [(0, "result", None)])
    assert contents("/out") == {name: content for name, content in of_disk.items() if name != "grid.png"}
    code, _, err = command_line(*words, "--seed", 5)
    assert code == 2 and err.startswith("img2img: memory://out holds images of another model, seed, class, truncation")
    img2img.sample(sampler, 2, out="memory://out", seed=5, overwrite=True, device="cpu")
    left = sorted(contents("/out"))
    assert left == ["000000.png", "000001.png", "samples.json"]
    store.pipe_file("/other/000001.png", b"foreign")
    code, _, err = command_line("sample", sampler, "--out", "memory://other", "--n", 2)
    assert code == 2 and err.startswith("img2img: memory://other/000001.png was not drawn by this command;")
    code, _, err = command_line("sample", sampler, "--out", "memory://other", "--ray", "local")
    assert code == 2 and "memory://other is in the memory of one process; give a place that all workers see." in err
    assert contents("/other") == {"000001.png": b"foreign"}


# What goes wrong


def plain(cls, path):
    return MemoryFileSystem._strip_protocol(path.removeprefix(f"{cls.protocol}:/"))


class Failing(MemoryFileSystem):
    """A store some of whose requests fail: `faults` gives for (request, name) what is raised."""

    protocol = "failing"
    _strip_protocol = classmethod(plain)
    faults: dict = {}

    def _fail(self, request, path):
        for (which, end), error in self.faults.items():
            if which == request and path.endswith(end):
                raise error

    def get_file(self, path, *args, **options):
        self._fail("get", path)
        return super().get_file(path, *args, **options)

    def put_file(self, path, target, *args, **options):
        self._fail("put", target)
        return super().put_file(path, target, *args, **options)

    def info(self, path, **options):
        self._fail("info", path)
        return super().info(path, **options)


@pytest.fixture
def failing(store, monkeypatch):
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(Failing, "faults", {})
    monkeypatch.setattr("img2img.data.remote.PUT_IS_WHOLE", ("memory", "failing"))
    return Failing.faults


def test_an_object_that_fails_fails_alone(run, failing, whole):
    failing |= {("get", "/1.png"): PermissionError("Access Denied"), ("get", "/2.png"): FileNotFoundError("2.png")}
    failing |= {("put", "/z.tif"): OSError(f"broken\nfailing://user:{SECRET}@host/x?token={SECRET}")}
    summary = img2img.translate(run, "failing://photos", "failing://out", **ON_CPU)
    reasons = {name.removeprefix("failing://photos/"): reason for name, reason in summary.failed}
    assert reasons.pop("broken.png")
    assert reasons == {
        "1.png": "failing://photos/1.png cannot be read: access is denied (Access Denied).",
        "in/1.png": "failing://photos/in/1.png cannot be read: access is denied (Access Denied).",
        "2.png": "failing://photos/2.png cannot be read: it does not exist.",
        "z.tif": "failing://photos/z.tif: failing://out/z.tif cannot be written: broken.",
    }
    assert contents("/out") == {name: x for name, x in whole[0].items() if name not in reasons}


def test_a_store_that_does_not_answer_ends_the_job_and_the_same_command_continues(run, failing, whole):
    outcomes = img2img.translate_folder(run, "failing://photos", "failing://out", **ON_CPU)
    failing |= {("get", "/2.png"): TimeoutError("timed out"), ("info", "photos"): TimeoutError("timed out")}
    says = refused(TrainingError, list, outcomes)
    assert (
        says
        == "failing://photos does not answer: timed out. Start the same command again to translate what is missing."
    )
    failing.clear()
    img2img.translate(run, "failing://photos", "failing://out", **ON_CPU)
    assert contents("/out") == whole[0]


def test_a_full_disk_ends_the_job(run, failing):
    failing |= {("get", "/1.png"): OSError(errno.ENOSPC, "No space left on device")}
    says = refused(TrainingError, img2img.translate, run, "failing://photos", "failing://out", **ON_CPU)
    assert says.startswith("The disk is full on which ") and "set TMPDIR" in says


def test_large_objects_are_not_brought(run, store, monkeypatch, whole):
    brought = []
    monkeypatch.setattr(Remote, "bring", lambda self, name, path: brought.append(name))
    size = max(store.info("/photos/1.png")["size"], 3000)
    summary = img2img.translate(run, "memory://photos", "memory://out", max_megapixels=size / 2 / 16e6, **ON_CPU)
    assert "1.png" not in brought
    assert "bytes for each pixel of --max-megapixels" in dict(summary.failed)["memory://photos/1.png"]


def test_what_needs_a_disk_is_refused_in_one_sentence(run, store, tmp_path, command_line):
    def says(**options):
        return refused(ConfigError, img2img.translate, run, "memory://photos", "memory://out", **options)

    assert says(statistics=8).startswith("--statistics works on files of this machine alone; copy it to a disk first")
    assert says(ray="local") == "memory://photos is in the memory of one process; give a place that all workers see."
    assert says(device="cpu,cpu").startswith("Several --device cannot be combined with a store such as s3://;")
    assert says(format="zarr").startswith("--format zarr makes folders")
    says_report = says(report=Path("s3://bucket/r.json"))
    assert says_report.startswith(
        "--report takes a path on this machine, and not a URL such as s3://bucket/r.json; copy"
    )
    assert not Path("s3:").exists()
    for name in ("x.zarr/.zattrs", "x.zarr/0/0.0", "plate/.zgroup", "plate/A/1.png", "a/b.svs", "1.png"):
        store.pipe_file(f"/mixed/{name}", store.cat_file("/photos/1.png"))
    summary = img2img.translate(run, "memory://mixed", tmp_path / "out", **ON_CPU)
    assert [name for name, _ in summary.failed] == [f"memory://mixed/{x}" for x in ("a/b.svs", "plate", "x.zarr")]
    assert all("copy it to a disk first" in reason for _, reason in summary.failed) and summary.translated == 1
    assert "copy it to a disk first" in refused(
        DataError, img2img.translate, run, "memory://mixed/x.zarr", tmp_path / "y"
    )
    says = refused(DataError, img2img.translate, run, "memory://nothing", tmp_path / "y")
    assert says == "memory://nothing cannot be listed: it does not exist."
    store.pipe_file("/texts/x.txt", b"x")
    says = refused(NoImagesError, img2img.translate, run, "memory://texts", tmp_path / "y")
    assert says.startswith("memory://texts contains no images.") and says.endswith("1 file was skipped: 1 .txt.")
    code, _, err = command_line("translate", run, "nosuch://bucket/x", "--out", tmp_path / "y")
    assert code == 2 and err.startswith("img2img: nosuch://bucket/x cannot be opened: ") and err.count("\n") == 1
    code, _, err = command_line("translate", run, "gs://bucket/x", "--out", tmp_path / "y")
    assert code == 2 and "gcsfs" in err and err.count("\n") == 1


def test_other_commands_take_no_urls(run, unpaired, tmp_path, monkeypatch, command_line):
    monkeypatch.chdir(tmp_path)
    a, b = unpaired
    url = "s3://bucket/photos"
    for words in (
        ("evaluate", run, "--a", url, "--b", b),
        ("train", "cyclegan", "--a", a, "--b", url, "--out", "x"),
        ("train", "cyclegan", "--data", url, "--out", "x"),
        ("train", "cyclegan", "--a", a, "--b", b, "--out", url),
        ("classify", run, url, "--out", "x.csv"),
    ):
        code, _, err = command_line(*words)
        assert code == 2 and f"not a URL such as {url}; copy the files to a disk first" in err, (words, err)
    says = refused(ConfigError, img2img.train, "cyclegan", a=url, b=b, out=tmp_path / "x", device="cpu")
    assert says.startswith("This command takes a path on this machine, and not a URL such as s3://bucket/photos; copy")
    assert not Path("s3:").exists()


# Names and credentials


def test_names_that_no_disk_has_are_refused(store, run, tmp_path):
    for name in ("a//b.png", "../b.png", "a/../b.png", "./b.png", "a\0.png", "x" * 300 + ".png", ""):
        assert not is_name(name), name
    for name in ("b.png", "a/b.png", "ä b/?.png", "..b.png", "a\\b.png" if os.sep == "/" else "b.png"):
        assert is_name(name), name
    place = locate("memory://odd")
    place.files = lambda: iter([("../../../b.png", 9), ("a//b.png", 9), ("ok.png", 9)])
    plan = staged.StagedPlan(place, tmp_path / "out", FolderOptions())
    assert [bool(item.fault) for item in plan.items()] == [True, True, False]
    plan.close()


def test_credentials_are_never_shown(run, store, tmp_path, command_line):
    for url in (
        f"s3://key:{SECRET}@bucket/x",
        f"s3://bucket/x?token={SECRET}",
        f"sftp://{SECRET}@host:22/x?a=1&b={SECRET}",
    ):
        assert SECRET not in shown(url) and shown(url).startswith(url[:4])
    assert shown("s3://bucket/a@b/c/") == "s3://bucket/a@b/c"
    url = f"memory://key:{SECRET}@photos"
    MemoryFileSystem().put(str(run / "samples"), f"/key:{SECRET}@photos/", recursive=True)
    words = ("translate", run, url, "--out", f"memory://key:{SECRET}@out", "--report", tmp_path / "r.json")
    code, out, err = command_line(*words)
    assert code == 0 and "translated into memory://out" in out
    everything = out + err + (tmp_path / "r.json").read_text() + json.dumps(record(f"/key:{SECRET}@out"))
    assert SECRET not in everything and "memory://" in everything
    code, out, err = command_line("translate", run, f"nosuch://u:{SECRET}@b/x?t={SECRET}", "--out", tmp_path / "y")
    assert code == 2 and SECRET not in out + err
    place = Remote(store, f"key:{SECRET}@bucket/x", "s3://bucket/x", (SECRET,))
    with (
        pytest.raises(StoreError, match=re.escape("s3://bucket/x/a cannot be read: no bucket key:***@bucket.")),
        place._told("a", "cannot be read"),
    ):
        raise ValueError(f"no bucket key:{SECRET}@bucket")


def test_places():
    assert locate("photos") == Path("photos") and locate("file:///a/b") == locate(Path("/a/b")) == Path("/a/b")
    place = locate("memory://a/b/")
    assert isinstance(place, Remote) and str(place / "001") == "memory://a/b/001"
    assert is_inside(place / "x", place) and is_inside(place, place) and not is_inside(place, place / "x")
    assert not is_inside(locate("memory://a/bc"), place) and not is_inside(Path("/a/b/c"), place)
    assert "chained URLs" in refused(ConfigError, locate, "simplecache::s3://bucket/x")


# Many files


class Endless(MemoryFileSystem):
    """A store of 10^5 folders with 100 images each, which do not exist before they are asked for."""

    protocol = "endless"
    _strip_protocol = classmethod(plain)
    asked = Counter()

    def ls(self, path, detail=True, **_):
        self.asked[path.count("/")] += 1
        if path.count("/") < 4:
            return [{"name": f"{path}/{k:02}", "type": "directory", "size": 0} for k in range(47)]
        return [{"name": f"{path}/{k:04}.png", "type": "file", "size": 10**6} for k in range(100)]


def test_names_are_listed_as_a_stream(tmp_path, monkeypatch):
    fsspec.register_implementation("endless", Endless, clobber=True)
    monkeypatch.setattr(staged, "RECENT", 100)
    items = staged.StagedPlan(Remote.open("endless://many"), tmp_path, FolderOptions()).items()
    Endless.asked.clear()
    assert sum(1 for _ in islice(items, 1000)) == 1000
    tracemalloc.start()
    assert sum(1 for _ in islice(items, 3000)) == 3000
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert Endless.asked[4] in (40, 41) and sum(Endless.asked.values()) < 50  # of 10^7 names
    assert now < 3e5 and most < 6e5  # 3000 names that were held would take more


def test_what_lies_on_this_disk_is_bounded(run, store, monkeypatch):
    monkeypatch.setattr(staging, "LIVE", 3)
    monkeypatch.setattr(staging, "CHUNK", 2)
    most, bring = [], Remote.bring

    def counting(self, name, path):
        bring(self, name, path)
        most.append(len(there(path.parents[1], "*")))

    monkeypatch.setattr(Remote, "bring", counting)
    img2img.translate(run, "memory://photos", "memory://out", **ON_CPU)
    assert len(most) == len(NAMES) + 2 and max(most) <= 3
    monkeypatch.setattr(staging, "LIVE_BYTES", 1)
    most.clear()
    img2img.translate(run, "memory://photos", "memory://again", **ON_CPU)
    assert max(most) == 1


# Killed, and a real protocol

DISK = """
import sys, time
import fsspec
from fsspec.implementations.local import LocalFileSystem
from img2img.__main__ import main

seconds = float(sys.argv.pop(1))

class Disk(LocalFileSystem):
    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("disk://"))

    def cp_file(self, source, target, **options):
        '''Copy in two halves, slowly.'''
        content = open(source, "rb").read()
        with open(self._strip_protocol(target), "wb") as file:
            for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                file.write(half)
                file.flush()
                time.sleep(seconds)

    get_file = put_file = cp_file

fsspec.register_implementation("disk", Disk)
main()
"""


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_nothing_half_written_and_continues(run, tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "in").mkdir()
    for k in range(80):
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{k:02}.png")
    img2img.translate(run, tmp_path / "in", tmp_path / "whole", **ON_CPU)
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    words = ["translate", str(run), f"disk://{tmp_path}/in", "--out", f"disk://{out}", "--device", "cpu"]

    def start(seconds):
        command = [sys.executable, "-c", DISK, seconds, *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    process = start("0.3")
    while process.poll() is None and len(list(out.glob("[!.]*.png"))) < 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = contents(out)
    assert 3 <= len(done) < 80 and done.items() <= whole.items()
    assert len(list((tmp_path / "tmp").glob(".*.img2img-part"))) == 1  # of the killed process
    process = start("0")
    printed, _ = process.communicate()
    assert process.returncode == 0 and f"{80 - len(done)} images translated into disk://{out}" in printed, printed
    assert f", {len(done)} already there" in printed and contents(out) == whole
    assert list((tmp_path / "tmp").iterdir()) == []


LEAKS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)  # botocore


@pytest.fixture
def s3(monkeypatch):
    """A server on this machine that speaks the protocol of S3, with a bucket; and a file system for it."""
    s3fs, server = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    fs.mkdir("bucket")
    yield fs
    fs.rm("bucket", recursive=True)  # servers in one process share what they hold
    served.stop()


@pytest.mark.slow
@LEAKS
def test_the_protocol_of_s3(run, photos, whole, s3, tmp_path, monkeypatch, command_line):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    s3.put(f"{photos}/", "bucket/photos/", recursive=True)
    words = ("translate", run, "s3://bucket/photos", "--out", "s3://bucket/out", "--device", "cpu")
    code, out, err = command_line(*words)
    assert code == 1 and f"{len(NAMES) + 1} images translated into s3://bucket/out" in out, err
    assert "failed: s3://bucket/photos/broken.png is not in a format" in err
    results = {x.removeprefix("bucket/out/"): s3.cat_file(x) for x in s3.find("bucket/out")}
    assert RECORD in results and {name: x for name, x in results.items() if name != RECORD} == whole[0]
    code, out, err = command_line(*words)
    assert code == 1 and f"(0.0 images/s), {len(whole[0])} already there" in out
    s3.pipe({f"bucket/many/{k:04}.png": b"" for k in range(250)})
    many = locate("s3://bucket/many")
    many.fs.req_kw = {"MaxKeys": 100}
    monkeypatch.setattr("img2img.data.remote.PAGE", 40)
    assert [name for name, _ in many.files()] == [f"{k:04}.png" for k in range(250)]
    place = locate("s3://bucket/race")
    assert place.create("r", b"a") and not place.create("r", b"b") and place.read("r") == b"a"
    monkeypatch.setattr(Remote, "size", lambda self, name: None)  # as seen by one that comes a moment earlier
    assert not place.create("r", b"b") and place.read("r") == b"a"
    monkeypatch.undo()


@pytest.mark.slow
@LEAKS
def test_what_s3_refuses_is_one_sentence(run, s3, tmp_path, command_line):
    code, _, err = command_line("translate", run, "s3://nosuch/photos", "--out", tmp_path / "out")
    assert code == 2 and err == "img2img: s3://nosuch/photos cannot be listed: it does not exist.\n"
    code, _, err = command_line("translate", run, tmp_path, "--out", "s3://nosuch/out")
    assert code == 2 and err.count("\n") == 1 and SECRET not in err

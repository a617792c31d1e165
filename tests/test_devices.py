"""Folders and drawings on several devices: the bytes of one device, whatever becomes of the processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import Pipe, active_children
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import refused
from helpers import cyclegan_run, dcgan_run, there
from PIL import Image

import img2img
from img2img.errors import ConfigError, TrainingError
from img2img.model import devices, drawing, folder, samples
from img2img.model.record import RECORD
from img2img.runtime import device

RNG = np.random.default_rng(0)
ROOT = Path(img2img.__file__).parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500", "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cyclegan_run(tmp_path_factory.mktemp("cyclegan") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 images of several sizes, in folders, and one that cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    for k in range(40):
        path = root / f"{k % 3}" / f"{k:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (30 + 9 * k % 40, 40, 3), dtype=np.uint8)).save(path)
    (root / "broken.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def whole(run, photos, tmp_path_factory):
    """The results of one device."""
    img2img.translate(run, photos, out := tmp_path_factory.mktemp("whole") / "out", device="cpu")
    return contents(out)


def contents(root):
    """What is in the files of a folder, except those whose names begin with a dot."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("[!.]*") if p.is_file()}


def leftovers(root):
    return [p.name for p in root.rglob(".*") if p.name != RECORD]


# Threads in place of processes, which may be killed at a file.


class Thread(threading.Thread):
    exitcode = None

    def __init__(self, target, args, daemon):
        own = Connection(os.dup(args[0].fileno()))  # as a process has its own
        super().__init__(target=self.serve, args=(target, own, *args[1:]), daemon=daemon)

    def serve(self, target, connection, *rest):
        try:
            target(connection, *rest)
        finally:
            self.exitcode = 0
            connection.close()


class Context:
    Process, Pipe = Thread, staticmethod(Pipe)


@pytest.fixture
def threads(monkeypatch):
    for module in (devices, drawing):
        monkeypatch.setattr(module, "Context", Context)
        monkeypatch.setattr(module, "shield", lambda: None)


@pytest.fixture
def kills(monkeypatch):
    """Files that end the process which reads them."""
    names, read = [], folder.read_image

    def reads(path, *rest):
        if path.name in names:
            raise ConnectionResetError
        return read(path, *rest)

    monkeypatch.setattr(folder, "read_image", reads)
    return names


def test_threads_on_two_devices_give_the_same_bytes(run, photos, whole, threads, tmp_path):
    out, done = tmp_path / "out", []
    img2img.translate(run, photos / "1", out / "1", device="cpu")  # is there already
    (out / "1" / RECORD).rename(out / RECORD)
    summary = img2img.translate(run, photos, out, device="cpu,cpu:1", progress=done.append, report=tmp_path / "report")
    assert contents(out) == whole and leftovers(out) == []
    assert (summary.translated, summary.skipped, len(summary.failed)) == (27, 13, 1)
    assert "broken.png" in summary.failed[0][1] and summary.computed.endswith(", 2 processes")
    assert [outcome.done for outcome in done] == list(range(1, 42)) and {outcome.total for outcome in done} == {41}
    report = json.loads((tmp_path / "report").read_text())
    assert (report["translated"], report["skipped"], report["shard"]) == (27, 13, None)


def test_the_record_does_not_depend_on_the_number_of_devices(run, photos, threads, tmp_path):
    for name in ("cpu", "cpu,cpu"):
        img2img.translate(run, photos / "1", tmp_path / name, device=name)
    assert (tmp_path / "cpu" / RECORD).read_bytes() == (tmp_path / "cpu,cpu" / RECORD).read_bytes()


def test_slides_on_two_devices_give_the_same_bytes(run, threads, tmp_path):
    for k in range(3):
        path = tmp_path / "slides" / f"{k}.tif"
        path.parent.mkdir(exist_ok=True)
        image = RNG.integers(0, 256, (150 + 20 * k, 130, 3), dtype=np.uint8)
        tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb")
    for name in ("cpu", "cpu,cpu"):
        summary = img2img.translate(run, tmp_path / "slides", tmp_path / name, device=name, statistics=4, tile="64")
        assert summary.translated == 3, summary
    assert contents(tmp_path / "cpu") == contents(tmp_path / "cpu,cpu")


def test_a_file_that_ends_a_process_is_reported_and_the_others_are_done(run, photos, whole, threads, kills, tmp_path):
    kills.append("07.png")
    loaded, on = img2img.load(run, device="cpu"), ["cpu"] * 4
    from img2img.api.translating import translate_on

    summary = translate_on(loaded, on, photos, tmp_path / "out", lambda outcome: None, folder.unheard, {})
    failed = {path.name: reason for path, reason in summary.failed}
    assert "07.png" in failed and failed["07.png"].endswith("/1/07.png: 2 processes that had it in hand ended early.")
    made = contents(tmp_path / "out")
    assert len(made) + len(summary.failed) == 41 and made == {name: whole[name] for name in made}
    assert loaded.notes == ["The process on cpu ended early; the others did its work."] * 2
    assert leftovers(tmp_path / "out") == []
    kills.clear()
    img2img.translate(run, photos, tmp_path / "out", device="cpu")
    assert contents(tmp_path / "out") == whole


def test_the_end_of_all_processes_is_a_sentence(run, photos, whole, threads, kills, tmp_path):
    kills += [f"{k:02}.png" for k in range(40)]
    text = refused(TrainingError, img2img.translate, run, photos, tmp_path / "out", device="cpu,cpu")
    assert text == (
        "The processes on cpu, cpu ended early, perhaps because the memory was full; run the same command again to "
        "translate what is missing."
    )
    kills.clear()
    img2img.translate(run, photos, tmp_path / "out", device="cpu,cpu")
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_ends_all(run, photos, threads, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_image", full)
    text = refused(TrainingError, img2img.translate, run, photos, tmp_path / "out", device="cpu,cpu")
    assert text.startswith("The disk is full;")


def test_a_caller_that_stops_ends_all(run, photos, threads, tmp_path):
    outcomes = img2img.translate_folder(run, photos, tmp_path / "out", device="cpu,cpu")
    assert next(outcomes).status in ("translated", "failed")
    before = threading.active_count()
    outcomes.close()
    assert threading.active_count() < before and leftovers(tmp_path / "out") == []


def test_notes_of_several_devices_are_said_once(run, photos, threads, tmp_path, monkeypatch):
    translate = folder.Job.translate

    def with_notes(self, todo):
        for outcome in translate(self, todo):
            if not self.translator.notes:
                self.translator.notes.append(f"Results do not keep dates, e.g. of {outcome.source}.")
            yield outcome

    monkeypatch.setattr(folder.Job, "translate", with_notes)
    from img2img.api.translating import translate_on

    loaded = img2img.load(run, device="cpu")
    translate_on(loaded, ["cpu", "cpu"], photos, tmp_path / "out", lambda outcome: None, folder.unheard, {})
    assert len(loaded.notes) == 1


# Drawing


@pytest.fixture(scope="module")
def dcgan(tmp_path_factory):
    return dcgan_run(tmp_path_factory.mktemp("dcgan") / "run")


@pytest.fixture(scope="module")
def drawn(dcgan, tmp_path_factory):
    """The images of one device, in batches of four."""
    return drawn_on("cpu", dcgan, tmp_path_factory.mktemp("drawn"))


def drawn_on(names, dcgan, out, **options):
    img2img.sample(dcgan, 43, out=out, batch_size=4, device=names, **options)
    assert leftovers(out) == []
    return contents(out)


@pytest.fixture
def deadly(monkeypatch):
    """Numbers of images that end the process which draws them, each as often as it is listed."""
    numbers, write = [], samples.write_image

    def writes(path, *rest):
        if path.stem.isdecimal() and int(path.stem) in numbers:
            numbers.remove(int(path.stem))
            raise EOFError
        return write(path, *rest)

    monkeypatch.setattr(samples, "write_image", writes)
    return numbers


def test_several_devices_draw_the_bytes_of_one(dcgan, drawn, threads, tmp_path):
    for number in (0, 21, 42):  # some are there
        path = tmp_path / f"{number:06}.png"
        path.write_bytes(drawn[path.name])
    (tmp_path / samples.SOURCE).write_bytes(drawn[samples.SOURCE])
    seen = []
    assert drawn_on("cpu,cpu:1,cpu", dcgan, tmp_path, progress=lambda *x: seen.append(x)) == drawn
    assert seen == [(k, 43) for k in range(4, 44)]
    parts = tmp_path / "parts"
    for part in ("2/3", "3/3", "1/3"):
        drawn_on("cpu,cpu", dcgan, parts, shard=part)
    assert contents(parts) == drawn


def test_a_process_that_ends_while_it_draws_loses_nothing(dcgan, drawn, threads, deadly, tmp_path):
    deadly += [13, 30]
    assert drawn_on("cpu,cpu,cpu", dcgan, tmp_path / "out") == drawn
    deadly += [13, 13]
    says = refused(TrainingError, img2img.sample, dcgan, 43, out=tmp_path / "no", batch_size=4, device="cpu,cpu,cpu")
    assert says == (
        "2 processes that drew images 13 to 15 ended early, perhaps because the memory was full; run the same command "
        "again to draw what is missing."
    )
    deadly += [2, 6]
    says = refused(TrainingError, img2img.sample, dcgan, 43, out=tmp_path / "none", batch_size=4, device="cpu,cpu")
    assert says.startswith("The processes on cpu, cpu ended early, perhaps because the memory was full;")
    for name in ("no", "none"):
        assert drawn_on("cpu,cpu", dcgan, tmp_path / name) == drawn


def test_mistakes_in_the_devices_of_drawing(dcgan, tmp_path, monkeypatch):
    says = refused(ConfigError, img2img.sample, dcgan, 3, device="cpu,cpu")
    assert says == "Several devices are for images that become files; give out, the folder for them."
    says = refused(ConfigError, img2img.sample, dcgan, 3, out=tmp_path / "out", device="cpu,cpu", ray="local")
    assert says.startswith("Several --device have no effect with --ray,")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    says = refused(ConfigError, img2img.sample, dcgan, 3, out=tmp_path / "out", device="all")
    assert says == "--device all is for machines with GPUs, and this one has none."
    assert not (tmp_path / "out").exists()


# Which devices


def test_all_are_all_gpus(run, photos, tmp_path, monkeypatch):
    assert device.pick_devices("cpu, cpu:1") == ["cpu", "cpu:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    text = refused(ConfigError, img2img.translate, run, photos, tmp_path / "out", device="all")
    assert text == "--device all is for machines with GPUs, and this one has none."
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_devices("all") == ["cuda:0", "cuda:1"]
    assert "has no device 'cuda:2'" in refused(ConfigError, device.pick_devices, "cuda:0,cuda:2")


def test_devices_that_round_differently_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    text = refused(ConfigError, devices.refuse_unlike, ["cuda:0", "cuda:1"])
    assert text == ("--device cuda:0 is GPU 0 and cuda:1 is GPU 1, which round differently; give devices of one kind.")
    assert "cpu is cpu" in refused(ConfigError, devices.refuse_unlike, ["cuda:0", "cpu"])


def test_a_list_of_devices_is_for_folders(run):
    assert "'cpu,cpu' is not a device" in refused(ConfigError, img2img.load, run, device="cpu,cpu")


# Processes


@pytest.mark.slow
def test_a_killed_process_loses_nothing(run, photos, whole, tmp_path):
    killed = []

    def kill_one(outcome):
        if outcome.status == "translated" and not killed:
            killed.append(active_children()[0])
            killed[0].kill()

    summary = img2img.translate(run, photos, tmp_path / "out", device="cpu,cpu", progress=kill_one)
    assert killed and (summary.translated, len(summary.failed)) == (40, 1)
    assert contents(tmp_path / "out") == whole and leftovers(tmp_path / "out") == []
    assert active_children() == []


@pytest.mark.slow
def test_a_killed_process_that_draws_loses_nothing(dcgan, drawn, tmp_path):
    killed = []

    def kill_one(done, total):
        if not killed:
            killed.append(active_children()[0])
            killed[0].kill()

    assert drawn_on("cpu,cpu", dcgan, tmp_path, progress=kill_one) == drawn
    assert killed and active_children() == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_and_goes_on(number, run, photos, whole, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "img2img", "translate", str(run), str(photos), f"--out={out}"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, "--device=cpu,cpu"], env=ENV, stdout=said, stderr=said, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
    try:
        begun = RECORD if number == signal.SIGINT else "*.png"  # as processes start, or as they work
        until(lambda: process.poll() is not None or there(out, begun), 120)
        os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
        process.wait(60)
        until(lambda: not in_session(process.pid), 30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text, text
    if number == signal.SIGINT:
        assert process.returncode == 130 and "Stopped. Run the same command again" in text and leftovers(out) == []
    # the files of a process are removed once the system has forgotten it
    until(lambda: img2img.translate(run, photos, out, device="cpu") and not leftovers(out), 30)
    assert contents(out) == whole


def until(reached, seconds):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_session(number):
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdecimal() else ["Z"] * 9
            found += [entry.name] * (fields[0] != "Z" and fields[3] == str(number))
    return found

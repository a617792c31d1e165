"""What ends a run, and what does not: scripts without a guard, signals, readers that go away, files that vanish."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import refused
from helpers import over
from PIL import Image
from torch.utils.data import Dataset

import img2img
from img2img.data import images, store, workers
from img2img.data.stream import stream
from img2img.errors import DataError, Interrupted, TrainingError
from img2img.methods import METHODS
from img2img.model.file import load_resume
from img2img.training import loop, stops
from img2img.training.stops import Stops

ROOT = Path(img2img.__file__).parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500", "NO_COLOR": "1"}

SCRIPT = """
import numpy as np
import img2img

print("begins")
images = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
model = img2img.train(
    "dcgan", data=images, out="run", size=32, steps=2, width=4, d_width=4, device="cpu", workers=2, quiet=True
)
print("ends as", __name__, globals().get("__file__"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a file", "stdin"])
def test_a_script_without_a_guard_may_have_workers(way, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    word, given = ("script.py", None) if way == "a file" else ("-", SCRIPT)
    done = subprocess.run(
        [sys.executable, word], cwd=tmp_path, env=ENV, input=given, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" as ")[0] for line in done.stdout.splitlines()] == ["begins", "ends"], "run again by a worker"
    if way == "a file":
        assert done.stdout.endswith(f"ends as __main__ {tmp_path / 'script.py'}\n")
    assert (tmp_path / "run" / "model.safetensors").exists()


# Signals.

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
TINY = ["--size", "32", "--width", "4", "--d-width", "4", "--device", "cpu", "--precision", "fp32", "--log-every", "1"]
CYCLEGAN = ["cyclegan", *TINY, "--generator", "resnet_3", "--discriminator", "patch_16"]


class Training:
    """`img2img train` in a process group of its own, as a terminal and a scheduler start it."""

    def __init__(self, tmp_path, *words, steps=100_000, **streams):
        self.out, self.said = tmp_path / "run", tmp_path / "said.txt"
        command = [sys.executable, "-m", "img2img", "train", *map(str, words), f"--steps={steps}", f"--out={self.out}"]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                command,
                env=ENV,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **{"stdout": said, "stderr": said, "preexec_fn": heed_signals} | streams,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def until(self, reached):
        deadline = time.monotonic() + 60
        while not reached() and self.process.poll() is None:
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.05)
        assert self.process.poll() is None, self.said.read_text()

    def until_step(self, number):
        log = self.out / "log.jsonl"
        self.until(lambda: log.exists() and len(log.read_text().splitlines()) >= number)

    def workers(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(n) for n in children if "spawn_main" in Path(f"/proc/{n}/cmdline").read_text()]

    def ends(self):
        """The exit code, and what was said."""
        code, said = self.process.wait(60), self.said.read_text()
        assert "Traceback" not in said and "Error" not in said, said
        return code, said


def heed_signals():
    for number in (signal.SIGINT, signal.SIGHUP):  # a job in the background, or under nohup, is started without
        signal.signal(number, signal.SIG_DFL)


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "number"),
    [
        ((*CYCLEGAN, "--workers=2"), signal.SIGTERM),
        ((*CYCLEGAN, "--workers=1", "--accumulate=8"), signal.SIGINT),
        (("wgan", *TINY, "--workers=1", "--n-critic=5"), signal.SIGHUP),
    ],
)
def test_a_signal_to_the_whole_group_saves_the_run(words, number, unpaired, tmp_path):
    data = (f"--data={unpaired[0]}",) if words[0] == "wgan" else (f"--a={unpaired[0]}", f"--b={unpaired[1]}")
    with Training(tmp_path, *words, *data) as training:
        training.until_step(2)
        os.killpg(training.process.pid, number)
        code, said = training.ends()
    assert code == 128 + number
    step = load_resume(training.out / "last.pt")["step"]
    assert said.splitlines()[-1].startswith(f"Stopped and saved at step {step}. To resume: img2img train {words[0]} ")


# A worker hands batches over in a thread; its parent connects and is gone.
HANG_UP = """
import os, time
from multiprocessing.connection import Client
from multiprocessing.process import current_process
from multiprocessing.resource_sharer import _resource_sharer, DupFd
from img2img.data.workers import shield

{shield}
DupFd(os.open(os.devnull, os.O_RDONLY))
address = _resource_sharer._address
Client(address, authkey=current_process().authkey).close()
time.sleep(0.5)
"""


@posix
@pytest.mark.slow
def test_a_worker_says_nothing_when_its_parent_hangs_up():
    said = [
        subprocess.run(
            [sys.executable, "-c", HANG_UP.format(shield=line)], env=ENV, capture_output=True, text=True
        ).stderr
        for line in ("", "shield()")
    ]
    assert "EOFError" in said[0] and said[1] == ""


@posix
@pytest.mark.parametrize(("presses", "apart"), [(1, 0.0), (2, 0.0), (2, 0.3)])
def test_a_second_ctrl_c_does_not_wait_for_the_step(presses, apart, uncached, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stops, "ONE_PRESS", 0.2)  # as torchrun hands on what the terminal has sent already
    step, taken = METHODS["cyclegan"].step, []

    def pressed(self, batches):
        scalars = step(self, batches)
        taken.append(1)
        for press in range(presses * (len(taken) == 4)):
            time.sleep(apart * press)
            os.kill(os.getpid(), signal.SIGINT)
        return scalars

    monkeypatch.setattr(METHODS["cyclegan"], "step", pressed)
    out, options = tmp_path / "run", uncached | {"save_every": 2, "quiet": False}
    with pytest.raises(Interrupted) as stop:
        img2img.train("cyclegan", out=out, **options)
    assert stop.value.signal == signal.SIGINT and f"To resume: img2img train cyclegan --out {out}" in str(stop.value)
    assert "stopping after this step; press Ctrl-C again to stop now" in capsys.readouterr().err
    beginning = f"Stopped at once; step 2 is kept in {out}." if apart else "Stopped and saved at step 4."
    assert str(stop.value).startswith(beginning)
    assert load_resume(out / "last.pt")["step"] == (2 if apart else 4)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("when", ["workers start", "workers work"])
def test_workers_do_not_outlive_a_killed_parent(when, unpaired, tmp_path):
    with Training(tmp_path, "dcgan", *TINY, f"--data={unpaired[0]}", "--workers=2") as training:
        if when == "workers work":
            training.until_step(1)
        training.until(lambda: len(training.workers()) == 2)
        there = training.workers()
        assert len(there) == 2
        training.process.kill()
        training.process.wait()
        deadline = time.monotonic() + 30
        while any(running(n) for n in there):
            assert time.monotonic() < deadline, "workers are still there"
            time.sleep(0.1)


def running(number):
    with suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@linux
@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_the_run_is_saved(unpaired, tmp_path):
    with Training(tmp_path, "dcgan", *TINY, f"--data={unpaired[0]}", "--workers=1") as training:
        training.until_step(2)
        os.kill(training.workers()[0], signal.SIGKILL)
        code, said = training.ends()
    step = load_resume(training.out / "last.pt")["step"]
    last = said.splitlines()[-1]
    assert code == 2 and last.startswith("img2img: A process that prepares images was killed"), said
    assert f"Step {step} is kept in {training.out}. To resume: img2img train dcgan" in last


@linux
@pytest.mark.slow
def test_ctrl_c_in_the_first_seconds_is_no_traceback(unpaired, tmp_path):
    with Training(tmp_path, "dcgan", *TINY, f"--data={unpaired[0]}") as training:
        maps = Path(f"/proc/{training.process.pid}/maps")
        training.until(lambda: "libtorch" in maps.read_text())
        os.killpg(training.process.pid, signal.SIGINT)
        assert training.ends() == (130, "Stopped.\n")


class Hanging(Dataset):
    """Samples that never come."""

    def __getitem__(self, n):
        time.sleep(1000)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 1])
def test_a_signal_ends_the_wait_for_a_batch_that_never_comes(processes):
    begin = time.monotonic()
    with Stops(print) as stopping, closing(stream(Hanging(), 0, 3, 1, workers=processes)) as batches:
        threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(KeyboardInterrupt), stopping.waiting():
            next(batches)
        assert stopping.received == [signal.SIGTERM]
    assert time.monotonic() - begin < 30, "the worker was not ended"


# Readers that go away.


@linux
@pytest.mark.slow
@pytest.mark.parametrize("way", ["the reader goes", "full disk", "closed"])
def test_output_that_fails_ends_nothing(way, unpaired, tmp_path):
    reads, writes = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    streams = {
        "the reader goes": {"stdout": writes, "stderr": writes},
        "full disk": {"stdout": full, "stderr": full},
        "closed": {"stdout": None, "stderr": None, "preexec_fn": lambda: (os.close(1), os.close(2))},
    }[way]
    with Training(tmp_path, "dcgan", *TINY, f"--data={unpaired[0]}", steps=12, **streams) as training:
        os.close(writes)
        os.close(full)
        if way == "the reader goes":
            assert os.read(reads, 1)
        os.close(reads)
        code = training.process.wait(60)
    assert code == 0 and load_resume(training.out / "last.pt")["step"] == 12


# Files that cannot be read.


@pytest.fixture
def uncached(unpaired, quick):
    """A run that reads its images from the disk in every step."""
    where = dict(a=unpaired[0], b=unpaired[1], cache_mb=0, generator="resnet_3")
    return quick | where | dict(steps=40, log_every=1, save_every=1000, sample_every=1000)


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(store, "WAITS", (0.0, 0.0))


def damage(path):
    """Damages the pixels, and nothing that is read before them."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)


def from_noise(options):
    """Those of `options` that methods have which draw from noise."""
    return {name: x for name, x in options.items() if name not in ("discriminator", "validate_every")}


@pytest.mark.parametrize("name", ["cyclegan", "dcgan"])
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_all_damaged_files_are_named_before_the_start(name, cache_mb, unpaired, quick, tmp_path):
    a, b = unpaired
    for folder, numbers in ((a, (0, 1, 2, 5)), (b, (0, 3, 4))):
        for n in numbers:
            damage(folder / f"{n:03}.png")
    where = {"a": a, "b": b} if name == "cyclegan" else {"data": a}
    options = quick if name == "cyclegan" else from_noise(quick)
    text = refused(DataError, img2img.train, name, out=tmp_path / "run", cache_mb=cache_mb, **options, **where)
    bad = 7 if name == "cyclegan" else 4
    assert text.startswith(f"{bad} of the images cannot be used: ") and text.count(".png") == min(bad, 5), text
    assert all(str(a / f"{n:03}.png") in text for n in (0, 1, 2, 5)) and text.endswith("and 2 more.") == (bad == 7)
    assert not (tmp_path / "run").exists()


def test_a_damaged_held_out_file_is_named_before_the_start(unpaired, quick, tmp_path):
    data = tmp_path / "data"
    for part, folder in (("trainA", unpaired[0]), ("trainB", unpaired[1]), ("testA", unpaired[0])):
        (data / part).mkdir(parents=True)
        for file in folder.iterdir():
            (data / part / file.name).write_bytes(file.read_bytes())
    (data / "testA").rename(data / "testB")
    (data / "testA").mkdir()
    for n in range(3):
        Image.new("RGB", (32, 32)).save(data / "testA" / f"{n}.png")
    bad = data / "testB" / "004.png"
    damage(bad)
    text = refused(DataError, img2img.train, "cyclegan", data=data, out=tmp_path / "run", **quick)
    assert text.startswith(f"1 of the images cannot be used: {bad} ")


class Slow:
    """A domain of 50 images."""

    def __len__(self):
        return 50

    def load(self, i):
        time.sleep(0.001)


def test_reading_that_takes_long_is_said(monkeypatch):
    monkeypatch.setattr(store, "REPORT_SECONDS", 0.0)
    said = []
    store.read_all((), [Slow()], said.append)
    assert [text.split(":")[1].split(",")[0] for text in said] == [" 16 of 50", " 32 of 50", " 48 of 50"]


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fate", ["deleted", "damaged"])
def test_a_file_that_cannot_be_read_any_more_saves_the_run(processes, fate, uncached, tmp_path, monkeypatch, no_waits):
    victim, record = uncached["a"] / "002.png", loop.Journal.record

    def damaging(self, step, *rest, **options):
        if step == 5:
            victim.unlink() if fate == "deleted" else damage(victim)
        record(self, step, *rest, **options)

    monkeypatch.setattr(loop.Journal, "record", damaging)
    out = tmp_path / "run"
    with pytest.raises(DataError) as error:
        img2img.train("cyclegan", out=out, workers=processes, **uncached)
    step, text = load_resume(out / "last.pt")["step"], str(error.value)
    assert step >= 5 and "\n" not in text and text.startswith(str(victim))
    assert f". Step {step} is kept in {out}. To resume: img2img train cyclegan --out {out} --resume" in text


def test_a_run_that_lost_a_file_goes_on_as_if_nothing_had_been(uncached, tmp_path, monkeypatch, no_waits):
    options, victim = uncached | {"steps": 12, "accumulate": 3}, uncached["b"] / "003.png"
    whole = img2img.train("cyclegan", out=tmp_path / "whole", **options)
    hidden, record = victim.with_suffix(".away"), loop.Journal.record
    monkeypatch.setattr(
        loop.Journal,
        "record",
        lambda self, n, *rest, **kw: (n == 2 and victim.rename(hidden), record(self, n, *rest, **kw)),
    )
    refusal = pytest.raises(DataError, match="is kept in")
    with refusal:
        img2img.train("cyclegan", out=tmp_path / "parts", **options)
    monkeypatch.undo()
    hidden.rename(victim)
    parts = img2img.train("cyclegan", out=tmp_path / "parts", **options)
    assert whole.path.read_bytes() == parts.path.read_bytes()


def test_what_the_system_fails_to_give_is_asked_for_again(uncached, tmp_path, monkeypatch, no_waits):
    read, failures = images._opener, [errno.EIO, errno.ESTALE]

    def flaky(path):
        if path.name == "003.png" and failures and (tmp_path / "run" / "log.jsonl").exists():
            raise OSError(failures.pop(), "the drive is away", str(path))
        return read(path)

    monkeypatch.setattr(images, "_opener", flaky)
    img2img.train("cyclegan", out=tmp_path / "run", **uncached | {"steps": 6})
    assert not failures and load_resume(tmp_path / "run" / "last.pt")["step"] == 6


def test_only_errors_of_writing_are_called_so(uncached, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def failing(error):
        def record(self, *_, **__):
            raise error

        monkeypatch.setattr(loop.Journal, "record", record)
        img2img.train("cyclegan", out=out, **uncached)

    for error in (OSError(errno.ENOSPC, "No space left"), PermissionError(errno.EACCES, "denied", str(out / "x"))):
        assert "Cannot write" in refused(TrainingError, failing, error)
    for error in (FileNotFoundError(errno.ENOENT, "no socket", "other"), ConnectionResetError(104, "reset")):
        with pytest.raises(type(error)):
            failing(error)


# Shared memory.


@over("free, expected", [(None, (4, 8)), (1000, (4, 8)), (250, (4, 5)), (100, (4, 1)), (60, (3, 1)), (20, (0, 1))])
def test_workers_have_room_for_their_batches(free, expected, monkeypatch):
    monkeypatch.setattr(workers, "free_shared_memory", lambda: free)
    assert workers.fitting(4, 8, 10) == expected


def test_too_little_shared_memory_is_said(unpaired, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "free_shared_memory", lambda: 1000)
    img2img.train("dcgan", data=unpaired[0], out=tmp_path / "run", **from_noise(quick) | {"quiet": False, "workers": 3})
    assert "room for the batches of 0 of 3 workers" in capsys.readouterr().err

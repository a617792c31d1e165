"""Training on several nodes: equal to one node, one sentence for all when one is lost, and what may resume a run."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import refused
from helpers import assert_equal

import img2img
from img2img.errors import ConfigError, DataError, TrainingError
from img2img.methods import METHODS
from img2img.model.file import load_resume
from img2img.runtime import peers
from img2img.runtime.device import Runtime

ROOT = Path(img2img.__file__).parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "GLOO_SOCKET_IFNAME": "lo"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="every 127.x.y.z is this machine, and /proc shows children")


# Signs of life, in one process: a store, and threads that take part as processes of a training.


@pytest.fixture
def quick_signs(monkeypatch):
    for name, seconds in {"BEAT": 0.02, "LOST": 1.0, "HURRIED": 0.3, "GRACE": 0.3}.items():
        monkeypatch.setattr(peers, name, seconds)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is not to ignore SIGTERM afterwards


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def enter(store, quick_signs, monkeypatch):
    """Take part as the process of a rank, by default one that is not seen to leave the test."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(peers, "_trainings", iter([0] * 9))
    taken = []

    def enter(rank, size=2):
        for name, value in {"RANK": rank, "WORLD_SIZE": size, "GROUP_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        taken.append(peers.Peers())
        return taken[-1]

    yield enter
    for one in taken:
        one.leave()


@pytest.fixture
def ended(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def until(reached, seconds=10):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def silence(one):
    """Make a process do nothing more, as if it were killed or its machine lost power."""
    one.over.wait = lambda *_: threading.Event().wait()  # for ever: the process of later tests must not end


def test_all_that_answer_or_have_left_are_no_loss(enter, ended):
    first, second, third = (enter(rank, 3) for rank in range(3))
    third.leave()
    time.sleep(1.3)
    second.leave()
    time.sleep(1.3)
    assert (first.verdict, second.verdict, third.verdict, ended) == ("", "", "", [])


def test_a_process_that_no_longer_answers_ends_all(enter, ended, capsys):
    first, second, third = (enter(rank, 3) for rank in range(3))
    until(lambda: all(one.heard for one in (first, second, third)))
    silence(third)
    until(lambda: len(ended) == 2)
    sentence = f"Process 2 on {first.host} no longer answers; the same command on every node resumes from the last "
    assert first.verdict == second.verdict == f"{sentence}checkpoint."
    assert ended == [2, 2] and capsys.readouterr().err == f"img2img: {first.verdict}\n" * 2, "once per node"


def test_a_store_that_no_longer_answers_ends_all(enter, ended):
    first = enter(0)
    until(lambda: first.heard)
    first.store = HangingStore()
    until(lambda: ended)
    assert first.verdict.startswith("127.0.0.1, where the processes meet, no longer answers; the same command on every")


class HangingStore:
    def set(self, name, value):
        threading.Event().wait()


def test_a_torchrun_that_is_gone_ends_all(enter, ended):
    first, second = enter(0), enter(1)
    until(lambda: first.heard and second.heard)
    first.parent = 1 + os.getppid()
    until(lambda: len(ended) == 2)
    assert first.verdict == second.verdict and first.verdict.startswith(
        f"torchrun on {first.host} was killed; the same"
    )


def test_an_error_of_one_is_what_all_say(enter, ended):
    first, second = enter(0), enter(1)
    until(lambda: first.heard and second.heard)
    error = DataError("a.png is damaged.")
    assert second.explain(error) is error
    until(lambda: first.verdict)
    assert first.verdict == f"Process 1 on {first.host} ended: a.png is damaged."
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert str(first.explain(broken)) == first.verdict
    own = ConfigError("b.png is small.")
    assert first.explain(own) is own, "its own reason, whoever was faster"


def test_a_broken_connection_has_the_name_of_who_is_lost(enter, ended):
    first, second = enter(0), enter(1)
    until(lambda: first.heard and second.heard)
    silence(second)
    begin = time.monotonic()
    error = first.explain(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert isinstance(error, TrainingError) and str(error).startswith(f"Process 1 on {first.host} no longer answers;")
    assert time.monotonic() - begin < 0.9, "waited as long as if nothing were known"


def test_a_broken_connection_between_living_processes_is_said(enter, ended):
    first, _ = enter(0), enter(1)
    error = first.explain(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection reset\nand more"))
    assert str(error).startswith("The connection to another process broke: [gloo/") and "and more" not in str(error)


def test_one_process_alone_has_no_peers(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with peers.together():
        assert peers._current is None
        peers.check()
        peers.leave()


def test_process_0_works_while_the_others_wait(enter, ended, monkeypatch):
    first, second = enter(0), enter(1)
    done = []

    def take_part(one, runtime):
        monkeypatch.setattr(peers, "_current", one)
        peers.first_alone(runtime, lambda: done.append(runtime.rank))

    take_part(first, Runtime(torch.device("cpu"), torch.float32, 0, 2))
    take_part(second, Runtime(torch.device("cpu"), torch.float32, 1, 2))
    assert done == [0]
    second._end("Process 0 on here ended: no pairs.")
    assert "no pairs" in refused(TrainingError, take_part, second, Runtime(torch.device("cpu"), torch.float32, 1, 2))


class Started(Runtime):
    """A runtime among others that were started otherwise."""

    def gather(self, value):
        host, facts = value
        return [value, (host, facts | {"--batch-size": "4"})]


def test_other_options_on_another_node_are_refused():
    runtime, advice = Started(torch.device("cpu"), torch.float32, 0, 2), "give the same command on every node"
    text = refused(ConfigError, peers.agree, runtime, {"--seed": 0, "--batch-size": 1}, advice)
    assert text.startswith("Process 1 on ") and text.endswith(
        "has another --batch-size than process 0, 4 and not 1; give the same command on every node."
    )


# Commands that do not divide their work.


@pytest.mark.parametrize(
    ("words", "way"),
    [(("translate", "model", "images"), ", once for each part with --shard"), (("compare", "x", "y"), "")],
)
def test_torchrun_of_a_command_that_would_write_twice_is_refused(words, way, command_line, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, said = command_line(*words)
    sentence = (
        f"torchrun started 2 processes of img2img {words[0]}, which would all do the same and write the same files;"
    )
    assert (code, said) == (2, f"img2img: {sentence} start it without torchrun{way}.\n")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert command_line(*words)[::2] == (2, ""), "once per node is enough"


# Resuming with another number of processes.


def stopped_run(name, options, out, monkeypatch, **more):
    """A run that ended after two of its four steps."""
    step, taken = METHODS[name].step, []

    def stops(self, batches):
        taken.append(1)
        if len(taken) == 3:
            raise DataError("enough.")
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(METHODS[name], "step", stops)
        with pytest.raises(DataError):
            img2img.train(name, out=out, **options[name] | more)
    assert load_resume(out / "last.pt")["step"] == 2


def as_if_of(processes, out):
    """Make a run of one process look like one of several that had as many images in a step."""
    config, state = json.loads((out / "config.json").read_text()), load_resume(out / "last.pt")
    config["processes"] = processes
    config["options"]["batch_size"] //= processes
    (out / "config.json").write_text(json.dumps(config))
    state["ranks"] *= processes
    torch.save(state, out / "last.pt")


ROUNDED = "sums are rounded in another order."
DIFFERS = (
    "what a process draws, keeps and averages by itself differs: noise, dropout, earlier images, means over its batch."
)


@pytest.mark.parametrize(
    ("name", "more", "note"),
    [
        ("cyclegan", {"pool": 0}, ROUNDED),
        ("cyclegan", {}, DIFFERS),
        ("pix2pix", {"generator": "resnet_3", "dropout": 0.5}, DIFFERS),
        ("pix2pix", {"dropout": 0.0}, ROUNDED),
        (
            "pix2pix",
            {"dropout": 0.0, "objective": "relativistic"},
            DIFFERS,
        ),
    ],
)
def test_another_number_of_processes_with_the_same_images_resumes(
    name, more, note, options, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    stopped_run(name, options, out, monkeypatch, batch_size=2, **more)
    as_if_of(2, out)
    img2img.train(name, out=out, **options[name] | more | {"batch_size": 2, "quiet": False})
    said = capsys.readouterr().err
    assert f"The run had 2 processes and now has 1: each step sees the same images, but {note}\n" in said
    config = json.loads((out / "config.json").read_text())
    assert config["earlier"] == [{"until_step": 2, "processes": 2, "batch_size": 1}]
    img2img.train(name, out=tmp_path / "whole", **options[name] | more | {"batch_size": 2})
    model, whole = (path / "model.safetensors" for path in (out, tmp_path / "whole"))
    assert model.read_bytes() == whole.read_bytes(), "process 0 goes on as before"


def test_another_number_of_processes_with_other_images_is_refused(options, tmp_path, monkeypatch):
    out = tmp_path / "run"
    stopped_run("cyclegan", options, out, monkeypatch, batch_size=2)
    as_if_of(2, out)
    text = refused(ConfigError, img2img.train, "cyclegan", out=out, **options["cyclegan"] | {"batch_size": 1})
    assert text == (
        f"{out} holds a run of 2 processes, each with 1 image in a batch, and 1 with 1 would see others in a step; "
        "give --batch-size 2 to resume it, or start 2 with --batch-size 1 as before."
    )
    monkeypatch.setattr(Runtime, "start", lambda *_: Runtime(torch.device("cpu"), torch.float32, 0, 4))
    monkeypatch.setattr(peers, "meet", lambda runtime: None)
    text = refused(ConfigError, img2img.train, "cyclegan", out=out, **options["cyclegan"] | {"batch_size": 1})
    assert "start a number of processes that divides 2 to resume it" in text
    other = options["cyclegan"] | {"batch_size": 2, "pool": 3}
    monkeypatch.undo()
    assert "pool was 50, now 3." in refused(ConfigError, img2img.train, "cyclegan", out=out, **other)


# Plain descent, whose moves differ by as little as the gradients do; the third step fails if a run is to stop.
DESCENT = """
import json, sys
import torch
import img2img
from img2img.core.method import Method
from img2img.errors import DataError
from img2img.methods import METHODS

def player(self, name, *networks, lr, optimizer):
    parameters = [p for network in networks for p in network.parameters()]
    self.optimizers[name] = torch.optim.SGD(parameters, lr=2.5 * lr)

def fails(self, batches):
    if self.step_number == 3:
        raise DataError("enough.")
    return step(self, batches)

Method.player = player
out, config, stops = sys.argv[1:]
step = METHODS["cyclegan"].step
if stops == "stops":
    METHODS["cyclegan"].step = fails
try:
    img2img.train("cyclegan", out=out, **json.loads(config))
except DataError:
    pass
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_one_process_goes_on_with_what_two_began_as_if_it_were_alone(options, tmp_path):
    (script := tmp_path / "descent.py").write_text(DESCENT)
    config = {k: str(v) if isinstance(v, Path) else v for k, v in options["cyclegan"].items()}
    config |= {"pool": 0, "decay": 0.0, "workers": 0}

    def train(out, batch_size, stops="", prefix=()):
        words = [str(script), str(tmp_path / out), json.dumps(config | {"batch_size": batch_size}), stops]
        command = [*prefix, *words] if prefix else [sys.executable, *words]
        subprocess.run(command, env=ENV, check=True, capture_output=True)
        return load_resume(tmp_path / out / "last.pt")

    begun = train("run", 1, "stops", torchrun("--standalone", "--nproc-per-node=2"))
    assert begun["step"] == 2 and len(begun["ranks"]) == 2
    resumed, alone = train("run", 2)["method"], train("alone", 2)["method"]
    for name, x in alone.items():
        if isinstance(x, torch.Tensor) and not name.endswith("_extra_state"):
            torch.testing.assert_close(resumed[name], x, atol=2e-6, rtol=1e-5)
    weights = {name: x for name, x in begun["method"].items() if not name.endswith("_extra_state")}
    moved = max((resumed[name] - x).abs().max().item() for name, x in weights.items())
    assert moved > 1e-3, "nothing was trained after the second step"


# Two nodes: two torchruns on two addresses of this machine.

LENGTH = ["--steps=24", "--save-every=4", "--sample-every=100", "--log-every=2"]
TINY = ["--size=32", "--width=4", "--d-width=4", "--generator=resnet_3", "--discriminator=patch_16", "--workers=0"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Nodes:
    """A training on two nodes, with a process on each."""

    def __init__(self, out, words):
        self.out, self.agents, self.texts = out, [], [out.with_name(f"{out.name}_{node}.txt") for node in range(2)]
        meeting = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        for node, text in enumerate(self.texts):
            place = [f"--node-rank={node}", f"--local-addr=127.0.0.{node + 1}"]
            with text.open("w") as said:
                command = torchrun(*meeting, *place, *words, f"--out={out}")
                self.agents.append(
                    subprocess.Popen(command, env=ENV, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for number in self.workers() + [agent.pid for agent in self.agents]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for agent in self.agents:
            agent.wait()

    def workers(self):
        """The processes that train, by the command of each."""
        mark, found = f"--out={self.out}", []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode().split("\0") if entry.name.isdecimal() else []
                if mark in words and "torch.distributed.run" not in words:
                    found.append(int(entry.name))
        return found

    def worker_of(self, node):
        parents = {int(Path(f"/proc/{n}/stat").read_text().rpartition(")")[2].split()[1]): n for n in self.workers()}
        return parents[self.agents[node].pid]

    def said(self):
        return [text.read_text() for text in self.texts]

    def until_saved(self):
        until(lambda: (self.out / "last.pt").exists() or any(agent.poll() is not None for agent in self.agents), 120)
        assert all(agent.poll() is None for agent in self.agents), self.said()

    def end(self, seconds):
        """Wait until nothing of it is left; return the seconds that it took."""
        begin = time.monotonic()
        until(lambda: all(agent.poll() is not None for agent in self.agents) and not self.workers(), seconds)
        return time.monotonic() - begin


def torchrun(*words):
    return [sys.executable, "-m", "torch.distributed.run", *words]


@linux
@pytest.mark.slow
@pytest.mark.nightly
def test_two_nodes_one_of_which_is_lost_resume_bit_equal_to_one_node(unpaired, tmp_path):
    words = ["-m", "img2img", "train", "cyclegan", f"--a={unpaired[0]}", f"--b={unpaired[1]}", *TINY, *LENGTH]
    words += ["--device=cpu", "--precision=fp32"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    one = torchrun("--standalone", "--nproc-per-node=2", *words, f"--out={whole}")
    subprocess.run(one, env=ENV, check=True, capture_output=True)
    with Nodes(out, words) as nodes:
        nodes.until_saved()
        os.kill(nodes.worker_of(1), signal.SIGKILL)
        assert nodes.end(60) < 30
        said = nodes.said()[0]
    sentence = "img2img: Process 1 on "
    assert said.count("img2img: ") == 1 and sentence in said, said
    assert " no longer answers; the same command on every node resumes from the last checkpoint.\n" in said
    assert "frame #" not in said and "gloo" not in said, said
    assert load_resume(out / "last.pt")["step"] < 24
    with Nodes(out, words) as nodes:
        nodes.end(120)
        assert [agent.returncode for agent in nodes.agents] == [0, 0], nodes.said()
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert_equal(load_resume(out / "last.pt"), load_resume(whole / "last.pt"))


@linux
@pytest.mark.slow
def test_a_killed_torchrun_ends_both_nodes(unpaired, tmp_path):
    words = ["-m", "img2img", "train", "dcgan", f"--data={unpaired[0]}", "--size=32", "--width=4", "--d-width=4"]
    words += ["--device=cpu", "--steps=100000", "--save-every=4", "--log-every=2", "--workers=0", "--batch-size=2"]
    with Nodes(tmp_path / "run", words) as nodes:
        nodes.until_saved()
        nodes.agents[0].kill()
        assert nodes.end(60) < 30
        said = nodes.said()
    assert "img2img: torchrun on " in said[0] and " was killed; the same command on every node resumes" in said[0]
    assert said[1].count("img2img: ") == 1 and "; the same command on every node resumes" in said[1], said[1]

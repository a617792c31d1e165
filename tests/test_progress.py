"""What a job shows of its progress: in terminals of several widths, in a notebook, and where it is piped."""

import builtins
import inspect
import io
import re
import sys
import types

import pytest
from helpers import journal_in
from rich.console import Console
from rich.text import Text

import img2img
from img2img.runtime.progress import Meter, Pace, duration, rate, rough_duration, shown_in_notebook

LOSSES = {
    "g_gan": 0.763, "cycle": 0.667, "identity": 0.649, "d_a": 0.193, "d_b": 0.183, "d_a_real": 0.59, "d_a_fake": 0.6,
    "d_b_real": 0.82, "d_b_fake": 0.7, "grad_G": 3.0, "lr": 1.0, "seconds_per_step": 0.1, "images_per_s": 9.8,
}  # fmt: skip


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("img2img.runtime.progress.time.monotonic", clock)
    monkeypatch.setattr(Pace.__init__, "__defaults__", (*Pace.__init__.__defaults__[:-1], clock))
    return clock


def test_durations_are_told_in_the_unit_that_fits():
    told = {0: "0:00:00", 189: "0:03:09", 3600: "1:00:00", 86399: "23:59:59", 86400: "1 d 0 h", 97200: "1 d 3 h"}
    assert {seconds: duration(seconds) for seconds in told} == told
    told = {20: "1 minute", 2400: "40 minutes", 5400: "2 hours", 18000: "5 hours", 86400: "24 hours", 260000: "3 days"}
    assert {seconds: rough_duration(seconds) for seconds in told} == told
    assert [rate(x) for x in (1234, 99.96, 9.84, 0.1234)] == ["1234", "100.0", "9.8", "0.12"]


def test_a_pace_is_known_from_the_first_piece_and_leaves_it_out_when_more_is_known():
    clock = Clock()
    pace = Pace(100, clock=clock)
    assert pace.text == "0 % 0/100 starting" and pace.seconds is None
    clock.now = 10  # the first step compiles
    pace.mark(1, 4)
    assert pace.text == "1 % 1/100 0.4 img/s 0:16:30 left" and not pace.warm
    for step in range(2, 8):
        clock.now += 0.5
        pace.mark(step, 4)
    assert pace.warm and pace.text == "7 % 7/100 8.0 img/s 0:00:46 left"


def test_a_pace_forgets_how_fast_it_was_long_ago():
    clock = Clock()
    pace = Pace(10_000, clock=clock)
    for seconds in (0.1, 1.0):
        for _ in range(600):
            clock.now += seconds
            pace.mark(pace.done + 1)
    assert pace.seconds == pytest.approx(1.0, abs=0.01) and len(pace.marks) < 400


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_terminal_shows_bar_percent_rate_and_time_left_and_cuts_the_losses(width, tmp_path, monkeypatch, clock):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    monkeypatch.setattr("img2img.training.journal.stderr_console", lambda **_: console)
    journal = journal_in(tmp_path, 301_000)
    screens = []
    for step in range(1, 12):
        clock.now += 0.9
        if step == 10:
            journal.record(step, 4, LOSSES)
        journal.advance(step, 1)
        paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        paper.print(journal.meter.bar.get_renderable())
        screens.append([line.rstrip() for line in Text.from_ansi(paper.file.getvalue()).plain.splitlines()])
    journal.close()
    assert [len(lines) for lines in screens] == [1] * 9 + [2] * 2  # from the first step on
    for step, (first, *losses) in enumerate(screens, 1):
        assert re.fullmatch(rf"train [━╸╺]{{10,}} 0 % {step}/301000 1\.1 img/s 3 d 3 h left", first), first
        assert len(first) <= width and all(len(line) <= width for line in losses)
    assert losses[0].startswith("epoch 4 g_gan 0.763 cycle 0.667 identity 0.649") and losses[0].endswith("…")


def test_piped_output_has_lines_at_a_sensible_rhythm(tmp_path, monkeypatch, clock, capfd):
    journal = journal_in(tmp_path, 1000)
    for step in range(1, 1001):
        clock.now += 0.125
        if step % 10 == 0:
            journal.record(step, 1, LOSSES)
        journal.advance(step, 2)
    journal.close()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("train 2 % 24/1000 16.0 img/s 0:02:02 left | epoch 1 g_gan 0.763")
    assert [line.split()[3].split("/")[0] for line in lines] == ["24", "184", "344", "504", "664", "824", "984", "1000"]
    assert lines[-1].startswith("train 100 % 1000/1000 16.0 img/s 0:00:00 left | epoch 1 ")


@pytest.fixture
def notebook(monkeypatch):
    """The texts that a notebook shows, each the latest of its output."""
    shown = []

    class Handle:
        def update(self, data, raw):
            shown[-1] = data["text/plain"]

    def display(data, raw, display_id):
        assert display_id is True
        shown.append(data["text/plain"])
        return Handle()  # updates the last output

    class ZMQInteractiveShell:
        pass

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_a_notebook_gets_one_output_that_changes(tmp_path, notebook, clock):
    journal = journal_in(tmp_path, 100)
    for step in range(1, 51):
        clock.now += 1
        if step % 10 == 0:
            journal.record(step, 1, LOSSES)
        journal.advance(step, 1)
    bar, losses = notebook[0].splitlines()
    assert len(notebook) == 1 and bar == f"train {'━' * 15}{'─' * 15} 50 % 50/100 1.0 img/s 0:00:50 left"
    assert losses.startswith("epoch 1 g_gan 0.763")


def walk(seconds, clock):
    """Return a job of as many seconds, nearly, that shows its progress in a notebook, twice in each."""

    @shown_in_notebook("walking", adapt=lambda advance: lambda done: advance(done, 2 * seconds))
    def job(progress=lambda done: None):
        for done in range(1, 2 * seconds + 1):
            clock.now += 0.4
            progress(done)
        return "there"

    return job


def test_calls_show_progress_in_a_notebook_where_the_caller_does_not(notebook, clock):
    assert walk(20, clock)() == "there" and len(notebook) == 1
    assert notebook[0] == f"walking {'━' * 30} 100 % 40/40 2.5 img/s 0:00:00 left"
    calls = []
    assert walk(20, clock)(progress=calls.append) == walk(1, clock)() == "there"  # the second one is quick
    assert calls == list(range(1, 41)) and len(notebook) == 1


def test_calls_show_nothing_elsewhere(clock, capfd):
    assert walk(90, clock)() == walk(90, clock)(progress=None) == "there" and capfd.readouterr() == ("", "")


def test_every_call_with_progress_shows_it():
    lab = img2img.BatchEqualizer
    calls = [img2img.translate, img2img.sample, img2img.classify, img2img.evaluate, img2img.rank, img2img.compare]
    for function in (*calls, lab.check, lab.transform, lab.evaluate):
        around = [function, getattr(function, "__wrapped__", None)]  # scikit-learn wraps `transform` once more
        assert walk(1, None).__code__ in [getattr(wrapper, "__code__", None) for wrapper in around], function
        assert "progress" in inspect.signature(function).parameters and "progress: " in function.__doc__


def test_a_long_run_says_once_how_long_it_takes_and_how_to_shorten_it(tmp_path, clock, capfd):
    def told(seconds, start=0):
        journal = journal_in(tmp_path / str(clock.now), 1000, start, shorten="on this CPU; --size 128 is quicker.")
        for step in range(start + 1, start + 30):
            clock.now += seconds
            journal.advance(step, 1)
        journal.close()
        return [line for line in capfd.readouterr().err.splitlines() if "whole run" in line]

    sentence = "The whole run takes about {} on this CPU; --size 128 is quicker."
    assert told(86.4) == [sentence.format("24 hours")]
    assert told(3.0) == []  # less than an hour
    assert told(86.4, start=500) == []  # going on; the options are fixed


def test_commands_show_progress_too(clock, capfd):
    from img2img.cli.terminal import progress_bar

    with progress_bar("a2b") as (advance, _):
        for done in range(31):
            clock.now += 1
            advance(done, 30)
    assert [line.rpartition(" ")[0] for line in capfd.readouterr().err.splitlines()] == [
        "a2b 63 % 19/30 1.0 img/s 0:00:11",
        "a2b 100 % 30/30 1.0 img/s 0:00:00",
    ]


def test_a_quick_job_prints_no_line(clock, capfd):
    from img2img.cli.terminal import progress_bar

    with progress_bar("a2b") as (advance, _):
        clock.now += 1
        advance(30, 30)
    assert capfd.readouterr().err == ""


def test_a_quiet_console_shows_nothing(clock, capfd):
    meter = Meter(Console(quiet=True, force_terminal=True), "train", 10)
    clock.now += 100
    meter.advance(10)
    meter.close()
    assert meter.bar is None and capfd.readouterr() == ("", "")

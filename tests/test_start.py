"""Starting from weights, and making a run longer: what is taken, what is refused, and that both resume bit-equal."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import refused, write_images
from helpers import RHYTHM, assert_equal, at_step, over, terminate

import img2img
from img2img.errors import ConfigError, Interrupted, ModelFileError
from img2img.interchange.pth import write_pth
from img2img.model.file import load_resume, load_use, read_card
from img2img.training.config import Schedule
from img2img.training.start import Start


@pytest.fixture(autouse=True)
def no_reports(monkeypatch):
    """Drawing curves takes longer than such a run."""
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)


@pytest.fixture
def train(options, tmp_path):
    """Train in a folder of this name, with RHYTHM; return the folder."""

    def train(method, name, **more):
        img2img.train(method, out=tmp_path / name, **options[method] | RHYTHM | more)
        return tmp_path / name

    return train


@pytest.fixture
def beginning(monkeypatch):
    """The states of methods and optimizers right after they were given what their runs start from."""
    states, give = [], Start.give

    def watched(self, method, ema, rank):
        give(self, method, ema, rank)
        moments = {name: x.state_dict()["state"] for name, x in method.optimizers.items()}
        states.append({"method": method.state_dict(), "moments": moments, "average": ema.average})
        states[-1] = torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, states[-1])

    monkeypatch.setattr(Start, "give", watched)
    return states


def moments_of(state):
    return {name: x["state"] for name, x in state["optimizers"].items()}


def config_of(run):
    return json.loads((run / "config.json").read_text())


# What is taken.


def test_a_run_of_the_same_method_gives_all(train, beginning, capsys):
    source = train("cyclegan", "source", ema=0.9)
    train("cyclegan", "new", init=source, ema=0.5, lr=1e-5, beta1=0.9, steps=2, quiet=False)
    last, begun = load_resume(source / "last.pt"), beginning[0]
    assert_equal(dict(last["method"]), dict(begun["method"]))
    assert_equal(moments_of(last), begun["moments"])
    assert_equal(last["ema"]["average"], begun["average"])
    assert begun["method"]["pool_a._extra_state"].shape[0] == 4 and begun["moments"]["G"][0]["step"] == 4
    line = f"{source} (cyclegan, step 4): g_ab, g_ba, d_a, d_b, the optimizers, the pools"
    assert f"starts from {line}\n" in capsys.readouterr().err
    new = source.with_name("new")
    assert config_of(new)["init"]["from"] == line and len(config_of(new)["init"]["sha256"]) == 64
    assert json.loads((new / "report.json").read_text())["facts"]["notes"] == {"starts from": line}
    (group,) = load_resume(new / "last.pt")["optimizers"]["D"]["param_groups"]
    assert group["betas"] == (0.9, 0.999) and group["lr"] == 0.5e-5  # those of the new run


def test_generators_alone(train, beginning, tmp_path, capsys):
    source, weights = train("cyclegan", "source"), tmp_path / "latest_net_G_A.pth"
    model = source / "model.safetensors"
    write_pth(load_use(model, read_card(model), "a2b").network, weights)
    last = load_resume(source / "last.pt")["method"]
    both, one = ("a2b and b2a", {"g_ab", "g_ba"}), ("a2b", {"g_ab"})
    cases = [({"init": model}, *both), ({"init": source, "init_only": "generator"}, *both), ({"init": weights}, *one)]
    for i, (start, words, taken) in enumerate(cases):
        train("cyclegan", f"new{i}", steps=1, quiet=False, **start)
        begun = beginning[i]["method"]
        for name, x in last.items():
            if name.endswith("weight"):
                assert torch.equal(begun[name], x) == (name.partition(".")[0] in taken), name
        assert not any(beginning[i]["moments"].values())
        assert f"): {words}; all else begins anew\n" in capsys.readouterr().err


def test_another_method_with_the_same_generator(train, beginning):
    """Unpaired first, then with pairs; a pix2pix learns one direction of a CycleGAN's two."""
    source = train("cyclegan", "source", generator="unet_32")
    train("pix2pix", "new", init=source, norm="instance", steps=1)
    last, begun = load_resume(source / "last.pt"), beginning[0]["method"]
    g = {name.removeprefix("g_ab."): x for name, x in last["method"].items() if name.startswith("g_ab.")}
    assert g and all(torch.equal(begun[f"g.{name}"], x) for name, x in g.items())
    assert not torch.equal(begun["d.layers.0.weight"], last["method"]["d_b.layers.0.weight"])


def test_pools_of_another_size_stay_behind(train, beginning, capsys):
    source = train("cyclegan", "source")
    train("cyclegan", "new", init=source, size=48, steps=1, quiet=False)
    assert beginning[0]["method"]["pool_a._extra_state"].numel() == 0
    assert "the optimizers; not the pools, whose images have 32 pixels" in capsys.readouterr().err


def test_a_smaller_pool_keeps_what_it_has_room_for(train, beginning):
    source = train("cyclegan", "source")
    train("cyclegan", "new", init=source, pool=2, steps=1)
    pool = load_resume(source / "last.pt")["method"]["pool_a._extra_state"]
    assert_equal(beginning[0]["method"]["pool_a._extra_state"], pool[:2])


def test_classes_of_other_names(quick, tmp_path, capsys):
    keys = ("size", "width", "d_width", "device", "precision")
    common = {k: quick[k] for k in keys} | {"steps": 1, "batch_size": 2}
    for names in ("xy", "pq"):
        for name in names:
            write_images(tmp_path / names / name, 2, (32, 32), seed=1)
    img2img.train("cgan", data=tmp_path / "xy", out=tmp_path / "one", **common)
    img2img.train("cgan", data=tmp_path / "pq", out=tmp_path / "two", init=tmp_path / "one", **common)
    assert "the optimizers; its classes x, y become p, q\n" in capsys.readouterr().err


# Resuming.


def test_a_run_from_weights_resumes_bit_equal(train, monkeypatch, options, tmp_path):
    source = train("cyclegan", "source")
    whole = train("cyclegan", "whole", init=source)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, "cyclegan", 2, terminate)
        train("cyclegan", "parts", init=source)
    shutil.rmtree(source)  # the run has all that it needs
    parts = tmp_path / "parts"
    img2img.train("cyclegan", out=parts, resume=True, quiet=True)
    assert_equal(load_resume(whole / "last.pt"), load_resume(parts / "last.pt"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert config_of(whole)["init"] == config_of(parts)["init"]
    notes = [json.loads((run / "report.json").read_text())["facts"]["notes"] for run in (whole, parts)]
    assert notes[0] == notes[1] != {}


def test_longer_is_what_a_longer_run_would_have_been(train, tmp_path):
    """As long as the learning rate has not fallen."""
    whole, parts = train("cyclegan", "whole", steps=8, decay=0), train("cyclegan", "parts", decay=0)
    img2img.train("cyclegan", out=parts, resume=True, steps=8, quiet=True)
    assert_equal(load_resume(whole / "last.pt"), load_resume(parts / "last.pt"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert config_of(parts)["options"] == config_of(whole)["options"]
    assert config_of(parts)["earlier"] == [{"until_step": 4, "steps": 4, "epochs": 200}]


def test_a_run_made_longer_states_its_schedule_and_resumes_bit_equal(train, monkeypatch, tmp_path, capsys):
    runs = [train("pix2pix", name) for name in ("whole", "parts")]
    img2img.train("pix2pix", out=runs[0], resume=True, steps=9)
    said = capsys.readouterr().err
    assert "9 steps, resuming from step 4" in said
    assert "made longer, from 4 steps to 9: the learning rate is that of a run of 9 steps; from step 5 it is 1" in said
    assert " of the full one, after 0.333 at step 4, and falls from step 6 to the end\n" in said
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, "pix2pix", 2, terminate)
        img2img.train("pix2pix", out=runs[1], resume=True, steps=9, quiet=True)
    img2img.train("pix2pix", out=runs[1], resume=True)
    assert "made longer" not in capsys.readouterr().err
    assert_equal(*(load_resume(run / "last.pt") for run in runs))
    rates = [json.loads(line)["lr"] for line in (runs[0] / "log.jsonl").read_text().splitlines() if '"lr"' in line]
    assert rates == [pytest.approx(x, abs=1e-6) for x in (1 / 3, 0.4, 0.2)]


def test_longer_by_epochs(train, capsys):
    run = train("pix2pix", "run", steps=0, epochs=1)
    img2img.train("pix2pix", out=run, resume=True, epochs=2)
    assert load_resume(run / "last.pt")["step"] == 12 and "made longer, from 6 steps to 12" in capsys.readouterr().err
    assert config_of(run)["options"]["epochs"] == 2 and config_of(run)["options"]["steps"] == 0
    img2img.train("pix2pix", out=run, resume=True, steps=13, quiet=True)
    assert load_resume(run / "last.pt")["step"] == 13


def test_another_length_is_refused_unless_it_is_meant_and_greater(train, options):
    run = train("pix2pix", "run")
    before = (run / "config.json").read_bytes()
    again = options["pix2pix"] | RHYTHM | {"steps": 8}
    said = refused(ConfigError, img2img.train, "pix2pix", out=run, **again)
    assert "another length: steps was 4, now 8" in said and "--resume and a greater one" in said
    for shorter in ({"steps": 3}, {"steps": 1}):
        said = refused(ConfigError, img2img.train, "pix2pix", out=run, resume=True, quiet=True, **shorter)
        assert "holds a run of 4 steps, and a resumed run cannot become shorter" in said
    said = refused(ConfigError, img2img.train, "pix2pix", out=run, resume=True, steps=8, lr=0.5)
    assert "other options: lr was 0.0002, now 0.5" in said and "steps" not in said
    assert (run / "config.json").read_bytes() == before


@over(steps=[1, 7, 30], epochs=[1, 2, 5], decay=[0.0, 0.3, 0.5, 1.0], by_epoch=[False, True])
def test_the_first_step_of_a_lower_rate(steps, epochs, decay, by_epoch):
    schedule = Schedule(steps * epochs, steps, by_epoch, decay)
    lower = [step for step in range(1, schedule.steps + 1) if schedule.lr_factor(step) < 1]
    assert schedule.first_decay == (lower[0] if lower else 0)


# What is refused.


def test_what_does_not_fit_is_one_sentence_and_nothing_is_taken(train, options, tmp_path):
    source, out = train("cyclegan", "source"), tmp_path / "new"
    common = options["cyclegan"] | RHYTHM
    grey = np.zeros((3, 32, 32), np.uint8)
    cases = [
        ({"width": 8}, ModelFileError, r"tensors differ: g_ab\.\S+ is 4x3x7x7 there and 8x3.* more\. Give --width 4\."),
        ({"generator": "resnet_2"}, ConfigError, "Unknown --generator"),
        ({"generator": "unet_32"}, ModelFileError, r"is only here; .*Give --generator resnet_3\."),
        ({"d_width": 8}, ModelFileError, r"d_a\.\S+ is .*--d-width 4\. Or take its generators alone, with --init-only"),
        ({"spectral": True}, ModelFileError, r"is only here; .*Or take its generators alone"),
        ({"norm": "none"}, ModelFileError, r"is only there; .*Give --norm instance\."),
        ({"padding": "zero", "init_only": "generator"}, ConfigError, r"other networks\. Give --padding auto\."),
        ({"a": grey, "b": grey}, ModelFileError, r"is 4x3x7x7 there and 4x1x7x7 here"),
        ({"init": tmp_path / "nowhere"}, ModelFileError, "There is no model or run folder"),
        ({"init": source / "last.pt"}, ModelFileError, "give the folder of the run"),
        ({"init": source / "config.json"}, ModelFileError, "damaged or not a safetensors file"),
        
        ({"init": source.with_name("x.pth")}, ModelFileError, "There is no file"),
        ({"init": None, "init_only": "generator"}, ConfigError, "--init-only has no effect here: it is for runs with"),
        ({"init_only": "all"}, ConfigError, "Unknown --init-only 'all'"),
        ({"out": source, "overwrite": True}, ConfigError, "lies in the run folder"),
        ({"out": source}, ConfigError, "lies in the run folder"),
    ]  # fmt: skip
    before = sorted((path, path.stat().st_mtime_ns) for path in source.rglob("*"))
    failed = []
    for case, kind, words in cases:
        said = refused(kind, img2img.train, "cyclegan", **common | {"init": source, "out": out} | case)
        if not re.search(words, said):
            failed.append((case, said))
        assert not out.exists(), case
    assert failed == []
    assert before == sorted((path, path.stat().st_mtime_ns) for path in source.rglob("*"))


def test_a_model_of_other_uses_is_refused(train, options, tmp_path):
    source = train("pix2pix", "source", direction="b2a")
    again = options["pix2pix"] | RHYTHM | {"init": source, "out": tmp_path / "new"}
    said = refused(ConfigError, img2img.train, "pix2pix", **again)
    assert "is a pix2pix model of b2a, and has nothing for this run of pix2pix, which learns a2b" in said
    train("pix2pix", "back", init=source, direction="b2a", steps=1)


def test_a_damaged_state_is_one_sentence(train, options, tmp_path):
    source = train("cyclegan", "source", steps=1)
    state, again = load_resume(source / "last.pt"), options["cyclegan"] | {"init": source, "out": tmp_path / "new"}
    for damage in ([], {}, *({**state, **x} for x in ({"optimizers": {}}, {"ranks": [{}]}, {"ema": None}))):
        torch.save(damage, source / "last.pt")
        said = refused(ModelFileError, img2img.train, "cyclegan", **again)
        assert "is not the state of a run of img2img. Or take its generators alone" in said, damage
    torch.save(state | {"optimizers": {"G": state["optimizers"]["G"]}}, source / "last.pt")
    assert "has other players than this run" in refused(ModelFileError, img2img.train, "cyclegan", **again)
    (source / "last.pt").write_bytes(b"x")
    assert "is damaged or not a checkpoint" in refused(ModelFileError, img2img.train, "cyclegan", **again)
    assert not (tmp_path / "new").exists()
    train("cyclegan", "new", steps=1, init=source, init_only="generator")

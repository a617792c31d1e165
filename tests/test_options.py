"""Options: a limit for every number, values of every kind of caller, and those that have no effect."""

import inspect
import json
import math
import re
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import refused

import img2img
from img2img.cli import main as cli
from img2img.cli.equalize import add_equalizing
from img2img.core.objectives import OBJECTIVES
from img2img.core.options import Adversarial
from img2img.data.options import DataConfig
from img2img.errors import ConfigError
from img2img.evaluation.options import EvaluateOptions
from img2img.lab import options as lab_options
from img2img.lab.equalizer import BatchEqualizer
from img2img.lab.networks.models import NETWORKS
from img2img.methods import CONFIGS, METHODS, PLACES
from img2img.model.options import FolderOptions, LoadOptions, SampleLoadOptions, SampleOptions, TranslateOptions
from img2img.networks import layers, norms
from img2img.options.declared import Choice, Options, Within, arguments_of, options_in, split
from img2img.options.outline import keys, outline
from img2img.training.config import HEADINGS, TrainConfig, groups_of, headings_of
from img2img.translation import options as o

GROUPS = {
    *(group for config in CONFIGS.values() for group in groups_of(config)),
    *(network.method.Config for network in NETWORKS.values()),
    *(LoadOptions, TranslateOptions, FolderOptions, SampleLoadOptions, SampleOptions, EvaluateOptions),
}
ARGUMENTS = arguments_of(BatchEqualizer.__init__)


def beyond(limit):
    """Values just outside both bounds, and none at all."""
    step = 1e-9 if isinstance(limit.low, float) else 1
    yield from (limit.low if limit.above else limit.low - step, limit.high if limit.below else limit.high + step)
    yield from (
        math.nan,
        math.inf,
        -math.inf,
        np.float32("nan"),
        "nan",
        "much",
        "",
        True,
        [],
        b"1",
        10**400,
        "9" * 5000,
    )


def within(one):
    """The bounds themselves, as the callers write them."""
    limit = one.limit
    low = [] if limit.above else [limit.low]
    high = [] if limit.below else [limit.high]
    for bound in (*low, *high, *([limit.special[0]] if limit.special else [])):
        yield from (bound, f"{bound}", *([float(bound)] if bound < 2**53 else []))
        if bound < 2**31:
            yield from ((np.int64(bound), np.uint8(bound)) if 0 <= bound < 2**8 else (np.int64(bound),))
            yield np.float64(bound)


NEEDED = {"skip_empty": {"statistics": 1}}  # by an option, of others


def accepted(make, one, value):
    """What becomes of a value; None where it is refused in one sentence."""
    try:
        return make(one.name, value)
    except ConfigError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and one.flag in text and len(text) < 250, text
        return None


def of_group(group):
    def make(name, value):
        (made,) = split({name: value} | NEEDED.get(name, {}), group)
        return getattr(made, name)

    return make


def of_equalizer(name, value):
    equalizer = BatchEqualizer(**{name: value})
    equalizer.check_parameters()
    return getattr(equalizer, name)


def numbers():
    """Every option of a number, and how it is made."""
    for group in GROUPS:
        yield from ((group.__name__, one, of_group(group)) for one in options_in(group).values())
    yield from (("BatchEqualizer", one, of_equalizer) for one in ARGUMENTS.values())


def test_every_option_has_a_help_and_every_number_a_limit():
    lacking = [
        (group.__name__, one.name)
        for group in GROUPS
        for one in options_in(group).values()
        if not one.text.endswith(".") or (one.kind in (int, float) and not isinstance(one.limit, Within))
    ]
    plain = inspect.signature(BatchEqualizer).parameters.values()
    lacking += [p.name for p in plain if type(p.default) in (int, float)]  # of those that declare no limit
    assert [name for name in lacking if name not in ARGUMENTS] == []
    assert {type(p.default) for p in plain if p.name in ARGUMENTS} == {int, float, str}
    assert all(issubclass(group, Options) for group in GROUPS)


def test_every_number_of_a_command_has_a_limit():
    """Of the options that are declared with the commands themselves too."""
    cli.add_methods()
    add_equalizing(cli.equalize)
    found = []
    for app in (cli.app, cli.train, cli.equalize):
        for command in app.registered_commands:
            for name, parameter in inspect.signature(command.callback).parameters.items():
                kind, *told = get_args(parameter.annotation) or (parameter.annotation,)
                if {int, float} & {kind, *get_args(kind)}:
                    texts = [x.help for x in told if hasattr(x, "help")]
                    limited = any(isinstance(x, Within) for x in told) or re.search(r"(from|above) \d", texts[0])
                    found.append((command.name, name, bool(limited)))
    assert len(found) > 150
    assert [entry for entry in found if not entry[2]] == []


def test_values_beyond_a_limit_are_one_sentence_and_those_within_are_taken():
    wrong = []
    for title, one, make in numbers():
        if not isinstance(one.limit, Within):
            continue
        for value in beyond(one.limit):
            special = one.limit.special
            if special and value == special[0]:
                continue
            if accepted(make, one, value) is not None:
                wrong.append((title, one.name, value))
        for value in within(one):
            if (title, one.name, float(value)) in (
                ("BatchEqualizer", "min_images", 10**6),
                ("BatchEqualizer", "max_images", 2),
            ):
                continue  # which have to fit each other
            taken = accepted(make, one, value)
            if type(taken) is not one.kind or float(taken) != float(value):
                wrong.append((title, one.name, value, taken))
    assert wrong == []


def test_other_kinds_are_one_sentence_or_the_declared_type():
    wrong = []
    for title, one, make in numbers():
        for value in ([], {}, b"x", object(), np.zeros(2), torch.zeros(1)):
            if accepted(make, one, value) is not None:
                wrong.append((title, one.name, value))
        if isinstance(one.limit, Choice) and one.limit.complete:
            if accepted(make, one, "no such name") is not None:
                wrong.append((title, one.name))
            wrong += [(title, one.name, name) for name in one.limit.names if accepted(make, one, name) != name]
        if one.kind is bool and [accepted(make, one, x) for x in (np.True_, "false", 1)] != [True, False, None]:
            wrong.append((title, one.name))
        if one.default is not None and accepted(make, one, None) != one.default:  # None is the default
            wrong.append((title, one.name, None))
    assert wrong == []
    assert LoadOptions(device=torch.device("cpu")).device == "cpu"
    assert TranslateOptions(tile=64).tile == "64" and TranslateOptions(tile=np.int64(64)).tile == "64"
    assert FolderOptions(report="r.json").report == Path("r.json")
    assert EvaluateOptions(a=Path("x")).a == "x"
    assert TrainConfig(epochs=1e0, steps="1e3", ema="0.5") == TrainConfig(epochs=1, steps=1000, ema=0.5)
    assert type(CONFIGS["wgan_gp"](beta1=0, beta2=np.float32(0)).beta1) is float


def test_sentences():
    for kwargs, sentence in (
        ({"steps": 10**30}, "--steps takes a whole number from 1 to 10^12, or 0, not " + f"{10**30}."),
        ({"keep": 10**12}, "--keep takes a whole number from 0 to 10^6, not 1000000000000."),
        ({"ema": 1}, "--ema takes a number from 0 to below 1, not 1."),
        ({"seed": -1}, "--seed takes a whole number from 0 to 2^63 - 1, not -1."),
        ({"precision": "fp23"}, "Unknown --precision 'fp23'. Did you mean 'fp32'? Choose from: auto, fp32, bf16."),
        ({"tensorboard": "perhaps"}, "--tensorboard takes true or false, not 'perhaps'."),
        ({"log_every": 2.5}, "--log-every takes a whole number from 1 to 10^12, not 2.5."),
    ):
        assert refused(ConfigError, TrainConfig, **kwargs) == sentence
    assert refused(ConfigError, FolderOptions, max_megapixels=0) == (
        "--max-megapixels takes a number above 0 up to 10^9, not 0."
    )
    assert "1 to 16384" not in refused(ConfigError, DataConfig, size="x\ny" * 99)


CLI = [
    "--lr nan", "--lr -1", "--d-lr nan", "--seed -1", "--seed 18446744073709551616", "--width 0", "--width -8",
    "--d-width -1", "--dropout 2", "--dropout nan", "--pool -1", "--beta1 2", "--beta1 nan", "--clip -1",
    "--lambda-cycle -1", "--lambda-identity inf", "--instance-noise -1", "--workers -5", "--workers 1000000",
    "--cache-mb -1", f"--steps {10**30}", "--keep 1000000000000", "--epochs -1", "--decay 1.1", "--val-fraction 1",
    "--smooth 1", "--accumulate 0", "--batch-size -1", "--size 65537", "--ema 1", "--patience -1", "--log-every 0",
]  # fmt: skip


def test_the_command_line_refuses_them_in_one_line(command_line, unpaired, tmp_path):
    wrong = []
    for words in CLI:
        out = tmp_path / "run"
        answer = command_line("train", "cyclegan", "--a", unpaired[0], "--b", unpaired[1], "--out", out, *words.split())
        code, printed, told = answer
        if (code, printed, told.count("\n"), out.exists()) != (2, "", 1, False) or words.split()[0] not in told:
            wrong.append((words, answer))
    for words in (
        "translate m i --out o --max-megapixels inf", "translate m i --out o --quality 101", "sample m --out o --n 0",
        "sample m --out o --seed -1", "evaluate m --limit -1", "evaluate m --subsets 0", "compare m n --show 0",
        "import g.pth --out m.safetensors --size 0", "demo --steps 0", "demo --steps 1e13",
        "equalize fit t --out o --max-change 0", "equalize fit t --out o --jobs 0", "equalize fit t --out o --seed -1",
    ):  # fmt: skip
        code, printed, told = command_line(*words.split())
        if (code, printed) != (2, "") or "Traceback" in told or words.split()[-2][2:] not in told:
            wrong.append((words, code, printed, told))
    assert wrong == []


def test_a_config_of_a_mailed_run_is_held_to_the_same_limits(unpaired, quick, tmp_path):
    run = tmp_path / "run"
    img2img.train("cyclegan", a=unpaired[0], b=unpaired[1], out=run, generator="resnet_3", **quick | {"steps": 2})
    record = json.loads((run / "config.json").read_text())
    for name, value in {"steps": 10**30, "keep": 10**12, "workers": 10**6, "width": "wide", "clip": -1}.items():
        changed = record | {"options": record["options"] | {name: value}}
        (run / "config.json").write_text(json.dumps(changed))
        assert f"--{name} takes" in refused(ConfigError, img2img.train, "cyclegan", out=run, resume=True, quiet=True)


# Options without effect


WITHOUT_EFFECT = {
    "cyclegan": ({"direction": "a2b"}, {"ab": "x"}, {"lambda_gp": 1}, {"penalty": "none", "lambda_gp": 1}),
    "pix2pix": ({"lambda_gp": 1},),
    "gan": ({"norm": "none"}, {"d_norm": "none"}),
    "dcgan": ({"depth": 7},),
    "wgan": ({"beta1": 0.5}, {"beta2": 0.9}, {"lambda_gp": 1}),
    "wgan_gp": ({"depth": 7}, {"network": "mlp", "norm": "none"}),
}


def test_an_option_without_effect_is_refused(tmp_path):
    wrong = []
    for method, cases in WITHOUT_EFFECT.items():
        for options in cases:
            text = refused(ConfigError, img2img.train, method, out=tmp_path / "run", **options)
            if f"--{list(options)[-1].replace('_', '-')} has no effect" not in text:
                wrong.append((method, options, text))
    assert wrong == [] and not (tmp_path / "run").exists()


def test_options_of_scores_without_held_out_images_are_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    wrong = []
    for method, data in (("cyclegan", {"a": images, "b": images}), ("dcgan", {"data": images})):
        for options in ({"metrics": "kid"}, {"select": "kid"}, {"patience": 3}):
            call = dict(out=tmp_path / "run", size=32, quiet=True, device="cpu") | data | options
            text = refused(ConfigError, img2img.train, method, **call)
            if f"--{next(iter(options))} is for evaluations on held-out images, and there are none" not in text:
                wrong.append((method, options, text))
    assert wrong == [] and not (tmp_path / "run").exists()


def test_a_run_whose_config_has_options_without_effect_resumes(tmp_path, quick):
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 1), np.uint8)
    folder = tmp_path / "data"
    folder.mkdir()
    for i, image in enumerate(images):
        np.save(folder / f"{i}.npy", image)
    shared = dict(quick, size=16, steps=2)
    for name in ("discriminator", "validate_every"):
        del shared[name]
    run = tmp_path / "run"
    img2img.train("wgan", data=folder, out=run, **shared)
    record = json.loads((run / "config.json").read_text())
    old = {"metrics": "nonsense", "select": "foo", "patience": 3, "validate_every": 1, "depth": 7, "beta1": 0.1}
    (run / "config.json").write_text(json.dumps(record | {"options": record["options"] | old}))
    img2img.train("wgan", out=run, resume=True, quiet=True)
    assert json.loads((run / "config.json").read_text())["options"]["depth"] == 7


# Where it is declared


def test_names_of_tables_are_those_of_the_tables():
    assert keys("img2img.core.objectives.OBJECTIVES") == tuple(OBJECTIVES)
    limits = {name: one.limit for name, one in options_in(CONFIGS["cyclegan"]).items()}
    assert set(limits["norm"].names) == set(norms.NORMS)
    assert set(limits["padding"].names) == {"auto", *layers.PADDINGS}
    assert set(limits["upsample"].names) == set(layers.UPSAMPLINGS)
    assert o.GENERATORS.names[1:] == tuple(img2img.networks.GENERATORS)
    assert CONFIGS["dcgan"]().network in options_in(CONFIGS["dcgan"])["network"].limit.names
    assert {name: METHODS[name].Config for name in PLACES} == CONFIGS
    assert all(METHODS[name].Config.needs == config.needs for name, config in CONFIGS.items())


def test_a_name_that_was_added_to_a_table_is_taken(monkeypatch):
    monkeypatch.setitem(OBJECTIVES.own, "mine", OBJECTIVES["hinge"])
    assert Adversarial(objective="mine").objective == "mine"


def test_the_keys_of_a_table_are_read_without_importing_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "img2img.core.objectives")
    assert keys("img2img.core.objectives.OBJECTIVES") == tuple(OBJECTIVES)
    assert "img2img.core.objectives" not in sys.modules
    with pytest.raises(LookupError):
        keys("img2img.core.objectives.binary_d")


def test_the_outline_of_the_equalizer_is_the_equalizer():
    short = outline("img2img.lab.equalizer", "BatchEqualizer", {"o": lab_options})
    assert inspect.getdoc(short) == inspect.getdoc(BatchEqualizer)
    for name in ("__init__", "fit", "fit_table", "transform", "evaluate"):
        ours, real = getattr(short, name), getattr(BatchEqualizer, name)
        assert ours.__doc__ == real.__doc__
        pairs = zip(
            inspect.signature(ours).parameters.values(), inspect.signature(real).parameters.values(), strict=True
        )
        for a, b in pairs:
            assert (a.name, a.kind) == (b.name, b.kind)
            assert a.default == b.default or (callable(a.default) and callable(b.default))  # functions are not compared


def test_every_option_of_training_stands_under_a_heading():
    for config in CONFIGS.values():
        groups = groups_of(config)
        names = {name for group in groups for name in options_in(group)}
        headings = headings_of(*groups)
        assert headings.keys() == names and set(headings.values()) <= set(HEADINGS)

"""Advice that is followed to the letter is accepted, and changes something."""

import itertools
import re
import shlex
from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
import torch

from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.networks import DISCRIMINATORS, GENERATORS
from img2img.report.advice import REMEDIES, remedies
from img2img.runs.facts import MEANINGS
from img2img.training.config import TrainConfig, flat, groups_of
from img2img.training.sizes import refuse_wrong_size, shorten

SIZE, SMALL = 32, {"width": 4, "d_width": 4}
TRANSLATOR = {"generator": "unet_32", "discriminator": "patch_16"}
CASES = [
    {}, {"smooth": 0.1}, {"penalty": "none"}, {"penalty": "r1"}, {"objective": "hinge"}, {"objective": "minimax"},
    {"objective": "f_kl", "clip": 1.0}, {"objective": "wasserstein", "penalty": "gp"}, {"norm": "batch"},
    {"norm": "instance"}, {"norm": "none"}, {"d_norm": "none"}, {"network": "mlp"}, {"n_critic": 4}, {"beta1": 0.0},
    {"spectral": True, "instance_noise": 0.3}, {"diffaugment": "color", "ema": 0.9999}, {"d_lr": 1e-3},
    {"accumulate": 4},
]  # fmt: skip


def built(method_class, options, size=SIZE):
    """The method as `options` have it, after every check that the API makes of them; and its training options."""
    groups = [method_class.Config, TrainConfig]
    shallow = {"d_layers": 4} if "d_layers" in flat(method_class.Config()) else {}  # for images of `SIZE`
    options = shallow | options
    assert options.keys() <= {field.name for group in groups for field in fields(group)}
    config, training = (group(**{k: v for k, v in options.items() if k in flat(group())}) for group in groups)
    training = replace(training, batch_size=training.batch_size or method_class.batch_size)
    facts = Facts(size, dict.fromkeys(config.needs.domains, 3), ("x", "y") * config.needs.labels)
    method = method_class(method_class.resolve(config, facts), facts)
    refuse_wrong_size(method, size)
    return method, training


def effective(*groups):
    """The options of a run that have an effect, as the loop hands them on to the advice."""
    return {name: x for name, x in flat(*groups).items() if name not in groups[0].unused}


def parsed(text, method_class):
    """`--name value ...` as the command line reads it."""
    hints = {}
    for group in groups_of(method_class.Config):
        hints |= {name: get_args(hint)[0] for name, hint in get_type_hints(group, include_extras=True).items()}
    words, options = shlex.split(text), {}
    for word, value in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            options[name] = True if value.startswith("--") else hints[name](value)
    return options


@pytest.fixture
def without_weights():
    with torch.device("meta"):
        yield


@pytest.mark.nightly
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("without_weights")
def test_every_advice_that_is_followed_is_accepted_and_new(name):
    method_class, refused, given = METHODS[name], [], set()
    for case in CASES:
        known = effective(method_class.Config(), TrainConfig())
        at_first = {k: v for k, v in (SMALL | TRANSLATOR | case).items() if k in known}
        try:
            method, training = built(method_class, at_first)
        except ConfigError:
            continue  # no such run
        options = effective(method.config, training)
        told = {kind: remedies(kind, options) for kind in REMEDIES}
        for text in {text for texts in told.values() for text in texts}:
            change = parsed(text.removeprefix("with few images "), method_class)
            try:
                other, training = built(method_class, at_first | change)
            except ConfigError as error:
                refused.append(f"{case}: {text}: {error}")
                continue
            assert effective(other.config, training) == options | change != options, (case, text)
        given |= {kind for kind, texts in told.items() if texts}
    judged = "share" in method_class.kinds.values()  # without accuracies, nobody is seen to win
    assert refused == [] and given >= set(REMEDIES) - (set() if judged else {"discriminator winning"})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_a_run_that_follows_the_advice_trains(name):
    method_class, failed = METHODS[name], []
    method, training = built(method_class, SMALL | {"batch_size": 2})
    texts = {text for kind in REMEDIES for text in remedies(kind, effective(method.config, training))}
    shape = (2, 3, SIZE, SIZE)
    for text in sorted(texts):
        change = parsed(text.removeprefix("with few images "), method_class)
        torch.manual_seed(0)
        method, _ = built(method_class, SMALL | {"batch_size": 2} | change)
        batch = {key: torch.rand(shape) * 2 - 1 for key in method.needs.domains}
        batch |= {"label": torch.arange(2)} if method.needs.labels else {}
        scalars = method.step(iter([batch] * method.draws))
        failed += [text for x in scalars.values() if not torch.isfinite(x)]
    assert texts and not failed


def test_advice_names_what_must_change_with_it_and_nothing_that_is_so_already():
    def told(kind, method, **options):
        built_method, training = built(METHODS[method], SMALL | options)
        return remedies(kind, flat(built_method.config, training))

    collapse = told("mode collapse", "dcgan")
    assert "--penalty r1 --d-norm none" in collapse and "--objective wasserstein --d-norm none" in collapse
    assert "--batch-size 128" in collapse and "--n-critic 2" in collapse
    assert "--penalty r1 --norm instance" in told("discriminator winning", "pix2pix")
    assert not any("nonsaturating" in text for text in told("saturation", "dcgan"))
    assert "--objective nonsaturating" in told("saturation", "dcgan", objective="minimax")
    assert not any("penalty" in text or "objective" in text for text in told("mode collapse", "wgan_gp"))
    assert "--clip 1" in told("not finite", "cyclegan") and "--clip 1" not in told("not finite", "cyclegan", clip=0.5)
    assert "--batch-size 32 --accumulate 2" in told("out of memory", "dcgan")
    assert not any("batch" in text for text in told("out of memory", "cyclegan"))
    assert "--objective wasserstein --d-norm none --smooth 0" in told("saturation", "dcgan", smooth=0.1)


def test_every_failure_has_remedies_and_networks_of_the_equalizer_are_told_theirs():
    from img2img.lab.networks.models import NETWORKS

    assert set(REMEDIES) == {*MEANINGS, "out of memory"}
    for model, network in NETWORKS.items():
        options = flat(network.method.Config(), TrainConfig(batch_size=4))
        for kind in REMEDIES:
            told = remedies(kind, options, "--train {name}={value}")
            for name, value in re.findall(r"--train (\w+)=(\S+)", " ".join(told)):
                assert name in options and value != str(options[name]), (model, kind, told)
        assert "--train lr=" in " ".join(remedies("not finite", options, "--train {name}={value}"))


@pytest.mark.slow
def test_a_size_that_is_refused_comes_with_one_that_is_not():
    circular = []
    for name, generator in itertools.product(("cyclegan", "pix2pix"), GENERATORS):
        for discriminator, size in itertools.product(("patch_16", "patch_286"), (16, 17, 33, 72, 130, 160, 250)):
            options = SMALL | {"generator": generator, "discriminator": discriminator}
            if "unet_512" in generator or "unet_256" in generator:
                options |= {"width": 1}
            try:
                built(METHODS[name], options, size)
                continue
            except ConfigError as error:
                told = str(error)
            ways = told.partition("Use ")[2].rstrip(".").split(", or ")
            assert ways[0].startswith("--size "), told
            for way in ways:
                change = parsed(way, METHODS[name])
                taken = change.pop("size", size)
                try:
                    built(METHODS[name], options | change, taken)
                except ConfigError as error:
                    circular.append(f"{told} Then: {error}")
    assert circular == []


def test_the_sentence_on_a_wrong_size():
    for generator, size, ways in (("resnet_6", 250, "Use --size 248."), ("resnet_6", 33, "Use --size 32.")):
        with pytest.raises(ConfigError) as error:
            built(METHODS["cyclegan"], SMALL | {"generator": generator}, size)
        assert str(error.value).endswith(ways)
    with pytest.raises(ConfigError, match=r"Use --size 256, or --generator unet_32\.$"):
        built(METHODS["pix2pix"], SMALL | {"generator": "unet_256"}, 160)
    assert set(DISCRIMINATORS) >= {"patch_34"}
    with pytest.raises(ConfigError, match=r"Use --size 24, or --discriminator patch_34\.$"):
        built(METHODS["cyclegan"], SMALL, 16)


def test_a_long_run_is_told_how_to_be_shorter_by_options_that_are_accepted():
    from img2img.runtime.device import Runtime

    def told(name, size, training=None, **options):
        method_class = METHODS[name]
        config = method_class.Config(**SMALL, **options)
        method, _ = built(method_class, SMALL | options, size)
        return shorten(method, config, size, training or TrainConfig(), Runtime(torch.device("cpu"), torch.float32))

    quarter, half = (
        "on this CPU; --size {} takes about a quarter of the time, --epochs 100 takes half of it.",
        "--epochs",
    )
    assert told("cyclegan", 256) == quarter.format(128) and told("pix2pix", 256) == quarter.format(128)
    assert told("dcgan", 128) == quarter.format(64)
    for name, size, options in (
        ("cyclegan", 100, {}),  # too small to be halved
        ("cyclegan", 140, {}),  # 70 is no multiple of 4
        ("pix2pix", 256, {"generator": "unet_256"}),
        ("gan", 128, {"network": "mlp"}),
    ):
        assert told(name, size, **options) == "on this CPU; --epochs 100 takes half of it.", name
    assert told("cyclegan", 100, TrainConfig(steps=500)).startswith("on this CPU; --steps 250 takes half")
    assert told("cyclegan", 100, TrainConfig(steps=1)) == "" and half

"""Compiled and recomputed networks do the same as plain ones; whether a run compiles."""

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import RHYTHM, assert_equal, at_step, over, terminate
from torch import nn

import img2img
from img2img.core.penalties import gradient_penalty
from img2img.errors import ConfigError, Interrupted
from img2img.model.file import load_resume
from img2img.networks import DISCRIMINATORS, GENERATORS, regions
from img2img.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from img2img.networks.regions import checkpoint_parts, compile_parts
from img2img.networks.resnet import ResidualBlock
from img2img.runtime.compiling import compiled
from img2img.runtime.device import needs_second_derivative, second_derivatives

NETWORKS = {
    "resnet_3": lambda: GENERATORS["resnet_3"](3, 3, width=4, dropout=0.5),
    "resnet of batch norm": lambda: GENERATORS["resnet_3"](3, 3, width=4, norm="batch", upsample="resize"),
    "unet_32": lambda: GENERATORS["unet_32"](3, 3, width=4),
    "patch_16": lambda: DISCRIMINATORS["patch_16"](3, width=4),
}
DCGAN = {
    "g": (lambda: DCGANGenerator(8, 3, 32, width=4), (4, 8, 1, 1)),
    "d": (lambda: DCGANDiscriminator(3, 32, width=4), (4, 3, 32, 32)),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No compiler, which takes a minute: graphs are caught and differentiated as in compiling, and run as they are."""
    monkeypatch.setattr(regions, "BACKEND", "aot_eager")
    yield
    torch._dynamo.reset()


def unexpected(error):
    raise error


def passes(network, x):
    """Output and all gradients of one pass in training, and the buffers after it, from a random state of its own."""
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    out = network.train()(x)
    gradients = torch.autograd.grad(out.square().sum(), [x, *network.parameters()])
    return [out, *gradients, *network.buffers(), torch.get_rng_state()]


@over(name=[*NETWORKS, *DCGAN])
def test_compiled_networks_do_the_same(name):
    torch.manual_seed(0)
    build, shape = DCGAN.get(name, (NETWORKS.get(name), (2, 3, 32, 32)))
    plain, x = build(), torch.randn(shape)
    compiled = copy.deepcopy(plain)
    compile_parts([compiled], unexpected)
    for _ in range(2):
        for a, b in zip(passes(compiled, x), passes(plain, x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
@over(name=["resnet_3", "patch_16"])
def test_really_compiled_networks_do_the_same(name, monkeypatch):
    monkeypatch.setattr(regions, "BACKEND", "inductor")
    torch.manual_seed(0)
    plain, x = NETWORKS[name](), torch.randn(2, 3, 32, 32)
    for layer in plain.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # the compiler draws other numbers
    compiled = copy.deepcopy(plain)
    compile_parts([compiled], unexpected)
    for _ in range(2):
        for a, b in zip(passes(compiled, x)[:-1], passes(plain, x)[:-1], strict=True):
            if b.dim() > 1:  # biases before an instance norm have rounding for a gradient
                torch.testing.assert_close(a, b, atol=1e-4 * b.abs().max().item(), rtol=1e-4)


def test_equal_blocks_are_compiled_once():
    network = GENERATORS["resnet_9"](3, 3, width=4)
    compile_parts([network, copy.deepcopy(network)], unexpected)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    network.train()(torch.randn(1, 3, 16, 16)).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 3  # what comes before, a block, the rest


def test_without_gradients_nothing_is_compiled():
    network = GENERATORS["resnet_3"](3, 3, width=4)
    compile_parts([network], unexpected)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 16, 16))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_the_slope_of_a_compiled_critic():
    torch.manual_seed(0)
    plain = DISCRIMINATORS["patch_16"](3, width=4, norm="instance")
    compiled, results = copy.deepcopy(plain), []
    compile_parts([compiled], unexpected)
    real, fake = torch.randn(2, 2, 3, 32, 32)
    for critic in (plain, compiled):
        torch.manual_seed(1)
        loss = gradient_penalty(critic, real, fake) + critic(real).mean()
        results.append([loss, *torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)])
    for a, b in zip(*results, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b)


def test_failing_to_compile_is_said_once_and_the_network_goes_on(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setattr(regions, "BACKEND", broken)
    plain, told = NETWORKS["resnet_3"](), []
    network = copy.deepcopy(plain)
    compile_parts([network], told.append)
    x = torch.randn(1, 3, 16, 16)
    for a, b in zip(passes(network, x), passes(plain, x), strict=True):
        assert torch.equal(a, b)
    assert len(told) == 1 and "no compiler" in str(told[0])


# Computed again on the way back.


@over(name=[name for name in NETWORKS if "net" in name])
def test_checkpointed_networks_have_the_same_gradients(name):
    torch.manual_seed(0)
    plain, x = NETWORKS[name](), torch.randn(2, 3, 32, 32)
    network = copy.deepcopy(plain)
    assert checkpoint_parts([network]) == 1
    for a, b in zip(passes(network, x), passes(plain, x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_compiled_and_checkpointed():
    torch.manual_seed(0)
    plain, x = NETWORKS["unet_32"](), torch.randn(2, 3, 32, 32)
    network = copy.deepcopy(plain)
    checkpoint_parts([network])
    compile_parts([network], unexpected)
    for a, b in zip(passes(network, x), passes(plain, x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def saved_bytes(network, x):
    """What the forward pass keeps for the backward pass, without the parameters."""
    own = {p.data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(x)
    del out
    return sum(kept.values())


@over(name=["resnet_3", "unet_32"])
def test_checkpointed_networks_keep_less(name):
    network = NETWORKS[name]().train()
    x = torch.randn(1, 3, 32, 32)
    plain = saved_bytes(network, x)
    checkpoint_parts([network])
    assert saved_bytes(network, x) < plain / 2


def test_networks_with_running_averages_are_not_checkpointed():
    assert checkpoint_parts([DCGANGenerator(8, 3, 32, width=4), nn.Linear(2, 2)]) == 0


# Whole runs.


@over("name bits", [("cyclegan", {}), ("pix2pix", {"dropout": 0.5, "norm": "batch"})])
def test_training_with_checkpoints_is_bit_equal(name, bits, options, tmp_path):
    states = []
    for folder, more in (("whole", {}), ("recomputed", {"checkpoint_activations": True})):
        img2img.train(name, out=tmp_path / folder, **options[name] | bits | more)
        states.append(load_resume(tmp_path / folder / "last.pt"))
    assert_equal(*states)


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.nightly])]
)
def test_a_compiled_run_continues_bit_equal(backend, options, tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "BACKEND", backend)
    config = options["cyclegan"] | RHYTHM | {"steps": 16, "compile": "on", "dropout": 0.3}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    img2img.train("cyclegan", out=whole, **config)
    with monkeypatch.context() as patch:
        at_step(patch, "cyclegan", 13, terminate)
        with pytest.raises(Interrupted):
            img2img.train("cyclegan", out=parts, **config)
    assert load_resume(parts / "last.pt")["compiled"] is True
    img2img.train("cyclegan", out=parts, **config)
    assert_equal(load_resume(whole / "last.pt"), load_resume(parts / "last.pt"))


def test_the_line_at_the_start_says_what_was_chosen(options, tmp_path, capsys):
    loud = options["cyclegan"] | RHYTHM | {"steps": 1, "quiet": False}
    for how, line in (
        ({"compile": "off"}, "cpu, fp32; 1 steps"),
        ({"compile": "on", "checkpoint_activations": True}, "cpu, fp32, compiled blocks, activations recomputed; 1"),
        ({"precision": "bf16"}, "cpu, bf16, channels_last; 1 steps"),
    ):
        img2img.train("cyclegan", out=tmp_path / str(len(line)), **loud | how)
        assert line in capsys.readouterr().err


def test_a_run_says_that_compiling_failed(options, tmp_path, capsys, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("there is no C++ compiler")

    monkeypatch.setattr(regions, "BACKEND", broken)
    out = tmp_path / "run"
    img2img.train("cyclegan", out=out, **options["cyclegan"] | {"quiet": False, "compile": "on"})
    said = capsys.readouterr().err
    assert said.count("Compiling failed, and the run continues without:") == 1 and "there is no C++ compiler" in said
    state = load_resume(out / "last.pt")
    assert state["step"] == 4 and state["compiled"] is False


def test_the_default_of_older_runs_is_off(options, tmp_path):
    out, config = tmp_path / "run", options["cyclegan"] | {"compile": "auto"}
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, "cyclegan", 3, terminate)
        with pytest.raises(Interrupted):
            img2img.train("cyclegan", out=out, **config)
    record = json.loads((out / "config.json").read_text())
    assert record["options"]["compile"] == "off" and load_resume(out / "last.pt")["compiled"] is False
    record["options"]["compile"] = "auto"  # as 0.1.0 wrote it
    (out / "config.json").write_text(json.dumps(record))
    img2img.train("cyclegan", out=out, resume=True, quiet=True)
    assert load_resume(out / "last.pt")["step"] == 4


def test_compiling_leaves_the_settings_of_pytorch_alone():
    config = torch._dynamo.config
    before = config.recompile_limit, config.accumulated_recompile_limit
    seen = []

    def backend(graph, inputs):
        seen.append((config.recompile_limit, config.accumulated_recompile_limit))
        return graph

    program = compiled(lambda x: x + 1, backend, 1000)
    for n in range(1, 12):  # more than PyTorch's own limit
        assert program(torch.zeros(n)).sum() == n
    assert seen == [(1000, 1000)] * 11
    assert before == (config.recompile_limit, config.accumulated_recompile_limit) != (1000, 1000)


def test_second_derivatives_are_a_matter_of_the_thread_that_asks():
    with second_derivatives(), second_derivatives():
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(needs_second_derivative).result()
        assert needs_second_derivative()
    assert not needs_second_derivative()


@pytest.mark.slow
def test_a_run_that_does_not_compile_does_not_load_the_compiler(unpaired, quick, tmp_path):
    """It takes seconds; PyTorch's optimizers load it wherever they are used, and so does any word on determinism."""
    common = {name: quick[name] for name in ("size", "width", "d_width", "steps", "device", "quiet")}
    program = """
import json, sys
import img2img

data, out, common = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name in ("dcgan", "wgan"):  # by Adam and RMSprop
    img2img.train(name, data=data, out=f"{out}/{name}", **common)
    img2img.train(name, out=f"{out}/{name}", resume=True, steps=8, quiet=True)
print("torch._dynamo" in sys.modules)
"""
    words = [sys.executable, "-c", program, unpaired[0], tmp_path, json.dumps(common)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False"], done.stderr


@over("name value", [("compile", "yes"), ("compile", True)])
def test_unknown_choices_are_refused(name, value, options, tmp_path):
    with pytest.raises(ConfigError, match=r"--compile .*on, off"):
        img2img.train("cyclegan", out=tmp_path / "run", **options["cyclegan"] | {name: value})


def test_methods_without_such_generators_cannot_be_checkpointed(unpaired, tmp_path):
    config = dict(size=32, width=4, d_width=4, steps=1, device="cpu", quiet=True, checkpoint_activations=True)
    with pytest.raises(ConfigError, match="for the generators resnet and unet"):
        img2img.train("dcgan", data=unpaired[0], out=tmp_path / "run", **config)


def test_a_residual_block_is_a_part_of_its_own():
    network = GENERATORS["resnet_3"](3, 3, width=4)
    kinds = [type(part) for part in regions.Parts(network.layers).modules]
    assert kinds == [regions.Stack, *[ResidualBlock] * 3, regions.Stack]

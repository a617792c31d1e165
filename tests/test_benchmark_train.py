"""The benchmarks of training compare with the same training, and simulate bf16 as hardware multiplies it."""

import contextlib
import copy
import importlib
import sys
from pathlib import Path

import pytest
import torch

from img2img.methods import METHODS


def imported(name):
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def benchmark_module():
    return imported("train")


@pytest.mark.parametrize("name", ["cyclegan", "pix2pix", "dcgan"])
def test_the_plain_loop_is_the_same_training(name, benchmark_module, monkeypatch):
    torch.manual_seed(0)
    own = dict(width=4, d_width=4)
    own |= {"cyclegan": dict(generator="resnet_3"), "pix2pix": dict(generator="unet_32", dropout=0.0), "dcgan": {}}[
        name
    ]
    own |= dict(discriminator="patch_16") if name != "dcgan" else {}
    method, names = benchmark_module.build(name, 32, own)
    batch = benchmark_module.batch_of(names, 2, 32, "cpu")
    twin = copy.deepcopy(method)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.25))  # the noise; pools are not full
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_, **__: self.fill_(-0.5))
    step = benchmark_module.PLAIN[name](twin.train(), *batch.values())
    method.train().step(iter([batch]))
    step()
    for network in method.networks():
        mine, theirs = getattr(method, network), getattr(twin, network)
        for x, y in zip(mine.parameters(), theirs.parameters(), strict=True):
            if x.dim() > 1:  # biases before an instance norm have no gradient, of whose rounding Adam makes a step
                torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)
    assert not any(
        type(m).__module__ == "img2img.networks.layers" for n in twin.networks() for m in getattr(twin, n).modules()
    )


def test_rows_of_the_benchmark_exist(benchmark_module):
    for method, *_ in (benchmark_module.ROWS | benchmark_module.CUDA_ROWS).values():
        assert method in METHODS


def bf16_pass(layer, x, how):
    """Output and gradients of one pass within autocast."""
    layer, x = copy.deepcopy(layer), x.clone().requires_grad_()
    with how, torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype is torch.bfloat16
    return [y.float(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv2d(8, 16, 3), (2, 8, 9, 9)),
        (torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), (2, 8, 5, 5)),
        (torch.nn.Linear(32, 8), (4, 32)),
    ],
)
def test_simulated_bf16_rounds_as_bf16_does(layer, shape):
    torch.manual_seed(0)
    layer.reset_parameters()
    x = torch.randn(shape)
    simulated = bf16_pass(layer, x, imported("same_result").SimulatedBf16())
    for got, wanted in zip(simulated, bf16_pass(layer, x, contextlib.nullcontext()), strict=True):
        step = 2.0**-8 * wanted.abs().max()  # of the largest values, half of a step of bf16
        assert (got - wanted).abs().max() <= 2 * step
        assert torch.equal(got, got.bfloat16().float())


def test_rows_of_same_result_are_methods():
    assert set(imported("same_result").ROWS) <= set(METHODS)

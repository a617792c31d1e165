"""The benchmark of training compares with the same training."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from img2img.methods import METHODS


@pytest.fixture(scope="module")
def benchmark_module():
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import train
    finally:
        sys.path.remove(folder)
    return train


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
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_: self.fill_(-0.5))
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

"""Maps in channels_last on a CPU, as in bf16: other kernels, equal results, to the second derivative."""

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers import over
from torch import nn

from img2img.core.optimizers import Adam
from img2img.networks import convolutions, norms
from img2img.networks.layers import Conv2d, ConvTranspose2d
from img2img.networks.norms import BatchNorm, InstanceNorm
from img2img.runtime.device import Runtime

LAST = torch.channels_last


def twice_differentiated(function, x, parameters, gradient):
    """Return the value, the gradients, and the gradients of the squared norm of the gradient by `x`."""
    x = x.detach().requires_grad_()
    out = function(x)
    first = torch.autograd.grad(out, [x, *parameters], gradient, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), [x, *parameters], allow_unused=True)
    once = torch.autograd.grad(function(x), [x, *parameters], gradient)  # without a graph of the gradient
    torch.testing.assert_close(once, first)
    return out, *first, *(0 * one if two is None else two for one, two in zip(first, second, strict=True))


def assert_equal_to(mine, theirs, x):
    """Compare two modules in fp64, the first in channels_last; gradients arrive in either layout, or in parts."""
    mine, theirs = mine.double(), theirs.double()
    theirs.load_state_dict(mine.state_dict(), strict=False)
    expected_shape = theirs(x.double()).shape
    gradient = torch.randn(expected_shape, dtype=torch.float64)
    parts = torch.cat([gradient, gradient], 1).to(memory_format=LAST)[:, : expected_shape[1]]
    expected = twice_differentiated(theirs, x.double(), list(theirs.parameters()), gradient)
    mine.to(memory_format=LAST)
    for given in (gradient, gradient.to(memory_format=LAST), parts):
        found = twice_differentiated(mine, x.double().to(memory_format=LAST), list(mine.parameters()), given)
        torch.testing.assert_close(found, expected)
    assert found[0].is_contiguous(memory_format=LAST)


@pytest.fixture
def called(monkeypatch):
    """Return the names of the ways of `convolutions` that were taken."""
    names = set()

    def watch(function):
        forward = function.forward

        @functools.wraps(forward)
        def watched(*inputs):
            names.add(function.__name__)
            return forward(*inputs)

        monkeypatch.setattr(function, "forward", staticmethod(watched))

    for function in (convolutions._Patches, convolutions._Sum, convolutions._FewOutputs, norms._Normalized):
        watch(function)
    return names


@over(
    "kernel, stride, padding, size",
    [(4, 2, 1, (4, 4)), (4, 2, 1, (5, 7)), (4, 1, 0, (4, 4)), (3, 1, 1, (3, 5)), (3, 2, 1, (6, 6)), (1, 1, 0, (3, 4))],
    bias=[True, False],
)
def test_a_convolution_of_small_maps_is_a_product(kernel, stride, padding, size, bias, called):
    both = [kind(6, 24, kernel, stride, padding, bias=bias) for kind in (Conv2d, nn.Conv2d)]
    assert_equal_to(*both, torch.randn(2, 6, *size))
    assert {"_Patches", "_Sum"} <= called


@over("kernel, extra, size", [(4, 0, (1, 1)), (4, 0, (3, 2)), (3, 1, (2, 2)), (3, 1, (3, 4))], bias=[True, False])
def test_a_transposed_convolution_of_small_maps_is_a_product(kernel, extra, size, bias, called):
    options = {"stride": 2, "padding": 1, "output_padding": extra, "bias": bias}
    both = [kind(24, 6, kernel, **options) for kind in (ConvTranspose2d, nn.ConvTranspose2d)]
    assert_equal_to(*both, torch.randn(2, 24, *size))
    assert {"_Patches", "_Sum"} <= called


@over("kernel, padding", [(7, 0), (7, 3), (5, 1)], channels=[1, 3], bias=[True, False])
def test_a_convolution_to_few_channels(kernel, padding, channels, bias, called):
    both = [kind(5, channels, kernel, padding=padding, bias=bias) for kind in (Conv2d, nn.Conv2d)]
    assert_equal_to(*both, torch.randn(2, 5, 20, 19))
    assert called == {"_FewOutputs"}


@over(kinds=[(Conv2d, nn.Conv2d), (ConvTranspose2d, nn.ConvTranspose2d)])
def test_large_maps(kinds, called):
    assert_equal_to(*(kind(5, 8, 4, 2, 1) for kind in kinds), torch.randn(2, 5, 20, 24))
    assert not called


@over(batch=[1, 3], size=[(1, 2), (7, 6)])
def test_norms_of_each_image(batch, size, called):
    x = 5 * torch.randn(batch, 4, *size) + 2
    norm = BatchNorm(4).eval()
    nn.init.normal_(norm.weight, 1)
    nn.init.normal_(norm.bias)
    for mine in (InstanceNorm(4), norm):
        assert_equal_to(mine, nn.GroupNorm(4, 4, affine=mine is norm), x)
    assert called == {"_Normalized"}


def test_the_norm_of_a_batch(called):
    norm = BatchNorm(4)
    nn.init.normal_(norm.weight, 1)
    nn.init.normal_(norm.bias)
    assert_equal_to(norm, nn.BatchNorm2d(4, track_running_stats=False), 5 * torch.randn(3, 4, 7, 6) + 2)
    assert called == {"_Normalized"}


@over(offset=[0.0, 20.0])
def test_statistics_of_bf16_maps_are_fp32(offset):
    """The result is the exact one, rounded to bf16: relative 2^-9 at most, and less in the root mean square."""
    x = (torch.randn(2, 16, 64, 64) + offset).bfloat16()
    exact, gradient = F.instance_norm(x.double()), torch.randn(x.shape).bfloat16()
    leaf, exact_leaf = x.to(memory_format=LAST).requires_grad_(), x.double().requires_grad_()
    (found,) = torch.autograd.grad(InstanceNorm(16)(leaf), leaf, gradient)
    (wanted,) = torch.autograd.grad(F.instance_norm(exact_leaf), exact_leaf, gradient.double())
    assert (InstanceNorm(16)(leaf) - exact).norm() < 0.002 * exact.norm()
    assert (found - wanted).norm() < 0.002 * wanted.norm()


def test_in_bf16_all_maps_keep_their_layout():
    """No operation of a step mixes layouts, which some kernels take twenty times as long for."""
    network = nn.Sequential(
        Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), Conv2d(16, 32, 4, 2, 1), InstanceNorm(32), nn.LeakyReLU(0.2),
        ConvTranspose2d(32, 16, 4, 2, 1), BatchNorm(16), nn.ReLU(), ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip
    Runtime(torch.device("cpu"), torch.bfloat16).place(network)
    layouts = []
    for layer in network:
        layer.register_forward_hook(lambda _, inputs, out: layouts.append((inputs[0], out)))
        layer.register_full_backward_hook(lambda _, inputs, outs: layouts.append((inputs[0], outs[0])))
    network(torch.randn(2, 3, 16, 16, requires_grad=True)).square().sum().backward()
    maps = [x for pair in layouts for x in pair]
    assert len(maps) == 4 * len(network)
    assert all(x.is_contiguous(memory_format=LAST) for x in maps)
    assert all(p.grad.stride() == p.stride() for p in network.parameters())


def test_adam_in_channels_last_is_adam():
    weights, gradients = torch.randn(5, 4, 3, 3), [torch.randn(5, 4, 3, 3) for _ in range(3)]

    def trained(kind, layout, other=None):
        """Train, and after the second step go on with gradients, and moments from a file, of another layout."""
        p = nn.Parameter(weights.clone(memory_format=layout))
        optimizer = kind([p], 0.1, betas=(0.5, 0.999), fused=True)
        for step, gradient in enumerate(gradients):
            if step == 2 and other is not None:
                state = optimizer.state_dict()
                for name in ("exp_avg", "exp_avg_sq"):
                    state["state"][0][name] = state["state"][0][name].clone(memory_format=other)
                optimizer.load_state_dict(state)
            p.grad = gradient.clone(memory_format=layout if other is None else other)
            optimizer.step()
        assert p.is_contiguous(memory_format=layout) and p.shape == weights.shape
        return p

    expected = trained(torch.optim.Adam, torch.contiguous_format)
    for layout in (torch.contiguous_format, LAST):
        for other in (None, torch.contiguous_format, LAST):
            assert torch.equal(trained(Adam, layout, other), expected)

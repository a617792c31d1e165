"""Precision: networks of any inputs and outputs run in bf16 and return fp32. And what only a GPU takes."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from img2img.runtime import device
from img2img.runtime.device import Runtime, map_tensors

CPU = torch.device("cpu")
IMAGE, NOISE = torch.randn(2, 3, 8, 8), torch.randn(2, 100)
LABEL = torch.tensor([0, 4])


class Pair(NamedTuple):
    image: torch.Tensor
    logits: torch.Tensor


class Spy(nn.Module):
    """Return its inputs multiplied by a weight, in the structure that `shape` makes of them."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8))
        self.shape, self.seen = shape, []

    def forward(self, *inputs, **conditions):
        self.seen = [*inputs, *conditions.values()]
        products = [x @ self.weight for x in self.seen if isinstance(x, torch.Tensor) and x.shape[-1] == 8]
        self.dtypes = {x.dtype for x in products}
        return self.shape(products, LABEL)


SHAPES = {
    "tensor": lambda products, label: products[0],
    "tuple": lambda products, label: (products[0], label),
    "list": lambda products, label: [products[0], [label]],
    "dict": lambda products, label: {"image": products[0], "more": {"label": label, "nothing": None}},
    "named tuple": lambda products, label: Pair(products[0], label),
}


def prepared(network):
    Runtime(CPU, torch.bfloat16).place(network)
    return network


def test_floating_outputs_are_fp32_in_any_structure():
    wrong = []
    for name, shape in SHAPES.items():
        network = prepared(Spy(shape))
        out, plain = network(IMAGE), shape([IMAGE], LABEL)
        kinds = map_tensors(lambda x: getattr(x, "dtype", None), plain)
        same = type(out) is type(plain) and map_tensors(lambda x: getattr(x, "dtype", None), out) == kinds
        if not same or network.dtypes != {torch.bfloat16}:
            wrong.append(name)
    assert not wrong


def test_inputs_of_any_number_and_dimensions():
    network, rows = prepared(Spy(SHAPES["tensor"])), torch.randn(2, 8)
    calls = {
        "an image": ((IMAGE,), {}),
        "rows, noise, label": ((rows, NOISE, LABEL), {}),
        "keywords": ((IMAGE,), {"z": NOISE, "label": LABEL}),
        "a list": ((IMAGE, [NOISE, LABEL]), {}),
        "none": ((IMAGE, None, 3), {}),
    }
    for name, (inputs, conditions) in calls.items():
        network(*inputs, **conditions)
        for given, seen in zip([*inputs, *conditions.values()], network.seen, strict=True):
            if isinstance(given, torch.Tensor):
                assert torch.equal(given, seen) and given.dtype == seen.dtype, name
                assert given.dim() != 4 or seen.is_contiguous(memory_format=torch.channels_last), name
            else:
                assert map_tensors(id, given) == map_tensors(id, seen), name


def test_labels_keep_their_values_and_type():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.layer = nn.Embedding(5, 100), nn.Linear(100, 4)

        def forward(self, z, label):
            return self.layer(z + self.embedding(label))

    torch.manual_seed(0)
    network = Labelled()
    expected = network(NOISE, LABEL)
    out = prepared(network)(NOISE, label=LABEL)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=0.05, rtol=0.05)
    out.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_one_image_in_one_image_out_is_as_before(precision):
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        expected = network(IMAGE.contiguous(memory_format=torch.channels_last)).float()
    Runtime(CPU, precision).place(network)
    out = network(IMAGE)
    torch.testing.assert_close(out, expected, atol=0 if precision is torch.bfloat16 else 1e-6, rtol=0)


# What only CUDA takes, as far as a machine without it can tell


def test_a_gpu_is_named_in_the_record_of_results(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device.index}")
    assert device.machine(torch.device("cuda", 1)) == {"device": "NVIDIA 1", "processor": None}
    assert device.machine(torch.device("mps")) == {"device": "mps", "processor": None}
    assert device.machine(CPU)["processor"].split()[0] == torch.backends.cpu.get_cpu_capability()


def test_random_states_of_gpus_are_restored_if_there_are_as_many(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor([1]), torch.tensor([2])])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    state = device.random_state()
    for gpus in (2, 1):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        device.set_random_state(state)
    assert [[int(x) for x in states] for states in restored] == [[1, 2]]

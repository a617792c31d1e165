"""Gradients averaged over processes while going back: every process gets the same mean, of every parameter."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from img2img.core.method import Image, Method, Use, adam
from img2img.core.needs import Facts
from img2img.runtime import averaging


def network():
    torch.manual_seed(0)
    layers = nn.ModuleDict({"used": nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), "idle": nn.Linear(2, 2)})
    layers["used"][1].to(memory_format=torch.channels_last)
    return layers


def images(rank):
    return torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(rank))


def work(rank, folder, bucket_bytes):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    averaging.BUCKET_BYTES = bucket_bytes
    sent, send = [], averaging._Bucket.send

    def counted(bucket):
        send(bucket)
        sent.append(bucket)

    averaging._Bucket.send = counted
    layers = network()
    kept = layers["used"] if bucket_bytes == 1 else layers  # a bucket for each parameter, or one for all
    parameters = list(kept.parameters())
    with averaging.averaged_gradients(parameters):
        layers["used"](images(rank)).square().mean().backward()
        early = len(sent)
    same_layout = all(p.stride() == p.grad.stride() for p in parameters)
    torch.save(([p.grad.contiguous() for p in parameters], early, len(sent), same_layout), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("bucket_bytes", [1, 2**20])
def test_the_mean_over_two_processes(tmp_path, bucket_bytes):
    mp.spawn(work, (str(tmp_path), bucket_bytes), nprocs=2)
    layers = network()
    for rank in range(2):
        (layers["used"](images(rank)).square().mean() / 2).backward()
    used = [p.grad.contiguous() for p in layers["used"].parameters()]
    for rank in range(2):
        gradients, early, sent, same_layout = torch.load(tmp_path / f"{rank}.pt")
        assert same_layout
        for got, wanted in zip(gradients, used, strict=False):
            torch.testing.assert_close(got, wanted)
        if bucket_bytes == 1:
            assert early == 4 and sent == 4  # all were on their way before the backward pass had ended
        else:
            assert early == 0 and sent == 1  # one bucket, which waits for what gets no gradient
            assert all(not x.any() for x in gradients[len(used) :]) and len(gradients) == len(used) + 2


def test_a_single_process_averages_nothing():
    layers = network()
    with averaging.averaged_gradients(list(layers.parameters())):
        layers["used"](images(0)).sum().backward()
    assert layers["idle"].weight.grad is None and layers["used"][0].weight.grad is not None


class Game(Method):
    """Two generators that share an encoder, a head that is not kept, and a scalar that follows from the batches."""

    @staticmethod
    def build(config, facts):
        encoder = nn.Conv2d(3, 4, 3)
        return {name: Use(nn.Sequential(encoder, nn.Conv2d(4, 3, 3)), (Image("a"),), "b") for name in ("a2b", "b2a")}

    def __init__(self):
        super().__init__(None, Facts(9, {"a": 3, "b": 3}))
        self.g, self.f = (use.network for use in self.uses.values())
        self.head = nn.Conv2d(3, 1, 1)
        self.register_buffer("k", torch.zeros(()))
        self.player("G", self.g, self.f, self.head, lr=0.1, optimizer=adam(0.5))

    def step(self, batches):
        x = next(batches)["a"]
        loss = self.head(self.g(x) + self.f(x)).square().mean()
        self.move("G", loss)
        self.k += 0.5 * averaging.averaged(loss)
        return {}


def play(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    game = Game()
    for step in range(3):
        game.step(iter([{"a": images(2 * step + rank)}]))
    torch.save(game.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_state_of_a_method_is_equal_in_all_processes(tmp_path):
    mp.spawn(play, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    alone = Game()
    parameters = alone.parameters_of("G")
    assert len(parameters) == len({id(p) for p in parameters}) == 2 + 2 + 2 + 2
    for step in range(3):
        alone.step(iter([{"a": torch.cat([images(2 * step), images(2 * step + 1)])}]))
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert alone.k > 0 and states[0].keys() == alone.state_dict().keys()
    for name, x in alone.state_dict().items():
        assert torch.equal(states[0][name], states[1][name]), name
        torch.testing.assert_close(states[0][name], x, atol=1e-5, rtol=1e-4)


def test_a_value_of_a_single_process_is_its_own_mean():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.equal(averaging.averaged(x), x) and not averaging.averaged(x).requires_grad

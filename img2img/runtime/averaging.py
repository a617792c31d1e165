"""Training in several processes: gradients averaged during the backward pass, and the state that all must agree on.

All processes hold the same players. They draw the same initial weights, and each sees its own batches. What keeps them
equal is that whatever changes a player is computed from values that are the same in all processes:

- gradients, by `averaged_gradients`, for all parameters of the player that moves, kept in the model file or not;
- batch statistics, by the norms themselves (`networks.layers`);
- any other state that follows from a batch, e.g. BEGAN's scalar k, by `averaged`: `k += rate * averaged(balance)`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from img2img.runtime.device import several_processes

BUCKET_BYTES = 25 * 2**20


@torch.no_grad()
def averaged(x: Tensor) -> Tensor:
    """Return the mean of `x` over all processes, which all of them must ask for; `x` itself if there is only one."""
    if not several_processes():
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@contextlib.contextmanager
def averaged_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Replace each gradient of `parameters` by its mean over all processes, around a backward pass.

    Gradients travel in buckets, from the last parameter to the first, which is about the order in which they are
    computed: each bucket as soon as it is complete and those before it are under way (Li et al. 2020, "PyTorch
    Distributed", section 3.2). A missing gradient counts as zero; a parameter that is listed twice is sent once.
    """
    if not several_processes():
        yield
        return
    buckets = list(_buckets(list(dict.fromkeys(parameters))))
    waiting = buckets.copy()

    def arrived(bucket: _Bucket, _: Tensor) -> None:
        bucket.missing -= 1
        while waiting and not waiting[0].missing:  # in the same order in all processes
            waiting.pop(0).send()

    hooks = [
        p.register_post_accumulate_grad_hook(partial(arrived, bucket))  # type: ignore[no-untyped-call]
        for bucket in buckets
        for p in bucket.parameters
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for bucket in waiting:
        bucket.send()
    for bucket in buckets:
        bucket.receive()


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)

    def send(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        self.flat = torch.cat([g.flatten() for g in gradients])
        self.work = dist.all_reduce(self.flat, async_op=True)

    def receive(self) -> None:
        assert self.work is not None
        self.work.wait()
        self.flat /= dist.get_world_size()
        parts = torch.split(self.flat, [p.numel() for p in self.parameters])
        for p, mean in zip(self.parameters, parts, strict=True):
            # an optimizer needs parameter and gradient in the same layout
            p.grad = mean.view_as(p) if p.is_contiguous() else torch.empty_like(p).copy_(mean.view_as(p))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[_Bucket]:
    bucket: list[nn.Parameter] = []
    for p in reversed(parameters):
        bucket.append(p)
        if sum(q.numel() * q.element_size() for q in bucket) >= BUCKET_BYTES:
            yield _Bucket(bucket)
            bucket = []
    if bucket:
        yield _Bucket(bucket)

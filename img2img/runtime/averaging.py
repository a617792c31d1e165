"""Gradients averaged over processes, on their way while the backward pass goes on."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from img2img.runtime.device import several_processes

BUCKET_BYTES = 25 * 2**20


@contextlib.contextmanager
def averaged_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Around a backward pass: each gradient of `parameters` becomes its mean over all processes.

    They travel in buckets, from the last parameter to the first, which is about the order in which they come: each
    bucket as soon as it is complete and those before it have gone (Li et al. 2020, "PyTorch Distributed", section 3.2).
    What gets no gradient counts as zero.
    """
    if not several_processes():
        yield
        return
    buckets = list(_buckets(parameters))
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
            # an optimizer wants both in the same layout
            p.grad = mean.view_as(p) if p.is_contiguous() else torch.empty_like(p).copy_(mean.view_as(p))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[_Bucket]:
    some: list[nn.Parameter] = []
    for p in reversed(parameters):
        some.append(p)
        if sum(q.numel() * q.element_size() for q in some) >= BUCKET_BYTES:
            yield _Bucket(some)
            some = []
    if some:
        yield _Bucket(some)

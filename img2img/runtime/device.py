"""Everything about a run that is not mathematics: device, precision, seeds, processes, memory."""

import atexit
import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from img2img.errors import ConfigError, choose

PRECISIONS = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Runtime:
    """Where and how a run computes.

    Attributes:
        device: the device of this process.
        dtype: type of the networks' products; parameters, losses and norm statistics stay in fp32.
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world_size: int = 1

    @classmethod
    def start(cls, device: str = "auto", precision: str = "auto") -> "Runtime":
        """Picks device and precision, and joins the other processes when started by `torchrun`."""
        world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        chosen = pick_device(device)
        if chosen.type == "cuda" and chosen.index is None:
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(chosen)
        if world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
            atexit.register(dist.destroy_process_group)
        if chosen.type == "cpu":
            keep_freed_memory()
        return cls(chosen, pick_precision(precision, chosen), rank, world_size)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def precision(self) -> str:
        return "bf16" if self.dtype is torch.bfloat16 else "fp32"

    def describe(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        processes = f", {self.world_size} processes" if self.world_size > 1 else ""
        return f"{name}, {self.precision}{processes}"

    def prepare(self, network: nn.Module) -> None:
        """Moves `network` to the device and makes its forward pass run in this precision, in place.

        In bf16 the forward pass takes its input to channels_last and returns fp32, so that whatever follows (the
        losses, the metrics) is computed in fp32.
        """
        network.to(self.device)
        if self.dtype is torch.bfloat16:
            if self.device.type == "cuda":  # on a CPU the large weights of small maps are faster as they are
                network.to(memory_format=torch.channels_last)
            forward = network.forward

            def forward_bf16(x: Tensor, *conditions: Tensor) -> Tensor:
                with torch.autocast(self.device.type, torch.bfloat16):
                    out: Tensor = forward(
                        x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, *conditions
                    )
                return out.float()

            network.forward = forward_bf16

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def largest(self, value: int) -> int:
        """The largest `value` of any process, for decisions that all must take alike."""
        if self.world_size == 1:
            return value
        values = torch.tensor(value, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values.item())


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return dist.is_initialized() and dist.get_world_size() > 1


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes the first of cuda, mps, cpu that is there.

    Raises:
        ConfigError: if there is no such device on this machine.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"'{name}' is not a device. Use auto, cpu, cuda, cuda:1 or mps.") from None
    there = present.get(device.type, False)
    if there and device.type == "cuda" and device.index is not None:
        there = device.index < torch.cuda.device_count()
    if not there:
        usable = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ConfigError(f"This machine has no device '{name}'. It has: {usable}.")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type to multiply in; "auto" takes bf16 where `device` multiplies it natively, else fp32."""
    dtype = choose("precision", name, PRECISIONS)
    if dtype is None:
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    return dtype


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has bf16 units: NVIDIA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
    return device.type == "cpu" and (has_amx() or _cpu_has("_is_avx512_bf16_supported", "BF16"))


def has_amx() -> bool:
    """Whether the CPU multiplies bf16 matrices in units of their own (Intel AMX)."""
    return _cpu_has("_is_amx_tile_supported", "AMX")


def _cpu_has(probe: str, name: str) -> bool:
    """What a probe of PyTorch says, unless ONEDNN_MAX_CPU_ISA forbids its use."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    allowed = limit in ("", "DEFAULT", "ALL") or name in limit or ("AMX" in limit and name == "BF16")
    return allowed and bool(getattr(torch.cpu, probe, lambda: False)())


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks instead of returning them to the kernel.

    A training step frees and takes the same gigabyte again; the page faults cost up to a quarter of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within the block, operations of this thread run on `count` threads; None leaves that as it is."""
    before = torch.get_num_threads()
    if count in (None, before):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(count: int) -> ThreadPoolExecutor:
    """A pool of `count` threads, the operations of each of which run on that thread alone."""
    before, ready = torch.get_num_threads(), threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # what is set holds for threads that have not asked yet, and from then on for this one
        ready.wait()

    pool = ThreadPoolExecutor(count, "img2img", begin)
    for _ in range(count):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


@contextlib.contextmanager
def deterministic(enabled: bool) -> Any:
    """Bit-equal results from equal seeds, also on CUDA, at some cost in speed."""
    before = torch.are_deterministic_algorithms_enabled()
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


_twice = ContextVar("differentiated twice", default=False)


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Let networks be differentiated twice within the block: compiled parts, which cannot, run eagerly there."""
    token = _twice.set(True)
    try:
        yield
    finally:
        _twice.reset(token)


def needs_second_derivative() -> bool:
    return _twice.get()


def random_state() -> dict[str, Any]:
    """The state of every generator the training draws from, as tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in tensors)


def environment() -> dict[str, str]:
    """Versions and hardware, for the record of a run."""
    from img2img.version import __version__

    return {
        "img2img": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "folder": Path.cwd().name,
    }

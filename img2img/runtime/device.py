"""Everything about a run that is not mathematics: device, precision, random states, processes, memory."""

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from img2img.errors import ConfigError, choose
from img2img.version import __version__

BF16_UNITS = (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "BF16"))  # of CPUs: probe and name
SOFTWARE = f"img2img {__version__}, PyTorch {torch.__version__.partition('+')[0]}"
PRECISIONS = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Runtime:
    """Where and how a run computes."""

    device: torch.device  # the device of this process
    dtype: torch.dtype  # type of the networks' products; parameters, losses and norm statistics stay in fp32
    rank: int = 0  # number of this process, from 0
    world_size: int = 1  # number of processes

    @classmethod
    def start(cls, device: str = "auto", precision: str = "auto") -> "Runtime":
        """Choose device and precision, and learn which of how many processes this is from `torchrun`, if it runs."""
        world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        chosen = pick_device(device)
        if chosen.type == "cuda" and chosen.index is None:
            index, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
            if index >= gpus:
                raise ConfigError(
                    f"Each process needs a GPU of its own, and this machine has {gpus}; give torchrun "
                    f"--nproc-per-node {gpus}."
                )
            chosen = torch.device("cuda", index)
            torch.cuda.set_device(chosen)
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

    def place(self, network: nn.Module) -> None:
        """Move `network` to the device and make its forward pass run in this precision, in place.

        The forward pass may have any inputs and outputs, also in tuples, lists and dicts. In bf16 it converts images
        to channels_last and returns fp32, so that whatever follows (losses, metrics) is computed in fp32; labels and
        other integers stay as they are. So does `encode`, of networks that have it; any other method runs in fp32.
        """
        network.to(self.device)
        if self.dtype is torch.bfloat16:
            network.to(memory_format=torch.channels_last)
            for name in ("forward", "encode"):
                if hasattr(network, name):
                    setattr(network, name, self._in_bf16(getattr(network, name)))

    def _in_bf16(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def forward_bf16(*inputs: Any, **conditions: Any) -> Any:
            inputs, conditions = map_tensors(_channels_last, inputs), map_tensors(_channels_last, conditions)
            with torch.autocast(self.device.type, torch.bfloat16):
                out = forward(*inputs, **conditions)
            return map_tensors(_fp32, out)

        return forward_bf16

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}

    def gather(self, value: Any) -> list[Any]:
        """Return the `value` of every process, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def largest(self, value: int) -> int:
        """Return the largest `value` of any process, for decisions that all must make alike."""
        if self.world_size == 1:
            return value
        values = torch.tensor(value, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values.item())


def map_tensors(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply `function` to every leaf of nested tuples, lists and dicts, and return them in the same structure."""
    if isinstance(value, dict):
        return {name: map_tensors(function, x) for name, x in value.items()}
    if isinstance(value, tuple | list):
        mapped = [map_tensors(function, x) for x in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return function(value)


def _is_float(x: Any) -> bool:
    """Return whether `x` is a floating-point tensor, or what stands for one, such as an image in tiles."""
    return hasattr(x, "is_floating_point") and bool(x.is_floating_point())


def _channels_last(x: Any) -> Any:
    return x.contiguous(memory_format=torch.channels_last) if _is_float(x) and x.dim() == 4 else x


def _fp32(x: Any) -> Any:
    return x.float() if _is_float(x) else x


def several_processes() -> bool:
    """Return whether this process trains together with others."""
    return dist.is_initialized() and dist.get_world_size() > 1


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first of cuda, mps and cpu that this machine has.

    Raises:
        ConfigError: if this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, usable in available.items() if usable))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"'{name}' is not a device. Use auto, cpu, cuda, cuda:1 or mps.") from None
    found = available.get(device.type, False)
    if found and device.type == "cuda" and device.index is not None:
        found = device.index < torch.cuda.device_count()
    if not found:
        devices = ", ".join(kind for kind, usable in available.items() if usable)
        raise ConfigError(f"This machine has no device '{name}'. It has: {devices}.")
    return device


def pick_devices(names: str) -> list[str]:
    """Return the devices in a list such as "cuda:0,cuda:1"; "all" are all GPUs of this machine.

    Raises:
        ConfigError: if this machine lacks one.
    """
    devices = [name.strip() for name in names.split(",")]
    if devices == ["all"]:
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if not devices:
            raise ConfigError("--device all is for machines with GPUs, and this one has none.")
    for name in devices:
        pick_device(name)
    return devices


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type to multiply in; "auto" is bf16 where `device` multiplies it natively, and fp32 elsewhere."""
    dtype = choose("precision", name, PRECISIONS)
    if dtype is None:
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    return dtype


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the hardware has bf16 units: NVIDIA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
    return device.type == "cpu" and any(_cpu_has(probe, name) for probe, name in BF16_UNITS)


def machine(device: torch.device) -> dict[str, str | None]:
    """Return what rounding depends on besides precision and threads: the GPU, or the instructions of the CPU."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "processor": None}
    units = [torch.backends.cpu.get_cpu_capability(), *(name for probe, name in BF16_UNITS if _cpu_has(probe, name))]
    return {"device": device.type, "processor": " ".join(units) if device.type == "cpu" else None}


def _cpu_has(probe: str, name: str) -> bool:
    """Return what a probe of PyTorch reports, or False if ONEDNN_MAX_CPU_ISA forbids the instructions."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    allowed = limit in ("", "DEFAULT", "ALL") or name in limit or ("AMX" in limit and name == "BF16")
    return allowed and bool(getattr(torch.cpu, probe, lambda: False)())


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of returning them to the kernel.

    Every training step frees and allocates the same gigabyte; the page faults would cost up to a quarter of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run operations of this thread on `count` threads within the block; None changes nothing."""
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
    """Return a pool of `count` threads that each run their operations on one thread."""
    before, ready = torch.get_num_threads(), threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # binds the setting to this thread; it still holds for threads that have not asked yet
        ready.wait()

    pool = ThreadPoolExecutor(count, "img2img", begin)
    for _ in range(count):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


@contextlib.contextmanager
def deterministic(enabled: bool) -> Any:
    """Give bit-equal results from equal seeds within the block, also on CUDA, at some cost in speed."""
    if not enabled:  # asking for nothing, too, would load PyTorch's compiler
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


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
    """Return the state of every random generator that training draws from, as tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is one of the ways in which PyTorch reports that memory is full."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all numbers are finite: the least and the greatest are, twenty times as fast as testing each."""
    return all(bool(torch.stack(torch.aminmax(x)).isfinite().all()) for x in tensors if x.numel())


def environment() -> dict[str, str]:
    """Return versions and hardware, for the record of a run."""
    return {
        "img2img": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "folder": Path.cwd().name,
    }

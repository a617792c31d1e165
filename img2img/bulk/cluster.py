"""A connection to Ray: quiet, without reports about its use, and on this machine closed to others."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from img2img.bulk.options import LOCAL, RayOptions
from img2img.errors import ConfigError, first_line, install_hint, quote

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # as Ray does by default on those systems
STORE_BYTES = 2**30  # for names and outcomes, and once for the model; taken as it is needed
PATIENCE = 5.0  # seconds to wait for the answer of a cluster


@contextmanager
def connected(options: RayOptions, devices: Sequence[str] = ()) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster of the options; one that was started for it ends with the block.

    Raises:
        ConfigError: if several devices were asked for, Ray is not installed, or the cluster does not answer.
    """
    if len(devices) > 1:
        raise ConfigError("Several --device have no effect with --ray, which gives each worker its GPU; name one kind.")
    address = options.ray or LOCAL
    if address != LOCAL:
        _refuse_silent(address)
    _set_environment(address == LOCAL)
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ConfigError(install_hint("--ray", str(error.name), "ray")) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():  # by the program that calls
        yield ray
        return
    chosen: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        count = options.ray_workers or cores() // options.ray_cpus or 1
        chosen |= {"num_cpus": count * options.ray_cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    with _signals_kept(), _stderr_closed():
        try:
            ray.init(address, **chosen)
        except Exception as error:  # Ray raises that class itself, of a node that takes too long to start
            reason = first_line(error).rstrip(".:")
            raise ConfigError(f"--ray {quote(address)}: Ray does not start: {reason}.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_workers(ray: Any, options: RayOptions, gpus: float) -> int:
    """Return the number of workers.

    Raises:
        ConfigError: if the cluster has no room for them.
    """
    needs = {"CPU": float(options.ray_cpus)} | ({"GPU": gpus} if gpus else {})
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(int(min(node.get(name, 0.0) / need for name, need in needs.items())) for node in alive)
    if room < max(1, options.ray_workers):
        kind = " and ".join(f"{need:g} {name}" for name, need in needs.items())
        raise ConfigError(
            f"--ray {quote(str(options.ray))} has room for {room} workers of {kind} each, not for "
            f"{options.ray_workers or 'any'}; give fewer --ray-workers, --ray-cpus or --ray-gpus."
        )
    return options.ray_workers or room


def _set_environment(is_local: bool) -> None:
    for name, value in (QUIET | (LOOPBACK if is_local else {})).items():
        os.environ.setdefault(name, value)


def _refuse_silent(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself would wait for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConfigError(f"--ray takes local, or an address such as 10.0.0.1:6379, not '{address[:60]}'.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"--ray {quote(address)}: there is no Ray cluster at this address: {reason}.") from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the handlers of signals that Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep what Ray's libraries say about their own logging off the terminal; what goes wrong is raised."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)

"""What works on this machine: versions, devices, precision, extras, plug-ins, weights; and the cures."""

import importlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import metadata
from operator import getitem
from pathlib import Path
from typing import Any, Literal

from img2img.errors import DISTRIBUTION, Img2ImgError, first_line, pip_install
from img2img.plugins import entries
from img2img.version import __version__

State = Literal["ok", "missing", "failed"]
OPTIONAL = re.compile(r"\bextra\s*==\s*['\"]([\w-]+)['\"]")
NAME = re.compile(r"[\w.-]+")
UNSEEN = ("test",)  # extras that no command asks for
STYLES = {"ok": "green", "missing": "yellow", "failed": "bold red"}
LITTLE = 2e9  # bytes on the disk, less than a run and its results easily fill


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: "ok"; "missing", of what is optional; or "failed".
        found: what was found, in a few words.
        cure: what to do about it, or "".
    """

    name: str
    state: State
    found: str
    cure: str = ""


def examine() -> Iterator[Check]:
    """Yield the result of every check as soon as it is known. Nothing is downloaded, and nothing stays on the disk."""
    yield Check("img2img", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    needed, extras = _requirements()
    yield from _needed(needed)
    yield from _devices()
    yield from _compiler()
    yield from _disk()
    for extra, names in extras.items():
        yield _extra(extra, names)
    yield from _plugins()
    yield from _weights()


def report(as_json: bool = False) -> bool:
    """Print the results of all checks as they come, or as JSON; return whether none failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    checks = []
    console = Console(highlight=False)
    for check in examine():
        checks.append(check)
        if not as_json:
            line = Table.grid(padding=(0, 1))
            line.add_row(Text(f"{check.state:7}", STYLES[check.state]), Text(f"{check.name}: {check.found}"))
            console.print(line)
            if check.cure:
                console.print(Text(f"{'':8}{check.cure}"), soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    return all(check.state != "failed" for check in checks)


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the distributions that the package needs, and those of each extra, as its metadata state them."""
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement, _, marker = line.partition(";")
        name, extra = NAME.match(requirement), OPTIONAL.search(marker)
        assert name
        if extra is None:
            needed.append(name[0])
        elif extra[1] not in UNSEEN:
            extras.setdefault(extra[1], []).append(name[0])
    return needed, extras


@cache
def _modules() -> dict[str, str]:
    """Return a module that each installed distribution brings, the one called like it if there is one."""
    modules: dict[str, str] = {}
    for module, distributions in metadata.packages_distributions().items():
        for name in {_plain(x) for x in distributions}:
            if name not in modules or _plain(module) == name or modules[name].startswith("_"):
                modules[name] = module
    return modules


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _import(name: str) -> str | None:
    """Return why a distribution cannot be used, or None."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"
    module = _modules().get(_plain(name))
    try:
        if module:
            importlib.import_module(module)
    except Exception as error:  # of a library that does not fit this machine, of any kind
        return f"cannot be imported: {first_line(error)}"
    return None


def _needed(names: list[str]) -> Iterator[Check]:
    broken = {name: reason for name in names if (reason := _import(name))}
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names if name not in broken)
    yield Check("libraries", "ok", versions)
    for name, reason in broken.items():
        cure = pip_install("--force-reinstall", DISTRIBUTION)
        if name in ("torch", "torchvision"):
            both = pip_install("--force-reinstall", "torch", "torchvision")
            cure = f"Install the two together, as they must fit: {both}"
        yield Check(name, "failed", reason, cure)


def _devices() -> Iterator[Check]:
    try:
        import torch

        from img2img.runtime.device import machine, multiplies_bf16, pick_device
    except Exception:  # said above
        return
    names = ["cpu"] + [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    for name in names:
        device = torch.device(name)
        precision = "bf16" if multiplies_bf16(device) else "fp32"
        seen = machine(device)
        if device.type == "cuda":
            text = f"{seen['device']}, {torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} GB"
        else:
            text = f"{torch.get_num_threads()} threads, {seen['processor']}" if name == "cpu" else "Apple"
        error = _attempt(partial(_step, device, precision))
        cure = "Use --precision fp32 or --device cpu, and see that driver and PyTorch fit." if error else ""
        yield Check(name, "failed" if error else "ok", error or f"{text}; one training step in {precision}", cure)
    try:
        yield Check("--device auto", "ok", str(pick_device("auto")))
    except Img2ImgError as error:
        yield Check("--device auto", "failed", str(error))
    if names == ["cpu"] and shutil.which("nvidia-smi"):
        built = torch.version.cuda or "none"
        yield Check(
            "GPU",
            "failed",
            f"This machine has the driver of an NVIDIA GPU, which PyTorch (built for CUDA {built}) does not use",
            "Install the build of PyTorch for this driver, as pytorch.org/get-started says.",
        )


def _step(device: Any, precision: str) -> None:
    """Train pix2pix for one step, of images of 16 x 16."""
    import torch

    from img2img.core.needs import Facts
    from img2img.methods import METHODS
    from img2img.runtime.device import PRECISIONS, Runtime

    cls = METHODS["pix2pix"]
    facts = Facts(16, {"a": 3, "b": 3})
    config = cls.Config(generator="resnet_6", width=4, discriminator="pixel")
    method = cls(cls.resolve(config, facts), facts)
    runtime = Runtime(device, PRECISIONS[precision] or torch.float32)
    for network in method.children():
        runtime.place(network)
    batch = {domain: torch.zeros(1, 3, 16, 16, device=device) for domain in "ab"}
    scalars = method.step(iter([batch]))
    if not all(torch.isfinite(torch.as_tensor(x)).all() for x in scalars.values()):
        raise Img2ImgError("A training step gave values that are not finite.")


def _attempt(function: Callable[[], Any]) -> str:
    """Return why a function failed, or ""."""
    try:
        function()
    except Exception as error:  # of a driver or a library, of any kind
        return first_line(error)
    return ""


def _compiler() -> Iterator[Check]:
    compiler = os.environ.get("CXX") or next((x for x in ("c++", "g++", "clang++", "cl") if shutil.which(x)), None)
    if compiler:
        yield Check("--compile", "ok", f"on a CPU by {compiler}")
    else:
        yield Check(
            "--compile", "missing", "no C++ compiler for a CPU", "Install g++ or clang; only --compile needs it."
        )


def _disk() -> Iterator[Check]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    found = f"{free / 1e9:.1f} GB free"
    if not os.access(here, os.W_OK):
        yield Check("this folder", "failed", "cannot be written", "Change to a folder of yours, or give --out.")
    elif free < LITTLE:
        yield Check("this folder", "failed", found, "Make room, or give --out on another disk.")
    else:
        yield Check("this folder", "ok", found)
    shared = Path("/dev/shm")
    if sys.platform == "linux" and shared.is_dir():
        free = shutil.disk_usage(shared).free
        cure = "" if free > LITTLE else "Give the container more (--shm-size 4g), or use fewer --workers."
        yield Check("shared memory", "ok" if not cure else "missing", f"{free / 1e9:.1f} GB free", cure)


def _extra(extra: str, names: list[str]) -> Check:
    reasons = {name: reason for name in names if (reason := _import(name))}
    if not reasons:
        return Check(f"[{extra}]", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    installed = any("imported" in reason for reason in reasons.values())
    found = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    return Check(f"[{extra}]", "failed" if installed else "missing", found, pip_install(extra=extra))


def _plugins() -> Iterator[Check]:
    """Yield what each plug-in has, and what of it cannot be used."""
    packages: dict[str, list[tuple[str, str]]] = {}
    for group, name, package in entries():
        packages.setdefault(package, []).append((group.removesuffix("s"), name))
    if not packages:
        return
    from img2img.methods import METHODS
    from img2img.model.plugged import TABLES

    tables = TABLES | {"method": METHODS}
    for package, content in packages.items():
        found = ", ".join(f"{option} {name}" for option, name in content)
        reasons = [
            TABLES[option].faults().get(name) or _attempt(partial(getitem, tables[option], name))
            for option, name in content
        ]
        wrong = " ".join(filter(None, reasons))
        cure = pip_install("--upgrade", package.partition(" ")[0]) if wrong else ""
        yield Check(f"plug-in {package}", "failed" if wrong else "ok", wrong or found, cure)


def _weights() -> Iterator[Check]:
    """Yield which weights of published networks, which some metrics need, lie in torch's cache."""
    try:
        import torch
        import torchvision
    except Exception:  # said above
        return
    from img2img.metrics.perceptual import BACKBONES

    models = torchvision.models
    urls = {f"lpips[{name}]": models.get_model_weights(x).DEFAULT.url for name, x in BACKBONES.items()}
    with suppress(Exception):  # said above
        urls["fid, kid"] = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").URL_INCEPTION_V3
    for name, url in urls.items():
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if path.is_file():
            yield Check(f"weights of {name}", "ok", str(path))
        else:
            yield Check(f"weights of {name}", "missing", "not on this machine", f"Download {url} to {path}.")

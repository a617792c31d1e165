"""The training of a network on the scaled images of all batches.

Images here are float32 (C, H, W), scaled so that the range the equalizer was fitted to fills [-1, 1]; nothing is
clipped.
"""

import contextlib
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from img2img.core.method import Method
from img2img.data.images import Array
from img2img.data.scale import Scale
from img2img.errors import ConfigError, Interrupted
from img2img.lab.networks import models
from img2img.lab.networks.applying import build_generator
from img2img.lab.networks.patches import Patches, Sides
from img2img.model.file import Direction, ModelCard
from img2img.runs.folder import begun, has_results, refuse_foreign
from img2img.runs.record import OPERATIONAL
from img2img.runtime.device import Runtime, environment
from img2img.runtime.records import read_record
from img2img.training.config import TrainConfig
from img2img.training.loop import Run, Samples, train


def train_generator(
    model: str,
    images: Sequence[Array],
    batch_index: Sequence[int],
    names: Sequence[str],
    target: int,
    folder: Path | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = True,
) -> nn.Module:
    """Train the generator of an adversarial model; the global random state is left as it was.

    Args:
        model: "local", "stargan" or "cyclegan".
        images: float32 (C, H, W), scaled to about [-1, 1] and, if the model starts there, mapped by their tone curves;
            of any size that holds a patch.
        batch_index: the batch of each image, as an index into `names`.
        names: the batches.
        target: the batch that the others are moved to; "stargan" learns all targets at once.
        folder: of the run: log.jsonl, samples, report.html, last.pt, model.safetensors. The same call on the same
            folder resumes a stopped run. None for a temporary folder.
        options: any option of the model's config and of `TrainConfig`, and `patch`; they override the defaults.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        quiet: do not show progress on the screen.

    Returns:
        The generator, in evaluation mode on the CPU; for `bind`.

    Raises:
        ConfigError: if an option is unknown or does not fit the data, or the folder holds another run.
        Interrupted: after a signal to stop, once everything is saved.
    """
    network = models.network(model)
    chosen = network.with_defaults(options)
    if not network.is_translation and not (options or {}).get("batch_size"):
        chosen["batch_size"] = max(chosen["batch_size"], len(names))
    _check_batches(network, names, batch_index, chosen["batch_size"])
    config = network.config(chosen, len(names), target)
    training = TrainConfig(seed=seed, device=device, **models.chosen_for(TrainConfig, chosen))
    patches = Patches(images, batch_index, chosen["patch"], seed)
    data: Samples = Sides(patches, target) if network.is_translation else patches
    channels = len(images[0])
    runtime = Runtime.start(device, training.precision)
    record = {
        "model": model, "names": list(names), "target": names[target], "seed": seed, "options": chosen | asdict(config),
        "images": f"{len(images)}, checksum {_checksum(images, batch_index):08x}",
    }  # fmt: skip
    cuda = [runtime.device] if runtime.device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        kept = folder is not None
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(torch.random.fork_rng(cuda))
        torch.manual_seed(seed)
        domains = ("a", "b") if network.is_translation else ("image",)
        method = network.method(config, dict.fromkeys(domains, channels))
        _refuse_small_patches(method, chosen["patch"])
        if runtime.is_main:
            stack.enter_context(begun(folder, partial(_entry, folder, record)))
        facts = {"method": model, "batches": ", ".join(names)} | {k: record[k] for k in ("target", "images", "seed")}
        facts |= {"foreground in common": f"{patches.overlap:.0%}"}
        facts |= {"options": ", ".join(f"{k} {v}" for k, v in chosen.items())}
        hint = f"fit again with the same data and the folder {folder}"
        card = _card_of(method, model, channels, chosen["patch"])
        run = Run(folder, card, facts, hint, spelling="--train {name}={value}")
        try:
            train(method, data, None, training, run, runtime, quiet)
        except Interrupted as stop:
            if kept:
                raise
            raise Interrupted("Stopped; nothing is kept, as no folder was given to keep it in.", stop.signal) from None
        generator = build_generator(model, chosen, channels, len(names))
        weights = load_file(folder / "model.safetensors")  # the moving average, which `method` does not hold
    prefix = f"{next(iter(method.generators))}."
    generator.load_state_dict({k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)})
    return generator.eval()


def _check_batches(network: models.Network, names: Sequence[str], batch_index: Sequence[int], batch_size: int) -> None:
    """Raise ConfigError unless these batches can be trained on."""
    count = len(names)
    empty = [name for i, name in enumerate(names) if i not in set(batch_index)]
    if empty:
        raise ConfigError(f"There are no images of {', '.join(empty)}; leave the name out, or add images.")
    if network.is_translation and count != 2:
        raise ConfigError(f"{network.name} equalizes exactly two batches, not {count}. Use local or stargan.")
    if count < 2:
        raise ConfigError("There is only one batch; an adversarial model needs at least two.")
    if not network.is_translation and batch_size < count:
        raise ConfigError(f"batch_size {batch_size} cannot hold a patch of each of the {count} batches.")


def _refuse_small_patches(method: Method, patch: int) -> None:
    multiple = max(getattr(method, attribute).multiple for _, _, attribute in method.generators.values())
    smallest = max(getattr(network, "min_size", 1) for network in method.networks().values())
    if patch % multiple or patch < smallest:
        raise ConfigError(
            f"patch {patch} does not suit the networks; use a multiple of {multiple} that is at least {smallest}."
        )


def _checksum(images: Sequence[Array], batch_index: Sequence[int]) -> int:
    value = zlib.crc32(np.asarray(batch_index, np.int64).tobytes())
    for image in images:
        value = zlib.crc32(np.ascontiguousarray(image).tobytes(), value)
    return value


@dataclass(frozen=True)
class _Record:
    """The content of a training's config.json."""

    model: str
    names: list[str]
    target: str
    seed: int
    options: dict[str, Any]
    images: str


def _entry(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the content of config.json; refuse a folder that holds another run, or something else."""
    refuse_foreign(folder, None)
    path = folder / "config.json"
    if path.exists() and has_results(folder):
        settings = [
            {**r, "options": {k: v for k, v in r["options"].items() if k not in OPERATIONAL}}
            for r in (read_record(_Record, path), record)
        ]
        differing = [k for k in record if settings[0].get(k) != settings[1].get(k)]
        if differing:
            raise ConfigError(f"{folder} holds a run with different {', '.join(differing)}. Use another folder.")
    return record | {"environment": environment()}


def _card_of(method: Method, model: str, channels: int, patch: int) -> Callable[[int], ModelCard]:
    scale = Scale(-1, 1, "float32")
    directions = {name: Direction(channels, channels, scale, scale) for name in method.generators}
    return lambda step: ModelCard(model, asdict(method.config), directions, patch, step, environment()["img2img"])

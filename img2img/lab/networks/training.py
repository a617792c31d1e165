"""The training of a network on the scaled images of all batches."""

import contextlib
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from img2img.data.picture import Array
from img2img.data.scale import Scale
from img2img.errors import ConfigError, Interrupted
from img2img.lab.networks import models
from img2img.lab.networks.patches import Patches, Sides
from img2img.model.file import load_use, read_card
from img2img.runs.facts import RunFacts
from img2img.runs.folder import RunFolder
from img2img.runs.record import OPERATIONAL
from img2img.runtime import peers
from img2img.runtime.device import Runtime, environment
from img2img.runtime.records import read_record
from img2img.training.config import TrainConfig
from img2img.training.loop import Samples, Trainer
from img2img.training.run import Run, card_of
from img2img.training.sizes import refuse_wrong_size


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
) -> nn.Module:
    """Train the generator of an adversarial model; the global random state is left as it was.

    Args:
        model: one of `models.NETWORKS`.
        images: float32 (C, H, W), scaled so that the range the equalizer was fitted to fills [-1, 1], not clipped, and
            mapped by their tone curves if the model starts there; of any size that holds a patch.
        batch_index: the batch of each image, as an index into `names`.
        names: the batches.
        target: the batch that the others are moved to; "stargan" learns all targets at once.
        folder: of the run: log.jsonl, samples, report.html, last.pt, model.safetensors. The same call on the same
            folder resumes a stopped run. None for a temporary folder.
        options: any option of the model's config and of `TrainConfig`, and `patch`; they override the defaults.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".

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
    config = network.config(chosen, names[target])
    training = TrainConfig(seed=seed, device=device, **models.chosen_for(TrainConfig, chosen))
    patches = Patches(images, batch_index, chosen["patch"], seed)
    data: Samples = Sides(patches, target) if network.is_translation else patches
    runtime = Runtime.start(device, training.precision)
    record = {
        "model": model, "names": list(names), "target": names[target], "seed": seed, "options": chosen | asdict(config),
        "images": f"{len(images)}, checksum {_checksum(images, batch_index):08x}",
    }  # fmt: skip
    cuda = [runtime.device] if runtime.device.type == "cuda" else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(peers.together())
        peers.meet(runtime)
        kept = folder is not None
        files = RunFolder(folder or Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(torch.random.fork_rng(cuda))
        torch.manual_seed(seed)
        method = network.method(config, network.facts(len(images[0]), names, chosen["patch"]))
        refuse_wrong_size(method, chosen["patch"], option="patch")
        if runtime.is_main:
            stack.enter_context(files.held(partial(_entry, files, record)))
        scales = dict.fromkeys(method.facts.channels, Scale(-1, 1, "float32"))
        notes = {"batches": ", ".join(names), "target": names[target], "patches": str(record["images"])}
        notes |= {"seed": str(seed), "foreground in common": f"{patches.overlap:.0%}"}
        facts = RunFacts(method=model, kinds=method.all_kinds, equalizer=True, notes=notes)
        hint = f"fit again with the same data and the folder {files.path}"
        run = Run(files, card_of(model, method, scales), facts, hint, spelling="--train {name}={value}")
        try:
            Trainer(method, data, None, training, run, runtime, quiet=True).run_to_the_end()
        except Interrupted as stop:
            if kept:
                raise
            raise Interrupted("Stopped; nothing is kept, as no folder was given to keep it in.", stop.signal) from None
        # the file holds the moving average, which `method` does not
        return load_use(files.model, read_card(files.model), next(iter(method.uses))).network


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


def _entry(files: RunFolder, record: dict[str, Any]) -> dict[str, Any]:
    """Return the content of config.json; refuse a folder that holds another run, or something else."""
    files.refuse_foreign(None)
    if files.config.exists() and files.has_results():
        settings = [
            {**r, "options": {k: v for k, v in r["options"].items() if k not in OPERATIONAL | {"batches", "reference"}}}
            for r in (read_record(_Record, files.config), record)
        ]
        differing = [k for k in record if settings[0].get(k) != settings[1].get(k)]
        if differing:
            raise ConfigError(f"{files.path} holds a run with different {', '.join(differing)}. Use another folder.")
    return record | {"environment": environment()}

"""The adversarial models of the equalizer: from scaled images to a trained network, and from that to pixels.

Images here are float32 (C, H, W), scaled so that what the equalizer was fitted to fills [-1, 1]; nothing is clipped.
"""

import contextlib
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from img2img.core.method import Method
from img2img.core.needs import Facts
from img2img.data.images import Array
from img2img.data.scale import Scale
from img2img.errors import ConfigError, Interrupted, choose
from img2img.lab.patches import Patches, Sides
from img2img.model.file import ModelCard
from img2img.model.tiling import Lazy, Memory, Span
from img2img.options.declared import Option, Within, option, options_in
from img2img.runs.facts import facts_of
from img2img.runs.folder import RunFolder, begun, has_results, refuse_foreign
from img2img.runs.record import OPERATIONAL
from img2img.runtime.device import Runtime, environment, pick_device
from img2img.runtime.records import read_record
from img2img.training.config import TrainConfig
from img2img.training.loop import Samples, train
from img2img.training.state import Run
from img2img.translation.cyclegan import CycleGAN
from img2img.translation.local import Local
from img2img.translation.stargan import StarGAN

ADVERSARIAL: dict[str, type[Method]] = {"local": Local, "stargan": StarGAN, "cyclegan": CycleGAN}

# What a CPU does in minutes. `patch` is the side of the training patches in pixels. A training batch holds a patch of
# each batch at least, so where there are many, `batch_size` is their number.
COMMON: dict[str, Any] = {
    "workers": 0,
    "precision": "fp32",
    "compile": "off",
    "log_every": 20,
    "sample_every": 500,
    "save_every": 500,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "local": COMMON | {"steps": 800, "batch_size": 12, "patch": 48, "ema": 0.99},
    "stargan": COMMON
    | {"steps": 200, "batch_size": 8, "patch": 64, "ema": 0.99}
    | {"width": 16, "blocks": 3, "d_width": 16, "d_layers": 4},
    "cyclegan": COMMON
    | {"steps": 600, "batch_size": 4, "patch": 64, "ema": 0.99}
    | {"generator": "resnet_3", "width": 16, "norm": "none", "upsample": "resize"}
    | {"discriminator": "patch_34", "d_width": 16},
}
GIVEN = {"reference", "seed", "device", "epochs"}  # known from the data, or arguments of their own
UNUSED = {"metrics", "select", "patience", "validate_every"}  # no patches are held out
PATCH = Annotated[int, "Side of the training patches in pixels.", Within(1, 2**14)]


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
    """Trains the generator of an adversarial model; the global random state stays as it was.

    Args:
        model: "local", "stargan" or "cyclegan".
        images: float32 (C, H, W), scaled to about [-1, 1] and, if the model is to start there, through their tone
            curves; of any size from the patch on.
        batch_index: the batch of each image, as an index into `names`.
        names: the batches.
        target: the batch that the others are led to; "stargan" learns all targets at once.
        folder: of the run: log.jsonl, samples, report.html, last.pt, model.safetensors. The same call on the same
            folder goes on where a stopped run was. None: a temporary folder.
        options: any option of the model's config and of `TrainConfig`, and `patch`; over `DEFAULTS[model]`.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        quiet: no progress on the screen.

    Returns:
        The generator, in evaluation mode on the CPU; for `bind`.

    Raises:
        ConfigError: if an option is unknown or does not fit the data, or the folder holds another run.
        Interrupted: after a signal to stop, when everything is saved.
    """
    method_class = choose("adversarial model", model, ADVERSARIAL)
    chosen = _options(model, options)
    if model != "cyclegan" and not (options or {}).get("batch_size"):
        chosen["batch_size"] = max(chosen["batch_size"], len(names))
    _check_batches(model, names, batch_index, chosen)
    config = _config(model, chosen, names[target])
    training = TrainConfig(seed=seed, device=device, **_those_of(TrainConfig, chosen))
    patches = Patches(images, batch_index, chosen["patch"], seed)
    data: Samples = Sides(patches, target) if model == "cyclegan" else patches
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
        method = method_class(config, _facts(model, channels, names, chosen["patch"]))
        _refuse_small_patches(method, chosen["patch"])
        if runtime.is_main:
            stack.enter_context(begun(folder, partial(_entry, folder, record)))
        facts = {"method": model, "batches": ", ".join(names)} | {k: record[k] for k in ("target", "images", "seed")}
        facts |= {"foreground in common": f"{patches.overlap:.0%}"}
        facts |= {"options": ", ".join(f"{k} {v}" for k, v in chosen.items())}
        hint = f"fit again with the same data and the folder {folder}"
        card = _card_of(method, model)
        run = Run(RunFolder(folder), card, facts_of(facts), hint, spelling="--train {name}={value}")
        try:
            train(method, data, None, training, run, runtime, quiet)
        except Interrupted as stop:
            if kept:
                raise
            raise Interrupted("Stopped; nothing is kept, as no folder was given to keep it in.", stop.signal) from None
        generator = build_generator(model, chosen, channels, len(names), target)
        weights = load_file(folder / "model.safetensors")  # the moving average, which `method` does not hold
    prefix = f"{next(iter(method.uses))}."
    generator.load_state_dict({k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)})
    return generator.eval()


def build_generator(
    model: str, options: Mapping[str, Any] | None, channels: int, batches: int, target: int = 0
) -> nn.Module:
    """Return the generator that `train_generator` returns for the same options, before its weights are loaded."""
    method_class = choose("adversarial model", model, ADVERSARIAL)
    config = _config(model, _options(model, options), str(target))
    facts = _facts(model, channels, [str(i) for i in range(batches)])
    return next(iter(method_class.build(config, facts).values())).network.eval()


def _facts(model: str, channels: int, names: Sequence[str], patch: int = 0) -> Facts:
    domains = ("a", "b") if model == "cyclegan" else ("image",)
    return Facts(patch, dict.fromkeys(domains, channels), tuple(names))


def bind(model: str, generator: nn.Module, source: int, target: int) -> nn.Module:
    """The network of images alone (N, C, H, W) that takes batch `source` to batch `target`; to itself, the identity.

    Raises:
        ConfigError: if the model was trained towards another target.
    """
    choose("adversarial model", model, ADVERSARIAL)
    trained: Any = generator
    if model == "local" and target != int(trained.reference):
        raise ConfigError(f"This model leads to batch {int(trained.reference)}, not {target}. Train another one.")
    if source == target:
        return nn.Identity()
    condition = {"local": source, "stargan": target}.get(model)
    bound: nn.Module = generator if condition is None else trained.bind(condition)
    return bound.eval()


@torch.no_grad()
def apply(network: nn.Module, image: Array | Tensor, tile: int = 1024, device: str | torch.device = "cpu") -> Any:
    """Runs a bound network on an image (C, H, W) of any size, in tiles of `tile` pixels where that is smaller.

    Tiles agree with the whole image to rounding. Borders are mirrored up to the network's `multiple`.

    Returns:
        As it came, an array or a tensor on the CPU; float32 (C, H, W).
    """
    as_tensor = isinstance(image, Tensor)
    x: Tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image, np.float32))
    where = pick_device(device) if isinstance(device, str) else device
    same = isinstance(network, nn.Identity)
    out = x.float().clone() if same else _run(network.to(where), x.float(), tile, where).cpu().contiguous()
    return out if as_tensor else out.numpy()


def _run(network: nn.Module, image: Tensor, tile: int, device: torch.device) -> Tensor:
    _, height, width = image.shape
    multiple: Any = network.multiple
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        mode = "reflect" if bottom < height and right < width else "replicate"
        image = F.pad(image[None], (0, right, 0, bottom), mode=mode)[0]
    if max(image.shape[1:]) <= tile:
        out: Tensor = network(image[None].to(device))[0]
    elif hasattr(network, "radius"):
        out = _overlapping(network, image, tile, int(network.radius), device)  # type: ignore[arg-type]
    else:

        def read(rows: Span, columns: Span) -> Tensor:
            return image[None, :, slice(*rows), slice(*columns)].to(device)

        forward: Any = network
        out = forward(Lazy((1, *image.shape), read, Memory(tile, int(2e9), device))).collect(torch.device("cpu"))[0]
    return out[:, :height, :width]


def _overlapping(network: nn.Module, image: Tensor, tile: int, radius: int, device: torch.device) -> Tensor:
    """Tiles with so much around them that the border of what is kept does not feel the border of what is seen."""
    out = torch.empty_like(image)
    _, height, width = image.shape
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            top, left = max(y - radius, 0), max(x - radius, 0)
            seen = image[None, :, top : y + tile + radius, left : x + tile + radius].to(device)
            kept = out[:, y : y + tile, x : x + tile]
            kept.copy_(network(seen)[0, :, y - top :, x - left :][:, : kept.shape[1], : kept.shape[2]])
    return out


def _options(model: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The defaults of `model` with `options` in their place."""
    known = options_of(model)
    taken = {name: choose(f"option of {model}", name, known).convert(value) for name, value in (options or {}).items()}
    return DEFAULTS[model] | {name: value for name, value in taken.items() if (name, value) != ("batch_size", 0)}


def options_of(model: str) -> dict[str, Option]:
    """Return the options of training `model`, by name."""
    config = choose("adversarial model", model, ADVERSARIAL).Config
    known = {"patch": option("patch", PATCH), **options_in(config), **options_in(TrainConfig)}
    return {name: one for name, one in known.items() if name not in GIVEN | UNUSED}


def _those_of(group: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: options[f.name] for f in fields(group) if f.name in options}


def _config(model: str, options: Mapping[str, Any], target: str) -> Any:
    group = ADVERSARIAL[model].Config
    known = _those_of(group, {"reference": target})
    return group(**known, **_those_of(group, options))


def _check_batches(model: str, names: Sequence[str], batch_index: Sequence[int], options: Mapping[str, Any]) -> None:
    count = len(names)
    empty = [name for i, name in enumerate(names) if i not in set(batch_index)]
    if empty:
        raise ConfigError(f"There are no images of {', '.join(empty)}; leave the name out, or add images.")
    if model == "cyclegan" and count != 2:
        raise ConfigError(f"cyclegan equalizes exactly two batches, not {count}. Use local or stargan.")
    if count < 2:
        raise ConfigError("There is one batch, and nothing to equalize it to; an adversarial model needs at least two.")
    if model != "cyclegan" and options["batch_size"] < count:
        raise ConfigError(f"batch_size {options['batch_size']} cannot hold a patch of each of the {count} batches.")


def _refuse_small_patches(method: Method, patch: int) -> None:
    multiple = max(int(use.network.multiple) for use in method.uses.values())  # type: ignore[arg-type]
    smallest = max(getattr(network, "min_size", 1) for network in method.networks().values())
    if patch % multiple or patch < smallest:
        raise ConfigError(
            f"patch {patch} does not suit the networks: use a multiple of {multiple}, from {smallest} on."
        )


def _checksum(images: Sequence[Array], batch_index: Sequence[int]) -> int:
    value = zlib.crc32(np.asarray(batch_index, np.int64).tobytes())
    for image in images:
        value = zlib.crc32(np.ascontiguousarray(image).tobytes(), value)
    return value


@dataclass(frozen=True)
class _Record:
    """What the config.json of a training holds."""

    model: str
    names: list[str]
    target: str
    seed: int
    options: dict[str, Any]
    images: str


def _entry(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json; refuses a folder that holds another run, or something else."""
    refuse_foreign(folder, None)
    path = folder / "config.json"
    if path.exists() and has_results(folder):
        settings = [
            {**r, "options": {k: v for k, v in r["options"].items() if k not in OPERATIONAL}}
            for r in (read_record(_Record, path), record)
        ]
        differing = [k for k in record if settings[0].get(k) != settings[1].get(k)]
        if differing:
            raise ConfigError(f"{folder} holds a run of other {', '.join(differing)}. Use another folder.")
    return record | {"environment": environment()}


def _card_of(method: Method, model: str) -> Callable[[int], ModelCard]:
    facts, scale, version = method.facts, Scale(-1, 1, "float32"), environment()["img2img"]
    scales, uses, config = (
        dict.fromkeys(facts.channels, scale),
        {name: name for name in method.uses},
        asdict(method.config),
    )
    return lambda step: ModelCard(model, config, facts.size, facts.channels, scales, uses, step, version, facts.classes)

"""The models that are served, by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from img2img.api.models import load
from img2img.core.method import Noise
from img2img.errors import ConfigError, choose, quote
from img2img.model.devices import refuse_unlike
from img2img.model.hub import is_on_hub, short_name
from img2img.model.model import Model
from img2img.model.options import FolderOptions, SampleOptions, TranslateOptions
from img2img.model.sampling import Sampler
from img2img.model.translator import Translator
from img2img.runtime.device import pick_devices
from img2img.serve.asked import COMPUTED, DRAWING, WRITING, Drawing, Translation, pick_known

Loaded = dict[str, Translator | Sampler]  # by name, on one device


def open_models(paths: Sequence[str | Path], **loading: Any) -> list[Loaded]:
    """Return the models, by name, on each of the devices that `loading` names.

    Raises:
        ConfigError: if two have one name, one is no model of images, or a machine lacks a device.
        ModelFileError: if there is no readable model.
    """
    devices = pick_devices(loading.pop("device", "auto"))
    refuse_unlike(devices)
    names: dict[str, str | Path] = {}
    for path in paths:
        name = name_of(path)
        if name in names:
            raise ConfigError(f"{quote(names[name])} and {quote(path)} would both be called {quote(name)}; rename one.")
        names[name] = path
    return [{name: _opened(path, device, loading) for name, path in names.items()} for device in devices]


def name_of(path: str | Path) -> str:
    """Return the name of a model: that of its file, of its run folder, or of its repository on a hub."""
    if is_on_hub(path):
        return short_name(path)
    path = Path(path).resolve()
    return path.parent.name if path.name == "model.safetensors" else path.name.removesuffix(".safetensors")


def _opened(path: str | Path, device: str, loading: Mapping[str, Any]) -> Translator | Sampler:
    model = load(path, device=device, **loading)
    if not isinstance(model, Model):
        raise ConfigError(f"{quote(path)} is an equalizer, which works on tables of images; serve a model.")
    if isinstance(model, Sampler) and model.card.vector:
        raise ConfigError(f"{quote(path)} draws under vectors, which requests cannot carry; serve another model.")
    assert isinstance(model, Translator | Sampler)
    return model


def takes_noise(model: Translator, direction: str) -> bool:
    """Return whether results differ by seed."""
    return any(isinstance(x, Noise) for x in model.use(direction).inputs)


def described(name: str, model: Translator | Sampler) -> dict[str, Any]:
    """Return what a client needs to know of a model, as JSON."""
    directions = {}
    for direction, spec in model.card.directions.items():
        given = {"channels": spec.in_channels, "dtype": spec.scale_in.dtype} if spec.takes_images else None
        directions[direction] = {
            "input": given,
            "output": {"channels": spec.out_channels, "dtype": spec.scale_out.dtype},
            "takes_label": spec.labelled,
            "takes_seed": isinstance(model, Sampler) or takes_noise(model, direction),
        }
    kind = "sampler" if isinstance(model, Sampler) else "translator"
    facts = {"name": name, "kind": kind, "method": model.card.method, "size": model.card.size}
    return facts | {"directions": directions, "classes": list(model.classes)}


def translation(models: Mapping[str, Translator | Sampler], asked: Mapping[str, Any], megapixels: float) -> Translation:
    """Return the translation that a request asks for.

    Raises:
        ConfigError: if no model does it.
    """
    name = _pick(models, asked.get("model"), Translator, "translates")
    model = models[name]
    assert isinstance(model, Translator)
    aimed = model.towards(asked.get("direction"), asked.get("label"))
    if aimed.spec().labelled and aimed.label is None:
        raise ConfigError(f"This model needs a class; give label, one of {', '.join(model.classes)}.")
    if asked.get("seed") and not takes_noise(model, aimed.direction):
        raise ConfigError("This model takes no noise, so each image has one result; leave out seed.")
    files = FolderOptions(**pick_known(asked, WRITING), max_megapixels=megapixels)
    return Translation(name, aimed.direction, aimed.label, TranslateOptions(**pick_known(asked, COMPUTED)), files)


def drawing(models: Mapping[str, Translator | Sampler], asked: Mapping[str, Any], megapixels: float) -> Drawing:
    """Return the images that a request wants drawn.

    Raises:
        ConfigError: if no model does it, or they are too many.
    """
    name = _pick(models, asked.get("model"), Sampler, "draws from noise")
    model, n = models[name], asked.get("n") or 1
    options = SampleOptions(**pick_known(asked, DRAWING))
    assert isinstance(model, Sampler)
    model.chosen(options)  # refuses what does not fit
    drawn = -(-n // options.batch_size) * options.batch_size  # images are drawn in whole batches
    if drawn * model.card.size**2 > megapixels * 1e6:
        raise ConfigError(
            f"{drawn} images of {model.card.size} px are more than {megapixels:g} megapixels; ask for fewer."
        )
    return Drawing(name, n, options)


def _pick(models: Mapping[str, Translator | Sampler], asked: str | None, kind: type, does: str) -> str:
    fitting = [name for name, model in models.items() if isinstance(model, kind)]
    if asked is not None:
        choose("model", asked, models)
        if asked not in fitting:
            others = f" Choose from: {', '.join(fitting)}." if fitting else ""
            raise ConfigError(f"{quote(asked)} is not a model that {does}.{others}")
        return asked
    if not fitting:
        raise ConfigError(f"No model that {does} is served here.")
    return fitting[0]

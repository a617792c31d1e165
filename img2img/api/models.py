"""What a trained model does: `load`, `sample`, `classify`. The command line calls the same functions."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Unpack, overload

from img2img.api.translating import open_on_devices
from img2img.bulk.options import RayOptions
from img2img.data.picture import Array
from img2img.data.remote import Remote, locate, refuse_private
from img2img.errors import ConfigError, ModelFileError, install_hint
from img2img.model.classifying import Classified, classify_files
from img2img.model.drawing import draw
from img2img.model.file import read_card, read_header
from img2img.model.model import Model, model_file
from img2img.model.options import (
    ClassifyOptions,
    Count,
    LoadOptions,
    SampleLoadOptions,
    SampleOptions,
)
from img2img.model.plugged import give
from img2img.model.samples import Drawing, Written, write_samples
from img2img.model.sampling import Sampler
from img2img.model.stored_samples import StoredDrawing
from img2img.model.translator import Translator
from img2img.options import keywords
from img2img.options.declared import check_names, checked, option, pick, split
from img2img.options.docstrings import documented
from img2img.runtime.progress import shown_in_notebook

OF_TRANSLATORS = ("direction", "backend")  # options of loading that only translators have


@documented(LoadOptions)
def load(
    path: str | Path,
    *,
    generator: Callable[..., Any] | None = None,
    network: Callable[..., Any] | None = None,
    **options: Unpack[keywords.Loading],
) -> Translator | Any:
    """Open a model file, the newest model of a run folder, or a saved equalizer; execute nothing in it.

    Args:
        path: a `.safetensors` file of img2img, a run folder, `hf://user/name` on a hub, or the folder of an equalizer.
        generator: the class or function that was passed to `train`, for a model of which one was; the rest of this
            program then opens such models without it.
        network: the same, of a method that generates from noise.
        **options: see Options below; a model that generates from noise has only `device`, `precision` and `label`, the
            class to generate, and an equalizer only `device`.

    Returns:
        A `Translator`; a `Sampler` for a model that generates from noise; or a `BatchEqualizer`. Type checkers cannot
        tell them apart by path: use `img2img.Sampler(path)` or `img2img.BatchEqualizer.load(path)` for them.

    Raises:
        ModelFileError: if there is no readable model.
        ConfigError: if the model has no such direction or class, or an option does not apply to it.
    """
    chosen = checked(LoadOptions, {**options}, "loading")
    if _holds_equalizer(path):
        _refuse_given(chosen, (*OF_TRANSLATORS, "precision", "label"), f"{path} is an equalizer, which has none")
        return _load_equalizer(Path(path), chosen.device)
    file = model_file(path)
    passed = {"generator": generator, "network": network}
    if any(x is not None for x in passed.values()):
        give(path, read_header(file).config, passed)
    if not any(spec.takes_images for spec in read_card(file).directions.values()):
        _refuse_given(chosen, OF_TRANSLATORS, f"{path} generates from noise, and has none")
        return Sampler(file, chosen.device, chosen.precision, chosen.label)
    return Translator(file, chosen.device, chosen.precision, chosen.direction, chosen.backend, chosen.label)


def _holds_equalizer(path: str | Path) -> bool:
    """Tell whether `path` is a folder that `BatchEqualizer.save` wrote."""
    if not isinstance(path, str | Path):
        return False
    return (Path(path) / "weights.safetensors").is_file() and not (Path(path) / "model.safetensors").exists()


def _load_equalizer(folder: Path, device: str) -> Any:
    try:
        from img2img.lab.equalizer import BatchEqualizer
    except ModuleNotFoundError as error:
        raise ConfigError(install_hint(f"{folder} is an equalizer, which", str(error.name), "lab")) from error
    equalizer = BatchEqualizer.load(folder)
    return equalizer if device == "auto" else equalizer.set_params(device=device)


def _refuse_given(chosen: LoadOptions, names: Iterable[str], why: str) -> None:
    if stray := [name for name in names if getattr(chosen, name) != getattr(LoadOptions(), name)]:
        raise ConfigError(f"{', '.join(stray)}: {why}; leave it out.")


@overload
def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: None = None,
    progress: Callable[[int, int], None] = ...,
    **options: Unpack[keywords.Sampling],
) -> Array: ...
@overload
def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: str | Path,
    progress: Callable[[int, int], None] = ...,
    **options: Unpack[keywords.Sampling],
) -> Written: ...
@documented(SampleLoadOptions, SampleOptions, RayOptions)
@shown_in_notebook("drawing")
def sample(
    model: str | Path | Sampler,
    n: int = 64,
    *,
    out: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Any:
    """Generate images with a model that draws from noise.

    Args:
        model: a model, or its path.
        n: number of images.
        out: a folder to write them into, one file each, keeping those that exist, or the URL of one in a store; None
            returns them instead.
        progress: called with the number of images written, and their total.
        **options: see Options below.

    Returns:
        The images, (n, H, W, C) in the type of the training images; or with `out`, a `Written` with its counts.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    check_names("sampling", options, SampleLoadOptions, SampleOptions, RayOptions)
    loading = pick(options, SampleLoadOptions)
    n = option("n", Count).convert(n)
    if not isinstance(model, Sampler):
        model, devices = open_on_devices(Sampler, model, **loading)
    elif loading:
        raise ConfigError(f"{', '.join(loading)}: fixed when the model is loaded, which has already happened.")
    else:
        devices = [model.asked[0]]
    chosen, shared = split(options, SampleOptions, RayOptions)
    if out is None:
        if shared.ray is not None or len(devices) > 1:
            what = "Several devices are" if shared.ray is None else "ray is"
            raise ConfigError(f"{what} for images that become files; give out, the folder for them.")
        return model.chosen(chosen)(n, chosen.seed, batch_size=chosen.batch_size)
    place = locate(out)
    if shared.ray is not None or len(devices) > 1:
        refuse_private(place)
    if shared.ray is None:
        drawing = _drawing(model, n, place, chosen)
        return write_samples(drawing, draw(drawing, devices), progress)
    from img2img.bulk.cluster import connected
    from img2img.bulk.sampling import draw as draw_by_ray

    model = copy.copy(model)
    model.threads = shared.ray_cpus  # of each worker, and not of this process
    with connected(shared, devices) as ray:
        drawing = _drawing(model, n, place, chosen)
        return write_samples(drawing, draw_by_ray(ray, drawing, shared), progress)


def _drawing(model: Sampler, n: int, place: Path | Remote, options: SampleOptions) -> Drawing:
    kind: Any = Drawing if isinstance(place, Path) else StoredDrawing
    drawing: Drawing = kind(model, n, place, options)
    return drawing


@documented(ClassifyOptions)
@shown_in_notebook("classifying")
def classify(
    model: str | Path | Model,
    source: str | Path,
    out: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Unpack[keywords.Classifying],
) -> Classified:
    """Classify a folder of images, or one, with a model that learned to: resized to its size, as in training.

    Args:
        model: a model, or its path.
        source: the folder or the image.
        out: a CSV to write, with file, label, confidence, and the confidence of each class.
        progress: called with the number of images read, and their total.
        **options: see Options below.

    Raises:
        Img2ImgError: one sentence that says what is wrong and what to do.
    """
    check_names("classifying", options, ClassifyOptions)
    if not isinstance(model, Model):
        (chosen,) = split(options, ClassifyOptions)
        model = load(model, device=chosen.device)
    elif options:
        raise ConfigError(f"{', '.join(options)}: fixed when the model is loaded, which has already happened.")
    if not isinstance(model, Model):
        raise ModelFileError("An equalizer does not classify images; a semigan model does.")
    return classify_files(model, Path(source), None if out is None else Path(out), progress)

"""Image-to-image translation with GANs: train on two folders, translate a third."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from img2img.version import __version__ as __version__

if TYPE_CHECKING:
    from img2img.api.distilling import distill as distill
    from img2img.api.models import classify as classify, load as load, sample as sample
    from img2img.api.sharing import push as push
    from img2img.api.training import train as train
    from img2img.api.translating import (
        merge_reports as merge_reports,
        translate as translate,
        translate_folder as translate_folder,
    )
    from img2img.errors import Img2ImgError as Img2ImgError
    from img2img.evaluation import modes as modes
    from img2img.evaluation.compare import compare as compare
    from img2img.evaluation.evaluate import evaluate as evaluate, rank as rank
    from img2img.interchange.export import export_model as export_model
    from img2img.interchange.pth import import_model as import_model
    from img2img.lab.equalizer import BatchEqualizer as BatchEqualizer
    from img2img.model.sampling import Sampler as Sampler
    from img2img.model.translator import Translator as Translator
    from img2img.training.callbacks import Callback as Callback

# Imported when first used: `import img2img` and `img2img --help` must not wait for torch.
_HOMES = {
    "BatchEqualizer": "img2img.lab.equalizer",
    "Callback": "img2img.training.callbacks",
    "Img2ImgError": "img2img.errors",
    "Sampler": "img2img.model.sampling",
    "Translator": "img2img.model.translator",
    "classify": "img2img.api.models",
    "compare": "img2img.evaluation.compare",
    "distill": "img2img.api.distilling",
    "evaluate": "img2img.evaluation.evaluate",
    "export_model": "img2img.interchange.export",
    "import_model": "img2img.interchange.pth",
    "load": "img2img.api.models",
    "merge_reports": "img2img.api.translating",
    "push": "img2img.api.sharing",
    "rank": "img2img.evaluation.evaluate",
    "sample": "img2img.api.models",
    "train": "img2img.api.training",
    "translate": "img2img.api.translating",
    "translate_folder": "img2img.api.translating",
}

_MODULES = {"modes": "img2img.evaluation.modes"}
_LAB = {"sklearn", "skimage", "scipy", "pandas"}  # the extra [lab]

__all__ = [
    "BatchEqualizer",
    "Callback",
    "Img2ImgError",
    "Sampler",
    "Translator",
    "classify",
    "compare",
    "distill",
    "evaluate",
    "export_model",
    "import_model",
    "load",
    "merge_reports",
    "modes",
    "push",
    "rank",
    "sample",
    "train",
    "translate",
    "translate_folder",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'img2img' has no attribute '{name}'")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name in _LAB:
            sentence = import_module("img2img.errors").install_hint(f"img2img.{name}", error.name, "lab")
            raise ImportError(sentence) from error
        raise

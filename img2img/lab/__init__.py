"""Batch equalization of lab data: images of several experimental batches are moved onto one reference.

The names below are imported when they are first used. Rooms: `curves` and `networks` equalize, `tables` reads and
writes the files of a table, `judgement` scores the results.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from img2img.lab import synthetic as synthetic
    from img2img.lab.equalizer import BatchEqualizer as BatchEqualizer, NotFittedError as NotFittedError
    from img2img.lab.judgement.baselines import BASELINES as BASELINES
    from img2img.lab.judgement.case import Case as Case, measure as measure
    from img2img.lab.judgement.judge import Evaluation as Evaluation, evaluate as evaluate
    from img2img.lab.notes import LabWarning as LabWarning
    from img2img.lab.tables.folders import table_of_names as table_of_names
    from img2img.lab.tables.manifest import Manifest as Manifest

_HOMES = {  # sorted
    "BASELINES": "judgement.baselines",
    "BatchEqualizer": "equalizer",
    "Case": "judgement.case",
    "Evaluation": "judgement.judge",
    "LabWarning": "notes",
    "Manifest": "tables.manifest",
    "NotFittedError": "equalizer",
    "evaluate": "judgement.judge",
    "measure": "judgement.case",
    "synthetic": "synthetic",
    "table_of_names": "tables.folders",
}

__all__ = [*_HOMES]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'img2img.lab' has no attribute '{name}'; it has {', '.join(__all__)}")
    module = import_module(f"img2img.lab.{_HOMES[name]}")
    return getattr(module, name, module)

"""Tables of images: their rows, columns and files, and the folders of results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from img2img.lab.tables.manifest import Manifest as Manifest


def __getattr__(name: str) -> Any:
    if name == "Manifest":  # where it was in version 0.1.0
        return import_module("img2img.lab.tables.manifest").Manifest
    raise AttributeError(f"module 'img2img.lab.tables' has no attribute '{name}'")

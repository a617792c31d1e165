"""Where the weights are that a run starts from: from the name that a user gives to a run folder or a model file."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from img2img.interchange.pth import import_model
from img2img.model.hub import Place, is_on_hub, pinned
from img2img.model.model import model_file


def absolute_name(name: str, saved: str = "") -> str:
    """Return the name of weights as a run records it, which must not depend on where or when it was started.

    Args:
        name: as a user gives it.
        saved: the name in the record of the run that is resumed, or "".

    Raises:
        Img2ImgError: if it is a model on a hub that cannot be had.
    """
    if not is_on_hub(name):
        return os.path.abspath(name)  # noqa: PTH100  # a link stays a link
    place = Place.of(name)
    if is_on_hub(saved) and place in (known := Place.of(saved), replace(known, revision=None)):
        return saved
    return str(pinned(place))


@contextlib.contextmanager
def weights_of(name: str, direction: str) -> Iterator[Path]:
    """Yield the run folder or the model file that `name` means.

    Args:
        name: a run folder, a model file here or on a hub, or a generator of the published code (.pth), of which a
            model is made.
        direction: the direction of a generator whose file does not say so.

    Raises:
        ModelFileError: if a .pth file holds anything but a generator of the published code.
    """
    if is_on_hub(name):
        yield model_file(name)
        return
    if Path(name).suffix != ".pth":
        yield Path(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield import_model(name, Path(folder) / "model.safetensors", direction=direction)

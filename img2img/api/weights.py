"""Where the weights are that a run starts from: from the name that a user gives to a run folder or a model file."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from img2img.interchange.pth import import_model


def absolute_name(name: str) -> str:
    """Return the name of weights as a run records it, which must not depend on where it was started."""
    return os.path.abspath(name)  # noqa: PTH100  # a link stays a link


@contextlib.contextmanager
def weights_of(name: str, direction: str) -> Iterator[Path]:
    """Yield the run folder or the model file that `name` means.

    Args:
        name: a run folder, a model file, or a generator of the published code (.pth), of which a model is made.
        direction: the direction of a generator whose file does not say so.

    Raises:
        ModelFileError: if a .pth file holds anything but a generator of the published code.
    """
    if Path(name).suffix != ".pth":
        yield Path(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield import_model(name, Path(folder) / "model.safetensors", direction=direction)

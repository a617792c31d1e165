"""The file that a conversion makes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from img2img.data.images import atomic
from img2img.errors import ConfigError


@contextlib.contextmanager
def new_file(path: Path, overwrite: bool, *sources: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        ConfigError: if `path` is one of the `sources`, exists without `overwrite`, or cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give a file.")
    if any(path.exists() and path.samefile(source) for source in sources):
        raise ConfigError(f"--out {path} is the file that is read; choose another.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already. Give --overwrite to replace it, or another --out.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}. Choose another --out.") from error

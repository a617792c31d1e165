"""The file that a conversion writes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from img2img.errors import ConfigError
from img2img.runtime.files import atomic


@contextlib.contextmanager
def new_file(path: Path, overwrite: bool, *sources: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` if the block succeeds, and is removed if it fails.

    Raises:
        ConfigError: if `path` is one of the `sources`, exists and may not be overwritten, or cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give the name of a file.")
    if any(path.exists() and path.samefile(source) for source in sources):
        raise ConfigError(f"--out {path} is also the input file; choose another name.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} already exists. Use --overwrite to replace it, or choose another --out.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}. Choose another --out.") from error

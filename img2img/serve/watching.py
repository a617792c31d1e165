"""The reports of training runs, as the training writes them; nothing in a run folder is changed."""

from collections.abc import Sequence
from pathlib import Path

from img2img.data.folders import is_run
from img2img.errors import ConfigError, quote
from img2img.report.page import is_page
from img2img.runs.folder import RunFolder

SECONDS = 30  # after which browsers ask again
HEADERS = {  # a report has its style and its pictures inside
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Refresh": str(SECONDS),
}


def open_runs(paths: Sequence[Path]) -> dict[str, RunFolder]:
    """Return the run folders, by name.

    Raises:
        ConfigError: if one is no run folder, or two have one name.
    """
    runs: dict[str, RunFolder] = {}
    for path in paths:
        if not is_run(path):
            raise ConfigError(f"{quote(path)} is not the folder of a run: it holds no config.json of one.")
        name = path.resolve().name
        if name in runs:
            raise ConfigError(f"--run {quote(path)}: another run is called {quote(name)} too; rename one.")
        runs[name] = RunFolder(path)
    return runs


def report_of(run: RunFolder) -> bytes | None:
    """Return the report of a run as it is now; None before the first."""
    try:
        content = run.report.read_bytes()
    except OSError:
        return None
    return content if is_page(content) else None

"""`push`: from a run to a repository on a hub, with a model card. The command line calls the same function."""

import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img2img.data.folders import is_run
from img2img.errors import ConfigError, quote
from img2img.model.hub import HUB, LIBRARY, MODEL, is_on_hub, told
from img2img.model.model import model_file
from img2img.report.card import model_card
from img2img.report.contents import Contents
from img2img.report.remarks import of_checkpoints
from img2img.runs.facts import read_report_record
from img2img.runs.folder import RunFolder
from img2img.runs.record import read_log

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
LICENSE_ASKED = (
    "--license is needed: others may use a model only as its licence says. Name one as hubs do, e.g. apache-2.0, mit, "
    "cc-by-4.0, cc-by-nc-4.0, or other; the images that it was trained on may leave no choice."
)
CARD, PICTURE = "README.md", "samples.png"  # in a repository


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be.

    Attributes:
        name: the name to load the model by, with the commit if it was uploaded.
        url: the page of the repository; "" if nothing was uploaded.
        files: the files, by their names in the repository, with their sizes in bytes.
        notes: sentences for the user.
    """

    name: str
    url: str
    files: dict[str, int]
    notes: list[str] = field(default_factory=list)


def push(
    run: str | Path,
    repository: str,
    *,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    pictures: bool = True,
    dry_run: str | Path | None = None,
) -> Pushed:
    """Upload the model of a run to a hub, with a model card made of the run, in one commit.

    The repository is made if there is none; of one that exists, README.md, model.safetensors and samples.png are
    replaced. The hub is that of HF_ENDPOINT, and HF_TOKEN must allow to write there.

    Args:
        run: the folder of a run, whose newest model is meant, or a model file.
        repository: `user/name`.
        license: the licence, as hubs call it, e.g. "mit"; it must be given.
        private: make a repository that only its owner sees.
        revision: the branch, which is made if there is none; by default main.
        pictures: upload the newest samples of the run too, which show images that it was trained on or that were held
            out.
        dry_run: a new or empty folder to write the files into, in place of uploading them.

    Raises:
        ConfigError: if no licence is given, a name is invalid, or the repository is not private but was to be.
        ModelFileError: if there is no readable model, or the hub does not take it.
    """
    name = repository.removeprefix(HUB)
    if not REPOSITORY.fullmatch(name):
        raise ConfigError(f"{quote(repository)} does not name a repository; write user/name.")
    if license is None:
        raise ConfigError(LICENSE_ASKED)
    if not LICENSE.fullmatch(license):
        raise ConfigError(f"--license {quote(license)} is not the short name of a licence, such as apache-2.0 or mit.")
    if is_on_hub(run):
        raise ConfigError(f"{run} is on a hub already; give the folder of a run, or a model file.")
    if dry_run is not None:
        _write(Path(run), name, license, pictures, folder := _empty(Path(dry_run)))
        return _pushed(f"{HUB}{name}", "", folder, Path(run))
    with tempfile.TemporaryDirectory() as temporary:
        _write(Path(run), name, license, pictures, folder := Path(temporary))
        with told(f"{HUB}{name}", "write") as hub:
            commit = _upload(hub, folder, name, private, revision)
        return _pushed(f"{HUB}{name}@{commit.oid}", commit.repo_url, folder, Path(run))


def _upload(hub: Any, folder: Path, name: str, private: bool, revision: str | None) -> Any:
    """Return the commit of the files in a folder, in a repository that is made if need be."""
    hub.ModelCard.load(folder / CARD).validate()  # rather than when the repository has been made
    api = hub.HfApi(**LIBRARY)
    api.create_repo(name, private=private or None, exist_ok=True)
    if private and not api.model_info(name).private:
        raise ConfigError(
            f"{HUB}{name} exists and is public, and --private is for new repositories; nothing was uploaded. Make it "
            "private in its settings, or choose another name."
        )
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    message = "Upload a model of img2img"
    return api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)


def _pushed(name: str, url: str, folder: Path, run: Path) -> Pushed:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    notes = []
    if PICTURE in files:
        notes.append(f"{PICTURE} shows images of the run's data; leave it out with --no-pictures.")
    if run.is_dir():
        known = _contents(run)
        notes += [f"{remark.text} {remark.ways}" for remark in of_checkpoints(known.ranking, known.outdated)]
    return Pushed(name, url, files, notes)


def _empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--dry-run {folder} is not an empty folder; give another one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--dry-run {folder} cannot be made: {error.strerror}.") from error
    return folder


def _write(run: Path, name: str, license: str, pictures: bool, folder: Path) -> None:
    """Write the files of a repository into a folder."""
    file = model_file(run)
    contents = _contents(file)
    grids = contents.files.sample_grids() if pictures else []
    text = model_card(contents, file, name, license, PICTURE if grids else "")
    try:
        (folder / CARD).write_text(text, encoding="utf-8")
        shutil.copyfile(file, folder / MODEL)
        if grids:
            shutil.copyfile(grids[-1], folder / PICTURE)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _contents(file: Path) -> Contents:
    """Return what is known of the run of a model file, or of the run itself; nothing of a file that is in no run."""
    folder = next((x for x in (file, *list(file.parents)[:2]) if is_run(x)), file)
    files = RunFolder(folder)
    return Contents(files, read_log(files.log), read_report_record(files))

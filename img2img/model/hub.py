"""Models on a hub: `hf://user/name` becomes a file on this disk, by huggingface_hub.

Its settings are those of that library: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME and the cache there. Nothing is
fetched unless a name begins with hf://, and then one file of tensors, in which nothing can be executed.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from img2img.data.remote import is_name, shown, without_secrets
from img2img.errors import ConfigError, Img2ImgError, ModelFileError, first_line, install_hint, listed, quote
from img2img.model.file import read_card
from img2img.runtime.output import stderr_console
from img2img.version import __version__

HUB = "hf://"
NAME = re.compile(HUB + r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/pr/\d+|[^/@]+))?(?:/(?P<file>.+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
MODEL = "model.safetensors"  # the file that is meant if none is named
SUFFIX = ".safetensors"
LONGEST = 300  # characters of the message of a library
LARGEST = 2**33  # bytes of a file that is fetched: a hundred times the largest models of the papers
LIBRARY = {"library_name": "img2img", "library_version": __version__}


@dataclass(frozen=True)
class Place:
    """A model file in a repository of a hub, `hf://user/name[@revision][/file]`."""

    repository: str
    revision: str | None = None  # a branch, a tag or a commit; None is the default branch
    file: str = MODEL

    @classmethod
    def of(cls, name: str | Path) -> "Place":
        """Parse a name.

        Raises:
            ConfigError: if it is none, or names another kind of file.
        """
        text = name if isinstance(name, str) else name.as_posix().replace("hf:/", HUB, 1)
        found = NAME.fullmatch(text.rstrip("/"))
        if found is None or not is_name(file := found["file"] or MODEL) or "\\" in file:
            raise ConfigError(
                f"{quote(text)} does not name a model on a hub; write hf://user/name, with @revision after it for a "
                f"branch, a tag or a commit, and /FILE{SUFFIX} for a file other than {MODEL}."
            )
        if not file.endswith(SUFFIX):
            raise ConfigError(
                f"{quote(text)}: from a hub, only {SUFFIX} files are fetched, as opening them executes nothing."
            )
        return cls(found["repository"], found["revision"], file)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{self.repository}{revision}{f'/{self.file}' if self.file != MODEL else ''}"

    @property
    def name(self) -> str:
        """The name of the repository without its user, and of the file in it if that is not the usual one."""
        stem = PurePosixPath(self.file).stem
        return self.repository.partition("/")[2] + (f"_{stem}" if self.file != MODEL else "")


def is_on_hub(name: object) -> bool:
    """Tell whether the name of a model begins with hf:/, as names on hubs do that are paths or mistaken."""
    return name.parts[:1] == ("hf:",) if isinstance(name, Path) else isinstance(name, str) and name.startswith("hf:/")


def short_name(model: str | Path) -> str:
    """Return the last name of a model: of its file or folder, or of its repository."""
    return Place.of(model).name if is_on_hub(model) else Path(model).resolve().name


def fetch(place: Place) -> Path:
    """Return the file of a model on this disk, in the cache of huggingface_hub, where it is fetched to if need be.

    Raises:
        ConfigError: if huggingface_hub is missing.
        ModelFileError: if there is no such model, it cannot be fetched, or is no model.
    """
    with told(str(place)) as hub:
        where = {"repo_id": place.repository, "filename": place.file, "revision": place.revision, **LIBRARY}
        try:
            found = hub.hf_hub_download(**where, dry_run=True)
            if found.file_size is None or found.file_size > LARGEST:
                size = "of unknown size" if found.file_size is None else f"{found.file_size / 1e9:,.0f} GB large"
                raise ModelFileError(f"{place} is {size}, which no model of img2img is; it is not fetched.")
            path = Path(hub.hf_hub_download(**where))
        except hub.errors.RemoteEntryNotFoundError:
            raise ModelFileError(f"{_without(place, hub)}.") from None
    try:
        read_card(path)
    except ModelFileError as error:
        raise ModelFileError(str(error).replace(str(path), str(place))) from None
    return path


def pinned(place: Place) -> Place:
    """Return a place at the commit that its revision stands for now, which is fetched.

    Raises:
        Img2ImgError: as `fetch` does.
    """
    if place.revision and COMMIT.fullmatch(place.revision):
        return place
    return replace(place, revision=fetch(place).parents[place.file.count("/")].name)


@contextmanager
def told(name: str, verb: str = "read") -> Iterator[Any]:
    """Yield huggingface_hub; raise what it raises, of any kind, as a sentence about `name`, which holds no token.

    Args:
        name: of the model.
        verb: what is done to it, "read" or "write".

    Raises:
        ConfigError: if it is not installed.
        ModelFileError: for everything else.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise ConfigError(install_hint(name, str(error.name), "hub")) from error
    hub: Any = huggingface_hub
    if stderr_console().quiet:
        hub.utils.disable_progress_bars()
    try:
        yield hub
    except Img2ImgError:
        raise
    except Exception as error:  # of the network, the library or the disk
        raise ModelFileError(f"{name} {_reason(error, hub, verb)}.") from None


def _reason(error: Exception, hub: Any, verb: str) -> str:
    """Return why a hub could not be used, as a predicate of what was asked of it."""
    kinds, constants = hub.errors, hub.constants
    endpoint, token = shown(constants.ENDPOINT), ""
    with suppress(Exception):  # of an exchange of tokens, on which this is no place to report
        token = hub.get_token() or ""
    access = f"the token in HF_TOKEN may not {verb} it" if token else f"needs HF_TOKEN, a token that may {verb} it"
    status = getattr(getattr(error, "response", None), "status_code", None)
    offline = constants.is_offline_mode()
    sentences = {
        kinds.GatedRepoError: f"is gated: accept its terms at {endpoint}, and set HF_TOKEN to a token that may read it",
        kinds.RepositoryNotFoundError: (
            f"does not exist at {endpoint}, or is private and {access}"
            if verb == "read"
            else f"at {endpoint}: {access}"
        ),
        kinds.RevisionNotFoundError: f"does not exist at {endpoint}: the repository has no such revision",
        kinds.OfflineModeIsEnabled: "needs the network, which HF_HUB_OFFLINE forbids",
        kinds.LocalEntryNotFoundError: (
            "is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
            if offline
            else f"is not in the cache and cannot be fetched: {endpoint} does not answer as a hub does; check the "
            "network and HF_ENDPOINT"
        ),
    }
    for kind, sentence in sentences.items():
        if isinstance(error, kind):
            return sentence
    if status in (401, 403):
        return f"is refused by {endpoint}: {'HF_TOKEN is not valid there, or does not allow it' if token else access}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "does not fit onto the disk of the cache; make room, or set HF_HOME to a folder on another one"
    said = first_line(error) if status else " ".join(str(error).split())[:LONGEST]
    cause = f" ({first_line(error.__cause__)})" if error.__cause__ and not status else ""
    text = without_secrets(said.rstrip(".:") + cause, (token,) if token else ())
    return f"cannot be {'read' if verb == 'read' else 'written'} at {endpoint}: {text}"


def _without(place: Place, hub: Any) -> str:
    """Return that a repository lacks a file, and which model files it has."""
    every = hub.HfApi(**LIBRARY).list_repo_files(place.repository, revision=place.revision)
    others = sorted(file for file in every if file.endswith(SUFFIX) and is_name(file))
    named = f"; it holds {listed(map(quote, others))}, which can be named after a slash" if others else ""
    return f"{replace(place, file=MODEL)} holds no {quote(place.file)}{named}"

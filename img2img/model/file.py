"""The two weight files of a run, read and written only here: `last.pt` to resume, `model.safetensors` to use."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval, Len
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors, save
from torch import Tensor, nn

from img2img.core.method import CLASS, Noise, Use
from img2img.core.needs import Facts
from img2img.data.scale import Scale
from img2img.errors import ConfigError, ModelFileError, choose, quote
from img2img.methods import METHODS
from img2img.model.plugged import refuse_absent, without_training
from img2img.options.declared import checked
from img2img.runs.record import RETIRED
from img2img.runtime.device import all_finite
from img2img.runtime.files import atomic, is_text
from img2img.runtime.records import from_json

FORMAT = 2
NOISE = Scale(-1, 1, "float32")  # of noise, where an input is no image
Channels = Annotated[int, Interval(ge=1, le=65536)]
Value = str | bool | int | float | None  # of an option
UNWRITTEN = ("inline_container", "iostream error", os.strerror(errno.ENOSPC))  # in torch's errors of failed writes
PRECISIONS_OF_WEIGHTS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Write everything needed to resume, completely or not at all.

    Raises:
        OSError: if the disk is full or fails; what was there before stays.
    """
    with as_os_error(path), atomic(path, durable=True) as temporary, temporary.open("wb") as file:
        torch.save(state, file)  # a file without a name, as torch writes names into it


@contextlib.contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """Turn the errors in which torch reports that a file cannot be written into an OSError; others pass."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError) or any(text in str(error) for text in UNWRITTEN):
            raise OSError(errno.EIO, "the disk is full or does not take the file", str(path)) from error
        raise


def load_resume(path: Path) -> dict[str, Any]:
    """Read what `save_resume` wrote, onto the CPU; execute nothing.

    Raises:
        ModelFileError: if the file is damaged or not a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch raises whatever it likes on damaged input
        raise ModelFileError(f"{path} cannot be resumed from: it is damaged or not a checkpoint of img2img.") from error
    return state


@dataclass(frozen=True)
class Direction:
    """One use of a model: channels and pixel values of what goes in and what comes out."""

    in_channels: Channels  # of the images; the length of the noise, if it takes no image
    out_channels: Channels
    scale_in: Scale
    scale_out: Scale
    labelled: bool = False  # whether it takes a class
    takes_images: bool = True  # whether it takes an image; if not, it draws from noise


@dataclass(frozen=True)
class ModelCard:
    """The header of a model file: with its weights, all that is needed to use them.

    Attributes:
        size: height and width of the training images; 0 if unknown, as in some imported models.
        uses: the networks in the file: name -> the name that the method's `build` gives it. They differ for pairs that
            were learned the other way round, where the domain "a" of the method is the data's B.
        shared: tensors that are stored once although several uses have them: name -> name of the stored one.
    """

    method: str
    config: dict[str, Value]
    size: Annotated[int, Interval(ge=0, le=2**24)]
    channels: Annotated[dict[str, Channels], Len(1)]  # of the images of each domain
    scales: dict[str, Scale]  # how the pixel values of each domain map to [-1, 1]
    uses: Annotated[dict[str, str], Len(1)]
    step: Annotated[int, Ge(0)]
    version: str
    classes: tuple[str, ...] = ()  # names of the labels
    vector: Annotated[int, Interval(ge=0, le=65536)] = 0  # length of the vectors that stand in place of labels
    shared: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    source: str = ""  # where the weights are from, if not from training with `img2img`
    pages: Literal["images", "channels"] = "images"  # what the pages of a file were in training
    plugins: dict[str, str] = field(default_factory=dict)  # option -> the package and version that its name is of

    @property
    def facts(self) -> Facts:
        return Facts(self.size, self.channels, self.classes, self.vector)

    def build(self) -> dict[str, Use]:
        """Build the networks of the file, without memory: on the meta device.

        Raises:
            ConfigError: if the method or its options are unknown.
        """
        method = choose("method", self.method, METHODS)
        with torch.device("meta"):
            config = checked(method.Config, without_training(self.config, self.plugins), "this method")
            uses = method.build(config, self.facts)
        return {name: choose("use of this method", own, uses) for name, own in self.uses.items()}

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """The uses that give images, by name, with channels and pixel values."""
        return {name: self._direction(use) for name, use in self.build().items() if use.output != CLASS}

    def _direction(self, use: Use) -> Direction:
        if use.source:
            channels, scale = self.channels[use.source], self.scales[use.source]
        else:
            channels, scale = next((x.length for x in use.inputs if isinstance(x, Noise)), 0), NOISE
        out = use.output
        return Direction(channels, self.channels[out], scale, self.scales[out], use.labelled, bool(use.source))


@dataclass(frozen=True)
class _Format:
    """What every version of a model file states."""

    format: int
    version: str


@dataclass(frozen=True)
class _Card1:
    """The header of format 1, which img2img 0.1 wrote."""

    method: str
    config: dict[str, Value]
    directions: Annotated[dict[str, Direction], Len(1)]
    size: Annotated[int, Interval(ge=0, le=2**24)]
    step: Annotated[int, Ge(0)]
    version: str
    format: int = 1
    source: str = ""

    def upgraded(self) -> ModelCard:
        """Return the same header in today's format."""
        channels: dict[str, int] = {}
        scales: dict[str, Scale] = {}
        uses = {name: "a2b" if self.method == "pix2pix" else name for name in self.directions}
        for name, spec in self.directions.items():
            source, _, target = uses[name].rpartition("2")
            target = "image" if name == "sample" else target  # the use of models that draw from noise
            channels[target], scales[target] = spec.out_channels, spec.scale_out
            if source:
                channels[source], scales[source] = spec.in_channels, spec.scale_in
        size = int(self.config.get("image_size") or 0) or self.size
        config = {name: value for name, value in self.config.items() if name not in RETIRED}
        return ModelCard(self.method, config, size, channels, scales, uses, self.step, self.version, source=self.source)


def save_model(path: Path, card: ModelCard, networks: Mapping[str, nn.Module]) -> None:
    """Write the networks of a model, by the names in `card.uses`, each tensor once, with the card in the header.

    Raises:
        OSError: if the disk is full or fails; what was there before stays.
    """
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    shared: dict[str, str] = {}
    for use, network in networks.items():
        for name, x in network.state_dict().items():
            identity = (x.device, x.data_ptr(), x.shape, x.stride()) if x.numel() else (use, name)
            stored = first.setdefault(identity, f"{use}.{name}")
            if stored == f"{use}.{name}":
                tensors[stored] = x.detach().cpu().contiguous()
            else:
                shared[f"{use}.{name}"] = stored
    header = json.dumps(asdict(replace(card, shared=shared)))
    with as_os_error(path), atomic(path, durable=True) as temporary:
        temporary.write_bytes(save(tensors, metadata={"img2img": header}))


def read_header(path: Path, names: list[str] | None = None) -> ModelCard:
    """Read the header of a model file, whose networks may be unknown here; add the names of its tensors to `names`.

    Raises:
        ModelFileError: if the file is missing, damaged, not a model of img2img, or of a newer format.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no model file {path}.")
    if not is_text(path):
        raise ModelFileError(f"{quote(path)} cannot be opened: its name is not UTF-8; rename it or its folder.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("img2img")
            if names is not None:
                names += file.keys()
    except PermissionError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} {_other_than_ours(path)}.") from error
    if metadata is None:
        raise ModelFileError(f"{path} holds tensors, but was not written by img2img.")
    where = f"The header of {path}"
    if (written := from_json(_Format, metadata, where)).format > FORMAT:
        raise ModelFileError(f"{path} was written by img2img {written.version}; this one cannot read it. Upgrade.")
    if written.format == 1:
        return from_json(_Card1, metadata, where).upgraded()
    return from_json(ModelCard, metadata, where)


def read_card(path: Path) -> ModelCard:
    """Read the header of a model file, whose networks can be built here.

    Raises:
        ModelFileError: if `read_header` refuses the file, or a plug-in that it needs is not installed.
    """
    names: list[str] = []
    card = read_header(path, names)
    refuse_absent(str(path), card.method, card.config, card.plugins, only=("method", "generator", "network"))
    try:
        card.directions  # noqa: B018
    except KeyError as error:
        raise ModelFileError(
            f"The header of {path} says nothing of the domain {quote(Path(error.args[0]))}."
        ) from error
    except ConfigError as error:
        raise ModelFileError(f"{path}, written by img2img {card.version}, cannot be built here: {error}") from error
    if strange := [name for name in names if name.partition(".")[0] not in card.uses]:
        raise ModelFileError(f"{path} holds {quote(Path(strange[0]))}, which none of its directions has.")
    return card


@contextlib.contextmanager
def _tensors(path: Path, content: bytes) -> Iterator[Any]:
    """Open the tensors of a model file, or of its `content`."""
    if not content:
        with safe_open(path, framework="pt") as file:
            yield file
    else:
        tensors = load_tensors(content)
        yield SimpleNamespace(keys=tensors.keys, get_tensor=tensors.__getitem__)


def content_of(path: Path, loaded: os.stat_result) -> bytes:
    """Return the bytes of a model file, whose state was `loaded` when the model was.

    Raises:
        ModelFileError: if it has changed since, or is gone: what is there is then not the model in memory.
    """
    try:
        content, found = path.read_bytes(), path.stat()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read again: {error.strerror}.") from error
    if (found.st_mtime_ns, found.st_size) != (loaded.st_mtime_ns, loaded.st_size):
        raise ModelFileError(f"{path} has changed since it was loaded; load it again.")
    return content


def _other_than_ours(path: Path) -> str:
    """Describe what is wrong with a file that is not safetensors."""
    if path.name == "last.pt":
        return "is what its run is resumed from; give the folder of the run, or its model.safetensors"
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(4)[:2] in (b"PK", b"\x80\x02"):  # what torch.save writes today, and wrote until 1.6
            return "is a file of torch.save; to use weights of the pix2pix and CycleGAN code, first run img2img import"
    return "is damaged or not a safetensors file"


def load_use(path: Path, card: ModelCard, name: str, content: bytes = b"") -> Use:
    """Build one use of a model from its file, or the `content` of it, in evaluation mode on the CPU."""
    choose("direction in this model", name, card.uses)
    use = card.build()[name]
    expected = use.network.state_dict()
    with _tensors(path, content) as file:
        names = set(file.keys())
        places = {short: card.shared.get(f"{name}.{short}", f"{name}.{short}") for short in expected}
        own = {n.removeprefix(f"{name}.") for n in names if n.startswith(f"{name}.")}
        if own - expected.keys() or not set(places.values()) <= names:
            raise ModelFileError(f"{path} does not hold the weights that its header promises.")
        # copies: in the file they lie at any address, by which some products round
        weights = {short: file.get_tensor(place).clone() for short, place in places.items()}
    fractions = {short: x for short, x in weights.items() if expected[short].is_floating_point()}
    if odd := [short for short, x in fractions.items() if x.dtype not in PRECISIONS_OF_WEIGHTS]:
        raise ModelFileError(f"{path} holds {weights[odd[0]].dtype} in {quote(Path(odd[0]))}; weights are fractions.")
    weights |= {short: x.float() for short, x in fractions.items()}
    if broken := [short for short, x in fractions.items() if not all_finite([x])]:
        raise ModelFileError(
            f"{path} holds weights that are not finite numbers, in {quote(Path(broken[0]))}: its training had failed; "
            "take an earlier model of the run."
        )
    try:
        use.network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFileError(f"{path} does not hold the weights that its header promises.") from error
    use.network.requires_grad_(False).eval()
    return use

"""The start of a run from weights: what a model file or another run has for it, checked before anything is taken."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from img2img.core.method import CLASS, Method
from img2img.errors import ConfigError, ModelFileError, quote
from img2img.model.file import ModelCard, load_resume, load_use, read_card
from img2img.model.model import model_file
from img2img.runs.folder import RunFolder
from img2img.training.config import UNDER
from img2img.training.ema import Ema

EXTRA = "_extra_state"  # the end of the name of what a module keeps beside tensors, such as the images of a pool
DROPOUT = re.compile(r"\n *\(\w+\): Dropout.*")  # a line of a printed network
LISTED = 3  # tensors that an error names

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        weights: of the networks that are kept, by the names that `build` gives them; empty if `state` has them.
        state: the content of the last.pt of a run of the same method; empty if only its networks are taken.
        note: the source, its method and step, and what is taken of it.
        digest: SHA-256 of the file that it comes from.
    """

    weights: Mapping[str, Weights]
    state: dict[str, Any]
    note: str
    digest: str

    def give(self, method: Method, ema: Ema, rank: int) -> None:
        """Give a method and its moving average, on their device, what is taken; `rank` is that of the process."""
        for own, weights in self.weights.items():
            method.uses[own].network.load_state_dict(weights)
        ema.restart()
        if not self.state:
            return
        method.load_state_dict(self.state["method"], strict=False)
        if rank < len(self.state["ranks"]):
            method.load_state_dict(self.state["ranks"][rank]["extra"], strict=False)
        for name, optimizer in method.optimizers.items():  # with the rates and betas of this run
            optimizer.load_state_dict(optimizer.state_dict() | {"state": self.state["optimizers"][name]["state"]})
        ema.restart()
        if ema.average and self.state["ema"]["average"]:
            ema.load_state_dict(self.state["ema"])


def read_start(name: str, path: Path, method: Method, card: ModelCard, only: str | None) -> Start:
    """Read what a run can start from, and check that all of it fits; nothing is taken yet.

    Args:
        name: of the source, as errors and notes print it.
        path: its run folder or model file.
        method: what is to be trained.
        card: the header of its model file.
        only: "generator" to take nothing else; None to take all that a run of the same method has.

    Raises:
        ModelFileError: if there is no readable model, or its tensors differ.
        ConfigError: if it has no use of the run's, or its networks are built in another way.
    """
    file, last = model_file(path), RunFolder(path).last
    theirs = read_card(file)
    uses = [use for use, own in card.uses.items() if not (only and method.uses[own].output == CLASS)]
    common = [use for use in uses if use in theirs.uses]
    if not common:
        raise ConfigError(
            f"--init {name} is a {theirs.method} model of {', '.join(theirs.uses)}, and has nothing for this run of "
            f"{card.method}, which learns {', '.join(uses)}."
        )
    kept = {use: load_use(file, theirs, use).network.state_dict() for use in common}
    mine = {use: method.uses[card.uses[use]].network.state_dict() for use in common}
    whole = only is None and path.is_dir() and last.exists() and theirs.method == card.method and common == uses
    ways = _ways(theirs, card)
    alike = not _differing(_joined(kept), _joined(mine)) and _layers(theirs, common) == _layers(card, common)
    if not whole:
        _refuse_others(name, _joined(kept), _joined(mine), ways)
        if not alike:
            raise ConfigError(f"--init {name} has the same tensors in other networks. {ways}".rstrip())
        note = f"{' and '.join(common)}; all else begins anew"
        weights = {card.uses[use]: tensors for use, tensors in kept.items()}
        return Start(weights, {}, _note(name, theirs, theirs.step, note, card), _digest(file))
    alone = " Or take its generators alone, with --init-only generator." if alike else ""
    state = _parts(load_resume(last), last, alone)
    _refuse_others(name, state["method"], method.state_dict(), ways + alone)
    if _counts(state["optimizers"]) != _counts({name: x.state_dict() for name, x in method.optimizers.items()}):
        raise ModelFileError(f"{last} has other players than this run.{alone}")
    if not alike:
        raise ConfigError(f"--init {name} has the same tensors in other networks. {ways}".rstrip())
    pools = any(x.dim() and x.numel() for own in state["ranks"] for x in own["extra"].values())
    note = f"{', '.join(method.networks())}, the optimizers{', the pools' * pools}"
    if theirs.size != card.size:  # a pool shows old images among new ones
        state |= {"method": {k: x for k, x in state["method"].items() if not k.endswith(EXTRA)}, "ranks": []}
        note = note.replace(", the pools", f"; not the pools, whose images have {theirs.size} pixels")
    return Start({}, state, _note(name, theirs, state["step"], note, card), _digest(last))


def _parts(state: dict[str, Any], last: Path, alone: str) -> dict[str, Any]:
    """Return the parts of a last.pt that a run may start from.

    Raises:
        ModelFileError: if one is missing or something else.
    """
    try:
        parts = {name: state[name] for name in ("step", "method", "optimizers", "ema", "ranks")}
        tensors = [*parts["method"].values(), *parts["ema"]["average"]]
        tensors += [x for own in parts["ranks"] for x in own["extra"].values()]
        complete = all(isinstance(x, Tensor) for x in tensors) and bool(_counts(parts["optimizers"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        complete = False
    if not complete:
        raise ModelFileError(f"{last} is not the state of a run of img2img.{alone}")
    return parts


def _counts(optimizers: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the numbers of parameters of every player, from the states of its optimizer."""
    return {player: [len(group["params"]) for group in state["param_groups"]] for player, state in optimizers.items()}


def _joined(weights: Mapping[str, Weights]) -> dict[str, Tensor]:
    """Return the tensors of several uses, by use and name."""
    return {f"{use}.{name}": x for use, tensors in weights.items() for name, x in tensors.items()}


def _differing(theirs: Weights, mine: Weights) -> list[str]:
    """Return a phrase for every tensor that has another shape, or that only one of two networks has."""

    def shape(x: Tensor) -> str:
        return "x".join(map(str, x.shape)) or "one number"

    phrases = []
    for name in (name for name in dict.fromkeys([*mine, *theirs]) if not name.endswith(EXTRA)):
        if name not in theirs or name not in mine:
            phrases.append(f"{quote(name)} is only {'here' if name in mine else 'there'}")
        elif theirs[name].shape != mine[name].shape:
            phrases.append(f"{quote(name)} is {shape(theirs[name])} there and {shape(mine[name])} here")
    return phrases


def _refuse_others(name: str, theirs: Weights, mine: Weights, ways: str) -> None:
    """Raise ModelFileError unless two networks have the same tensors."""
    if differing := _differing(theirs, mine):
        more = f"; and {len(differing) - LISTED} more" if len(differing) > LISTED else ""
        counts = f"{len(differing)} of {len(theirs.keys() | mine.keys())} tensors differ"
        raise ModelFileError(
            f"--init {name} does not fit: {counts}: {'; '.join(differing[:LISTED])}{more}. {ways}".rstrip()
        )


def _ways(theirs: ModelCard, card: ModelCard) -> str:
    """Return the options to give for networks as those of the source; "" if they are the same."""
    both = [name for name in UNDER["Networks"].split() if name in theirs.config and name in card.config]
    given = {name: theirs.config[name] for name in both if theirs.config[name] != card.config[name]}
    given.pop("dropout", None)
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return f"Give {' '.join(words)}." if words else ""


def _layers(card: ModelCard, names: Iterable[str]) -> list[str]:
    """Return the layers of the networks of a model file, printed, without dropout."""
    uses = card.build()
    return [DROPOUT.sub("", repr(uses[name].network)) for name in names]


def _note(name: str, theirs: ModelCard, step: int, taken: str, card: ModelCard) -> str:
    classes = f"; its classes {', '.join(theirs.classes)} become {', '.join(card.classes)}"
    return f"{name} ({theirs.method}, step {step}): {taken}{classes if theirs.classes != card.classes else ''}"


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

"""What a run is before its first step: its folder, the header of its model file, its facts, and its introduction."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from img2img.core.method import CLASS, Image, Method, Vector
from img2img.data.samples import Opened
from img2img.data.scale import Scale
from img2img.model.file import ModelCard
from img2img.model.plugged import packages_of
from img2img.report.advice import SPELLING
from img2img.runs.facts import RunFacts, UseRecord
from img2img.runs.folder import RunFolder
from img2img.runtime.device import environment
from img2img.training.config import Schedule, flat

Card = Callable[[int], ModelCard]


@dataclass(frozen=True)
class Run:
    """Where a run lives and what it is."""

    files: RunFolder  # its folder
    card: Card  # the header of its model file, at a step
    facts: RunFacts  # for the report
    resume_hint: str  # the command that resumes it
    shorten: str = ""  # how to shorten it if it is long, in words
    spelling: str = SPELLING  # of an option, in advice
    shorter: Schedule | None = None  # the schedule that it had before it was made longer


def card_of(
    name: str,
    method: Method,
    scales: Mapping[str, Scale],
    other_way: bool = False,
    pages: Literal["images", "channels"] = "images",
) -> Card:
    """Return the header of a run's model file, as a function of the step.

    Args:
        name: of the method, in `METHODS`.
        method: what is trained.
        scales: how the pixel values of each domain map to [-1, 1].
        other_way: whether pairs are learned from B to A.
        pages: what the pages of a file are, one of `data.options.PAGES`.
    """
    uses = {"b2a" if other_way and use == "a2b" else use: use for use in method.uses}
    facts, options, version = method.facts, flat(method.config), environment()["img2img"]
    packages = packages_of(name, options)

    def card(step: int) -> ModelCard:
        about = facts.size, facts.channels, dict(scales), uses, step, version, facts.classes, facts.vector
        return ModelCard(name, options, *about, pages=pages, plugins=packages)

    return card


def facts_of(name: str, method: Method, opened: Opened, processes: int, begun: str = "") -> RunFacts:
    """Return the facts of a run that starts now; `name` is that of the method, in `METHODS`, and `begun` what it starts
    from.
    """
    system, held = environment(), opened.heldout.domains if opened.heldout is not None else {}
    return RunFacts(
        method=name,
        images={domain.title: len(domain) for domain in opened.train.domains.values()},
        held_out={domain.title: len(domain) for domain in held.values()},
        uses=tuple(
            UseRecord(
                title,
                tuple(x.domain for x in use.inputs if isinstance(x, Image)),
                use.labelled,
                use.output,
                any(isinstance(x, Vector) for x in use.inputs),
            )
            for title, use in method.uses.items()
            if use.output != CLASS
        ),
        kinds=method.all_kinds,
        started=time.strftime("%Y-%m-%d %H:%M"),
        system=f"{system['system']}, torch {system['torch']}",
        processes=processes,
        notes={"starts from": begun} if begun else {},
    )


def introduce(name: str, method: Method, opened: Opened, folder: Path, say: Callable[[str], None]) -> None:
    """Say what is trained, on what and where; `name` is that of the method, in `METHODS`."""
    images = opened.images
    held = f", held out {images.held}" if images.held else ""
    if not held and method.needs.domains == ("a", "b"):
        held = ", none held out"
    say(f"{name}: {images.counts}{held}; run folder {folder}")
    if not opened.train.cached:
        say("The decoded images do not fit into --cache-mb and are read from disk every time.")
    counts = {title: sum(p.numel() for p in network.parameters()) for title, network in method.networks().items()}
    say(f"parameters: {', '.join(f'{title} {n / 1e6:.1f} M' for title, n in counts.items())}")

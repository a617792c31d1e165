"""The content of report.json: the facts of a run, its progress, and the failures of its game."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge

from img2img.errors import ModelFileError, counted
from img2img.runs.folder import RunFolder
from img2img.runtime.files import write_json
from img2img.runtime.records import from_json, read_text

FORMAT = 2  # 1: of version 0.1.0, sentences by title

Failure = Literal["discriminator winning", "saturation", "mode collapse", "oscillation", "not finite"]
MEANINGS: dict[str, str] = {
    "discriminator winning": "the discriminator judges everything right, and the generator's gradient has vanished.",
    "saturation": "the discriminator is so sure that its own loss is flat, and neither side learns.",
    "mode collapse": "generated images resemble each other far more than the data do.",
    "oscillation": "generator and discriminator take turns at being right, and run in circles.",
    "not finite": "a loss or a weight is no longer a finite number.",
}


@dataclass(frozen=True)
class Progress:
    """The position of a run in its schedule."""

    step: Annotated[int, Ge(0)]  # the last step taken
    steps: Annotated[int, Ge(0)]  # the length of the run
    ended: str = ""  # why the run is over before its last step; "" if it is not


@dataclass(frozen=True)
class UseRecord:
    """A network that the run keeps."""

    name: str  # the direction, e.g. "a2b"
    images: tuple[str, ...] = ()  # the domains of the images that it takes; none if it draws from noise
    labels: bool = False  # whether it takes the index of a class
    output: str = "image"  # the domain of the images that it gives
    vectors: bool = False  # whether it takes a vector in place of a class


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts of a run: what was trained, on what.

    Attributes:
        kinds: scalar of the log -> "loss", "share" (of images judged right, in [0, 1]), "distance" (of the critic),
            "norm" (of a player's gradient) or "variety" (of the data's); a scalar without a kind is a loss.
    """

    method: str = ""  # the name of the method
    images: dict[str, int] = field(default_factory=dict)  # the number of training images of each domain
    held_out: dict[str, int] = field(default_factory=dict)  # the number of held-out images of each domain
    uses: tuple[UseRecord, ...] = ()  # the networks that are kept
    kinds: dict[str, str] = field(default_factory=dict)
    equalizer: bool = False  # whether the run is part of a batch equalizer
    started: str = ""  # date and time
    system: str = ""  # what it ran on
    processes: int = 0  # the number of processes that train
    notes: dict[str, str] = field(default_factory=dict)  # other facts, title -> text

    def titled(self) -> dict[str, str]:
        """Return the facts for display, title -> text."""
        known = {
            "method": self.method,
            "training images": in_words(self.images),
            "held-out images": " and ".join(map(str, self.held_out.values())) or "none" * bool(self.images),
            **self.notes,
            "started": self.started,
            "on": self.system,
            "processes": str(self.processes or ""),
        }
        return {title: text for title, text in known.items() if text}


@dataclass
class Finding:
    """A failure of the game that lasts, or is over."""

    kind: Failure  # its name, a key of `MEANINGS`
    start: int  # the step at which it was first seen
    end: int | None = None  # the step from which it was no longer seen; None while it lasts
    ways: str = ""  # options that may help this run

    def __post_init__(self) -> None:
        if self.kind not in MEANINGS:
            raise ValueError(f"no such finding: {self.kind!r}")

    @property
    def meaning(self) -> str:
        return f"{self.kind}: {MEANINGS[self.kind]}"

    @property
    def to_try(self) -> str:
        return f"To try: {self.ways}." if self.ways else ""

    @property
    def text(self) -> str:
        """Its meaning, and what to try."""
        return f"{self.meaning} {self.to_try}".rstrip()

    @property
    def when(self) -> str:
        return f"from step {self.start}" + (" on" if self.end is None else f" to {self.end}")


@dataclass(frozen=True)
class Report:
    """The content of a report beyond the log and the results."""

    facts: RunFacts = field(default_factory=RunFacts)
    progress: Progress | None = None
    findings: list[Finding] = field(default_factory=list)


def in_words(images: Mapping[str, int]) -> str:
    """Return the number of images of each domain as a phrase, e.g. "6 images of A, 5 of B"."""
    if len(images) == 1:
        return counted(next(iter(images.values())), "image", "images")
    counts = [f"{n} of {domain}" for domain, n in images.items()]
    if counts:
        domain, n = next(iter(images.items()))
        counts[0] = f"{counted(n, 'image', 'images')} of {domain}"
    return ", ".join(counts)


def write_report_record(run: RunFolder, report: Report) -> None:
    """Write report.json."""
    write_json(run.report_record, {"format": FORMAT, **asdict(report)})


def read_report_record(run: RunFolder) -> Report:
    """Return the content of report.json; an empty report if the file is missing or damaged."""
    try:
        text = read_text(run.report_record)
        name = run.report_record.name
        if from_json(_Format, text, name).format >= FORMAT:
            return from_json(Report, text, name)
        old = from_json(_OldReport, text, name)
        return Report(facts_of(old.facts), _progress_of(old.facts), old.findings)
    except ModelFileError:
        return Report()


def facts_of(record: Mapping[str, Any]) -> RunFacts:
    """Return facts from a mapping of their names, or of the titles and sentences of version 0.1.0.

    Raises:
        ModelFileError: if a value has another type.
    """
    names = {entry.name for entry in fields(RunFacts)}
    if isinstance(record.get("images"), str):  # number and checksum of the images of an equalizer
        names -= {"images"}
    known = {name: value for name, value in record.items() if name in names}
    others = {title: str(value) for title, value in record.items() if title not in names}
    known["system"] = others.pop("on", known.get("system", ""))
    if "training images" in others and (images := _counts_of(others["training images"])):
        known["images"] = images
        del others["training images"]
    held_out = re.findall(r"\d{1,12}", others.pop("held-out images", ""))
    if held_out:
        known["held_out"] = dict(zip(known.get("images", {}), map(int, held_out), strict=False))
    known["equalizer"] = known.get("equalizer", "batches" in others)
    notes = known.get("notes", {}) | {k: x for k, x in others.items() if k not in ("steps", "ended")}
    plain = json.dumps({**known, "notes": notes}, default=asdict)
    return from_json(RunFacts, plain, "A fact of the run")


def uses_of_old(directions: Iterable[str]) -> tuple[UseRecord, ...]:
    """Return the uses of a run that recorded only the names of its directions: "sample", "a2b", "b2a"."""
    return tuple(UseRecord(x) if x == "sample" else UseRecord(x, (x[0],), output=x[-1]) for x in directions)


def _counts_of(text: str) -> dict[str, int]:
    """Return the counts in a sentence as "6 images of A, 5 of B" or "6 images"; empty if it is none."""
    parts = [re.fullmatch(r"(\d{1,12})(?: images?)?(?: of (\w+))?", part) for part in text.split(", ")]
    if not all(parts):
        return {}
    return {part[2] or "data": int(part[1]) for part in parts if part}


def _progress_of(record: Mapping[str, Any]) -> Progress | None:
    """Return the progress in "3 of 10"."""
    found = re.fullmatch(r"(\d{1,15}) of (\d{1,15})", str(record.get("steps", "")))
    return Progress(int(found[1]), int(found[2]), str(record.get("ended", ""))) if found else None


@dataclass(frozen=True)
class _Format:
    format: int = 1


@dataclass(frozen=True)
class _OldReport:
    """The content of report.json until version 0.1.0."""

    facts: dict[str, Any]
    findings: list[Finding]

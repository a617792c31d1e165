"""The recommendation that precedes a fit, as text, JSON and a page."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from math import exp, isfinite
from pathlib import Path
from typing import Any

from img2img.report.page import page
from img2img.runtime.files import write_text
from img2img.runtime.markup import in_cell, table

NOTHING, FEATURES = "nothing", "features z-score"
MOST_LISTED = 12  # differences in the terminal
ALSO = (
    "If features are all you need, a z-score per batch by its controls is simpler, and hard to beat. Judge any other "
    "route on wells that were not fitted: `img2img equalize report`."
)


@dataclass(frozen=True)
class Difference:
    """The difference of one batch from the reference in one channel.

    Attributes:
        batch: the batch.
        channel: the channel.
        what: "brightness", of the foreground above background; "background"; or "illumination" and its way.
        size: of brightness the log ratio; of the others a share of the range.
        error: half the width of its 95 % interval; NaN with a single group.
        is_clear: whether it matters, and is significant after correction for the number of differences.
    """

    batch: str
    channel: str
    what: str
    size: float
    error: float
    is_clear: bool

    def __str__(self) -> str:
        low, high = self.size - self.error, self.size + self.error
        if self.what == "brightness":
            interval = f" ({exp(low):.2f} to {exp(high):.2f})" if isfinite(self.error) else ""
            return f"{self.what} {exp(self.size):.2f} times{interval}"
        interval = f" ({low:+.1%} to {high:+.1%})" if isfinite(self.error) else ""
        return f"{self.what} {self.size:+.1%} of the range{interval}"


@dataclass(frozen=True)
class Recommendation:
    """What should be done with images of several batches, and why.

    Attributes:
        route: "nothing", "features z-score", or the model that fits: "tone", "tone+field", "stain".
        reason: of the route, in words.
        reference: the batch that the others are compared with.
        on_controls: whether only controls were looked at.
        wells: number of wells of the controls in each batch.
        images: number of images of the controls in each batch.
        cramers_v: association of batch and label; None without labels.
        told: how well a linear probe tells the batch of an image it has not seen, its interval, and the same with
            permuted batches; see `probes.batch_predictability`. None if it could not be measured.
        differences: of all batches and channels from the reference.
        notes: remarks on the design and the images.
    """

    route: str
    reason: str
    reference: str
    on_controls: bool
    wells: dict[str, int]
    images: dict[str, int]
    cramers_v: float | None
    told: dict[str, float] | None
    differences: list[Difference]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        found = asdict(self)
        for difference in found["differences"]:
            difference["error"] = difference["error"] if isfinite(difference["error"]) else None
        return found

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))

    @property
    def sentence(self) -> str:
        """The route and its reason."""
        return f"Recommended: {self.route}, because {self.reason}."

    def _lines(self) -> Iterator[str]:
        what = "control wells" if self.on_controls else "groups"
        few = list(self.wells.items())[:MOST_LISTED]
        counts = ", ".join(f"{name} {n} ({self.images[name]} images)" for name, n in few)
        counts += f" and {len(self.wells) - len(few)} more batches" if len(few) < len(self.wells) else ""
        yield f"Design: {what}: {counts}" + (
            "" if self.cramers_v is None else f"; association of batch and label (Cramér's V): {self.cramers_v:.2f}"
        )
        if self.told is not None:
            yield (
                f"Batch told: {self.told['linear']:.2f} of the images ({self.told['linear_low']:.2f} to "
                f"{self.told['linear_high']:.2f}), by chance {self.told['chance']:.2f}, with permuted batches up to "
                f"{self.told['null_high']:.2f}"
            )
        clear = [d for d in self.differences if d.is_clear]
        for d in sorted(clear, key=lambda d: -abs(d.size))[:MOST_LISTED]:
            yield f"{d.batch} against {self.reference}, {d.channel}: {d}"
        if len(clear) > MOST_LISTED:
            yield f"and {len(clear) - MOST_LISTED} more differences"
        yield from (f"Note: {note}" for note in self.notes)

    def to_text(self) -> str:
        """Return a few lines for the terminal; the last but one is the recommendation."""
        return "\n".join([*self._lines(), self.sentence, ALSO])

    def _table(self) -> str:
        rows = [(d.batch, d.channel, str(d), "clear" if d.is_clear else "not clear") for d in self.differences]
        head = ("batch", "channel", "difference, with its 95 % interval", "clear or not")
        return table([[escape(x) for x in row] for row in rows], head)

    def __repr__(self) -> str:
        return f"Recommendation({self.route}, because {self.reason})"

    def _repr_html_(self) -> str:
        remarks = "".join(f"<p>{escape(line)}</p>" for line in (*self.notes, ALSO))
        return in_cell(self.sentence, f"<p>Differences from {escape(self.reference)}:</p>", self._table(), remarks)

    def to_html(self, path: str | Path) -> None:
        """Write a self-contained page with all differences."""
        body = [
            f"<p><b>{escape(self.sentence)}</b></p><p>{escape(ALSO)}</p>",
            *(f"<p>{escape(line)}</p>" for line in self._lines()),
            f"<h2>Differences from {escape(self.reference)}</h2>",
            self._table(),
        ]
        write_text(Path(path), page("Batch effect: a check before fitting", "\n".join(body)))

"""What a fit found in each channel of each batch, and how much of it is corrected: a table that people read."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from img2img.lab.curves.effects import Moves
from img2img.lab.curves.measuring import FARTHEST, FEWEST, Measured

MOST = 0.9  # share of a difference above which the remark asks for no more controls
MANY = 20  # times as many controls, above which nobody has them: the difference is no more than chance
SMALL = 0.02  # a log gain below it needs no remark


@dataclass(frozen=True, kw_only=True)
class Found:
    """The difference of one channel of a batch from the target's, and its correction.

    Attributes:
        batch: name, or first the number, of the batch.
        channel: name or number of the channel.
        background: the batch's background minus the target's, in pixel values.
        background_error: its standard error.
        background_corrected: the share of it that is corrected, from 0 to 1.
        gain: contrast of the foreground over the target's; None if that cannot be compared.
        gain_error: standard error of its logarithm, about its relative error.
        gain_corrected: the share of the log gain that is corrected.
        images: number of images that were measured.
        with_foreground: number of those that show foreground.
        groups: number of groups (wells, donors) that they came from.
        row_trend: contrast in the last row of the plate over that in the first, as far as it is corrected; None if
            trends along the plate are not corrected.
        column_trend: the same of the columns.
        remark: what was not corrected and what would help, or empty.
    """

    batch: str
    channel: str
    background: float
    background_error: float
    background_corrected: float
    gain: float | None
    gain_error: float | None
    gain_corrected: float | None
    images: int
    with_foreground: int
    groups: int
    remark: str
    row_trend: float | None = None
    column_trend: float | None = None

    @classmethod
    def all(cls, measured: Measured, moves: Moves, with_trends: bool = False) -> list[Self]:
        """Return what was found, for every batch and channel, both by number; the target has no difference."""
        rows = []
        trends = np.exp(2 * measured.trends[:, :, 1])  # from -1 to 1
        for b, c in np.ndindex(measured.seen.shape):
            found, error, applied = moves.found[b, c], moves.error[b, c], moves.applied[b, c]
            shares = [
                1.0 if x == 0 else float(np.clip(a / x, 0, 1)) for x, a in zip(found[:2], applied[:2], strict=True)
            ]
            known = bool(np.isfinite(found[1]))
            seen, images = int(measured.seen[b, c]), int(measured.images[b])
            rows.append(
                cls(
                    batch=str(b),
                    channel=str(c),
                    background=-float(found[0]),
                    background_error=float(error[0]),
                    background_corrected=shares[0],
                    gain=float(np.exp(-found[1])) if known else None,
                    gain_error=float(error[1]) if known else None,
                    gain_corrected=shares[1] if known else None,
                    images=images,
                    with_foreground=seen,
                    groups=int(measured.groups[b]),
                    remark=_remark(found[1], error[1], shares[1], seen, images),
                    row_trend=float(trends[b, c, 0]) if with_trends else None,
                    column_trend=float(trends[b, c, 1]) if with_trends else None,
                )
            )
        return rows

    @property
    def is_left(self) -> bool:
        """Tell whether the contrast could not be corrected at all."""
        return bool(self.remark) and not self.gain_corrected

    @property
    def place(self) -> str:
        """The batch and the channel, such as "P2, DNA"."""
        return f"{self.batch}, {self.channel}"

    @property
    def text(self) -> str:
        """The difference and its correction, such as "0.61 x ± 0.08, corrected by 93%; background +80 ± 3, ..."."""
        parts = [f"background {self.background:+.4g} ± {self.background_error:.2g}"]
        parts[0] += f", corrected by {self.background_corrected:.0%}" if self.background else ""
        if self.gain is not None and self.gain_error is not None and self.gain_corrected is not None:
            gain = f"{self.gain:.2f} x ± {self.gain * self.gain_error:.2f}"
            parts.insert(0, gain + (f", corrected by {self.gain_corrected:.0%}" if self.gain != 1 else ""))
        if self.row_trend is not None and self.column_trend is not None:
            parts.append(f"along the plate {self.row_trend:.2f} x by row, {self.column_trend:.2f} x by column")
        return "; ".join(filter(None, [*parts, self.remark]))

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def _remark(found: float, error: float, share: float, seen: int, images: int) -> str:
    if seen < FEWEST:
        return (
            f"foreground in {seen} of {images} images, so its contrast is not corrected; "
            f"give controls with cells, {FEWEST} at least"
        )
    if np.isnan(found):
        return "the target shows no foreground, so the contrast is not corrected; choose another target"
    if abs(found) > FARTHEST:
        return (
            f"not corrected: beyond {np.exp(FARTHEST):.0f} times the stain has failed, or it is another channel; "
            "check it, or leave the channel out"
        )
    if share < MOST and abs(found) > SMALL and error:
        more = MOST / (1 - MOST) * (error / found) ** 2
        return f"about {max(more, 2):.0f} times as many control wells would make it sure" if 1 < more <= MANY else ""
    return ""

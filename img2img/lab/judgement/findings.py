"""The findings of a judgement: the scores and gates of several methods on the same images."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from img2img.data.picture import Array
from img2img.errors import choose
from img2img.lab.curves.found import Found
from img2img.lab.judgement.pictures import Example
from img2img.lab.judgement.scores import Scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Findings:
    """Several methods judged on the same images.

    Attributes:
        rows: scores of each method; `scores.COLUMNS` explains each. None where it was not measured.
        gates: whether each method passes each gate; None where that was not measured.
        gate_texts: the gates in words.
        judged: the method that the verdict is on.
        reference: the batch that the others should look like.
        counts: numbers of images, groups, objects and so on.
        cramers_v: association of batch and label.
        confounded: batch and label are associated, and the methods were fitted to more than controls.
        notes: remarks for the report.
        settings: of the measurement.
        channels: for each method, scores of every channel of every batch but the reference; see `channels`.
        places: the batch and channel of the worst scores of the judged method.
        histograms: for the judged method and for doing nothing, the share of pixels of each batch (C, `pictures.BINS`).
        pictures: a few images of each batch, before and after.
        corrections: what the fit of the judged method found in the channels of each batch, and corrected.
    """

    rows: dict[str, Scores]
    gates: dict[str, dict[str, bool | None]]
    gate_texts: dict[str, str]
    judged: str
    reference: str
    counts: dict[str, int]
    cramers_v: float | None
    confounded: bool
    notes: tuple[str, ...]
    settings: dict[str, Any]
    histograms: dict[str, dict[str, Array]] = field(repr=False)
    pictures: list[Example] = field(repr=False)
    channels: dict[str, dict[str, Scores]] = field(default_factory=dict, repr=False)
    places: dict[str, str] = field(default_factory=dict)
    corrections: tuple[Found, ...] = ()

    def passed(self, method: str) -> bool:
        """Return whether a method fails no gate and passes at least one; unmeasured gates do not count."""
        values = choose("method", method, self.gates).values()
        return False not in values and True in values

    @property
    def ranking(self) -> list[str]:
        """The methods that pass, by phenotype accuracy, then by how poorly the linear probe predicts the batch."""
        key = {
            m: (-(r.get("phenotype_accuracy") or 0), 1 if r.get("batch_linear") is None else r["batch_linear"])
            for m, r in self.rows.items()
        }
        return sorted((m for m in self.rows if self.passed(m)), key=key.__getitem__)

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with one row per method: `passed`, then the scores."""
        import pandas as pd

        frame = pd.DataFrame.from_dict(self.rows, orient="index").astype(float)
        frame.insert(0, "passed", [self.passed(method) for method in frame.index])
        return frame.rename_axis("method")

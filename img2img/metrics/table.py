"""Metrics by name. To add one: its function, and one entry here."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from img2img.errors import choose
from img2img.metrics import frechet, inception_score, kernel
from img2img.metrics.drift import drift
from img2img.metrics.labels import mean_iou, pixel_accuracy
from img2img.metrics.manifold import coverage, density, precision, recall
from img2img.metrics.paired import l1, ms_ssim, psnr, ssim
from img2img.metrics.perceptual import lpips, open_lpips
from img2img.metrics.score import Score as Score
from img2img.metrics.structure import structure

SIGNS = {"higher": 1, "lower": -1}
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its computation, and its reading.

    Attributes:
        fn: its function, whose arguments depend on `kind`.
        kind: what `fn` takes: two batches of images, to give a value for each image ("image"); a confusion matrix
            ("labels"); the features of all real and all fake images ("features"); the logits of all fake images
            ("logits"); the moments of all pixels, real and fake ("pixels").
        on: the images it compares: source, real, fake, cycled, identity. A metric of whole sets takes the real ones
            that the scorer was prepared with.
        better: whether higher or lower values are better; None for neither.
        range: the range of its values, for display.
        text: one line for help and docs.
        paired: whether the real images must be the counterparts of the fake ones.
        options: the fields of `MetricOptions` that `fn` takes as keywords.
        network: builds the network that `fn` takes as its last argument.
        too_few: returns a caution on a value from n images and D features, or "".
    """

    fn: Callable[..., Any]
    kind: Literal["image", "labels", "features", "logits", "pixels"]
    on: tuple[str, ...]
    better: Literal["higher", "lower"] | None
    range: str
    text: str
    paired: bool = False
    options: tuple[str, ...] = ()
    network: Callable[..., Any] | None = None
    too_few: Callable[..., str] | None = None

    @property
    def sign(self) -> int:
        """Return 1 if higher is better, -1 if lower is, 0 for neither."""
        return SIGNS.get(self.better or "", 0)


COUNTERPARTS = ("real", "fake")  # each result and its true answer
WHOLE_SETS = ("real", "fake")  # all real and all generated images
METRICS: dict[str, Metric] = {
    "l1": Metric(
        fn=l1, kind="image", on=COUNTERPARTS, paired=True,
        better="lower", range="0 to 1", text="Mean absolute difference from the target.",
    ),
    "psnr": Metric(
        fn=psnr, kind="image", on=COUNTERPARTS, paired=True,
        better="higher", range="0 dB to infinity", text="Peak signal-to-noise ratio to the target.",
    ),
    "ssim": Metric(
        fn=ssim, kind="image", on=COUNTERPARTS, paired=True,
        better="higher", range="-1 to 1", text="Structural similarity to the target.",
    ),
    "ms_ssim": Metric(
        fn=ms_ssim, kind="image", on=COUNTERPARTS, paired=True,
        better="higher", range="0 to 1", text="Structural similarity over five scales; needs 176 px or more.",
    ),
    "lpips": Metric(
        fn=lpips, kind="image", on=COUNTERPARTS, paired=True, network=open_lpips,
        better="lower", range="0 to about 1", text="Perceptual distance from the target.",
    ),
    "pixel_accuracy": Metric(
        fn=pixel_accuracy, kind="labels", on=COUNTERPARTS, paired=True,
        better="higher", range="0 to 1", text="Share of pixels with the target's label.",
    ),
    "mean_iou": Metric(
        fn=mean_iou, kind="labels", on=COUNTERPARTS, paired=True,
        better="higher", range="0 to 1", text="Intersection over union of the labels, averaged over classes.",
    ),
    "cycle": Metric(
        fn=l1, kind="image", on=("source", "cycled"),
        better="lower", range="0 to 1", text="Mean absolute difference after a round trip.",
    ),
    "identity": Metric(
        fn=l1, kind="image", on=("real", "identity"),
        better="lower", range="0 to 1", text="Mean absolute change of images of the target domain.",
    ),
    "structure": Metric(
        fn=structure, kind="image", on=("source", "fake"),
        better="higher", range="-1 to 1", text="Correlation of the edges with those of the source.",
    ),
    "drift": Metric(
        fn=drift, kind="pixels", on=WHOLE_SETS,
        better="lower", range="0 to 1", text="Shift of the channels' mean and deviation from those of the real images.",
    ),
    "fid": Metric(
        fn=frechet.fid, kind="features", on=WHOLE_SETS, too_few=frechet.too_few,
        better="lower", range="0 to infinity", text="Fréchet distance of features.",
    ),
    "kid": Metric(
        fn=kernel.kid, kind="features", on=WHOLE_SETS, options=("subsets", "subset_size"), too_few=kernel.too_few,
        better="lower", range="0 to infinity; values near 0 may be negative",
        text="Kernel distance of features; unbiased, so it suits few images.",
    ),
    "precision": Metric(
        fn=precision, kind="features", on=WHOLE_SETS, options=("neighbours",),
        better="higher", range="0 to 1", text="Share of generated images that look real.",
    ),
    "recall": Metric(
        fn=recall, kind="features", on=WHOLE_SETS, options=("neighbours",),
        better="higher", range="0 to 1", text="Share of the real variety that is generated.",
    ),
    "density": Metric(
        fn=density, kind="features", on=WHOLE_SETS, options=("neighbours",),
        better="higher", range="0 upwards, about 1 for identical sets", text="Outlier-robust precision.",
    ),
    "coverage": Metric(
        fn=coverage, kind="features", on=WHOLE_SETS, options=("neighbours",),
        better="higher", range="0 to 1", text="Outlier-robust recall.",
    ),
    "inception_score": Metric(
        fn=inception_score.inception_score, kind="logits", on=("fake",), too_few=inception_score.too_few,
        better="higher", range="1 to the number of classes", text="Confidence and diversity of predicted classes.",
    ),
}  # fmt: skip


def base_name(key: str) -> str:
    """Return the entry of `METRICS` that a score belongs to: "kid" for "kid[encoder]", "mean_iou" for "iou[3]"."""
    name = key.partition("[")[0]
    return "mean_iou" if name == "iou" else name


def sign_of(key: str) -> int:
    """Return 1 if higher scores are better, -1 if lower ones are, 0 for neither and for an unknown metric."""
    metric = METRICS.get(base_name(key))
    return 0 if metric is None else metric.sign


def is_better(key: str, score: float, other: float) -> bool:
    """Tell whether `score` is better than `other`."""
    return sign_of(key) * score > sign_of(key) * other


def best_of(key: str, scores: Mapping[Key, float | None]) -> Key | None:
    """Return the first key with the best score; None if no score is a number, or neither direction is better."""
    known = {name: x for name, x in scores.items() if x is not None and not math.isnan(x)}
    sign = sign_of(key)
    return max(known, key=lambda name: sign * known[name]) if sign and known else None


def names_of(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in a list, or in text with commas.

    Raises:
        ConfigError: if there is no such metric.
    """
    texts = [metrics] if isinstance(metrics, str) else metrics
    names = tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    for name in names:
        choose("metric", name, METRICS)
    return names

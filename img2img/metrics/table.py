"""Metrics by name. To add one: its function, and one entry here."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from img2img.errors import choose
from img2img.metrics.distributions import (
    fid,
    fid_too_few,
    inception_score,
    inception_score_too_few,
    kid,
    kid_too_few,
)
from img2img.metrics.drift import drift
from img2img.metrics.labels import mean_iou, pixel_accuracy
from img2img.metrics.manifold import coverage, density, precision, recall
from img2img.metrics.paired import l1, ms_ssim, psnr, ssim
from img2img.metrics.perceptual import lpips, open_lpips
from img2img.metrics.structure import structure

SIGNS = {"higher": 1, "lower": -1}
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Metric:
    """A metric: its computation, and its reading.

    Attributes:
        fn: its function, whose arguments depend on `kind`.
        better: whether higher or lower values are better; None for neither.
        range: the range of its values, for display.
        text: one line for help and docs.
        kind: what `fn` takes: two batches of images, to give a value for each image ("image"); a confusion matrix
            ("labels"); the features of all real and all fake images ("features"); the logits of all fake images
            ("logits"); the moments of all pixels, real and fake ("pixels").
        on: the images it compares: source, real, fake, cycled, identity. A metric of whole sets takes the real ones
            that the scorer was prepared with.
        paired: whether the real images must be the counterparts of the fake ones.
        options: the fields of `MetricOptions` that `fn` takes as keywords.
        network: builds the network that `fn` takes as its last argument.
        too_few: returns a caution on a value from n images and D features, or "".
    """

    fn: Callable[..., Any]
    better: Literal["higher", "lower"] | None
    range: str
    text: str
    _: KW_ONLY
    kind: Literal["image", "labels", "features", "logits", "pixels"]
    on: tuple[str, ...]
    paired: bool = False
    options: tuple[str, ...] = ()
    network: Callable[..., Any] | None = None
    too_few: Callable[..., str] | None = None

    @property
    def sign(self) -> int:
        """Return 1 if higher is better, -1 if lower is, 0 for neither."""
        return SIGNS.get(self.better or "", 0)


of_pairs = partial(Metric, kind="image", on=("real", "fake"), paired=True)  # each result and its true answer
of_labels = partial(Metric, kind="labels", on=("real", "fake"), paired=True)
of_input = partial(Metric, kind="image")
of_features = partial(Metric, kind="features", on=("real", "fake"))  # of all real and all generated images
near = partial(of_features, options=("neighbours",))
METRICS: dict[str, Metric] = {
    "l1": of_pairs(l1, "lower", "0 to 1", "Mean absolute difference from the target."),
    "psnr": of_pairs(psnr, "higher", "0 dB to infinity", "Peak signal-to-noise ratio to the target."),
    "ssim": of_pairs(ssim, "higher", "-1 to 1", "Structural similarity to the target."),
    "ms_ssim": of_pairs(ms_ssim, "higher", "0 to 1", "Structural similarity over five scales; needs 176 px or more."),
    "lpips": of_pairs(lpips, "lower", "0 to about 1", "Perceptual distance from the target.", network=open_lpips),
    "pixel_accuracy": of_labels(pixel_accuracy, "higher", "0 to 1", "Share of pixels with the target's label."),
    "mean_iou": of_labels(
        mean_iou, "higher", "0 to 1", "Intersection over union of the labels, averaged over classes."
    ),
    "cycle": of_input(l1, "lower", "0 to 1", "Mean absolute difference after a round trip.", on=("source", "cycled")),
    "identity": of_input(
        l1, "lower", "0 to 1", "Mean absolute change of images of the target domain.", on=("real", "identity")
    ),
    "structure": of_input(
        structure, "higher", "-1 to 1", "Correlation of the edges with those of the source.", on=("source", "fake")
    ),
    "drift": of_features(
        drift, "lower", "0 to 1", "Shift of the channels' mean and deviation from those of the real images.",
        kind="pixels",
    ),
    "fid": of_features(fid, "lower", "0 to infinity", "Fréchet distance of features.", too_few=fid_too_few),
    "kid": of_features(
        kid, "lower", "0 to infinity; values near 0 may be negative",
        "Kernel distance of features; unbiased, so it suits few images.",
        options=("subsets", "subset_size"), too_few=kid_too_few,
    ),
    "precision": near(precision, "higher", "0 to 1", "Share of generated images that look real."),
    "recall": near(recall, "higher", "0 to 1", "Share of the real variety that is generated."),
    "density": near(density, "higher", "0 upwards, about 1 for identical sets", "Outlier-robust precision."),
    "coverage": near(coverage, "higher", "0 to 1", "Outlier-robust recall."),
    "inception_score": Metric(
        inception_score, "higher", "1 to the number of classes",
        "Confidence and diversity of predicted classes.", kind="logits", on=("fake",), too_few=inception_score_too_few,
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

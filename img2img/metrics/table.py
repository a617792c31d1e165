"""Metrics by name. To add one: its function, and one entry here."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from img2img.errors import choose
from img2img.metrics import frechet, inception_score, kernel
from img2img.metrics.drift import drift
from img2img.metrics.labels import mean_iou, pixel_accuracy
from img2img.metrics.manifold import coverage, density, precision, recall
from img2img.metrics.paired import l1, ms_ssim, psnr, ssim
from img2img.metrics.perceptual import lpips, open_lpips
from img2img.metrics.score import Score as Score
from img2img.metrics.structure import structure


class Metric(NamedTuple):
    """How a metric is computed, and how it is read.

    Attributes:
        fn: by kind: of two batches of images, the value of each image ("image"); of a confusion matrix ("labels"); of
            the features of all real and all fake images ("features"); of the logits of all fake images ("logits"); of
            the moments of all pixels, real and fake ("pixels").
        kind: see `fn`.
        on: the images it compares: source, real, fake, cycled, identity. A metric of whole sets takes the real ones
            that the scorer was prepared with.
        higher_is_better: which way is up; None for neither.
        range: of its values, for people.
        text: one line for help and docs.
        paired: whether the real images must be the counterparts of the fake ones.
        options: the fields of `MetricOptions` that `fn` takes as keywords.
        network: makes the network that `fn` takes as its last argument.
        too_few: what to know of a value from n images and D features, in words.
    """

    fn: Callable[..., Any]
    kind: str
    on: tuple[str, ...]
    higher_is_better: bool | None
    range: str
    text: str
    paired: bool = False
    options: tuple[str, ...] = ()
    network: Callable[..., Any] | None = None
    too_few: Callable[..., str] | None = None


PAIR, SETS = ("real", "fake"), ("real", "fake")
K = ("neighbours",)
METRICS: dict[str, Metric] = {
    "l1": Metric(l1, "image", PAIR, False, "0 to 1", "Mean absolute difference to the target.", True),
    "psnr": Metric(psnr, "image", PAIR, True, "0 dB to infinity", "Peak signal-to-noise ratio to the target.", True),
    "ssim": Metric(ssim, "image", PAIR, True, "-1 to 1", "Structural similarity to the target.", True),
    "ms_ssim": Metric(ms_ssim, "image", PAIR, True, "0 to 1", "The same over five scales; from 176 px.", True),
    "lpips": Metric(
        lpips, "image", PAIR, False, "0 to about 1", "Perceptual distance to the target.", True, network=open_lpips
    ),
    "pixel_accuracy": Metric(
        pixel_accuracy, "labels", PAIR, True, "0 to 1", "Share of pixels with the target's label.", True
    ),
    "mean_iou": Metric(
        mean_iou, "labels", PAIR, True, "0 to 1", "Intersection over union of the labels, mean over classes.", True
    ),
    "cycle": Metric(
        l1, "image", ("source", "cycled"), False, "0 to 1", "Mean absolute difference after there and back."
    ),
    "identity": Metric(
        l1, "image", ("real", "identity"), False, "0 to 1", "Mean absolute change of images of the target domain."
    ),
    "structure": Metric(
        structure, "image", ("source", "fake"), True, "-1 to 1", "Correlation of the edges with those of the source."
    ),
    "drift": Metric(
        drift, "pixels", SETS, False, "0 to 1", "Shift of the channels' mean and deviation against the real images."
    ),
    "fid": Metric(
        frechet.fid,
        "features",
        SETS,
        False,
        "0 to infinity",
        "Fréchet distance of features.",
        too_few=frechet.too_few,
    ),
    "kid": Metric(
        kernel.kid,
        "features",
        SETS,
        False,
        "0 to infinity, about 0 also from below",
        "Kernel distance of features; unbiased, for few images.",
        options=("subsets", "subset_size"),
        too_few=kernel.too_few,
    ),
    "precision": Metric(precision, "features", SETS, True, "0 to 1", "Share of images that look real.", options=K),
    "recall": Metric(recall, "features", SETS, True, "0 to 1", "Share of the real variety that is there.", options=K),
    "density": Metric(
        density, "features", SETS, True, "0 upwards, about 1 where alike", "Precision that outliers spare.", options=K
    ),
    "coverage": Metric(coverage, "features", SETS, True, "0 to 1", "Recall that outliers spare.", options=K),
    "inception_score": Metric(
        inception_score.inception_score,
        "logits",
        ("fake",),
        True,
        "1 to the number of classes",
        "Sureness and variety of classes.",
        too_few=inception_score.too_few,
    ),
}


def base_name(key: str) -> str:
    """The name in `METRICS` of a key of `Row.scores`: "kid[encoder]" is of kid, "iou[3]" of mean_iou."""
    name = key.partition("[")[0]
    return "mean_iou" if name == "iou" else name


def names_of(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Names from a list, or from text with commas.

    Raises:
        ConfigError: if there is no such metric.
    """
    given = [metrics] if isinstance(metrics, str) else metrics
    names = tuple(dict.fromkeys(name.strip() for text in given for name in text.split(",") if name.strip()))
    for name in names:
        choose("metric", name, METRICS)
    return names

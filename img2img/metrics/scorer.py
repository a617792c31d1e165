"""Scoring generated images: opens what the metrics need once, and accumulates images batch by batch."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from img2img.errors import ConfigError, DataError, choose, listed
from img2img.metrics.cache import FeatureCache
from img2img.metrics.drift import Moments
from img2img.metrics.encoder import open_encoder, standardised
from img2img.metrics.features import open_network
from img2img.metrics.labels import Palette, confusion, read_palette
from img2img.metrics.network import ENCODER, Network
from img2img.metrics.options import MetricOptions
from img2img.metrics.score import Score
from img2img.metrics.table import METRICS, Metric

FEATURES = {"features", "logits"}
CPU = torch.device("cpu")
T = TypeVar("T")


class Scorer:
    """Metrics of one domain, ready to score any number of models against the same real images.

    Args:
        names: of `METRICS`.
        options: networks, weights and sizes.
        channels: of the images of the domain.
        device: where networks run.
        cache: a folder that keeps the features of all images.

    Attributes:
        notes: cautions on the scores; grows as they are computed.

    Raises:
        ConfigError: for a name or an option that does not exist or does not fit the channels.
        ModelFileError: if the weights of a network are not on this machine.
    """

    def __init__(
        self,
        names: Sequence[str],
        options: MetricOptions | None = None,
        channels: int = 3,
        device: torch.device = CPU,
        cache: Path | None = None,
    ) -> None:
        self.options, self.channels, self.device = options or MetricOptions(), channels, device
        self.metrics: dict[str, Metric] = {name: choose("metric", name, METRICS) for name in names}
        self.notes: list[str] = []
        self.network: Network | None = None
        self.palette: Tensor | None = None
        self.real_features: Tensor | None = None
        self.real_moments: Moments | None = None
        self.kinds = {metric.kind for metric in self.metrics.values()}
        if self.options.features_weights is not None and self.options.features == ENCODER:
            raise ConfigError("--features-weights needs a network: name it, e.g. --features inception.")
        self.keys = {name: name for name in self.metrics}
        self.fns = {name: self._with_network(metric) for name, metric in self.metrics.items()}
        if "lpips" in self.keys:
            self.keys["lpips"] = f"lpips[{self.options.lpips_net}]"
        if self.kinds & FEATURES and self.options.features != ENCODER:
            self.network = open_network(self.options, channels, device)
        if "logits" in self.kinds and not (self.network is not None and self.network.classes):
            raise ConfigError(
                f"inception_score needs a network with classes, and {self.options.features} has none. Use kid."
            )
        self.cache = self._open_cache(cache) if cache else None
        if "labels" in self.kinds and self.options.palette is not None:
            self.palette = read_palette(Path(self.options.palette), channels)

    def _with_network(self, metric: Metric) -> Callable[..., Tensor]:
        if metric.network is None:
            return metric.fn
        network = metric.network(self.options, self.channels).to(self.device)
        return lambda x, y: metric.fn(x, y, network)

    def _open_cache(self, folder: Path) -> FeatureCache:
        if not self.kinds & FEATURES:
            names = ", ".join(self.metrics)
            raise ConfigError(f"--cache keeps features, and none of {names} takes any: add --metric kid.")
        name = self.options.features
        if self.network is None or self.network.file is None:
            raise ConfigError(
                f"--cache keeps features of a network that never changes, and {name} is fitted to the real images: add "
                "--features with inception, a classifier or a file."
            )
        return FeatureCache(folder, Path(name).suffix or name, self.network.file, self.network.extract, self.device)

    @torch.no_grad()
    def prepare(self, real: Callable[[], Iterable[Tensor]]) -> None:
        """Extract from the real images what the metrics compare with: features, moments of pixels, colours.

        Args:
            real: starts a pass over them, in batches (N, C, H, W) in [-1, 1] of any sizes. It is called only as often
                as needed: not at all, once, or twice for the encoder.

        Raises:
            DataError: if there are no images, or they do not fit the metrics.
        """
        fitted = "features" in self.kinds and self.options.features == ENCODER
        if fitted:
            whole = Moments(self.channels)
            for images in self._checked(real()):
                whole.add(images)
            self.network = open_encoder(whole, self.device)
        needed = self.kinds & {"features", "pixels"} | ({"labels"} & self.kinds if self.palette is None else set())
        if not needed:
            return
        moments, palette, features = Moments(self.channels), Palette(self.channels), list[Tensor]()
        for images in self._checked(real()):
            if "features" in needed:
                features.append(self.features(images)[0])
            if "pixels" in needed:
                moments.add(images)
            if "labels" in needed:
                palette.add(images)
        self.real_features = torch.cat(features) if "features" in needed else None
        if fitted and self.network is not None and self.real_features is not None:
            self.network, self.real_features = standardised(self.network, self.real_features)
        self.real_moments = moments if "pixels" in needed else None
        self.palette = palette.colours if "labels" in needed else self.palette
        self.keep()

    def _checked(self, real: Iterable[Tensor]) -> Iterable[Tensor]:
        n = 0
        for images in real:
            n += len(images)
            _check("real", images, self.channels)
            yield images
        if n == 0:
            raise DataError("There are no real images to compare with.")

    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of images (N, C, H, W), on the CPU."""
        if self.cache is not None:
            return self.cache(images.float())
        network = _prepared(self.network, "adding images: it fits the encoder")
        features, logits = network.extract(images.to(self.device).float())
        return features.cpu(), None if logits is None else logits.cpu()

    def keep(self) -> None:
        """Write features that are new into the cache, if there is one, and note which machines gave others."""
        if self.cache is None:
            return
        self.cache.write()
        if self.cache.others:
            others = listed(sorted(self.cache.others))
            self.notes.append(f"some features were computed on {others}; the last digits may differ from those of here")

    def row(self) -> "ScoreRow":
        """Return an empty row, for the images of one model."""
        return ScoreRow(self)


class ScoreRow:
    """The scores of one model: add its images, then call `scores`.

    Attributes:
        per_image: the values of per-image metrics, in the order of adding.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.per_image: dict[str, list[float]] = {}
        self._scorer = scorer
        self._features: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._moments = Moments(scorer.channels)
        self._confusion = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def add(
        self,
        *,
        source: Tensor | None = None,
        real: Tensor | None = None,
        fake: Tensor | None = None,
        cycled: Tensor | None = None,
        identity: Tensor | None = None,
    ) -> None:
        """Add batches (N, C, H, W) in [-1, 1] of the same N; a metric that lacks one of its images is skipped.

        Raises:
            DataError: if they do not match or are not finite.
        """
        scorer = self._scorer
        arguments = {"source": source, "real": real, "fake": fake, "cycled": cycled, "identity": identity}
        batches = {name: x for name, x in arguments.items() if x is not None}
        for name, x in batches.items():
            _check(name, x, None if name in ("source", "cycled") else scorer.channels)
        if len({len(x) for x in batches.values()}) > 1:
            counts = ", ".join(f"{len(x)} {name}" for name, x in batches.items())
            raise DataError(f"Images that belong together must be equally many of each kind, not {counts}.")
        for name, metric in scorer.metrics.items():
            if metric.kind not in ("image", "labels") or not set(metric.on) <= set(batches):
                continue
            x, y = (batches[kind] for kind in metric.on)
            _check_pair(name, metric, x, y)
            if metric.kind == "image":
                values = scorer.fns[name](x.to(scorer.device), y.to(scorer.device))
                self.per_image.setdefault(scorer.keys[name], []).extend(values.tolist())
        if "labels" in scorer.kinds and real is not None and fake is not None:
            palette = _prepared(scorer.palette, "adding images: it finds the colours of the labels")
            self._confusion = self._confusion + confusion(real, fake, palette)
        if fake is not None and scorer.kinds & FEATURES:
            features, logits = scorer.features(fake)
            self._features.append(features)
            self._logits += [] if logits is None else [logits]
        if fake is not None and "pixels" in scorer.kinds:
            self._moments.add(fake)

    @torch.no_grad()
    def scores(self) -> dict[str, Score]:
        """Return the scores by protocol: "l1"; "kid" of Inception, "kid[encoder]" of the encoder; "mean_iou", "iou[3]".

        A metric is absent if none of its images were added.

        Raises:
            DataError: if there are too few images for a metric.
        """
        self._scorer.keep()
        scores: dict[str, Score] = {}
        for name, metric in self._scorer.metrics.items():
            key = self._scorer.keys[name]
            if metric.kind == "image" and (values := self.per_image.get(key)):
                scores[key] = Score(math.fsum(values) / len(values))
            elif metric.kind == "labels" and self._confusion.ndim:
                scores |= metric.fn(self._confusion)
            elif metric.kind == "pixels" and self._moments.count:
                real = _prepared(self._scorer.real_moments, f"scores: {name} compares with the real images")
                scores[key] = Score(metric.fn(real, self._moments))
            elif metric.kind in FEATURES and self._features and self._scorer.network is not None:
                key += self._scorer.network.suffix
                scores[key] = self._of_sets(key, metric, self._scorer.network.note)
        return scores

    def _of_sets(self, key: str, metric: Metric, note: str) -> Score:
        scorer = self._scorer
        if metric.kind == "logits":
            sets = [torch.cat(self._logits)]
        else:
            real = _prepared(scorer.real_features, f"scores: {key} compares with the real images")
            sets = [real, torch.cat(self._features)]
        few = "" if metric.too_few is None else metric.too_few(min(map(len, sets)), sets[0].shape[1], scorer.options)
        for subject, caution in ((key, few), (scorer.options.features, note)):
            if caution and f"{subject}: {caution}" not in scorer.notes:
                scorer.notes.append(f"{subject}: {caution}")
        choices = {option: getattr(scorer.options, option) for option in metric.options}
        score: Score = metric.fn(*sets, **choices)
        return score


def _prepared(value: T | None, before: str) -> T:
    if value is None:
        raise RuntimeError(f"Call Scorer.prepare before {before}.")
    return value


def _check(name: str, images: Tensor, channels: int | None) -> None:
    if images.ndim != 4 or (channels is not None and images.shape[1] != channels):
        wanted = f"N×{channels or 'C'}×H×W"
        raise DataError(f"The {name} images are {'×'.join(map(str, images.shape))}; expected {wanted}.")
    if not torch.isfinite(images).all():
        raise DataError(f"The {name} images hold values that are not finite: the network or its input is broken.")


def _check_pair(name: str, metric: Metric, x: Tensor, y: Tensor) -> None:
    same = x.shape[-2:] == y.shape[-2:] and (name == "structure" or x.shape[1] == y.shape[1])
    if not same:
        a, b = ("×".join(map(str, z.shape[1:])) for z in (x, y))
        raise DataError(f"{name} compares images of the same shape; {metric.on[0]} is {a}, {metric.on[1]} {b}.")

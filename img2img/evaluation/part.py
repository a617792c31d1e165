"""Features of one part of the images of two folders, computed and kept for an evaluation of all of them."""

import time
from collections.abc import Sequence
from dataclasses import asdict

import torch

from img2img.data.scale import Scale
from img2img.data.shards import Shard
from img2img.evaluation.evaluator import OF_FOLDERS, OF_PAIRS, Progress
from img2img.evaluation.options import EvaluateOptions
from img2img.evaluation.scores import Evaluation
from img2img.evaluation.sides import Side, batches_of, chunks
from img2img.metrics.options import MetricOptions
from img2img.metrics.scorer import FEATURES, Scorer
from img2img.metrics.table import METRICS
from img2img.runtime.device import environment


def keep_features(
    source: Side,
    real: Side,
    scale: Scale,
    chosen: EvaluateOptions,
    names: Sequence[str],
    metrics: MetricOptions,
    device: torch.device,
    progress: Progress,
) -> Evaluation:
    """Compute and keep the features of the part `chosen.shard` of both sides; return an evaluation without scores.

    Args:
        source: the images to judge.
        real: the reference.
        scale: how the pixel values of both map to [-1, 1].
        chosen: the part, the folder of features, and the folders of images.
        names: the metrics that are to be computed in the end.
        metrics: their options.
        device: where the network of features runs.
        progress: called with the number of images done, and of all.
    """
    begin, shard = time.perf_counter(), Shard.parse(chosen.shard)
    names = names or (OF_PAIRS if chosen.paired else OF_FOLDERS)
    of_features = [name for name in names if METRICS[name].kind in FEATURES]
    scorer = Scorer(of_features or names, metrics, real.domain.channels, device, chosen.judging["cache"])
    parts = real.part(shard, chosen.real), source.part(shard, chosen.fake)
    done, total = 0, sum(map(len, parts))
    try:
        for part in parts:
            for images in chunks(part):
                for batches in batches_of(images=[scale.encode(x) for x in images]):
                    scorer.features(batches["images"])
                progress(done := done + len(images), total)
    finally:
        scorer.keep()
    protocol = {
        "images": len(parts[1]),
        "real_images": len(parts[0]),
        "paired": chosen.paired,
        "size": chosen.cut_in_words,
        "features": metrics.features,
        "shard": str(shard),
        "cache": chosen.cache,
        "source": source.folder,
        "real": real.folder,
        "options": asdict(metrics),
        "notes": scorer.notes,
        "img2img": environment()["img2img"],
        "seconds": round(time.perf_counter() - begin, 2),
    }
    return Evaluation(protocol, {})

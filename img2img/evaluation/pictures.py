"""Pictures of held-out images beside their translations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from img2img.data.grid import draw_grid
from img2img.evaluation.evaluator import Evaluator
from img2img.evaluation.scores import Evaluation
from img2img.metrics.table import sign_of
from img2img.model.translator import Translator
from img2img.report.result import ranked_by

SHOWN, EDGE = 3, 256  # best and worst images of a picture, and the largest edge of each


def best_and_worst(evaluator: Evaluator, model: Translator, evaluation: Evaluation) -> Image.Image:
    """Draw the best and worst translations by the first per-image metric; without one, the first translations."""
    which = ranked_by(evaluation.per_image)
    order = list(range(len(evaluator.source)))
    count = max(1, min(SHOWN, len(order) // 2))
    groups = {"": order[: 2 * count]}
    if which:
        values = list(evaluation.per_image[which].values())
        order.sort(key=lambda i: -sign_of(which) * values[i])
        groups = {"best ": order[:count], "worst ": order[-count:]}
    columns: dict[str, Any] = {}
    for title, numbers in groups.items():
        columns |= _columns(evaluator, {"output": model}, numbers, title)
    return draw_grid(columns)


def side_by_side(evaluator: Evaluator, models: Mapping[str, Translator], numbers: Sequence[int]) -> Image.Image:
    """Draw the source images of these numbers, and what each model makes of them."""
    return draw_grid(_columns(evaluator, models, numbers))


def _columns(
    evaluator: Evaluator, models: Mapping[str, Translator], numbers: Sequence[int], prefix: str = ""
) -> dict[str, Any]:
    sources = [evaluator.source[i] for i in numbers]
    columns = {"input": [evaluator.scale_in.encode(x) for x in sources]}
    for title, model in models.items():
        columns[title] = [evaluator.scale.encode(x) for x in model(sources)]
    if evaluator.paired:
        columns["truth"] = [evaluator.scale.encode(evaluator.real[i]) for i in numbers]
    return {f"{prefix}{title}": [_shrunk(x) for x in images] for title, images in columns.items()}


def _shrunk(image: Tensor) -> Tensor:
    """Shrink an image to at most `EDGE` on each side."""
    factor = EDGE / max(image.shape[1:])
    if factor >= 1:
        return image
    return F.interpolate(image[None], scale_factor=factor, mode="bilinear", antialias=True)[0]

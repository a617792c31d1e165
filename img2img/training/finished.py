"""The evaluation of a finished run, for its report."""

import json

from img2img.data.samples import HeldOut
from img2img.errors import TrainingError
from img2img.evaluation.evaluate import keep
from img2img.evaluation.evaluator import Evaluator
from img2img.evaluation.options import EvaluateOptions
from img2img.evaluation.sides import Sides
from img2img.metrics.options import MetricOptions
from img2img.model.translator import Translator
from img2img.report.run import rewrite_report
from img2img.runs.folder import RunFolder
from img2img.training.validation import IMAGES


def evaluate_finished(
    files: RunFolder, model: Translator, heldout: HeldOut, paired: bool, anew: bool, options: MetricOptions
) -> None:
    """Evaluate the newest model of a run on some of its held-out images; `img2img evaluate` takes all of them.

    What has been evaluated is evaluated again only `anew`; otherwise the report alone is drawn again.

    Raises:
        TrainingError: if the results cannot be written.
    """
    if not anew and is_evaluated(files, model):
        rewrite_report(files.path)  # it may lack the evaluation, if a kill came between
        return
    domains = heldout.domains["a"], heldout.domains["b"]
    sides = Sides.held_out(domains, heldout.config, paired, files.path, EvaluateOptions(limit=IMAGES))
    evaluator = Evaluator.for_model(model, sides, options=options)
    try:
        keep(files.path, evaluator, model, evaluator.of_model(model))
    except OSError as error:
        raise TrainingError(f"Trained, but {files.path} does not take the evaluation: {error.strerror}.") from error


def is_evaluated(files: RunFolder, model: Translator) -> bool:
    """Tell whether the newest model has been evaluated; a kill may have come before that."""
    try:
        step = json.loads(files.evaluation.read_text())["protocol"]["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return step == model.card.step and files.evaluation_picture.is_file()

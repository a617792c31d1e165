"""The judgement of each batch and channel on its own: a mean over channels hides the one that got worse."""

from collections.abc import Sequence

import numpy as np

from img2img.data.picture import Array
from img2img.lab.judgement.case import Case
from img2img.lab.judgement.objects import SIGNAL
from img2img.lab.judgement.scores import Scores

STEP_NOISE = 0.29  # standard deviation of rounding, in steps of whole numbers: there is no less noise than that
FLAT_NOISE = 1e-5  # of the range; the least noise of floats
PIXELS = 65536  # of an image, evenly spread, that noise is measured on
QUIET = 0.9  # share of the pixels, those with the least detail, that noise is measured on: edges are no noise
WORST = {"noise_worst": "noise", "shift_worst": "rise"}  # a method's score: that of each channel
LEAST = 0.02  # of the control shift, which counts as a difference at all
ERRORS = 2.0  # standard errors between groups that a rise of the control shift must exceed


def measure_channels(case: Case, after: Sequence[Array]) -> dict[str, Scores]:
    """Return for each channel of each batch but the reference, called "batch, channel":

    `noise`, over the larger of the reference's and that of the batch's own input; `shift`, the log ratio of the
    controls' brightness inside objects to the reference's; `doubt`, 2 standard errors of it between groups; `rise`, by
    how much `shift` is farther from 0 than without correction, beyond the doubt. None where it cannot be measured.
    """
    was, now = (np.array([_noise(image) for image in images]) for images in (case.before, after))
    least = STEP_NOISE if case.before[0].dtype.kind == "u" else FLAT_NOISE * (case.scale[:, 1] - case.scale[:, 0])
    before, doubt = _log_ratios(case, case.means)
    moved, _ = _log_ratios(case, np.maximum(case.object_means(after), 1.01 * SIGNAL))  # no signal is dark
    found: dict[str, Scores] = {}
    for name in case.batches[1:]:
        here, there = case.batch == name, case.batch == case.reference
        own, reference = was[here].mean(0), was[there].mean(0)
        noise = np.where(own > 0, now[here].mean(0) / np.maximum(np.maximum(own, reference), least), np.nan)
        rise = np.abs(moved[name]) - np.abs(before[name]) - doubt[name]
        for c, channel in enumerate(case.channels or map(str, range(len(own)))):
            values = {"noise": noise[c], "shift": moved[name][c], "doubt": doubt[name][c], "rise": rise[c]}
            found[f"{name}, {channel}"] = {k: None if np.isnan(v) else float(v) for k, v in values.items()}
    return found


def worst(channels: dict[str, Scores]) -> tuple[Scores, dict[str, str]]:
    """Return the `WORST` of the scores of channels, and the batch and channel that each is of."""
    scores: Scores = dict.fromkeys(WORST)
    places = {}
    for name, part in WORST.items():
        values = {place: value for place, found in channels.items() if (value := found[part]) is not None}
        if values:
            places[name] = max(values, key=values.__getitem__)
            scores[name] = values[places[name]]
    return scores, places


def interval(shift: float | None, channels: dict[str, Scores]) -> Scores:
    """Return the interval of the control shift, as wide as the mean doubt of the channels; None if there is none."""
    doubts = [d for found in channels.values() if found["rise"] is not None and (d := found["doubt"]) is not None]
    if shift is None or not doubts:
        return {"shift_control_low": None, "shift_control_high": None}
    half = max(float(np.mean(doubts)), LEAST)
    return {"shift_control_low": shift - half, "shift_control_high": shift + half}


def _noise(image: Array) -> Array:
    """Return each channel's mean second mixed difference over the quiet pixels, (C,); 0 if it is constant."""
    if min(image.shape[1:]) < 2:
        return np.zeros(len(image))
    x = image.astype(np.float32)
    detail = np.abs(np.diff(np.diff(x, axis=1), axis=2)).reshape(len(x), -1) / 2
    detail = detail[:, :: -(-detail.shape[1] // PIXELS)]
    quiet = np.partition(detail, int(QUIET * (detail.shape[1] - 1)), axis=1)[:, : int(QUIET * detail.shape[1]) or 1]
    return np.asarray(quiet.mean(1, dtype=np.float64))


def _log_ratios(case: Case, means: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return for each batch the log ratio (C,) of its controls' brightness to the reference's, and `ERRORS` standard
    errors of it; NaN for a channel without signal, or of which one batch has a single group.
    """
    true = np.ones_like(means) if case.truth is None else case.object_means(case.truth)
    levels, errors = {}, {}
    for name in case.batches:
        rows = (case.batch == name) & case.controls & np.isfinite(means).all(1) & np.isfinite(true).all(1)
        wells = [rows & (case.group == group) for group in np.unique(case.group[rows])]
        logs = np.array([_logs(means[well].mean(0)) for well in wells]).reshape(len(wells), means.shape[1])
        several = len(wells) > 1
        none = np.full(means.shape[1], np.nan)
        levels[name] = _logs(means[rows].mean(0)) - np.log(true[rows].mean(0)) if len(wells) else none
        errors[name] = logs.std(0, ddof=1) / len(wells) ** 0.5 if several else none
        if case.truth is not None:  # the content of the batches is known, so nothing is left to chance
            errors[name] = np.zeros_like(none)
    reference, doubt = levels[case.reference], errors[case.reference]
    return (
        {name: level - reference for name, level in levels.items()},
        {name: ERRORS * np.hypot(error, doubt) for name, error in errors.items()},
    )


def _logs(values: Array) -> Array:
    """Return the logs of values (C,); NaN for those without signal."""
    return np.log(values, out=np.full_like(values, np.nan), where=values > SIGNAL)

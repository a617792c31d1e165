"""The judgement of a fitted equalizer on images it was not fitted to, beside the baselines."""

from collections.abc import Callable, Sequence
from typing import Any

from img2img.data.picture import Array
from img2img.errors import InputError, counted
from img2img.lab import checks, design as rules
from img2img.lab.design import Design, fingerprint
from img2img.lab.fitted import Fitted
from img2img.lab.judgement.baselines import applicable
from img2img.lab.judgement.case import Case
from img2img.lab.judgement.judge import Evaluation, evaluate
from img2img.lab.judgement.rivals import installed
from img2img.lab.options import Parameters
from img2img.lab.transforming import equalized


def judge(
    p: Parameters,
    fitted: Fitted,
    design: Design,
    *,
    masks: Sequence[Array] | None,
    truth: Sequence[Array] | None,
    nuclei: int | str,
    dark: bool | None,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Return the judgement of an equalizer and of the baselines on the images of a design.

    Raises:
        InputError: if the images do not fit, or an image or group was part of the fit.
        ConfoundedDesignError: if labels and batches determine each other, and the fit was not on controls.
    """
    images = design.images
    fitted.expect(design.manifest)
    fitted.check(images, design.batch, p.unseen)
    channel = fitted.channel(nuclei)
    # The wells of a manifest are groups only to a fit that knew groups.
    group = None if design.manifest is not None and not fitted.groups else design.group
    if seen := sorted(set(group or []) & set(fitted.groups)):
        were = counted(len(seen), "group was", "groups were")
        raise InputError(f"{were} part of the fit ({', '.join(seen[:5])}); judge on images of other groups.")
    notes = [*fitted.notes, *design.notes]
    rules.refuse_confounded(design.batch, design.label, fitted.on_controls, p.allow_confounded, notes.append)
    chosen = rules.judged(images, design.batch, p.max_images, p.memory, notes.append)
    for i, image in enumerate(truth or ()):
        checks.check_finite(image, f"Image {i} of truth", fitted.channels)
    methods = applicable(fitted.statistics) | installed(fitted.statistics, notes.append)
    every = len(chosen)  # images; reading, equalizing by each method, and measuring each are as many steps
    made = every * (len(methods) + 2 + (fitted.generator is not None))
    total = made + made - every
    called = [images.called(i) for i in chosen]
    progress(0, total)

    def checked(i: int) -> Array:
        image: Array = images[chosen[i]]
        rules.refuse_large(image, called[i], "report")
        checks.check_range(image, called[i], fitted.dtype, fitted.highest)
        checks.check_finite(image, called[i], fitted.channels)
        return image

    before: list[Array] = rules.each(checked, called, p.n_jobs, lambda done: progress(done, total))
    if common := {*fitted.fingerprints}.intersection(map(fingerprint, before)):
        were = counted(len(common), "of the images was", "of the images were")
        raise InputError(f"{were} part of the fit; judge on others.")

    def of_chosen(values: Any) -> Any:
        return None if values is None else [values[i] for i in chosen]

    batch = of_chosen(design.batch)
    outputs = {}
    for name, method in methods.items():
        outputs[name] = method(before, batch, fitted.statistics)
        progress(every * (1 + len(outputs)), total)
    pairs = list(zip(before, batch, strict=True))
    if fitted.generator is not None:
        outputs["tone"] = [fitted.correction.corrected(x, fitted.batches.index(b)) for x, b in pairs]
    places = [
        fitted.place(image, b, group=None if design.group is None else design.group[i])
        for i, (image, b) in zip(chosen, pairs, strict=True)
    ]
    outputs[fitted.model] = [
        equalized(p, fitted, image, b, place) for (image, b), place in zip(pairs, places, strict=True)
    ]
    case = Case(
        before,
        batch=batch,
        reference=fitted.statistics.reference,
        scale=fitted.scale,
        group=of_chosen(group),
        control=of_chosen(design.control),
        label=of_chosen(design.label),
        masks=of_chosen(masks),
        truth=of_chosen(truth),
        nuclei=channel,
        dark=bool(fitted.correction.signs[channel] < 0) if dark is None else dark,
        seed=p.random_state,
        channels=fitted.channels,
        names=[design.title(i) for i in chosen],
    )
    return evaluate(
        outputs,
        case,
        judged=fitted.model,
        sham=fitted.sham,
        corrections=[found for found in fitted.corrections if found.batch != fitted.target],
        notes=dict.fromkeys(notes),
        fitted_on_controls=fitted.on_controls,
        n_jobs=p.n_jobs,
        progress=lambda done, of: progress(made + (total - made) * done // of, total),
    )

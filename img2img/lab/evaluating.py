"""The judgement of a fitted equalizer on images it was not fitted to, beside the baselines."""

from collections.abc import Callable, Sequence
from typing import Any

from img2img.data.picture import Array
from img2img.errors import InputError, counted
from img2img.lab import checks, design as rules
from img2img.lab.curves.place import Place
from img2img.lab.design import Design, fingerprint
from img2img.lab.fitted import Fitted
from img2img.lab.judgement.baselines import applicable
from img2img.lab.judgement.case import Case
from img2img.lab.judgement.judge import Evaluation, evaluate
from img2img.lab.judgement.rivals import installed
from img2img.lab.large import LargeImage
from img2img.lab.options import Parameters
from img2img.lab.pieces import Piece, are_cut
from img2img.lab.transforming import equalized, refuse_network


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
    steps = len(methods) + 1 + (fitted.generator is not None)  # of making the outputs of an image, after reading it
    progress(0, len(chosen) * (2 * steps + 1))  # for measuring them takes as many

    def read(i: int) -> tuple[int, list[tuple[Piece, Array, Place]]]:
        number, called = chosen[i], images.called(chosen[i])
        image = images[number]
        if isinstance(image, LargeImage):
            refuse_network(fitted)
        checks.check_range(image, called, fitted.dtype, fitted.highest)
        checks.check_finite(image, called, fitted.channels)
        place = fitted.place(image, design.batch[number], group=None if design.group is None else design.group[number])
        found = Piece.of(number, image)
        return fingerprint(image), [(x, x.part(image), place._replace(origin=x.origin)) for x in found]

    names = [images.called(i) for i in chosen]
    found = rules.each(read, names, p.n_jobs, lambda done: progress(done, len(chosen) * (2 * steps + 1)))
    if common := {*fitted.fingerprints}.intersection(mark for mark, _ in found):
        were = counted(len(common), "of the images was", "of the images were")
        raise InputError(f"{were} part of the fit; judge on others.")
    pieces, before, places = (list(x) for x in zip(*(piece for _, own in found for piece in own), strict=True))
    every = len(pieces)
    made = every * (steps + 1)
    total = made + every * steps

    def of_pieces(values: Any) -> Any:
        return None if values is None else [values[piece.number] for piece in pieces]

    def parts(values: Any) -> Any:
        return None if values is None else [piece.part(values[piece.number]) for piece in pieces]

    batch = of_pieces(design.batch)
    outputs = {}
    for name, method in methods.items():
        outputs[name] = method(before, batch, fitted.statistics)
        progress(every * (1 + len(outputs)), total)
    pairs = list(zip(before, batch, strict=True))
    if fitted.generator is not None:
        outputs["tone"] = [fitted.correction.corrected(x, fitted.batches.index(b)) for x, b in pairs]
    outputs[fitted.model] = [
        equalized(p, fitted, image, b, place) for (image, b), place in zip(pairs, places, strict=True)
    ]
    case = Case(
        before,
        batch=batch,
        reference=fitted.statistics.reference,
        scale=fitted.scale,
        group=[str(piece.number) for piece in pieces] if group is None and are_cut(pieces) else of_pieces(group),
        control=of_pieces(design.control),
        label=of_pieces(design.label),
        masks=parts(masks),
        truth=parts(truth),
        nuclei=channel,
        dark=bool(fitted.correction.signs[channel] < 0) if dark is None else dark,
        seed=p.random_state,
        channels=fitted.channels,
        names=[piece.called(design.title(piece.number)) for piece in pieces],
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

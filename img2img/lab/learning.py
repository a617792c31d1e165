"""Learning from images of several batches: curves, fields, statistics, and a network if the model has one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from img2img.data.picture import Array
from img2img.errors import ConfigError, InputError, choose, listed
from img2img.lab import checks, design as rules, positions
from img2img.lab.curves import trend
from img2img.lab.curves.correction import Correction
from img2img.lab.curves.found import Found
from img2img.lab.curves.measuring import Remembered, log_contrasts
from img2img.lab.curves.place import centred, plate_of
from img2img.lab.curves.stain import StainCorrection, is_rgb
from img2img.lab.design import Design, fingerprint
from img2img.lab.fitted import Fitted, GeneratorSpec
from img2img.lab.judgement import probes
from img2img.lab.judgement.baselines import Statistics
from img2img.lab.judgement.features import quick_features
from img2img.lab.judgement.quality import Familiarity
from img2img.lab.large import LargeImage
from img2img.lab.lazy import KeptImages
from img2img.lab.magnification import magnified, middle
from img2img.lab.networks.models import MODELS, Network
from img2img.lab.notes import Notes
from img2img.lab.options import Parameters
from img2img.lab.sham import fit_correction, sham, spans

EXAMPLE = 2048  # pixels a side of the part of a large image that is kept as an example
PROBED = 8  # images on which a network is checked for having any effect
CLEAR = 0.9  # share of the differences in stain below which a note says how much is corrected
IDLE = 1e-4  # mean change, as a share of the range, below which it has none


def check_parameters(p: Parameters) -> None:
    """Raise ConfigError if parameters, each of its type, make no sense together."""
    model = choose("model", p.model, MODELS)
    choose("type of output", p.out_dtype, ("same", "float32"))
    if p.target == "mean" and model.with_stains:
        raise ConfigError("The target 'mean' is for tone and tone+field; name a batch for stain, or use 'medoid'.")
    if p.target == "mean" and model.network:
        raise ConfigError(
            f"The target 'mean' is for tone and tone+field; the mean of the results of {p.model} would be blurred. "
            "Name a batch, or use 'medoid'."
        )
    if p.plate_position and (model.network or model.with_stains):
        raise ConfigError(f"plate_position is for tone and tone+field, not for {p.model}; leave it out.")
    if p.max_images < p.min_images:
        raise ConfigError(f"max_images, {p.max_images}, is less than min_images, {p.min_images}.")


def learn(p: Parameters, design: Design) -> Fitted:
    """Learn what each batch of a design needs.

    Raises:
        InputError: if images do not fit, batches have too few, or the target is unknown.
        ConfoundedDesignError: if labels and batches determine each other, and there are no controls.
    """
    model, notes = MODELS[p.model], Notes()
    if model.network is None and (p.training or p.run):
        notes(f"training= and run= are for models with a network; {p.model} does not use them.")
    design.refuse_one_batch()
    for note in design.notes:
        notes(note)
    on_controls = design.control is not None
    if p.plate_position and not on_controls:
        raise InputError(
            "plate_position learns trends from controls, since one of the treated wells may be the effect; name the "
            "controls, or leave plate_position out."
        )
    plate = plate_of(design.groups) if p.plate_position else None
    rules.refuse_confounded(design.batch, design.label, on_controls, p.allow_confounded, notes)
    if not on_controls:
        notes("No controls were named: every difference between the batches is taken for the batch effect.")
    kept, batches, groups = _usable(p, design, notes)
    agreement = None if design.manifest is None else design.manifest.agreement
    for note in [] if agreement is None else agreement.notes:
        notes(note)
    if model.network is None and not model.with_stains and is_rgb(kept[0]):
        notes(
            "These are RGB images of 8 bits. If they are stained tissue or smears on white, compare with "
            "model='stain', which moves colours rather than each channel by itself."
        )
    if model.with_field:
        rules.refuse_sizes(kept, p.model)

    names = sorted(set(batches))
    statistics = Statistics.of(kept, batches, reference=names[0], example=kept[0], n_jobs=p.n_jobs)
    medoid = rules.medoid(statistics)
    target = medoid if p.target == "medoid" else str(p.target)
    reference = medoid if p.target == "mean" else target
    members = [i for i, b in enumerate(batches) if b == reference]
    statistics = replace(statistics, reference=reference, example=example_of(kept[members[0]]))
    channels = design.images.names
    scale = rules.find_scale(statistics, channels)
    number = np.array([names.index(b) for b in batches])
    target_number = None if target == "mean" else names.index(target)
    wells = None if plate is None else np.array([centred(group, plate) for group in groups])
    measured = Remembered(kept)
    with ThreadPoolExecutor(checks.threads(p.n_jobs)) as pool:
        known, fingerprints = zip(*pool.map(lambda i: _known(kept[i], scale), range(len(kept))), strict=True)
    features = np.stack(known)
    by_chance = None
    if not spans(batches, groups):  # halves of one batch would have none in common
        own = measured.part(members), [groups[i] for i in members], scale
        at = None if wells is None else wells[members]
        by_chance = sham(*own, model.with_field, p.random_state, p.n_jobs, model.with_stains, at)
    correction, corrections = fit_correction(
        measured, number, groups, target_number, model.with_field, model.with_stains, p.n_jobs, wells
    )
    _note_stains(correction, names, notes)
    if isinstance(correction, StainCorrection) and correction.share < CLEAR:
        notes(
            f"{float(correction.share):.0%} of the differences in stain are corrected, as they are hardly larger than "
            "those between the groups (slides, images) within batches. More groups would make them surer."
        )
    network = model.network
    spec = None
    if network is not None:
        if any(isinstance(image, LargeImage) for image in kept):
            raise ConfigError(
                f"{p.model} trains a network on whole images, and some of these are above --max-megapixels; use tone, "
                "tone+field or stain, or allow more megapixels."
            )
        spec = GeneratorSpec(network.name, training_options(p, network), len(kept[0]), len(names))
    corrections = _named(corrections, names, channels)
    _note_left([found for found in corrections if found.batch != target], notes)
    if plate is not None and (few := trend.with_few_wells(batches, groups)):
        notes(
            f"Trends along the plate are not corrected in {', '.join(few)}, which have fewer than {trend.FEWEST} wells "
            "to learn from; give more."
        )
    fitted = Fitted(
        model=p.model,
        network=spec,
        batches=names,
        target=target,
        channels=None if channels is None else list(channels),
        n_channels=len(kept[0]),
        dtype=str(kept[0].dtype),
        groups=[] if design.group is None else sorted(set(groups)),
        on_controls=on_controls,
        n_images={name: batches.count(name) for name in names},
        cramers_v=None if design.label is None else probes.cramers_v(design.batch, design.label),
        fingerprints=list(fingerprints),
        sham=by_chance,
        notes=notes,
        stated=agreement and list(agreement.names(len(kept[0]))),
        pixel_size=agreement and agreement.pixel_size and agreement.pixel_size[0],
        plate=plate,
        scale=scale,
        correction=correction,
        corrections=corrections,
        familiarity=Familiarity.of(features, number, len(kept[0])),
        statistics=statistics,
    )
    remarks = [*positions.placing(design.batch, design.groups, design.control)]
    if on_controls:
        called = channels or [str(c) for c in range(len(kept[0]))]
        contrasts = log_contrasts(measured, correction.signs)
        if wells is not None and isinstance(correction, Correction):
            contrasts -= np.einsum("nct,nt->nc", correction.trends[number, :, 1], wells)
        remarks += positions.drifts(contrasts, batches, groups, called)
    for remark in [*remarks, *magnified(kept, batches, correction.signs, p.n_jobs)]:
        notes(remark)
    if network is not None:
        assert target_number is not None
        fitted = _with_network(p, network, fitted, kept, number, target_number, notes)
    return replace(fitted, notes=list(notes))


def example_of(image: Array) -> Array:
    """Return an image, or the middle of one that is too large to be held, which is kept with the equalizer."""
    return middle(image, EXAMPLE) if isinstance(image, LargeImage) else image


def _known(image: Array, scale: Array) -> tuple[Array, int]:
    """Return what is kept of an image: its features, and its checksum."""
    return quick_features(image, scale), fingerprint(image)


def _note_stains(correction: Correction | StainCorrection, names: Sequence[str], notes: Notes) -> None:
    """Note batches whose stains are not corrected."""
    if isinstance(correction, StainCorrection) and (left := correction.without_tissue):
        notes(
            f"{', '.join(names[b] for b in left)}: too little tissue, or a single stain, so these images are left "
            "unchanged. Give images with tissue, or use model='tone'."
        )


def _usable(p: Parameters, design: Design, notes: Notes) -> tuple[Sequence[Array], list[str], list[str]]:
    """Return the images to learn from, and their batches and groups."""
    chosen = rules.choose_images(design.batch, design.control, p.min_images, p.max_images)
    _check_target(p.target, sorted(set(design.batch)))
    names = [design.images.called(i) for i in chosen]
    kept = KeptImages(rules.part(design.images, chosen), p.memory * rules.GB)
    batches, groups = [design.batch[i] for i in chosen], [design.groups[i] for i in chosen]
    usable = rules.inspect(kept, batches, names, p.min_images, notes, p.n_jobs)
    batches, groups = [batches[i] for i in usable], [groups[i] for i in usable]
    if design.group is not None:
        rules.refuse_single_groups(batches, groups, design.control is not None and not p.allow_single_group, notes)
    return rules.part(kept, usable), batches, groups


def _note_left(corrections: list[Found], notes: Notes) -> None:
    if left := [f"{found.batch} ({found.channel})" for found in corrections if found.is_left]:
        notes(f"The contrast of {listed(left)} is not corrected; corrections_ says why.")


def _named(corrections: list[Found], batches: list[str], channels: Sequence[str] | None) -> list[Found]:
    """Return what was found, with names for the numbers of batches and channels."""
    return [
        replace(
            found, batch=batches[int(found.batch)], channel=channels[int(found.channel)] if channels else found.channel
        )
        for found in corrections
    ]


def _check_target(target: str, batches: list[str]) -> None:
    if target in ("medoid", "mean") and target in batches:
        raise InputError(f"A batch is called '{target}', which also names a kind of target; rename the batch.")
    if str(target) not in (*batches, "medoid", "mean"):
        raise InputError(
            f"The target '{target}' is not a batch; give one of {', '.join(batches)}, or 'medoid' or 'mean'."
        )


def training_options(p: Parameters, network: Network) -> dict[str, Any]:
    """Return the options of a network's training, with the bound of `local` among them."""
    bound = {"max_change": p.max_change} if network.name == "local" else {}
    return bound | dict(p.training or {})


def _with_network(
    p: Parameters, network: Network, fitted: Fitted, images: Sequence[Array], number: Array, target: int, notes: Notes
) -> Fitted:
    from img2img.lab.networks.training import train_generator  # imports torch, which curves do without

    notes(
        f"{p.model} trains a network: the pixel values it gives are its guesses, not measurements. "
        "Judge it by evaluate(), and keep the originals."
    )
    inputs = [fitted.network_input(image, int(b)) for image, b in zip(images, number, strict=True)]
    generator = train_generator(
        network.name,
        inputs,
        number.tolist(),
        fitted.batches,
        target,
        folder=None if p.run is None else Path(p.run),
        options=training_options(p, network),
        seed=p.random_state,
        device=p.device,
    )
    fitted = replace(fitted, generator=generator)
    moved = [(inputs[i], int(b)) for i, b in enumerate(number) if b != target][:PROBED]
    changes = [
        float(np.abs(fitted.run_network(x, b, p.device) - x).mean()) / 2 for x, b in moved
    ]  # the range is 2 wide
    if max(changes) < IDLE:
        notes(
            f"The network of {p.model} changes the images by less than {IDLE:.2%} of the range. It was trained for too "
            "short a time; give more steps in training=, and a GPU if there is one."
        )
    return fitted


def learn_batch(p: Parameters, fitted: Fitted, name: str, design: Design) -> Fitted:
    """Return the state with one more batch, learned from its images; everything else stays as it is.

    Raises:
        ConfigError: if the model has a network.
        InputError: if the batch is there already, or has too few images, or they do not fit.
    """
    if fitted.generator is not None:
        raise ConfigError(f"{fitted.model} only knows the batches it was trained on; fit again with the new one.")
    if name in fitted.batches:
        raise InputError(f"There is a batch '{name}' already; give the new one a different name.")
    fitted.expect(design.manifest)
    fitted.check(design.images, [], p.unseen)
    images, notes = design.images, Notes(fitted.notes)
    chosen = rules.choose_images([name] * len(images), None, 0, p.max_images)
    called = [images.called(i) for i in chosen]
    usable = rules.inspect(rules.part(images, chosen), [name] * len(chosen), called, p.min_images, notes)
    kept, groups = [images[chosen[i]] for i in usable], [design.groups[chosen[i]] for i in usable]
    for image in kept:
        fitted.origin(image)
    features = np.stack([fitted.familiarity.features(image, fitted.scale) for image in kept])
    wells = None if fitted.plate is None else np.array([centred(group, fitted.plate) for group in groups])
    correction, corrections = fitted.correction.with_batch(kept, groups, p.n_jobs, wells)
    corrections = _named(corrections, [name], fitted.channels)
    _note_left(corrections, notes)
    _note_stains(correction, [*fitted.batches, name], notes)
    return replace(
        fitted,
        batches=[*fitted.batches, name],
        n_images=fitted.n_images | {name: len(kept)},
        fingerprints=[*fitted.fingerprints, *map(fingerprint, kept)],
        groups=fitted.groups if design.group is None else sorted({*fitted.groups, *groups}),
        notes=list(notes),
        correction=correction,
        corrections=[*fitted.corrections, *corrections],
        familiarity=fitted.familiarity.with_batch(features),
        statistics=fitted.statistics.with_batch(name, kept),
    )

"""A recommendation before any fitting: is there a batch effect on the controls, can this design separate it from the
biology, and which route fits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
from scipy.stats import t as student

from img2img.data.picture import Array
from img2img.errors import InputError
from img2img.lab import checks, design as rules, positions
from img2img.lab.curves.measuring import Remembered, levels_of, signs as signs_of
from img2img.lab.design import Design
from img2img.lab.judgement import probes
from img2img.lab.judgement.baselines import Statistics
from img2img.lab.judgement.features import GRID, block_means, image_features
from img2img.lab.judgement.judge import CONFOUNDED
from img2img.lab.lazy import KeptImages
from img2img.lab.magnification import magnified, middle
from img2img.lab.networks.models import MODELS
from img2img.lab.options import Parameters
from img2img.lab.pieces import Piece, are_cut, in_pieces
from img2img.lab.recommendation import FEATURES, NOTHING, Difference, Recommendation
from img2img.lab.tables.rows import first_of

MOST, FEWEST = 200, 8  # images in all that are looked at; but at least so many of each batch
EDGE = 384  # pixels; features are those of the middle of larger images
LEVEL = 0.05  # of significance, divided by the number of differences that are looked at
BRIGHTNESS, BACKGROUND, LIGHT = "brightness", "background", "illumination"
# Differences that matter: of the log brightness; of the background and its rise over the image, as shares of the range
MATTERS = {BRIGHTNESS: np.log(1.03), BACKGROUND: 0.01, LIGHT: 0.02}
WAYS = ("from left to right", "from top to bottom", "from centre to corners")
FAINT = 4.0  # times; what is fainter than in another batch by more may be no signal at all
ENOUGH = 4  # control wells of each batch; with fewer, most differences stay in doubt
VOTERS = 16  # images that tell whether the foreground is bright
TILES = 8  # along each axis, for the illumination


def recommend(p: Parameters, design: Design, progress: Callable[[int, int], None]) -> Recommendation:
    """Return what should be done with the images of a design; nothing is fitted.

    Raises:
        InputError: if there is only one batch, or images do not fit.
    """
    design.refuse_one_batch()
    names = sorted(set(design.batch))
    members = rules.members_of(design.batch, design.control)
    rows = rules.spread(members, max(FEWEST, MOST // len(names)))
    whole = KeptImages(rules.part(design.images, rows), p.memory * rules.GB)
    called = [design.images.called(row) for row in rows]

    def look(i: int) -> list[Piece]:
        found = Piece.of(i, whole[i])
        for piece in found:
            checks.check_finite(piece.part(whole[i]), piece.called(called[i]))
        return found

    pieces = [piece for found in rules.each(look, called, p.n_jobs) for piece in found]
    images = Remembered(KeptImages(in_pieces(whole, pieces), p.memory * rules.GB) if are_cut(pieces) else whole)
    called = [piece.called(called[piece.number]) for piece in pieces]
    rows = [rows[piece.number] for piece in pieces]
    batch, group = [design.batch[i] for i in rows], [design.groups[i] for i in rows]
    present = sorted(set(batch))
    statistics = Statistics.of(images, batch, reference=present[0], example=images[0], n_jobs=p.n_jobs)
    reference = p.target if p.target in present else rules.medoid(statistics)
    channels = design.images.names or [str(c) for c in range(len(images[0]))]
    scale = rules.find_scale(statistics, channels)
    signs = signs_of(images, VOTERS, p.n_jobs)

    def measured(i: int) -> tuple[Array, Array, Array, tuple[int, ...]]:
        image = images[i]
        found = levels_of(images, i, signs)
        levels = np.stack([found[:, 0], found[:, 1:].mean(1)])  # background and mean log contrast, (2, C)
        return levels, _illumination(image, scale), image_features(middle(image, EDGE), scale), image.shape

    found = rules.each(measured, called, p.n_jobs, lambda done: progress(done, len(rows)))
    levels, light, features, shapes = (np.array(x) for x in zip(*found, strict=True))
    is_rgb = statistics.colour is not None
    parts = {BRIGHTNESS: levels[:, 1], BACKGROUND: levels[:, 0] / (scale[:, 1] - scale[:, 0])}
    if (shapes == shapes[0]).all() and not are_cut(pieces):  # a region of a slide is no field of a camera
        parts |= {f"{LIGHT} {way}": light[:, :, k] for k, way in enumerate(WAYS)}
    differences = _differences(parts, batch, group, reference, channels)
    wells = {name: len({design.groups[i] for i in members[name]}) for name in names}
    told, problem = _told(features, batch, group, p.random_state)
    notes = [
        *_problems(design, members, wells),
        *([] if problem is None else [problem]),
        *positions.placing(design.batch, design.groups, design.control),
        *(positions.drifts(levels[:, 1], batch, group, channels) if design.control is not None else ()),
        *magnified(images, batch, signs, p.n_jobs),
        *([] if is_rgb else _dead(levels[:, 1], batch, channels)),
    ]
    v = None if design.label is None else probes.cramers_v(design.batch, design.label)
    route, reason = _route(design, wells, v, told, differences, is_rgb)
    return Recommendation(
        route=route,
        reason=reason,
        reference=reference,
        on_controls=design.control is not None,
        wells=wells,
        images={name: len(members[name]) for name in names},
        cramers_v=v,
        told=told,
        differences=differences,
        notes=notes,
    )


def _illumination(image: Array, scale: Array) -> Array:
    """Return how much the background rises from left to right, top to bottom, and centre to corners, (C, 3).

    The background is the lowest decile of each of 8×8 tiles; the rise is a share of the range.
    """
    grid = block_means(image.astype(np.float32), *(np.arange(GRID) * n // GRID for n in image.shape[1:]))
    side = GRID // TILES
    tiles = grid.reshape(len(grid), TILES, side, TILES, side).swapaxes(2, 3).reshape(len(grid), TILES**2, side**2)
    x, y = (a.ravel() for a in np.meshgrid(*[np.linspace(-1, 1, TILES)] * 2))
    fit = np.linalg.pinv(np.stack([np.ones_like(x), x / 2, y / 2, (x**2 + y**2) / 2], 1))[1:]
    return np.asarray(np.quantile(tiles, 0.1, axis=2) @ fit.T / (scale[:, 1] - scale[:, 0])[:, None])


def _differences(
    parts: Mapping[str, Array], batch: Sequence[str], group: Sequence[str], reference: str, channels: Sequence[str]
) -> list[Difference]:
    """Return the difference of each batch from the reference in each part (n, C), from the means of the groups.

    The spread between groups is pooled over the batches; a difference is clear if it matters and is significant at
    `LEVEL` after Bonferroni's correction.
    """
    wells = {name: sorted({group[i] for i in rows}) for name, rows in rules.members_of(batch).items()}
    place = np.array([f"{b}\0{g}" for b, g in zip(batch, group, strict=True)])
    found = []
    others = [name for name in wells if name != reference]
    count = len(others) * len(parts) * len(channels)
    for part, values in parts.items():
        means = {
            name: np.array([_mean(values[place == f"{name}\0{well}"]) for well in own]) for name, own in wells.items()
        }
        seen = {name: np.isfinite(x).sum(0) for name, x in means.items()}
        freedom = np.maximum(sum(np.maximum(n - 1, 0) for n in seen.values()), 0)
        rest = sum(np.nansum((x - _mean(x)) ** 2, 0) for x in means.values())
        for name in others:
            size = _mean(means[name]) - _mean(means[reference])
            for c in np.flatnonzero(np.isfinite(size)).tolist():
                error = clear = np.nan
                if freedom[c] and seen[name][c] > 1 and seen[reference][c] > 1:
                    error = (rest[c] / freedom[c] * (1 / seen[name][c] + 1 / seen[reference][c])) ** 0.5
                    clear = error * student.isf(LEVEL / 2 / count, freedom[c])
                    error *= student.isf(LEVEL / 2, freedom[c])
                matters = abs(size[c]) > max(MATTERS[part.split()[0]], clear) if np.isfinite(clear) else False
                found.append(Difference(name, channels[c], part, float(size[c]), float(error), bool(matters)))
    return found


def _mean(values: Array) -> Array:
    """Return the means over the rows that are finite, (C,); NaN where none is."""
    count = np.isfinite(values).sum(0)
    return np.asarray(np.divide(np.nansum(values, 0), count, out=np.full(values.shape[1], np.nan), where=count > 0))


def _told(features: Array, batch: list[str], group: list[str], seed: int) -> tuple[dict[str, float] | None, str | None]:
    """Return how well the batch of an image is told, or why that could not be measured."""
    try:
        return probes.batch_predictability(features, batch, group, seed), None
    except InputError as error:
        return None, f"How well the batch is told could not be measured. {error}"


def _dead(contrast: Array, batch: Sequence[str], channels: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each channel of a batch that shows no foreground, or next to none, while others do."""
    members = rules.members_of(batch)
    shares = np.array([np.isfinite(contrast[rows]).mean(0) for rows in members.values()])
    levels = np.array([_mean(contrast[rows]) for rows in members.values()])
    for (b, name), (c, channel) in product(enumerate(members), enumerate(channels)):
        if shares[b, c] < 0.5 <= shares[:, c].max():
            seen, count = round(shares[b, c] * len(members[name])), len(members[name])
            yield (
                f"Channel {channel} of {name} shows objects in {seen} of {count} fields: a dead channel or empty "
                "wells, to which no curve can be fitted."
            )
        elif levels[b, c] < np.nanmax(levels[:, c]) - np.log(FAINT):
            ratio = np.exp(np.nanmax(levels[:, c]) - levels[b, c])
            yield (
                f"Channel {channel} of {name} is {ratio:.2g} times fainter than in another batch: a dead channel, "
                "bleed-through or another exposure; look at it, and leave it out if there is nothing."
            )


def _problems(design: Design, members: Mapping[str, list[int]], wells: Mapping[str, int]) -> Iterator[str]:
    """Yield sentences on a design that has too little to tell the batches apart, or to judge a result."""
    what = "images" if design.control is None else "controls"
    if design.control is None:
        yield "No controls were named: every difference between the batches is taken for the batch effect."
    if lacking := [name for name, rows in members.items() if not rows]:
        yield f"There are no controls of {first_of(lacking)}, so nothing can be learned about them."
    if design.group is not None:
        if few := [f"{name} ({count})" for name, count in wells.items() if 1 < count < ENOUGH]:
            yield (
                f"Few groups (wells) of {what}: {first_of(few)}; their own differences hide all but strong batch "
                "effects, so give more if there are any."
            )
        if design.label is not None:
            homes: dict[tuple[str, str], set[str]] = {}
            for b, label, g in zip(design.batch, design.label, design.group, strict=True):
                homes.setdefault((b, label), set()).add(g)
            if single := sum(len(found) == 1 for found in homes.values()):
                yield (
                    f"{single} of {len(homes)} labels of a batch have a single group (well) there, so they cannot be "
                    "judged on groups that were held out."
                )


def _route(
    design: Design,
    wells: Mapping[str, int],
    v: float | None,
    told: Mapping[str, float] | None,
    differences: Sequence[Difference],
    is_rgb: bool,
) -> tuple[str, str]:
    """Return the route that fits, and why."""
    on_controls = design.control is not None
    poor = [name for name, count in wells.items() if count < 2]
    if poor and (on_controls or design.group is not None):
        return NOTHING, (
            f"there are fewer than two {'control wells' if on_controls else 'groups'} of {first_of(poor)}, so its "
            f"own difference cannot be told from the batch effect; give at least {ENOUGH} of each batch"
        )
    if not on_controls and v is not None and v > CONFOUNDED:
        return NOTHING, (
            f"batch and label are confounded (Cramér's V {v:.2f}) and no controls are named, so equalizing would "
            "remove biology; name controls that all batches share"
        )
    clear = [d for d in differences if d.is_clear]
    is_told = told is not None and told["linear"] > told["null_high"] and told["linear_low"] > told["chance"]
    if not clear and not is_told:
        unsure = "" if told is not None else ", as far as this design can show"
        return NOTHING, f"the {'controls' if on_controls else 'images'} show no batch effect{unsure}"
    if not clear:
        return FEATURES, "the batches are told by noise, sharpness or texture, which no curve evens out"
    if is_rgb:
        return ("stain" if "stain" in MODELS else "tone"), "the colours of the batches differ, and the images are RGB"
    if any(d.what.startswith(LIGHT) for d in clear):
        return "tone+field", "the evenness of the illumination differs between the batches"
    return "tone", "the brightness or the background differs between the batches"

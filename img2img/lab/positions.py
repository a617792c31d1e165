"""Positions of wells on their plates: where the controls sit, and what drifts along a plate.

Wells are known by the names of their groups (`curves.place`); other groups have an order, but no position.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import linregress

from img2img.data.picture import Array
from img2img.lab.curves.place import Position, plate_shape
from img2img.lab.design import members_of

FEWEST = 6  # wells of a plate from which a trend can be told
LEVEL = 0.05  # of significance of a trend, divided by the number of trends that are looked at
SMALLEST = 0.1  # log ratio from one end of a plate to the other that is worth a note


def placing(batch: Sequence[str], group: Sequence[str], control: Array | None) -> Iterator[str]:
    """Yield sentences on batches whose controls all lie at the edge of their plates, or in one row or column."""
    known = {name: place for name in set(group) if (place := Position.of(name)) is not None}
    if control is None or len(known) < len(set(group)):
        return
    shape = plate_shape(known.values())
    found: dict[str, list[str]] = {}
    for name, rows in members_of(batch, control).items():
        places = {known[group[i]] for i in rows}
        if len(places) > 1 and (where := _in_common(places, shape)):
            found.setdefault(where, []).append(name)
    for where, names in found.items():
        yield (
            f"All controls of {', '.join(names)} lie {where}, so what is particular there passes for the batch effect: "
            "spread controls over the plate."
        )


def _in_common(places: set[Position], shape: tuple[int, int]) -> str:
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    if len(columns) == 1:
        return f"in column {columns.pop()}"
    if len(rows) == 1:
        return f"in row {_letters(rows.pop())}"
    return f"at the edge of a plate of {shape[0] * shape[1]} wells" if all(p.is_edge(shape) for p in places) else ""


def _letters(row: int) -> str:
    return chr(ord("A") + row - 1) if row <= 26 else "A" + chr(ord("A") + row - 27)


def drifts(contrast: Array, batch: Sequence[str], group: Sequence[str], channels: Sequence[str]) -> Iterator[str]:
    """Yield sentences on trends of the controls' contrast within the batches: along a plate, to its edge, or in order.

    Of each batch and channel the clearest trend counts, if it is larger than `SMALLEST` and significant at `LEVEL`
    after Bonferroni's correction for all that were looked at.

    Args:
        contrast: log contrast of the foreground of each image, (n, C); NaN where there is none.
        batch: the batch of each image.
        group: the group of each image; within a batch in the order of acquisition, as far as that is known.
        channels: names of the channels.
    """
    trends: list[tuple[float, float, str, str]] = []  # p, size, way, where
    looked_at = 0
    for name, rows in members_of(batch).items():
        wells = {well: [i for i in rows if group[i] == well] for well in dict.fromkeys(group[i] for i in rows)}
        ways = _ways(list(wells))
        for c in range(len(channels)):
            values = [contrast[members, c] for members in wells.values()]
            levels = np.array([np.nan if np.isnan(x).all() else np.nanmean(x) for x in values])
            seen = ~np.isnan(levels)
            if seen.sum() < FEWEST:
                continue
            tests = [(*_trend(x[seen], levels[seen]), way) for way, x in ways.items() if np.ptp(x[seen])]
            looked_at += len(tests)
            trends += [(*test, f"{name}, channel {channels[c]}") for test in sorted(tests)[:1]]
    for p, size, way, where in trends:
        if p < LEVEL / looked_at and abs(size) > SMALLEST:
            cure = "; plate_position corrects it" if way.endswith((" row", " column")) else ""
            yield (
                f"Within {where}, the contrast of the controls drifts {way} by a factor of {np.exp(size):.2f} "
                f"(p = {p:.1g}); one curve for the whole batch leaves that as it is{cure}."
            )


def _ways(wells: Sequence[str]) -> Mapping[str, Array]:
    """Return the coordinates (n,) along which a trend is looked for, by the words for it."""
    if len(wells) < FEWEST:
        return {}
    ways = {"from the first to the last in the table": np.arange(len(wells), dtype=float)}
    places = [place for well in wells if (place := Position.of(well)) is not None]
    if len(places) == len(wells):
        shape = plate_shape(places)
        ways |= {
            "from the first to the last column": np.array([p.column for p in places], float),
            "from the first to the last row": np.array([p.row for p in places], float),
            "from the inner wells to the edge": np.array([p.is_edge(shape) for p in places], float),
        }
    return {way: x for way, x in ways.items() if np.ptp(x)}


def _trend(x: Array, y: Array) -> tuple[float, float]:
    """Return the p-value of a straight line through the wells, and its rise from the least to the greatest x."""
    fit = linregress(x, y)
    return float(fit.pvalue), float(fit.slope * np.ptp(x))

"""The curves of a run: a picture per panel, each of which can be read on a phone."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from img2img.data.picture import Array
from img2img.runs.record import NOT_SCALARS, LogRow

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#7a4fb0")  # Okabe and Ito's
DASHES = ("-", "--", ":")  # the next one whenever the colours repeat
PLAYERS = {"g": "#0072b2", "d": "#d55e00", "d_a": "#d55e00", "d_b": "#7a4fb0"}  # the same in every picture of a run
WIDE, DPI = 5.4, 170  # inches and dots per inch of a picture: legible when it is as wide as a phone
MOST_POINTS = 1000  # of a curve
FAR = 20  # times the median: beyond it the axis of values is logarithmic
MANY = 100  # points above which a curve is drawn faint, with its running mean on top
WINDOWS = 40  # of the running mean in a curve

Curve = list[tuple[float, float]]  # step, value


class Panel(NamedTuple):
    """The curves of one picture.

    Attributes:
        title: the title.
        reading: what to look for, in a sentence or two.
        curves: name -> points.
        top: the upper end of the axis of values if that is fixed; the lower end is then 0.
    """

    title: str
    reading: str
    curves: dict[str, Curve]
    top: float | None = None


READINGS = {  # kind of scalar -> title and reading of its panel
    "loss": (
        "Losses",
        "Adversarial losses of balanced players stay level, which is no fault. Losses that compare pixels, e.g. cycle, "
        "identity and l1, should fall.",
    ),
    "share": (
        "Accuracy of the discriminators",
        "On real and on generated (fake) images; 0.5 is guessing. If all stay near 1, the generator has little to "
        "learn from; if all are at 0.5 and samples are bad, the discriminator is too weak.",
    ),
    "distance": (
        "Critic: distance of generated from real images",
        "It should fall slowly. If it grows without bound, so does the critic's slope.",
    ),
    "norm": (
        "Gradient norms",
        "If the gradient of a generator falls by orders of magnitude and stays there, it has nothing to learn from.",
    ),
    "variety": (
        "Variety of generated images, relative to the data",
        "At 1, generated images differ from each other as much as the data do. Far below, they are alike: mode "
        "collapse.",
    ),
    "schedule": (
        "Schedule",
        "What the method itself changes over the run, e.g. how far its networks have grown.",
    ),
}


def training_panels(rows: Sequence[LogRow], kinds: Mapping[str, str]) -> list[Panel]:
    """Return a panel for each kind of scalar in the records of training.

    Args:
        rows: the records.
        kinds: scalar -> kind, see `runs.facts.Facts`; a scalar without a kind is a loss.
    """
    curves: dict[str, dict[str, Curve]] = {kind: {} for kind in READINGS}
    for row in rows:
        if row.kind == "train":
            for name, value in row.values.items():
                if name not in NOT_SCALARS and math.isfinite(value):
                    kind = kinds.get(name, "loss")
                    curves[kind if kind in READINGS else "loss"].setdefault(name, []).append((row.step, value))
    return [Panel(*READINGS[kind], named, 1 if kind == "share" else None) for kind, named in curves.items() if named]


def draw_panel(panel: Panel, best: int | None = None) -> bytes:
    """Draw a panel as a PNG, with the step `best` marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

    columns = 3 if max(map(len, panel.curves)) < 14 else 2
    lines = -(-len(panel.curves) // columns) if len(panel.curves) > 1 else 0
    high = 2.65 + 0.24 * lines  # inches, like all lengths here
    figure = Figure(figsize=(WIDE, high))
    box = {"left": 0.72 / WIDE, "right": 1 - 0.15 / WIDE, "top": 1 - 0.35 / high, "bottom": (0.6 + 0.24 * lines) / high}
    axes = figure.subplots(gridspec_kw=box)
    looks = looks_of(panel.curves)
    for name, curve in panel.curves.items():
        curve = curve[:: max(1, len(curve) // MOST_POINTS)]
        colour, dash = looks[name]
        look: dict[str, Any] = {"color": colour, "linestyle": dash}
        steps, values = zip(*curve, strict=True)
        many = len(curve) > MANY
        axes.plot(steps, values, **look, linewidth=0.8 if many else 1.6, alpha=0.25 if many else 1)
        if many:
            axes.plot(steps, _running_mean(values), **look, linewidth=1.8)
        if len(curve) <= 12:
            axes.plot(steps, values, "o", color=colour, markersize=4)
        axes.plot([], [], **look, linewidth=2, label=name)
    if panel.top is not None:
        axes.set_ylim(-0.03 * panel.top, 1.03 * panel.top)
        axes.axhline(panel.top / 2, color="#999", linewidth=1, linestyle=":")
    else:
        sizes = [abs(value) for curve in panel.curves.values() for _, value in curve]
        if max(sizes) > FAR * median(sizes) > 0:  # a linear axis would show only the outliers
            axes.set_yscale("symlog", linthresh=2 * median(sizes))
            ticks = SymmetricalLogLocator(base=10, linthresh=2 * median(sizes))
            ticks.set_params(numticks=6)
            axes.yaxis.set_major_locator(ticks)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("-", "−")))
    if best is not None:
        axes.axvline(best, color="#333", linewidth=1, linestyle="--")
    axes.set_title(panel.title, loc="left", fontsize=12, parse_math=False)
    axes.set_xlabel("step", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.tick_params(labelsize=11)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        legend = figure.legend(loc="lower center", ncols=columns, fontsize=11, frameon=False, borderaxespad=0.2)
        for text in legend.get_texts():
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def looks_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the colour and the dashes of each curve in a picture, different ones as long as there are any.

    A player keeps its colour in all pictures, and what concerns generated images is dashed.
    """
    looks: dict[str, tuple[str, str]] = {}
    free = [(colour, dash) for dash in DASHES for colour in COLOURS if colour not in PLAYERS.values()]
    others = cycle(free)
    for name in names:
        stem = name.removeprefix("grad_").lower()
        dash = "--" if stem.endswith("_fake") else "-"
        stem = stem.removesuffix("_real").removesuffix("_fake")
        colour = PLAYERS.get(stem) or PLAYERS.get(stem.partition("_")[0] if stem.startswith("g_") else "")
        look = (colour, dash) if colour else next(others)
        while look in looks.values() and not set(free) <= set(looks.values()):
            look = next(others)
        looks[name] = look
    return looks


def _running_mean(values: Sequence[float]) -> Array:
    half, i = len(values) // WINDOWS // 2 + 1, np.arange(len(values))
    sums = np.cumsum([0.0, *values])
    start, end = np.maximum(0, i - half), np.minimum(len(values), i + half + 1)
    means: Array = (sums[end] - sums[start]) / (end - start)
    return means


def stacked(pictures: Sequence[bytes]) -> bytes:
    """Stack pictures of the same width vertically in one PNG."""
    images = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(images)).save(buffer, format="png")
    return buffer.getvalue()

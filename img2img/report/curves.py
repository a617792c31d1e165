"""The curves of a run: a picture per panel, each of which can be read on a phone."""

import io
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from PIL import Image

NOT_CURVES = ("step", "epoch", "kind", "lr", "seconds_per_step", "images_per_s")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#7a4fb0")  # Okabe and Ito's
DASHES = ("-", "--", ":")  # after so many curves that colours come again
WIDE, DPI = 5.4, 170  # inches and dots per inch of a picture: letters can be read where it is as wide as a phone
MOST_POINTS = 1000  # of a curve
FAR = 20  # times the median value: from there values are not on a straight axis
MANY = 100  # points, from which a curve is drawn faint, with its running mean over it
WINDOWS = 40  # in a curve: the running mean is over one of them

Row = Mapping[str, Any]
Curve = list[tuple[float, float]]  # step, value


class Panel(NamedTuple):
    """What is drawn in one picture.

    Attributes:
        title: what the curves are.
        reading: what to look for, in a sentence or two.
        curves: name -> points.
        top: the upper end of the axis of values, where that is fixed; the lower is 0 then.
    """

    title: str
    reading: str
    curves: dict[str, Curve]
    top: float | None = None


LOSSES, RIGHT, DISTANCE, GRADIENTS, VARIETY = "losses", "judged right", "distance", "gradients", "variety"
READINGS = {
    LOSSES: (
        "Losses",
        "Adversarial losses of two sides in balance stay where they are: no fall is no fault. Losses that compare "
        "pixels, such as cycle, identity and l1, should fall.",
    ),
    RIGHT: (
        "Share that the discriminators judge right",
        "Of real and of generated (fake) images; 0.5 is guessing. All near 1 for long, and the generator has little to "
        "learn from; all at 0.5 and samples bad, and the discriminator is too weak.",
    ),
    DISTANCE: (
        "Critic: distance of generated from real images",
        "It should fall, slowly. If it grows without end, the critic's slope is not bounded.",
    ),
    GRADIENTS: (
        "Gradient norms",
        "A generator's gradient that falls by orders of magnitude and stays there: it has nothing to learn from.",
    ),
    VARIETY: (
        "Variety of generated images; the data's is 1",
        "1: generated images differ from each other as the data do. Far below: they are alike, the mode collapse.",
    ),
}


def training_panels(rows: Sequence[Row]) -> list[Panel]:
    """The panels of the records of training; without those that have no record."""
    curves: dict[str, dict[str, Curve]] = {key: {} for key in READINGS}
    for row in rows:
        if row["kind"] == "train":
            for name, value in row.items():
                if name not in NOT_CURVES and _is_number(value):
                    curves[_panel(name)].setdefault(name, []).append((row["step"], value))
    return [Panel(*READINGS[key], found, 1 if key == RIGHT else None) for key, found in curves.items() if found]


def _panel(name: str) -> str:
    if name.startswith("grad_"):
        return GRADIENTS
    own = {"diversity": VARIETY, "d_distance": DISTANCE}
    return own.get(name, RIGHT if name.endswith(("_real", "_fake")) else LOSSES)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def draw_panel(panel: Panel, best: int | None = None) -> bytes:
    """One panel as a PNG; `best` is a step to mark."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

    columns = 3 if max(map(len, panel.curves)) < 14 else 2
    lines = -(-len(panel.curves) // columns) if len(panel.curves) > 1 else 0
    high = 2.65 + 0.24 * lines  # inches, as all lengths here
    figure = Figure(figsize=(WIDE, high))
    box = {"left": 0.72 / WIDE, "right": 1 - 0.15 / WIDE, "top": 1 - 0.35 / high, "bottom": (0.6 + 0.24 * lines) / high}
    axes = figure.subplots(gridspec_kw=box)
    for i, (name, curve) in enumerate(panel.curves.items()):
        curve = curve[:: max(1, len(curve) // MOST_POINTS)]
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
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
        if max(sizes) > FAR * median(sizes) > 0:  # a straight axis would show the outliers alone
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


def _running_mean(values: Sequence[float]) -> list[float]:
    half = len(values) // WINDOWS // 2 + 1
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def stacked(pictures: Sequence[bytes]) -> bytes:
    """Pictures below each other, as one PNG."""
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    sheet = Image.new("RGB", (max(x.width for x in images), sum(x.height for x in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()

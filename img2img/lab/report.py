"""The judgement as a page that needs no other file."""

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from img2img.data.picture import Array
from img2img.lab.features import in_range
from img2img.lab.verdict import BANNER, COLUMNS, number
from img2img.report.page import captioned, page

if TYPE_CHECKING:
    import pandas as pd

    from img2img.lab.evaluation import Evaluation
    from img2img.lab.measures import Row

BINS, LOWEST, HIGHEST = 60, -0.1, 1.3  # of the histograms; bounds in units of the range
SIDE, PER_BATCH = 160, 2  # pixels of a thumbnail, images of each batch
MOST_ROWS = 500  # of the table of single images
WORDS = {True: "pass", False: "fail", None: "not measured"}


class Shown(NamedTuple):
    """One image in all methods, (h, w) or (h, w, 3), uint8, all with the fitted range as display range."""

    batch: str
    number: int
    images: dict[str, Array]


def histograms(images: Sequence[Array], batch: Array, scale: Array) -> dict[str, Array]:
    """Share of the pixels of each batch in each of BINS values from LOWEST to HIGHEST of the range, (C, BINS)."""
    counts = {str(name): np.zeros((len(scale), BINS)) for name in np.unique(batch)}
    for image, name in zip(images, batch, strict=True):
        places = (in_range(image, scale) - LOWEST) / (HIGHEST - LOWEST) * BINS
        for row, plane in zip(counts[str(name)], places, strict=True):
            row += np.bincount(plane.clip(0, BINS - 1).astype(np.int64).ravel(), minlength=BINS)
    return {name: count / count.sum(1, keepdims=True) for name, count in counts.items()}


def shown(methods: Mapping[str, Sequence[Array]], batch: Array, scale: Array, channel: int) -> list[Shown]:
    """Thumbnails of the first and the middle image of each batch; three channels of uint8 in colour, else `channel`."""
    result = []
    for name in np.unique(batch):
        rows = np.flatnonzero(batch == name)
        for i in sorted({int(rows[k * len(rows) // PER_BATCH]) for k in range(PER_BATCH)}):
            images = {method: _thumbnail(images[i], scale, channel) for method, images in methods.items()}
            result.append(Shown(str(name), i, images))
    return result


def _thumbnail(image: Array, scale: Array, channel: int) -> Array:
    colour = len(image) == 3 and image.dtype == np.uint8
    planes = image / np.float32(255) if colour else in_range(image, scale)[channel][None]
    factor = -(-max(image.shape[1:]) // SIDE)
    starts = [np.arange(0, length, factor) for length in image.shape[1:]]
    for axis, start in zip((1, 2), starts, strict=True):
        counts = np.diff(start, append=planes.shape[axis])
        planes = np.add.reduceat(planes, start, axis) / (counts[:, None] if axis == 1 else counts)
    pixels = np.rint(planes.clip(0, 1) * 255).astype(np.uint8)
    return np.asarray(pixels.transpose(1, 2, 0) if colour else pixels[0])


STYLE = """
figcaption, .faint { color: #666 } .wide { overflow-x: auto }
table { font-size: 14px } td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
.judged { background: #fff6d6 } .pass { color: #176b2c } .fail { color: #b00020; font-weight: 600 }
.box { border-left: 4px solid #888; padding: .4rem 1rem; background: #f4f4f4; margin: 1rem 0 }
.verdict { font-size: 1.15em }
.verdict-pass { border-color: #176b2c; background: #e8f4ea }
.verdict-warn { border-color: #b7791f; background: #fdf3dc }
.verdict-fail { border-color: #b00020; background: #fbe9eb }
.stamp { color: #b00020; font-weight: 700; letter-spacing: .1em }
.row { display: flex; flex-wrap: wrap; gap: .6rem } .row figure { margin: 0; width: 160px }
.row figcaption { font-size: 12px; line-height: 1.3 }
"""


def report(evaluation: "Evaluation", quality: "pd.DataFrame | None" = None) -> str:
    """The whole report as HTML."""
    stamp = '<p class="stamp">CONFOUNDED</p>' if evaluation.confounded else ""
    told = draw_predictability(evaluation)
    parts = [
        f'<div class="box">{escape(BANNER)}</div>',
        f'<div class="box verdict verdict-{evaluation.outcome}">{stamp}{escape(evaluation.verdict)}</div>',
        "".join(f"<p>{escape(note)}</p>" for note in evaluation.notes),
        "<h2>Gates</h2>",
        "<p>A method that fails one is not fit for measuring, however well it removes the batch.</p>",
        _gates(evaluation),
        "<h2>Can the batch still be told?</h2>" if told else "",
        captioned(told, "Balanced accuracy of the probes on groups they have not seen, with 95 % intervals over "
                  "groups. The band ends at the 95 % quantile of what shuffled batches give.") if told else "",
        "<h2>Methods and metrics</h2>",
        _metrics(evaluation),
        "<h2>Pixel values of each batch</h2>",
        captioned(draw_histograms(evaluation), "Share of all pixels at each value; 0 to 1 is the fitted range. Batches "
                "that hold different things, or more cells, are to differ."),
        "<h2>Images</h2>",
        "<p>Black is the lower, white the upper end of the fitted range, in all alike.</p>",
        *map(_pictures, evaluation.pictures),
        "" if quality is None else "<h2>Single images</h2>" + _quality(quality),
        "<h2>What it was measured on</h2>",
        _table([("", "number")], evaluation.counts.items()),
        _table([("", "setting")], evaluation.settings.items()),
        "" if evaluation.cramers_v is None else
        f"<p>Association of batch and label (Cramér's V, bias-corrected): {evaluation.cramers_v:.2f}.</p>",
    ]  # fmt: skip
    title = f"Batch equalization: {evaluation.judged}, to {evaluation.reference}"
    return page(title, "\n".join(filter(None, parts)), STYLE)


def _cell(value: Any, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def _table(head: Iterable[Iterable[Any]], rows: Iterable[Iterable[Any]]) -> str:
    top = "".join("<tr>" + "".join(f"<th>{escape(str(c))}</th>" for c in line) + "</tr>" for line in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{top}{body}</table></div>'


def _gates(evaluation: "Evaluation") -> str:
    names = list(evaluation.gate_texts)
    head = "".join(f'<th title="{escape(evaluation.gate_texts[name])}">{escape(name)}</th>' for name in names)
    rows = []
    for method, values in evaluation.gates.items():
        kind = "judged" if method == evaluation.judged else ""
        cells = "".join(_cell(WORDS[v], {True: "pass", False: "fail", None: "faint"}[v]) for v in values.values())
        rows.append(f'<tr class="{kind}"><th>{escape(method)}</th>{cells}</tr>')
    texts = "".join(f"<li><b>{escape(name)}</b>: {escape(words)}</li>" for name, words in evaluation.gate_texts.items())
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div><ul>{texts}</ul>'


def _metrics(evaluation: "Evaluation") -> str:
    """One line per metric and one column per method, so that each line can say what it means."""
    rows = evaluation.rows
    kinds = {method: "judged" if method == evaluation.judged else "" for method in rows}
    head = "".join(f'<th class="{kind}">{escape(method)}</th>' for method, kind in kinds.items())
    lines = [f"<tr><th>metric</th>{head}<th>what it says</th></tr>"]
    for name, (title, meaning) in COLUMNS.items():
        if any(row.get(name) is not None for row in rows.values()):
            cells = "".join(_cell(_with_interval(row, name), kinds[method]) for method, row in rows.items())
            lines.append(f'<tr><th>{escape(title)}</th>{cells}<td class="faint">{escape(meaning)}</td></tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _with_interval(row: "Row", name: str) -> str:
    stem = "phenotype" if name == "phenotype_accuracy" else name
    bounds = [row[f"{stem}_{side}"] for side in ("low", "high") if row.get(f"{stem}_{side}") is not None]
    return number(row.get(name)) + (f" ({'–'.join(number(b) for b in bounds)})" if bounds else "")


def _pictures(item: Shown) -> str:
    figures = "".join(captioned(_png(pixels), method) for method, pixels in item.images.items())
    return f'<h3>Batch {escape(item.batch)}, image {item.number}</h3><div class="row">{figures}</div>'


def _quality(frame: "pd.DataFrame") -> str:
    rows = [[number(v) if isinstance(v, float) else v for v in line] for line in islice(frame.itertuples(), MOST_ROWS)]
    rest = f"<p>{len(frame) - MOST_ROWS} more rows are left out here.</p>" if len(frame) > MOST_ROWS else ""
    return _table([[frame.index.name or "", *frame.columns]], rows) + rest


def draw_predictability(evaluation: "Evaluation") -> bytes:
    """How well the probes tell the batch, per method, with what luck gives, as a PNG; empty if it was not measured."""
    from matplotlib.figure import Figure

    prefixes = {"batch": "all images", "control_batch": "controls only"}
    panels = {p: [m for m, r in evaluation.rows.items() if r.get(f"{p}_linear") is not None] for p in prefixes}
    panels = {prefix: methods for prefix, methods in panels.items() if methods}
    if not panels:
        return b""
    longest = max(map(len, panels.values()))
    figure = Figure(figsize=(5.5 * len(panels) + 1, 0.42 * longest + 1.6), layout="constrained")
    for axes, (prefix, methods) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for y, method in enumerate(methods):
            row = evaluation.rows[method]
            axes.barh(y, row[f"{prefix}_null_high"], 0.8, color="#ddd", label="by luck" if y == 0 else None)
            for name, colour, offset in (("linear", "C0", -0.15), ("forest", "C1", 0.15)):
                value, low, high = (row[f"{prefix}_{name}{part}"] for part in ("", "_low", "_high"))
                axes.plot([low, high], [y + offset] * 2, color=colour, linewidth=2)
                axes.plot(value, y + offset, "o", color=colour, label=name if y == 0 else None)
        axes.axvline(evaluation.rows[methods[0]][f"{prefix}_chance"], color="black", linestyle=":", label="chance")
        axes.set(xlim=(0, 1.02), title=prefixes[prefix], xlabel="balanced accuracy", yticks=range(len(methods)))
        axes.set_yticklabels([f"{m} ◀" if m == evaluation.judged else m for m in methods], parse_math=False)
        axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    return _saved(figure)


def draw_histograms(evaluation: "Evaluation") -> bytes:
    """Pixel values of each batch, before and after, one line of panels per channel, as a PNG."""
    from matplotlib.figure import Figure

    values = LOWEST + (np.arange(BINS) + 0.5) * (HIGHEST - LOWEST) / BINS
    methods = list(evaluation.histograms)
    channels = len(next(iter(evaluation.histograms[methods[0]].values())))
    figure = Figure(figsize=(5.2 * len(methods), 2.8 * channels + 0.5), layout="constrained")
    panels = figure.subplots(channels, len(methods), squeeze=False, sharex=True, sharey=True)
    for (c, m), axes in np.ndenumerate(panels):
        for name, share in evaluation.histograms[methods[m]].items():
            home = name == evaluation.reference
            label = f"{name} (reference)" if home else name
            some = share[c] > 0  # images of few grey levels leave bins empty
            axes.plot(
                values[some],
                share[c][some],
                color="black" if home else None,
                linewidth=1.8 if home else 1.1,
                label=label,
            )
        axes.set_yscale("log")
        axes.set_title(f"{methods[m]}, channel {c}", parse_math=False)
        if c == channels - 1:
            axes.set_xlabel("pixel value, in units of the fitted range")
    panels[0, 0].set_ylabel("share of pixels")
    for words in panels[0, -1].legend(fontsize="small").get_texts():
        words.set_parse_math(False)
    return _saved(figure)


def _saved(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _png(pixels: Array) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()

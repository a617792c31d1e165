"""The judgement as a self-contained page."""

import io
from collections.abc import Iterable
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from img2img.data.picture import Array
from img2img.lab.curves.found import Found
from img2img.lab.judgement.findings import Findings
from img2img.lab.judgement.pictures import BINS, FULL_CHANGE, HIGHEST, LOWEST, Example
from img2img.lab.judgement.scores import COLUMNS, IDENTITY, Scores, number
from img2img.lab.judgement.verdict import BANNER, judgement
from img2img.report.page import captioned, page

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 500  # of the table of single images
WORDS = {True: ("pass", "pass"), False: ("fail", "fail"), None: ("not measured", "faint")}  # of a gate, and their style

VERDICTS = {"pass": "fine", "warn": "note", "fail": "wrong"}  # the remark that each is shown as

STYLE = """
.judged { background: var(--on-warn) } .pass { color: var(--good) } .fail { color: var(--bad); font-weight: 600 }
.stamp { color: var(--bad); font-weight: 700; letter-spacing: .1em }
.row { display: grid; grid-template-columns: repeat(4, minmax(0, 240px)); gap: .6rem; margin: .6rem 0 }
.row figure { margin: 0 } .row img { width: 100% } .row figcaption { font-size: 12px; line-height: 1.3 }
@media (max-width: 700px) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)) }
  .charts img { width: 680px; max-width: none } }
"""


def report(findings: Findings, quality: "pd.DataFrame | None" = None) -> str:
    """Return the whole report as HTML."""
    verdict = judgement(findings)
    stamp = '<p class="stamp">CONFOUNDED</p>' if findings.confounded else ""
    probes = draw_predictability(findings)
    parts = [
        f'<div class="remark over"><p>{escape(BANNER)}</p></div>',
        f'<div class="remark {VERDICTS[verdict.outcome]}">{stamp}',
        f"<p><strong>{escape(verdict.sentence)}</strong></p></div>",
        "".join(f"<p>{escape(note)}</p>" for note in findings.notes),
        "<h2>Gates</h2>",
        "<p>A method that fails a gate is not fit for measuring, however well it removes the batch.</p>",
        _gates(findings),
        "<h2>Found and corrected</h2>" + _corrections(findings.corrections) if findings.corrections else "",
        "<h2>Every channel</h2>" + _channels(findings) if findings.channels else "",
        "<h2>Images</h2>" + _examples(findings.pictures) if findings.pictures else "",
        "<h2>Can the batch still be predicted?</h2>" if probes else "",
        _chart(probes, "Balanced accuracy of the probes on groups they have not seen, with 95 % intervals over "
                  "groups. The band ends at the 95 % quantile of the permutation null.") if probes else "",
        "<h2>Methods and scores</h2>",
        _metrics(findings),
        "<h2>Pixel values of each batch</h2>",
        _chart(draw_histograms(findings), "Share of all pixels at each value; 0 to 1 is the fitted range. Batches "
                "with different contents, or more cells, should differ."),
        "" if quality is None else "<h2>Single images</h2>" + _quality(quality),
        "<h2>Images and settings</h2>",
        _table([("counted", "number")], findings.counts.items()),
        _table([("setting", "value")], findings.settings.items()),
        "" if findings.cramers_v is None else
        f"<p>Association of batch and label (Cramér's V, bias-corrected): {findings.cramers_v:.2f}.</p>",
    ]  # fmt: skip
    title = f"Batch equalization: {findings.judged}, to {findings.reference}"
    return page(title, "\n".join(filter(None, parts)), STYLE)


def _chart(picture: bytes, caption: str) -> str:
    """Return a chart that scrolls on a phone, where its letters would be too small."""
    return f'<div class="wide charts" tabindex="0">{captioned(picture, caption)}</div>'


def _cell(value: Any, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def _table(head: Iterable[Iterable[Any]], rows: Iterable[Iterable[Any]]) -> str:
    top = "".join("<tr>" + "".join(f"<th>{escape(str(c))}</th>" for c in line) + "</tr>" for line in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table>{top}{body}</table></div>'


def _gates(findings: Findings) -> str:
    texts = {escape(name): escape(words) for name, words in findings.gate_texts.items()}
    head = "".join(f'<th title="{words}">{name}</th>' for name, words in texts.items())
    rows = []
    for method, values in findings.gates.items():
        kind = "judged" if method == findings.judged else ""
        cells = "".join(_cell(*WORDS[value]) for value in values.values())
        rows.append(f'<tr class="{kind}"><th>{escape(method)}</th>{cells}</tr>')
    meanings = "".join(f"<li><b>{name}</b>: {words}</li>" for name, words in texts.items())
    gates = f"<table><tr><th>method</th>{head}</tr>{''.join(rows)}</table>"
    return f'<div class="wide" tabindex="0">{gates}</div><ul>{meanings}</ul>'


def _metrics(findings: Findings) -> str:
    """Return one line per score and one column per method, and what the scores mean below."""
    rows = findings.rows
    kinds = {method: "judged" if method == findings.judged else "" for method in rows}
    head = "".join(f'<th class="{kind}">{escape(method)}</th>' for method, kind in kinds.items())
    lines, meanings = [f"<tr><th>score</th>{head}</tr>"], []
    for name, (title, meaning) in COLUMNS.items():
        if any(row.get(name) is not None for row in rows.values()):
            cells = "".join(_cell(_with_interval(row, name), kinds[method]) for method, row in rows.items())
            lines.append(f"<tr><th>{escape(title)}</th>{cells}</tr>")
            meanings.append(f"<dt>{escape(title)}</dt><dd>{escape(meaning)}</dd>")
    explained = f"<details open><summary>What the scores mean</summary><dl>{''.join(meanings)}</dl></details>"
    return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>{explained}'


def _with_interval(row: Scores, name: str) -> str:
    stem = "phenotype" if name == "phenotype_accuracy" else name
    bounds = [row[f"{stem}_{side}"] for side in ("low", "high") if row.get(f"{stem}_{side}") is not None]
    return number(row.get(name)) + (f" ({'–'.join(number(b) for b in bounds)})" if bounds else "")


def _corrections(corrections: Iterable[Found]) -> str:
    """Return what the fit found in every channel of every batch, with its standard error, and what it corrects."""
    return _table([("batch, channel", "against the target")], [(found.place, found.text) for found in corrections])


def _channels(findings: Findings) -> str:
    """Return the scores of every batch and channel, of doing nothing and of the judged method."""
    mine, nothing = (findings.channels.get(method, {}) for method in (findings.judged, IDENTITY))
    head = ("batch, channel", "noise", "control shift before", "control shift after")
    rows = [
        [place, *map(number, (scores["noise"], nothing[place]["shift"], scores["shift"]))]
        for place, scores in mine.items()
    ]
    meaning = (
        "<p>Noise is over the larger of the reference's and the batch's own; the shift is the log ratio of the "
        "controls' brightness inside objects to the reference's, 0.1 is about 10 %.</p>"
    )
    return meaning + _table([head], rows)


def _examples(pictures: list[Example]) -> str:
    """Return the examples, each field under its name, with a line of pictures for each channel."""
    lines = [
        "<p>Fields with a typical share of cells. Within a line the pictures share one stretch; in the map of change, "
        f"red became brighter and blue darker, in full colour at {FULL_CHANGE:.0%} of the range.</p>"
    ]
    field = None
    for item in pictures:
        if field != (field := (item.batch, item.name)):
            lines.append(f"<h3>Batch {escape(item.batch)}: {escape(item.name)}</h3>")
        words = {"reference": f"reference: {item.reference}"}
        figures = "".join(captioned(_png(x), words.get(key, key), alt=f"{item.name}, {key}")
                          for key, x in item.images.items())  # fmt: skip
        low, high = item.stretch
        lines.append(f'<p class="faint">Channel {escape(item.channel)}: black is {low:.6g}, white is {high:.6g}.</p>')
        lines.append(f'<div class="row">{figures}</div>')
    return "\n".join(lines)


def _quality(frame: "pd.DataFrame") -> str:
    rows = [[number(v) if isinstance(v, float) else v for v in line] for line in islice(frame.itertuples(), MOST_ROWS)]
    rest = f"<p>{len(frame) - MOST_ROWS} more rows are omitted here.</p>" if len(frame) > MOST_ROWS else ""
    return _table([[frame.index.name or "image", *frame.columns]], rows) + rest


def draw_predictability(findings: Findings) -> bytes:
    """Return a PNG of how well the probes predict the batch, beside the permutation null; empty if not measured."""
    from matplotlib.figure import Figure

    prefixes = {"batch": "all images", "control_batch": "controls only"}
    panels = {p: [m for m, r in findings.rows.items() if r.get(f"{p}_linear") is not None] for p in prefixes}
    panels = {prefix: methods for prefix, methods in panels.items() if methods}
    if not panels:
        return b""
    longest = max(map(len, panels.values()))
    figure = Figure(figsize=(5.5 * len(panels) + 1, 0.42 * longest + 1.6), layout="constrained")
    for axes, (prefix, methods) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for y, method in enumerate(methods):
            row = findings.rows[method]
            axes.barh(y, row[f"{prefix}_null_high"], 0.8, color="#ddd", label="permutation null" if y == 0 else None)
            for name, colour, offset in (("linear", "C0", -0.15), ("forest", "C1", 0.15)):
                value, low, high = (row[f"{prefix}_{name}{part}"] for part in ("", "_low", "_high"))
                axes.plot([low, high], [y + offset] * 2, color=colour, linewidth=2)
                axes.plot(value, y + offset, "o", color=colour, label=name if y == 0 else None)
        axes.axvline(findings.rows[methods[0]][f"{prefix}_chance"], color="black", linestyle=":", label="chance")
        axes.set(xlim=(0, 1.02), title=prefixes[prefix], xlabel="balanced accuracy", yticks=range(len(methods)))
        axes.set_yticklabels([f"{m} ◀" if m == findings.judged else m for m in methods], parse_math=False)
        axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    return _saved(figure)


def draw_histograms(findings: Findings) -> bytes:
    """Return a PNG of the pixel values of each batch, before and after, with one line of panels per channel."""
    from matplotlib.figure import Figure

    values = LOWEST + (np.arange(BINS) + 0.5) * (HIGHEST - LOWEST) / BINS
    methods = list(findings.histograms)
    channels = len(next(iter(findings.histograms[methods[0]].values())))
    names = findings.settings.get("channels") or range(channels)
    figure = Figure(figsize=(5.2 * len(methods), 2.8 * channels + 0.5), layout="constrained")
    panels = figure.subplots(channels, len(methods), squeeze=False, sharex=True, sharey=True)
    for (c, m), axes in np.ndenumerate(panels):
        for name, share in findings.histograms[methods[m]].items():
            look: dict[str, Any] = {"linewidth": 1.1, "label": name}
            if name == findings.reference:
                look = {"linewidth": 1.8, "label": f"{name} (reference)", "color": "black"}
            filled = share[c] > 0  # images of few grey levels leave bins empty
            axes.plot(values[filled], share[c][filled], **look)
        axes.set_yscale("log")
        axes.set_title(f"{methods[m]}, channel {names[c]}", parse_math=False)
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

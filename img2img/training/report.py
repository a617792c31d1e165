"""report.html: a run in one self-contained page that can be mailed; and its curves."""

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from img2img.data.images import atomic
from img2img.page import captioned, page
from img2img.training.diagnosis import Finding

SHOWN_SAMPLES = 12
PANELS = {
    "diversity": "variety of the generated images, of the data's",
    "d_distance": "critic: estimated distance of generated from real images",
}
NOT_CURVES = ("step", "epoch", "kind", "lr", "seconds_per_step", "images_per_s")


def draw_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Losses, discriminator accuracies and held-out metrics over the steps, as one PNG; empty without records."""
    from matplotlib.figure import Figure

    series: dict[str, dict[str, list[tuple[float, float]]]] = {}  # panel -> curve -> points
    for row in rows:
        for name, value in row.items():
            if name not in NOT_CURVES:
                series.setdefault(_panel(row["kind"], name), {}).setdefault(name, []).append((row["step"], value))
    if not series:
        return b""
    figure = Figure(figsize=(10, 3 * len(series)), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(len(series), squeeze=False)[:, 0], series.items(), strict=True):
        for name, curve in curves.items():
            every = max(1, len(curve) // 1000)
            axes.plot(*zip(*curve[::every], strict=True), label=name, linewidth=1)
        axes.set(title=title, xlabel="step")
        if title in ("losses", "gradient norms"):
            axes.set_yscale("symlog" if title == "losses" else "log")
        axes.legend(fontsize="small", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _panel(kind: str, name: str) -> str:
    if kind == "validation":
        return f"held out: {name}"
    if name.startswith("grad_"):
        return "gradient norms"
    if name in PANELS:
        return PANELS[name]
    return "discriminators: share judged right" if name.endswith(("_real", "_fake")) else "losses"


def write_report(
    folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], findings: Sequence[Finding] = ()
) -> None:
    """Writes curves.png and report.html into a run folder.

    Args:
        folder: the run folder, whose samples are shown.
        rows: the records of log.jsonl.
        facts: what was trained: titles and values, in the order to show them.
        findings: what went wrong in the game.
    """
    parts = [_table(facts.items())]
    if findings:
        parts += ["<h2>Diagnosis</h2>", _table((finding.when, finding.text) for finding in findings)]
    curves = draw_curves(rows)
    if curves:
        with atomic(folder / "curves.png") as temporary:
            temporary.write_bytes(curves)
        parts.append(captioned(curves, "Losses and accuracies. A discriminator that is always right teaches nothing."))
    scores = [row for row in rows if row["kind"] == "validation"]
    if scores:
        names = [name for name in scores[-1] if name not in NOT_CURVES]
        best = {name: _best(name, scores) for name in names}
        parts += ["<h2>Held-out images</h2>", _table((n, f"last {scores[-1][n]:.4g}, best {best[n]}") for n in names)]
    draws = any("diversity" in row for row in rows)
    samples = sorted((folder / "samples").glob("*.png"))
    every = max(1, -(-len(samples) // SHOWN_SAMPLES))
    for sample in samples[::-every]:
        parts.append(captioned(sample.read_bytes(), f"Step {int(sample.stem)}"))
    use = f"img2img sample {folder} --n 64" if draws else f"img2img translate {folder} FOLDER_OF_IMAGES"
    parts.insert(1, f"<h2>Use it</h2><pre>{escape(use)} --out RESULTS</pre>")
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(page(f"img2img: {folder.name}", "\n".join(parts)), encoding="utf-8")


def _best(name: str, scores: Sequence[Mapping[str, Any]]) -> str:
    from img2img.metrics import PAIRED_METRICS

    pick = max if PAIRED_METRICS[name].higher_is_better else min
    row = pick(scores, key=lambda r: r[name])
    return f"{row[name]:.4g} at step {row['step']}"


def _table(pairs: Any) -> str:
    rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in pairs)
    return f"<table>{rows}</table>"

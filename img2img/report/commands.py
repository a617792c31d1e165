"""The section of a report with the commands that use the model."""

import re
import shlex
from collections.abc import Iterable
from html import escape

from img2img.report.contents import Contents


def commands_section(run: Contents) -> str:
    """Return the commands that use the model, resume the run, or score it, as HTML."""
    if run.facts.equalizer:
        return (
            "<p>The model is part of a batch equalizer, which is fitted, applied and judged as a whole:</p>"
            f"{_command('img2img equalize --help')}"
        )
    commands = dict(_translating(run) if run.translations else _sampling(run))
    if run.facts.method and not run.finished:
        folder = shlex.quote(str(run.files.path))
        commands["Resume the training:"] = f"img2img train {run.facts.method} --out {folder} --resume"
    return "\n".join(f"<p>{option_names(text)}</p>{_command(command)}" for text, command in commands.items())


def _sampling(run: Contents) -> Iterable[tuple[str, str]]:
    label = " --label NAME" if any(use.labels for use in run.uses) else ""
    yield "Draw 64 images:", f"img2img sample {shlex.quote(str(run.best_model))}{label} --n 64 --out RESULTS"


def _translating(run: Contents) -> Iterable[tuple[str, str]]:
    folder, model = (shlex.quote(str(path)) for path in (run.files.path, run.best_model))
    first, *others = run.translations
    label = " --label TARGET" if first.labels else ""
    ways = "".join(f", or with --direction {use.name} from {use.images[0]} to {use.output}" for use in others)
    yield (
        f"Translate a folder of images, or one image{ways}:",
        f"img2img translate {model} IMAGES{label} --out RESULTS",
    )
    if len({first.images[0], first.output}) < 2:
        return
    named = (
        ""
        if run.facts.held_out
        else "".join(f" --{domain} HELD_OUT_{domain.upper()}" for domain in sorted((first.images[0], first.output)))
    )
    yield "Score it on held-out images, beside the unchanged input:", f"img2img evaluate {folder}{named}"
    if run.facts.held_out and run.files.models.is_dir():
        yield "Score every checkpoint that was kept:", f"img2img evaluate {folder} --all"


def _command(command: str) -> str:
    return f"<pre><code>{escape(command)}</code></pre>"


def option_names(text: str) -> str:
    """Return text as HTML with the names of options set as code, which does not break."""
    return re.sub(r"(--[a-z][a-z0-9-]*)", r"<code>\1</code>", escape(text))

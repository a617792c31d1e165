"""model_card.md: what those should know of a model that it is shared with, as a hub shows it. Of places on the user's
disk it holds the names of the data's folders alone.
"""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from math import isfinite
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from img2img.errors import DISTRIBUTION, ModelFileError, pip_install, printable
from img2img.methods import PLACES
from img2img.model.file import ModelCard, read_card
from img2img.model.hub import HUB, is_on_hub
from img2img.options.outline import docstring
from img2img.report import remarks
from img2img.report.contents import Contents
from img2img.report.remarks import sign_in
from img2img.report.result import ARROWS, BETTER
from img2img.runs.facts import in_words
from img2img.runs.record import OPERATIONAL, RETIRED
from img2img.runs.results import MODEL, Result, SavedScore
from img2img.runs.sameness import PATHS
from img2img.runtime.files import write_text

PLACEHOLDER = "user/name"  # of a model that has not been shared
TASKS = {True: "image-to-image", False: "unconditional-image-generation"}  # of hubs, by whether images go in
BUILT = """This text was made from the run by img2img{version}. Scores, where there are any, are those of images that
were held out of the training, beside those of baselines that need no training."""


def model_card(run: Contents, file: Path, name: str = "", license: str = "", picture: str = "") -> str:
    """Return the card of a model as Markdown, with the metadata of hubs in YAML at its head.

    Args:
        run: what is known of its run.
        file: its model file.
        name: the repository that it is shared in, `user/name`; "" if it is not.
        license: its licence, as hubs call it; "" if none has been chosen.
        picture: the picture of samples, relative to the card; "" for none.

    Raises:
        ModelFileError: if there is no readable model.
    """
    header = read_card(file)
    result = _result(run, file, header)
    title = name.rpartition("/")[2] or run.files.path.resolve().name
    place = f"{HUB}{name or PLACEHOLDER}"
    sections = {
        "Use": _use(header, place),
        "Images": _images(header),
        "Scores": _scores(result),
        "Known faults": "\n".join(f"- {_plain(text)}" for text in _faults(run, result)),
        "Training": _training(run, header),
        "Method": _plain(docstring(PLACES[header.method][0])) if header.method in PLACES else "",
    }
    shown = [f"![{'Samples of the training' if picture else ''}]({picture})"] if picture else []
    about = f"{_plain(_summary(run, header))} Licence: {_plain(license) or 'none has been chosen yet'}."
    parts = [f"# {_plain(title)}", about, *shown]
    parts += [f"## {heading}\n\n{body}" for heading, body in sections.items() if body]
    version = run.config.environment.get("img2img", header.version)
    parts.append(BUILT.format(version=f" {_plain(version)}"))
    return f"---\n{_metadata(run, header, result, title, license)}---\n\n" + "\n\n".join(parts) + "\n"


def write_card(run: Contents) -> None:
    """Write model_card.md into a run folder; one without a readable model of its own has none."""
    grids = run.files.sample_grids()
    if run.facts.equalizer or not run.files.model.exists():
        return
    with suppress(ModelFileError):
        text = model_card(run, run.files.model, picture=f"samples/{grids[-1].name}" if grids else "")
        write_text(run.files.card, text)


def _result(run: Contents, file: Path, header: ModelCard) -> Result:
    """Return the scores that were measured of this very model, and no older or newer one of its run."""
    if run.evaluation.rows and run.evaluation.protocol.step == header.step:
        return run.evaluation
    scored = run.ranking.checkpoints.get(_relative(file, run.files.path))
    if scored is None or scored.step != header.step:
        return Result()
    return Result(run.ranking.protocol, rows={MODEL: scored.scores, **run.ranking.rows})


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _metadata(run: Contents, header: ModelCard, result: Result, title: str, license: str) -> str:
    """Return YAML; its values are JSON, which YAML reads."""
    task = {"type": TASKS[any(x.takes_images for x in header.directions.values())]}
    entries: dict[str, Any] = {"license": license} if license else {}
    entries |= {"library_name": "img2img", "pipeline_tag": task["type"], "tags": ["img2img", "gan", header.method]}
    init = str(run.config.options.get("init") or "")
    if is_on_hub(init):
        entries["base_model"] = init.removeprefix(HUB).partition("@")[0]
    scores = {name: remarks.number(score.value) for name, score in result.rows.get(MODEL, {}).items()}
    measured = [  # without exponents, which YAML may take for text
        {"type": name.partition("[")[0], "name": name, "value": round(value, 4)}
        for name, value in scores.items()
        if value is not None and isfinite(value)
    ]
    if measured:
        data = {"name": f"{', '.join(_data(run)) or 'its data'} (held out)", "type": "held-out"}
        entries["model-index"] = [
            {"name": title, "results": [{"task": task, "dataset": data, "metrics": measured}]},
        ]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in entries.items())


def _data(run: Contents) -> list[str]:
    """Return the names of the folders of the images, with that above where one names a part of the data."""
    given = (str(run.config.options[name]) for name in PATHS if run.config.options.get(name))
    return list(dict.fromkeys(map(_last_names, given)))


def _last_names(path: str) -> str:
    parts = PureWindowsPath(path).parts if "\\" in path else PurePosixPath(path).parts
    return "/".join(parts[-2:] if re.match(r"train|test|val", parts[-1]) else parts[-1:]).lstrip("/")


def _summary(run: Contents, header: ModelCard) -> str:
    directions = header.directions
    if any(x.takes_images for x in directions.values()):
        data = run.config.options
        sides = {side: _last_names(str(data[side])) for side in "ab" if data.get(side)}
        named = f", where {' and '.join(f'{side} is {name}' for side, name in sides.items())}" if sides else ""
        does = f"translates images ({', '.join(directions)}{named})"
    else:
        does = "draws images from noise" + (" and a class" if header.classes else "")
    return f"A {header.method} model that {does}, trained with img2img."


def _use(header: ModelCard, place: str) -> str:
    takes = next(iter(header.directions.values()))
    label = f" --label {header.classes[0]}" if takes.labelled and header.classes else ""
    vectors = " --vectors FILE" * bool(header.vector)
    if takes.takes_images:
        command, call = f"img2img translate {place} IMAGES{label} --out RESULTS", "result = model(image)"
        what = "# an array (H, W, C), a picture or a path"
    else:
        command, call = f"img2img sample {place}{label}{vectors} --n 64 --out RESULTS", "images = model(64)"
        what = "# an array (64, H, W, C)"
    loaded = f', label="{header.classes[0]}"' if label else ""
    return (
        f"```sh\n{pip_install(extra='hub')}\n{_code(command)}\n```\n\n"
        f'```python\nimport img2img\n\nmodel = img2img.load("{place}"{_code(loaded)})\n{call}  {what}\n```\n\n'
        f"The file is fetched once and kept; `{place}@COMMIT` names one version for good. {DISTRIBUTION} is the name "
        "of the package, and img2img that of the command and of the module."
    )


def _images(header: ModelCard) -> str:
    rows = []
    for name, spec in header.directions.items():
        taken = f"noise of {spec.in_channels}" if not spec.takes_images else _pixels(spec.in_channels, spec.scale_in)
        rows.append([name, taken, _pixels(spec.out_channels, spec.scale_out)])
    size = f"Trained at {header.size} px." if header.size else "The size of its training images is not known."
    if header.classes:
        size += f" Classes: {', '.join(header.classes)}."
    return f"{_table(['direction', 'takes', 'gives'], rows)}\n\n{_plain(size)}"


def _pixels(channels: int, scale: Any) -> str:
    return f"{channels} channel{'s' * (channels != 1)}, {scale.dtype} from {scale.low:g} to {scale.high:g}"


def _scores(result: Result) -> str:
    if not result.rows:
        return ""
    names = list(dict.fromkeys(name for scores in result.rows.values() for name in scores))
    rows = [
        [f"{name}{ARROWS[sign_in(name, result.metrics)]}", *(_score(x.get(name)) for x in result.rows.values())]
        for name in names
    ]
    known = result.protocol
    pairs = "" if known.paired is None else ", with their true answers" if known.paired else ", unpaired"
    count = "held-out images" if known.images is None else f"{known.images} held-out images"
    words = [f"Measured on {count}{pairs}, step {known.step}, direction {known.direction or '–'}."]
    words += [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in map(_without_paths, dict.fromkeys(known.notes))]
    meanings = [
        f"- {name}: {'; '.join(filter(None, (metric.text.rstrip('.'), BETTER[sign_in(name, result.metrics)])))}."
        for name, metric in result.metrics.items()
    ]
    parts = [_table(["metric", *result.rows], rows), _plain(" ".join(words)), "\n".join(map(_plain, meanings))]
    return "\n\n".join(filter(None, parts))


def _score(score: SavedScore | None) -> str:
    std = remarks.number(score.std) if score else None
    return remarks.shown(score.value if score else None) + (f" ± {std:.2g}" if std is not None else "")


def _faults(run: Contents, result: Result) -> Iterable[str]:
    """Yield what the report of the run warns of, as far as it concerns a user of the model."""
    for remark in (*remarks.of_findings(run.report.findings), *remarks.of_evaluation(result)):
        if remark.kind != "over":
            yield f"{remark.text[:1].upper()}{remark.text[1:]}" + (f" Seen {remark.when}." if remark.when else "")


def _training(run: Contents, header: ModelCard) -> str:
    facts, progress = run.facts, run.report.progress
    length = f" of {progress.steps:,}" if progress and progress.steps > header.step else ""
    words = [f"Step {header.step:,}{length}." if not header.source else f"Weights: {header.source}."]
    if facts.images:
        held = " and ".join(map(str, facts.held_out.values()))
        words.append(f"Trained on {in_words(facts.images)}" + (f"; held out: {held}." if held else "."))
    if data := _data(run):
        words.append(f"Folders of the data: {', '.join(data)}.")
    options = {k: v for k, v in run.config.options.items() if v is not None and k not in {*OPERATIONAL, *RETIRED}}
    lines = "\n".join(f"--{name.replace('_', '-')} {_code(_value(v))}" for name, v in options.items())
    details = f"\n\n<details><summary>Options</summary>\n\n```\n{lines}\n```\n\n</details>" if lines else ""
    return _plain(" ".join(words)) + details


def _value(value: Any) -> str:
    """Return the value of an option; of a path the last name alone, and of a model on a hub all."""
    is_path = isinstance(value, str) and not is_on_hub(value) and re.search(r"[/\\]", value)
    return _last_names(value) if is_path else str(value)


def _without_paths(text: str) -> str:
    """Return text with paths shortened to the last name in each."""
    return re.sub(r"(?<![\w:/.-])(?:[A-Za-z]:|~|\.\.?)?[/\\](?:[^/\\\n,;:]+[/\\])*([^/\\\s,;:]*)", r"\1", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _plain(cell) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", escape(printable(text), quote=False))


def _code(text: str) -> str:
    """Return text for a block of code, which it cannot end."""
    return printable(text).replace("```", "'''")

"""Options of training from a file: TOML of one's own, or the config.json of a run."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from img2img.errors import ConfigError, ModelFileError, first_line, quote
from img2img.options.declared import check_names, options_in


def read_options(path: Path, method: str, groups: Sequence[type]) -> dict[str, Any]:
    """Read the options of training a method from a file, by their names in Python, and "out" if the file has it.

    A TOML or JSON file holds names and values, with `-` or `_`; `method` may be among them. The config.json of a run
    holds all options, also those without effect, so that those at their defaults are left out.

    Raises:
        ConfigError: if the file cannot be read, is of another method, or holds anything else.
    """
    content = _parse(path)
    of = content.pop("method", method)
    if of != method:
        raise ConfigError(f"{quote(path)} is of the method {quote(str(of))}, and this command trains {method}.")
    known = {name: option for group in groups for name, option in options_in(group).items()}
    if isinstance(content.get("options"), dict):
        from img2img.runs.record import RETIRED

        saved = {name: x for name, x in content["options"].items() if name not in RETIRED}
        options = {name: x for name, x in saved.items() if name not in known or known[name].default != x}
    else:
        options = {name.replace("-", "_"): x for name, x in content.items()}
    wanted = {name: x for name, x in options.items() if name != "out"}
    check_names(f"{method} in {quote(path)}", wanted, *groups)
    for name, x in wanted.items():
        try:
            known[name].convert(x)
        except ConfigError as error:
            raise ConfigError(f"In {quote(path)}: {error}") from None
    if not isinstance(options.get("out", ""), str):
        raise ConfigError(f"In {quote(path)}: out takes a path.")
    return options


def _parse(path: Path) -> dict[str, Any]:
    from img2img.runtime.records import read_text

    try:
        text = read_text(path).decode()
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except ModelFileError as error:
        raise ConfigError(str(error)) from None
    except (ValueError, RecursionError) as error:  # of both formats, and of text that is not UTF-8
        raise ConfigError(f"{quote(path)} is not the TOML, or .json, of options: {first_line(error)}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{quote(path)} holds no names with values.")
    return content

"""Options as dataclasses: a call's keywords checked against them, and made into instances."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from img2img.errors import choose


def check_names(what: str, options: Mapping[str, Any], *groups: type) -> None:
    """Refuses options that none of `groups` has.

    Raises:
        ConfigError: naming the nearest one.
    """
    names = {field.name: None for group in groups for field in fields(group)}
    for name in options:
        choose(f"option of {what}", name, names)


def given(options: Mapping[str, Any], group: type) -> dict[str, Any]:
    """Those of `options` that are fields of `group`."""
    return {f.name: options[f.name] for f in fields(group) if f.name in options}


def split(options: Mapping[str, Any], *groups: type) -> list[Any]:
    """An instance of each dataclass of options, made of those of `options` that are its own."""
    return [group(**given(options, group)) for group in groups]

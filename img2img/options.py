"""Options as dataclasses: a call's keywords checked against them, and made into instances."""

from dataclasses import fields
from typing import Any

from img2img.errors import choose


def check_names(what: str, options: dict[str, Any], *groups: type) -> None:
    """Refuses options that none of `groups` has.

    Raises:
        ConfigError: naming the nearest one.
    """
    names = {field.name: None for group in groups for field in fields(group)}
    for name in options:
        choose(f"option of {what}", name, names)


def checked(group: type, options: dict[str, Any], where: str) -> Any:
    """The dataclass `group` made of `options`, all of which must be its own.

    Raises:
        ConfigError: naming the first that is not, or whose value does not fit.
    """
    check_names(where, options, group)
    return split(options, group)[0]


def given(options: dict[str, Any], group: type) -> dict[str, Any]:
    """Those of `options` that are fields of `group`."""
    return {f.name: options[f.name] for f in fields(group) if f.name in options}


def split(options: dict[str, Any], *groups: type) -> list[Any]:
    """An instance of each dataclass of options, made of those of `options` that are its own."""
    return [group(**given(options, group)) for group in groups]

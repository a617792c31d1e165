"""The pages of the reference that are made from the code: the public names of Python."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

from docstrings import code, documented, entries, plain, sections, signature, table

import img2img
import img2img.lab
from img2img.methods import METHODS
from img2img.options.declared import Option, Within, options_in, unused_in

PAGES = {"reference/python.md": img2img, "reference/lab.md": img2img.lab}
TITLES = {"reference/python.md": "Python", "reference/lab.md": "Python for labs"}


def page(path: str) -> str:
    """Return a page about the public names of a module, each with what it documents of itself."""
    module = PAGES[path]
    names = sorted(module.__all__, key=str.lower)
    elsewhere = [name for name in names if module is not img2img and getattr(img2img, name, 0) is getattr(module, name)]
    blocks = [f"# {TITLES[path]}", *(f"`{module.__name__}.{name}` is [`img2img.{name}`](python.md#{name.lower()})."
                                     for name in elsewhere)]  # fmt: skip
    for name in names:
        if name not in elsewhere:
            blocks += described(name, f"{module.__name__}.{name}", getattr(module, name))
    return "\n\n".join([blocks[0], plain((inspect.getdoc(module) or "").split("\n")[0]), *blocks[1:]]) + "\n"


def described(title: str, name: str, value: Any, level: int = 2) -> Iterator[str]:
    """Yield the blocks about one name, and about what it contains."""
    yield f"{'#' * level} {title}"
    if isinstance(value, Mapping):
        yield f"`{name}`, a table of functions:"
        yield table(("name", "meaning"), ((code(key), first_line(one)) for key, one in value.items()))
        return
    if not isinstance(value, ModuleType):
        yield signature(name, value)
    yield documented(value)
    users = getattr(value, "users", None)
    if users:
        yield from options(users)
    if isinstance(value, type) and issubclass(value, Exception):
        rows = ((code(one.__name__), code(one.__base__.__name__), first_line(one)) for one in subclasses(value))
        yield table(("error", "a kind of", "meaning"), rows)
    elif isinstance(value, type | ModuleType):
        found = dict(members(value))
        known = dict(entries(sections(inspect.getdoc(value) or "").get("Attributes", "")))
        properties = {key: one for key, one in found.items() if isinstance(one, property | cached_property)}
        rows = [(code(key), first_line(one)) for key, one in properties.items() if key not in known]
        if rows:
            yield table(("property", "meaning"), rows)
        for member, one in ((key, one) for key, one in found.items() if key not in properties):
            call = member if isinstance(value, type) else f"{name}.{member}"
            yield from described(f"{title}.{member}".removesuffix(".__call__"), call, one, level + 1)


def members(owner: type | ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the functions and classes of a module, or the methods and properties of a class, that say what they do."""
    homes = [home for home in getattr(owner, "__mro__", [owner]) if place_of(home).startswith("img2img")]
    found: dict[str, Any] = {}
    for home in homes:
        for name, value in vars(home).items():
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            is_public = name[0] != "_" or name == "__call__"
            if is_public and says(value) and place_of(value) in ("", place_of(home)):  # neither imported nor added
                found.setdefault(name, value)
    yield from found.items()


def place_of(value: Any) -> str:
    """Return the module in which a class or function is written, or the name of a module; "" for a property."""
    if isinstance(value, property | cached_property):
        return ""
    return str(value.__name__ if isinstance(value, ModuleType) else value.__module__)


def says(value: Any) -> bool:
    """Tell whether a value is a function, class or property with a docstring."""
    is_kind = isinstance(value, type | property | cached_property) or inspect.isroutine(value)
    return is_kind and bool(inspect.getdoc(value))


def first_line(value: Any) -> str:
    """Return the first paragraph of a docstring."""
    return plain(" ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()))


def subclasses(kind: type) -> Iterator[type]:
    """Yield every error below one, from the package."""
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def options(users: Mapping[str, Iterable[type]]) -> Iterator[str]:
    """Yield the options of a function as a table: those that all of its users, the methods, have alike."""
    offered = [offers(groups) for groups in users.values()]
    shared = [one for one in offered[0].values() if all(other.get(one.name) == one for other in offered)]
    yield "**Options**" if len(offered) == 1 else "**Options** of every method:"
    yield table(("option", "type", "default", "meaning"), map(row, shared))
    if len(offered) > 1:
        pages = (f"[{name}](../docs/methods/{name}.md#options)" for name in METHODS)
        yield f"Each method has options of its own: {', '.join(pages)}."


def offers(groups: Iterable[type]) -> dict[str, Option]:
    """Return the options of groups that have an effect, by name."""
    known = {name: one for group in groups for name, one in options_in(group).items()}
    return {name: one for name, one in known.items() if name not in unused_in(*groups)}


def row(one: Option) -> tuple[str, ...]:
    """Return the row of an option."""
    kind = one.kind.__name__ if isinstance(one.kind, type) else str(one.kind)
    limit = f" {str(one.limit).capitalize()}." if isinstance(one.limit, Within) else ""
    return code(one.name), code(f"{kind} | None" if one.optional else kind), one.default_text, plain(one.text) + limit

"""Docstrings in Google's style, and signatures, as Markdown."""

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from textwrap import TextWrapper
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Options")
LISTS = {
    "Args": "argument",
    "Attributes": "attribute",
    "Raises": "error",
}  # of entries, with the heading of their table
SIMPLE = (bool, int, float, str, tuple, type(None))


def plain(text: str) -> str:
    """Return prose with its code in backticks kept, and all else that Markdown would read as markup escaped."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(x if i % 2 else re.sub(r"([*_\[\]])", r"\\\1", x).replace("<", "&lt;") for i, x in enumerate(pieces))


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table without its empty columns; cells are Markdown."""
    lines = [list(heading), *map(list, rows)]
    filled = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(' '.join(line[column].split()) for column in filled)} |" for line in lines)


def code(text: str) -> str:
    """Return text as code, also in a cell of a table; nothing if it is empty."""
    return f"`{text}`" if text else ""


def sections(text: str) -> dict[str, str]:
    """Return the body of every section of a docstring, by its name, and what stands before them as ""."""
    found = {"": ""}
    name = ""
    for line in text.splitlines():
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            name = title
            found[name] = ""
        else:
            found[name] += line + "\n"
    return found


def entries(body: str) -> list[tuple[str, str]]:
    """Return name and text of the entries of a section."""
    found = re.findall(r"^    (\S[^:]*): (.*(?:\n     .*|\n(?=\n     ))*)", body, re.MULTILINE)
    return [(name, " ".join(text.split())) for name, text in found]


def prose(text: str) -> str:
    """Return paragraphs as Markdown; those that are indented stay as they are, for they are code."""
    paragraphs = re.split(r"\n\n+", text.strip("\n"))
    return "\n\n".join(p if p.startswith("    ") else plain(p) for p in paragraphs)


def kind(annotation: Any) -> str:
    """Return a type as a reader writes it: without modules, limits and help texts."""
    if annotation is inspect.Parameter.empty:
        return ""
    if get_origin(annotation) is Annotated:
        return kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(kind, get_args(annotation)))
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)
    return text.replace("ndarray[tuple[Any, ...], dtype[Any]]", "ndarray").replace("NoneType", "None")


def default(value: Any) -> str:
    """Return a default as code; "..." for objects."""
    if isinstance(value, Path):
        return repr(str(value))
    return repr(value) if isinstance(value, SIMPLE) else "..."


def signature(name: str, function: Any) -> str:
    """Return a call of a function with all of its arguments, as a block of code."""
    words, starred = [], False
    for parameter in parameters(function):
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        given = parameter.default is not parameter.empty
        words.append(stars + parameter.name + (f"={default(parameter.default)}" if given else ""))
    text = f"{name}({', '.join(words)})"
    if len(text) > 88:
        inner = TextWrapper(88, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        text = f"{name}(\n{inner.fill(', '.join(words))},\n)"
    return f"```python\n{text}\n```"


def parameters(function: Any) -> list[inspect.Parameter]:
    """Return the arguments of a function or class; without the instance."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    return [x for i, x in enumerate(found) if i or x.name not in ("self", "cls")]


def documented(function: Any) -> str:
    """Return the docstring of a function or class as Markdown, with the types of its arguments."""
    parts = sections(inspect.getdoc(function) or "")
    types = {name: kind(x) for name, x in getattr(function, "__annotations__", {}).items()}
    types |= {x.name: kind(x.annotation) for x in parameters(function)}
    blocks = [prose(parts.pop(""))]
    for title, body in parts.items():
        if title in LISTS:
            rows = [(code(name), code(types.get(name.lstrip("*"), "")), plain(text)) for name, text in entries(body)]
            blocks.append(table((LISTS[title], "type", "meaning"), rows))
        elif title != "Options":  # they are written from what declares them
            blocks.append(f"**{title}:** {plain(' '.join(body.split()))}")
    return "\n\n".join(blocks)

"""The page of the reference that is made from the command line."""

from collections.abc import Iterator
from typing import Any

import typer
from docstrings import code, plain, table

from img2img.cli import main as cli
from img2img.cli.equalize import add_equalizing
from img2img.methods import METHODS


def page() -> str:
    """Return a page about every command, with what its help says."""
    add_equalizing(cli.equalize)
    cli.add_methods()
    group: Any = typer.main.get_command(cli.app)
    return "\n\n".join(["# Command line", *described("img2img", group)]) + "\n"


def described(name: str, command: Any) -> Iterator[str]:
    """Yield the blocks about a command and those below it."""
    commands = getattr(command, "commands", {})
    below = list(commands.values())
    if name == "img2img":
        yield "Every command prints this with `--help`, and has these [exit codes](../README.md#supported-images)."
    else:
        yield f"## {name.removeprefix('img2img ')}"
    yield "\n\n".join(plain(text) for text in (command.help or "").split("\n\n"))
    if name == "img2img train":
        pages = (f"[{method}](../docs/methods/{method}.md#options)" for method in METHODS)
        yield f"Each METHOD has options of its own: {', '.join(pages)}. These are those of all:"
        yield from parameters([x for x in below[0].params if all(x.help in helps(other) for other in below)])
        return
    yield from parameters(command.params)
    for word in command.list_commands(None) if commands else ():
        yield from described(f"{name} {word}", commands[word])


def helps(command: Any) -> set[str]:
    """Return the help texts of the parameters of a command."""
    return {x.help for x in command.params}


def parameters(found: list[Any]) -> Iterator[str]:
    """Yield the table of arguments, and that of options."""
    for kind, heading in (("argument", "argument"), ("option", "option")):
        rows = [
            (code(", ".join(x.opts + x.secondary_opts) if kind == "option" else x.name.upper()), meaning(x))
            for x in found
            if x.param_type_name == kind
        ]
        if rows:
            yield table((heading, "meaning"), rows)


def meaning(parameter: Any) -> str:
    """Return the help of a parameter."""
    return plain((parameter.help or "").replace("\\[", "[")) + (" Required." if parameter.required else "")

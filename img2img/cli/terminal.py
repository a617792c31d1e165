"""What the commands share: options that are declared elsewhere, a bar, and Ctrl-C."""

import inspect
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

from img2img.errors import Interrupted, printable
from img2img.options.declared import Choice, Option, Within, options_in, unused_in

Function = TypeVar("Function", bound=Callable[..., None])
ORDER = ("train", "translate", "evaluate", "compare", "sample", "equalize", "export", "import", "info", "demo")
RUN = "Run"  # what --help stands under where other options have headings


class _Plain:
    """Help in which arguments are in capitals and flags take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperArgument) and parameter.metavar is None:
                parameter.metavar = f"{parameter.name}".upper() + "..." * (parameter.nargs != 1)
            elif isinstance(parameter, TyperOption) and parameter.is_flag:
                parameter.metavar = ""
        return parameters


class Group(_Plain, TyperGroup):
    """Commands in the order of `ORDER`, which is that of a user's work."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


class Command(_Plain, TyperCommand):
    """A command whose help is wrapped by the terminal alone, and by nobody before."""

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:
        paragraphs = inspect.cleandoc(help or "").split("\n\n")
        super().__init__(*args, help="\n\n".join(" ".join(text.split()) for text in paragraphs), **kwargs)

    def get_help_option(self, ctx: Any) -> Any:
        option: Any = super().get_help_option(ctx)
        if any(getattr(parameter, "rich_help_panel", None) == RUN for parameter in self.params):
            option.rich_help_panel = RUN
        return option


def options_of(*groups: type, headings: Mapping[str, str] | None = None) -> Callable[[Function], Function]:
    """Give a command the fields of `groups` in place of its `**options`: an option is declared once, as a field.

    Their values are checked before the command is called, which imports torch.

    Args:
        headings: what each option stands under in the help, in the order of the help.
    """
    known = {name: one for group in groups for name, one in options_in(group).items()}
    shown = [known[name] for name in headings or known if name not in unused_in(*groups)]
    return with_options([(one, parameter_of(one, heading=(headings or {}).get(one.name))) for one in shown])


def with_options(options: Iterable[tuple[Option, inspect.Parameter]]) -> Callable[[Function], Function]:
    """Put `options` in the place of a command's `**options`, and check them before it is called."""
    known = {one.name: one for one, _ in options}
    shown = [parameter for _, parameter in options]

    def decorate(command: Function) -> Function:
        @wraps(command)
        def checked(**given: Any) -> None:
            for name, value in given.items():
                if name in known:
                    known[name].convert(value)
            command(**given)

        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        order = list(dict.fromkeys(map(_heading, shown)))
        ranked = sorted([*own, *shown], key=lambda p: order.index(_heading(p)) if _heading(p) in order else -1)
        checked.__signature__ = inspect.Signature(ranked)  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def _heading(parameter: inspect.Parameter) -> str | None:
    """Return what a parameter stands under in the help."""
    return next((x.rich_help_panel for x in get_args(parameter.annotation) if isinstance(x, OptionInfo)), None)


def parameter_of(
    one: Option, kind: Any = None, flag: str | None = None, heading: str | None = None
) -> inspect.Parameter:
    """Return an option as a parameter of a command, its help with its default and its limit."""
    flag = flag or (f"{one.flag}/--no-{one.flag[2:]}" if one.kind is bool and not one.optional else one.flag)
    told = [f"default: {one.default_text}"] if one.default_text else []
    told += [str(one.limit)] if isinstance(one.limit, Within) else []
    text = f"{one.text} [{'; '.join(told)}]" if told else one.text
    names = one.limit.names if isinstance(one.limit, Choice) else ()
    info = typer.Option(
        flag,
        help=text.replace("[", "\\["),
        show_default=False,
        metavar="NAME" if names else None,
        autocompletion=_completion(names) if names else None,
        rich_help_panel=heading,
    )
    kind = kind or (one.kind | None if one.optional else one.kind)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=Annotated[kind, info]
    )


def _completion(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def beginning(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return beginning


@contextmanager
def progress_bar(what: str, unit: str = "img") -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Show progress on stderr: functions that move it to so many of so many, and that print a line above it."""
    from rich.console import Console

    from img2img.runtime.progress import Meter

    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print("\n".join(map(printable, text.split("\n"))), markup=False, soft_wrap=True)

    meter = Meter(console, what, say=say, unit=unit)
    try:
        yield meter.advance, say
    finally:
        meter.close()


@contextmanager
def stoppable(sentence: str) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the command with a sentence."""
    received = [signal.SIGINT]

    def stop(number: int, _: Any) -> None:
        received[0] = signal.Signals(number)
        raise KeyboardInterrupt

    stops = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {n: signal.signal(n, stop) for n in stops if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(sentence, received[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Parts that commands share: options declared elsewhere, a progress bar, and Ctrl-C."""

import inspect
import math
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

from img2img import plugins
from img2img.data.remote import refuse_url
from img2img.errors import Img2ImgError, Interrupted, printable
from img2img.options.declared import Choice, Option, Within, options_in, unused_in
from img2img.training.stops import SIGNALS

Function = TypeVar("Function", bound=Callable[..., None])
ORDER = (
    "train",
    "translate",
    "distill",
    "evaluate",
    "compare",
    "sample",
    "classify",
    "serve",
    "push",
    "equalize",
    "report",
    "export",
    "import",
    "info",
    "demo",
    "doctor",
)
RUN = "Run"  # the heading of --help where other options have headings
MODEL = "A model file (.safetensors), the folder of a run, or hf://user/name on a hub"
ModelPath = Annotated[str, typer.Argument(help=f"{MODEL}.")]
STOPPED = "Stopped. Run the same command again to compute what is missing."


class _Plain:
    """Help that prints arguments in capitals and flags without a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperArgument) and parameter.metavar is None:
                parameter.metavar = f"{parameter.name}".upper() + "..." * (parameter.nargs != 1)
            elif isinstance(parameter, TyperOption) and parameter.is_flag:
                parameter.metavar = ""
        return parameters


class Group(_Plain, TyperGroup):
    """Commands in the order of `ORDER`, the order in which a user needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


class Command(_Plain, TyperCommand):
    """A command whose help is wrapped by the terminal only, not by its source."""

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:
        paragraphs = inspect.cleandoc(help or "").split("\n\n")
        super().__init__(*args, help="\n\n".join(" ".join(text.split()) for text in paragraphs), **kwargs)

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            if isinstance(path := ctx.params.get(parameter.name), Path):
                refuse_url(path, max(parameter.opts, key=len) if "-" in parameter.opts[0] else str(parameter.metavar))
        return super().invoke(ctx)

    def get_help_option(self, ctx: Any) -> Any:
        option: Any = super().get_help_option(ctx)
        if any(getattr(parameter, "rich_help_panel", None) == RUN for parameter in self.params):
            option.rich_help_panel = RUN
        return option


def headings_of(groups: Mapping[type, str]) -> dict[str, str]:
    """Return the heading of every option of groups that each have one."""
    return {name: heading for group, heading in groups.items() for name in options_in(group)}


def options_of(
    *groups: type, headings: Mapping[str, str] | None = None, plugged: bool = False
) -> Callable[[Function], Function]:
    """Replace a command's `**options` by the fields of `groups`, so that each option is declared once, as a field.

    Their values are checked before the command is called, which imports torch. `headings` are those of the options in
    the help, in its order; if `plugged`, the help also names what plug-ins have.
    """
    known = {name: option for group in groups for name, option in options_in(group).items()}
    offered = [known[name] for name in headings or known if name not in unused_in(*groups)]
    return with_options([(x, parameter_of(x, heading=(headings or {}).get(x.name), plugged=plugged)) for x in offered])


def with_options(options: Iterable[tuple[Option, inspect.Parameter]]) -> Callable[[Function], Function]:
    """Replace a command's `**options` by `options`, and check their values before it is called."""
    known = {option.name: option for option, _ in options}
    added = [parameter for _, parameter in options]

    def decorate(command: Function) -> Function:
        @wraps(command)
        def checked(**values: Any) -> None:
            for name, value in values.items():
                if name in known:
                    known[name].convert(value)
            command(**values)

        parameters = inspect.signature(command).parameters.values()
        kept = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters if p.kind is not p.VAR_KEYWORD]
        order = list(dict.fromkeys(map(_heading, added)))
        ranked = sorted([*kept, *added], key=lambda p: order.index(_heading(p)) if _heading(p) in order else -1)
        checked.__signature__ = inspect.Signature(ranked)  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def _heading(parameter: inspect.Parameter) -> str | None:
    """Return the heading of a parameter in the help."""
    return next((x.rich_help_panel for x in get_args(parameter.annotation) if isinstance(x, OptionInfo)), None)


def parameter_of(
    option: Option, flag: str | None = None, heading: str | None = None, plugged: bool = False
) -> inspect.Parameter:
    """Return an option as a parameter of a command, whose help states its default and its limit."""
    if flag is None:
        is_switch = option.kind is bool and not option.optional
        flag = f"{option.flag}/--no-{option.flag[2:]}" if is_switch else option.flag
    notes = [f"default: {option.default_text}"] if option.default_text else []
    notes += [str(option.limit)] if isinstance(option.limit, Within) else []
    names = option.limit.names if isinstance(option.limit, Choice) else ()
    group = option.limit.group if isinstance(option.limit, Choice) and plugged else ""
    text = option.text + (plugins.mention(group) if group else "")
    text = f"{text} [{'; '.join(notes)}]" if notes else text
    names = (*names, *plugins.names(group))
    completion = (lambda incomplete: [name for name in names if name.startswith(incomplete)]) if names else None
    info = typer.Option(
        flag,
        help=text.replace("[", "\\["),
        show_default=False,
        metavar="NAME" if names else None,
        autocompletion=completion,
        rich_help_panel=heading,
    )
    kind = option.kind | None if option.optional else option.kind
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=Annotated[kind, info]
    )


@contextmanager
def progress_bar(title: str, unit: str = "img") -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Show progress on stderr; yield a function that sets it, (done, total), and one that prints a line above it."""
    from rich.console import Console

    from img2img.runtime.output import stderr_console
    from img2img.runtime.progress import Meter

    console = Console(stderr=True, highlight=False)

    def print_line(text: str) -> None:
        console.print("\n".join(map(printable, text.split("\n"))), markup=False, soft_wrap=True)

    meter = Meter(stderr_console(), title, print_line=print_line, unit=unit)
    try:
        yield meter.advance, print_line
    finally:
        meter.close()


def now_and_then(function: Callable[..., None], seconds: float = 30.0) -> Callable[..., None]:
    """Return a function that calls `function` unless it did so less than `seconds` ago."""
    last = [-math.inf]

    def call(*given: Any) -> None:
        if time.monotonic() - last[0] >= seconds:
            last[0] = time.monotonic()
            function(*given)

    return call


@contextmanager
def traced() -> Iterator[None]:
    """Print the traceback of a user's mistake too, before its sentence."""
    try:
        yield
    except Img2ImgError:
        traceback.print_exc()
        raise


@contextmanager
def stoppable(sentence: str) -> Iterator[Callable[[], None]]:
    """End the command with `sentence` on Ctrl-C, SIGTERM or SIGHUP.

    What it yields ends the command too if a signal came and was lost, as happens in the callbacks of some libraries.
    """
    received: list[signal.Signals] = []

    def stop(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    previous = {n: signal.signal(n, stop) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield check
    except KeyboardInterrupt:
        raise Interrupted(sentence, received[-1] if received else signal.SIGINT) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

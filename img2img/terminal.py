"""What the commands share: options that are declared elsewhere, a bar, and Ctrl-C."""

import dataclasses
import inspect
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from img2img.errors import Interrupted

Command = TypeVar("Command", bound=Callable[..., None])


def options_of(*groups: type) -> Callable[[Command], Command]:
    """Gives a command the fields of `groups` in place of its `**options`: an option is declared once, as a field."""
    return with_options(p for group in groups for p in _fields_of(group))


def with_options(options: Iterable[inspect.Parameter]) -> Callable[[Command], Command]:
    """Puts `options` in the place of a command's `**options`."""

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return command

    return decorate


def _fields_of(group: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        kind, text = get_args(hints[field.name])
        flag = f"--{field.name.replace('_', '-')}"
        yield option(
            field.name, kind, field.default, f"{flag}/--no-{flag[2:]}" if field.default is True else flag, text
        )


def option(name: str, kind: Any, default: Any, flag: str, text: str) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(flag, help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A bar on stderr: functions that move it to so many of so many, and that print a line above it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda done, total: None, say
        return
    columns = (SpinnerColumn(), *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total), say


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

"""Options as dataclasses: each is declared once, with its help text and its limit, and checked wherever it is set."""

import inspect
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

from img2img import plugins
from img2img.errors import ConfigError, choose
from img2img.options.outline import keys

SEEDS = 2**63 - 1  # the largest seed of a torch.Generator
MAX_QUOTED = 60  # characters of a wrong value that an error repeats


def as_text(number: float) -> str:
    """Return a number as errors and help texts print it."""
    digits = str(int(number))
    if number >= 10**6 and digits.strip("0") == "1":
        return f"10^{len(digits) - 1}"
    if number == SEEDS:
        return "2^63 - 1"
    return f"{number:g}" if isinstance(number, float) else f"{number}"


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`.

    Attributes:
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
        special: one more number that is allowed, and what it means as a default, e.g. (0, "by --epochs").
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    special: tuple[float, str] | None = None

    def __contains__(self, number: float) -> bool:
        if self.special and number == self.special[0]:
            return True
        above = number > self.low if self.above else number >= self.low
        return above and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        low, high = as_text(self.low), as_text(self.high)
        text = f"{'above' if self.above else 'from'} {low} {'up to' if self.above else 'to'} "
        text += f"below {high}" if self.below else high
        special = self.special
        return text if special is None or special[0] == self.low else f"{text}, or {as_text(special[0])}"


@dataclass(frozen=True)
class Choice:
    """One of several names: `words`, and the keys of a `table`, which is given by its dotted name.

    Attributes:
        complete: whether no other value is allowed. If others are, such as the name of a file, the code that uses the
            option checks them.
        former: names that an earlier version took, each with its present name.
        group: the entry points of plug-ins whose names are allowed as well, one of `plugins.GROUPS`.
    """

    words: tuple[str, ...] = ()
    table: str = ""
    complete: bool = True
    former: tuple[tuple[str, str], ...] = ()
    group: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of this package; plug-ins are searched for only if another is given."""
        return (*self.words, *(keys(self.table) if self.table else ()))

    def refuse_unknown(self, flag: str, option: str, name: str) -> None:
        """Raise ConfigError unless a plug-in, or something that was passed, has a name."""
        if plugins.known(self.group, name):
            return
        if self.group and plugins.MARK in name:
            raise plugins.absent(option, name)
        choose(flag, name, (*self.names, *plugins.names(self.group)))

    def __str__(self) -> str:
        return ", ".join(self.names)


Limit = Within | Choice


@dataclass(frozen=True)
class Option:
    """One field of a group: its type, whether it may be None, its help, and its limit."""

    name: str
    kind: type
    optional: bool
    text: str
    limit: Limit | None
    default: Any
    flag: str  # its name in errors

    def convert(self, value: Any) -> Any:
        """Return `value` in the option's own type.

        Raises:
            ConfigError: if it has another type, or exceeds the limit.
        """
        if value is None:  # means not given
            return None if self.optional or self.default is MISSING else self.default
        result = _as(self.kind, value)
        if result is None or (isinstance(self.limit, Within) and result not in self.limit):
            text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
            text = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
            raise ConfigError(f"{self.flag} takes {self.expected}, not {text}.")
        if isinstance(self.limit, Choice):
            result = dict(self.limit.former).get(result, result)
            if self.limit.complete and result not in self.limit.names:
                self.limit.refuse_unknown(self.flag, self.name, result)
        return result

    @property
    def default_text(self) -> str:
        """The default as help and docs print it; "" if there is none."""
        special = self.limit.special if isinstance(self.limit, Within) else None
        if special and self.default == special[0]:
            return special[1]
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, float):
            return f"{self.default:.3g}"
        return "" if self.default is None or self.default is MISSING else str(self.default)

    @property
    def expected(self) -> str:
        if isinstance(self.limit, Choice) and self.limit.complete:
            return f"one of {self.limit}"
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
        kinds |= {list[str]: "texts"}
        return f"{kinds[self.kind]} {self.limit}" if isinstance(self.limit, Within) else kinds[self.kind]


def _as(kind: type, value: Any) -> Any:
    """Return `value` as a `kind`, or None if it is not one: numpy numbers and numbers in text count, NaN does not."""
    if kind is bool:
        text = str(value).lower()
        named = isinstance(value, bool | str) or type(value).__name__ in ("bool_", "bool")
        return {"true": True, "false": False}.get(text) if named else None
    if kind in (int, float):
        return _number(kind, value)
    if kind == list[str]:
        return list(value) if all(isinstance(word, str) for word in value) else None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind is str and (type(value).__name__ == "device" or (isinstance(value, Real) and not isinstance(value, bool))):
        value = str(value)
    return kind(value) if isinstance(value, str) else None


def _number(kind: type, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        if isinstance(value, Integral):
            return kind(int(value))
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        return None
    return kind(number)


@lru_cache
def options_in(group: Any) -> Mapping[str, Option]:
    """Return the options that a dataclass declares, by name."""
    hints = get_type_hints(group, include_extras=True)
    return {field.name: option(field.name, hints[field.name], field.default) for field in fields(group)}


def arguments_of(function: Any, *names: str) -> dict[str, Option]:
    """Return arguments of a function as options, by name: the named ones, or else all that are annotated as options."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in names and (names or "Annotated" not in str(parameter.annotation)):
            continue
        hint, default = parameter.annotation, parameter.default
        hint = eval(hint, function.__globals__) if isinstance(hint, str) else hint
        found[name] = replace(option(name, hint, MISSING if default is parameter.empty else default), flag=name)
    return found


def option(name: str, hint: Any, default: Any = MISSING) -> Option:
    """Return the option that an annotation declares: `Annotated[type, "help text", limit]`, or just a type."""
    kind, *metadata = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    kinds = [k for k in get_args(kind) if k is not type(None)] or [kind]
    text = next((x for x in metadata if isinstance(x, str)), "")
    limit = next((x for x in metadata if isinstance(x, Within | Choice)), None)
    optional = type(None) in get_args(kind)
    return Option(name, kinds[0], optional, text, limit, default, f"--{name.replace('_', '-')}")


class Options:
    """Base of the option dataclasses: however one is created, its values are converted and checked.

    Attributes:
        unused: options, of any group, that have no effect in combination with this group.
    """

    unused: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        group: Any = type(self)
        for name, known in options_in(group).items():
            value = getattr(self, name)
            converted = known.convert(value)
            if converted is not value:
                object.__setattr__(self, name, converted)

    def idle(self) -> Iterator[tuple[str, str]]:
        """Yield the options that have no effect because of the values of others, and what each is for."""
        yield from ()


def check_names(what: str, options: Mapping[str, Any], *groups: type) -> None:
    """Refuse options that none of `groups` declares.

    Raises:
        ConfigError: naming the nearest one.
    """
    names = [field.name for group in groups for field in fields(group)]
    for name in options:
        choose("option", name, names, f" for {what}")


def checked(group: type, options: dict[str, Any], where: str) -> Any:
    """Build the dataclass `group` from `options`, all of which must belong to it.

    Raises:
        ConfigError: naming the first option that does not belong to it, or whose value does not fit.
    """
    check_names(where, options, group)
    return split(options, group)[0]


def unused_in(*groups: type) -> set[str]:
    """Return the names of the options that one of `groups` declares and another leaves without effect."""
    return {name for group in groups for name in getattr(group, "unused", ())}


def refuse_idle(what: str, options: Collection[str], config: Options) -> None:
    """Refuse options that have no effect on `what`, either with any config or with this one.

    Raises:
        ConfigError: naming one, and what it requires.
    """
    for name in options:
        if name in config.unused:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on {what}; leave it out.")
    for name, purpose in config.idle():
        if name in options:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect here: it is for {purpose}. Leave it out.")


def pick(options: Mapping[str, Any], group: type) -> dict[str, Any]:
    """Return those of `options` that are fields of `group`, converted to the declared types."""
    return {name: known.convert(options[name]) for name, known in options_in(group).items() if name in options}


def split(options: Mapping[str, Any], *groups: type) -> list[Any]:
    """Build an instance of each group from those of `options` that belong to it."""
    return [group(**{name: options[name] for name in options_in(group) if name in options}) for group in groups]

"""What other packages add to the tables of this one, by entry points, and what a program adds by passing it.

A plug-in is an installed package with an entry point in the group `img2img.methods`, `img2img.generators`,
`img2img.discriminators`, `img2img.networks` or `img2img.objectives`. It is imported when its name is asked for.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from img2img.errors import ConfigError, first_line

Entry = TypeVar("Entry")

GROUPS = ("methods", "generators", "discriminators", "networks", "objectives")
MARK = ":"  # in the name of what was passed, "module:name", and in no other

# Group -> name -> what was passed under it, the last time. A class of a notebook's cell is another one after each run.
_PASSED: dict[str, dict[str, Any]] = defaultdict(dict)


class Table(Mapping[str, Entry]):
    """A table of this package, with what plug-ins and the program add to it.

    Iterating gives the names of this package and of plug-ins, and imports none of them. A name of this package always
    means its own entry, whatever plug-ins have.

    Args:
        group: the group of entry points.
        own: the entries of this package.
        read: returns the entry that an entry point stands for.

    Attributes:
        own: the entries of this package.
    """

    def __init__(
        self, group: str, own: Mapping[str, Entry], read: Callable[[EntryPoint], Entry] = EntryPoint.load
    ) -> None:
        self.group, self.own, self.read = group, own, read

    def __getitem__(self, name: str) -> Entry:
        if name in self.own:
            return self.own[name]
        if name in _PASSED[self.group]:
            entry: Entry = _PASSED[self.group][name]
            return entry
        with self.guarded(name):
            return self.read(_entry_points(self.group)[name][0])

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in _PASSED[self.group] or name in _entry_points(self.group)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *names(self.group)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @contextlib.contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Turn whatever the plug-in behind a name raises into one sentence that names it.

        Raises:
            ConfigError: if it raises anything, or several plug-ins have this name.
        """
        found = () if name in self.own else _entry_points(self.group).get(name, ())
        if len(found) > 1:
            raise ConfigError(_rivals(self.group, name))
        try:
            yield
        except (Exception, SystemExit) as error:
            if not found or isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"The {self.group[:-1]} '{name}' of {_package(found[0])} cannot be used: {type(error).__name__}: "
                f"{first_line(error)}. Upgrade that package, or uninstall it."
            ) from error

    def package(self, name: str) -> str:
        """Return the package and the version that a name comes from; "" of what is no plug-in's."""
        if name in self.own or MARK in name:
            return ""
        found = _entry_points(self.group).get(name, ())
        return _package(found[0]) if found else ""

    def faults(self) -> dict[str, str]:
        """Return the entries of plug-ins that are never used, by name, with a sentence for each."""
        faults = {}
        for name, found in _entry_points(self.group).items():
            if name in self.own:
                ignored = f"The {self.group[:-1]} '{name}' of {_package(found[0])} is ignored"
                faults[name] = f"{ignored}: img2img itself has one. Ask its authors for another name."
            elif len(found) > 1:
                faults[name] = _rivals(self.group, name)
        return faults


def names(group: str) -> list[str]:
    """Return the names that plug-ins have in a group; imports none of them."""
    return sorted(_entry_points(group)) if group else []


def entries() -> Iterator[tuple[str, str, str]]:
    """Yield group, name and package of all that plug-ins have; import none of them."""
    for group in GROUPS:
        for name, found in _entry_points(group).items():
            yield from ((group, name, _package(entry)) for entry in found)


def known(group: str, name: str) -> bool:
    """Tell whether a plug-in, or something that was passed, has this name."""
    return bool(group) and (name in _PASSED[group] or name in _entry_points(group))


def mention(group: str) -> str:
    """Return a sentence that names what plug-ins have in a group, for help; "" if nothing."""
    return f" Of plug-ins: {', '.join(names(group))}." if names(group) else ""


def take(option: str, value: Any, before: str = "") -> str:
    """Return the name under which a class or function that was passed for an option is found from now on.

    Args:
        option: the option, whose plural is the group.
        value: what was passed.
        before: the name that a run or a model file has for it; it is kept if it is of the same class or function.

    Raises:
        ConfigError: if it has no name, or is something else.
    """
    title = getattr(value, "__qualname__", "")
    if not callable(value) or not title:
        raise ConfigError(
            f"{option} takes a name, or a class or function that makes a network, not {_article(value)}: each network "
            "that a method needs is made anew, of the channels of its images."
        )
    if "<lambda>" in title:
        raise ConfigError(f"{option} takes a class or function with a name, and a lambda has none; give it one by def.")
    name = f"{value.__module__}{MARK}{title}"
    if MARK in before and before.rpartition(MARK)[2] == title:
        name = before
    _PASSED[f"{option}s"][name] = value
    return name


def passed(names_by_group: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    """Return what was passed, of these names, by group and name: for a copy of a model in another process."""
    return {(group, name): _PASSED[group][name] for group, name in names_by_group.items() if name in _PASSED[group]}


def restore(entries: Mapping[tuple[str, str], Any]) -> None:
    """Find what `passed` returned by its names from now on."""
    for (group, name), value in entries.items():
        _PASSED[group][name] = value


def absent(option: str, name: str) -> ConfigError:
    """Return the error for a name of something that was passed, in a program that has not passed it."""
    short = name.rpartition(MARK)[2].rpartition(".")[2]
    return ConfigError(
        f"The {option} '{name}' is a class or function of a program, which img2img does not import by itself; in "
        f"Python, pass it again: {option}={short}. For the command line, make it a plug-in (docs/extending.md)."
    )


@cache
def _entry_points(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in metadata.entry_points(group=f"img2img.{group}"):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package without a name"


def _rivals(group: str, name: str) -> str:
    packages = " and ".join(dict.fromkeys(map(_package, _entry_points(group)[name])))
    return f"The {group[:-1]} '{name}' is ignored: {packages} both have one. Uninstall one of them."


def _article(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"

"""The options of a function, in its docstring: generated from the dataclasses that declare them."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from textwrap import fill
from typing import Any, TypeVar, get_args, get_type_hints

Function = TypeVar("Function", bound=Callable[..., Any])


def documented(*groups: type, **users: Iterable[type]) -> Callable[[Function], Function]:
    """Append the fields of option dataclasses to the docstring of a function, and store them as its `users`.

    Args:
        *groups: the dataclasses.
        **users: alternatively, the dataclasses of each of several users of the function, e.g. the methods of `train`.
    """
    groups_by_user: Mapping[str, Iterable[type]] = users or {"": groups}

    def decorate(function: Function) -> Function:
        texts = _entries(groups_by_user)
        entries = [fill(text, 100, initial_indent=" " * 4, subsequent_indent=" " * 8) for text in texts]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *entries, ""])
        function.users = groups_by_user  # type: ignore[attr-defined]
        return function

    return decorate


def _entries(users: Mapping[str, Iterable[type]]) -> Iterable[str]:
    """Yield one paragraph per option: name, type, default, meaning, and its users unless all have it."""
    defaults: dict[tuple[str, str, str], dict[str, Any]] = {}
    for user, groups in users.items():
        for group in groups:
            hints = get_type_hints(group, include_extras=True)
            for field in fields(group):
                kind, *notes = get_args(hints[field.name])
                text = next(note for note in notes if isinstance(note, str))
                defaults.setdefault((field.name, in_code(kind), text), {})[user] = field.default
    for (name, kind, text), values in defaults.items():
        usual = Counter(map(repr, values.values())).most_common(1)[0][0]
        others = [f"{user}: {value!r}" for user, value in values.items() if repr(value) != usual]
        exceptions = f" ({', '.join(others)})" if others else ""
        only = f" Only {', '.join(values)}." if len(values) < len(users) else ""
        yield f"{name}: {kind} = {usual}{exceptions}. {text}{only}"


def in_code(kind: Any) -> str:
    """Return a type as it is written in code."""
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "").replace("pathlib.", "")

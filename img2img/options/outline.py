"""Read what a module declares from its source, for help that must not wait for the imports of that module."""

import __future__

import ast
import copy
import sys
from functools import lru_cache
from importlib.util import find_spec
from typing import Any


@lru_cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    source: str | None = getattr(spec and spec.loader, "get_source", lambda name: None)(module)
    if source is None:
        raise ImportError(f"{module} has no source to read", name=module)
    return ast.parse(source)


def docstring(module: str) -> str:
    """Return the docstring of a module, unwrapped."""
    return " ".join((ast.get_docstring(_tree(module)) or "").split())


def keys(table: str) -> tuple[str, ...]:
    """Return the keys of a table, named with its module; of the table itself where that module is loaded.

    Otherwise it must be a literal dict at the top of the module.
    """
    module, _, name = table.rpartition(".")
    live = getattr(sys.modules.get(module), name, None)
    if live is not None:
        return tuple(live)
    for node in _tree(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return tuple(ast.literal_eval(key) for key in value.keys if key is not None)
    raise LookupError(f"{table} is not a literal table.")


def outline(module: str, name: str, scope: dict[str, Any]) -> Any:
    """Return the class `name` of a module without the bodies: its docstring, and the signatures and docstrings of its
    methods, whose annotations are text.

    Args:
        module: where the class is.
        name: of the class.
        scope: what annotations and defaults refer to.
    """
    found = next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    empty = copy.deepcopy(found)
    methods = [node for node in empty.body if isinstance(node, ast.FunctionDef)]
    for node in methods:
        node.body, node.decorator_list = [*_head(node), ast.Pass()], []
    empty.body, empty.bases, empty.decorator_list = [*_head(empty), *methods], [], []
    local = dict(scope)
    tree = ast.fix_missing_locations(ast.Module([empty], []))
    exec(compile(tree, module, "exec", __future__.annotations.compiler_flag), local)
    return local[name]


def _head(node: ast.ClassDef | ast.FunctionDef) -> list[ast.stmt]:
    """Return the statement of the docstring, where there is one."""
    return node.body[:1] if ast.get_docstring(node, clean=False) is not None else []

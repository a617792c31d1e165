"""Reads declarations from the source of a module, for help that must not wait for the module's imports."""

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
    """Return the keys of a table of this package, given by its dotted name, without those of plug-ins.

    If its module is loaded they are those of the table itself; otherwise it must be a literal dict at the top level of
    the module, or the `plugins.Table` of one.
    """
    module, _, name = table.rpartition(".")
    live = getattr(sys.modules.get(module), name, None)
    if live is not None:
        return tuple(getattr(live, "own", live))
    for node in _tree(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call):
            value = next((x for x in value.args if isinstance(x, ast.Dict)), None)
        if isinstance(value, ast.Dict) and any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return tuple(ast.literal_eval(key) for key in value.keys if key is not None)
    raise LookupError(f"{table} is not a literal table.")


def outline(module: str, name: str, scope: dict[str, Any]) -> Any:
    """Return a class of a module without its bodies: its docstring, and the signatures and docstrings of its methods,
    with annotations as text.

    Args:
        module: the module of the class.
        name: the name of the class.
        scope: the names that annotations and defaults refer to.
    """
    source = next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    skeleton = copy.deepcopy(source)
    methods = [node for node in skeleton.body if isinstance(node, ast.FunctionDef)]
    for node in methods:
        node.body, node.decorator_list = [*_head(node), ast.Pass()], []
    skeleton.body, skeleton.bases, skeleton.decorator_list = [*_head(skeleton), *methods], [], []
    local = dict(scope)
    tree = ast.fix_missing_locations(ast.Module([skeleton], []))
    exec(compile(tree, module, "exec", __future__.annotations.compiler_flag), local)
    return local[name]


def declared(module: str, name: str) -> Any:
    """Return an option dataclass, or another constant, that a module declares, without importing the module.

    Only the statements that the declaration depends on are executed. Names from modules of this package called
    options, needs or declared are imported; names from its other modules are declared in turn, in the same way.
    """
    live = getattr(sys.modules.get(module), name, None)
    return _executed(module, name) if live is None else live


@lru_cache
def _executed(module: str, name: str) -> Any:
    statements = [node for node in _tree(module).body if _binds(node)]
    wanted, needed = {name}, set[int]()
    while True:
        fresh = [node for node in statements if id(node) not in needed and wanted & _binds(node)]
        if not fresh:
            break
        needed |= {id(node) for node in fresh}
        for node in fresh:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                wanted |= {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}
    scope: dict[str, Any] = {"__name__": module, "__package__": module.rpartition(".")[0]}
    for node in statements:
        if id(node) in needed and not (isinstance(node, ast.ImportFrom) and _declares(node, wanted, scope)):
            exec(compile(ast.Module([node], []), module, "exec"), scope)
    return scope[name]


def _binds(node: ast.stmt) -> set[str]:
    """Return the names that a statement at the top level of a module binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {x.id for target in targets if target is not None for x in ast.walk(target) if isinstance(x, ast.Name)}


def _declares(node: ast.ImportFrom, wanted: set[str], scope: dict[str, Any]) -> bool:
    """Put the wanted names of an import into `scope`, if they come from a module that must not be imported."""
    module = node.module or ""
    light = module.rpartition(".")[2] in ("options", "needs", "declared")
    if light or module.partition(".")[0] != __name__.partition(".")[0]:
        return False
    names = {alias.asname or alias.name: alias.name for alias in node.names}
    if any(name in ("options", "needs") for name in names.values()):  # such a module itself
        return False
    scope |= {key: declared(module, name) for key, name in names.items() if key in wanted}
    return True


def _head(node: ast.ClassDef | ast.FunctionDef) -> list[ast.stmt]:
    """Return the statement that is the docstring, as a list; empty if there is none."""
    return node.body[:1] if ast.get_docstring(node, clean=False) is not None else []

"""Expressions that select rows of a table, written as for pandas. They are parsed, never executed.

    Metadata_Treatment == 'DMSO' and (Metadata_Dose <= 0.1 or Metadata_Site in [1, 2])
    (Metadata_Treatment == 'DMSO') & ~Metadata_Well.str.startswith('A')

A condition is a true/false column; a comparison of a column with a string, a number, or a list of them, by ==, !=, <,
<=, >, >=, in or not in; or a method of a column, one of `METHODS`. A column is in backticks if it is not a plain name.
Conditions are joined by and, or, not (or &, |, ~) and parentheses. A missing entry equals nothing, and is neither less
nor greater than anything; !=, not in and not refuse it.
"""

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, Img2ImgError, choose
from img2img.lab.checks import check_mask

LONGEST_EXPRESSION = 2000  # characters
WORDS = {"true": True, "yes": True, "y": True, "1": True, "1.0": True}
WORDS |= {"false": False, "no": False, "n": False, "0": False, "0.0": False}
DATE = r"\d{4}-\d\d-\d\d"

GRAMMAR = (
    "compare a column by ==, !=, <, <=, >, >=, in or not in with a quoted string, a number or a list of them, and join "
    "by and, or, not: \"Metadata_Treatment == 'DMSO'\""
)
JOINTS: dict[type, np.ufunc] = {
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.BitAnd: np.logical_and,
    ast.BitOr: np.logical_or,
}
ORDERS: dict[type, Callable[..., Any]] = {ast.Lt: np.less, ast.LtE: np.less_equal}
ORDERS |= {ast.Gt: np.greater, ast.GtE: np.greater_equal}


def select(frame: Any, expression: str) -> Array:
    """Return the rows (n,) for which the expression is true; the module describes the grammar.

    Raises:
        ConfigError: if it does not follow the grammar, or names an unknown column.
        DataError: if !=, `not in` or `not` meets a missing entry, or < an entry that is no number.
    """
    columns = {str(name): frame[name] for name in frame.columns}
    quoted: list[str] = []

    def name_of(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        quoted.append(match[1])
        return f"_quoted_{len(quoted) - 1}_"

    text = re.sub(r"'[^']*'|\"[^\"]*\"|`([^`]+)`", name_of, expression.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes
            if len(text) > LONGEST_EXPRESSION:
                raise _Unclear
            body = ast.parse(text, mode="eval").body
        return _Condition(columns, quoted, expression).truth(body)
    except Img2ImgError:
        raise
    except (_Unclear, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        hint = str(error) if isinstance(error, _Unclear) and str(error) else GRAMMAR
        raise ConfigError(f"The expression {expression[:80]!r} is not valid; {hint}.") from error


class _Unclear(Exception):
    """An expression, or a part of one, does not follow the grammar; its text is a hint, if there is one."""


class _Condition:
    """The meaning of the parts of one expression; `quoted` are the names that stood in backticks."""

    def __init__(self, columns: dict[str, Any], quoted: list[str], expression: str) -> None:
        self.columns, self.quoted, self.expression = columns, quoted, expression

    def truth(self, node: ast.expr, negated: bool = False) -> Array:
        """Return for which rows (n,) a condition is true; `negated` if the opposite will be taken."""
        match node:
            case ast.BoolOp(op=op, values=parts):
                return np.asarray(JOINTS[type(op)].reduce([self.truth(part, negated) for part in parts]))
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op, left=left, right=right):
                return np.asarray(JOINTS[type(op)](self.truth(left, negated), self.truth(right, negated)))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=part):
                return ~self.truth(part, True)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.comparison(left, op, right, negated)
            case ast.Compare() if any(isinstance(x, ast.BinOp) for x in ast.walk(node)):
                raise _Unclear("put each comparison beside & or | in parentheses, or join them by and, or")
            case ast.Call(func=function, args=arguments, keywords=[]):
                return self.method(function, arguments, negated)
            case ast.Name():
                return truths(*reversed(self.column(node)))
        raise _Unclear

    def column(self, node: ast.expr) -> tuple[str, Any]:
        """Return the name and the entries of a column."""
        if not isinstance(node, ast.Name):
            raise _Unclear
        number = re.fullmatch(r"_quoted_(\d+)_", node.id)
        name = self.quoted[int(number[1])] if number and int(number[1]) < len(self.quoted) else node.id
        return name, choose("column", name, self.columns)

    def comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr, negated: bool) -> Array:
        """Return for which rows a column compares so with what stands on the right."""
        if isinstance(op, ast.In | ast.NotIn):
            values = _list(right)
        else:
            values = [_constant(right)]
        name, series = self.column(left)
        order = ORDERS.get(type(op))
        if order is None and not isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
            raise _Unclear
        if order is not None:
            self.refuse_missing(name, series, negated)
            return _ordered(name, series, order, values[0])
        positive = isinstance(op, ast.Eq | ast.In)
        self.refuse_missing(name, series, negated or not positive)
        equal = _any_equal(series, values)
        return equal if positive else ~equal

    def method(self, function: ast.expr, arguments: list[ast.expr], negated: bool) -> Array:
        """Return for which rows a method of a column, one of `METHODS`, is true."""
        words: list[str] = []
        while isinstance(function, ast.Attribute):
            words, function = [function.attr, *words], function.value
        if not words:
            raise _Unclear
        name, series = self.column(function)
        known = METHODS.get(".".join(words))
        if known is None:
            raise _Unclear(f"compare a column by ==, or use one of its methods {', '.join(METHODS)}")
        if known not in (_present, _absent):
            self.refuse_missing(name, series, negated)
        return known(series, arguments)

    def refuse_missing(self, name: str, series: Any, negated: bool) -> None:
        """Raise DataError if the opposite of a comparison is asked for, and an entry is missing."""
        if negated and (missing := missing_entries(series)).any():
            raise DataError(
                f"{name} has no entry in row {int(missing.argmax())}, so {self.expression!r} cannot be decided; fill "
                "it in, or use == or in without not."
            )


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        if type(node.operand.value) in (int, float):
            return -node.operand.value  # type: ignore[operator]
    elif isinstance(node, ast.Constant) and type(node.value) in (str, int, float, bool):
        return node.value
    raise _Unclear


def _list(node: ast.expr) -> list[Any]:
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        raise _Unclear
    return [_constant(element) for element in node.elts]


# Comparisons


def _any_equal(series: Any, values: list[Any]) -> Array:
    equal = np.zeros(len(series), bool)
    for value in values:
        equal |= _equals(series, value)
    return equal


def _equals(series: Any, value: Any) -> Array:
    if isinstance(value, bool):
        return np.array([WORDS.get(str(entry).lower()) is value for entry in series], dtype=bool)
    if isinstance(value, str):
        return np.array([str(entry) == value for entry in series], dtype=bool) & ~missing_entries(series)
    return np.asarray(_numbers(series) == float(value))


def _ordered(name: str, series: Any, order: Callable[..., Any], value: Any) -> Array:
    """Return for which rows a number, or a date as text, compares so with the value."""
    present = ~missing_entries(series)
    if isinstance(value, str):
        if not re.match(DATE, value):
            raise _Unclear("compare by <, <=, >, >= with a number, or with a date such as '2024-01-31'")
        texts = [str(entry) for entry in series]
        odd = [i for i, text in enumerate(texts) if present[i] and not re.match(DATE, text)]
        result = np.array([bool(order(text, value)) for text in texts], dtype=bool)
    else:
        numbers = _numbers(series)
        odd = np.flatnonzero(present & np.isnan(numbers)).tolist()
        result = np.asarray(order(numbers, float(value)))
    if odd:
        kind = "a date" if isinstance(value, str) else "a number"
        raise DataError(f"{name} is {str(series.iloc[odd[0]])!r} in row {odd[0]}, which is not {kind}; correct it.")
    return result & present


def _numbers(series: Any) -> Array:
    """Return the entries as numbers (n,), NaN for other entries; a decimal comma counts as a point.

    Raises:
        DataError: for an entry such as 1,000, which could be either.
    """
    entries = series.astype(object)
    commas = [isinstance(entry, str) and re.fullmatch(r"[-+]?\d+,\d+", entry.strip()) is not None for entry in entries]
    if any(commas):
        for entry in entries[commas]:
            if re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", entry.strip()):
                raise DataError(f"{series.name} has the entry {entry!r}, which can be read in two ways; write a point.")
        entries = entries.where(~np.array(commas), entries.astype(str).str.replace(",", "."))
    numbers: Array = pd.to_numeric(entries, errors="coerce").to_numpy(float, na_value=np.nan)
    return numbers


# Methods of a column


def _texts(node: ast.expr) -> tuple[str, ...]:
    values = _list(node) if isinstance(node, ast.List | ast.Tuple) else [_constant(node)]
    if not values or not all(isinstance(value, str) for value in values):
        raise _Unclear
    return tuple(values)


def _of_text(test: Callable[[str, str], bool]) -> Callable[[Any, list[ast.expr]], Array]:
    def method(series: Any, arguments: list[ast.expr]) -> Array:
        (node,) = arguments
        parts = _texts(node)
        found = [any(test(str(entry), part) for part in parts) for entry in series]
        return np.array(found, dtype=bool) & ~missing_entries(series)

    return method


def _contains(text: str, part: str) -> bool:
    if re.search(r"[\\^$*+?{}\[\]|()]", part):
        raise _Unclear("str.contains takes plain text, not a regular expression")
    return part in text


def _is_in(series: Any, arguments: list[ast.expr]) -> Array:
    (values,) = arguments
    return _any_equal(series, _list(values))


def _present(series: Any, arguments: list[ast.expr]) -> Array:
    return ~_absent(series, arguments)


def _absent(series: Any, arguments: list[ast.expr]) -> Array:
    if arguments:
        raise _Unclear
    return missing_entries(series)


METHODS: dict[str, Callable[[Any, list[ast.expr]], Array]] = {
    "isin": _is_in,
    "str.startswith": _of_text(str.startswith),
    "str.endswith": _of_text(str.endswith),
    "str.contains": _of_text(_contains),
    "notna": _present,
    "notnull": _present,
    "isna": _absent,
    "isnull": _absent,
}


def missing_entries(series: Any) -> Array:
    """Return which entries (n,) of a column are missing or empty."""
    return np.asarray(series.isna() | (series.astype(object) == ""), dtype=bool)


def truths(series: Any, what: str) -> Array:
    """Return a true/false column, which may have been read as text or say yes and no, as a mask."""
    return check_mask([WORDS.get(str(entry).lower(), entry) for entry in series], len(series), what)

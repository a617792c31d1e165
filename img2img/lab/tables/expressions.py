"""Comparisons that select rows of a table. They are parsed, never executed.

Their grammar:

    Metadata_Treatment == 'DMSO' and (Metadata_Dose in [0, 0.1] or Metadata_Site != 3)

A comparison is between a column (in backticks if it is not a plain name) and a string, a number, or a list of them, by
==, !=, in or not in. Comparisons are joined by and, or, not, and parentheses. A missing entry equals nothing; !=, not
in and not refuse it.
"""

import ast
import re
import warnings
from typing import Any

import numpy as np
import pandas as pd

from img2img.data.picture import Array
from img2img.errors import ConfigError, DataError, Img2ImgError, choose
from img2img.lab.checks import check_mask

LONGEST_EXPRESSION = 2000  # characters


def select(frame: Any, expression: str) -> Array:
    """Return the rows (n,) for which the expression is true; the module describes the grammar.

    Raises:
        ConfigError: if it does not follow the grammar, or names an unknown column.
        DataError: if !=, `not in` or `not` meets a missing entry.
    """
    columns = {str(name): frame[name] for name in frame.columns}
    quoted: list[str] = []

    def name_of(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        quoted.append(match[1])
        return f"_quoted_{len(quoted) - 1}_"

    def column(node: ast.expr) -> tuple[str, Any]:
        if not isinstance(node, ast.Name):
            raise _Unclear
        number = re.fullmatch(r"_quoted_(\d+)_", node.id)
        name = quoted[int(number[1])] if number and int(number[1]) < len(quoted) else node.id
        return name, choose("column", name, columns)

    def truth(node: ast.expr, negated: bool = False) -> Array:
        if isinstance(node, ast.BoolOp):
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return np.asarray(join.reduce([truth(value, negated) for value in node.values]))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~truth(node.operand, True)
        if not isinstance(node, ast.Compare) or len(node.ops) != 1:
            raise _Unclear
        kind, right = type(node.ops[0]), node.comparators[0]
        if kind in (ast.In, ast.NotIn) and isinstance(right, ast.List | ast.Tuple):
            values = [_constant(element) for element in right.elts]
        elif kind in (ast.Eq, ast.NotEq):
            values = [_constant(right)]
        else:
            raise _Unclear
        name, series = column(node.left)
        equal = np.zeros(len(series), bool)
        for value in values:
            equal |= _equals(series, value)
        positive = kind in (ast.Eq, ast.In)
        if (negated or not positive) and (missing := missing_entries(series)).any():
            raise DataError(
                f"{name} has no entry in row {int(missing.argmax())}, so {expression!r} cannot be decided; fill it "
                "in, or use == or in without not."
            )
        return equal if positive else ~equal

    text = re.sub(r"'[^']*'|\"[^\"]*\"|`([^`]+)`", name_of, expression.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes
            if len(text) > LONGEST_EXPRESSION:
                raise _Unclear
            body = ast.parse(text, mode="eval").body
        if isinstance(body, ast.Name):
            column(body)
        return truth(body)
    except Img2ImgError:
        raise
    except (_Unclear, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"The expression {expression[:80]!r} is not valid; compare a column by ==, !=, in or not in with a quoted "
            "string, a number or a list of them, and join by and, or, not: \"Metadata_Treatment == 'DMSO'\"."
        ) from error


class _Unclear(Exception):
    """An expression, or a part of one, does not follow the grammar."""


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        if type(node.operand.value) in (int, float):
            return -node.operand.value  # type: ignore[operator]
    elif isinstance(node, ast.Constant) and type(node.value) in (str, int, float, bool):
        return node.value
    raise _Unclear


def _equals(series: Any, value: Any) -> Array:
    if isinstance(value, bool):
        return np.array([str(entry).lower() == str(value).lower() for entry in series], dtype=bool)
    if isinstance(value, str):
        return np.array([str(entry) == value for entry in series], dtype=bool) & ~missing_entries(series)
    return np.asarray(
        pd.to_numeric(series.astype(object), errors="coerce").to_numpy(float, na_value=np.nan) == float(value)
    )


def missing_entries(series: Any) -> Array:
    """Return which entries (n,) of a column are missing or empty."""
    return np.asarray(series.isna() | (series.astype(object) == ""), dtype=bool)


def truths(series: Any, what: str) -> Array:
    """Return a true/false column, which may have been read as text, as a mask."""
    words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    return check_mask([words.get(str(entry).lower(), entry) for entry in series], len(series), what)

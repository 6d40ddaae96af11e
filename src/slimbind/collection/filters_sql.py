"""Filters as SQL: names and values are parameters, never part of the statement."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from slimbind.collection.filters import COLUMNS, Compare, Exists, Field, In, Like, Many, Node, Not, Value

Parameters = list[str | int | float]
Leaf = Compare | In | Like | Exists
OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

_T = TypeVar("_T")


def keys_of(connection: sqlite3.Connection, node: Node) -> NDArray[np.int64]:
    """Keys of the items that a filter lets through, ascending."""
    sql, parameters = compiled(node)
    rows = connection.execute(f"SELECT key FROM items WHERE {sql} ORDER BY key", parameters)
    return np.fromiter((row[0] for row in rows), np.int64)


def combined(node: Node, leaf: Callable[[Leaf], tuple[str, list[_T]]]) -> tuple[str, list[_T]]:
    """The SQL of a whole filter with its parameters, in order; ``leaf`` gives those of one condition."""
    if isinstance(node, Not):
        sql, parameters = combined(node.node, leaf)
        return f"NOT ({sql})", parameters
    if isinstance(node, Many):
        return any_or_all(node.op, [combined(part, leaf) for part in node.nodes])
    return leaf(node)


def any_or_all(op: str, parts: list[tuple[str, list[_T]]]) -> tuple[str, list[_T]]:
    """Conditions joined by ``and`` or ``or``."""
    assert op in ("and", "or")
    joined = f" {op.upper()} ".join(f"({sql})" for sql, _ in parts)
    return joined, [value for _, values in parts for value in values]


def compiled(node: Node) -> tuple[str, Parameters]:
    """The condition on the table ``items``, with its parameters; it is 1 or 0 for every row, never NULL."""
    return combined(node, _condition)


def _condition(node: Leaf) -> tuple[str, Parameters]:
    if isinstance(node, Exists):
        return _exists(node)
    if isinstance(node, Like):
        return _typed(node.field, "text", "LIKE ?", [node.pattern])
    if isinstance(node, In):
        return _in(node)
    return _compare(node)


def _exists(node: Exists) -> tuple[str, Parameters]:
    if node.field.column:
        return "1", []
    path = _path(node.field)
    if node.or_null:
        return "json_type(metadata, ?) IS NOT NULL", [path]
    return "coalesce(json_type(metadata, ?), 'null') <> 'null'", [path]


def _compare(node: Compare) -> tuple[str, Parameters]:
    if isinstance(node.value, bool):
        if node.field.column:
            return "0", []
        wanted = node.value if node.op == "=" else not node.value
        return "coalesce(json_type(metadata, ?), '') = ?", [_path(node.field), "true" if wanted else "false"]
    return _typed(node.field, _kind(node.value), f"{OPERATORS[node.op]} ?", [node.value])


def _in(node: In) -> tuple[str, Parameters]:
    parts: list[tuple[str, Parameters]] = []
    for kind in ("text", "number"):
        # One parameter however many values there are: a list in JSON.
        if values := [value for value in node.values if not isinstance(value, bool) and _kind(value) == kind]:
            told = json.dumps(values, ensure_ascii=False)
            parts.append(_typed(node.field, kind, "IN (SELECT value FROM json_each(?))", [told]))
    parts += [_compare(Compare(node.field, "=", value)) for value in {*node.values} if isinstance(value, bool)]
    return any_or_all("or", parts)


def _typed(field: Field, kind: str, test: str, parameters: Parameters) -> tuple[str, Parameters]:
    """``test`` on a field of this type; 0 where it is missing or of another."""
    if field.column:
        assert field.column in COLUMNS
        return (f"{field.column} {test}", parameters) if kind == "text" else ("0", [])
    types = "('text')" if kind == "text" else "('integer', 'real')"
    path = _path(field)
    sql = f"coalesce(json_type(metadata, ?), '') IN {types} AND json_extract(metadata, ?) {test}"
    return sql, [path, path, *parameters]


def _kind(value: Value) -> str:
    return "text" if isinstance(value, str) else "number"


def _path(field: Field) -> str:
    """As SQLite takes it; the parser lets no quotes into names."""
    return "$" + "".join(f'."{name}"' for name in field.path)

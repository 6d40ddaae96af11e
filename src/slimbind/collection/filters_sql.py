"""Filters as SQL: names and values are parameters, never part of the statement."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
from numpy.typing import NDArray

from slimbind.collection.filters import COLUMNS, Compare, Exists, Field, In, Like, Many, Node, Not, Value

Parameters = list[str | int | float]


def keys_of(connection: sqlite3.Connection, node: Node) -> NDArray[np.int64]:
    """Keys of the items that a filter lets through, ascending."""
    sql, parameters = compiled(node)
    rows = connection.execute(f"SELECT key FROM items WHERE {sql} ORDER BY key", parameters)
    return np.fromiter((row[0] for row in rows), np.int64)


def compiled(node: Node) -> tuple[str, Parameters]:
    """The condition on the table ``items``, with its parameters; it is 1 or 0 for every row, never NULL."""
    if isinstance(node, Not):
        sql, parameters = compiled(node.node)
        return f"NOT ({sql})", parameters
    if isinstance(node, Many):
        parts = [compiled(part) for part in node.nodes]
        joined = f" {node.op.upper()} ".join(f"({sql})" for sql, _ in parts)
        return joined, [value for _, values in parts for value in values]
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
    return _typed(node.field, _kind(node.value), f"{_OPERATORS[node.op]} ?", [node.value])


_OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def _in(node: In) -> tuple[str, Parameters]:
    parts: list[tuple[str, Parameters]] = []
    for kind in ("text", "number"):
        # One parameter however many values there are: a list in JSON.
        if values := [value for value in node.values if not isinstance(value, bool) and _kind(value) == kind]:
            told = json.dumps(values, ensure_ascii=False)
            parts.append(_typed(node.field, kind, "IN (SELECT value FROM json_each(?))", [told]))
    parts += [_compare(Compare(node.field, "=", value)) for value in {*node.values} if isinstance(value, bool)]
    return " OR ".join(f"({sql})" for sql, _ in parts), [value for _, values in parts for value in values]


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

"""What a filter means, in plain Python: for places that cannot look into metadata themselves, and to compare with."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from slimbind.collection.entry import Entry
from slimbind.collection.filters import Exists, Field, In, Like, Many, Node, Not

_MISSING = object()
_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(node: Node, entry: Entry) -> bool:
    """Whether a filter lets an item through."""
    if isinstance(node, Not):
        return not holds(node.node, entry)
    if isinstance(node, Many):
        return (all if node.op == "and" else any)(holds(part, entry) for part in node.nodes)
    value = _look_up(node.field, entry)
    if isinstance(node, Exists):
        return value is not _MISSING and (node.or_null or value is not None)
    if isinstance(node, Like):
        pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in _fold(node.pattern))
        return isinstance(value, str) and re.fullmatch(pattern, _fold(value), re.DOTALL) is not None
    if isinstance(node, In):
        return any(_compare("=", value, other) for other in node.values)
    return _compare(node.op, value, node.value)


def _compare(op: str, value: object, other: object) -> bool:
    same = _kind(value) is not None and _kind(value) == _kind(other)
    return same and _TESTS[op](_number(value), _number(other))


def _fold(text: str) -> str:
    return "".join(char.lower() if char.isascii() else char for char in text)


def _look_up(field: Field, entry: Entry) -> object:
    if field.column:
        return getattr(entry, field.column)
    value: object = entry.metadata
    for name in field.path:
        value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
    return value


def _kind(value: object) -> str | None:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else None


def _number(value: object) -> object:
    """Numbers beyond 64 bits as floats, which is what SQLite makes of them."""
    return float(value) if type(value) is int and not -(2**63) <= value < 2**63 else value

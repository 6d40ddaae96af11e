"""What is drawn of each task's details. A task that nobody drew yet gets tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.evaluate.report import tables
from slimbind.evaluate.report.grouping import Group

_DRAWN: dict[str, Callable[[Group], tuple[list[Element], set[str]]]] = {}


def drawn(group: Group) -> list[Element]:
    """The figures of a group, and tables of the details that no figure shows."""
    found: list[Element] = []
    shown: set[str] = set()
    if group.task in _DRAWN:
        found, shown = _DRAWN[group.task](group)
    for column in group.columns:
        rest: dict[str, Any] = {key: value for key, value in column.record.details.items() if key not in shown}
        found += tables.anything(rest, caption=column.label)
    return found

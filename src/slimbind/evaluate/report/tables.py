"""Tables of a report: the numbers of records side by side, and whatever JSON a record's details hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.evaluate.record import Estimate
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.markup import Node, add, tag
from slimbind.evaluate.report.numbers import heading, shown

MOST_ROWS = 200  # of a table; the rest is in the JSON, and the table says so
_MOST_COLUMNS = 40
_LONGEST = 300  # characters of a cell


def measures_table(of: Sequence[Group], columns: Sequence[str], *, caption: str) -> Element:
    """A row for each measure of each group, a column for each of ``columns``."""
    by_task = len(of) > 1
    body: list[Element] = []
    for group in of:
        for place, measure in enumerate(group.measures):
            estimates = [group.estimate(measure, label) for label in columns]
            name = tag("th", f"{group.title}: {heading(measure)}" if by_task else heading(measure), scope="row")
            row = tag("tr", name, *(_estimate(measure, one) for one in estimates))
            if by_task and not place:
                row.set("class", "begins")
            body.append(row)
    head = [tag("th", "measure", scope="col"), *(tag("th", label, scope="col", class_="number") for label in columns)]
    return boxed(tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body)), caption)


def _estimate(measure: str, found: Estimate | None) -> Element:
    cell = tag("td", class_="number")
    if found is None:
        add(cell, "-")
        return cell
    add(cell, shown(measure, found.value))
    if found.low is not None and found.high is not None:
        add(cell, tag("small", f"{shown(measure, found.low)} to {shown(measure, found.high)}"))
    return cell


def rows_table(rows: Sequence[Mapping[str, Any]], *, caption: str, most: int = MOST_ROWS) -> Element:
    """A table of records that have the same keys, more or less; the first key names the row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))[:_MOST_COLUMNS]
    numeric = {key: all(isinstance(row.get(key), int | float | None) for row in rows) for key in keys}
    told = caption if len(rows) <= most else f"{caption} (the first {most} of {len(rows)})"
    head = [tag("th", heading(key), scope="col", class_="number" if numeric[key] else None) for key in keys]
    body = []
    for row in rows[:most]:
        cells: list[Node] = []
        for place, key in enumerate(keys):
            text = cut(shown(key, row.get(key)) if _is_plain(row.get(key)) else _brief(row[key]))
            kind = "number" if numeric[key] else None
            cells.append(tag("td", text, class_=kind) if place else tag("th", text, scope="row", class_=kind))
        body.append(tag("tr", *cells))
    return boxed(tag("table", tag("caption", told), tag("thead", tag("tr", *head)), tag("tbody", *body)), caption)


def boxed(content: Element, label: str) -> Element:
    """In a box of its own that scrolls when the screen is too narrow; reachable by keyboard."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def pairs(values: Mapping[str, Any]) -> Element:
    """Names and values, as a list of definitions."""
    found = tag("dl")
    for key, value in values.items():
        text = shown(key, value) if _is_plain(value) else _brief(value)
        add(found, tag("dt", heading(key)), tag("dd", cut(text)))
    return found


def anything(details: Mapping[str, Any], *, caption: str) -> list[Element]:
    """What nobody knows how to draw: rows as tables, plain values as a list, all else in brief."""
    plain: dict[str, Any] = {}
    found: list[Element] = []
    for key, value in details.items():
        told = f"{caption}: {heading(key)}"
        if _are_rows(value):
            found.append(rows_table(value, caption=told))
        elif isinstance(value, Mapping) and value and all(isinstance(one, Mapping) for one in value.values()):
            found.append(rows_table([{heading(key): name} | dict(one) for name, one in value.items()], caption=told))
        else:
            plain[key] = value
    return ([pairs(plain)] if plain else []) + found


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) and row for row in value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _brief(value: object) -> str:
    """Nested JSON in a line, without its marks."""
    if isinstance(value, Mapping):
        return ", ".join(f"{heading(str(key))} {_brief(one)}" for key, one in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        few = [_brief(one) for one in value[:12]]
        return (", ".join(few) + (f", ... ({len(value)} in all)" if len(value) > 12 else "")) or "-"
    return shown("", value)


def cut(text: str, most: int = _LONGEST) -> str:
    """Text of bounded length."""
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def anchors() -> Iterable[str]:
    """Names for places of a page, none of them twice."""
    return (f"part-{number}" for number in count(1))


def name_of(task: str) -> str:
    """A task as a heading: ``zero-shot`` is ``Zero-shot``."""
    words = re.sub(r"[_\s]+", " ", task).strip() or "other"
    return words[0].upper() + words[1:]

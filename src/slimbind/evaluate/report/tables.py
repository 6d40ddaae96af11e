"""Tables of a report: the numbers of records side by side, and whatever JSON a record's details hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.evaluate.record import Estimate
from slimbind.evaluate.report.grouping import Group, headings
from slimbind.evaluate.report.markup import Node, add, tag
from slimbind.evaluate.report.numbers import heading, interval, shown

MOST_ROWS = 200  # of a table; the rest is in the JSON, and the table says so
_MOST_COLUMNS = 40
_LONGEST = 300  # characters of a cell
_CAPTIONS = {"rows": "all that was measured"}  # of details; others are captioned by their key
_LONG_WORD, _LONG_TEXT, _SHORT = 22, 40, 14


def measures_table(of: Sequence[Group], columns: Sequence[str], *, caption: str) -> Element:
    """A row for each measure of each group, a column for each of ``columns``."""
    head = [tag("th", "measure", scope="col"), *(_heading(label) for label in columns)]
    table = tag("table", _caption(caption), tag("thead", tag("tr", *head)))
    for title, group in zip(headings(of), of, strict=True):
        if not group.measures:
            continue
        body = tag("tbody")
        if len(of) > 1:
            begins = tag("th", tag("span", title), scope="rowgroup", colspan=1 + len(columns))
            add(body, tag("tr", begins, class_="begins"))
        for measure in group.measures:
            cells = [_estimate(measure, group.estimate(measure, label)) for label in columns]
            add(body, tag("tr", tag("th", heading(measure), scope="row", class_=_kind(measure)), *cells))
        add(table, body)
    return boxed(table, caption)


def _heading(label: str) -> Element:
    return tag("th", label, scope="col", class_="number short" if len(label) <= _SHORT else "number")


def _estimate(measure: str, found: Estimate | None) -> Element:
    cell = tag("td", class_="number")
    add(cell, "-" if found is None else shown(measure, found.value))
    if found is not None and found.low is not None and found.high is not None:
        add(cell, tag("small", interval(measure, found.low, found.high)))
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
            kind = _kind(text, is_number=numeric[key])
            cells.append(tag("td", text, class_=kind) if place else tag("th", text, scope="row", class_=kind))
        body.append(tag("tr", *cells))
    return boxed(tag("table", _caption(told), tag("thead", tag("tr", *head)), tag("tbody", *body)), caption)


def _caption(text: str) -> Element:
    return tag("caption", tag("span", text))


def _kind(text: str, *, is_number: bool = False) -> str | None:
    """A class for a cell: numbers stand to the right, words that are too wide may be broken, short text may not."""
    if is_number:
        return "number"
    if max(map(len, text.split()), default=0) > _LONG_WORD or len(text) > _LONG_TEXT:
        return "long"
    return "short" if len(text) <= _SHORT else None


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


def anything(details: Mapping[str, Mapping[str, Any]]) -> list[Element]:
    """What nobody knows how to draw: rows as tables, plain values as a list, all else in brief.

    Args:
        details: of each model, by its heading.
    """
    plain: dict[str, Mapping[str, Any]] = {}
    tables: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for label, told in details.items():
        rest: dict[str, Any] = {}
        for key, value in told.items():
            if isinstance(value, Mapping) and value and all(isinstance(one, Mapping) for one in value.values()):
                value = [{heading(key): name} | dict(one) for name, one in value.items()]
            if _are_rows(value):
                tables.setdefault(key, {})[label] = value
            else:
                rest[key] = value
        if rest:
            plain[label] = rest
    found = [side_by_side_values(plain)] if plain else []
    return found + [
        rows_table(_joined(of, len(details)), caption=_CAPTIONS.get(key, heading(key))) for key, of in tables.items()
    ]


def _joined(of: Mapping[str, list[Mapping[str, Any]]], models: int) -> list[Mapping[str, Any]]:
    """The rows of all models, each with its model; once and without, where all models have the same."""
    first = next(iter(of.values()))
    if len(of) == models and all(rows == first for rows in of.values()):
        return first
    return [{"model": label} | dict(row) for label, rows in of.items() for row in rows]


def side_by_side_values(values: Mapping[str, Mapping[str, Any]]) -> Element:
    """Names and values of several models: a list of what all have in common, and a table of what differs."""
    keys = list(dict.fromkeys(key for one in values.values() for key in one))
    first = next(iter(values.values()))
    common = [key for key in keys if all(key in one and one[key] == first[key] for one in values.values())]
    found = tag("div", pairs({key: first[key] for key in common}) if common else None)
    differing = [key for key in keys if key not in common]
    if differing:
        rows = [{"model": label} | {key: one[key] for key in differing if key in one} for label, one in values.items()]
        add(found, rows_table(rows, caption="what differs between the models"))
    return found


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

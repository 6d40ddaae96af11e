"""The page: a summary, a section for each task, what failed, and what it was measured on. One file, no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.errors import UsageError
from slimbind.evaluate.record import Record
from slimbind.evaluate.report import tables
from slimbind.evaluate.report.figures import drawn
from slimbind.evaluate.report.grouping import Group, all_labels, groups, short_names
from slimbind.evaluate.report.markup import add, document, tag
from slimbind.evaluate.report.tables import name_of
from slimbind.whole import Whole

# A browser that obeys this loads and runs nothing, even if something were smuggled into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_STYLE = Path(__file__).with_name("style.css")
_MOST_FAILED = 200


def write_html(path: str | os.PathLike[str], records: Sequence[Record], *, title: str = "Evaluation") -> None:
    """Write ``html`` to a file, which appears whole or not at all.

    Raises:
        UsageError: there are no records, or the file cannot be written.
    """
    write_whole(Path(path), html(records, title=title).encode("utf-8"))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with Whole(path) as file:
            file.write(content)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from error


def html(records: Sequence[Record], *, title: str = "Evaluation") -> str:
    """The page of some records, as text.

    Records of one task and title stand side by side, the first model first: give the reference before what was made
    from it.

    Args:
        records: at least one.
        title: the heading.

    Raises:
        UsageError: there are no records.
    """
    if not records:
        raise UsageError("there is nothing to report", hint="give at least one record")
    found = groups(records)
    sections = [
        (anchor, task, list(of))
        for anchor, (task, of) in zip(tables.anchors(), groupby(found, key=lambda group: group.task), strict=False)
    ]
    main = tag("main", _summary(found))
    for anchor, task, of in sections:
        add(main, _section(anchor, task, of))
    add(main, _failed(records))
    links = [("summary", "Summary"), *((anchor, name_of(task)) for anchor, task, _ in sections)]
    links += [("failed", "Failed items")] if any(record.failed for record in records) else []
    links += [("environment", "Environment")]
    nav = tag(
        "nav", tag("ul", *(tag("li", tag("a", text, href=f"#{to}")) for to, text in links)), aria_label="Contents"
    )
    header = tag("header", tag("h1", title), *_about(records), nav)
    body = tag("body", header, main, _environment(records))
    return document(tag("html", _head(title), body, lang="en"))


def _head(title: str) -> Element:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", _STYLE.read_text(encoding="utf-8")),
    )


def _about(records: Sequence[Record]) -> list[Element]:
    """Which models, by their whole names where tables call them otherwise; and when."""
    names = short_names(list(dict.fromkeys(record.model for record in records)))
    times = sorted({str(record.environment["time"]) for record in records if "time" in record.environment})
    told = f"{'Model' if len(names) == 1 else 'Models'}: {', '.join(names.values())}."
    found = [tag("p", f"{told} Measured {_day(times[-1])}." if times else told, class_="faint")]
    longer = {name: model for model, name in names.items() if name != model.rstrip("/")}
    return [*found, tables.pairs(longer)] if longer else found


def _day(time: str) -> str:
    """A time of a record as people write it; as it is, if it is none."""
    try:
        return datetime.fromisoformat(time).astimezone(timezone.utc).strftime("%Y-%m-%d at %H:%M UTC")
    except (ValueError, OverflowError):
        return time


def _summary(found: Sequence[Group]) -> Element:
    section = tag("section", tag("h2", "Summary", id="summary"), aria_labelledby="summary")
    measured = [group for group in found if group.measures]
    if not measured:
        add(section, tag("p", "No single numbers; see the sections below."))
    for of, columns in _tables(measured):
        names = ", ".join(dict.fromkeys(name_of(group.task) for group in of))
        caption = f"{names}; below a number its 95 % interval, where one was computed."
        add(section, tables.measures_table(of, columns, caption=caption))
    return section


def _tables(found: Sequence[Group]) -> list[tuple[list[Group], list[str]]]:
    """Groups that share a table, with its columns: such as follow each other and fill half of its columns at least."""
    parts: list[tuple[list[Group], list[str]]] = []
    for group in found:
        own = all_labels([group])
        if parts and set(own) <= set(parts[-1][1]) and 2 * len(own) >= len(parts[-1][1]):
            parts[-1][0].append(group)
        else:
            parts.append(([group], own))
    return parts


def _section(anchor: str, task: str, of: Sequence[Group]) -> Element:
    section = tag("section", tag("h2", name_of(task), id=anchor), aria_labelledby=anchor)
    for group in of:
        add(section, tag("h3", group.title))
        figures = drawn(group)
        add(section, *figures)
        told = {column.label: column.record.settings for column in group.columns if column.record.settings}
        if told:
            add(section, tag("p", "Settings", class_="faint"), tables.side_by_side_values(told))
        elif not figures:
            add(section, tag("p", "All its numbers are in the summary.", class_="faint"))
    return section


def _failed(records: Sequence[Record]) -> Element | None:
    rows = [
        {"item": item, "why": why, "task": task, "model": model}
        # Once each: records of one model on the same data, such as those of several codecs, all tell of it.
        for item, why, task, model in dict.fromkeys(
            (item, why, record.task, record.model) for record in records for item, why in record.failed
        )
    ]
    if not rows:
        return None
    caption = "Items that could not be evaluated, and why"
    return tag(
        "section",
        tag("h2", "Failed items", id="failed"),
        tables.rows_table(rows, caption=caption, most=_MOST_FAILED),
        aria_labelledby="failed",
    )


def _environment(records: Sequence[Record]) -> Element:
    """Each environment once; most reports have one."""
    footer = tag("footer", tag("h2", "Environment", id="environment"))
    told: list[dict[str, Any]] = []
    for record in records:
        one: dict[str, Any] = {
            key: value for key, value in record.environment.items() if key not in ("time", "model", "towers")
        }
        if one and one not in told:
            told.append(one)
            add(footer, tables.pairs(one))
    if not told:
        add(footer, tag("p", "Nothing was noted."))
    return footer
